//! The latest value of each key of a topic as one JSON array, made piece by piece as it is sent.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::BytesMut;
use message_cache::{LogError, PartitionLog, Record, Scan, TopicCache};

use crate::fetch::{Latest, latest};
use crate::json;

/// Most keys that may change while one collection is sent: they are remembered, so that none is sent twice.
const CHANGED_KEYS_MAX: usize = 1_000_000;

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
    cache: Arc<TopicCache>,
    partition: usize,
    scan: Option<Scan>,
    /// Keys of records that came after the collection began and were sent in place of older ones.
    changed: HashSet<Vec<u8>>,
    begun: bool,
    first: bool,
    pub omitted: Omitted,
}

/// More than [`CHANGED_KEYS_MAX`] keys changed while a slow client read.
#[derive(Debug, thiserror::Error)]
#[error("more than {CHANGED_KEYS_MAX} keys changed while the collection was sent")]
pub struct Overrun;

impl Merged {
    pub fn new(cache: &Arc<TopicCache>) -> Self {
        let partitions = cache.partitions();
        Self {
            ends: partitions.iter().map(|log| log.end_offset()).collect(),
            partitions,
            cache: Arc::clone(cache),
            partition: 0,
            scan: None,
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
    /// [`Overrun`]: what was sent so far must not pass for the whole.
    pub fn fill(&mut self, out: &mut BytesMut, bytes: usize) -> Result<bool, Overrun> {
        if !std::mem::replace(&mut self.begun, true) {
            out.extend_from_slice(b"[");
        }
        for _ in 0..SCAN_RECORDS_MAX {
            if out.len() >= bytes {
                break;
            }
            let Some(record) = self.next_record() else {
                out.extend_from_slice(b"]");
                return Ok(false);
            };
            let chosen = record.and_then(|r| self.choose(r));
            if self.changed.len() >= CHANGED_KEYS_MAX {
                return Err(Overrun);
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

    fn next_record(&mut self) -> Option<Result<Record, LogError>> {
        loop {
            let log = self.partitions.get(self.partition)?;
            let scan = self.scan.get_or_insert_with(|| log.scan(log.start_offset()));
            match scan.next() {
                Some(Ok(r)) if r.offset() >= self.ends[self.partition] => {}
                Some(record) => return Some(record),
                None => {}
            }
            self.scan = None;
            self.partition += 1;
        }
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
        if !changed || !self.changed.insert(key.to_vec()) {
            return Ok(None);
        }
        Ok(Some(newest))
    }
}
