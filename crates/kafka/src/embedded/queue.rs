//! What waits for a partition: records to be written, and written ones to be fsynced.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use message_cache::{Header, LogError, NewRecord, PartitionLog, TimestampType};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::flush::Flush;
use crate::{ProduceError, ProduceRecord, Written};

/// What a header counts beside its text: two lengths, of up to 5 bytes each in Kafka's record format (KIP-82).
const HEADER_BYTES: usize = 10;

/// Looks whether a record is to be written, while nobody else writes to its partition.
pub type Look = Box<dyn FnOnce() -> bool + Send>;

/// Asks whether a record is to be written.
///
/// # Errors
/// [`ProduceError::ConditionFailed`] if it is not.
pub fn check(look: Option<Look>) -> Result<(), ProduceError> {
    let Some(look) = look else { return Ok(()) };
    // It is not ours: the writer thread is to outlive it, and whoever else waits is to be answered.
    match catch_unwind(AssertUnwindSafe(look)) {
        Ok(true) => Ok(()),
        Ok(false) => Err(ProduceError::ConditionFailed),
        Err(_) => Err(ProduceError::Unavailable { reason: "the look at the topic panicked".into(), written: Written::No }),
    }
}

/// A record that waits for its commit.
pub struct Pending {
    pub record: ProduceRecord,
    pub look: Option<Look>,
    timestamp_ms: i64,
    timestamp_type: TimestampType,
}

impl Pending {
    pub fn new(record: ProduceRecord, timestamp_ms: i64, timestamp_type: TimestampType) -> Self {
        Self { record, look: None, timestamp_ms, timestamp_type }
    }

    /// What `max.message.bytes` bounds: key, value and headers, and [`HEADER_BYTES`] for each header.
    pub fn bytes(&self) -> u64 {
        self.text_bytes() + (self.record.headers.len() * HEADER_BYTES) as u64
    }

    /// What it takes in the queue, at least.
    pub fn memory_bytes(&self) -> u64 {
        let headers = self.record.headers.len() * size_of::<(String, Option<Bytes>)>();
        self.text_bytes() + (size_of::<Self>() + headers) as u64
    }

    fn text_bytes(&self) -> u64 {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.record.headers.iter().map(|(name, value)| name.len() + length(value)).sum();
        (length(&self.record.key) + length(&self.record.value) + headers) as u64
    }

    pub fn headers(&self) -> impl Iterator<Item = Header<'_>> {
        self.record.headers.iter().map(|(name, value)| Header { name, value: value.as_deref() })
    }

    pub fn as_new<'a>(&'a self, headers: &'a [Header<'a>]) -> NewRecord<'a> {
        NewRecord {
            offset: 0,
            timestamp_ms: self.timestamp_ms,
            timestamp_type: self.timestamp_type,
            key: self.record.key.as_deref(),
            value: self.record.value.as_deref(),
            headers,
        }
    }
}

pub type Answer = Result<i64, ProduceError>;

/// The queue of one partition.
pub struct Appender {
    pub log: Arc<PartitionLog>,
    pub queue: Mutex<Queue>,
    dirt: Mutex<Dirt>,
}

/// What was appended and not fsynced.
struct Dirt {
    flush: Flush,
    records: u64,
    /// Whether a writer thread is to fsync.
    queued: bool,
    /// Whether it will be, when a timer ends.
    timed: bool,
}

/// When a partition is to be fsynced.
pub enum Due {
    Now,
    After(Duration),
}

/// A record, and who waits for its answer.
pub type Waiting = (Pending, oneshot::Sender<Answer>);

#[derive(Default)]
pub struct Queue {
    pub waiting: Vec<Waiting>,
    /// Whether a writer thread has the partition, or will.
    pub scheduled: bool,
}

