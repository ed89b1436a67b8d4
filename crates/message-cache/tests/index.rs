//! Indexes as a log uses them: over many segments, damaged, and of an older version.

use std::path::{Path, PathBuf};

use message_cache::{Clause, Clock, Filter, Header, LogOptions, NewRecord, PartitionLog, Policy, Shared};
use proptest::prelude::*;

const KEYS: u32 = 600;

fn open(dir: &Path) -> PartitionLog {
    let options = LogOptions { segment_bytes: 8192, ..LogOptions::default() };
    PartitionLog::open(dir, options, Shared::new(Policy::default(), Clock::System)).unwrap()
}

/// A log whose keys lie in many segments, every third of them twice; closed once all indexes are written.
fn written(dir: &Path) -> Vec<PathBuf> {
    let log = open(dir);
    for i in (0..KEYS).chain((0..KEYS).step_by(3)) {
        let (key, offset) = (i.to_le_bytes(), log.end_offset());
        let value = offset.to_le_bytes();
        log.append(&[NewRecord { offset, key: Some(&key), value: Some(&value), ..NewRecord::default() }]).unwrap();
    }
    let segments = log.stats().segments;
    assert!(segments > 4, "{segments} segments");
    loop {
        let files = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
        let mut indexes: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == "index")).collect();
        if indexes.len() == segments - 1 {
            indexes.sort();
            return indexes;
        }
        std::thread::yield_now();
    }
}

/// The offset that the newest record of a key has, as [`written`] wrote it.
fn newest(key: u32) -> i64 {
    i64::from(if key.is_multiple_of(3) { KEYS + key / 3 } else { key })
}

/// Every key is answered rightly, or with an error if that is allowed; and no key that was not written.
fn check(dir: &Path, errors_allowed: bool) {
    let log = open(dir);
    for key in 0..KEYS {
        match log.latest(&key.to_le_bytes()) {
            Ok(found) => assert_eq!(found.map(|r| r.offset()), Some(newest(key)), "key {key}"),
            Err(e) => assert!(errors_allowed && e.to_string().contains("index page"), "key {key}: {e}"),
        }
    }
    for key in KEYS..2 * KEYS {
        assert!(matches!(log.latest(&key.to_le_bytes()), Ok(None)) || errors_allowed, "key {key}");
    }
}

#[test]
fn keys_are_found_in_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    check(dir.path(), false);
}

#[test]
fn an_index_of_version_1_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let indexes = written(dir.path());
    let path = &indexes[1];
    let whole = std::fs::read(path).unwrap();
    let mut old = whole.clone();
    old[8] = 1;
    let crc = crc32c::crc32c(&old[16..128]);
    old[12..16].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(path, old).unwrap();
    // The sealer makes it for a log that is open.
    let log = open(dir.path());
    assert_eq!(log.latest(&3u32.to_le_bytes()).unwrap().map(|r| r.offset()), Some(newest(3)));
    while std::fs::read(path).unwrap() != whole {
        std::thread::yield_now();
    }
    drop(log);
    check(dir.path(), false);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_damaged_index_brings_no_older_record_to_light(
        file: prop::sample::Index,
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 0..8u8), 1..3),
        cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let indexes = written(dir.path());
        let path = file.get(&indexes);
        let mut bytes = std::fs::read(path).unwrap();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if let Some(at) = cut {
            bytes.truncate(at.index(bytes.len()));
        }
        std::fs::write(path, bytes).unwrap();
        check(dir.path(), true);
    }
}

#[test]
fn filters() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let header = |name, value| Header { name, value };
    let headers: [&[Header<'_>]; 4] =
        [&[], &[header("h", None)], &[header("h", Some(b"1")), header("h", Some(b"2"))], &[header("i", Some(b"1"))]];
    let keys: [Option<&[u8]>; 4] = [None, Some(b"k"), Some(b"k"), Some(b"")];
    for (offset, (key, headers)) in (0..).zip(keys.iter().zip(headers)) {
        log.append(&[NewRecord { offset, key: *key, headers, ..NewRecord::default() }]).unwrap();
    }
    let clause = |key: Option<&str>, headers: &[(&str, Option<&str>)]| Clause {
        key: key.map(|k| k.as_bytes().to_vec()),
        headers: headers.iter().map(|(n, v)| ((*n).to_owned(), v.map(|v| v.as_bytes().to_vec()))).collect(),
    };
    let cases: [(Vec<Clause>, &[i64]); 9] = [
        (vec![], &[]),
        (vec![Clause::default()], &[0, 1, 2, 3]),
        (vec![clause(Some("k"), &[])], &[1, 2]),
        (vec![clause(Some(""), &[])], &[3]),
        (vec![clause(None, &[("h", None)])], &[1]),
        (vec![clause(None, &[("h", Some("1"))])], &[2]),
        (vec![clause(None, &[("h", Some("1")), ("h", Some("2"))])], &[2]),
        (vec![clause(Some("k"), &[("i", Some("1"))])], &[]),
        (vec![clause(Some("k"), &[("h", None)]), clause(None, &[("i", Some("1"))])], &[1, 3]),
    ];
    for (any, expected) in cases {
        let filter = Filter { any };
        let found: Vec<_> = log.scan(0).map(Result::unwrap).filter(|r| filter.matches(r)).map(|r| r.offset()).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
}
