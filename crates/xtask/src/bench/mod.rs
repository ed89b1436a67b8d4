//! `bench NAME`: Tidegate and the limit it stands beside, in interleaved rounds of one run, as a ratio of medians.

mod cache;
mod exchange;
mod footprint;
mod http;
mod ingest;
mod load;
mod pending;

use std::borrow::Cow;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Args, ValueEnum};
use testkit::{Broker, BrokerOptions, Error, Gateway, GatewayBuilder, Result, find_tool};

use crate::cargo::{build, output};
use crate::tools::{JAVA, MAVEN, WRK, need};

#[derive(Args)]
pub struct BenchArgs {
    /// What to measure.
    name: Name,
    /// Interleaved rounds; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Seconds of load per round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Measure the debug build: quick to build, good for trying the harness, worthless as a figure.
    #[arg(long)]
    debug: bool,
    /// Take the programs from this folder instead of building them: a build beside a measurement spoils it.
    #[arg(long, conflicts_with = "debug")]
    binaries: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Name {
    /// GET of one cached 1-KiB record by key, beside bare hyper.
    Get,
    /// POST to the embedded log, beside the disk's own fsync (with fsync) and bare hyper (without).
    ProduceEmbedded,
    /// POST to Kafka with acks=all, beside librdkafka with as many records in flight.
    ProduceKafka,
    /// Kafka to the cache on disk, beside a consumer that throws the records away.
    Ingest,
    /// Restart with a million cached records.
    Restart,
    /// The message cache alone: append, look-up, snapshot, restart, compaction, memory, disk.
    Cache,
    /// GET by key over HTTP among a thousand and among ten million live keys.
    GetByKey,
    /// Requests with replies at fixed rates, beside the same without HTTP; and as many as can be.
    Exchange,
    /// Requests that wait: memory of each, ten thousand that are the same, a million old replies.
    Pending,
    /// Binary size, idle memory, start to ready.
    Footprint,
    All,
}

/// What every benchmark needs.
struct Bench {
    binaries: PathBuf,
    /// Cargo's name of the profile that they are of.
    profile: &'static str,
    rounds: u32,
    seconds: u32,
}

/// One line of the result.
struct Row {
    what: String,
    /// One figure per round.
    ours: Vec<f64>,
    /// Empty when there is no peer but an absolute limit.
    peer: Vec<f64>,
    unit: Cow<'static, str>,
    note: String,
}

pub fn run(args: &BenchArgs) -> Result<ExitCode> {
    let kafka = !matches!(args.name, Name::Get | Name::ProduceEmbedded | Name::Cache | Name::GetByKey);
    if args.name != Name::Cache {
        need(&[WRK])?;
    }
    if kafka {
        need(&[JAVA, MAVEN])?;
    }
    let (profile, folder) = if args.debug { ("dev", "debug") } else { ("release", "release") };
    if args.binaries.is_none() {
        eprintln!("building with profile {profile}");
    }
    if args.name != Name::Cache && args.binaries.is_none() {
        build(&["--profile", profile, "--package", "tidegate", "--package", "bench", "--bins"])?;
    }
    let binaries = args.binaries.clone().map_or_else(|| output(folder), Ok)?;
    let bench = Bench { binaries, profile, rounds: args.rounds, seconds: args.seconds };
    let all = [
        Name::Get,
        Name::GetByKey,
        Name::ProduceEmbedded,
        Name::ProduceKafka,
        Name::Ingest,
        Name::Restart,
        Name::Cache,
        Name::Exchange,
        Name::Pending,
        Name::Footprint,
    ];
    let chosen = all.into_iter().filter(|name| args.name == Name::All || args.name == *name);
    let mut rows = Vec::new();
    for name in chosen {
        rows.extend(match name {
            Name::Get => http::get(&bench)?,
            Name::GetByKey => cache::get_by_key(&bench)?,
            Name::Cache => cache::cache(&bench)?,
            Name::ProduceEmbedded => http::produce_embedded(&bench)?,
            Name::ProduceKafka => http::produce_kafka(&bench)?,
            Name::Ingest => ingest::ingest(&bench)?,
            Name::Restart => ingest::restart(&bench)?,
            Name::Exchange => exchange::exchange(&bench)?,
            Name::Pending => pending::pending(&bench)?,
            Name::Footprint | Name::All => footprint::footprint(&bench)?,
        });
    }
    print!("{}", table(&rows, &machine(), &command(args)));
    Ok(ExitCode::SUCCESS)
}

impl Bench {
    /// The binary with `config`, ready.
    fn gateway(&self, config: &str) -> Result<Gateway> {
        self.builder(config).start()
    }

