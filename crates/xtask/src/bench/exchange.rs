//! Exchanges beside a round trip of the same records without HTTP: latency at fixed rates, and how many can be.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use testkit::{Broker, Error, Gateway, Process, Result, poll_until, unique};

use super::load::{Load, post_keyed};
use super::{Bench, Row, figure, median};

const RATES: [u32; 2] = [1000, 5000];
const CONNECTIONS: [u32; 3] = [64, 256, 512];
const BYTES: usize = 256;
const PARTITIONS: u32 = 3;
const WORKS_WITHIN: Duration = Duration::from_secs(30);

/// A route of the gateway under load: where, and what it costs more than the one before.
pub struct Variant {
    pub path: &'static str,
    pub name: &'static str,
    pub keyed: bool,
}

pub const PLAIN: Variant = Variant { path: "/plain", name: "without idempotency", keyed: false };
pub const LOCAL: Variant = Variant { path: "/local", name: "local-and-log", keyed: true };
pub const EXACTLY: Variant = Variant { path: "/exactly", name: "exactly-once", keyed: true };

/// A gateway with a route for each variant, and the worker behind it.
pub struct Rig {
    pub gateway: Gateway,
    pub names: Names,
    pid: u32,
    _worker: Process,
}

/// Topics: requests of each route, and the replies of all.
pub struct Names {
    pub plain: String,
    pub local: String,
    pub exactly: String,
    pub replies: String,
}

impl Names {
    pub fn new() -> Self {
        let name = |of: &str| unique(&format!("exchange-{of}"));
        Self { plain: name("plain"), local: name("local"), exactly: name("exactly"), replies: name("replies") }
    }

    fn requests(&self) -> [&str; 3] {
        [&self.plain, &self.local, &self.exactly]
    }

    /// Many may wait, and for long. On Kafka, the requests of the first route are in no cache, as none is needed.
    pub fn config(&self, cluster: &str) -> String {
        let Self { plain, local, exactly, replies } = self;
        let created = |topic: &String| format!("    {topic}: {{ bootstrap: true, create: {{ partitions: {PARTITIONS} }} }}\n");
        let route = |path: &str, topic: &str, idempotency: &str| {
            format!(
                "  - match: POST {path}\n    exchange:\n      request: {{ topic: {topic} }}\n      reply: {{ topic: {replies} }}\n      \
                 timeout: 120s\n{idempotency}"
            )
        };
        format!(
            "listeners: {{ public: {{ address: 127.0.0.1:0 }} }}\nadmin: {{ address: 127.0.0.1:0 }}\nlog: {{ level: warn, access: false }}\n\
             limits: {{ requests: 100000, pending_exchanges: 100000, request_timeout: 120s }}\n\
             clusters: {{ main: {{ bootstrap.servers: '{cluster}' }} }}\ncache:\n  directory: ./data\n  topics:\n{}routes:\n{}{}{}",
            [local, exactly, replies].map(created).concat() + &if cluster == "embedded" { created(plain) } else { String::new() },
            route("/plain", plain, ""),
            route("/local", local, "      idempotency: {}\n"),
            route("/exactly", exactly, "      idempotency: { mode: exactly-once }\n"),
        )
    }
}

impl Rig {
    /// Also answers requests of the `others`, which are no topics of the gateway.
    pub fn kafka(bench: &Bench, broker: &Broker, others: &[&str]) -> Result<Self> {
        let names = Names::new();
        broker.create_topic(&names.plain, PARTITIONS, &[])?;
        let mut gateway = bench.gateway(&names.config(broker.bootstrap()))?;
        let mut command = Command::new(bench.binaries.join("raw-roundtrip"));
        command.args(["echo", "--bootstrap", broker.bootstrap()]).stdin(Stdio::null());
        for topic in names.requests().iter().chain(others) {
            command.args(["--topic", topic]);
        }
        let worker = Process::start("the worker", command)?;
        let ready = poll_until(WORKS_WITHIN, || worker.stdout_line(|line| (line == "echoing").then_some(())));
        ready.ok_or_else(|| Error::new(format!("the worker does not begin: {}", worker.stderr())))?;
        let pid = gateway.process().id();
        let rig = Self { gateway, names, pid, _worker: worker };
        rig.warm()?;
        Ok(rig)
    }

