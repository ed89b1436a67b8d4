//! `test`: one broker, one build, every test; and nothing left out without a word.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Args;
use testkit::{Broker, BrokerOptions, Error, Result};

use crate::cargo::{build, cargo, output};
use crate::tools::{CURL, JAVA, KCAT, MAVEN, PYTHON, need};

#[derive(Args)]
pub struct TestArgs {
    /// Do without Kafka: run the rest, and say what was left out.
    #[arg(long)]
    no_kafka: bool,
    /// Cargo features, such as `tidegate/gssapi`.
    #[arg(long, value_name = "FEATURES")]
    features: Option<String>,
    /// Only this package's tests.
    #[arg(long, short, value_name = "PACKAGE")]
    package: Option<String>,
    /// Only tests whose name contains this text.
    filter: Option<String>,
}

/// Every test of the workspace.
pub fn test(args: &TestArgs) -> Result<ExitCode> {
    let started = Instant::now();
    if args.no_kafka {
        need(&[CURL, PYTHON])?;
    } else {
        need(&[JAVA, MAVEN, KCAT, CURL, PYTHON])?;
    }
    let features: Vec<&str> = args.features.iter().flat_map(|f| ["--features", f]).collect();
    // All targets in one go: the binary under test is then built with the very features that the tests unify, and nothing twice.
    build(&[&["--workspace", "--all-targets"], features.as_slice()].concat())?;

    let notes = output("debug")?.with_file_name("left-out.txt");
    let _ = fs::remove_file(&notes);
    let mut command = cargo();
    command.args(["test", "--no-fail-fast"]);
    match &args.package {
        // Features name members of the workspace, and one member alone may not know them.
        Some(package) => command.args(["--package", package]),
        None => command.arg("--workspace").args(&features),
    };
    if let Some(filter) = &args.filter {
        command.args(["--", filter]);
    }
    command.env("TIDEGATE_BIN", output("debug")?.join("tidegate")).env("TIDEGATE_LEFT_OUT", &notes);
    // Bound to a name: the broker lives until the tests have ended.
    let _broker = if args.no_kafka {
        command.env("TIDEGATE_NO_KAFKA", "1").env_remove("KAFKA_BOOTSTRAP_SERVERS");
        None
    } else {
        provide_kafka(&mut command)?
    };
    let tally = run(&mut command)?;
    println!("{} passed, {} failed, {} ignored in {} s", tally.passed, tally.failed, tally.ignored, started.elapsed().as_secs());
    for what in left_out(&notes) {
        println!("left out: {what}");
    }
    if args.no_kafka {
        println!("left out: whatever needs a real Kafka (--no-kafka)");
    }
    if tally.passed == 0 && tally.success {
        return Err(Error::new("no test ran: does the filter match one?"));
    }
    Ok(if tally.success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Points `command` at the cluster that the environment names, or at a broker of its own.
fn provide_kafka(command: &mut Command) -> Result<Option<Broker>> {
    command.env_remove("TIDEGATE_NO_KAFKA");
    if let Some(servers) = std::env::var("KAFKA_BOOTSTRAP_SERVERS").ok().filter(|s| !s.is_empty()) {
        println!("using the Kafka at {servers} (KAFKA_BOOTSTRAP_SERVERS)");
        return Ok(None);
    }
    let quick = [("log.cleaner.backoff.ms", "500"), ("log.retention.check.interval.ms", "1000")];
    let options =
        BrokerOptions { properties: quick.map(|(name, value)| (name.into(), value.into())).to_vec(), ..BrokerOptions::default() };
    let broker = Broker::start(options)?;
    command.env("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap());
    println!("started Apache Kafka {} at {}", testkit::KAFKA_VERSION, broker.bootstrap());
    Ok(Some(broker))
}

fn left_out(notes: &PathBuf) -> BTreeSet<String> {
    // No file means that nothing was left out.
    fs::read_to_string(notes).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// What `cargo test` came to.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    success: bool,
}

/// Runs `cargo test`, shows one line per test program, and the whole output of those that failed.
fn run(command: &mut Command) -> Result<Tally> {
    // One pipe for both streams: cargo names the program on one, the program's tests speak on the other.
    let (reader, writer) = std::io::pipe()?;
    let mut child = command.stdout(writer.try_clone()?).stderr(writer).spawn().map_err(Error::doing("cannot run cargo test"))?;
    // The command holds the writing end too, and the pipe would never end.
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut tally = Tally::default();
    let mut block = Vec::new();
    let mut name = String::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        if let Some(program) = program(&line) {
            print_block(&mut block, "");
            name = program.to_owned();
        } else if let Some(counts) = counts(&line) {
            tally.passed += counts.passed;
            tally.failed += counts.failed;
            tally.ignored += counts.ignored;
            if counts.success {
                block.clear();
                if counts.passed + counts.ignored > 0 {
                    println!("ok      {name}: {} passed", counts.passed);
                }
            } else {
                print_block(&mut block, &format!("FAILED  {name}: {} failed, {} passed", counts.failed, counts.passed));
            }
        } else {
            block.push(line);
        }
    }
    tally.success = child.wait()?.success();
    // What follows the last program: a test process that died, or cargo's own list of failures.
    print_block(&mut block, "");
    Ok(tally)
}

/// Shows what was kept back, without the lines of tests that passed.
fn print_block(block: &mut Vec<String>, title: &str) {
    if !title.is_empty() {
        println!("{title}");
    }
    for line in block.drain(..).filter(|line| !line.trim().is_empty() && !line.ends_with("... ok") && !is_progress(line)) {
        println!("{line}");
    }
}

fn is_progress(line: &str) -> bool {
    let line = line.trim_start();
    ["Compiling ", "Finished ", "Blocking ", "Fresh ", "Downloading ", "Downloaded ", "running "]
        .iter()
        .any(|p| line.starts_with(p))
}

/// The program of cargo's line `     Running tests/items.rs (target/debug/deps/items-0123)`, or `   Doc-tests NAME`.
fn program(line: &str) -> Option<&str> {
    let line = line.trim_start();
    if let Some(package) = line.strip_prefix("Doc-tests ") {
        return Some(package);
    }
    let file = Path::new(line.strip_prefix("Running ")?.split_once('(')?.1.trim_end_matches(')')).file_name()?.to_str()?;
    // Without Cargo's hash: `items-0123` is `items`.
    Some(file.rsplit_once('-').map_or(file, |(name, _)| name))
}

/// The line with which a test program ends.
fn counts(line: &str) -> Option<Tally> {
    let rest = line.strip_prefix("test result: ")?;
    let number =
        |what: &str| rest.split(['.', ';']).find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok()).unwrap_or(0);
    Some(Tally {
        passed: number("passed"),
        failed: number("failed"),
        ignored: number("ignored"),
        success: rest.starts_with("ok"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_cargo_test_are_understood() {
        let line = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(counts(line), Some(Tally { passed: 12, failed: 0, ignored: 1, success: true }));
        let line = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(counts(line), Some(Tally { passed: 1, failed: 2, ignored: 0, success: false }));
        assert_eq!(counts("test a ... ok"), None);
        for (line, expected) in [
            ("     Running tests/items.rs (target/debug/deps/items-3f77)", Some("items")),
            ("     Running unittests src/lib.rs (target/debug/deps/message_cache-a1)", Some("message_cache")),
            ("   Doc-tests edge", Some("edge")),
            ("running 3 tests", None),
        ] {
            assert_eq!(program(line), expected, "{line}");
        }
    }
}
