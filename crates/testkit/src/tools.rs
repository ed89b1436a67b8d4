//! Other people's programs, run to their end.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::process::spawn;
use crate::{Error, Process, Result};

/// The full path of `name` on `PATH`, or an error that says how to get it.
pub fn find_tool(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| {
        Error::new(format!("{name} is not on PATH: `cargo xtask test` installs it where it may, or names the command"))
    })
}

/// Runs `kcat` with `stdin` and yields its standard output; an exit code other than 0 is an error with what it said.
pub fn kcat(args: &[&str], stdin: &[u8]) -> Result<Vec<u8>> {
    let output = run("kcat", args, stdin)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Error::new(format!("kcat {} failed ({}): {}", args.join(" "), output.status, String::from_utf8_lossy(&output.stderr))))
}

/// A `kcat` that keeps running, with a pipe to its standard input: for transactions that stay open.
pub fn kcat_process(args: &[&str]) -> Result<Process> {
    let mut command = Command::new(find_tool("kcat")?);
    command.args(args).stdin(Stdio::piped());
    Process::start("kcat", command)
}

/// Runs `curl -sS` and yields everything: what a test asserts may be the exit code.
pub fn curl(args: &[&str]) -> Result<Output> {
    let seconds = Duration::from_secs(60).as_secs().to_string();
    run("curl", &[&["-sS", "--max-time", &seconds], args].concat(), b"")
}

/// Runs a program to its end with `stdin` as its input.
pub(crate) fn run(name: &str, args: &[&str], stdin: &[u8]) -> Result<Output> {
    let mut command = Command::new(find_tool(name)?);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command).map_err(Error::doing(format!("cannot start {name}")))?;
    let input = child.stdin.take();
    std::thread::scope(|scope| {
        // On its own thread: a program that answers while it reads would block with both pipes full.
        scope.spawn(move || input.map(|mut pipe| pipe.write_all(stdin)));
        child.wait_with_output().map_err(Error::doing(name))
    })
}
