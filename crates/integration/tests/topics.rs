//! Topics that change in the cluster: what is served follows, and agrees with what a consumer of the broker sees.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use integration::{Cluster, Records};
use serde_json::Value;
use testkit::http::{self, Response};
use testkit::{Gateway, kafka_tool, kcat, poll_until, shared_kafka};

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const DELETE_RECORDS: &str = "org.apache.kafka.tools.DeleteRecordsCommand";
/// How often the gateway looks at its topics here.
const REFRESH: &str = "topic_refresh: 1s";
/// For what was done in the cluster to show: a few looks, and what the broker does in its own time.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(20);
/// For the broker's cleaner to have compacted something; it runs every half second, on segments that are closed.
const CLEANS_WITHIN: Duration = Duration::from_secs(60);

/// A topic on the shared Kafka, and the gateway in front of it.
struct Bed {
    servers: String,
    topic: String,
    gateway: Gateway,
}

/// `None` in a run without Kafka.
fn bed(partitions: &str, config: &[&str]) -> Option<Bed> {
    bed_with(partitions, config, "bootstrap: true")
}

/// With other members of `cache.topics.NAME`.
fn bed_with(partitions: &str, config: &[&str], cached: &str) -> Option<Bed> {
    let servers = shared_kafka()?;
    let records = Records { cached: String::new(), cache: REFRESH.to_owned(), ..Records::on(&Cluster::Kafka(servers.clone())) };
    create(&servers, &records.topic, partitions, config);
    let yaml = records.yaml().replace("bootstrap: true", cached);
    let gateway = Gateway::builder().config(yaml).start().expect("the gateway starts");
    Some(Bed { servers, topic: records.topic, gateway })
}

fn create(servers: &str, topic: &str, partitions: &str, config: &[&str]) {
    let mut args = vec!["--create", "--topic", topic, "--partitions", partitions, "--replication-factor", "1"];
    config.iter().for_each(|pair| args.extend(["--config", pair]));
    // One that was just deleted may be there for a moment.
    let created = poll_until(FOLLOWS_WITHIN, || kafka_tool(servers, TOPICS, &args).ok());
    assert!(created.is_some(), "{topic} cannot be created: {:?}", kafka_tool(servers, TOPICS, &args));
}

impl Bed {
    fn tool(&self, class: &str, args: &[&str]) -> String {
        kafka_tool(&self.servers, class, args).expect("Kafka's tool does it")
    }

    /// Deletes the topic and creates another of the same name with these records.
    fn recreate(&self, lines: &str) {
        self.tool(TOPICS, &["--delete", "--topic", &self.topic]);
        create(&self.servers, &self.topic, "1", &[]);
        self.write("0", lines);
    }

    /// Writes `key:value` lines; a line `key:` is a tombstone.
    fn write(&self, partition: &str, lines: &str) {
        let args = ["-b", &self.servers, "-P", "-t", &self.topic, "-p", partition, "-K:", "-Z"];
        kcat(&args, lines.as_bytes()).expect("kcat produces");
    }

    fn get(&self, key: &str) -> Response {
        http::get(self.gateway.address(), &format!("/records/{key}")).expect("an answer")
    }

    /// The value that is served of a key; `None` for none.
    fn served(&self, key: &str) -> Option<String> {
        let answer = self.get(key);
        assert!(matches!(answer.status, 200 | 404), "{key}: {answer:?}");
        (answer.status == 200).then(|| answer.text())
    }

    /// Waits until the keys have these values.
    fn follows(&self, what: &str, expected: &[(&str, Option<&str>)]) {
        let now = || expected.iter().map(|(key, _)| (*key, self.served_or_filling(key))).collect::<Vec<_>>();
        let wanted: Vec<_> = expected.iter().map(|(key, value)| (*key, value.map(str::to_owned))).collect();
        let reached = poll_until(FOLLOWS_WITHIN, || (now() == wanted).then_some(()));
        assert!(reached.is_some(), "{what}: {:?} instead of {wanted:?}\n{}", now(), self.gateway.stderr());
    }

    /// As `served`; while a cache is filled anew, nothing is served at all.
    fn served_or_filling(&self, key: &str) -> Option<String> {
        let answer = self.get(key);
        assert!(matches!(answer.status, 200 | 404 | 503), "{key}: {answer:?}");
        if answer.status == 404 { None } else { Some(answer.text()) }
    }

    /// The records that a consumer of the broker finds, in order: key, and value unless it is a tombstone.
    fn consumed(&self) -> Vec<(String, Option<String>)> {
        let args = ["-b", &self.servers, "-C", "-t", &self.topic, "-o", "beginning", "-e", "-q", "-J"];
        let output = kcat(&args, b"").expect("kcat consumes");
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let lines = output.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let records = lines.map(|line| serde_json::from_slice::<Value>(line).expect("JSON"));
        records.map(|r| (text(&r["key"]).expect("a key"), text(&r["payload"]))).collect()
    }
}

/// Offsets tell nothing: the new topic has grown past what is cached when it is looked at.
#[test]
fn a_topic_that_is_created_again_while_it_is_served() {
    let Some(bed) = bed("1", &[]) else { return };
    bed.write("0", "a:old-a\nb:old-b\n");
    bed.follows("the first life", &[("a", Some("old-a")), ("b", Some("old-b"))]);
    bed.recreate("b:new-b\nc:new-c\nd:new-d\ne:new-e\n");
    bed.follows(
        "the second life",
        &[("a", None), ("b", Some("new-b")), ("c", Some("new-c")), ("d", Some("new-d")), ("e", Some("new-e"))],
    );
    assert!(bed.gateway.ready());
}

