//! What readers ask of a log.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::LogError;
use crate::filter::{Clause, Filter};
use crate::head::Sparse;
use crate::index::Index;
use crate::keytable;
use crate::log::PartitionLog;
use crate::record::Record;
use crate::scan::Scan;
use crate::sealed::{self, Sealed};
use crate::segment::{self, Segment};

type Place = (Arc<Segment>, u64);

impl PartitionLog {
    /// The newest record of a key, tombstones included; `None` if there is none, or it has expired.
    pub fn latest(&self, key: &[u8]) -> Result<Option<Record>, LogError> {
        let found = self.find_newest(key);
        let record = found.and_then(|place| place.map(|(segment, at)| segment.record(at)).transpose());
        let record = record.inspect_err(|e| self.count_corrupt(e))?.filter(|r| self.is_served(r));
        let counter = if record.is_some() { &self.counters.hits } else { &self.counters.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(record)
    }

    /// The newest record that fulfils a clause; with `conflate`, only if it is the newest of its key. Tombstones count.
    pub fn newest(&self, clause: &Clause, conflate: bool) -> Result<Option<Record>, LogError> {
        match &clause.key {
            Some(key) if clause.headers.is_empty() || conflate => Ok(self.latest(key)?.filter(|r| clause.matches(r))),
            _ => self.newest_match(&Filter { any: vec![clause.clone()] }, conflate),
        }
    }

    /// Offset of the first record that is served.
    pub fn first_offset(&self) -> i64 {
        let expired_before = self.shared.policy().expired_before(self.shared.clock.now_ms());
        expired_before.map_or(0, |before| self.offset_for_time(before)).max(self.start_offset())
    }

    /// Whether the topic's configuration still has this record.
    pub(crate) fn is_served(&self, record: &Record) -> bool {
        let shared = &self.shared;
        record.offset() >= self.start_offset() && !shared.policy().is_expired(record.timestamp_ms(), shared.clock.now_ms())
    }

    pub(crate) fn find_newest(&self, key: &[u8]) -> Result<Option<Place>, LogError> {
        let sealed = {
            let view = self.view.read();
            if let Some(head) = &view.head
                && let Some(at) = head.tables.newest(&head.segment, keytable::hash(key, head.segment.salt), key)?
            {
                return Ok(Some((Arc::clone(&head.segment), at)));
            }
            Arc::clone(&view.sealed)
        };
        for s in sealed.iter().rev() {
            if let Some(at) = s.newest(key)? {
                return Ok(Some((Arc::clone(&s.segment), at)));
            }
        }
        Ok(None)
    }

    /// Whether another partition has a record of the key that this tombstone hides: the topic had fewer partitions when it was
    /// written, or its producer another partitioner.
    pub(crate) fn has_elder_elsewhere(&self, key: &[u8], timestamp_ms: i64) -> bool {
        let is_elder = |log: &PartitionLog| match log.find_newest(key) {
            Ok(Some((segment, at))) => segment.peek(at).is_ok_and(|f| f.value_len.is_some() && f.timestamp_ms <= timestamp_ms),
            Ok(None) => false,
            Err(_) => true,
        };
        self.shared.partitions().iter().any(|log| !std::ptr::eq(&**log, self) && is_elder(log))
    }

    /// Whether no record is older than one before it: then what has expired are the first ones.
    pub fn is_ordered(&self) -> bool {
        let view = self.view.read();
        let sealed = view.sealed.iter().map(|s| (&s.segment, s.summary()));
        let head = view.head.iter().map(|h| (&h.segment, Index::summary(&h.tables)));
        let mut before = i64::MIN;
        sealed.chain(head).all(|(segment, summary)| {
            let first = segment.peek(segment::HEADER).map_or(i64::MIN, |f| f.timestamp_ms);
            let follows = summary.records == 0 || first >= before;
            before = summary.time_max.unwrap_or(before).max(before);
            follows && summary.is_ordered
        })
    }

    /// Whether this record is the newest of its key; false for a null key.
    pub fn is_latest(&self, record: &Record) -> Result<bool, LogError> {
        let Some(key) = record.key() else { return Ok(false) };
        let found = self.find_newest(key)?;
        // Compaction may have moved it to another segment since it was read.
        Ok(found.is_some_and(|(segment, at)| segment.peek(at).is_ok_and(|f| f.offset == record.offset())))
    }

    /// The records from an offset to the end as it is now, without those that have expired.
    pub fn scan(&self, from: i64) -> Scan {
        self.scan_at(from, |sealed| Some(sealed.before_offset(from)), |sparse| sealed::before_offset(sparse, from))
    }

    fn scan_at(&self, from: i64, in_sealed: impl Fn(&Sealed) -> Option<u64>, in_head: impl Fn(&[Sparse]) -> u64) -> Scan {
        let expired_before = self.shared.policy().expired_before(self.shared.clock.now_ms());
        let view = self.view.read();
        let mut segments = Vec::new();
        let mut start = None;
        for s in view.sealed.iter() {
            if start.is_none() {
                let ends_before = s.last().is_none_or(|l| l.offset < from);
                start = if ends_before { None } else { in_sealed(s) };
            }
            if start.is_some() {
                segments.push((Arc::clone(&s.segment), s.segment.len()));
            }
        }
        if let Some(head) = &view.head {
            start = start.or_else(|| Some(in_head(&head.tables.sparse)));
            segments.push((Arc::clone(&head.segment), head.visible));
        }
        Scan::new(segments, start.unwrap_or(segment::HEADER), from.max(view.start), expired_before)
    }

    /// Offset of the first record of at least that time; the end if there is none. (KIP-79)
    pub fn offset_for_time(&self, timestamp_ms: i64) -> i64 {
        let scan = self.scan_at(i64::MIN, |s| s.before_time(timestamp_ms), |sparse| sealed::before_time(sparse, timestamp_ms));
        let found = scan.filter_map(Result::ok).find(|r| r.timestamp_ms() >= timestamp_ms);
        found.map_or_else(|| self.end_offset(), |r| r.offset())
    }

    /// Whether something was met that cannot be read: a corrupt record, or a file that somebody cut. A copy is then to be
    /// [reset](Self::reset) and fetched again; an only copy stays as it is.
    pub fn is_damaged(&self) -> bool {
        self.counters.is_damaged.load(Ordering::Relaxed)
    }

    /// Reads every record and asks every index about it. What is wrong, in words; empty if all is well. Takes as long as
    /// reading the files does; appends wait while the head is looked at.
    pub fn verify(&self) -> Vec<String> {
        let sealed = Arc::clone(&self.view.read().sealed);
        let mut faults: Vec<String> = sealed.iter().flat_map(|s| s.verify()).collect();
        let view = self.view.read();
        faults.extend(view.head.iter().flat_map(|h| h.tables.verify(&h.segment)));
        drop(view);
        faults.extend(self.check_files().err().map(|e| e.to_string()));
        // What recovery found and no record tells of: that some are missing between two segments.
        let known: Vec<_> = sealed.iter().map(|s| (s.segment.path.clone(), s.segment.len())).collect();
        let lost = self.findings.corrupt.iter().filter(|place| known.contains(place));
        faults.extend(lost.map(|(path, _)| format!("{}: records are missing behind it", path.display())));
        faults
    }

    pub(crate) fn count_corrupt(&self, error: &LogError) {
        self.counters.corrupt_reads.fetch_add(1, Ordering::Relaxed);
        self.counters.is_damaged.store(true, Ordering::Relaxed);
        tracing::error!(%error, "a record cannot be read");
    }
}
