//! Load by `wrk`, and the baseline servers that stand beside the gateway.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::{Error, Process, Result, poll_until};

use super::{Bench, wrk};

const CONNECTIONS: u32 = 64;
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// What wrk saw in one round.
#[derive(Debug, PartialEq)]
pub struct Load {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// A server of the crate `bench`; killed when dropped.
pub struct Baseline {
    pub address: SocketAddr,
    process: Process,
}

impl Baseline {
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

pub fn bare_hyper(bench: &Bench) -> Result<Baseline> {
    bare_hyper_with(bench, &[])
}

pub fn bare_hyper_with(bench: &Bench, args: &[&str]) -> Result<Baseline> {
    let mut command = Command::new(bench.binaries.join("bare-hyper"));
    command.args(args).stdin(Stdio::null());
    let process = Process::start("bare-hyper", command)?;
    let address = poll_until(LISTENS_WITHIN, || {
        process.stdout_line(|line| line.strip_prefix("listening public http://").and_then(|a| a.parse().ok()))
    });
    let address = address.ok_or_else(|| Error::new(format!("bare-hyper does not listen: {}", process.stderr())))?;
    Ok(Baseline { address, process })
}

/// `GET path` from 64 connections.
pub fn get(bench: &Bench, address: SocketAddr, path: &str) -> Result<Load> {
    run(bench, address, path, None, CONNECTIONS)
}

/// What a script of wrk asks for, from 64 connections.
pub fn get_with(bench: &Bench, address: SocketAddr, script: &std::path::Path) -> Result<Load> {
    run(bench, address, "/", Some(script), CONNECTIONS)
}

/// `POST path` of `bytes` bytes from 64 connections.
pub fn post(bench: &Bench, address: SocketAddr, path: &str, bytes: usize) -> Result<Load> {
    let script = tempfile::Builder::new().suffix(".lua").tempfile()?;
    let lua = format!(
        "wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", {bytes})\nwrk.headers[\"content-type\"] = \"application/octet-stream\"\n"
    );
    fs::write(script.path(), lua)?;
    run(bench, address, path, Some(script.path()), CONNECTIONS)
}

/// `POST path` of `bytes` bytes, each with an idempotency key of its own that begins with `keys`, if given.
pub fn post_keyed(
    bench: &Bench,
    address: SocketAddr,
    path: &str,
    bytes: usize,
    keys: Option<&str>,
    connections: u32,
) -> Result<Load> {
    let script = tempfile::Builder::new().suffix(".lua").tempfile()?;
    let key = keys.map_or(String::new(), |keys| format!("[\"idempotency-key\"] = \"{keys}-\" .. n"));
    let lua = format!(
        "local n = 0\nlocal body = string.rep(\"x\", {bytes})\n\
         request = function()\n  n = n + 1\n  return wrk.format(\"POST\", \"{path}\", {{ {key} }}, body)\nend\n"
    );
    fs::write(script.path(), lua)?;
    run(bench, address, path, Some(script.path()), connections)
}

fn run(bench: &Bench, address: SocketAddr, path: &str, script: Option<&std::path::Path>, connections: u32) -> Result<Load> {
    let mut command = Command::new(wrk()?);
    command.args(["-t1", "--latency"]).arg(format!("-c{connections}")).arg(format!("-d{}s", bench.seconds));
    if let Some(script) = script {
        command.arg("-s").arg(script);
    }
    let output = command.arg(format!("http://{address}{path}")).output().map_err(Error::doing("wrk"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text)
        .map_err(|fault| Error::new(format!("{fault}; wrk on {path} said:\n{text}{}", String::from_utf8_lossy(&output.stderr))))
}

/// Figures count only when every answer was a success: refusals are quick.
fn parse(text: &str) -> std::result::Result<Load, String> {
    if let Some(line) = text.lines().find(|l| l.contains("Non-2xx") || l.contains("Socket errors")) {
        return Err(format!("not every request was answered with success ({})", line.trim()));
    }
    let after = |label: &str| text.lines().find_map(|line| line.trim_start().strip_prefix(label)).map(str::trim);
    let number = |label: &str| after(label).ok_or_else(|| format!("no line {label}"));
    let per_second = number("Requests/sec:")?.parse().map_err(|_| "no number of requests")?;
    let ms = |label| number(label).and_then(|t| milliseconds(t).ok_or_else(|| format!("no time in {t}")));
    Ok(Load { per_second, p50_ms: ms("50%")?, p99_ms: ms("99%")? })
}

fn milliseconds(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let factor = match &text[unit..] {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1000.0,
        "m" => 60_000.0,
        _ => return None,
    };
    text[..unit].parse::<f64>().ok().map(|value| value * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_wrk_is_understood() {
        let text = "  Latency Distribution\n     50%  301.00us\n     75%  400.00us\n     99%    1.50ms\n  10 requests in 5s\nRequests/sec:  216800.5\n";
        assert_eq!(parse(text), Ok(Load { per_second: 216_800.5, p50_ms: 0.301, p99_ms: 1.5 }));
        assert!(parse(&format!("{text}  Non-2xx or 3xx responses: 3\n")).is_err());
        assert!(parse("").is_err());
    }
}
