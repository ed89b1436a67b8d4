//! The latest value of each key of a topic, as far as it passes a filter, as one JSON array, made piece by piece as it is
//! sent.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use message_cache::{Filter, LogError, PartitionLog, Record, TopicCache, Want};

use crate::fetch::{Latest, latest};
use crate::json;

/// Most keys that may change while one collection is sent: they are remembered, so that none is sent twice.
const CHANGED_KEYS_MAX: usize = 1_000_000;

/// Records that are read ahead: what a collection holds on to while its client is slow.
const READ_AHEAD_RECORDS: usize = 64;
/// Bytes of them, mapped, not copied.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// Records looked at before a collection lets others have the thread; a topic may hold many old records of few keys.
const SCAN_RECORDS_MAX: usize = 1000;

/// Records left out of a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Omitted {
    /// Values that are not JSON.
    pub not_json: u64,
    /// Records that could not be read.
    pub unreadable: u64,
}

impl Omitted {
    pub fn total(self) -> u64 {
        self.not_json + self.unreadable
    }
}

/// A collection on its way to a client. Holds positions, not values.
pub struct Merged {
    partitions: Arc<Vec<Arc<PartitionLog>>>,
    /// End of each partition when the collection began.
    ends: Vec<i64>,
    /// Lives of the partitions: records of another one do not belong to those.
    lives: Vec<u64>,
    cache: Arc<TopicCache>,
    filter: Filter,
    partition: usize,
    /// Where to go on in the partition; `None` before its first record.
    next: Option<i64>,
    /// Records that were read ahead.
    ahead: VecDeque<Result<Record, LogError>>,
    /// Keys of records that came after the collection began and were sent in place of older ones.
    changed: HashSet<Vec<u8>>,
    begun: bool,
    first: bool,
    pub omitted: Omitted,
}

/// Why a collection cannot be finished: what was sent so far must not pass for the whole.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("more than {CHANGED_KEYS_MAX} keys changed while the collection was sent")]
    TooManyChanges,
    #[error("the cache of the topic was dropped, to be filled again, while the collection was sent")]
    Dropped,
}

impl Merged {
    pub fn new(cache: &Arc<TopicCache>, filter: Filter) -> Self {
        let partitions = cache.partitions();
        Self {
            lives: partitions.iter().map(|log| log.life()).collect(),
            ends: partitions.iter().map(|log| log.end_offset()).collect(),
            partitions,
            cache: Arc::clone(cache),
            filter,
            partition: 0,
            next: None,
            ahead: VecDeque::new(),
            changed: HashSet::new(),
            begun: false,
            first: true,
            omitted: Omitted::default(),
        }
    }

    /// Appends the next part to `out` until it is `bytes` long, the array is complete, or [`SCAN_RECORDS_MAX`] records were
    /// looked at: then it is the turn of others, even if nothing was appended. Says whether there is more.
    ///
    /// # Errors
    /// What was sent so far must not pass for the whole.
    pub fn fill(&mut self, out: &mut BytesMut, bytes: usize) -> Result<bool, Broken> {
        if !std::mem::replace(&mut self.begun, true) {
            out.extend_from_slice(b"[");
        }
        for _ in 0..SCAN_RECORDS_MAX {
            if out.len() >= bytes {
                break;
            }
            let Some(record) = self.next_record() else {
                if self.partitions.iter().zip(&self.lives).any(|(log, life)| log.life() != *life) {
                    return Err(Broken::Dropped);
                }
                out.extend_from_slice(b"]");
                return Ok(false);
            };
            let chosen = record.and_then(|r| r.map_or(Ok(None), |r| self.choose(r)));
            if self.changed.len() >= CHANGED_KEYS_MAX {
                return Err(Broken::TooManyChanges);
            }
            let Ok(chosen) = chosen else {
                self.omitted.unreadable += 1;
                continue;
            };
            let Some(value) = chosen.as_ref().and_then(Record::value) else { continue };
            if !json::is_valid(value) {
                self.omitted.not_json += 1;
                continue;
            }
            if !std::mem::replace(&mut self.first, false) {
                out.extend_from_slice(b",");
            }
            out.extend_from_slice(value.trim_ascii());
        }
        Ok(true)
    }

    /// The next record that passes the filter; `Ok(None)` if a piece of the topic held none.
    fn next_record(&mut self) -> Option<Result<Option<Record>, LogError>> {
        if let Some(record) = self.ahead.pop_front() {
            return Some(record.map(Some));
        }
        let log = self.partitions.get(self.partition)?;
        let (from, end) = (self.next.unwrap_or_else(|| log.start_offset()), self.ends[self.partition]);
        if from >= end {
            (self.next, self.partition) = (None, self.partition + 1);
            return Some(Ok(None));
        }
        let want = Want {
            from,
            records_max: READ_AHEAD_RECORDS,
            bytes_max: READ_AHEAD_BYTES,
            filter: &self.filter,
            conflate: false,
            tombstones_from: end,
        };
        let taken = log.take(&want);
        // A log that was dropped meanwhile has nothing more to give.
        self.next = Some(if taken.next > from { taken.next } else { end });
        self.ahead.extend(taken.records.into_iter().filter(|r| r.offset() < end).map(Ok));
        self.ahead.extend(taken.fault.map(Err));
        Some(Ok(None))
    }

    /// What to send when the scan comes by this record: itself if it is the newest of its key; nothing if the newest
    /// comes by later or has come by; the newest if that is past the end of the scan.
    fn choose(&mut self, record: Record) -> Result<Option<Record>, LogError> {
        let Some(key) = record.key() else { return Ok(None) };
        let Some(Latest { partition, record: newest }) = latest(&self.cache, key)? else { return Ok(None) };
        let is_itself = partition as usize == self.partition && newest.offset() == record.offset();
        let changed = self.ends.get(partition as usize).is_none_or(|end| newest.offset() >= *end);
        if is_itself {
            return Ok((!self.changed.contains(key)).then_some(newest));
        }
        if !changed || !self.filter.matches(&newest) || !self.changed.insert(key.to_vec()) {
            return Ok(None);
        }
        Ok(Some(newest))
    }
}
