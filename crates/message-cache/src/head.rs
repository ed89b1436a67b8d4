//! What is known of a segment while it is in memory: the head, and a sealed segment until its index file is written.

use hashbrown::HashTable;

use crate::error::LogError;
use crate::frame::Fixed;
use crate::keytable::{self, Slot};
use crate::segment::Segment;

/// Bytes of records between two entries of the sparse index: a search reads at most this many headers of frames.
const SPARSE_BYTES: u64 = 16 * 1024;

/// An entry of the sparse index over offset and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sparse {
    pub offset: i64,
    /// The highest timestamp of any record before this one in the segment.
    pub time_before: i64,
    pub at: u64,
}

/// The last record of a log, as far as others need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    pub offset: i64,
    pub timestamp_ms: i64,
}

/// Where a record lies and what the indexes want to know of it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub at: u64,
    pub offset: i64,
    pub timestamp_ms: i64,
    /// `None` for a null key, which no index holds.
    pub key_hash: Option<u32>,
}

impl Entry {
    pub fn of(segment: &Segment, at: u64, fixed: &Fixed) -> Self {
        let key_hash = fixed.key_range().map(|r| keytable::hash(&segment.bytes_from(at)[r]));
        Self { at, offset: fixed.offset, timestamp_ms: fixed.timestamp_ms, key_hash }
    }
}

/// The indexes of one segment in memory.
#[derive(Default)]
pub struct Tables {
    keys: HashTable<Slot>,
    pub sparse: Vec<Sparse>,
    pub records: u64,
    pub last: Option<Last>,
    pub time_max: Option<i64>,
}

impl Tables {
    pub fn add(&mut self, segment: &Segment, entry: Entry) {
        if self.sparse.last().is_none_or(|s| entry.at - s.at >= SPARSE_BYTES) {
            let time_before = self.time_max.unwrap_or(i64::MIN);
            self.sparse.push(Sparse { offset: entry.offset, time_before, at: entry.at });
        }
        self.records += 1;
        self.last = Some(Last { offset: entry.offset, timestamp_ms: entry.timestamp_ms });
        self.time_max = self.time_max.max(Some(entry.timestamp_ms));
        if let Some(hash) = entry.key_hash {
            self.set_newest(segment, Slot { hash, at8: (entry.at / 8) as u32 });
        }
    }

    fn set_newest(&mut self, segment: &Segment, slot: Slot) {
        let key = key_at(segment, slot.at8);
        let same = |s: &Slot| s.hash == slot.hash && key_at(segment, s.at8) == key;
        match self.keys.find_mut(spread(slot.hash), same) {
            Some(older) => older.at8 = slot.at8,
            None => {
                self.keys.insert_unique(spread(slot.hash), slot, |s| spread(s.hash));
            }
        }
    }

    /// Position of the newest record of a key. A record that has the hash but, being corrupt, no longer the key, is an
    /// error rather than a miss: a miss would bring an older record of the key to light.
    pub fn newest(&self, segment: &Segment, hash: u32, key: &[u8]) -> Result<Option<u64>, LogError> {
        let mut fault = None;
        let found = self.keys.find(spread(hash), |s| {
            s.hash == hash
                && is_of_key(segment, s.at8, key).unwrap_or_else(|e| {
                    fault = Some(e);
                    false
                })
        });
        match (found, fault) {
            (Some(slot), _) => Ok(Some(u64::from(slot.at8) * 8)),
            (None, Some(fault)) => Err(fault),
            (None, None) => Ok(None),
        }
    }

    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    pub fn slots(&self) -> Vec<Slot> {
        self.keys.iter().copied().collect()
    }

    pub fn heap_bytes(&self) -> usize {
        self.keys.allocation_size() + self.sparse.capacity() * size_of::<Sparse>()
    }
}

fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn key_at(segment: &Segment, at8: u32) -> Option<&[u8]> {
    let at = u64::from(at8) * 8;
    let range = segment.peek(at).ok()?.key_range()?;
    Some(&segment.bytes_from(at)[range])
}

/// Whether the record at this position has this key; looks at the checksum only when it has not.
pub fn is_of_key(segment: &Segment, at8: u32, key: &[u8]) -> Result<bool, LogError> {
    if key_at(segment, at8) == Some(key) {
        return Ok(true);
    }
    let at = u64::from(at8) * 8;
    segment.decode(at).map_err(|f| segment.corrupt(at, f))?;
    Ok(false)
}
