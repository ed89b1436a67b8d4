//! Retention, compaction and readers against a plain list of what was appended: whatever the policy, the clock and restarts
//! do, what must stay is served, and what must not be is not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use message_cache::{
    Clause, Clock, Event, Filter, From, Header, LogOptions, NewRecord, OnCorruption, PartitionLog, Policy, ReadOptions, Reader,
    Record, Shared, TopicCache,
};
use proptest::prelude::*;

const START_MS: i64 = 1_000_000;

#[derive(Clone, PartialEq)]
struct Row {
    offset: i64,
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    /// Whether it had expired when the log was compacted.
    may_be_gone: bool,
}

#[derive(Clone, Debug)]
enum Step {
    /// Records of (gap before, key, value length or tombstone, age in ms).
    Append(Vec<(u8, Option<u8>, Option<u16>, u8)>),
    Pass(u16),
    Keep,
    Alter(Rules),
    MoveStart(u8),
    Skip(u8),
    DropOldest,
    Restart,
    Reset(u8),
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    compact: bool,
    delete: bool,
    retention_ms: Option<i64>,
    retention_bytes: Option<u64>,
    delete_retention_ms: i64,
    lag_ms: (i64, Option<i64>),
    ratio: f64,
    segment: (Option<u64>, Option<i64>),
}

impl Rules {
    fn policy(self) -> Policy {
        Policy {
            compact: self.compact,
            delete: self.delete,
            retention_ms: self.retention_ms,
            retention_bytes: self.retention_bytes,
            delete_retention_ms: self.delete_retention_ms,
            min_compaction_lag_ms: self.lag_ms.0,
            max_compaction_lag_ms: self.lag_ms.1,
            min_cleanable_dirty_ratio: self.ratio,
            segment_bytes: self.segment.0,
            segment_ms: self.segment.1,
        }
    }
}

fn rules() -> impl Strategy<Value = Rules> {
    let option = |s: std::ops::Range<i64>| proptest::option::of(s);
    let time = (option(0..3000), proptest::option::of(0..20_000u64), 0..2000i64, (0..500i64, option(1..2000)));
    let shape = (0..3u8, (proptest::option::of(300..4000u64), option(1..3000)));
    (any::<bool>(), any::<bool>(), time, shape).prop_map(
        |(compact, delete, (retention_ms, retention_bytes, delete_retention_ms, lag_ms), (ratio, segment))| Rules {
            compact,
            delete,
            retention_ms,
            retention_bytes,
            delete_retention_ms,
            lag_ms,
            ratio: f64::from(ratio) / 4.0,
            segment,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let record = (0..3u8, proptest::option::weighted(0.95, 0..12u8), proptest::option::weighted(0.75, 0..400u16), any::<u8>());
    prop_oneof![
        6 => proptest::collection::vec(record, 1..30).prop_map(Step::Append),
        4 => Just(Step::Keep),
        3 => (0..1500u16).prop_map(Step::Pass),
        1 => rules().prop_map(Step::Alter),
        1 => any::<u8>().prop_map(Step::MoveStart),
        1 => any::<u8>().prop_map(Step::Skip),
        1 => Just(Step::Restart),
        1 => Just(Step::DropOldest),
        1 => any::<u8>().prop_map(Step::Reset),
    ]
}

struct World {
    dir: tempfile::TempDir,
    now: Arc<AtomicI64>,
    shared: Arc<Shared>,
    log: PartitionLog,
    rows: Vec<Row>,
    rules: Rules,
    /// Whether anything may have been compacted in this life of the log.
    compacted: bool,
    end: i64,
    /// Below this, records may be gone: by what moved the start, or by retention.
    start_max: i64,
}

fn open(dir: &Path, shared: &Arc<Shared>) -> PartitionLog {
    let clock = shared.clock.clone();
    let options = LogOptions { segment_bytes: 4096, on_corruption: OnCorruption::Keep, clock, ..LogOptions::default() };
    PartitionLog::open(dir, options, Arc::clone(shared)).unwrap()
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "record {} of {:?} at {}", self.offset, self.key, self.timestamp_ms)
    }
}