    /// The worker reads and writes with the verbs of the command line, one of each for each request topic; all end with the gateway.
    pub fn embedded(bench: &Bench) -> Result<Self> {
        let names = Names::new();
        let mut gateway = bench.gateway(&names.config("embedded"))?;
        let tidegate = bench.binaries.join("tidegate").display().to_string();
        let echo = bench.binaries.join("raw-roundtrip").display().to_string();
        let file = gateway.dir().join("tidegate.yaml").display().to_string();
        let pipe = |topic: &str| {
            let consume = format!("{tidegate} topic consume {file} {topic} --follow");
            format!("{consume} | {echo} echo-lines | {tidegate} topic produce {file} {} >/dev/null & ", names.replies)
        };
        let mut command = Command::new("sh");
        command.arg("-c").arg(names.requests().map(pipe).concat() + "wait").stdin(Stdio::null());
        let worker = Process::start("the worker", command)?;
        let pid = gateway.process().id();
        let rig = Self { gateway, names, pid, _worker: worker };
        rig.warm()?;
        Ok(rig)
    }

    /// One answer, so that whoever works is at work.
    fn warm(&self) -> Result<()> {
        for variant in [PLAIN, LOCAL, EXACTLY] {
            let keys = variant.keyed.then_some(("idempotency-key", "warm")).into_iter().collect::<Vec<_>>();
            let answer = testkit::http::request(self.gateway.address(), "POST", variant.path, &keys, b"x")?;
            if answer.status != 200 {
                return Err(Error::new(format!("{} is answered with {}: {}", variant.path, answer.status, answer.text())));
            }
        }
        Ok(())
    }

    /// An open loop, as `http-load` reports it: also of what was not answered with a reply.
    pub fn rate(&self, bench: &Bench, variant: &Variant, rate: u32) -> Result<Value> {
        let (address, bytes) = (self.gateway.address().to_string(), BYTES.to_string());
        let (rate, seconds, keys) = (rate.to_string(), bench.seconds.to_string(), unique("key"));
        let mut args = vec!["rate", "--address", &address, "--path", variant.path, "--bytes", &bytes, "--rate", &rate];
        args.extend(["--seconds", &seconds]);
        if variant.keyed {
            args.extend(["--keys", &keys]);
        }
        bench.probe("http-load", &args)
    }

    fn saturate(&self, bench: &Bench, variant: &Variant, connections: u32) -> Result<Load> {
        let keys = unique("key");
        post_keyed(bench, self.gateway.address(), variant.path, BYTES, variant.keyed.then_some(&keys), connections)
    }
}

pub fn exchange(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = on_kafka(bench)?;
    rows.extend(on_embedded(bench)?);
    Ok(rows)
}

fn on_kafka(bench: &Bench) -> Result<Vec<Row>> {
    let broker = bench.broker()?;
    let raw = Raw::new(bench, &broker)?;
    let rig = Rig::kafka(bench, &broker, &[&raw.requests])?;
    let mut rows = Vec::new();
    for rate in RATES {
        rows.extend(latencies(bench, rate, &[PLAIN, LOCAL, EXACTLY], &rig, Some(&raw))?);
    }
    rows.extend(saturation(bench, &rig, &[PLAIN, LOCAL, EXACTLY], Some(&raw))?);
    Ok(rows)
}

/// There is no client of the embedded cluster to stand beside it.
fn on_embedded(bench: &Bench) -> Result<Vec<Row>> {
    let rig = Rig::embedded(bench)?;
    let mut rows = Vec::new();
    for rate in RATES {
        rows.extend(latencies(bench, rate, &[PLAIN, LOCAL], &rig, None)?);
    }
    rows.extend(saturation(bench, &rig, &[PLAIN, LOCAL], None)?);
    Ok(rows)
}

/// The same records by librdkafka alone.
struct Raw<'b> {
    bench: &'b Bench,
    bootstrap: &'b str,
    requests: String,
    replies: String,
}

impl<'b> Raw<'b> {
    fn new(bench: &'b Bench, broker: &'b Broker) -> Result<Self> {
        let (requests, replies) = (unique("raw-requests"), unique("raw-replies"));
        broker.create_topic(&requests, PARTITIONS, &[])?;
        broker.create_topic(&replies, PARTITIONS, &[])?;
        Ok(Self { bench, bootstrap: broker.bootstrap(), requests, replies })
    }

    fn measure(&self, how: [&str; 2]) -> Result<Value> {
        let (bytes, seconds) = (BYTES.to_string(), self.bench.seconds.to_string());
        let topics = ["--requests", &self.requests, "--replies", &self.replies, "--bytes", &bytes, "--seconds", &seconds];
        self.bench.probe("raw-roundtrip", &[&["measure", "--bootstrap", self.bootstrap], &topics[..], &how].concat())
    }
}

