//! Three real brokers whose leaders move, die and are restarted while records are written and read: no reader stalls, nothing that
//! was acknowledged is lost, nothing wrong is served.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use integration::{Cluster, Records};
use serde_json::{Value, json};
use testkit::http::{self, Response};
use testkit::{Broker, BrokerOptions, Gateway, kcat, poll_until, without_kafka};

const REASSIGN: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
const ELECT: &str = "org.apache.kafka.tools.LeaderElectionCommand";
const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const PARTITIONS: usize = 3;
const PRODUCERS: usize = 3;
const KEYS: u64 = 20;
/// Acknowledged records that must come after each move before the next.
const PROGRESS: u64 = 100;
/// From a move to records that flow again: the cluster's election (a dead broker is noticed after 3 s), back-off, and a busy
/// machine.
const MOVES_WITHIN: Duration = Duration::from_secs(60);
/// The longest that a record which was acknowledged may take to be served: as long as its partition may be without a leader.
const SERVED_WITHIN: Duration = Duration::from_secs(40);

/// The brokers, the gateway in front of them, and its topic.
struct Bed {
    brokers: Vec<Broker>,
    servers: String,
    topic: String,
    gateway: Gateway,
}

/// `None` in a run without Kafka.
fn bed() -> Option<Bed> {
    if without_kafka("leaders that move among three brokers") {
        return None;
    }
    // Leaders move when the test says so, and not by themselves; a dead broker is noticed soon.
    let quick = [
        ("auto.leader.rebalance.enable", "false"),
        ("broker.session.timeout.ms", "3000"),
        ("broker.heartbeat.interval.ms", "500"),
    ];
    let properties = quick.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let brokers = Broker::start_cluster(3, BrokerOptions { properties, ..BrokerOptions::default() }).expect("brokers");
    let servers = brokers.iter().map(Broker::bootstrap).collect::<Vec<_>>().join(",");
    let cache = "topic_refresh: 1s".to_owned();
    let records = Records { cached: String::new(), cache, ..Records::on(&Cluster::Kafka(servers.clone())) };
    let (topic, partitions) = (records.topic.clone(), PARTITIONS.to_string());
    let create = ["--create", "--topic", &topic, "--partitions", &partitions, "--replication-factor", "3"];
    let create = [&create[..], &["--config", "min.insync.replicas=2"]].concat();
    let created = poll_until(MOVES_WITHIN, || brokers[0].tool(TOPICS, &create).ok());
    assert!(created.is_some(), "no topic: {:?}", brokers[0].tool(TOPICS, &create));
    let gateway = records.builder().start().expect("the gateway starts");
    Some(Bed { brokers, servers, topic, gateway })
}

impl Bed {
    /// The partitions as the brokers tell them: leader and replicas in sync, by node.
    fn partitions(&self) -> Vec<(usize, usize)> {
        let told = kcat(&["-b", &self.servers, "-L", "-J", "-t", &self.topic, "-m", "5"], b"").unwrap_or_default();
        let told: Value = serde_json::from_slice(&told).unwrap_or_default();
        let number = |value: &Value| value.as_u64().map_or(0, |n| n as usize);
        let each = |p: &Value| (number(&p["leader"]), p["isrs"].as_array().map_or(0, Vec::len));
        told["topics"][0]["partitions"].as_array().map_or_else(Vec::new, |all| all.iter().map(each).collect())
    }

    /// Waits until all replicas of all partitions are in sync: only then does the next move leave enough of them.
    fn wait_whole(&self) {
        let is_whole = || Some(self.partitions()).filter(|all| all.len() == PARTITIONS && all.iter().all(|p| p.1 == 3));
        let whole = poll_until(MOVES_WITHIN, is_whole);
        assert!(whole.is_some(), "replicas are missing: {:?}", self.partitions());
    }

