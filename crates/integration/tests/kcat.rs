//! Records of another client are served right, and ours are read right by it. kcat is librdkafka, not our code.

use std::io::Write;
use std::time::Duration;

use integration::{Cluster, Records};
use serde_json::{Value, json};
use testkit::{Gateway, Step, http, kcat, kcat_process, poll_until, run_steps, shared_kafka};

/// For what another client wrote to reach the cache: nothing tells a reader when that is.
const ARRIVES_WITHIN: Duration = Duration::from_secs(20);

/// A gateway on the shared Kafka with one topic of three partitions; `None` in a run without Kafka.
fn gateway() -> Option<(Gateway, Records, String)> {
    let servers = shared_kafka()?;
    let records = Records::on(&Cluster::Kafka(servers.clone()));
    Some((records.builder().start().expect("the gateway starts"), records, servers))
}

/// Waits until `GET /records/KEY` answers with `value`.
fn arrives(gateway: &Gateway, key: &str, value: &str) {
    let path = format!("/records/{key}");
    let seen = || http::get(gateway.address(), &path).expect("an answer");
    let found = poll_until(ARRIVES_WITHIN, || (seen().text() == value).then_some(()));
    assert!(found.is_some(), "{key}: {value} does not arrive, but {:?}\n{}", seen(), gateway.stderr());
}

/// Every record of the topic as kcat's JSON (`key`, `payload`, `headers`, `partition`, `offset`).
fn consumed(servers: &str, topic: &str) -> Vec<Value> {
    let output = kcat(&["-b", servers, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-J"], b"").expect("kcat consumes");
    output.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).expect("JSON")).collect()
}

#[test]
fn kcat_reads_what_was_written_over_http() {
    let Some((gateway, records, servers)) = gateway() else { return };
    run_steps(
        gateway.address(),
        "writes",
        &[
            Step::put("/records/key", "value")
                .header("x-tag", "one")
                .header("x-tag", "two")
                .header("authorization", "Bearer secret")
                .header("cookie", "a=b"),
            Step::new("PUT", "/records/empty").expect(204),
            Step::delete("/records/gone"),
            Step::new("POST", "/records").body("keyless").expect(204),
        ],
    );
    let seen = consumed(&servers, &records.topic);
    let of = |key: Value| seen.iter().find(|r| r["key"] == key).unwrap_or_else(|| panic!("no record {key} in {seen:?}"));
    let written = of(json!("key"));
    assert_eq!(written["payload"], "value");
    assert_eq!(written["headers"], json!(["content-type", "application/json", "x-tag", "one", "x-tag", "two"]));
    assert_eq!(of(json!("empty"))["payload"], "");
    assert_eq!(of(json!("gone"))["payload"], Value::Null);
    assert_eq!(of(Value::Null)["payload"], "keyless");
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn both_choose_the_same_partition_for_a_key() {
    let Some((gateway, records, servers)) = gateway() else { return };
    let keys: Vec<String> = (0..60).map(|n| format!("key-{n}")).collect();
    for key in &keys {
        assert_eq!(http::put(gateway.address(), &format!("/records/{key}"), b"http").expect("an answer").status, 204);
    }
    let lines: String = keys.iter().map(|key| format!("{key}:kcat\n")).collect();
    let murmur = "topic.partitioner=murmur2_random";
    kcat(&["-b", &servers, "-P", "-t", &records.topic, "-K:", "-X", murmur], lines.as_bytes()).expect("kcat produces");
    let seen = consumed(&servers, &records.topic);
    for key in &keys {
        let places: Vec<&Value> = seen.iter().filter(|r| r["key"] == key.as_str()).map(|r| &r["partition"]).collect();
        assert_eq!(places.len(), 2, "{key}");
        assert_eq!(places[0], places[1], "{key} lies in two partitions");
    }
    for key in &keys {
        arrives(&gateway, key, "kcat");
    }
}

#[test]
fn every_codec_with_headers_and_null_keys_is_served() {
    let Some((gateway, records, servers)) = gateway() else { return };
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        // Long and repetitive, so that it is really compressed, and many in one batch.
        let filler = codec.repeat(100);
        let lines: String = (0..200).map(|n| format!("{codec}-{n}:{n} {filler}\n")).collect();
        let header = format!("x-tag={codec}");
        let args = ["-b", &servers, "-P", "-t", &records.topic, "-K:", "-z", codec, "-H", &header, "-X", "linger.ms=50"];
        kcat(&args, lines.as_bytes()).expect("kcat produces");
        kcat(&["-b", &servers, "-P", "-t", &records.topic, "-z", codec], b"{\"no\":\"key\"}\n").expect("kcat produces");
        for n in [0, 1, 99, 199] {
            arrives(&gateway, &format!("{codec}-{n}"), &format!("{n} {filler}"));
        }
        let answer = http::get(gateway.address(), &format!("/records/{codec}-7")).expect("an answer");
        assert_eq!(answer.header("x-tag"), Some(codec));
    }
}

