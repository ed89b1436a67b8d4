//! A piece of a log for a reader: the next records from an offset on that it wants.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::LogError;
use crate::filter::Filter;
use crate::head::Sparse;
use crate::log::PartitionLog;
use crate::record::Record;
use crate::sealed;
use crate::segment::Segment;

/// Most frames that one call looks at, so that a reader who wants few of them lets others have the thread.
const LOOK_MAX: usize = 8192;
/// Segments that one call looks into.
const SEGMENTS_MAX: usize = 8;

/// What a reader wants of a log.
#[derive(Clone, Copy)]
pub struct Want<'a> {
    pub from: i64,
    pub records_max: usize,
    pub bytes_max: usize,
    pub filter: &'a Filter,
    /// Only records that are the newest of their key at this moment.
    pub conflate: bool,
    /// No tombstones below this offset: whoever never saw a record need not hear that it went.
    pub tombstones_from: i64,
}

/// What there was.
#[derive(Debug, Default)]
pub struct Taken {
    pub records: Vec<Record>,
    /// Where to go on.
    pub next: i64,
    /// Offsets that were asked for and are gone.
    pub gap: Option<Range<i64>>,
    /// A stretch that cannot be read lies before `next`.
    pub fault: Option<LogError>,
}

/// A segment as it is when a piece is taken.
struct Source {
    segment: Arc<Segment>,
    visible: u64,
    /// Where to begin.
    at: u64,
}

impl PartitionLog {
    /// The next records that a reader wants. Nothing taken and `next` where it was means that there is nothing yet.
    pub fn take(&self, want: &Want<'_>) -> Taken {
        let policy = self.shared.policy();
        let expired_before = policy.expired_before(self.shared.clock.now_ms());
        // In this order: what is below the end is in the view.
        let end = self.end_offset();
        let (start, sources, is_whole) = self.sources(want.from);
        let from = want.from.max(start);
        let gap = (want.from < start).then_some(want.from..start);
        let mut taken = Taken { next: from, gap, ..Taken::default() };
        if from >= end {
            return taken;
        }
        let mut looker = Looker { want, expired_before, looks: LOOK_MAX, bytes: 0, taken: &mut taken };
        let finished = sources.iter().all(|source| looker.look(self, source));
        if finished && is_whole {
            taken.next = taken.next.max(end);
        }
        if want.conflate {
            self.conflate(&mut taken);
        }
        taken
    }

    fn conflate(&self, taken: &mut Taken) {
        let before = taken.records.len();
        let is_latest = |r: &Record| self.is_latest(r).inspect_err(|e| self.count_corrupt(e));
        // One that cannot be told is shown: better twice than not at all.
        taken.records.retain(|r| r.key().is_none() || is_latest(r).unwrap_or(true));
        self.counters.conflated.fetch_add((before - taken.records.len()) as u64, Ordering::Relaxed);
    }

    /// The start of the log, the segments from an offset on, and whether these are all.
    fn sources(&self, from: i64) -> (i64, Vec<Source>, bool) {
        let view = self.view.read();
        let from = from.max(view.start);
        let mut sources = Vec::new();
        let first = view.sealed.partition_point(|s| s.segment.base_offset <= from).saturating_sub(1);
        for s in view.sealed[first.min(view.sealed.len())..].iter() {
            if s.last().is_none_or(|l| l.offset < from) {
                continue;
            }
            if sources.len() == SEGMENTS_MAX {
                return (view.start, sources, false);
            }
            let segment = Arc::clone(&s.segment);
            sources.push(Source { visible: segment.len(), at: s.before_offset(from), segment });
        }
        if let Some(head) = &view.head {
            let sparse: &[Sparse] = &head.tables.sparse;
            let (segment, at) = (Arc::clone(&head.segment), sealed::before_offset(sparse, from));
            sources.push(Source { segment, visible: head.visible, at });
        }
        (view.start, sources, true)
    }
}

struct Looker<'a, 'w> {
    want: &'a Want<'w>,
    expired_before: Option<i64>,
    looks: usize,
    bytes: usize,
    taken: &'a mut Taken,
}

impl Looker<'_, '_> {
    /// Looks through a segment; false when it is enough.
    fn look(&mut self, log: &PartitionLog, source: &Source) -> bool {
        let mut at = source.at;
        while at < source.visible {
            let is_enough = self.taken.records.len() >= self.want.records_max || self.bytes >= self.want.bytes_max;
            if is_enough || self.looks == 0 || self.taken.fault.is_some() {
                return false;
            }
            self.looks -= 1;
            // Frames before the wanted offset are stepped over by their lengths; only what is handed out is verified.
            if let Ok(fixed) = source.segment.peek(at)
                && fixed.offset < self.taken.next
            {
                self.looks += 1;
                at += fixed.stride() as u64;
                continue;
            }
            match source.segment.record(at) {
                Ok(record) => {
                    at += record.stride() as u64;
                    self.offer(record);
                }
                Err(error) => {
                    log.count_corrupt(&error);
                    self.taken.fault = Some(error);
                    let next = source.segment.resync(at, self.taken.next - 1);
                    at = next.unwrap_or(source.visible);
                    let behind = next.and_then(|n| source.segment.peek(n).ok()).map(|f| f.offset);
                    // The stretch reached the end of the segment: the next one goes on.
                    self.taken.next = behind.unwrap_or_else(|| log.base_after(&source.segment));
                }
            }
        }
        true
    }

    fn offer(&mut self, record: Record) {
        let (offset, time) = (record.offset(), record.timestamp_ms());
        self.taken.next = offset + 1;
        let expired = time >= 0 && self.expired_before.is_some_and(|before| time < before);
        let unwanted = record.is_tombstone() && offset < self.want.tombstones_from;
        if !expired && !unwanted && self.want.filter.matches(&record) {
            self.bytes += record.stride();
            self.taken.records.push(record);
        }
    }
}

impl PartitionLog {
    /// The base offset of the segment behind this one; the end of the log if there is none.
    fn base_after(&self, segment: &Segment) -> i64 {
        let view = self.view.read();
        let bases = view.sealed.iter().map(|s| s.segment.base_offset).chain(view.head.as_ref().map(|h| h.segment.base_offset));
        let next = bases.filter(|base| *base > segment.base_offset).min();
        next.unwrap_or_else(|| self.end_offset())
    }
}
