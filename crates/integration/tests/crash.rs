//! Ends of a process, wanted and unwanted: what was acknowledged is there, once, whatever happened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use integration::Records;
use serde_json::Value;
use testkit::http::{self, Client};
use testkit::{Gateway, poll_until};

/// `TIDEGATE_KILL_ROUNDS` overrides it (`cargo xtask soak kill`).
const KILL_ROUNDS: u64 = 50;
const PRODUCERS: u64 = 4;
/// Keys per producer that are written again and again on a compacted topic.
const HOT_KEYS: u64 = 8;
/// For a round's producers to get their share of acknowledgements.
const ROUND_WITHIN: Duration = Duration::from_secs(60);

/// A record that the gateway said is written.
#[derive(Debug, Clone, PartialEq)]
struct Acknowledged {
    key: String,
    partition: i64,
    offset: i64,
}

/// Whether a key is written once or again and again.
fn is_hot(key: &str) -> bool {
    key.starts_with("hot-")
}

/// Puts records until the connection breaks; yields those that were acknowledged. Their value is their key. With `hot`, every other one
/// replaces an older record, for compaction to remove.
fn produce(address: SocketAddr, round: u64, producer: u64, hot: bool, count: &AtomicU64) -> Vec<Acknowledged> {
    let Ok(mut client) = Client::connect(address) else { return Vec::new() };
    let mut done = Vec::new();
    for n in 0.. {
        let key = match n % 2 {
            0 if hot => format!("hot-p{producer}-{}", n / 2 % HOT_KEYS),
            _ => format!("r{round}-p{producer}-{n}"),
        };
        let wants = [("prefer", "return=representation")];
        let Ok(answer) = client.request("PUT", &format!("/records/{key}"), &wants, key.as_bytes()) else { break };
        assert_eq!(answer.status, 200, "{key}: {answer:?}");
        let place = answer.json();
        let number = |name: &str| place[name].as_i64().unwrap_or_else(|| panic!("no {name} in {place}"));
        done.push(Acknowledged { key, partition: number("partition"), offset: number("offset") });
        count.fetch_add(1, Ordering::Relaxed);
    }
    done
}

/// Fetches while others produce; what it reads must be what its key says, until the connection breaks.
fn fetch(address: SocketAddr, round: u64, stop: &AtomicBool) {
    let Ok(mut client) = Client::connect(address) else { return };
    for n in 0.. {
        let key = format!("r{round}-p{}-{}", n % PRODUCERS, n / PRODUCERS % 50);
        let Ok(answer) = client.request("GET", &format!("/records/{key}"), &[], b"") else { return };
        assert!(answer.status == 404 || answer.text() == key, "{key}: {answer:?}");
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// One round: load, SIGKILL in the middle of it, restart, every acknowledged record served at once.
fn kill_round(gateway: &mut Gateway, round: u64, hot: bool) -> Vec<Acknowledged> {
    let address = gateway.address();
    let (count, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    // A different depth into the run each time, with no clock involved.
    let wanted = 40 + round * 37 % 160;
    let done = thread::scope(|scope| {
        let count = &count;
        let producers: Vec<_> = (0..PRODUCERS).map(|p| scope.spawn(move || produce(address, round, p, hot, count))).collect();
        let reader = scope.spawn(|| fetch(address, round, &stop));
        let reached = poll_until(ROUND_WITHIN, || (count.load(Ordering::Relaxed) >= wanted).then_some(()));
        gateway.kill9();
        stop.store(true, Ordering::Relaxed);
        assert!(reached.is_some(), "round {round}: only {count:?} of {wanted} acknowledged\n{}", gateway.stderr());
        reader.join().expect("the reader saw only right values");
        producers.into_iter().flat_map(|p| p.join().expect("the producer saw only success")).collect::<Vec<_>>()
    });
    gateway.restart().expect("starts after SIGKILL");
    for record in &done {
        let answer = http::get(gateway.address(), &format!("/records/{}", record.key)).expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, record.key.clone()), "round {round}: {record:?}");
    }
    done
}

/// Reads the whole topic and holds it against what was acknowledged. A record of a compacted topic may have been replaced, but only by
/// a later one of its key; of the keys that are written once nothing may be missing in either case.
fn verify(gateway: &Gateway, topic: &str, acknowledged: &[Acknowledged], hot: bool) {
    let read = gateway.verb("topic consume", &[topic]).expect("topic consume runs");
    assert_eq!(read.code, Some(0), "{}", read.stderr);
    let mut places = BTreeMap::new();
    let mut offsets: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for line in read.stdout.lines() {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|cause| panic!("{cause}: {line}"));
        let (key, value) = (record["key"].as_str().expect("a key"), record["value"].as_str().expect("a value"));
        assert_eq!(key, value, "a record with somebody else's value");
        let place = (record["partition"].as_i64().expect("a partition"), record["offset"].as_i64().expect("an offset"));
        let older = places.insert(key.to_owned(), place);
        assert!(older.is_none_or(|older| is_hot(key) && older.0 == place.0), "{key} is there twice: {older:?}, {place:?}");
        offsets.entry(place.0).or_default().push(place.1);
    }
    for record in acknowledged {
        let found = places.get(&record.key);
        let is_there = |place: &(i64, i64)| {
            place.0 == record.partition && (place.1 == record.offset || is_hot(&record.key) && place.1 > record.offset)
        };
        assert!(found.is_some_and(is_there), "{record:?} is not where it was acknowledged, but {found:?}");
    }
    for (partition, offsets) in offsets {
        assert!(offsets.is_sorted_by(|a, b| a < b), "offsets of partition {partition} rise: {offsets:?}");
        let dense: Vec<i64> = (0..offsets.len() as i64).collect();
        assert!(hot || offsets == dense, "offsets of partition {partition}: {offsets:?}");
    }
}

