//! Files that are not as they were written: what is served was verified, what cannot be is refused, and the rest goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use integration::{Cluster, Records};
use testkit::{Gateway, http, poll_until};

/// For work that the gateway does in the background.
const WITHIN: Duration = Duration::from_secs(30);

/// Files of one kind below a directory, in order of their names.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Where `text` stands last in a file.
fn position(bytes: &[u8], text: &str) -> usize {
    let found = bytes.windows(text.len()).enumerate().rfind(|(_, window)| *window == text.as_bytes());
    found.unwrap_or_else(|| panic!("{text} is not in the file")).0
}

/// What is done to the only segment of the topic.
type Damage = fn(Vec<u8>) -> Vec<u8>;

fn torn_tail(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend_from_slice(&[7; 100]);
    bytes
}

fn flipped_bit(mut bytes: Vec<u8>) -> Vec<u8> {
    let at = position(&bytes, "second");
    bytes[at] ^= 1;
    bytes
}

fn unknown_version(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[8] = 2;
    bytes
}

/// Writes three records, two of key `a`; damages the segment while the gateway is down; and reads both keys again.
fn check(cluster: &Cluster, name: &str, damage: Damage, a: &[u16], b: &[u16]) -> Gateway {
    let one = Records { cached: "create: { partitions: 1 }".into(), ..Records::on(cluster) };
    let mut gateway = one.builder().without_ready().start().expect("start");
    gateway.wait_ready().expect("ready");
    for (key, value) in [("a", "first"), ("a", "second"), ("b", "third")] {
        assert_eq!(http::put(gateway.address(), &format!("/records/{key}"), value.as_bytes()).expect("put").status, 204);
    }
    let get = |gateway: &Gateway, key: &str| http::get(gateway.address(), &format!("/records/{key}")).expect("get");
    assert_eq!((get(&gateway, "a").text(), get(&gateway, "b").text()), ("second".into(), "third".into()));
    gateway.terminate().expect("terminate");
    let segments = files(gateway.dir(), "log");
    let [segment] = segments.as_slice() else { panic!("one segment is expected, not {segments:?}") };
    let damaged = damage(fs::read(segment).expect("read"));
    fs::write(segment, damaged).expect("write");
    gateway.restart().expect("restart");
    for (key, value, statuses) in [("a", "second", a), ("b", "third", b)] {
        let answer = get(&gateway, key);
        assert!(statuses.contains(&answer.status), "{name} on {}: GET {key}: {answer:?}", cluster.name());
        assert!(answer.status != 200 || answer.text() == value, "{name}: GET {key}: {answer:?}");
    }
    gateway
}

#[test]
fn a_torn_tail_is_cut() {
    for cluster in Cluster::both() {
        check(&cluster, "torn tail", torn_tail, &[200], &[200]);
    }
}

#[test]
fn a_flipped_bit_is_refused_or_fetched_again() {
    for cluster in Cluster::both() {
        // The cluster gives again what was cut off; until then, nobody is told that there is nothing.
        let (a, b): (&[u16], &[u16]) =
            if let Cluster::Embedded = cluster { (&[500], &[200]) } else { (&[200, 503], &[200, 503]) };
        let gateway = check(&cluster, "flipped bit", flipped_bit, a, b);
        match cluster {
            Cluster::Embedded => assert!(gateway.metric("tidegate_cache_corrupt_total").is_some_and(|n| n > 0.0)),
            Cluster::Kafka(_) => {
                let whole = || http::get(gateway.address(), "/records/a").is_ok_and(|answer| answer.text() == "second");
                poll_until(WITHIN, || whole().then_some(())).expect("the record to be fetched again");
            }
        }
    }
}

#[test]
fn an_unknown_version_is_refused_by_name() {
    let gateway = check(&Cluster::Embedded, "unknown version", unknown_version, &[503], &[503]);
    let readyz = gateway.readyz().expect("readyz");
    assert_eq!(readyz.status, 503);
    assert!(readyz.text().contains("segment format version 2"), "{readyz:?}");
    let put = http::put(gateway.address(), "/records/a", b"x").expect("put");
    assert_eq!((put.status, put.json()["written"].as_str()), (503, Some("no")), "nothing is written beside it: {put:?}");
}

#[test]
fn a_missing_index_is_made_again() {
    let records = Records { cache: "segment_bytes: 64KiB".into(), ..Records::embedded() };
    let mut gateway = records.builder().start().expect("start");
    let value = vec![b'x'; 10_000];
    for n in 0..40 {
        assert_eq!(http::put(gateway.address(), &format!("/records/k{n}"), &value).expect("put").status, 204);
    }
    let indexed = |gateway: &Gateway| poll_until(WITHIN, || (files(gateway.dir(), "index").len() > 3).then_some(()));
    indexed(&gateway).expect("sealed segments");
    gateway.terminate().expect("terminate");
    for index in files(gateway.dir(), "index") {
        fs::remove_file(index).expect("remove");
    }
    gateway.restart().expect("restart");
    for n in 0..40 {
        assert_eq!(http::get(gateway.address(), &format!("/records/k{n}")).expect("get").body.len(), value.len());
    }
    indexed(&gateway).expect("the indexes");
}
