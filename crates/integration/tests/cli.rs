//! The verbs of the command line that change and check topics, beside a running gateway and without one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use integration::{Cluster, Records};
use testkit::{Exited, Gateway, GatewayBuilder, http, left_out, poll_until, shared_kafka};

const OTHER: i32 = 1;
const USAGE: i32 = 2;
const DIRECTORY: i32 = 4;
const CLUSTER: i32 = 5;

/// From a change in a cluster until a gateway shows it.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);

/// Runs `TWO WORDS ARGS...`, and expects an exit code and texts in what is printed.
fn check(builder: &GatewayBuilder, line: &str, code: i32, texts: &[&str]) -> Exited {
    let mut words = line.split_whitespace();
    let verb: Vec<&str> = words.by_ref().take(2).collect();
    let builder = words.fold(builder.clone(), |builder, word| builder.arg(word));
    let exited = builder.run(&verb.join(" ")).expect("the verb ends");
    let all = format!("{}{}", exited.stdout, exited.stderr);
    assert_eq!(exited.code, Some(code), "{line}: {all}");
    for text in texts {
        assert!(all.contains(text), "{line}: no {text:?} in {all}");
    }
    if code != 0 {
        assert_eq!(exited.stderr.lines().filter(|l| l.starts_with("tidegate:")).count(), 1, "{line}: one clear line: {all}");
    }
    exited
}

fn check_all(builder: &GatewayBuilder, lines: &[(&str, i32, &[&str])]) {
    for (line, code, texts) in lines {
        check(builder, line, *code, texts);
    }
}

fn put(gateway: &Gateway, key: &str, value: &str) {
    let answer = http::put(gateway.address(), &format!("/records/{key}"), value.as_bytes()).expect("an answer");
    assert_eq!(answer.status, 204, "{answer:?}");
}

fn status_of(gateway: &Gateway, key: &str) -> u16 {
    http::get(gateway.address(), &format!("/records/{key}")).expect("an answer").status
}

fn wait_for(gateway: &Gateway, key: &str, status: u16) {
    let seen = poll_until(SHOWN_WITHIN, || (status_of(gateway, key) == status).then_some(()));
    assert!(seen.is_some(), "{key}: {} instead of {status}\n{}", status_of(gateway, key), gateway.stderr());
}

/// The verbs on topics, the same on both kinds of cluster. `t` is the topic of the configuration.
fn change_topics(builder: &GatewayBuilder, t: &str) {
    let new = testkit::unique("new");
    let fill = |line: &str| line.replace("NEW", &new).replace("TOPIC", t);
    let lines: [(&str, i32, &[&str]); 21] = [
        ("topic create NEW --partitions 1", 0, &[]),
        ("topic alter NEW --config retention.ms=5000 --config cleanup.policy=delete --partitions 3", 0, &[]),
        ("topic describe NEW", 0, &["\"retention.ms\": \"5000\"", "\"partition\": 2"]),
        ("topic alter NEW --config retention.ms=", 0, &[]),
        ("topic describe NEW", 0, &["\"retention.ms\": \"604800000\""]),
        ("topic alter NEW", USAGE, &["give --config NAME=VALUE or --partitions N"]),
        ("topic alter NEW --config x", USAGE, &["--config x: expected NAME=VALUE"]),
        ("topic alter NEW --config retention.mss=1", USAGE, &["retention.mss"]),
        ("topic alter NEW --partitions 2", USAGE, &[]),
        ("topic alter no-such-topic --partitions 2", CLUSTER, &["topic no-such-topic does not exist"]),
        ("topic alter a/b --partitions 2", USAGE, &["\"a/b\" is no legal topic name"]),
        ("topic delete-records NEW --partition 0 --before 7", USAGE, &[]),
        ("topic delete-records NEW --partition 0 --before soon", USAGE, &["--before soon: expected an offset, or end"]),
        ("topic delete-records NEW --partition 0 --before -1", USAGE, &[]),
        ("topic delete-records NEW --partition 0 --before end", 0, &[]),
        ("topic delete-records no-such-topic --partition 0 --before end", CLUSTER, &["does not exist"]),
        ("topic delete NEW", USAGE, &["with all its records", "add --yes"]),
        ("topic delete NEW --yes", 0, &[]),
        ("topic delete NEW --yes", CLUSTER, &["does not exist"]),
        ("topic delete .. --yes", USAGE, &["\"..\" is no legal topic name"]),
        ("topic describe TOPIC", 0, &["\"partitions\""]),
    ];
    for (line, code, texts) in lines {
        let line = fill(line);
        // Two of these never reach us: clap refuses them with usage and all.
        if line.ends_with("--before -1") {
            let words = line.split_whitespace().skip(2);
            let exited = words.fold(builder.clone(), |b, word| b.arg(word)).run("topic delete-records").expect("the verb ends");
            assert_eq!(exited.code, Some(code), "{line}: {}", exited.stderr);
            continue;
        }
        check(builder, &line, code, texts);
    }
}

