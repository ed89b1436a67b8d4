//! Group commit: records that arrive while the disk is busy are written together and made durable by one fsync.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use message_cache::{Header, LogError, NewRecord, PartitionLog, TimestampType};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::DiskProblem;
use crate::{ProduceError, ProduceRecord, Written};

/// Threads that write and fsync: as many partitions as this are committed side by side.
const WRITER_THREADS: usize = 4;

/// A record that waits for its commit.
pub struct Pending {
    record: ProduceRecord,
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

    fn headers(&self) -> impl Iterator<Item = Header<'_>> {
        self.record.headers.iter().map(|(name, value)| Header { name, value: value.as_deref() })
    }

    fn as_new<'a>(&'a self, headers: &'a [Header<'a>]) -> NewRecord<'a> {
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

type Answer = Result<i64, ProduceError>;

/// The queue of one partition.
pub struct Appender {
    log: Arc<PartitionLog>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<(Pending, oneshot::Sender<Answer>)>,
    /// Whether a writer thread has the partition, or will.
    scheduled: bool,
}

impl Appender {
    pub fn new(log: Arc<PartitionLog>) -> Self {
        Self { log, queue: Mutex::default() }
    }
}

/// The writer threads, and the bound on what waits for them.
pub struct Pool {
    work: Mutex<Option<Sender<Arc<Appender>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

struct Shared {
    queued_bytes: AtomicU64,
    queued_bytes_max: u64,
    problem: Arc<Mutex<Option<DiskProblem>>>,
}

impl Pool {
    pub fn start(queued_bytes_max: u64, problem: Arc<Mutex<Option<DiskProblem>>>) -> std::io::Result<Self> {
        let (tx, rx) = crossbeam_channel::unbounded(); // at most one entry per partition
        let shared = Arc::new(Shared { queued_bytes: AtomicU64::new(0), queued_bytes_max, problem });
        let mut threads = Vec::new();
        for n in 0..WRITER_THREADS {
            let (rx, shared) = (Receiver::clone(&rx), Arc::clone(&shared));
            let run = move || rx.iter().for_each(|appender: Arc<Appender>| shared.drain(&appender));
            threads.push(std::thread::Builder::new().name(format!("log-writer-{n}")).spawn(run)?);
        }
        Ok(Self { work: Mutex::new(Some(tx)), threads: Mutex::new(threads), shared })
    }

    /// Queues a record; answers with its offset when it is durable.
    pub async fn append(&self, appender: Arc<Appender>, pending: Pending) -> Answer {
        let bytes = pending.bytes();
        let queued = self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if queued + bytes > self.shared.queued_bytes_max {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(ProduceError::QueueFull);
        }
        let (done, answer) = oneshot::channel();
        let schedule = {
            let mut queue = appender.queue.lock();
            queue.waiting.push((pending, done));
            !std::mem::replace(&mut queue.scheduled, true)
        };
        if schedule && let Some(work) = &*self.work.lock() {
            let _ = work.send(appender);
        }
        let gone = |_| ProduceError::Unavailable { reason: "the log was closed".into(), written: Written::Maybe };
        answer.await.map_err(gone)?
    }

    /// Appends on the spot, without an fsync: one write to the page cache.
    pub fn append_now(&self, appender: &Appender, pending: Pending) -> Answer {
        let headers: Vec<_> = pending.headers().collect();
        let appended = appender.log.append_next(&mut [pending.as_new(&headers)]);
        self.shared.note(&appended);
        appended.map_err(|e| produce_error(&e))
    }

    /// Finishes what is queued and stops the threads.
    pub async fn close(&self) {
        self.work.lock().take();
        let threads = std::mem::take(&mut *self.threads.lock());
        let _ = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join()))).await;
    }
}

impl Shared {
    /// Commits batch after batch until nothing waits.
    fn drain(&self, appender: &Appender) {
        loop {
            let batch = {
                let mut queue = appender.queue.lock();
                if queue.waiting.is_empty() {
                    queue.scheduled = false;
                    return;
                }
                std::mem::take(&mut queue.waiting)
            };
            let bytes = batch.iter().map(|(p, _)| p.bytes()).sum();
            self.commit(&appender.log, batch);
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn commit(&self, log: &PartitionLog, batch: Vec<(Pending, oneshot::Sender<Answer>)>) {
        let headers: Vec<Header<'_>> = batch.iter().flat_map(|(p, _)| p.headers()).collect();
        let mut rest = headers.as_slice();
        let mut records = Vec::with_capacity(batch.len());
        for (pending, _) in &batch {
            let (own, others) = rest.split_at(pending.record.headers.len());
            records.push(pending.as_new(own));
            rest = others;
        }
        let appended = log.append_next(&mut records);
        self.note(&appended);
        // What a failed append left in the log before the record at fault is durable, and so acknowledged.
        let end = log.end_offset();
        let offsets: Vec<_> = records.iter().map(|r| r.offset).collect();
        for ((_, done), offset) in batch.into_iter().zip(offsets) {
            // A client that has gone does not wait for its answer.
            let _ = done.send(match &appended {
                Err(e) if offset >= end => Err(produce_error(e)),
                _ => Ok(offset),
            });
        }
    }

    fn note(&self, appended: &Result<i64, LogError>) {
        match appended {
            Ok(_) => {
                let mut problem = self.problem.lock();
                if problem.as_ref().is_some_and(|p| !p.lasting) {
                    *problem = None;
                }
            }
            Err(LogError::TooLarge { .. }) => {}
            Err(error) => {
                tracing::error!(%error, "append failed");
                let lasting = matches!(error, LogError::Poisoned { .. });
                let mut problem = self.problem.lock();
                // A poisoned partition stays so while others are written to.
                if problem.as_ref().is_none_or(|p| !p.lasting) {
                    *problem = Some(DiskProblem { text: error.to_string(), lasting });
                }
            }
        }
    }
}

fn produce_error(error: &LogError) -> ProduceError {
    match error {
        LogError::DiskFull { .. } => ProduceError::DiskFull,
        LogError::TooLarge { max, .. } => ProduceError::TooLarge { limit_bytes: Some(*max) },
        // Written, not known to be durable, and not visible unless recovery finds it.
        LogError::Poisoned { .. } => ProduceError::Unavailable { reason: error.to_string(), written: Written::Maybe },
        _ => ProduceError::Unavailable { reason: error.to_string(), written: Written::No },
    }
}
