//! One real Apache Kafka node (KRaft, broker and controller in one process) that belongs to a test.

use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::process::spawn;
use crate::tools::find_tool;
use crate::{Error, Process, Result, free_ports, jars, poll_until, probe};

/// A cold JVM on a busy two-core machine needs up to 20 s.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// A controlled shutdown writes what is in memory; more than this means that it hangs.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Free ports can be taken by somebody else between the look and the bind.
const START_ATTEMPTS: usize = 3;
/// Serial GC and the quick compiler only: the JVM starts faster and leaves the cores to what is being tested.
const SMALL_HEAP: &[&str] = &["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
const TOOL_HEAP: &[&str] = &["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
/// Of one among several on the same machine.
const CLUSTER_HEAP: &[&str] = &["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
/// As Kafka's own start script has it, but for the heap.
const FULL_HEAP: &[&str] = &["-Xms512m", "-Xmx1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"];
/// Bytes of the broker's log that an error shows.
const LOG_TAIL_BYTES: usize = 4_000;

/// What a test wants different from a plain broker.
#[derive(Debug, Default, Clone)]
pub struct BrokerOptions {
    /// Added to `server.properties`; they win over the defaults.
    pub properties: Vec<(String, String)>,
    /// Let the JVM compile fully, for benchmarks: a broker that is the bottleneck makes every ratio look good. Tests start faster
    /// without.
    pub throughput: bool,
}

/// A broker; stopped and removed when dropped.
#[derive(Debug)]
pub struct Broker {
    dir: TempDir,
    libs: PathBuf,
    address: SocketAddr,
    bootstrap: String,
    jvm: &'static [&'static str],
    process: Option<Process>,
}

impl Broker {
    /// Starts a fresh broker on a free port of 127.0.0.1 and returns when it serves requests.
    pub fn start(options: BrokerOptions) -> Result<Self> {
        let libs = jars::libs()?;
        attempt(|| Self::start_once(&libs, &options))
    }

    /// Starts nodes that are one cluster, each of them broker and controller, and returns when all serve requests. Kafka's internal
    /// topics have a replica on each.
    pub fn start_cluster(nodes: usize, options: BrokerOptions) -> Result<Vec<Self>> {
        let libs = jars::libs()?;
        attempt(|| Self::start_cluster_once(&libs, nodes, &options))
    }

    /// `127.0.0.1:PORT`, the same for the whole life of this value.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Shuts down in order (SIGTERM), as an operator does.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        process.terminate();
        process.wait(STOP_TIMEOUT).map(drop)
    }

    /// SIGKILL: the broker says good-bye to nobody.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
        }
    }

    /// Starts again on the same port and directory, after [`Broker::stop`] or [`Broker::kill9`]; a running one is stopped first.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.launch()
    }

    /// Runs one of Kafka's own tools (a class such as `org.apache.kafka.tools.TopicCommand`) against this broker; yields what it
    /// printed. `--bootstrap-server` is supplied.
    pub fn tool(&self, class: &str, args: &[&str]) -> Result<String> {
        run_tool(self.dir.path(), &self.libs, &self.bootstrap, class, args)
    }

    /// Creates a topic with Kafka's TopicCommand; `config` are `key=value` texts.
    pub fn create_topic(&self, name: &str, partitions: u32, config: &[&str]) -> Result<()> {
        let partitions = partitions.to_string();
        let mut args = vec!["--create", "--topic", name, "--partitions", &partitions, "--replication-factor", "1"];
        for pair in config {
            args.extend(["--config", pair]);
        }
        self.tool("org.apache.kafka.tools.TopicCommand", &args).map(drop)
    }

    fn start_once(libs: &Path, options: &BrokerOptions) -> Result<Self> {
        let ports = free_ports(2)?;
        let jvm = if options.throughput { FULL_HEAP } else { SMALL_HEAP };
        let mut broker = Self::format(libs, ports[0], ports[1], options, &cluster_id()?, jvm)?;
        broker.launch()?;
        Ok(broker)
    }

    fn start_cluster_once(libs: &Path, nodes: usize, options: &BrokerOptions) -> Result<Vec<Self>> {
        let (ports, id) = (free_ports(2 * nodes)?, cluster_id()?);
        let (ports, controllers) = ports.split_at(nodes);
        let format = |(at, (port, controller)): (usize, (&u16, &u16))| {
            let mut options = options.clone();
            options.properties.splice(0..0, membership(at + 1, controllers));
            Self::format(libs, *port, *controller, &options, &id, CLUSTER_HEAP)
        };
        let mut brokers: Vec<Self> = ports.iter().zip(controllers).enumerate().map(format).collect::<Result<_>>()?;
        // None of them serves before most of them run.
        brokers.iter_mut().try_for_each(Self::begin)?;
        brokers.iter_mut().try_for_each(Self::wait_serving)?;
        Ok(brokers)
    }

    fn format(
        libs: &Path,
        port: u16,
        controller: u16,
        options: &BrokerOptions,
        cluster: &str,
        jvm: &'static [&'static str],
    ) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("tidegate-kafka-").tempdir()?;
        fs::write(dir.path().join("log4j2.yaml"), include_str!("../templates/log4j2.yaml"))?;
        fs::write(dir.path().join("server.properties"), properties(dir.path(), port, controller, options))?;
        let format = ["format", "-t", cluster, "-c", "server.properties"];
        printed("formatting", &java(dir.path(), libs, TOOL_HEAP, "kafka.tools.StorageTool", &format)?)?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Ok(Self { dir, libs: libs.to_path_buf(), address, bootstrap: address.to_string(), jvm, process: None })
    }

    fn launch(&mut self) -> Result<()> {
        self.begin()?;
        self.wait_serving()
    }

    fn begin(&mut self) -> Result<()> {
        let mut command = java_command(self.dir.path(), &self.libs, self.jvm, "kafka.Kafka", &["server.properties"])?;
        let out = File::options().append(true).create(true).open(self.log())?;
        command.stderr(out.try_clone()?).stdout(out).stdin(Stdio::null());
        self.process = Some(Process::unheard("the Kafka broker", command)?);
        Ok(())
    }

    fn wait_serving(&mut self) -> Result<()> {
        let address = self.address;
        let Some(process) = &mut self.process else { return Err(Error::new("the Kafka broker was not started")) };
        let ready = poll_until(START_TIMEOUT, || match process.ended() {
            Some(status) => Some(Err(status.to_string())),
            None => probe::brokers(address).is_ok_and(|count| count > 0).then_some(Ok(())),
        });
        let fault = match ready {
            Some(Ok(())) => return Ok(()),
            Some(Err(status)) => format!("the Kafka broker ended ({status})"),
            None => format!("the Kafka broker is not ready after {START_TIMEOUT:?}"),
        };
        self.process = None;
        Err(Error::new(format!("{fault}; the end of its log:\n{}", tail(&self.log()))))
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("broker.log")
    }
}