/// What was seen in each round.
#[derive(Default)]
struct Seen {
    p50: Vec<f64>,
    p99: Vec<f64>,
    max: Vec<f64>,
    /// Answers other than a reply, of all rounds.
    others: u64,
}

impl Seen {
    fn note(&mut self, report: &Value) -> Result<()> {
        self.p50.push(figure(report, "p50_ms")?);
        self.p99.push(figure(report, "p99_ms")?);
        self.max.push(figure(report, "max_ms")?);
        self.others +=
            report["others"].as_object().into_iter().flat_map(|others| others.values()).filter_map(Value::as_u64).sum::<u64>();
        Ok(())
    }
}

/// Rounds go from one to the next. The goal is a difference of p99.
fn latencies(bench: &Bench, rate: u32, variants: &[Variant], rig: &Rig, raw: Option<&Raw<'_>>) -> Result<Vec<Row>> {
    let mut alone = Seen::default();
    let mut seen: Vec<Seen> = variants.iter().map(|_| Seen::default()).collect();
    for _ in 0..bench.rounds {
        if let Some(raw) = raw {
            alone.note(&raw.measure(["--rate", &rate.to_string()])?)?;
        }
        for (variant, seen) in variants.iter().zip(&mut seen) {
            seen.note(&rig.rate(bench, variant, rate)?)?;
        }
    }
    let cluster = if raw.is_some() { "Kafka" } else { "embedded" };
    let mut rows = Vec::new();
    for (variant, seen) in variants.iter().zip(seen) {
        let added = median(&seen.p99).zip(median(&alone.p99)).map(|(ours, raw)| ours - raw);
        let added = added.map_or(String::new(), |added| format!("; {added:+.2} ms, wanted +5 ms"));
        let max = median(&seen.max).unwrap_or(f64::NAN);
        let others = if seen.others == 0 { String::new() } else { format!("; **{} not replied to**", seen.others) };
        let row = |quantile: &str, ours, peer: &[f64], note| Row {
            what: format!("Exchange, {cluster}, {}, {rate}/s: {quantile}", variant.name),
            ours,
            peer: peer.to_vec(),
            unit: "ms".into(),
            note,
        };
        rows.push(row("p50", seen.p50, &alone.p50, String::new()));
        rows.push(row("p99", seen.p99, &alone.p99, format!("worst {max:.1} ms{added}{others}")));
    }
    Ok(rows)
}

fn saturation(bench: &Bench, rig: &Rig, variants: &[Variant], raw: Option<&Raw<'_>>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for connections in CONNECTIONS {
        let mut peer = Vec::new();
        let mut loads: Vec<Vec<(Load, f64)>> = variants.iter().map(|_| Vec::new()).collect();
        for _ in 0..bench.rounds {
            if let Some(raw) = raw {
                peer.push(figure(&raw.measure(["--in-flight", &connections.to_string()])?, "per_second")?);
            }
            for (variant, loads) in variants.iter().zip(&mut loads) {
                let before = cpu_seconds(rig)?;
                let load = rig.saturate(bench, variant, connections)?;
                let micros = (cpu_seconds(rig)? - before) * 1e6 / (load.per_second * f64::from(bench.seconds));
                loads.push((load, micros));
            }
        }
        let cluster = if raw.is_some() { "Kafka" } else { "embedded" };
        for (variant, loads) in variants.iter().zip(loads) {
            let of = |pick: fn(&(Load, f64)) -> f64| loads.iter().map(pick).collect::<Vec<_>>();
            let middle = |pick| median(&of(pick)).unwrap_or(f64::NAN);
            let (p50, p99, micros) = (middle(|(l, _)| l.p50_ms), middle(|(l, _)| l.p99_ms), middle(|(_, micros)| *micros));
            rows.push(Row {
                what: format!("Exchange, {cluster}, {}, {connections} connections", variant.name),
                ours: of(|(load, _)| load.per_second),
                peer: peer.clone(),
                unit: "exchanges/s".into(),
                note: format!("p50 {p50:.1} ms, p99 {p99:.1} ms; {micros:.0} us of the gateway's CPU each"),
            });
        }
    }
    Ok(rows)
}

/// User and system time of the gateway so far.
fn cpu_seconds(rig: &Rig) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", rig.pid))?;
    let ticks =
        stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum());
    // Linux tells them in hundredths of a second, whatever the kernel's own tick.
    ticks.map(|ticks: f64| ticks / 100.0).ok_or_else(|| Error::new("no times in /proc"))
}
