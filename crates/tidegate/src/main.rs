//! The command line. Each verb is a file; what they share is how a configuration is read and how a fault becomes an exit
//! code.

mod cache;
mod cli;
mod doctor;
mod door;
mod failure;
mod load;
mod run;
mod topic;
mod verify;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Verb};
use failure::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { failure::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match perform(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn perform(cli: Cli) -> Result<(), Failure> {
    match cli.verb {
        Verb::Run { config } => run::run(&config),
        Verb::Check { config } => {
            let plan = load::load(&config)?;
            let (routes, topics) = (plan.routes.len(), plan.cache.topics.len());
            say(&format!("{}: ok: {routes} routes, {topics} cached topics", config.file.display()))
        }
        Verb::Schema => say(&format!("{:#}", config::schema())),
        Verb::Version { json } => version(json),
        Verb::Doctor { config, timeout } => doctor::doctor(&config, std::time::Duration::from_secs(timeout)),
        Verb::Topic { verb } => topic::topic(verb),
        Verb::Cache { verb } => cache::cache(verb),
    }
}

fn version(json: bool) -> Result<(), Failure> {
    let librdkafka = kafka::librdkafka_version();
    if json {
        let gssapi = cfg!(feature = "gssapi");
        let all = serde_json::json!({ "version": VERSION, "librdkafka": librdkafka, "features": { "gssapi": gssapi } });
        return say(&all.to_string());
    }
    say(&format!("tidegate {VERSION} (librdkafka {librdkafka})"))
}

/// A line on standard output. A reader that has gone is no fault of ours.
fn say(line: &str) -> Result<(), Failure> {
    use std::io::Write;
    match writeln!(anstream::stdout(), "{line}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::other(format!("standard output: {e}"))),
        _ => Ok(()),
    }
}

/// Bytes on standard output, as [`say`].
fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::new(0, "")),
        Err(e) => Err(Failure::other(format!("standard output: {e}"))),
        Ok(()) => Ok(()),
    }
}