/// Tries again when a port was taken by somebody else.
fn attempt<T>(start: impl Fn() -> Result<T>) -> Result<T> {
    let mut failure = None;
    for _ in 0..START_ATTEMPTS {
        match start() {
            Err(cause) if cause.to_string().contains("Address already in use") => failure = Some(cause),
            started => return started,
        }
    }
    Err(failure.unwrap_or_else(|| Error::new("no attempt to start a broker was made")))
}

/// What makes a node one of several, by the ports of all their controllers.
fn membership(id: usize, controllers: &[u16]) -> Vec<(String, String)> {
    let voters: Vec<String> = (1..).zip(controllers).map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
    let nodes = controllers.len().to_string();
    let mut all = vec![("node.id".to_owned(), id.to_string()), ("controller.quorum.voters".to_owned(), voters.join(","))];
    let replicated = ["offsets.topic", "transaction.state.log", "share.coordinator.state.topic"];
    all.extend(replicated.map(|topic| (format!("{topic}.replication.factor"), nodes.clone())));
    all
}

/// As [`Broker::tool`], against any broker, such as the one that tests share.
pub fn kafka_tool(bootstrap: &str, class: &str, args: &[&str]) -> Result<String> {
    let dir = tempfile::Builder::new().prefix("tidegate-tool-").tempdir()?;
    fs::write(dir.path().join("log4j2.yaml"), include_str!("../templates/log4j2.yaml"))?;
    run_tool(dir.path(), &jars::libs()?, bootstrap, class, args)
}

