//! The log against a plain list: what was appended is served, and nothing else, whatever happens to the process and the
//! files between.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use message_cache::{Clock, Header, LogOptions, NewRecord, OnCorruption, PartitionLog, Policy, Record, Shared, TimestampType};
use proptest::prelude::*;

#[derive(Clone, Debug, PartialEq)]
struct Row {
    offset: i64,
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Records of (gap before, key, value length or tombstone, time).
    Append(Vec<(u8, Option<u8>, Option<u16>, u16)>),
    Restart,
    /// The process dies while it writes: bytes that are no record lie behind the last one.
    TornTail(Vec<u8>),
    LoseIndexes,
}

/// Of files in memory, where there is such a place: nothing here depends on a disk.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn step() -> impl Strategy<Value = Step> {
    let record = (0..3u8, proptest::option::weighted(0.9, 0..12u8), proptest::option::weighted(0.8, 0..400u16), any::<u16>());
    prop_oneof![
        6 => proptest::collection::vec(record, 1..30).prop_map(Step::Append),
        1 => Just(Step::Restart),
        1 => proptest::collection::vec(any::<u8>(), 1..200).prop_map(Step::TornTail),
        1 => Just(Step::LoseIndexes),
    ]
}

fn options(on_corruption: OnCorruption) -> LogOptions {
    LogOptions { segment_bytes: 4096, on_corruption, ..LogOptions::default() }
}

fn open(dir: &Path, on_corruption: OnCorruption) -> PartitionLog {
    PartitionLog::open(dir, options(on_corruption), Shared::new(Policy::default(), Clock::System)).unwrap()
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == extension));
    paths.sort();
    paths
}

fn append(log: &PartitionLog, model: &mut Vec<Row>, batch: &[(u8, Option<u8>, Option<u16>, u16)]) {
    let mut offset = log.end_offset();
    let rows: Vec<_> = batch
        .iter()
        .map(|&(gap, key, len, time)| {
            offset += i64::from(gap);
            let value = len.map(|n| vec![offset as u8; usize::from(n)]);
            let row = Row { offset, timestamp_ms: i64::from(time), key: key.map(|k| vec![b'k', k]), value };
            offset += 1;
            row
        })
        .collect();
    let headers = [Header { name: "a", value: None }, Header { name: "a", value: Some(b"1") }];
    let records: Vec<_> = rows
        .iter()
        .map(|r| NewRecord {
            offset: r.offset,
            timestamp_ms: r.timestamp_ms,
            timestamp_type: TimestampType::Create,
            key: r.key.as_deref(),
            value: r.value.as_deref(),
            headers: &headers,
        })
        .collect();
    log.append(&records).unwrap();
    model.extend(rows);
}

fn row(record: &Record) -> Row {
    let names: Vec<_> = record.headers().map(|h| (h.name.to_owned(), h.value.map(<[u8]>::to_vec))).collect();
    assert_eq!(names, [("a".to_owned(), None), ("a".to_owned(), Some(b"1".to_vec()))]);
    Row {
        offset: record.offset(),
        timestamp_ms: record.timestamp_ms(),
        key: record.key().map(<[u8]>::to_vec),
        value: record.value_bytes().map(|b| b.to_vec()),
    }
}

