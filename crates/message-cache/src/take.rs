//! A piece of a log for a reader: the next records from an offset on that it wants.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::LogError;
use crate::filter::{At, Clause, Filter};
use crate::frame;
use crate::head::Sparse;
use crate::log::PartitionLog;
use crate::record::Record;
use crate::sealed::{self, Sealed};
use crate::segment::{self, Segment};

/// Most frames that one call looks at, so that a reader who wants few of them lets others have the thread.
const LOOK_MAX: usize = 8192;
/// Most records that are looked at for the newest or the first match: beyond, the terms of a filter are each frequent and seldom together.
const SEARCH_LOOK_MAX: usize = 100_000;
/// Positions that an index is asked for at a time.
const CANDIDATES: usize = 256;
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
    /// `None` for the head, whose index is asked under the lock of the view.
    sealed: Option<Arc<Sealed>>,
    /// No record of it has this offset or a higher one.
    ends_at: i64,
}

impl PartitionLog {
    /// The next records that a reader wants. Nothing taken and `next` where it was means that there is nothing yet.
    pub fn take(&self, want: &Want<'_>) -> Taken {
        let policy = self.shared.policy();
        let expired_before = policy.expired_before(self.shared.clock.now_ms());
        // In this order: what is below the end is in the view.
        let end = self.end_offset();
        let (start, sources, is_whole) = self.sources(want.from, end);
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
    fn sources(&self, from: i64, end: i64) -> (i64, Vec<Source>, bool) {
        let view = self.view.read();
        let from = from.max(view.start);
        let mut sources = Vec::new();
        let first = view.sealed.partition_point(|s| s.segment.base_offset <= from).saturating_sub(1);
        let head_base = view.head.as_ref().map_or(end, |h| h.segment.base_offset);
        let next_bases = view.sealed.iter().skip(first + 1).map(|s| s.segment.base_offset).chain([head_base]);
        for (s, ends_at) in view.sealed.iter().skip(first).zip(next_bases) {
            if s.last().is_none_or(|l| l.offset < from) {
                continue;
            }
            if sources.len() == SEGMENTS_MAX {
                return (view.start, sources, false);
            }
            let (segment, at, sealed) = (Arc::clone(&s.segment), s.before_offset(from), Some(Arc::clone(s)));
            sources.push(Source { visible: segment.len(), at, segment, sealed, ends_at });
        }
        if let Some(head) = &view.head {
            let sparse: &[Sparse] = &head.tables.sparse;
            let (segment, at) = (Arc::clone(&head.segment), sealed::before_offset(sparse, from));
            sources.push(Source { segment, visible: head.visible, at, sealed: None, ends_at: end });
        }
        (view.start, sources, true)
    }
}

impl Source {
    /// Positions in the order of a span, at most [`CANDIDATES`]: for a segment whose index cannot tell which to look at.
    fn positions(&self, span: At) -> Vec<u64> {
        let (begin, end) = match span {
            At::From(from) => (from, self.visible),
            At::Below(below) => (self.at, below.min(self.visible)),
        };
        let mut at = begin;
        let step = || {
            let this = Some(at).filter(|at| *at < end);
            // The last one is one that cannot be read: whoever reads it is told.
            at = this.and_then(|at| Some(at + self.segment.peek(at).ok()?.stride() as u64)).unwrap_or(end);
            this
        };
        let all = std::iter::from_fn(step);
        if let At::From(_) = span {
            return all.take(CANDIDATES).collect();
        }
        let mut last = VecDeque::with_capacity(CANDIDATES);
        for at in all {
            if last.len() == CANDIDATES {
                last.pop_front();
            }
            last.push_back(at);
        }
        last.into_iter().rev().collect()
    }
}

/// From which end a log is searched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forwards,
    Backwards,
}

impl Direction {
    fn all_of(self, source: &Source) -> At {
        match self {
            Self::Forwards => At::From(source.at),
            Self::Backwards => At::Below(source.visible),
        }
    }