fn run_tool(dir: &Path, libs: &Path, bootstrap: &str, class: &str, args: &[&str]) -> Result<String> {
    let args = [&["--bootstrap-server", bootstrap], args].concat();
    printed(class, &java(dir, libs, TOOL_HEAP, class, &args)?)
}

/// `server.properties` for a node that is alone in its cluster, unless the options say otherwise.
fn properties(dir: &Path, port: u16, controller: u16, options: &BrokerOptions) -> String {
    let logs = dir.join("logs");
    let mut text = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\ncontroller.listener.names=CONTROLLER\n\
         log.dirs={}\n",
        logs.display()
    );
    let alone = [
        ("offsets.topic.replication.factor", "1"),
        ("offsets.topic.num.partitions", "4"),
        ("transaction.state.log.replication.factor", "1"),
        ("transaction.state.log.min.isr", "1"),
        ("transaction.state.log.num.partitions", "4"),
        ("share.coordinator.state.topic.replication.factor", "1"),
        ("share.coordinator.state.topic.min.isr", "1"),
        ("group.initial.rebalance.delay.ms", "0"),
        ("auto.create.topics.enable", "false"),
    ];
    let wanted = options.properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // Java's Properties keeps the last value of a key.
    for (name, value) in alone.into_iter().chain(wanted) {
        text.push_str(&format!("{name}={value}\n"));
    }
    text
}

/// A cluster id as Kafka's `Uuid` writes it: 16 random bytes in base64url without padding, no leading `-`.
fn cluster_id() -> Result<String> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    // A tool would take a leading `-` for an option; 0x7f keeps the first character among the first half of the alphabet.
    random[0] &= 0x7f;
    let bits = random.iter().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    // 22 characters hold 132 bits: the last one carries 2 bits of value and 4 of zero.
    let sextet = |i: u32| if i < 21 { bits >> (122 - 6 * i) & 63 } else { bits << 4 & 63 };
    Ok((0..22).map(|i| char::from(ALPHABET[sextet(i) as usize])).collect())
}

fn java_command(dir: &Path, libs: &Path, jvm: &[&str], class: &str, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(find_tool("java")?);
    command.args(jvm).arg("-Dlog4j2.configurationFile=log4j2.yaml");
    command.arg("-cp").arg(libs.join("*")).arg(class).args(args).current_dir(dir);
    Ok(command)
}

fn java(dir: &Path, libs: &Path, jvm: &[&str], class: &str, args: &[&str]) -> Result<Output> {
    let mut command = java_command(dir, libs, jvm, class, args)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(spawn(command)?.wait_with_output()?)
}

fn printed(what: &str, output: &Output) -> Result<String> {
    let out = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(out.into_owned());
    }
    Err(Error::new(format!("{what} failed ({}):\n{out}{}", output.status, String::from_utf8_lossy(&output.stderr))))
}

fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ids_are_what_kafka_accepts() {
        for _ in 0..100 {
            let id = cluster_id().expect("random bytes");
            assert_eq!(id.len(), 22);
            assert!(!id.starts_with('-'), "{id}");
            assert!("AQgw".contains(&id[21..]), "{id}: the last character holds two bits");
        }
    }

    #[test]
    fn nodes_of_a_cluster_know_each_other() {
        let of = |id| membership(id, &[7, 8]).into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        assert_eq!(of(2)[..2], ["node.id=2", "controller.quorum.voters=1@127.0.0.1:7,2@127.0.0.1:8"]);
        assert!(of(1).contains(&"offsets.topic.replication.factor=2".to_owned()), "{:?}", of(1));
    }

    #[test]
    fn wanted_properties_come_last() {
        let options = BrokerOptions { properties: vec![("message.max.bytes".into(), "1".into())], ..BrokerOptions::default() };
        let text = properties(Path::new("/x"), 1, 2, &options);
        assert!(text.contains("listeners=PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2\n"), "{text}");
        assert!(text.ends_with("message.max.bytes=1\n"), "{text}");
    }
}
