//! The topics, their writer, and what is true of them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use message_cache::{Clock, LogOptions, NewRecord, Policy, TopicCache};

use crate::{AHEAD_MAX, Soak};

pub const PARTITIONS: usize = 4;
const SEGMENT_BYTES: u64 = 8 << 20;
/// Per partition of the topic that keeps the newest.
const RETAINED_BYTES: u64 = 32 << 20;
/// Records of one append.
const BATCH: usize = 500;
pub const KEY: usize = 16;
const VALUE: usize = 184;
/// While those that read everything are too far behind.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    All,
    Newest,
    Compacted,
}

pub struct Topic {
    pub cache: Arc<TopicCache>,
    pub kind: Kind,
    /// Offset of the last record of each key, which is always in the same partition; -1 without one.
    pub last: Vec<AtomicI64>,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::All, Self::Newest, Self::Compacted];

    fn policy(self) -> Policy {
        match self {
            Self::All => Policy::default(),
            Self::Newest => Policy { delete: true, retention_bytes: Some(RETAINED_BYTES), ..Policy::default() },
            Self::Compacted => Policy { compact: true, ..Policy::default() },
        }
    }
}

impl Topic {
    pub fn open(dir: &Path, kind: Kind, keys: u64) -> Self {
        let options = LogOptions { segment_bytes: SEGMENT_BYTES, ..LogOptions::default() };
        let name = format!("{kind:?}").to_lowercase();
        let cache = TopicCache::open_exactly(dir, &name, &options, PARTITIONS).expect("a cache");
        cache.set_policy(kind.policy());
        let last = (0..keys).map(|_| AtomicI64::new(-1)).collect();
        Self { cache: Arc::new(cache), kind, last }
    }
}

/// The key of a number: digits.
fn key(n: u64) -> [u8; KEY] {
    let mut key = [b'0'; KEY];
    let digits = n.to_string();
    key[KEY - digits.len()..].copy_from_slice(digits.as_bytes());
    key
}

/// The number of a key.
pub fn number(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key).ok().filter(|k| k.len() == KEY)?.parse().ok()
}

/// The value says where it was written and under what key.
fn value(offset: i64, key: u64) -> [u8; VALUE] {
    let mut value = [b'v'; VALUE];
    value[..8].copy_from_slice(&offset.to_le_bytes());
    value[8..16].copy_from_slice(&key.to_le_bytes());
    value
}

pub fn is_value(value: &[u8], offset: i64, key: u64) -> bool {
    value == self::value(offset, key)
}

pub fn write(soak: &Soak, records: u64) {
    let mut left = records as usize;
    let timestamp_ms = Clock::System.now_ms();
    let mut turn = 0;
    while left > 0 {
        let n = turn % soak.topics.len();
        let (topic, partition) = (&soak.topics[n], turn / soak.topics.len() % PARTITIONS);
        turn += 1;
        while soak.lag[n].load(Ordering::Relaxed) > AHEAD_MAX {
            std::thread::sleep(PAUSE);
        }
        let log = topic.cache.partition(partition as i32).expect("a partition");
        let count = left.min(BATCH);
        left -= count;
        // The keys of a partition: every fourth.
        let some_key = || fastrand::u64(..soak.keys / PARTITIONS as u64) * PARTITIONS as u64 + partition as u64;
        let numbers: Vec<_> = (log.end_offset()..).take(count).map(|offset| (offset, some_key())).collect();
        let bytes: Vec<_> = numbers.iter().map(|(offset, n)| (key(*n), value(*offset, *n))).collect();
        let batch: Vec<_> = numbers
            .iter()
            .zip(&bytes)
            .map(|((offset, _), (key, value))| NewRecord {
                offset: *offset,
                timestamp_ms,
                key: Some(key),
                value: Some(value),
                ..NewRecord::default()
            })
            .collect();
        log.append(&batch).expect("an append");
        for (offset, n) in numbers {
            topic.last[n as usize].store(offset, Ordering::Release);
        }
    }
}