/// How often the segment that was rewritten most often has been: the generation in the name of its file.
fn generation(gateway: &Gateway, topic: &str) -> u32 {
    let partitions = std::fs::read_dir(gateway.dir().join("data/embedded/main").join(topic)).expect("the topic's directory");
    let files = partitions.flatten().filter_map(|partition| std::fs::read_dir(partition.path()).ok()).flatten().flatten();
    let generation = |name: String| u32::from_str_radix(name.strip_suffix(".log")?.split_once('-')?.1, 16).ok();
    files.filter_map(|file| generation(file.file_name().into_string().ok()?)).max().unwrap_or(0)
}

/// Rounds on one topic; returns how often a segment was compacted meanwhile.
fn kill_rounds(records: &Records, hot: bool) -> u32 {
    let rounds = std::env::var("TIDEGATE_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILL_ROUNDS);
    let mut gateway = records.builder().start().expect("the gateway starts");
    let mut acknowledged = Vec::new();
    for round in 0..rounds {
        acknowledged.extend(kill_round(&mut gateway, round, hot));
        if round % 10 == 9 || round + 1 == rounds {
            verify(&gateway, &records.topic, &acknowledged, hot);
        }
    }
    let keys: BTreeSet<&str> = acknowledged.iter().map(|record| record.key.as_str()).collect();
    assert!(keys.len() as u64 >= rounds * 15, "too little was written to prove anything: {}", keys.len());
    let generation = generation(&gateway, &records.topic);
    println!("{rounds} rounds, {} records acknowledged, a segment was compacted up to {generation} times", acknowledged.len());
    generation
}

#[test]
fn kill_rounds_lose_and_double_nothing() {
    // Small segments, so that some rounds are killed at a roll.
    kill_rounds(&Records { cache: "segment_bytes: 64KiB".to_owned(), ..Records::embedded() }, false);
}

#[test]
fn kill_rounds_under_compaction_lose_and_double_nothing() {
    // Small segments and little patience, so that some rounds are killed while one is rewritten.
    let config = "cleanup.policy: compact, min.cleanable.dirty.ratio: '0.01', segment.bytes: '4096'";
    let records = Records {
        cache: "housekeeping_interval: 100ms".to_owned(),
        cached: format!("create: {{ partitions: 3, config: {{ {config} }} }}"),
        ..Records::embedded()
    };
    assert!(kill_rounds(&records, true) > 1, "compaction hardly ran");
}

#[test]
fn sigterm_answers_every_accepted_request() {
    let mut gateway = Records::embedded().builder().start().expect("the gateway starts");
    let address = gateway.address();
    // A request whose body has begun is accepted: the gateway has said so (100 Continue).
    let mut accepted: Vec<Client> = (0..20).map(|n| begin_put(address, &format!("slow-{n}"))).collect();
    let count = AtomicU64::new(0);
    let done = thread::scope(|scope| {
        let count = &count;
        let producers: Vec<_> = (0..PRODUCERS).map(|p| scope.spawn(move || produce(address, 0, p, false, count))).collect();
        let busy = poll_until(ROUND_WITHIN, || (count.load(Ordering::Relaxed) >= 200).then_some(()));
        assert!(busy.is_some(), "only {count:?} acknowledged");
        gateway.process().terminate();
        // Draining has begun once nobody new is let in.
        let closed = poll_until(ROUND_WITHIN, || Client::connect(address).is_err().then_some(()));
        assert!(closed.is_some(), "it still accepts connections");
        for (n, client) in accepted.iter_mut().enumerate() {
            client.write(b"done").expect("the connection is open");
            assert_eq!(client.read("PUT").expect("an accepted request is answered").status, 204, "slow-{n}");
        }
        producers.into_iter().flat_map(|p| p.join().expect("the producer saw only success")).collect::<Vec<_>>()
    });
    let status = gateway.terminate().expect("ends within the deadline");
    assert_eq!(status.code(), Some(0), "{}", gateway.stderr());
    gateway.restart().expect("starts again");
    for n in 0..accepted.len() {
        let answer = http::get(gateway.address(), &format!("/records/slow-{n}")).expect("an answer");
        assert_eq!(answer.text(), "done");
    }
    for record in done {
        let answer = http::get(gateway.address(), &format!("/records/{}", record.key)).expect("an answer");
        assert_eq!(answer.text(), record.key);
    }
}

#[test]
fn a_drain_ends_at_its_deadline() {
    let limits = "drain_timeout: 1s".to_owned();
    let mut gateway = Records { limits, ..Records::embedded() }.builder().start().expect("the gateway starts");
    // Its body never comes.
    let mut stuck = begin_put(gateway.address(), "stuck");
    let status = gateway.terminate().expect("ends at the deadline");
    assert_eq!(status.code(), Some(0), "{}", gateway.stderr());
    assert!(stuck.closed(Duration::from_secs(5)).expect("a verdict"));
}

#[test]
fn sigint_ends_it_as_well() {
    let mut gateway = Records::embedded().builder().start().expect("the gateway starts");
    gateway.process().interrupt();
    assert_eq!(gateway.process().wait(ROUND_WITHIN).expect("ends").code(), Some(0));
}

/// Sends the head of a PUT of four bytes, and returns when the gateway asks for them.
fn begin_put(address: SocketAddr, key: &str) -> Client {
    let mut client = Client::connect(address).expect("a connection");
    let head = format!("PUT /records/{key} HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n");
    client.write(head.as_bytes()).expect("sent");
    client.read_continue().expect("100 Continue");
    client
}

#[test]
fn a_drain_answers_whoever_waits_for_a_change() {
    let mut gateway = Records::embedded().builder().start().expect("start");
    let mut client = Client::connect(gateway.address()).expect("connect");
    client.write(b"GET /records/none HTTP/1.1\r\nhost: a\r\nprefer: wait=60\r\n\r\n").expect("send");
    let waits = || gateway.metric("http_server_active_requests").is_some_and(|n| n > 0.0).then_some(());
    poll_until(ROUND_WITHIN, waits).expect("the request to wait");
    let begun = std::time::Instant::now();
    assert!(gateway.terminate().expect("terminate").success());
    assert_eq!(client.read("GET").expect("answer").status, 404);
    assert!(begun.elapsed() < Duration::from_secs(20), "the drain waited for the waiting");
}