#[test]
fn a_topic_that_is_created_again_while_the_gateway_is_down() {
    let Some(mut bed) = bed("1", &[]) else { return };
    bed.write("0", "a:old-a\nb:old-b\n");
    bed.follows("the first life", &[("a", Some("old-a")), ("b", Some("old-b"))]);
    bed.gateway.terminate().expect("ends");
    bed.recreate("b:new-b\nc:new-c\nd:new-d\n");
    bed.gateway.restart().expect("starts");
    // Ready means that the cluster was asked: nothing is waited for any more.
    let found: Vec<_> = ["a", "b", "c", "d"].iter().map(|key| bed.served(key)).collect();
    let text = |t: &str| Some(t.to_owned());
    assert_eq!(found, [None, text("new-b"), text("new-c"), text("new-d")], "{}", bed.gateway.stderr());
}

#[test]
fn partitions_that_are_added() {
    let Some(bed) = bed("1", &[]) else { return };
    bed.write("0", "a:1\n");
    bed.follows("the first partition", &[("a", Some("1"))]);
    bed.tool(TOPICS, &["--alter", "--topic", &bed.topic, "--partitions", "3"]);
    bed.write("2", "b:2\n");
    bed.follows("the third partition", &[("a", Some("1")), ("b", Some("2"))]);
}

#[test]
fn records_that_are_deleted() {
    let Some(bed) = bed("1", &[]) else { return };
    bed.write("0", "a:1\nb:2\nc:3\n");
    bed.follows("all", &[("a", Some("1")), ("b", Some("2")), ("c", Some("3"))]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let before = format!(r#"{{"version":1,"partitions":[{{"topic":"{}","partition":0,"offset":2}}]}}"#, bed.topic);
    std::fs::write(file.path(), before).expect("written");
    bed.tool(DELETE_RECORDS, &["--offset-json-file", &file.path().display().to_string()]);
    bed.follows("what is left", &[("a", None), ("b", None), ("c", Some("3"))]);
}

#[test]
fn a_retention_that_is_shortened() {
    let Some(bed) = bed("1", &[]) else { return };
    bed.write("0", "a:1\n");
    bed.follows("the record", &[("a", Some("1"))]);
    bed.tool(CONFIGS, &["--alter", "--entity-type", "topics", "--entity-name", &bed.topic, "--add-config", "retention.ms=1000"]);
    bed.follows("expired", &[("a", None)]);
}

/// It is not read while nobody asks, and whoever asks then gets what the cluster has, not what was cached before.
#[test]
fn a_topic_that_is_read_only_while_it_is_used() {
    let Some(bed) = bed_with("2", &[], "bootstrap: false, linger: 1s") else { return };
    let paused = || {
        let status = http::get(bed.gateway.admin(), "/").expect("an answer").json();
        let partitions = status["clusters"]["main"]["topics"][&bed.topic]["partitions"].clone();
        partitions.as_array().is_some_and(|all| all.len() == 2 && all.iter().all(|p| p["state"] == "paused"))
    };
    for round in 0..3 {
        let value = format!("value-{round}");
        bed.write("1", &format!("a:{value}\n"));
        let answer = bed.get("a");
        assert_eq!((answer.status, answer.text()), (200, value), "{}", bed.gateway.stderr());
        assert!(poll_until(FOLLOWS_WITHIN, || paused().then_some(())).is_some(), "is not paused: {}", bed.gateway.stderr());
        assert!(bed.gateway.ready(), "a paused topic hurts nobody");
    }
}

/// The oracle: whatever the broker's cleaner does and whenever, a consumer of the broker and the gateway agree on the newest value of
/// each key.
#[test]
fn a_compacted_topic_agrees_with_a_consumer_of_the_broker() {
    const KEYS: usize = 40;
    let fast = ["cleanup.policy=compact", "min.cleanable.dirty.ratio=0.01", "segment.ms=100", "delete.retention.ms=100"];
    let Some(mut bed) = bed("1", &fast) else { return };
    let (mut written, mut cleaned) = (0, false);
    for round in 0..6 {
        let lines: String = (0..200).map(|n| line(round * 200 + n, KEYS)).collect();
        bed.write("0", &lines);
        written += 200;
        if round == 3 {
            bed.gateway.restart().expect("starts again");
        }
        // The last round waits for the cleaner, so that there is something to agree on.
        let cleaning = if round == 5 { CLEANS_WITHIN } else { Duration::ZERO };
        cleaned |= poll_until(cleaning, || (bed.consumed().len() < written).then_some(())).is_some();
        let newest: BTreeMap<String, Option<String>> = bed.consumed().into_iter().collect();
        let keys: BTreeSet<String> = (0..KEYS).map(|key| format!("k{key}")).collect();
        let expected: Vec<_> = keys.iter().map(|key| (key.as_str(), newest.get(key).cloned().flatten())).collect();
        let expected: Vec<_> = expected.iter().map(|(key, value)| (*key, value.as_deref())).collect();
        bed.follows(&format!("round {round}"), &expected);
    }
    assert!(cleaned, "the broker's cleaner has done nothing that could differ");
}

/// The `n`th write: keys come again in an order that looks random, every seventh is a tombstone.
fn line(n: usize, keys: usize) -> String {
    let key = n * 7919 % 10_007 % keys;
    if n.is_multiple_of(7) { format!("k{key}:\n") } else { format!("k{key}:value-{n}\n") }
}
