//! A reader: all partitions of a topic in one stream, each in order. Its memory is a position per partition.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::watch;

use crate::error::LogError;
use crate::filter::Filter;
use crate::log::PartitionLog;
use crate::record::Record;
use crate::take::{Taken, Want};
use crate::topic::TopicCache;

/// Most bytes of records that one poll gives of one partition.
const BYTES_MAX: usize = 1 << 20;

/// Where a reader begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// With what there is, as a snapshot: tombstones of records that were never seen are left out of it. Then live.
    Earliest,
    /// With what comes.
    Latest,
    /// With the first record of each partition that is at least of that time, ms since the epoch.
    Timestamp(i64),
    /// Where it left off: the next offset by partition. Partitions that are not named begin with what they have.
    Positions(BTreeMap<i32, i64>),
}

#[derive(Clone, Debug)]
pub struct ReadOptions {
    pub from: From,
    pub filter: Filter,
    /// Whether records are skipped that a newer one of their key has replaced; `None`: as on a compacted topic they are.
    pub conflate: Option<bool>,
}

/// What a reader meets.
#[derive(Debug)]
pub enum Event {
    Record {
        partition: i32,
        record: Record,
    },
    /// Offsets that were not read and are gone: retention was faster.
    Gap {
        partition: i32,
        offsets: Range<i64>,
    },
    /// What is cached of the partition was dropped: it was re-created, or is fetched anew. Reading goes on from its start.
    Reset {
        partition: i32,
    },
    /// Records that cannot be read. Reading goes on behind them.
    Unreadable {
        partition: i32,
        error: LogError,
    },
}

struct Position {
    next: i64,
    life: u64,
    tombstones_from: i64,
}

/// Reads a topic cache. See [`ReadOptions`].
pub struct Reader {
    cache: Arc<TopicCache>,
    filter: Filter,
    conflate: Option<bool>,
    positions: Vec<Position>,
    /// The partition that is asked first next time, so that a busy one cannot keep the others waiting.
    turn: usize,
    changes: watch::Receiver<u64>,
}

impl Reader {
    pub fn new(cache: Arc<TopicCache>, options: ReadOptions) -> Self {
        let changes = cache.changes();
        let mut reader =
            Self { filter: options.filter, conflate: options.conflate, positions: Vec::new(), turn: 0, changes, cache };
        for (log, partition) in reader.cache.partitions().iter().zip(0..) {
            let life = log.life();
            let (start, end) = (log.start_offset(), log.end_offset());
            let (next, tombstones_from) = match &options.from {
                From::Earliest => (start, end),
                From::Latest => (end, end),
                From::Timestamp(ms) => (log.offset_for_time(*ms), 0),
                From::Positions(p) => p.get(&partition).map_or((start, end), |next| (*next, 0)),
            };
            reader.positions.push(Position { next, life, tombstones_from });
        }
        reader
    }

    /// Takes up to `max` records, and what else was met, without waiting. Says whether there may be more at once.
    pub fn poll(&mut self, max: usize, out: &mut Vec<Event>) -> bool {
        self.changes.mark_unchanged();
        let partitions = self.cache.partitions();
        let conflate = self.conflate.unwrap_or_else(|| self.cache.policy().compact);
        // Partitions that were added begin with their first record; those of a former life are gone.
        self.positions.truncate(partitions.len());
        let known = self.positions.len();
        self.positions.extend(partitions[known..].iter().map(Position::at_start));
        let mut left = max;
        for _ in 0..partitions.len() {
            let n = self.turn % partitions.len();
            let more = self.poll_one(n, &partitions[n], conflate, &mut left, out);
            if left == 0 || more {
                self.turn = if left == 0 { n } else { n + 1 };
                return true;
            }
            self.turn = n + 1;
        }
        false
    }

    /// Says whether the partition has more to give before another is asked.
    fn poll_one(&mut self, n: usize, log: &Arc<PartitionLog>, conflate: bool, left: &mut usize, out: &mut Vec<Event>) -> bool {
        let partition = n as i32;
        let position = &mut self.positions[n];
        if position.life != log.life() {
            *position = Position::at_start(log);
            out.push(Event::Reset { partition });
        }
        if position.next >= log.end_offset() && position.next >= log.start_offset() {
            return false;
        }
        let want = Want {
            from: position.next,
            records_max: *left,
            bytes_max: BYTES_MAX,
            filter: &self.filter,
            conflate,
            tombstones_from: position.tombstones_from,
        };
        let Taken { records, next, gap, fault } = log.take(&want);
        if position.life != log.life() {
            // What was taken may be of either life.
            return true;
        }
        position.next = next;
        *left -= records.len().min(*left);
        out.extend(gap.map(|offsets| Event::Gap { partition, offsets }));
        out.extend(records.into_iter().map(|record| Event::Record { partition, record }));
        out.extend(fault.map(|error| Event::Unreadable { partition, error }));
        next < log.end_offset()
    }

    /// The next events, at least one; waits for them. Ends never by itself.
    pub async fn next(&mut self, max: usize, out: &mut Vec<Event>) {
        loop {
            // Polled to the end, so that a partition without news does not hide another's.
            while self.poll(max.saturating_sub(out.len()).max(1), out) && out.len() < max {}
            if !out.is_empty() {
                return;
            }
            // The sender lives as long as the cache does.
            let _ = self.changes.changed().await;
        }
    }

    /// The next offset by partition: what [`From::Positions`] takes.
    pub fn positions(&self) -> BTreeMap<i32, i64> {
        (0..).zip(&self.positions).map(|(partition, p)| (partition, p.next)).collect()
    }

    /// How many offsets lie between the reader and the end, over all partitions.
    pub fn lag(&self) -> u64 {
        let behind = |(log, p): (&Arc<PartitionLog>, &Position)| u64::try_from(log.end_offset() - p.next).unwrap_or(0);
        self.cache.partitions().iter().zip(&self.positions).map(behind).sum()
    }
}

impl Position {
    fn at_start(log: &Arc<PartitionLog>) -> Self {
        Self { life: log.life(), next: log.start_offset(), tombstones_from: 0 }
    }
}
