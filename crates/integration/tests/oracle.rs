//! The broker as the oracle: the same records and configuration there and in the cache. Once the broker's own cleaner and retention
//! have run, both agree on the newest value of each key; what has expired is never served; nothing beyond the last stable offset is.

use std::collections::BTreeMap;
use std::io::Write;
use std::thread;
use std::time::{Duration, SystemTime};

use integration::{Cluster, Records};
use serde_json::Value;
use testkit::http::{self, Response};
use testkit::{Broker, BrokerOptions, Gateway, Process, kcat, kcat_process, poll_until, without_kafka};

/// How often the gateway looks at the topic, and at what of its own wants cleaning.
const CACHE: &str = "topic_refresh: 1s\n  housekeeping_interval: 500ms";
/// For what the broker has done to show: a few looks.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(20);
/// For the broker's cleaner or retention to have done something; both look every 200 ms, at segments that are closed.
const CLEANS_WITHIN: Duration = Duration::from_secs(60);
const KEYS: usize = 25;
const ROUNDS: usize = 6;
const ROUND_RECORDS: usize = 120;
const RETENTION_MS: u64 = 4_000;

/// A broker that cleans as fast as it can; `None` in a run without Kafka.
fn broker() -> Option<Broker> {
    if without_kafka("a real broker as the oracle") {
        return None;
    }
    let quick = [
        ("log.cleaner.backoff.ms", "200"),
        ("log.retention.check.interval.ms", "200"),
        ("log.initial.task.delay.ms", "200"),
        ("log.segment.delete.delay.ms", "100"),
    ];
    let properties = quick.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Some(Broker::start(BrokerOptions { properties, ..BrokerOptions::default() }).expect("a broker"))
}

/// A topic on the broker, and the gateway in front of it.
struct Bed {
    servers: String,
    topic: String,
    gateway: Gateway,
}

impl Bed {
    fn start(broker: &Broker, config: &[&str]) -> Self {
        let servers = broker.bootstrap().to_owned();
        let records = Records { cached: String::new(), cache: CACHE.to_owned(), ..Records::on(&Cluster::Kafka(servers.clone())) };
        broker.create_topic(&records.topic, 2, config).expect("a topic");
        let gateway = records.builder().start().expect("the gateway starts");
        Self { servers, topic: records.topic, gateway }
    }

    /// Writes `key:value` lines; a line `key:` is a tombstone.
    fn write(&self, lines: &str, more: &[&str]) {
        let args = ["-b", &self.servers, "-P", "-t", &self.topic, "-K:", "-Z"];
        kcat(&[&args, more].concat(), lines.as_bytes()).expect("kcat produces");
    }

    fn get(&self, key: &str) -> Response {
        http::get(self.gateway.address(), &format!("/records/{key}")).expect("an answer")
    }

    /// The value that is served of a key; `None` for none.
    fn served(&self, key: &str) -> Option<String> {
        let answer = self.get(key);
        assert!(matches!(answer.status, 200 | 404), "{key}: {answer:?}\n{}", self.gateway.stderr());
        (answer.status == 200).then(|| answer.text())
    }

    fn arrives(&self, key: &str, value: &str) {
        let seen = poll_until(FOLLOWS_WITHIN, || (self.served(key).as_deref() == Some(value)).then_some(()));
        assert!(seen.is_some(), "{key} is {:?} and not {value}: {}", self.served(key), self.gateway.stderr());
    }

    /// What a consumer of the broker finds, in the order of each partition.
    fn consumed(&self, isolation: &str) -> Vec<Found> {
        let isolation = format!("isolation.level={isolation}");
        let args = ["-b", &self.servers, "-C", "-t", &self.topic, "-o", "beginning", "-e", "-q", "-J", "-X", &isolation];
        let output = kcat(&args, b"").expect("kcat consumes");
        let lines = output.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| Found::of(&serde_json::from_slice(line).expect("JSON"))).collect()
    }
}

struct Found {
    key: String,
    value: Option<String>,
    time_ms: u64,
}

