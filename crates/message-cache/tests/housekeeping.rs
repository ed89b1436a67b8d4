//! Retention, compaction and reads against a plain list of what was appended: whatever the policy, the clock and restarts
//! do, what must stay is served, and what must not be is not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use message_cache::{Clause, Clock, Filter, Header, LogOptions, NewRecord, OnCorruption, PartitionLog, Policy, Record, Shared};
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

/// Of files in memory, where there is such a place: nothing here depends on a disk.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
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
        let dir = directory();
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

    fn check_first(&self, clause: &Clause, expected: Option<i64>) {
        let first = self.log.first(clause).unwrap();
        assert_eq!(first.map(|r| r.offset()), expected, "the first of {clause:?}");
    }

    /// A filter gives what matches among what is read; the newest match is the last of them, the first match the first.
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
                    self.check_first(clause, expected.first().copied());
                }
            }
            let of_key: Vec<_> = read.iter().filter(|r| r.key() == Some(&[b'k', key])).collect();
            let clause = Clause { key: Some(vec![b'k', key]), headers: Vec::new() };
            self.check_first(&clause, of_key.first().map(|r| r.offset()));
        }
        self.check_first(&Clause::default(), read.first().map(Record::offset));
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
    #![proptest_config(ProptestConfig { cases: std::env::var("MODEL_CASES").map_or(1000, |n| n.parse().unwrap()), ..ProptestConfig::default() })]

    #[test]
    fn keeps_what_the_policy_says(rules in rules(), steps in proptest::collection::vec(step(), 1..40)) {
        let mut world = World::new(rules);
        for step in steps {
            world.apply(step);
            world.check();
        }
    }
}
