//! The real binary, run as a user runs it: one file, one folder, its two addresses read from what it prints.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::http::{self, Response};
use crate::{Error, Process, Result, poll_until, target_dir};

/// From start to listening; a debug build with many segments to recover on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// From listening to ready: with Kafka this includes finding it and fetching what a topic holds.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// From SIGTERM to the end: the default drain deadline (30 s) and room for a slow machine.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// For verbs that end by themselves.
const RUN_TIMEOUT: Duration = Duration::from_secs(60);

/// How the binary is to be started.
#[derive(Debug, Clone)]
pub struct GatewayBuilder {
    config: String,
    dir: Option<PathBuf>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    binary: Option<PathBuf>,
    wait_ready: bool,
}

/// A running gateway; killed when dropped, its folder removed unless the builder named one.
#[derive(Debug)]
pub struct Gateway {
    builder: GatewayBuilder,
    folder: Folder,
    process: Process,
    addresses: BTreeMap<String, SocketAddr>,
}

/// A run that came to its end.
#[derive(Debug)]
pub struct Exited {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Debug)]
enum Folder {
    Own(TempDir),
    Given(PathBuf),
}

impl GatewayBuilder {
    /// The text of `tidegate.yaml`. Addresses should use port 0.
    pub fn config(mut self, yaml: impl Into<String>) -> Self {
        self.config = yaml.into();
        self
    }

    /// The folder of the config file and, with a relative `cache.directory`, of the data. Default: a temporary one.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// One more argument after the file name.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// A variable of the binary's environment.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Another binary than the one under test: benchmarks run the release build.
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// `start` returns as soon as it listens, for tests of what happens before it is ready.
    pub fn without_ready(mut self) -> Self {
        self.wait_ready = false;
        self
    }

    /// Runs `tidegate run FILE` until it listens and is ready.
    pub fn start(self) -> Result<Gateway> {
        let folder = self.folder()?;
        let process = Process::start("tidegate", self.command(folder.path(), "run", &self.args)?)?;
        let mut gateway = Gateway { builder: self, folder, process, addresses: BTreeMap::new() };
        gateway.wait_started()?;
        Ok(gateway)
    }

    /// Runs `tidegate VERB FILE ARGS...` to its end; a verb may be two words (`topic consume`).
    pub fn run(self, verb: &str) -> Result<Exited> {
        let folder = self.folder()?;
        let command = self.command(folder.path(), verb, &self.args)?;
        finish(command, RUN_TIMEOUT)
    }

    fn folder(&self) -> Result<Folder> {
        Ok(match &self.dir {
            Some(dir) => Folder::Given(dir.clone()),
            None => Folder::Own(tempfile::Builder::new().prefix("tidegate-test-").tempdir()?),
        })
    }

    fn command(&self, dir: &Path, verb: &str, args: &[String]) -> Result<Command> {
        let file = dir.join("tidegate.yaml");
        std::fs::write(&file, &self.config).map_err(Error::doing(format!("cannot write {}", file.display())))?;
        self.invocation(dir, verb, args)
    }

    /// With the file that is there, which others may be reading.
    fn invocation(&self, dir: &Path, verb: &str, args: &[String]) -> Result<Command> {
        let mut command = Command::new(self.binary.clone().map_or_else(binary, Ok)?);
        command.args(verb.split(' ')).arg(dir.join("tidegate.yaml")).args(args).current_dir(dir).stdin(Stdio::null());
        // What the developer's shell or the test run says must not change what a test configures.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEGATE_") || name == "KAFKA_BOOTSTRAP_SERVERS" {
                command.env_remove(name);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }
}

impl Gateway {
    pub fn builder() -> GatewayBuilder {
        GatewayBuilder { config: String::new(), dir: None, args: Vec::new(), env: Vec::new(), binary: None, wait_ready: true }
    }

    /// The address of the listener `public`.
    ///
    /// # Panics
    /// When the configuration has no listener of that name.
    pub fn address(&self) -> SocketAddr {
        self.listener("public")
    }

    /// The address of the admin listener.
    ///
    /// # Panics
    /// When the configuration switched it off.
    pub fn admin(&self) -> SocketAddr {
        self.listener("admin")
    }

    /// The address of any listener by name.
    ///
    /// # Panics
    /// When the binary printed none of that name.
    pub fn listener(&self, name: &str) -> SocketAddr {
        *self.addresses.get(name).unwrap_or_else(|| panic!("no listener {name} among {:?}", self.addresses))
    }

    /// The URL of `path` on the public listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// Where the config file lies, and relative data.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it logged (the end of it, if it was much).
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Whether `/readyz` says 200 right now.
    pub fn ready(&self) -> bool {
        self.readyz().is_ok_and(|answer| answer.status == 200)
    }

    /// The answer of `/readyz`.
    pub fn readyz(&self) -> std::io::Result<Response> {
        http::get(self.admin(), "/readyz")
    }

    /// The sum of all samples of one metric, over all labels; `None` when there is none.
    pub fn metric(&self, name: &str) -> Option<f64> {
        metric(&http::get(self.admin(), "/metrics").ok()?.text(), name)
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// SIGTERM, then waits for the end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.terminate();
        self.process.wait(STOP_TIMEOUT)
    }