impl World {
    fn new(rules: Rules) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = Arc::new(AtomicI64::new(START_MS));
        let shared = Shared::new(rules.policy(), Clock::Manual(Arc::clone(&now)));
        let log = open(&dir.path().join("0"), &shared);
        Self { dir, now, shared, log, rows: Vec::new(), rules, compacted: false, end: 0, start_max: 0 }
    }

    fn now(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Append(batch) => self.append(&batch),
            Step::Pass(ms) => drop(self.now.fetch_add(i64::from(ms), Ordering::Relaxed)),
            Step::Keep => {
                self.keep();
            }
            Step::Alter(rules) => {
                self.rules = rules;
                self.shared.set_policy(rules.policy());
            }
            Step::MoveStart(at) => {
                let (start, end) = (self.log.start_offset(), self.log.end_offset());
                let to = start + (end - start) * i64::from(at) / 255;
                self.log.move_start(to).unwrap();
                self.start_max = self.start_max.max(to);
            }
            Step::Skip(n) => {
                if !self.log.is_fresh() {
                    self.end += i64::from(n);
                    self.log.skip_to(self.end);
                }
            }
            Step::DropOldest => {
                self.log.drop_oldest().unwrap();
                self.start_max = self.start_max.max(self.log.start_offset());
            }
            Step::Restart => {
                self.keep(); // what moves the start is not durable before
                let (start, end) = (self.log.start_offset(), self.log.end_offset());
                self.log = open(&self.dir.path().join("0"), &self.shared);
                assert_eq!((self.log.start_offset(), self.log.end_offset()), (start, end), "after a restart");
            }
            Step::Reset(at) => {
                if at < 200 {
                    return;
                }
                self.log.reset(i64::from(at)).unwrap();
                self.rows.clear();
                (self.end, self.start_max, self.compacted) = (i64::from(at), i64::from(at), false);
            }
        }
    }

    fn keep(&mut self) {
        let before = self.log.stats();
        self.log.keep(&|| true).unwrap();
        if self.rules.compact && self.log.stats() != before {
            self.compacted = true;
            let expired: Vec<bool> = self.rows.iter().map(|r| self.is_expired(r)).collect();
            self.rows.iter_mut().zip(expired).for_each(|(r, expired)| r.may_be_gone |= expired);
        }
        self.check_retention();
    }

    fn append(&mut self, batch: &[(u8, Option<u8>, Option<u16>, u8)]) {
        let fresh = self.log.is_fresh();
        let appended_ms = self.now();
        let rows: Vec<_> = batch
            .iter()
            .map(|&(gap, key, len, age)| {
                let offset = self.end + i64::from(gap);
                self.end = offset + 1;
                let value = len.map(|n| vec![offset as u8; usize::from(n)]);
                Row {
                    offset,
                    timestamp_ms: appended_ms - i64::from(age),
                    key: key.map(|k| vec![b'k', k]),
                    value,
                    may_be_gone: false,
                }
            })
            .collect();
        if fresh {
            self.start_max = rows[0].offset;
        }
        let of = |r: &Row| (r.key.clone(), r.value.clone());
        let parts: Vec<_> = rows.iter().map(of).collect();
        let headers: Vec<_> = rows.iter().map(|r| [r.offset as u8 % 2]).collect();
        let headers: Vec<_> = (parts.iter().zip(&headers))
            .map(|((key, _), odd)| [Header { name: "odd", value: Some(odd) }, Header { name: "key", value: key.as_deref() }])
            .collect();
        let records: Vec<_> = (rows.iter().zip(&parts).zip(&headers))
            .map(|((r, (key, value)), headers)| NewRecord {
                headers,
                offset: r.offset,
                timestamp_ms: r.timestamp_ms,
                key: key.as_deref(),
                value: value.as_deref(),
                ..NewRecord::default()
            })
            .collect();
        self.log.append(&records).unwrap();
        self.rows.extend(rows);
    }

    /// The start moved only over what had to go.
    fn check_retention(&mut self) {
        let start = self.log.start_offset();
        if start > self.start_max {
            assert!(self.rules.delete, "only deletion moves the start");
            let gone = self.rows.iter().filter(|r| r.offset >= self.start_max && r.offset < start);
            let unexpired = gone.filter(|r| !self.is_expired(r)).count();
            let left = self.log.stats().bytes;
            // With both rules, time may have taken more once bytes were within their bound.
            let by_bytes = self.rules.retention_bytes.is_some_and(|max| left >= max || self.rules.retention_ms.is_some());
            // Compaction and drops for another reason may have removed bytes since: then it is not known.
            assert!(unexpired == 0 || by_bytes || self.compacted, "{unexpired} unexpired records are gone");
            self.start_max = start;
        }
    }

    fn is_expired(&self, row: &Row) -> bool {
        self.rules.delete && self.rules.retention_ms.is_some_and(|ms| row.timestamp_ms < self.now() - ms)
    }

    fn check(&self) {
        let start = self.log.start_offset();
        assert!(start <= self.start_max, "{start} > {}", self.start_max);
        assert_eq!(self.log.end_offset(), self.end.max(start));
        let visible: Vec<&Row> = self.rows.iter().filter(|r| r.offset >= start && !self.is_expired(r)).collect();
        let newest: BTreeMap<_, &Row> = self.rows.iter().filter_map(|r| Some((r.key.clone()?, r))).collect();
        let read: Vec<Record> = self.log.scan(0).map(Result::unwrap).collect();
        self.check_records(&read, &visible, &newest);
        self.check_filter(&read);
        assert_eq!(self.log.verify(), Vec::<String>::new());
        for (key, row) in &newest {
            let found = self.log.latest(key).unwrap();
            let served = row.offset >= start && !self.is_expired(row);
            match found {
                Some(r) => assert!(served && r.offset() == row.offset, "{:?} for {row:?}", r.offset()),
                None => assert!(!served || row.may_be_gone || row.value.is_none() && self.compacted, "{row:?} is gone"),
            }
        }
        for from in [start, (start + self.end) / 2, self.end] {
            let taken = self.take_all(from, &Filter::all());
            let expected: Vec<i64> = read.iter().map(Record::offset).filter(|o| *o >= from).collect();
            assert_eq!(taken, expected, "taken from {from}");
        }
    }

    fn take_all(&self, from: i64, filter: &Filter) -> Vec<i64> {
        let from = from.max(self.log.start_offset());
        let mut offsets = Vec::new();
        let mut next = from;
        loop {
            let want =
                message_cache::Want { from: next, records_max: 7, bytes_max: 2000, filter, conflate: false, tombstones_from: 0 };
            let taken = self.log.take(&want);
            assert!(taken.fault.is_none() && taken.gap.is_none());
            offsets.extend(taken.records.iter().map(Record::offset));
            if taken.next == next {
                assert!(taken.records.is_empty());
                return offsets;
            }
            next = taken.next;
        }
    }

    /// A filter gives what matches among what is read; the newest match is the last of them.
    fn check_filter(&self, read: &[Record]) {
        for key in 0..4u8 {
            let clause = |odd: u8| Clause { key: Some(vec![b'k', key]), headers: vec![("odd".into(), Some(vec![odd]))] };
            let by_header = Clause { key: None, headers: vec![("key".into(), Some(vec![b'k', key]))] };
            for any in [vec![clause(0)], vec![by_header.clone()], vec![clause(1), by_header]] {
                let filter = Filter { any };
                let expected: Vec<i64> = read.iter().filter(|r| filter.matches(r)).map(Record::offset).collect();
                assert_eq!(self.take_all(0, &filter), expected);
                if let [clause] = filter.any.as_slice() {
                    let newest = self.log.newest(clause, false).unwrap();
                    assert_eq!(newest.map(|r| r.offset()), expected.last().copied());
                }
            }
        }
    }

    /// What is read is what was written, in order; nothing is missing that must be there.
    fn check_records(&self, read: &[Record], visible: &[&Row], newest: &BTreeMap<Vec<u8>, &Row>) {
        let mut rest = visible.iter();
        for r in read {
            let row = rest.find(|row| row.offset == r.offset()).unwrap_or_else(|| panic!("{r:?} was not to be read"));
            assert_eq!((r.timestamp_ms(), r.key(), r.value()), (row.timestamp_ms, row.key.as_deref(), row.value.as_deref()));
        }
        if !self.compacted {
            assert_eq!(read.len(), visible.len(), "nothing was compacted");
        }
        for row in visible {
            let is_newest = row.key.as_ref().is_some_and(|k| newest[k].offset == row.offset);
            if is_newest && row.value.is_some() && !row.may_be_gone {
                assert!(read.iter().any(|r| r.offset() == row.offset), "{row:?} is the newest of its key and gone");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("MODEL_CASES").map_or(150, |n| n.parse().unwrap()), ..ProptestConfig::default() })]

    #[test]
    fn keeps_what_the_policy_says(rules in rules(), steps in proptest::collection::vec(step(), 1..40)) {
        let mut world = World::new(rules);
        for step in steps {
            world.apply(step);
            world.check();
        }
    }
}

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
