//! `soak`: a test for longer than CI runs it.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use testkit::{Error, Result};

use crate::cargo::{build, cargo, output};

/// Property tests of the message cache, and how many cases each runs per seed.
const MODELS: [&str; 3] = ["model", "housekeeping", "crash"];
const CASES: [(&str, &str); 2] = [("MODEL_CASES", "1000"), ("PROPTEST_CASES", "256")];
/// Proptest takes its seed from here.
const SEED: &str = "PROPTEST_RNG_SEED";

#[derive(Subcommand)]
pub enum Soak {
    /// Kill the gateway with SIGKILL under load, restart it, and look for every acknowledged record: half of the rounds on a topic
    /// that keeps all, half on one that is compacted meanwhile.
    Kill {
        #[arg(long, default_value_t = 300)]
        rounds: u32,
    },
    /// Run the message cache's model and crash tests with one seed after the other; a seed that fails is printed, and how to replay it.
    Model {
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// Readers in and out of topics that are written, compacted and deleted from: nothing missed, nothing doubled, bounded memory.
    Readers {
        #[arg(long, default_value_t = 10_000_000)]
        records: u64,
        #[arg(long, default_value_t = 50_000)]
        keys: u64,
        #[arg(long, default_value_t = 2000)]
        readers: u64,
    },
    /// Three replicas behind a balancer, on one real Kafka: requests that are made again elsewhere, replicas that are killed with
    /// SIGKILL, a broker that is restarted twice; each key written once, each answer right.
    Exchanges {
        #[arg(long, default_value_t = 100_000)]
        requests: u64,
        #[arg(long, default_value_t = 128)]
        clients: u64,
        /// What happens when, and who asks how; by default another one each time, which is printed.
        #[arg(long)]
        seed: Option<u64>,
    },
}

pub fn soak(soak: &Soak) -> Result<ExitCode> {
    let passed = match *soak {
        Soak::Kill { rounds } => kill(rounds)?,
        Soak::Model { minutes } => model(Duration::from_secs(minutes * 60))?,
        Soak::Readers { records, keys, readers } => self::readers(records, keys, readers)?,
        Soak::Exchanges { requests, clients, seed } => exchanges(requests, clients, seed)?,
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn kill(rounds: u32) -> Result<bool> {
    let mut command = of_the_whole("crash", "kill")?;
    // Two tests share the rounds.
    let passed = command.env("TIDEGATE_KILL_ROUNDS", rounds.div_ceil(2).to_string()).status()?.success();
    println!("{rounds} rounds: {}", if passed { "0 lost, 0 doubled, 0 wrong" } else { "FAILED" });
    Ok(passed)
}

fn exchanges(requests: u64, clients: u64, seed: Option<u64>) -> Result<bool> {
    let mut command = of_the_whole("replicas", "whatever_dies")?;
    command.env("TIDEGATE_REQUESTS", requests.to_string()).env("TIDEGATE_CLIENTS", clients.to_string());
    command.envs(seed.map(|seed| ("TIDEGATE_SEED", seed.to_string())));
    // It starts a broker of its own, and must not be told to do without.
    let passed = command.env_remove("TIDEGATE_NO_KAFKA").status()?.success();
    println!("{requests} requests: {}", if passed { "each written once and answered right" } else { "FAILED" });
    Ok(passed)
}

/// Tests of the whole system, on the binary as users get it.
fn of_the_whole(tests: &str, filter: &str) -> Result<Command> {
    build(&["--release", "--package", "tidegate", "--bins"])?;
    let mut command = cargo();
    command.args(["test", "--release", "--quiet", "--package", "integration", "--test", tests, "--", "--nocapture", filter]);
    command.env("TIDEGATE_BIN", output("release")?.join("tidegate"));
    Ok(command)
}

fn model(time: Duration) -> Result<bool> {
    let began = Instant::now();
    let tests: Vec<&str> = MODELS.iter().flat_map(|name| ["--test", name]).collect();
    let first = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut seeds = 0;
    while began.elapsed() < time {
        let seed = (first + seeds).to_string();
        let mut command = test(&tests);
        let output = command.env(SEED, &seed).output().map_err(Error::doing("cannot run cargo test"))?;
        if !output.status.success() {
            println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let cases = CASES.map(|(name, value)| format!("{name}={value}")).join(" ");
            println!(
                "FAILED with seed {seed}; to replay: {SEED}={seed} {cases} cargo test --release -p message-cache {}",
                tests.join(" ")
            );
            return Ok(false);
        }
        seeds += 1;
    }
    let cases = CASES.map(|(name, value)| format!("{name}={value}")).join(", ");
    println!("{seeds} seeds from {first} on in {} minutes, each with {cases}: nothing wrong", began.elapsed().as_secs() / 60);
    Ok(true)
}

fn test(tests: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["test", "--release", "--quiet", "--package", "message-cache"]).args(tests).envs(CASES);
    command
}

fn readers(records: u64, keys: u64, readers: u64) -> Result<bool> {
    build(&["--release", "--package", "message-cache", "--example", "soak-readers"])?;
    let program = output("release")?.join("examples/soak-readers");
    let numbers = [records, keys, readers].map(|n| n.to_string());
    let status = Command::new(program).arg(std::env::temp_dir()).args(numbers).status().map_err(Error::doing("soak-readers"))?;
    Ok(status.success())
}
