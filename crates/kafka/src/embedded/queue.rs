//! What waits for a partition: records to be written, and written ones to be fsynced.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use message_cache::{Header, NewRecord, PartitionLog, TimestampType};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::flush::{Flush, SyncError, sync_segments};
use crate::{ProduceError, ProduceRecord, Written};

/// A record that waits for its commit.
pub struct Pending {
    pub record: ProduceRecord,
    timestamp_ms: i64,
    timestamp_type: TimestampType,
}

impl Pending {
    pub fn new(record: ProduceRecord, timestamp_ms: i64, timestamp_type: TimestampType) -> Self {
        Self { record, timestamp_ms, timestamp_type }
    }

    /// Of key, value and headers.
    pub fn bytes(&self) -> u64 {
        let r = &self.record;
        let headers: usize = r.headers.iter().map(|(n, v)| n.len() + v.as_ref().map_or(0, |v| v.len())).sum();
        (r.key.as_ref().map_or(0, |k| k.len()) + r.value.as_ref().map_or(0, |v| v.len()) + headers) as u64
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
    dir: PathBuf,
    /// Whether the log fsyncs each append itself.
    pub durable: bool,
    pub queue: Mutex<Queue>,
    dirt: Mutex<Dirt>,
    /// The name of the last segment that was fsynced here. Held while fsyncing.
    synced: Mutex<Option<String>>,
    /// Why the partition takes no more records.
    refusal: Mutex<Option<ProduceError>>,
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

#[derive(Default)]
pub struct Queue {
    pub waiting: Vec<(Pending, oneshot::Sender<Answer>)>,
    /// Whether a writer thread has the partition, or will.
    pub scheduled: bool,
}

impl Appender {
    pub fn new(log: Arc<PartitionLog>, dir: PathBuf, durable: bool) -> Self {
        Self {
            log,
            dir,
            durable,
            queue: Mutex::default(),
            dirt: Mutex::new(Dirt { flush: Flush { messages: 1, after: None }, records: 0, queued: false, timed: false }),
            synced: Mutex::default(),
            refusal: Mutex::default(),
        }
    }

    pub fn set_flush(&self, flush: Flush) {
        self.dirt.lock().flush = flush;
    }

    pub fn is_dirty(&self) -> bool {
        self.dirt.lock().records > 0
    }

    /// From now on every record is answered with this.
    pub fn refuse(&self, error: ProduceError) {
        *self.refusal.lock() = Some(error);
    }

    pub fn refused(&self) -> Result<(), ProduceError> {
        self.refusal.lock().clone().map_or(Ok(()), Err)
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

    /// Makes durable what was appended before.
    pub fn sync(&self) -> Result<(), ProduceError> {
        let mut synced = self.synced.lock();
        self.refused()?;
        let records = {
            let mut dirt = self.dirt.lock();
            (dirt.queued, dirt.timed) = (false, false);
            std::mem::take(&mut dirt.records)
        };
        let path = self.dir.display();
        let (reason, lasting) = match sync_segments(&self.dir, synced.as_deref()) {
            Ok(last) => {
                *synced = last;
                return Ok(());
            }
            Err(SyncError::NotTried(e)) => (format!("{path} cannot be fsynced now: {e}"), false),
            Err(SyncError::Failed(e)) => (format!("{path} takes no more records: an fsync failed ({e})"), true),
        };
        self.dirt.lock().records += records;
        let error = ProduceError::Unavailable { reason, written: Written::Maybe };
        if lasting {
            self.refuse(error.clone());
        }
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use message_cache::{LogOptions, TopicCache};

    use super::*;

    fn appender(dir: &std::path::Path, flush: Flush) -> Appender {
        let cache = TopicCache::open_exactly(dir, "t", &LogOptions::default(), 1).unwrap();
        let appender = Appender::new(cache.partition(0).unwrap(), dir.join("t/0"), false);
        appender.set_flush(flush);
        appender
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
        // A file in place of the directory of segments.
        std::fs::rename(dir.path().join("t/0"), dir.path().join("aside")).unwrap();
        std::fs::write(dir.path().join("t/0"), "").unwrap();
        let error = appender.sync().unwrap_err();
        assert!(error.to_string().contains("cannot be fsynced now") && error.written() == Written::Maybe, "{error}");
        assert!(appender.is_dirty() && appender.refused().is_ok());
        assert!(matches!(appender.soil(), Some(Due::Now)), "the next record asks again");
        std::fs::remove_file(dir.path().join("t/0")).unwrap();
        std::fs::rename(dir.path().join("aside"), dir.path().join("t/0")).unwrap();
        appender.sync().unwrap();
        assert!(!appender.is_dirty());
        appender.refuse(ProduceError::QueueFull);
        assert!(matches!(appender.sync(), Err(ProduceError::QueueFull)));
    }
}