impl Appender {
    pub fn new(log: Arc<PartitionLog>, flush: Flush) -> Self {
        let dirt = Dirt { flush, records: 0, queued: false, timed: false };
        Self { log, queue: Mutex::default(), dirt: Mutex::new(dirt) }
    }

    pub fn set_flush(&self, flush: Flush) {
        self.dirt.lock().flush = flush;
    }

    /// Answers what waits, since no thread will come for it any more.
    pub fn turn_away(&self) {
        let waiting = {
            let mut queue = self.queue.lock();
            queue.scheduled = false;
            std::mem::take(&mut queue.waiting)
        };
        for (_, done) in waiting {
            let _ = done.send(Err(ProduceError::Unavailable { reason: "shutting down".into(), written: Written::No }));
        }
    }

    pub fn is_dirty(&self) -> bool {
        self.dirt.lock().records > 0
    }

    /// Counts a record that was not fsynced, and says when it is to be.
    pub fn soil(&self) -> Option<Due> {
        let mut dirt = self.dirt.lock();
        dirt.records += 1;
        // Others may come before the flush does; one is enough for all of them.
        if dirt.queued {
            None
        } else if dirt.records >= dirt.flush.messages {
            dirt.queued = true;
            Some(Due::Now)
        } else {
            let after = dirt.flush.after.filter(|_| !dirt.timed)?;
            dirt.timed = true;
            Some(Due::After(after))
        }
    }

    /// Makes durable what was appended before, and counts anew.
    pub fn sync(&self) -> Result<(), LogError> {
        let records = {
            let mut dirt = self.dirt.lock();
            (dirt.queued, dirt.timed) = (false, false);
            std::mem::take(&mut dirt.records)
        };
        // What could not be tried is tried again with the next record.
        self.log.sync().inspect_err(|_| self.dirt.lock().records += records)
    }
}

#[cfg(test)]
mod tests {
    use message_cache::{LogOptions, TopicCache};

    use super::*;

    fn appender(dir: &std::path::Path, flush: Flush) -> Appender {
        let cache = TopicCache::open_exactly(dir, "t", &LogOptions::default(), 1).unwrap();
        Appender::new(cache.partition(0).unwrap(), flush)
    }

    /// What each of five records asks for: `n`ow, a `t`imer, or nothing; a `s`ync comes in between.
    #[test]
    fn when_to_fsync() {
        let check = |messages, after_ms: Option<u64>, steps: &str, expected: &str| {
            let dir = tempfile::tempdir().unwrap();
            let appender = appender(dir.path(), Flush { messages, after: after_ms.map(Duration::from_millis) });
            let mut asked = String::new();
            for step in steps.chars() {
                match step {
                    's' => appender.sync().unwrap(),
                    _ => asked.push(match appender.soil() {
                        None => '-',
                        Some(Due::Now) => 'n',
                        Some(Due::After(_)) => 't',
                    }),
                }
            }
            assert_eq!(asked, expected, "{messages} {after_ms:?} {steps}");
        };
        check(u64::MAX, None, "aaasa", "----");
        check(1, None, "asasaa", "nnn-");
        check(3, None, "aaaaasaaa", "--n----n");
        check(u64::MAX, Some(5), "aaasaa", "t--t-");
        check(3, Some(5), "aaaasaaa", "t-n-t-n");
    }

    #[test]
    fn what_could_not_be_tried_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let appender = appender(dir.path(), Flush { messages: 2, after: None });
        appender.soil();
        // Its names cannot be fsynced: the directory is not there.
        std::fs::rename(dir.path().join("t/0"), dir.path().join("aside")).unwrap();
        assert!(matches!(appender.sync(), Err(LogError::Io { .. })));
        assert!(appender.is_dirty());
        assert!(matches!(appender.soil(), Some(Due::Now)), "the next record asks again");
        std::fs::rename(dir.path().join("aside"), dir.path().join("t/0")).unwrap();
        appender.sync().unwrap();
        assert!(!appender.is_dirty());
    }
}