    fn builder(&self, config: &str) -> GatewayBuilder {
        Gateway::builder().binary(self.binaries.join("tidegate")).config(config)
    }

    fn broker(&self) -> Result<Broker> {
        Broker::start(BrokerOptions { throughput: true, ..BrokerOptions::default() })
    }

    /// Runs a program of the crate `bench` to its end and reads the JSON it prints.
    fn probe(&self, name: &str, args: &[&str]) -> Result<serde_json::Value> {
        let output = Command::new(self.binaries.join(name)).args(args).output().map_err(Error::doing(name))?;
        if !output.status.success() {
            return Err(Error::new(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr))));
        }
        serde_json::from_slice(&output.stdout).map_err(|cause| Error::new(format!("{name} printed no JSON: {cause}")))
    }

    /// A topic with `records` values of `bytes`, in one partition unless said.
    fn fill(&self, broker: &Broker, topic: &str, records: u64, bytes: u64, keys: bool) -> Result<()> {
        broker.create_topic(topic, 1, &[])?;
        let (records, bytes) = (records.to_string(), bytes.to_string());
        let mut args = vec!["--bootstrap", broker.bootstrap(), "--topic", topic, "--records", &records, "--bytes", &bytes];
        args.extend(["--in-flight", "50000", "--property", "linger.ms=10", "--property", "batch.size=262144"]);
        args.extend(keys.then_some("--keys"));
        self.probe("raw-produce", &args).map(drop)
    }
}

/// A member of what a probe printed.
fn figure(json: &serde_json::Value, member: &str) -> Result<f64> {
    json[member].as_f64().ok_or_else(|| Error::new(format!("no {member} in {json}")))
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

fn table(rows: &[Row], machine: &str, command: &str) -> String {
    let mut text = String::from("| measured | Tidegate | beside | ratio | notes |\n|---|---|---|---|---|\n");
    for row in rows {
        let (ours, peer) = (median(&row.ours), median(&row.peer));
        let show = |value: Option<f64>| value.map_or("-".into(), |v| format!("{} {}", number(v), row.unit));
        let ratio =
            ours.zip(peer).filter(|(_, peer)| *peer > 0.0).map_or("-".into(), |(ours, peer)| format!("{:.2}", ours / peer));
        text.push_str(&format!("| {} | {} | {} | {ratio} | {} |\n", row.what, show(ours), show(peer), row.note));
    }
    text.push_str(&format!("\nMedians. {machine}. `{command}`\n"));
    text
}

/// Three significant places are all that such a figure is worth.
fn number(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e4 => format!("{:.1} k", v / 1e3),
        v if v >= 100.0 => format!("{v:.0}"),
        v => format!("{v:.2}"),
    }
}

fn command(args: &BenchArgs) -> String {
    let name = args.name.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    let debug = if args.debug { " --debug" } else { "" };
    format!("cargo xtask bench {name} --rounds {} --seconds {}{debug}", args.rounds, args.seconds)
}

/// Cores, processor, kernel: what a reader needs to judge the figures.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.trim()))
        .unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg").split(' ').nth(2).unwrap_or("unknown").to_owned();
    format!(
        "{cores} cores ({model}), Linux {}, the load generator on the same machine, load average (15 min) {load} at the end",
        kernel.trim()
    )
}

/// `find_tool` for the load generator, with its absence explained.
fn wrk() -> Result<PathBuf> {
    find_tool("wrk")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_tables() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        let row = Row {
            what: "GET".into(),
            ours: vec![90_000.0],
            peer: vec![100_000.0],
            unit: "req/s".into(),
            note: "p99 2 ms".into(),
        };
        let text = table(&[row], "a machine", "a command");
        assert!(text.contains("| GET | 90.0 k req/s | 100.0 k req/s | 0.90 | p99 2 ms |\n"), "{text}");
    }
}