#[test]
fn embedded_topics_through_the_gateway_and_without_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let records = Records::embedded();
    let builder = records.builder().dir(dir.path());
    let t = records.topic.as_str();
    let mut gateway = builder.clone().start().expect("a gateway");
    for n in 0..20 {
        put(&gateway, &format!("k{n}"), "{}");
    }
    let both: &[(&str, i32, &[&str])] = &[
        ("cache verify", 0, &["1 topics, 3 partitions, 20 records", ": 0 faults"]),
        ("cache verify no-such-topic", OTHER, &["nothing is cached of topic no-such-topic"]),
        ("cache verify --cluster no-such-cluster", USAGE, &["no cluster no-such-cluster; there are: main"]),
        ("cache purge no-such-topic", USAGE, &["of the embedded cluster main", "topic delete-records"]),
        ("cache ls", 0, &[t]),
    ];
    for runs in [true, false] {
        if !runs {
            gateway.terminate().expect("it stops");
        }
        check_all(&builder, both);
        check(&builder, &format!("cache inspect {t}"), 0, &["(embedded)", "policy  cleanup.policy=delete", "FIRST MS"]);
        check(&builder, &format!("cache purge {t}"), USAGE, &["its log is the only copy"]);
        change_topics(&builder, t);
    }
    gateway.restart().expect("it starts");
    assert_eq!(status_of(&gateway, "k3"), 200);
    for partition in 0..3 {
        check(&builder, &format!("topic delete-records {t} --partition {partition} --before end"), 0, &[]);
    }
    for n in 0..20 {
        assert_eq!(status_of(&gateway, &format!("k{n}")), 404, "k{n}");
    }
    gateway.restart().expect("it starts");
    assert_eq!(status_of(&gateway, "k3"), 404, "deleted for good");
    put(&gateway, "k3", "{}");
    check(&builder, &format!("topic delete {t} --yes"), 0, &[]);
    let doctor = builder.clone().run("doctor").expect("it ends");
    assert_eq!(doctor.code, Some(CLUSTER), "{}", doctor.stdout);
    assert!(doctor.stdout.contains(&format!("topic {t}: missing")), "{}", doctor.stdout);
    let gone = http::put(gateway.address(), "/records/k3", b"{}").expect("an answer");
    assert_eq!((gone.status, gone.text().contains("unknown-topic")), (404, true), "{gone:?}");
    assert_eq!(status_of(&gateway, "k3"), 404, "nobody waits for a topic that is gone");
    check(&builder, &format!("topic create {t}"), 0, &[]);
    put(&gateway, "k4", "{}");
    assert_eq!((status_of(&gateway, "k3"), status_of(&gateway, "k4")), (404, 200), "the routes serve the new topic");
}

#[test]
fn damage_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let records = Records::embedded();
    let builder = records.builder().dir(dir.path());
    let mut gateway = builder.clone().start().expect("a gateway");
    (0..20).for_each(|n| put(&gateway, &format!("k{n}"), "some value"));
    gateway.terminate().expect("it stops");
    let partition = dir.path().join("data/embedded/main").join(&records.topic).join("1");
    let segment = fs::read_dir(&partition).expect("a partition").map(|e| e.expect("an entry").path());
    let segment = segment.into_iter().find(|p| p.extension().is_some_and(|e| e == "log")).expect("a segment");
    let mut bytes = fs::read(&segment).expect("read");
    // Behind the headers of file and record.
    bytes[64 + 44] ^= 1;
    fs::write(&segment, bytes).expect("written");
    let fault = format!("fault main {}/1: ", records.topic);
    check(&builder, "cache verify", OTHER, &[&fault, "corrupt record at byte 64", ": 1 faults", "faults found: 1"]);
    check(&builder, &format!("cache verify {}", records.topic), OTHER, &[&fault]);
}