#[test]
fn a_tombstone_by_kcat_deletes() {
    let Some((gateway, records, servers)) = gateway() else { return };
    assert_eq!(http::put(gateway.address(), "/records/a", b"1").expect("an answer").status, 204);
    kcat(&["-b", &servers, "-P", "-t", &records.topic, "-K:", "-Z", "-X", "topic.partitioner=murmur2_random"], b"a:\n")
        .expect("kcat produces");
    let gone =
        poll_until(ARRIVES_WITHIN, || http::get(gateway.address(), "/records/a").ok().filter(|answer| answer.status == 404));
    assert!(gone.is_some(), "the tombstone does not arrive");
}

#[test]
fn aborted_transactions_are_not_served() {
    let Some((gateway, records, servers)) = gateway() else { return };
    let topic = records.topic.as_str();
    let transaction = |id: &str| format!("transactional.id={topic}-{id}");
    for round in 0..3 {
        let committed = transaction(&format!("c{round}"));
        let line = format!("kept:{round}\nround-{round}:kept\n");
        kcat(&["-b", &servers, "-P", "-t", topic, "-K:", "-X", &committed], line.as_bytes()).expect("kcat commits");

        let aborted = transaction(&format!("a{round}"));
        let mut open = kcat_process(&["-b", &servers, "-P", "-t", topic, "-K:", "-X", &aborted]).expect("kcat runs");
        let mut input = open.stdin().expect("a pipe");
        // kcat reads in blocks: what follows pushes the two records out while the pipe stays open.
        let filler: String = (0..4_000).map(|n| format!("filler-{n}:aborted-{round}-filler\n")).collect();
        let lines = format!("kept:aborted-{round}\nround-{round}:aborted\n{filler}");
        input.write_all(lines.as_bytes()).expect("kcat reads");
        input.flush().expect("kcat reads");
        // Only once its records are in the log is there something that must not be served.
        let needle = format!("aborted-{round}\n");
        let dirty = ["-b", &servers, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-X", "isolation.level=read_uncommitted"];
        let written = || String::from_utf8_lossy(&kcat(&dirty, b"").expect("kcat consumes")).contains(&needle);
        assert!(poll_until(ARRIVES_WITHIN, || written().then_some(())).is_some(), "not in the log: {}", open.stderr());
        open.kill9();
        // The next producer of the same id fences the dead one, and with that the broker aborts what it left open (KIP-98).
        let last = format!("last-{round}:x\n");
        kcat(&["-b", &servers, "-P", "-t", topic, "-K:", "-X", &aborted], last.as_bytes()).expect("kcat commits");
    }
    // Each `last` lies behind an aborted transaction: its arrival shows that they were passed over.
    for round in 0..3 {
        arrives(&gateway, &format!("last-{round}"), "x");
        arrives(&gateway, &format!("round-{round}"), "kept");
    }
    arrives(&gateway, "kept", "2");
    let all = http::get(gateway.address(), "/records").expect("an answer").text();
    assert!(!all.contains("aborted"), "{all}");
}