impl Found {
    fn of(json: &Value) -> Self {
        let text = |name: &str| json[name].as_str().map(str::to_owned);
        Self { key: text("key").expect("a key"), value: text("payload"), time_ms: json["ts"].as_u64().expect("a time") }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// A topic's configuration, and what it says of a record's age.
struct Case {
    policy: &'static str,
    config: &'static [&'static str],
    retention_ms: Option<u64>,
}

const CASES: [Case; 4] = [
    Case {
        policy: "compact",
        config: &["segment.ms=300", "min.cleanable.dirty.ratio=0.01", "delete.retention.ms=60000"],
        retention_ms: None,
    },
    Case { policy: "delete", config: &["segment.ms=300", "retention.ms=4000"], retention_ms: Some(RETENTION_MS) },
    Case {
        policy: "compact,delete",
        config: &["segment.ms=300", "min.cleanable.dirty.ratio=0.01", "retention.ms=4000"],
        retention_ms: Some(RETENTION_MS),
    },
    // By size: of this only the broker's log start tells.
    Case { policy: "delete", config: &["segment.ms=300", "retention.bytes=3000"], retention_ms: None },
];

/// What was written, to tell afterwards how old a served value is: the latest moment at which each can have been.
#[derive(Default)]
struct Written {
    /// By number.
    until_ms: Vec<u64>,
}

impl Written {
    /// The next `count` records: keys come again in an order that looks random, every ninth is a tombstone.
    fn write(&mut self, bed: &Bed, count: usize) {
        let first = self.until_ms.len();
        let line = |n: usize| {
            let key = n * 7919 % 10_007 % KEYS;
            if n.is_multiple_of(9) { format!("k{key}:\n") } else { format!("k{key}:{n}\n") }
        };
        bed.write(&(first..first + count).map(line).collect::<String>(), &[]);
        self.until_ms.resize(first + count, now_ms());
    }

    /// Asks for a key, and fails if the value was expired before it was asked for.
    fn served(&self, bed: &Bed, case: &Case, key: &str) -> Option<String> {
        let asked_ms = now_ms();
        let value = bed.served(key)?;
        let until_ms = self.until_ms[value.parse::<usize>().expect("a number")];
        let expired = case.retention_ms.is_some_and(|ms| until_ms + ms < asked_ms);
        assert!(!expired, "{}: {key} is {value}, which expired {} ms ago", case.policy, asked_ms - until_ms - RETENTION_MS);
        Some(value)
    }

    /// What broker and gateway do not agree on. A record that the broker still has and that expires while this looks is no such.
    fn differences(&self, bed: &Bed, case: &Case) -> Vec<String> {
        let newest: BTreeMap<String, Found> =
            bed.consumed("read_committed").into_iter().map(|found| (found.key.clone(), found)).collect();
        let mut all = Vec::new();
        for key in (0..KEYS).map(|n| format!("k{n}")) {
            let served = self.served(bed, case, &key);
            let (found, asked_ms) = (newest.get(&key), now_ms());
            let is_old = found.is_some_and(|f| case.retention_ms.is_some_and(|ms| f.time_ms + ms <= asked_ms));
            let expected = found.and_then(|f| f.value.clone());
            if served != expected && !(is_old && served.is_none()) {
                all.push(format!("{key} is {served:?} and not {expected:?}"));
            }
        }
        all
    }