    /// Starts again with the same file and data; what runs is asked to end first. The addresses may change.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.ended().is_none() {
            self.terminate()?;
        }
        let command = self.builder.command(self.folder.path(), "run", &self.builder.args)?;
        self.process = Process::start("tidegate", command)?;
        self.wait_started()
    }

    /// Runs another verb on the same file, to its end.
    pub fn verb(&self, verb: &str, args: &[&str]) -> Result<Exited> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        finish(self.builder.command(self.folder.path(), verb, &args)?, RUN_TIMEOUT)
    }

    /// Makes commands on the same file: verb and arguments, without input and output. It goes where this value does not.
    pub(crate) fn verbs(&self) -> impl Fn(&str, &[&str]) -> Result<Command> + Send + use<> {
        let (builder, dir) = (self.builder.clone(), self.folder.path().to_path_buf());
        move |verb, args| {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            builder.invocation(&dir, verb, &args)
        }
    }

    /// Waits until `/readyz` says 200.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = READY_TIMEOUT;
        let state = poll_until(deadline, || match self.process.ended() {
            Some(status) => Some(Err(self.fault(&format!("ended ({status}) before it was ready")))),
            None => self.ready().then_some(Ok(())),
        });
        state.unwrap_or_else(|| {
            let says = self.readyz().map(|answer| answer.text()).unwrap_or_else(|cause| cause.to_string());
            Err(self.fault(&format!("is not ready after {deadline:?}; /readyz: {says}")))
        })
    }

    /// The binary prints every listener in one go; the admin one is the last to be waited for, unless it is switched off.
    fn wait_started(&mut self) -> Result<()> {
        let admin_off = self.builder.config.contains("address: off");
        let state = poll_until(START_TIMEOUT, || {
            let listening: BTreeMap<_, _> = self.process.stdout().lines().filter_map(listening).collect();
            if listening.contains_key("public") && (admin_off || listening.contains_key("admin")) {
                return Some(Ok(listening));
            }
            self.process.ended().map(Err)
        });
        match state {
            Some(Ok(listening)) => self.addresses = listening,
            Some(Err(status)) => return Err(self.fault(&format!("ended ({status}) before it listened"))),
            None => return Err(self.fault(&format!("does not listen after {START_TIMEOUT:?}"))),
        }
        if self.builder.wait_ready && !admin_off { self.wait_ready() } else { Ok(()) }
    }

    fn fault(&self, what: &str) -> Error {
        Error::new(format!("tidegate {what}\nstdout:\n{}stderr:\n{}", self.process.stdout(), self.process.stderr()))
    }
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Own(dir) => dir.path(),
            Self::Given(dir) => dir,
        }
    }
}

/// Runs a command to its end. Its output goes through files: it may be long, and none of it may be forgotten.
fn finish(mut command: Command, within: Duration) -> Result<Exited> {
    let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdout(out.try_clone()?).stderr(err.try_clone()?);
    let status = Process::unheard("tidegate", command)?.wait(within)?;
    Ok(Exited { code: status.code(), stdout: whole(&mut out)?, stderr: whole(&mut err)? })
}

fn whole(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `TIDEGATE_BIN`, else the one that Cargo built beside the running test.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("TIDEGATE_BIN") {
        Some(path) => PathBuf::from(path),
        None => target_dir()?.join("tidegate"),
    };
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::new(format!("{} is not there: run `cargo xtask test`, or `cargo build -p tidegate` before", path.display())))
}

/// `listening NAME http://ADDRESS` as printed for every listener.
fn listening(line: &str) -> Option<(String, SocketAddr)> {
    let (name, url) = line.strip_prefix("listening ")?.split_once(' ')?;
    let address = url.strip_prefix("http://")?.trim_end_matches('/').parse().ok()?;
    Some((name.to_owned(), address))
}

/// Sums the samples called `name` in Prometheus text. OpenMetrics appends `_total` to counters by itself, so both forms are found.
fn metric(text: &str, name: &str) -> Option<f64> {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.as_bytes().first()? {
            b' ' => rest,
            b'{' => &rest[rest.rfind('}')? + 1..],
            _ => return None,
        };
        value.split_whitespace().next()?.parse::<f64>().ok()
    });
    samples.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_from_lines() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let lines = [
            ("listening public http://127.0.0.1:81", Some(("public".to_owned(), at(81)))),
            ("listening admin http://127.0.0.1:82/", Some(("admin".to_owned(), at(82)))),
            ("listening public", None),
            ("PUT /items/{id}", None),
        ];
        for (line, expected) in lines {
            assert_eq!(listening(line), expected, "{line}");
        }
    }

    #[test]
    fn metrics_are_summed_over_labels() {
        let text = "# HELP a_total x\na_total{t=\"x} 9\"} 2\na_total{t=\"y\"} 3 1700000000\na_totally 5\nb 7\n";
        for (name, expected) in [("a_total", Some(5.0)), ("b", Some(7.0)), ("c", None)] {
            assert_eq!(metric(text, name), expected, "{name}");
        }
    }
}