fn check(log: &PartitionLog, model: &[Row]) {
    let mut newest = BTreeMap::new();
    for row in model {
        if let Some(key) = &row.key {
            newest.insert(key.clone(), row);
        }
    }
    for key in (0..14u8).map(|k| vec![b'k', k]) {
        assert_eq!(log.latest(&key).unwrap().as_ref().map(row).as_ref(), newest.get(&key).copied());
    }
    let end = model.last().map_or(0, |r| r.offset + 1);
    assert_eq!(log.last(), model.last().map(|r| (r.offset, r.timestamp_ms)));
    for from in [0, end / 3, end / 2, end - 1, end, end + 5] {
        let read: Vec<_> = log.scan(from).map(|r| row(&r.unwrap())).collect();
        let expected: Vec<_> = model.iter().filter(|r| r.offset >= from).cloned().collect();
        assert_eq!(read, expected, "scan from {from}");
    }
    for time in [0, 1000, 30_000, 65_535, 65_536] {
        let expected = model.iter().find(|r| r.timestamp_ms >= time).map_or(log.end_offset(), |r| r.offset);
        assert_eq!(log.offset_for_time(time), expected, "offset for {time}");
    }
    let latest = log.scan(0).map(Result::unwrap).filter(|r| log.is_latest(r).unwrap()).count();
    assert_eq!(latest, newest.len());
    assert_eq!(log.stats().records, model.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn serves_what_was_appended(steps in proptest::collection::vec(step(), 1..25), keep: bool) {
        let on_corruption = if keep { OnCorruption::Keep } else { OnCorruption::Refetch };
        let dir = directory();
        let mut log = open(dir.path(), on_corruption);
        let mut model = Vec::new();
        for step in steps {
            match step {
                Step::Append(batch) => append(&log, &mut model, &batch),
                Step::Restart => {
                    drop(log);
                    log = open(dir.path(), on_corruption);
                }
                Step::TornTail(bytes) => {
                    drop(log);
                    if let Some(last) = files(dir.path(), "log").last() {
                        use std::io::Write;
                        std::fs::OpenOptions::new().append(true).open(last).unwrap().write_all(&bytes).unwrap();
                    }
                    log = open(dir.path(), on_corruption);
                    let torn = log.stats().truncated_bytes;
                    prop_assert!(log.is_fresh() || torn == bytes.len() as u64, "{torn}");
                }
                Step::LoseIndexes => {
                    drop(log);
                    for path in files(dir.path(), "index") {
                        std::fs::remove_file(path).unwrap();
                    }
                    log = open(dir.path(), on_corruption);
                }
            }
            check(&log, &model);
        }
    }

    /// One flipped bit anywhere in any file: what is served is what was written; the rest is an error or, where the
    /// cluster can be asked again, gone from there on.
    #[test]
    fn a_flipped_bit_is_never_served(
        batches in proptest::collection::vec(proptest::collection::vec((Just(0u8), proptest::option::weighted(0.9, 0..12u8), proptest::option::weighted(0.8, 0..400u16), any::<u16>()), 1..30), 1..12),
        keep: bool, while_open: bool, file: prop::sample::Index, at: prop::sample::Index, bit in 0..8u8,
    ) {
        use std::os::unix::fs::FileExt;
        let on_corruption = if keep { OnCorruption::Keep } else { OnCorruption::Refetch };
        let dir = directory();
        let mut log = open(dir.path(), on_corruption);
        let mut model = Vec::new();
        for batch in &batches {
            append(&log, &mut model, batch);
        }
        let mut paths = files(dir.path(), "log");
        paths.extend(files(dir.path(), "index"));
        let path = &paths[file.index(paths.len())];
        let f = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let at = at.index(f.metadata().unwrap().len() as usize) as u64;
        let mut byte = [0];
        f.read_exact_at(&mut byte, at).unwrap();
        f.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
        if !while_open {
            drop(log);
            match PartitionLog::open(dir.path(), options(on_corruption), Shared::new(Policy::default(), Clock::System)) {
                Ok(opened) => log = opened,
                Err(e) => {
                    prop_assert!(at < 64, "{e}"); // the header of a segment: refused by name
                    return Ok(());
                }
            }
        }
        let written: BTreeMap<_, _> = model.iter().map(|r| (r.offset, r)).collect();
        let mut served = 0;
        for record in log.scan(0).filter_map(Result::ok) {
            prop_assert_eq!(&row(&record), written[&record.offset()]);
            served += 1;
        }
        if keep || while_open {
            // In the last write it cannot be told from a write that a crash tore: that is cut off from there on.
            let lost_max = if while_open { 1 } else { batches.last().unwrap().len().max(1) };
            prop_assert!(served + lost_max >= model.len(), "{} of {} are left", served, model.len());
        }
        let end = if keep || while_open { i64::MAX } else { log.end_offset() };
        for key in (0..12u8).map(|k| vec![b'k', k]) {
            let newest = model.iter().rfind(|r| r.offset < end && r.key.as_ref() == Some(&key));
            if let Ok(found) = log.latest(&key) {
                let found = found.as_ref().map(row);
                // A corrupt record that recovery stepped over is in no index: the one before it is the newest there is.
                let lost_by_recovery = keep && !while_open;
                prop_assert!(found.as_ref() == newest || lost_by_recovery, "{:?} for {:?}", found, newest);
            }
        }
    }
}

#[test]
fn reset_begins_a_new_life() {
    let dir = directory();
    let path = dir.path().join("0");
    let log = open(&path, OnCorruption::Refetch);
    let mut model = Vec::new();
    append(&log, &mut model, &[(0, Some(1), Some(300), 1); 40]);
    let held = log.latest(b"k\x01").unwrap().unwrap();
    log.reset(1000).unwrap();
    assert_eq!((log.start_offset(), log.end_offset(), log.is_fresh()), (1000, 1000, false));
    assert_eq!(log.scan(0).count(), 0);
    assert_eq!(row(&held), model[39], "a reader keeps what it holds");
    drop(log);
    let log = open(&path, OnCorruption::Refetch);
    assert_eq!((log.start_offset(), log.end_offset()), (1000, 1000));
    log.clear().unwrap();
    assert!(log.is_fresh() && log.end_offset() == 0);
    append(&log, &mut Vec::new(), &[(7, Some(1), Some(3), 1)]);
    assert_eq!((log.start_offset(), log.end_offset()), (7, 8));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing of former lives is left");
}

/// A corrupt record is refused, while the log is open and after a restart: an older one must not stand in for it.
#[test]
fn a_key_whose_newest_record_is_corrupt_is_refused() {
    use std::os::unix::fs::FileExt;
    // What is damaged, and whether its key is still told from the others after a restart.
    for (damage, known_after_restart) in [(&b"newest"[..], true), (b"k\x01", false)] {
        let dir = directory();
        let log = open(dir.path(), OnCorruption::Keep);
        let of = |offset, key, value| NewRecord { offset, key: Some(key), value: Some(value), ..NewRecord::default() };
        for record in [of(0, b"k\x01", b"older"), of(1, b"k\x01", b"newest"), of(2, b"k\x02", b"other")] {
            log.append(&[record]).unwrap();
        }
        let path = &files(dir.path(), "log")[0];
        let bytes = std::fs::read(path).unwrap();
        let at = bytes.windows(damage.len()).enumerate().rfind(|(_, w)| *w == damage).unwrap().0;
        std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"x", at as u64).unwrap();
        assert!(log.latest(b"k\x01").is_err());
        assert!(log.latest(b"k\x02").is_ok());
        assert_eq!(log.stats().corrupt, 1);
        drop(log);
        let log = open(dir.path(), OnCorruption::Keep);
        assert_eq!(log.latest(b"k\x01").is_err(), known_after_restart);
        assert!(log.latest(b"k\x02").unwrap().is_some());
        assert_eq!((log.scan(0).filter(Result::is_ok).count(), log.end_offset()), (2, 3));
    }
}
