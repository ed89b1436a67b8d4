//! A reader whose every event is held against what must come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use message_cache::{Clock, Event, Filter, From, ReadOptions, Reader, Record};

use crate::Soak;
use crate::topics::{self, Kind, PARTITIONS};

/// Records of one poll of a reader that passes, and of one that reads everything.
const SOME: usize = 64;
const MANY: usize = 8192;
/// A reader that passes stays for at most so many records.
const STAY_MAX: u64 = 5000;
/// And so many polls without one.
const IDLE_POLLS_MAX: u32 = 20;

#[derive(Default)]
pub struct Tally {
    pub readers: u64,
    pub records: u64,
    /// Offsets that a reader of a compacted topic stepped over.
    pub skipped: u64,
    pub gaps: u64,
    pub missed: u64,
}

impl Tally {
    pub fn and(self, other: Self) -> Self {
        Self {
            readers: self.readers + other.readers,
            records: self.records + other.records,
            skipped: self.skipped + other.skipped,
            gaps: self.gaps + other.gaps,
            missed: self.missed + other.missed,
        }
    }
}

pub struct Checked {
    pub topic: usize,
    kind: Kind,
    reader: Reader,
    /// The offset that must come next, by partition; `None` until the first record of a reader from a time.
    next: [Option<i64>; PARTITIONS],
    /// Offset of the last record seen by key; only of those that read everything.
    seen: Option<Vec<i64>>,
    /// Records that it still stays for.
    stay: u64,
    idle_polls: u32,
    poll: usize,
}

impl Checked {
    /// Reads everything from the start on, and stays.
    pub fn whole(soak: &Soak, topic: usize) -> Self {
        let seen = Some(vec![-1; soak.keys as usize]);
        Self { seen, stay: u64::MAX, poll: MANY, ..Self::new(soak, topic, From::Earliest) }
    }

    /// Reads for a while, from anywhere, or from where another has left.
    pub fn passing(soak: &Soak, topic: usize, left_at: Option<BTreeMap<i32, i64>>) -> Self {
        let from = match (fastrand::u8(..5), left_at) {
            (0 | 1, Some(positions)) => From::Positions(positions),
            (2, _) => From::Earliest,
            (3, _) => From::Timestamp(Clock::System.now_ms() - fastrand::i64(..60_000)),
            _ => From::Latest,
        };
        Self { stay: fastrand::u64(1..STAY_MAX), ..Self::new(soak, topic, from) }
    }

    fn new(soak: &Soak, topic: usize, from: From) -> Self {
        let cache = Arc::clone(&soak.topics[topic].cache);
        let reader = Reader::new(cache, ReadOptions { from, filter: Filter::all(), conflate: None });
        // Where it begins is where it says: what was written before is not its matter.
        let mut next = [None; PARTITIONS];
        for (partition, at) in reader.positions() {
            next[partition as usize] = Some(at);
        }
        Self { topic, kind: soak.topics[topic].kind, reader, next, seen: None, stay: 0, idle_polls: 0, poll: SOME }
    }

    pub fn is_done(&self) -> bool {
        self.stay == 0 || self.seen.is_none() && self.idle_polls > IDLE_POLLS_MAX
    }

    pub fn lag(&self) -> u64 {
        self.reader.lag()
    }

    /// Where it left off, for a reader after it.
    pub fn left_at(&self) -> Option<BTreeMap<i32, i64>> {
        Some(self.reader.positions())
    }

    /// Takes what comes and checks it; says whether there may be more at once.
    pub fn poll(&mut self, soak: &Soak, events: &mut Vec<Event>, tally: &mut Tally) -> bool {
        if self.is_done() {
            return false;
        }
        let more = self.reader.poll(self.poll, events);
        self.idle_polls = if events.is_empty() { self.idle_polls + 1 } else { 0 };
        for event in events.drain(..) {
            match event {
                Event::Record { partition, record } => self.meet(soak, partition, &record, tally),
                Event::Gap { partition, offsets } => self.gap(soak, partition, &offsets, tally),
                other => soak.fault(format!("{:?}: {other:?}", self.kind)),
            }
        }
        // What was stepped over at the end of a poll is behind it, too.
        for (partition, at) in self.reader.positions() {
            let next = &mut self.next[partition as usize];
            if *next != Some(at) && self.kind != Kind::Compacted {
                soak.fault(format!("{:?}/{partition}: stands at {at} and has shown all up to {next:?}", self.kind));
            }
            *next = Some(at);
        }
        more
    }

    fn meet(&mut self, soak: &Soak, partition: i32, record: &Record, tally: &mut Tally) {
        let (offset, kind) = (record.offset(), self.kind);
        let next = self.next[partition as usize].unwrap_or(offset);
        let is_due = if kind == Kind::Compacted { offset >= next } else { offset == next };
        if !is_due {
            soak.fault(format!("{kind:?}/{partition}: offset {offset} came, {next} was due"));
        }
        tally.skipped += u64::try_from(offset - next).unwrap_or(0);
        self.next[partition as usize] = Some(offset + 1);
        let number = record.key().and_then(topics::number).filter(|n| *n < soak.keys);
        let right = number.zip(record.value()).is_some_and(|(n, value)| topics::is_value(value, offset, n));
        if !right {
            soak.fault(format!("{kind:?}/{partition}: offset {offset} is not what was written: {record:?}"));
        }
        if let (Some(seen), Some(n)) = (&mut self.seen, number) {
            seen[n as usize] = offset;
        }
        tally.records += 1;
        self.stay = self.stay.saturating_sub(1);
    }

    fn gap(&mut self, soak: &Soak, partition: i32, offsets: &std::ops::Range<i64>, tally: &mut Tally) {
        let next = &mut self.next[partition as usize];
        if next.is_some_and(|n| n != offsets.start) || self.kind != Kind::Newest {
            soak.fault(format!("{:?}/{partition}: a gap of {offsets:?}, {next:?} was due", self.kind));
        }
        *next = Some(offsets.end);
        tally.gaps += 1;
        tally.missed += u64::try_from(offsets.end - offsets.start).unwrap_or(0);
    }

    /// When all is written and read: it has the last record of every key, as has a snapshot that is taken now.
    pub fn check_end(&self, soak: &Soak, tally: &mut Tally) {
        let topic = &soak.topics[self.topic];
        let truth: Vec<i64> = topic.last.iter().map(|l| l.load(Ordering::Acquire)).collect();
        self.compare(soak, "read from the start", &truth);
        let mut fresh = Self::whole(soak, self.topic);
        let mut events = Vec::new();
        while fresh.poll(soak, &mut events, tally) {}
        fresh.compare(soak, "a snapshot at the end", &truth);
        tally.readers += 1;
    }

    fn compare(&self, soak: &Soak, what: &str, truth: &[i64]) {
        // Of the topic that keeps the newest, what a gap took is gone.
        let seen = self.seen.as_deref().unwrap_or_default();
        let starts: Vec<_> = soak.topics[self.topic].cache.partitions().iter().map(|log| log.start_offset()).collect();
        let is_kept = |n: usize, offset: i64| self.kind != Kind::Newest || offset >= starts[n % PARTITIONS];
        let wrong = (0..).zip(truth.iter().zip(seen)).filter(|(n, (truth, seen))| truth != seen && is_kept(*n, **truth));
        let wrong: Vec<_> = wrong.collect();
        if let Some((n, (truth, seen))) = wrong.first() {
            let kind = self.kind;
            soak.fault(format!("{kind:?}, {what}: {} keys are wrong; key {n}: {seen} seen, {truth} written last", wrong.len()));
        }
    }
}
