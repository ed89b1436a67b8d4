//! Readers and look-ups beside retention and compaction, one story each.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use message_cache::{
    Clock, Event, Filter, From, LogOptions, NewRecord, OnCorruption, PartitionLog, Policy, ReadOptions, Reader, TopicCache,
};

const START_MS: i64 = 1_000_000;

/// A topic of one partition with a policy, and its log.
fn topic(policy: Policy) -> (tempfile::TempDir, Arc<TopicCache>, Arc<AtomicI64>) {
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicI64::new(START_MS));
    let options = LogOptions { segment_bytes: 2048, clock: Clock::Manual(Arc::clone(&now)), ..LogOptions::default() };
    let cache = TopicCache::open_exactly(dir.path(), "t", &options, 1).unwrap();
    cache.set_policy(policy);
    (dir, Arc::new(cache), now)
}

fn put(cache: &TopicCache, records: &[(&str, Option<&str>)], timestamp_ms: i64) {
    let log = cache.partition(0).unwrap();
    for (key, value) in records {
        let mut record =
            [NewRecord { timestamp_ms, key: Some(key.as_bytes()), value: value.map(str::as_bytes), ..NewRecord::default() }];
        log.append_next(&mut record).unwrap();
    }
}

fn read(reader: &mut Reader) -> Vec<String> {
    let mut events = Vec::new();
    while reader.poll(3, &mut events) {}
    let text = |e: Event| match e {
        Event::Record { record, .. } => {
            let text = |b: Option<&[u8]>| b.map_or("-".into(), |b| String::from_utf8_lossy(b).into_owned());
            format!("{}={}", text(record.key()), text(record.value()))
        }
        Event::Gap { offsets, .. } => format!("gap {}..{}", offsets.start, offsets.end),
        Event::Reset { .. } => "reset".into(),
        Event::Unreadable { .. } => "unreadable".into(),
    };
    events.into_iter().map(text).collect()
}

fn reader(cache: &Arc<TopicCache>, from: From) -> Reader {
    Reader::new(Arc::clone(cache), ReadOptions { from, filter: Filter::all(), conflate: None })
}

fn compacted() -> Policy {
    Policy { compact: true, ..Policy::default() }
}

#[test]
fn a_snapshot_has_the_latest_of_each_key_then_all_that_comes() {
    let (_dir, cache, _) = topic(compacted());
    put(&cache, &[("a", Some("1")), ("b", Some("1")), ("a", Some("2")), ("c", Some("1")), ("b", None)], 0);
    let mut snapshot = reader(&cache, From::Earliest);
    assert_eq!(read(&mut snapshot), ["a=2", "c=1"], "a tombstone of what was never seen is left out");
    put(&cache, &[("c", None), ("a", Some("3"))], 0);
    assert_eq!(read(&mut snapshot), ["c=-", "a=3"]);
    let all = ReadOptions { from: From::Earliest, filter: Filter::all(), conflate: Some(false) };
    assert_eq!(read(&mut Reader::new(Arc::clone(&cache), all)).len(), 5, "all, but the tombstones it never needed");
}

#[test]
fn a_slow_reader_skips_what_was_replaced_at_every_moment() {
    let (_dir, cache, _) = topic(compacted());
    put(&cache, &[("a", Some("1")), ("b", Some("1")), ("c", Some("1")), ("d", Some("1"))], 0);
    let mut slow = reader(&cache, From::Earliest);
    let mut events = Vec::new();
    slow.poll(1, &mut events);
    assert_eq!(events.len(), 1);
    put(&cache, &[("b", Some("2")), ("c", Some("2")), ("b", Some("3"))], 0);
    assert_eq!(read(&mut slow), ["d=1", "c=2", "b=3"]);
    assert_eq!(cache.partition(0).unwrap().stats().conflated, 3);
}

