//! How little it takes: bytes of the binary, resident memory when idle, time from start to ready.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use testkit::{Error, Gateway, Result, unique, workspace_root};

use super::{Bench, Row};

const MIB: f64 = 1024.0 * 1024.0;

pub fn footprint(bench: &Bench) -> Result<Vec<Row>> {
    let binary = fs::metadata(bench.binaries.join("tidegate"))?.len() as f64 / MIB;
    let embedded = example(bench, None)?;
    let broker = bench.broker()?;
    let kafka = example(bench, Some(broker.bootstrap()))?;
    let row = |what: &str, ours, unit: &'static str, note: &str| Row {
        what: what.into(),
        ours,
        peer: Vec::new(),
        unit: unit.into(),
        note: note.into(),
    };
    Ok(vec![
        row("Binary", vec![binary], "MiB", ""),
        row("Start to ready, embedded", embedded.ready_ms, "ms", "limit 50 ms; examples/items"),
        row("Idle memory (RSS), embedded", embedded.rss_mib, "MiB", "limit 15 MiB; examples/items"),
        row("Idle memory (RSS), on Kafka", kafka.rss_mib, "MiB", "the difference is librdkafka"),
        row("Start to ready, on Kafka", kafka.ready_ms, "ms", "finding the cluster and its topic included"),
    ])
}

struct Idle {
    ready_ms: Vec<f64>,
    rss_mib: Vec<f64>,
}

/// The items example on the embedded cluster, or on the one at `bootstrap`.
fn example(bench: &Bench, bootstrap: Option<&str>) -> Result<Idle> {
    let file: PathBuf = workspace_root().join("examples/items/tidegate.yaml");
    let yaml = fs::read_to_string(&file).map_err(Error::doing(file.display()))?;
    let yaml = yaml.replace("items-snapshots", &unique("items"));
    let mut idle = Idle { ready_ms: Vec::new(), rss_mib: Vec::new() };
    for _ in 0..bench.rounds {
        let mut builder =
            bench.builder(&yaml).arg("--set=listeners.public.address=127.0.0.1:0").arg("--set=admin.address=127.0.0.1:0");
        if let Some(servers) = bootstrap {
            builder = builder.env("KAFKA_BOOTSTRAP_SERVERS", servers);
        }
        let start = Instant::now();
        let mut gateway = builder.start()?;
        idle.ready_ms.push(start.elapsed().as_secs_f64() * 1e3);
        idle.rss_mib.push(resident(&mut gateway)?);
    }
    Ok(idle)
}

fn resident(gateway: &mut Gateway) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.process().id()))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| Error::new("no VmRSS in /proc"))
}
