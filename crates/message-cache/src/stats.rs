//! What can be told of a log: for metrics, people, and the decisions of housekeeping.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::log::{Head, PartitionLog, View};
use crate::retention::Facts;
use crate::sealed::Sealed;

/// One look at a log. Counters count since it was opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogStats {
    pub start_offset: i64,
    pub end_offset: i64,
    /// Records in the files, expired ones included.
    pub records: u64,
    /// Of segment files, without indexes.
    pub bytes: u64,
    pub segments: usize,
    /// Of the indexes that are in memory.
    pub index_heap_bytes: usize,
    /// Corrupt places found by recovery, and reads that met one.
    pub corrupt: u64,
    pub truncated_bytes: u64,
    pub recovery: Duration,
    /// Look-ups by key that found a record, and that found none.
    pub hits: u64,
    pub misses: u64,
    /// Records that readers skipped because a newer one of their key had come.
    pub conflated: u64,
    /// Records that retention removed.
    pub expired: u64,
    /// Records that compaction removed, tombstones not among them.
    pub compacted: u64,
    /// Tombstones that compaction removed.
    pub tombstones: u64,
    /// Bytes that housekeeping gave back to the disk.
    pub reclaimed_bytes: u64,
    /// What last went wrong with housekeeping, until it goes well again.
    pub problem: Option<String>,
}

#[derive(Default)]
pub struct Counters {
    pub corrupt_reads: AtomicU64,
    /// Something was met that cannot be read, in this life of the log.
    pub is_damaged: AtomicBool,
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    pub conflated: AtomicU64,
    pub expired: AtomicU64,
    pub compacted: AtomicU64,
    pub tombstones: AtomicU64,
    pub reclaimed_bytes: AtomicU64,
    pub problem: parking_lot::Mutex<Option<String>>,
}

impl PartitionLog {
    pub fn stats(&self) -> LogStats {
        let view = self.view.read();
        let head = view.head.as_ref();
        let c = &self.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LogStats {
            start_offset: view.start,
            end_offset: self.end_offset(),
            records: view.sealed.iter().map(|s| s.records()).sum::<u64>() + head.map_or(0, |h| h.tables.records),
            bytes: view.sealed.iter().map(|s| s.segment.len()).sum::<u64>() + head.map_or(0, |h| h.visible),
            segments: view.sealed.len() + usize::from(head.is_some()),
            index_heap_bytes: view.sealed.iter().map(|s| s.heap_bytes()).sum::<usize>()
                + head.map_or(0, |h| h.tables.heap_bytes()),
            corrupt: self.findings.corrupt.len() as u64 + count(&c.corrupt_reads),
            truncated_bytes: self.findings.truncated_bytes,
            recovery: self.recovery,
            hits: count(&c.hits),
            misses: count(&c.misses),
            conflated: count(&c.conflated),
            expired: count(&c.expired),
            compacted: count(&c.compacted),
            tombstones: count(&c.tombstones),
            reclaimed_bytes: count(&c.reclaimed_bytes),
            problem: c.problem.lock().clone(),
        }
    }
}

impl PartitionLog {
    /// Bytes, and those of each sealed segment with its latest time.
    pub(crate) fn holding(&self) -> (u64, Vec<(u64, i64)>) {
        let view = self.view.read();
        let sealed: Vec<_> = view.sealed.iter().map(|s| (s.segment.len(), s.time_max().unwrap_or(-1))).collect();
        let head = view.head.as_ref().map_or(0, |h| h.visible);
        (head + sealed.iter().map(|s| s.0).sum::<u64>(), sealed)
    }
}

impl View {
    /// Of the sealed segments, in order.
    pub fn sealed_facts(&self, end: i64) -> Vec<Facts> {
        let head_base = self.head.as_ref().map_or(end, |h| h.segment.base_offset);
        let next_bases = self.sealed.iter().skip(1).map(|s| s.segment.base_offset).chain([head_base]);
        self.sealed.iter().zip(next_bases).map(|(s, next_base)| s.facts(next_base)).collect()
    }
}

impl Head {
    pub fn facts(&self, end: i64) -> Facts {
        Facts {
            base_offset: self.segment.base_offset,
            next_base: end,
            bytes: self.visible,
            records: self.tables.records,
            time_max: self.tables.time_max.unwrap_or(-1),
            created_ms: self.segment.created_ms,
            horizon_ms: None,
        }
    }
}

impl Sealed {
    fn facts(&self, next_base: i64) -> Facts {
        let horizon = self.segment.horizon_ms.load(Ordering::Relaxed);
        Facts {
            base_offset: self.segment.base_offset,
            next_base,
            bytes: self.segment.len(),
            records: self.records(),
            time_max: self.time_max().unwrap_or(-1),
            created_ms: self.segment.created_ms,
            horizon_ms: (horizon != i64::MAX).then_some(horizon),
        }
    }
}