    /// Another order of replicas for each partition, the first of which, the node after its leader, then leads.
    fn move_leaders(&self) {
        let leaders: Vec<usize> = self.partitions().iter().map(|p| p.0).collect();
        let replicas = |p: usize| (0..3).map(|n| (leaders[p] + n) % 3 + 1).collect::<Vec<_>>();
        let partitions: Vec<_> =
            (0..PARTITIONS).map(|p| json!({ "topic": self.topic, "partition": p, "replicas": replicas(p) })).collect();
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), json!({ "version": 1, "partitions": partitions }).to_string()).expect("written");
        let path = file.path().display().to_string();
        self.brokers[0].tool(REASSIGN, &["--reassignment-json-file", &path, "--execute"]).expect("reassigned");
        let preferred: Vec<usize> = (0..PARTITIONS).map(|p| replicas(p)[0]).collect();
        let led = || self.partitions().iter().map(|p| p.0).collect::<Vec<_>>();
        let elect = || {
            // It fails for partitions that are led so already.
            let _ = self.brokers[0].tool(ELECT, &["--election-type", "preferred", "--all-topic-partitions"]);
            poll_until(Duration::from_secs(2), || (led() == preferred).then_some(()))
        };
        assert!(poll_until(MOVES_WITHIN, elect).is_some(), "led by {:?} and not {preferred:?}", led());
    }
}

/// What the threads share.
struct Load {
    address: SocketAddr,
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits for records that are acknowledged from now on.
    fn goes_on(&self) -> Option<()> {
        let wanted = self.acknowledged.load(Ordering::Relaxed) + PROGRESS;
        poll_until(MOVES_WITHIN, || (self.acknowledged.load(Ordering::Relaxed) >= wanted).then_some(()))
    }

    /// Writes rising numbers to keys of its own, and reads each back. Yields every number that was acknowledged, with its key.
    fn produce(&self, producer: usize) -> Vec<(String, u64)> {
        let mut acknowledged = Vec::new();
        let mut slowest = Duration::ZERO;
        for n in 0.. {
            if self.is_over() {
                break;
            }
            let key = format!("p{producer}-{}", n % KEYS);
            let path = format!("/records/{key}");
            let answer = http::put(self.address, &path, n.to_string().as_bytes()).expect("an answer");
            assert!(matches!(answer.status, 204 | 429 | 503 | 504), "{key}: {answer:?}");
            if answer.status != 204 {
                continue;
            }
            acknowledged.push((key, n));
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
            let asked = Instant::now();
            let read = poll_until(SERVED_WITHIN, || {
                let answer = http::get(self.address, &path).expect("an answer");
                // Behind what was acknowledged: it says so, and serves nothing older.
                (answer.status != 503).then_some(answer)
            });
            slowest = slowest.max(asked.elapsed());
            let read = read.unwrap_or_else(|| panic!("{path} stalls"));
            assert_eq!((read.status, read.text()), (200, n.to_string()), "{path}, {} acknowledged", acknowledged.len());
        }
        println!("producer {producer}: {} acknowledged, read back within {slowest:?}", acknowledged.len());
        acknowledged
    }

    /// Waits for each change of a key. Yields how many it saw; none may be older than one before.
    fn follow(&self, key: &str) -> usize {
        let (mut tag, mut last, mut seen) = (String::new(), -1, 0);
        while !self.is_over() {
            let headers = [("if-none-match", tag.as_str()), ("prefer", "wait=5")];
            let path = format!("/records/{key}");
            let answer = http::request(self.address, "GET", &path, &headers, b"").expect("an answer");
            assert!(matches!(answer.status, 200 | 304 | 404 | 503), "{key}: {answer:?}");
            assert!(answer.status != 404 || seen == 0, "{key} was there and is gone");
            if answer.status == 200 {
                let value: i64 = answer.text().parse().expect("a number");
                assert!(value > last, "{key}: {value} after {last}");
                (last, seen) = (value, seen + 1);
                tag = answer.header("etag").expect("an entity tag").to_owned();
            }
        }
        seen
    }
}