#[test]
fn misuse_is_explained() {
    let at = |bootstrap: &str, directory: &Path| {
        let directory = directory.display().to_string();
        Records { bootstrap: bootstrap.to_owned(), directory, ..Records::embedded() }.builder()
    };
    // A directory that no gateway ever used is not made.
    let dir = tempfile::tempdir().expect("a folder");
    let missing = dir.path().join("missing");
    for bootstrap in ["embedded", "127.0.0.1:1"] {
        let builder = at(bootstrap, &missing);
        for line in ["cache verify", "cache inspect t"] {
            check(&builder, line, DIRECTORY, &["missing does not exist: no gateway ran with this file"]);
        }
    }
    for line in ["topic alter t --partitions 2", "topic delete t --yes", "topic delete-records t --partition 0 --before end"] {
        check(&at("embedded", &missing), line, DIRECTORY, &["missing does not exist"]);
    }
    check(&at("127.0.0.1:1", &missing), "cache purge t", DIRECTORY, &["missing does not exist"]);
    assert!(!missing.exists());

    // A gateway that was started with another configuration.
    let data = dir.path().join("data");
    let gateway = at("embedded", &data).start().expect("a gateway");
    let renamed = Records { directory: data.display().to_string(), ..Records::embedded() }.yaml().replace("main", "other");
    let renamed = Gateway::builder().config(renamed);
    for line in ["topic alter t --partitions 2", "topic delete t --yes", "topic describe t"] {
        check(&renamed, line, CLUSTER, &["the running gateway has no cluster other", "started with another configuration"]);
    }
    check(&at("127.0.0.1:1", &data), "cache purge t", OTHER, &["cluster main", "is of the kind embedded, and here kafka"]);
    check(&renamed, "doctor", CLUSTER, &[]);
    let doctor = renamed.clone().run("doctor").expect("it ends");
    assert!(doctor.stdout.contains("has no cluster other"), "{}", doctor.stdout);
    drop(gateway);

    // Nothing is cached of it, without a gateway.
    check(&at("127.0.0.1:1", &data), "cache purge t", OTHER, &["nothing is cached of topic t"]);
}

#[test]
fn a_doctor_asks_the_gateway_that_runs() {
    let dir = tempfile::tempdir().expect("a folder");
    let records = Records::embedded();
    let builder = records.builder().dir(dir.path());
    let mut gateway = builder.clone().start().expect("a gateway");
    put(&gateway, "k", "v");
    let about = format!("cluster main, topic {}: 3 partitions, 1 offsets, cleanup.policy=delete", records.topic);
    for (runs, text) in [(true, "running gateway, cluster main: ready"), (false, "can be written")] {
        if !runs {
            gateway.terminate().expect("it stops");
        }
        let exited = builder.clone().run("doctor").expect("it ends");
        assert_eq!(exited.code, Some(0), "{}{}", exited.stdout, exited.stderr);
        assert!(exited.stdout.contains(&about) && exited.stdout.contains(text), "{}", exited.stdout);
    }
}

#[test]
fn kafka_topics_and_their_caches() {
    let Some(servers) = shared_kafka() else { return left_out("the command line on Kafka") };
    let dir = tempfile::tempdir().expect("a folder");
    let records = Records::on(&Cluster::Kafka(servers));
    let t = records.topic.as_str();
    let builder = records.builder().dir(dir.path());
    let mut gateway = builder.clone().start().expect("a gateway");
    put(&gateway, "k", "v");
    wait_for(&gateway, "k", 200);
    change_topics(&builder, t);
    let cached = dir.path().join("data/kafka/main").join(t);

    let fetched = gateway.metric("tidegate_cache_fetched_records_total");
    check(&builder, &format!("cache purge {t}"), 0, &[]);
    wait_for(&gateway, "k", 200);
    let again = gateway.metric("tidegate_cache_fetched_records_total");
    assert!(again > fetched, "it was fetched again: {fetched:?}, {again:?}");
    check(&builder, "cache purge no-such-topic", USAGE, &["topic no-such-topic is not cached by the running gateway"]);
    check(&builder, &format!("cache inspect {t}"), 0, &["(kafka)", "policy  cleanup.policy=delete"]);
    check(&builder, &format!("topic alter {t} --config retention.ms=1000000"), 0, &[]);
    let line = format!("cache inspect {t}");
    let told = poll_until(SHOWN_WITHIN, || check(&builder, &line, 0, &[]).stdout.contains("retention.ms=1000000").then_some(()));
    assert!(told.is_some(), "the gateway heard of it");

    gateway.terminate().expect("it stops");
    check(&builder, "cache verify", 0, &["1 topics, 3 partitions, 1 records"]);
    check(&builder, &format!("cache purge {t}"), 0, &[]);
    assert!(!cached.exists());
    check(&builder, &format!("cache purge {t}"), OTHER, &["nothing is cached of topic"]);
    gateway.restart().expect("it starts");
    assert_eq!(status_of(&gateway, "k"), 200);

    for partition in 0..3 {
        check(&builder, &format!("topic delete-records {t} --partition {partition} --before end"), 0, &[]);
    }
    wait_for(&gateway, "k", 404);
}
