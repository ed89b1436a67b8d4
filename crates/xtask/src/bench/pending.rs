//! Exchanges that wait: what each costs, many that are the same, and replies that nobody waits for any more.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::{Broker, Error, Process, Result, http, poll_until, unique};

use super::exchange::{EXACTLY, LOCAL, Names, PLAIN, Rig, Variant};
use super::load::bare_hyper_with;
use super::{Bench, Row, figure, median};

const PENDING: u64 = 50_000;
const RETRIES: u64 = 10_000;
const OLD_REPLIES: u64 = 1_000_000;
const RATE: u32 = 500;
const HELD_WITHIN: Duration = Duration::from_secs(120);
const FILLED_WITHIN: Duration = Duration::from_secs(120);

pub fn pending(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = vec![memory(bench)?];
    let broker = bench.broker()?;
    rows.extend(retries(bench, &broker)?);
    rows.push(old_replies(bench, &broker)?);
    Ok(rows)
}

/// On the embedded cluster, with nobody who replies; beside it, a server of which each stream has a handler that does nothing.
fn memory(bench: &Bench) -> Result<Row> {
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let mut gateway = bench.gateway(&Names::new().config("embedded"))?;
        let pid = gateway.process().id();
        let waiting = || gateway.metric("tidegate_exchange_pending");
        ours.push(grown(bench, pid, &gateway.address().to_string(), PLAIN.path, &waiting)?);
        drop(gateway);
        let bare = bare_hyper_with(bench, &["--http2"])?;
        let waiting = || http::get(bare.address, "/hanging").ok()?.text().parse().ok();
        peer.push(grown(bench, bare.pid(), &bare.address.to_string(), "/hang", &waiting)?);
    }
    let of_ours = median(&ours).zip(median(&peer)).map_or(f64::NAN, |(ours, peer)| ours - peer);
    Ok(Row {
        what: format!("Memory of each of {PENDING} pending exchanges over HTTP/2, embedded, beside streams of bare hyper"),
        ours,
        peer,
        unit: "bytes".into(),
        note: format!("{of_ours:.0} of them ours, wanted <= 2048; growth of RssAnon"),
    })
}

/// Bytes by which the process has grown per request that waits in it.
fn grown(bench: &Bench, pid: u32, address: &str, path: &str, waiting: &dyn Fn() -> Option<f64>) -> Result<f64> {
    let before = anonymous_bytes(pid)?;
    let mut command = Command::new(bench.binaries.join("http-load"));
    command.args(["hold", "--address", address, "--path", path, "--requests", &PENDING.to_string()]).stdin(Stdio::null());
    let load = Process::start("http-load", command)?;
    let all = poll_until(HELD_WITHIN, || {
        let ended = load.stdout_line(|line| line.starts_with("ended").then(|| Err(Error::new(line))));
        ended.or_else(|| waiting().filter(|waiting| *waiting >= PENDING as f64).map(|_| Ok(())))
    });
    all.unwrap_or_else(|| Err(Error::new(format!("{:?} of {PENDING} requests wait at {path}: {}", waiting(), load.stderr()))))?;
    Ok((anonymous_bytes(pid)? - before) / PENDING as f64)
}

/// Memory that is no file's.
fn anonymous_bytes(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    kib.map(|kib| kib * 1024.0).ok_or_else(|| Error::new("no RssAnon in /proc"))
}

/// One record, and as many equal answers as requests.
fn retries(bench: &Bench, broker: &Broker) -> Result<Vec<Row>> {
    let rig = Rig::kafka(bench, broker, &[])?;
    let row = |variant: &Variant, topic: &str| {
        let before = records(&rig, topic)?;
        let mut ours = Vec::new();
        for _ in 0..bench.rounds {
            let (address, key, requests) = (rig.gateway.address().to_string(), unique("key"), RETRIES.to_string());
            let args = ["same", "--address", &address, "--path", variant.path, "--requests", &requests, "--key", &key];
            let report = bench.probe("http-load", &args)?;
            if report["different"] != 1 || report["statuses"]["200"] != RETRIES {
                return Err(Error::new(format!("{RETRIES} equal requests to {} were answered with {report}", variant.path)));
            }
            ours.push(figure(&report, "max_ms")?);
        }
        let written = records(&rig, topic)? - before;
        if written != bench.rounds as usize {
            return Err(Error::new(format!("{written} records for {} keys in {topic}", bench.rounds)));
        }
        Ok(Row {
            what: format!("{RETRIES} requests with one idempotency key at once, {}: until the last answer", variant.name),
            ours,
            peer: Vec::new(),
            unit: "ms".into(),
            note: format!("all 200 and equal; {written} records for {} keys", bench.rounds),
        })
    };
    Ok(vec![row(&LOCAL, &rig.names.local)?, row(&EXACTLY, &rig.names.exactly)?])
}

fn records(rig: &Rig, topic: &str) -> Result<usize> {
    let read = rig.gateway.verb("topic consume", &[topic])?;
    match read.code {
        Some(0) => Ok(read.stdout.lines().count()),
        _ => Err(Error::new(format!("topic consume {topic}: {}", read.stderr))),
    }
}

/// Two gateways that take turns: one topic of replies is full, and the other is as it was.
fn old_replies(bench: &Bench, broker: &Broker) -> Result<Row> {
    let (full, empty) = (Rig::kafka(bench, broker, &[])?, Rig::kafka(bench, broker, &[])?);
    let (topic, records) = (full.names.replies.as_str(), OLD_REPLIES.to_string());
    let mut fill = Command::new(bench.binaries.join("raw-roundtrip"));
    fill.args(["fill", "--bootstrap", broker.bootstrap(), "--topic", topic, "--records", &records]);
    if !fill.status().map_err(Error::doing("raw-roundtrip"))?.success() {
        return Err(Error::new(format!("{topic} cannot be filled")));
    }
    let ends = || full.gateway.metric("tidegate_cache_end_offset");
    poll_until(FILLED_WITHIN, || ends().filter(|ends| *ends >= OLD_REPLIES as f64))
        .ok_or_else(|| Error::new(format!("the caches end at {:?} in all", ends())))?;
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        ours.push(figure(&full.rate(bench, &LOCAL, RATE)?, "p50_ms")?);
        peer.push(figure(&empty.rate(bench, &LOCAL, RATE)?, "p50_ms")?);
    }
    Ok(Row {
        what: format!("Exchange, Kafka, local-and-log, {RATE}/s, with {OLD_REPLIES} old replies, beside none: p50"),
        ours,
        peer,
        unit: "ms".into(),
        note: String::new(),
    })
}