    fn behind(self, at: u64) -> At {
        match self {
            Self::Forwards => At::From(at + frame::ALIGN as u64),
            Self::Backwards => At::Below(at),
        }
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
    fn is_enough(&self) -> bool {
        let full = self.taken.records.len() >= self.want.records_max || self.bytes >= self.want.bytes_max;
        full || self.looks == 0 || self.taken.fault.is_some()
    }

    /// Looks through a segment; false when it is enough.
    fn look(&mut self, log: &PartitionLog, source: &Source) -> bool {
        let whole = match log.candidates(source, self.want.filter, At::From(source.at)) {
            Ok(Some(first)) => self.look_by_index(log, source, first),
            Ok(None) => self.look_at_all(log, source),
            Err(error) => {
                // Slower, and nothing is missed.
                log.count_corrupt(&error);
                self.look_at_all(log, source)
            }
        };
        if whole {
            self.taken.next = self.taken.next.max(source.ends_at);
        }
        whole
    }

    fn look_by_index(&mut self, log: &PartitionLog, source: &Source, mut positions: Vec<u64>) -> bool {
        loop {
            for &at in &positions {
                if self.is_enough() {
                    return false;
                }
                self.looks -= 1;
                // What came after the look at the end is for the next call.
                if at >= source.visible {
                    return true;
                }
                if source.segment.peek(at).is_ok_and(|fixed| fixed.offset < self.taken.next) {
                    continue;
                }
                match source.segment.record(at) {
                    Ok(record) => self.offer(record),
                    Err(error) => return self.stumble(log, source, at, error),
                }
            }
            let Some(last) = positions.last().filter(|_| positions.len() == CANDIDATES) else { return true };
            positions = match log.candidates(source, self.want.filter, At::From(last + 8)) {
                Ok(Some(more)) => more,
                // Sealed meanwhile, without an index of terms; or a damaged page: read on from here.
                _ => return self.look_at_all(log, source),
            };
        }
    }

    fn look_at_all(&mut self, log: &PartitionLog, source: &Source) -> bool {
        let mut at = source.at;
        while at < source.visible {
            if self.is_enough() {
                return false;
            }
            // Frames before the wanted offset are stepped over by their lengths; only what is handed out is verified.
            if let Ok(fixed) = source.segment.peek(at)
                && fixed.offset < self.taken.next
            {
                at += fixed.stride() as u64;
                continue;
            }
            self.looks -= 1;
            match source.segment.record(at) {
                Ok(record) => {
                    at += record.stride() as u64;
                    self.offer(record);
                }
                Err(error) => return self.stumble(log, source, at, error),
            }
        }
        true
    }

    /// Notes a stretch that cannot be read, and where it ends.
    fn stumble(&mut self, log: &PartitionLog, source: &Source, at: u64, error: LogError) -> bool {
        log.count_corrupt(&error);
        self.taken.fault = Some(error);
        let next = source.segment.resync(at, self.taken.next - 1);
        let behind = next.filter(|at| *at < source.visible).and_then(|at| source.segment.peek(at).ok()).map(|f| f.offset);
        self.taken.next = behind.unwrap_or(source.ends_at).max(self.taken.next);
        false
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
    /// Positions in a segment that may match a filter; `None` if all may.
    fn candidates(&self, source: &Source, filter: &Filter, span: At) -> Result<Option<Vec<u64>>, LogError> {
        if let Some(sealed) = &source.sealed {
            return sealed.candidates(filter, span, CANDIDATES);
        }
        let view = self.view.read();
        match &view.head {
            Some(head) if Arc::ptr_eq(&head.segment, &source.segment) => {
                head.tables.candidates(&head.segment, filter, span, CANDIDATES)
            }
            // Sealed meanwhile.
            _ => view
                .sealed
                .iter()
                .find(|s| Arc::ptr_eq(&s.segment, &source.segment))
                .map_or(Ok(None), |s| s.candidates(filter, span, CANDIDATES)),
        }
    }

    /// The newest record that matches a filter; with `conflate`, only if it is the newest of its key. From the newest on, so
    /// that it costs as much as there are newer ones that the index takes for a match.
    ///
    /// # Errors
    /// [`LogError::TooBroad`] after [`SEARCH_LOOK_MAX`] records that did not match.
    pub(crate) fn newest_match(&self, filter: &Filter, conflate: bool) -> Result<Option<Record>, LogError> {
        self.search(filter, Direction::Backwards, |record| Ok(!conflate || self.is_latest(record)?))
    }

    /// The oldest record that is served and fulfils a clause, be it replaced since or a tombstone. All that was appended before the
    /// call is looked at, by index, from the oldest on: so it costs as much as there are older ones that the index takes for a match.
    ///
    /// # Errors
    /// [`LogError::TooBroad`] after 100,000 records that did not match; or a damaged record or index that it may be hidden behind.
    pub fn first(&self, clause: &Clause) -> Result<Option<Record>, LogError> {
        self.search(&Filter { any: vec![clause.clone()] }, Direction::Forwards, |_| Ok(true))
    }

    /// The first record in a direction that is served, matches, and is `wanted`.
    fn search(
        &self,
        filter: &Filter,
        direction: Direction,
        wanted: impl Fn(&Record) -> Result<bool, LogError>,
    ) -> Result<Option<Record>, LogError> {
        let found = self.try_search(filter, direction, wanted);
        found.inspect_err(|e| {
            if !matches!(e, LogError::TooBroad { .. }) {
                self.count_corrupt(e);
            }
        })
    }

    fn try_search(
        &self,
        filter: &Filter,
        direction: Direction,
        wanted: impl Fn(&Record) -> Result<bool, LogError>,
    ) -> Result<Option<Record>, LogError> {
        let (start, mut sources) = self.all_sources();
        if direction == Direction::Backwards {
            sources.reverse();
        }
        let mut looks = SEARCH_LOOK_MAX;
        for source in &sources {
            let mut span = direction.all_of(source);
            loop {
                let found = self.candidates(source, filter, span)?;
                let positions = found.unwrap_or_else(|| source.positions(span));
                // What came after the look at the end does not count.
                for &at in positions.iter().filter(|at| **at < source.visible) {
                    looks -= 1;
                    if looks == 0 {
                        return Err(LogError::TooBroad { looks: SEARCH_LOOK_MAX });
                    }
                    let record = source.segment.record(at)?;
                    if record.offset() < start {
                        match direction {
                            Direction::Forwards => continue,
                            Direction::Backwards => return Ok(None),
                        }
                    }
                    if filter.matches(&record) && self.is_served(&record) && wanted(&record)? {
                        return Ok(Some(record));
                    }
                }
                match positions.last() {
                    Some(last) if positions.len() == CANDIDATES => span = direction.behind(*last),
                    _ => break,
                }
            }
        }
        Ok(None)
    }

    /// The start of the log, and all segments that have records from there on.
    fn all_sources(&self) -> (i64, Vec<Source>) {
        let view = self.view.read();
        let start = view.start;
        let served = view.sealed.iter().filter(|s| s.last().is_some_and(|l| l.offset >= start));
        let sealed = served.map(|s| Source {
            segment: Arc::clone(&s.segment),
            visible: s.segment.len(),
            at: if s.segment.base_offset < start { s.before_offset(start) } else { segment::HEADER },
            sealed: Some(Arc::clone(s)),
            ends_at: i64::MAX,
        });
        let head = view.head.as_ref().map(|h| Source {
            segment: Arc::clone(&h.segment),
            visible: h.visible,
            at: sealed::before_offset(&h.tables.sparse, start),
            sealed: None,
            ends_at: i64::MAX,
        });
        (start, sealed.chain(head).collect())
    }
}
