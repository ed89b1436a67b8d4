//! Repository chores: `cargo xtask test`, `cargo xtask bench NAME`, `cargo xtask soak NAME`.
//!
//! Its dependency tree stays tiny, because every chore starts with compiling it: what needs a Kafka client or an HTTP stack is a
//! program of the crate `bench`.

mod bench;
mod cargo;
mod soak;
mod suite;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the Tidegate repository.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run every test, with a real Apache Kafka broker started for the run.
    ///
    /// KAFKA_BOOTSTRAP_SERVERS names a cluster to use instead. Java, Maven, kcat, curl and Python 3 are installed where that is possible (root
    /// on a Debian-like system); otherwise the command that does it is printed, and the run fails.
    Test(suite::TestArgs),
    /// Measure Tidegate beside the limit it is held against, in interleaved rounds, and print a Markdown table.
    Bench(bench::BenchArgs),
    /// Run a test for longer than CI does.
    Soak {
        #[command(subcommand)]
        soak: soak::Soak,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().chore {
        Chore::Test(args) => suite::test(&args),
        Chore::Bench(args) => bench::run(&args),
        Chore::Soak { soak } => soak::soak(&soak),
    };
    match outcome {
        Ok(code) => code,
        Err(fault) => {
            eprintln!("error: {fault}");
            ExitCode::FAILURE
        }
    }
}
