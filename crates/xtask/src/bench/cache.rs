//! The message cache: its own figures, from `cache-bench` (an example of its crate), and GET by key over HTTP as keys become many.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use testkit::{Error, Gateway, Result};

use super::load::{Load, get_with};
use super::{Bench, Row, median};
use crate::cargo::build;

const NAMES: [&str; 7] = ["append", "get", "snapshot", "restart", "compact", "memory", "disk"];
/// Live keys of the topics that are compared.
const KEYS: [u64; 3] = [1000, 100_000, 10_000_000];

pub fn cache(bench: &Bench) -> Result<Vec<Row>> {
    let program = program(bench)?;
    let dir = tempfile::tempdir()?;
    let mut rows = Vec::new();
    for name in NAMES {
        eprintln!("cache-bench {name}");
        for line in run(Command::new(&program).arg(name).arg(dir.path()).arg(bench.rounds.to_string()))?.lines() {
            rows.push(row(line).ok_or_else(|| Error::new(format!("cache-bench {name} printed no row: {line}")))?);
        }
    }
    Ok(rows)
}

/// Three topics of one gateway, filled while it is down; the rounds go from one to the next.
pub fn get_by_key(bench: &Bench) -> Result<Vec<Row>> {
    let program = program(bench)?;
    let mut gateway = bench.gateway(&config())?;
    gateway.terminate()?;
    for keys in KEYS {
        let log = gateway.dir().join(format!("data/embedded/main/keys-{keys}/0"));
        if !log.is_dir() {
            return Err(Error::new(format!("the gateway made no {}", log.display())));
        }
        run(Command::new(&program).arg("fill").arg(&log).arg(keys.to_string()))?;
    }
    gateway.restart()?;
    gateway.wait_ready()?;
    let mut loads: [Vec<Load>; 3] = Default::default();
    for round in 0..=bench.rounds {
        for (keys, loads) in KEYS.into_iter().zip(&mut loads) {
            let load = get_random(bench, &gateway, keys)?;
            // The first one touches pages that were never mapped.
            loads.extend((round > 0).then_some(load));
        }
    }
    let rate = |loads: &[Load]| loads.iter().map(|l| l.per_second).collect::<Vec<_>>();
    let fewest = rate(&loads[0]);
    let row = |(keys, loads): (u64, &Vec<Load>)| {
        let middle = |of: fn(&Load) -> f64| median(&loads.iter().map(of).collect::<Vec<_>>()).unwrap_or(f64::NAN);
        let (p50, p99) = (middle(|l| l.p50_ms), middle(|l| l.p99_ms));
        Row {
            what: format!("GET by key over HTTP, random among {keys} live keys of 200 B, beside among {}", KEYS[0]),
            ours: rate(loads),
            peer: fewest.clone(),
            unit: "req/s".into(),
            note: format!("p50 {p50:.2} ms, p99 {p99:.2} ms; wanted >= 0.83, a cost of at most 1.2 x"),
        }
    };
    Ok(KEYS.into_iter().zip(&loads).map(row).collect())
}

fn config() -> String {
    let topics = KEYS.map(|n| format!("    keys-{n}: {{ cluster: main, bootstrap: true, create: {{ partitions: 1 }} }}\n"));
    let fetch = |n| format!("fetch: {{ topic: keys-{n}, filters: [{{ key: '${{params.id}}' }}] }}");
    let routes = KEYS.map(|n| format!("  - {{ match: 'GET /keys-{n}/{{id}}', {} }}\n", fetch(n)));
    format!(
        "listeners: {{ public: {{ address: 127.0.0.1:0 }} }}\nadmin: {{ address: 127.0.0.1:0 }}\nlog: {{ level: warn, access: false }}\n\
         clusters: {{ main: {{ bootstrap.servers: embedded }} }}\ncache:\n  directory: ./data\n  topics:\n{}routes:\n{}",
        topics.concat(),
        routes.concat()
    )
}

fn get_random(bench: &Bench, gateway: &Gateway, keys: u64) -> Result<Load> {
    let script = tempfile::Builder::new().suffix(".lua").tempfile()?;
    let lua = format!(
        "math.randomseed(os.time())\nrequest = function() return wrk.format(\"GET\", \
         string.format(\"/keys-{keys}/%016d\", math.random(0, {}))) end\n",
        keys - 1
    );
    fs::write(script.path(), lua)?;
    get_with(bench, gateway.address(), script.path())
}

fn program(bench: &Bench) -> Result<PathBuf> {
    build(&["--profile", bench.profile, "--package", "message-cache", "--example", "cache-bench"])?;
    Ok(bench.binaries.join("examples/cache-bench"))
}

fn run(command: &mut Command) -> Result<String> {
    let name = Path::new(command.get_program()).display().to_string();
    let output = command.output().map_err(Error::doing(&name))?;
    if !output.status.success() {
        return Err(Error::new(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A row as `cache-bench` prints it.
fn row(line: &str) -> Option<Row> {
    let json: Value = serde_json::from_str(line).ok()?;
    let numbers = |name: &str| json[name].as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<_>>>();
    let text = |name: &str| json[name].as_str().map(str::to_owned);
    Some(Row {
        what: text("what")?,
        ours: numbers("ours")?,
        peer: numbers("peer")?,
        unit: text("unit")?.into(),
        note: text("note")?,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn rows_are_understood() {
        let row = super::row(r#"{"what":"w","ours":[1.0,2.5],"peer":[],"unit":"ns","note":"n"}"#).expect("a row");
        assert_eq!((row.what.as_str(), row.ours.as_slice(), row.peer.len(), &*row.unit), ("w", &[1.0, 2.5][..], 0, "ns"));
        assert!(super::row(r#"{"what":"w","ours":["1"],"peer":[],"unit":"ns","note":"n"}"#).is_none());
    }
}