    fn agree(&self, bed: &Bed, case: &Case, when: &str) {
        let agreed = poll_until(FOLLOWS_WITHIN, || self.differences(bed, case).is_empty().then_some(()));
        let Case { policy, config, .. } = case;
        assert!(agreed.is_some(), "{policy} {config:?}, {when}: {:?}\n{}", self.differences(bed, case), bed.gateway.stderr());
    }
}

/// Rounds of writing with a restart among them, each followed by a comparison; then the broker is let finish its cleaning.
fn compare(broker: &Broker, case: &Case) {
    let policy = format!("cleanup.policy={}", case.policy);
    let mut bed = Bed::start(broker, &[&[policy.as_str()], case.config].concat());
    let mut written = Written::default();
    for round in 0..ROUNDS {
        written.write(&bed, ROUND_RECORDS);
        if round == ROUNDS / 2 {
            bed.gateway.kill9();
            written.write(&bed, ROUND_RECORDS);
            bed.gateway.restart().expect("starts again");
        }
        written.agree(&bed, case, &format!("round {round}"));
    }
    let all = written.until_ms.len();
    let has_cleaned = || match case.retention_ms {
        Some(_) => bed.consumed("read_committed").is_empty(),
        None => bed.consumed("read_committed").len() < all / 2,
    };
    // Meanwhile nothing that is expired may be served: looked at in `served`.
    let look = || (0..KEYS).for_each(|n| drop(written.served(&bed, case, &format!("k{n}"))));
    let mut last = all;
    let cleaned = poll_until(CLEANS_WITHIN, || {
        look();
        if has_cleaned() {
            return Some(());
        }
        // The broker closes a segment when the next record comes; none comes where all are to expire.
        if case.retention_ms.is_none() && last < all + 20 {
            bed.write("closing:\n", &[]);
            last += 1;
        }
        None
    });
    assert!(cleaned.is_some(), "{}: the broker has cleaned nothing that could differ", case.policy);
    written.agree(&bed, case, "after the broker's cleaning");
    if case.retention_ms.is_some() {
        assert_eq!(http::get(bed.gateway.address(), "/records").expect("an answer").text(), "[]", "{}", case.policy);
    }
}

#[test]
fn the_cache_agrees_with_the_broker_under_every_policy() {
    let Some(broker) = broker() else { return };
    thread::scope(|scope| {
        CASES.iter().for_each(|case| {
            scope.spawn(|| compare(&broker, case));
        });
    });
}

/// A kcat that has written `lines` in a transaction and keeps it open.
fn open_transaction(bed: &Bed, id: &str, lines: &str) -> (Process, std::process::ChildStdin) {
    let id = format!("transactional.id={id}");
    let args = ["-b", &bed.servers, "-P", "-t", &bed.topic, "-p", "0", "-K:", "-X", &id];
    let mut open = kcat_process(&args).expect("kcat runs");
    let mut input = open.stdin().expect("a pipe");
    // kcat reads in blocks: what follows pushes the lines out while the pipe stays open.
    let filler: String = (0..4_000).map(|n| format!("filler-{n}:a-filler-of-{id}\n")).collect();
    input.write_all(format!("{lines}{filler}").as_bytes()).expect("kcat reads");
    input.flush().expect("kcat reads");
    let key = lines.split(':').next().expect("a key");
    // Only once its records are in the log is there something that must not be served.
    let is_written = || bed.consumed("read_uncommitted").iter().any(|found| found.key == key);
    assert!(poll_until(FOLLOWS_WITHIN, || is_written().then_some(())).is_some(), "not in the log: {}", open.stderr());
    (open, input)
}

#[test]
fn nothing_beyond_the_last_stable_offset_is_served() {
    let Some(broker) = broker() else { return };
    let mut bed = Bed::start(&broker, &[]);
    for (round, commits) in [false, true, false].into_iter().enumerate() {
        let id = format!("{}-{round}", bed.topic);
        let (held, behind, beside) = (format!("held-{round}"), format!("behind-{round}"), format!("beside-{round}"));
        bed.write(&format!("{held}:before\n"), &["-p", "0"]);
        bed.arrives(&held, "before");
        let (mut open, input) = open_transaction(&bed, &id, &format!("{held}:open\n"));
        // A record that is no part of it, but lies behind its beginning; and one that shows that fetching goes on.
        bed.write(&format!("{behind}:1\n"), &["-p", "0"]);
        if round == 2 {
            bed.gateway.restart().expect("starts again");
        }
        bed.write(&format!("{beside}:1\n"), &["-p", "1"]);
        bed.arrives(&beside, "1");
        let reader = {
            let (address, path) = (bed.gateway.address(), format!("/records/{behind}"));
            thread::spawn(move || http::request(address, "GET", &path, &[("prefer", "wait=25")], b""))
        };
        for _ in 0..50 {
            assert_eq!((bed.served(&held).as_deref(), bed.served(&behind)), (Some("before"), None), "round {round}");
        }
        assert!(bed.consumed("read_committed").iter().all(|found| found.key != behind), "a consumer does not see it either");
        if commits {
            drop(input);
            open.wait(FOLLOWS_WITHIN).expect("kcat commits");
        } else {
            open.kill9();
            // The next producer of the same id fences the dead one, and with that the broker aborts what it left open (KIP-98).
            bed.write("last:1\n", &["-p", "0", "-X", &format!("transactional.id={id}")]);
        }
        let read = reader.join().expect("the reader ends").expect("an answer");
        assert_eq!((read.status, read.text().as_str()), (200, "1"), "who waited for it is told, round {round}");
        bed.arrives(&held, if commits { "open" } else { "before" });
        let fillers = bed.consumed("read_committed").iter().filter(|f| f.key.starts_with("filler")).count();
        let is_shown = bed.served("filler-1").is_some_and(|value| value.ends_with(&id));
        assert_eq!((fillers > 0, is_shown), (round > 0, commits), "round {round}");
    }
    assert!(bed.gateway.ready());
}