#[test]
fn a_reader_that_fell_behind_retention_is_told_what_it_missed() {
    let (_dir, cache, now) = topic(Policy { delete: true, retention_ms: Some(1000), ..Policy::default() });
    let text = "x".repeat(300);
    let rows: Vec<_> = (0..20).map(|_| ("a", Some(text.as_str()))).collect();
    put(&cache, &rows, START_MS);
    let mut slow = reader(&cache, From::Earliest);
    let mut events = Vec::new();
    slow.poll(2, &mut events);
    now.fetch_add(2000, Ordering::Relaxed);
    let log = cache.partition(0).unwrap();
    assert!(log.latest(b"a").unwrap().is_none(), "expired in the head, before any housekeeping");
    log.keep(&|| true).unwrap();
    let stats = log.stats();
    assert_eq!((stats.start_offset, stats.records, stats.expired), (20, 0, 20));
    assert!(stats.reclaimed_bytes > 6000, "{stats:?}");
    put(&cache, &[("b", Some("1"))], now.load(Ordering::Relaxed));
    assert_eq!(read(&mut slow), ["gap 2..20", "b=1"]);
}

#[test]
fn a_reader_is_told_when_a_topic_begins_anew() {
    let (_dir, cache, _) = topic(Policy::default());
    put(&cache, &[("a", Some("1"))], 0);
    let mut old = reader(&cache, From::Latest);
    assert!(read(&mut old).is_empty());
    cache.drop_all(1).unwrap();
    put(&cache, &[("a", Some("2"))], 0);
    assert_eq!(read(&mut old), ["reset", "a=2"]);
}

#[test]
fn a_tombstone_goes_when_its_time_has_come_and_not_before() {
    let (_dir, cache, now) = topic(Policy { delete_retention_ms: 1000, segment_ms: Some(10), ..compacted() });
    let log = cache.partition(0).unwrap();
    put(&cache, &[("a", Some("1")), ("a", None), ("b", Some("1"))], 0);
    let offsets = |log: &PartitionLog| log.scan(0).map(|r| r.unwrap().offset()).collect::<Vec<_>>();
    for (pass_ms, expected) in [(0, vec![0, 1, 2]), (11, vec![1, 2]), (999, vec![1, 2]), (2, vec![2])] {
        now.fetch_add(pass_ms, Ordering::Relaxed);
        log.keep(&|| true).unwrap();
        assert_eq!(offsets(&log), expected, "after {pass_ms} ms more");
    }
    let stats = log.stats();
    assert_eq!((stats.compacted, stats.tombstones, stats.start_offset, stats.end_offset), (1, 1, 0, 3));
}

#[test]
fn a_record_that_was_held_outlives_its_segment() {
    let (_dir, cache, now) = topic(Policy { segment_ms: Some(10), ..compacted() });
    put(&cache, &[("a", Some("1")), ("a", Some("2"))], 0);
    let log = cache.partition(0).unwrap();
    let old = log.scan(0).next().unwrap().unwrap();
    now.fetch_add(11, Ordering::Relaxed);
    log.keep(&|| true).unwrap();
    assert_eq!(log.scan(0).count(), 1);
    assert_eq!(old.value(), Some(&b"1"[..]));
    assert!(!log.is_latest(&old).unwrap());
}

/// A segment with a corrupt record stays as it is, and compaction goes on around it; nothing that it holds comes to light.
#[test]
fn compaction_goes_around_a_corrupt_record() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicI64::new(START_MS));
    let clock = Clock::Manual(Arc::clone(&now));
    let options = LogOptions { segment_bytes: 2048, on_corruption: OnCorruption::Keep, clock, ..LogOptions::default() };
    let cache = Arc::new(TopicCache::open_exactly(dir.path(), "t", &options, 1).unwrap());
    cache.set_policy(Policy { delete_retention_ms: 10, min_cleanable_dirty_ratio: 0.0, ..compacted() });
    let text = "x".repeat(200);
    let fill = || put(&cache, &[("a", Some(&text)), ("b", Some(&text)), ("c", Some(&text)), ("d", Some(&text))], START_MS);
    fill();
    fill();
    put(&cache, &[("gone", Some("the damaged segment has it"))], START_MS);
    fill();
    put(&cache, &[("gone", None)], START_MS);
    (0..4).for_each(|_| fill());
    let log = cache.partition(0).unwrap();
    let before = log.stats();
    // The record before that of the deleted key, in the same segment.
    let segments = || {
        let entries = std::fs::read_dir(dir.path().join("t/0")).unwrap().map(|e| e.unwrap().path());
        let mut paths: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "log")).collect();
        paths.sort();
        paths
    };
    let needle = b"the damaged segment has it";
    let holds = |path: &std::path::PathBuf| std::fs::read(path).unwrap().windows(needle.len()).any(|w| w == needle);
    let path = segments().into_iter().find(holds).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(50).position(|w| w == [b'x'; 50]).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"y", at as u64 + 20).unwrap();
    for turn in 0..4 {
        now.fetch_add(1000, Ordering::Relaxed);
        fill();
        fill();
        let _ = log.keep(&|| true);
        assert!(log.latest(b"gone").unwrap().is_none_or(|r| r.is_tombstone()), "turn {turn}");
        for key in [b"a", b"b", b"c", b"d"] {
            assert_eq!(log.latest(key).unwrap().unwrap().value(), Some(text.as_bytes()), "turn {turn}");
        }
    }
    assert!(segments().contains(&path), "the damaged segment is as it was");
    let after = log.stats();
    assert!(after.compacted > 20 && after.bytes < before.bytes, "{before:?} {after:?}");
}