/// What happens to the brokers, and whether records flowed after each.
fn events(bed: &mut Bed, load: &Load) -> Vec<(String, Option<()>)> {
    let mut all = vec![("nothing".to_owned(), load.goes_on())];
    let mut note = |what: String, begun: Instant| {
        let flows = load.goes_on();
        println!("{what}: {:?}", begun.elapsed());
        all.push((what, flows));
    };
    let begun = Instant::now();
    bed.move_leaders();
    note("replicas were reassigned and leaders elected".to_owned(), begun);
    let begun = Instant::now();
    let leader = bed.partitions().first().map_or(1, |p| p.0) - 1;
    bed.brokers[leader].kill9();
    note("a leader was killed".to_owned(), begun);
    bed.brokers[leader].restart().expect("starts again");
    bed.wait_whole();
    for node in 0..bed.brokers.len() {
        let begun = Instant::now();
        bed.brokers[node].restart().expect("starts again");
        bed.wait_whole();
        note(format!("broker {node} was restarted"), begun);
    }
    all
}

#[test]
fn leaders_that_move_die_and_restart_stall_and_lose_nothing() {
    let Some(mut bed) = bed() else { return };
    bed.wait_whole();
    let (acknowledged, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let load = Load { address: bed.gateway.address(), acknowledged, stop };
    let (events, written, seen) = thread::scope(|scope| {
        let load = &load;
        let producers: Vec<_> = (0..PRODUCERS).map(|p| scope.spawn(move || load.produce(p))).collect();
        let followers: Vec<_> = (0..PRODUCERS).map(|p| scope.spawn(move || load.follow(&format!("p{p}-0")))).collect();
        // A test that fails must let its threads end.
        let events = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| events(&mut bed, load)));
        load.stop.store(true, Ordering::Relaxed);
        let written: Vec<_> = producers.into_iter().flat_map(|p| p.join().expect("a producer")).collect();
        let seen: Vec<usize> = followers.into_iter().map(|f| f.join().expect("a follower")).collect();
        (events, written, seen)
    });
    for (what, flowed) in events.unwrap_or_else(|cause| std::panic::resume_unwind(cause)) {
        assert!(flowed.is_some(), "no records flow after this: {what}\n{}", bed.gateway.stderr());
    }
    assert!(seen.iter().all(|changes| *changes > 10), "followers saw {seen:?} changes");
    agree(&mut bed, &written);
}

/// Broker, gateway and what was acknowledged agree; and so does a gateway that starts again.
fn agree(bed: &mut Bed, written: &[(String, u64)]) {
    let lag = || bed.gateway.metric("tidegate_cache_lag_records").is_some_and(|lag| lag == 0.0);
    assert!(poll_until(MOVES_WITHIN, || lag().then_some(())).is_some(), "behind: {:?}", bed.gateway.readyz());
    bed.gateway.wait_ready().expect("ready");
    assert_eq!(bed.gateway.metric("tidegate_cache_fetch_stalls_total"), Some(0.0), "{}", bed.gateway.stderr());
    let args = ["-b", &bed.servers, "-C", "-t", &bed.topic, "-o", "beginning", "-e", "-q", "-f", "%k %s\n"];
    let mut copies: BTreeMap<(String, u64), u32> = BTreeMap::new();
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    for line in String::from_utf8_lossy(&kcat(&args, b"").expect("kcat consumes")).lines() {
        let (key, value) = line.split_once(' ').expect("a key and a value");
        let value = value.parse().expect("a number");
        *copies.entry((key.to_owned(), value)).or_default() += 1;
        newest.insert(key.to_owned(), value);
    }
    for (key, value) in written {
        assert_eq!(copies.get(&(key.clone(), *value)), Some(&1), "{key}: {value} was acknowledged");
    }
    for restarted in [false, true] {
        if restarted {
            bed.gateway.restart().expect("starts again");
        }
        for (key, value) in &newest {
            let answer: Response = http::get(bed.gateway.address(), &format!("/records/{key}")).expect("an answer");
            assert_eq!((answer.status, answer.text()), (200, value.to_string()), "{key}, restarted: {restarted}");
        }
    }
    assert!(newest.len() >= PRODUCERS, "{newest:?}");
}