/// Partitions were added, so a key is deleted in another one than it was written to.
#[test]
fn a_tombstone_stays_while_another_partition_has_what_it_deletes() {
    let (_dir, cache, now) =
        topic(Policy { delete_retention_ms: 10, segment_ms: Some(5), min_cleanable_dirty_ratio: 0.0, ..compacted() });
    put(&cache, &[("a", Some("1")), ("b", Some("1"))], 1);
    cache.ensure_partitions(2).unwrap();
    let (old, new) = (cache.partition(0).unwrap(), cache.partition(1).unwrap());
    let tombstone = |key, timestamp_ms| NewRecord { key: Some(key), timestamp_ms, ..NewRecord::default() };
    new.append_next(&mut [tombstone(b"a", 2), tombstone(b"z", 2)]).unwrap();
    let keep = || {
        for log in cache.partitions().iter() {
            now.fetch_add(100, Ordering::Relaxed);
            log.keep(&|| true).unwrap();
        }
    };
    (0..3).for_each(|_| keep());
    assert!(new.latest(b"a").unwrap().is_some_and(|r| r.is_tombstone()));
    assert!(new.latest(b"z").unwrap().is_none(), "nobody has an older one");
    old.append_next(&mut [tombstone(b"a", 3)]).unwrap();
    new.append_next(&mut [tombstone(b"y", 3)]).unwrap();
    (0..3).for_each(|_| keep());
    assert!(new.latest(b"a").unwrap().is_none() && old.latest(b"a").unwrap().is_none());
}

/// Two turns of housekeeping at once, and appends: no file goes that the manifest names.
#[test]
fn turns_of_housekeeping_do_not_meet() {
    let (dir, cache, _) = topic(Policy { min_cleanable_dirty_ratio: 0.0, ..compacted() });
    let log = cache.partition(0).unwrap();
    std::thread::scope(|scope| {
        let turns = || (0..60).for_each(|n| log.keep(&|| n % 3 > 0).unwrap());
        scope.spawn(turns);
        scope.spawn(turns);
        let text = "x".repeat(300);
        (0..600).for_each(|n| put(&cache, &[(&format!("k{}", n % 50), Some(&text))], 0));
    });
    assert_eq!(log.verify(), Vec::<String>::new());
    let options = LogOptions { on_corruption: OnCorruption::Keep, ..LogOptions::default() };
    let again = TopicCache::open_exactly(dir.path(), "t", &options, 1).unwrap();
    let keys = (0..50).filter(|n| again.partition(0).unwrap().latest(format!("k{n}").as_bytes()).unwrap().is_some());
    assert_eq!(keys.count(), 50);
}

#[test]
fn whether_times_rise_is_known() {
    let check = |times: &[i64], expected| {
        let (dir, cache, _) = topic(Policy::default());
        let text = "x".repeat(900);
        times.iter().for_each(|ms| put(&cache, &[("a", Some(&text))], *ms));
        assert_eq!(cache.partition(0).unwrap().is_ordered(), expected, "{times:?}");
        drop(cache);
        let again = TopicCache::open_exactly(dir.path(), "t", &LogOptions::default(), 1).unwrap();
        assert_eq!(again.partition(0).unwrap().is_ordered(), expected, "{times:?} after a restart");
    };
    check(&[], true);
    check(&[1, 1, 2, 3, 3, 4, 9], true);
    check(&[2, 1, 3, 4, 5, 6, 7], false);
    check(&[1, 2, 5, 4, 6, 7, 8], false);
    check(&[1, 2, 3, 4, 5, 6, 1], false);
}
