//! Group commit: records that arrive while the disk is busy are written together and made durable by one fsync. A topic with
//! `flush.messages` or `flush.ms` is written at once, and fsynced behind its acknowledgements.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use message_cache::{Appending, Header, LogError};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::queue::{self, Answer, Appender, Due, Pending, Waiting};
use super::trouble::Trouble;
use crate::{ProduceError, Written};

/// Threads that write and fsync: as many partitions as this are committed side by side.
const WRITER_THREADS: usize = 4;

/// The writer threads, and the bound on what waits for them.
pub struct Pool {
    threads: Mutex<Vec<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

struct Shared {
    work: Mutex<Option<Sender<Work>>>,
    queued_bytes: AtomicU64,
    queued_bytes_max: u64,
    trouble: Arc<Mutex<Trouble>>,
}

/// For a writer thread.
enum Work {
    /// Write what is queued.
    Commit(Arc<Appender>),
    /// Fsync what was written.
    Flush(Arc<Appender>),
}

impl Pool {
    pub fn start(queued_bytes_max: u64, trouble: Arc<Mutex<Trouble>>) -> std::io::Result<Self> {
        let (tx, rx) = crossbeam_channel::unbounded(); // at most one entry of each kind per partition
        let work = Mutex::new(Some(tx));
        let shared = Arc::new(Shared { work, queued_bytes: AtomicU64::new(0), queued_bytes_max, trouble });
        let mut threads = Vec::new();
        for n in 0..WRITER_THREADS {
            let (rx, shared) = (Receiver::clone(&rx), Arc::clone(&shared));
            let run = move || rx.iter().for_each(|work| shared.perform(work));
            threads.push(std::thread::Builder::new().name(format!("log-writer-{n}")).spawn(run)?);
        }
        Ok(Self { threads: Mutex::new(threads), shared })
    }

    /// Queues a record; answers with its offset when it is durable.
    pub async fn append(&self, appender: Arc<Appender>, pending: Pending) -> Answer {
        let bytes = pending.memory_bytes();
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
        if schedule && !self.shared.order(Work::Commit(Arc::clone(&appender))) {
            appender.turn_away();
        }
        let gone = |_| ProduceError::Unavailable { reason: "the log was closed".into(), written: Written::Maybe };
        answer.await.map_err(gone)?
    }

    /// Appends on the spot, one write to the page cache; the fsync comes when `flush.messages` or `flush.ms` say.
    pub fn append_now(&self, appender: &Arc<Appender>, mut pending: Pending) -> Answer {
        let look = pending.look.take();
        let headers: Vec<_> = pending.headers().collect();
        let appended = match appender.log.begin_append() {
            Ok(mut appending) => {
                queue::check(look)?;
                appending.append_next(&mut [pending.as_new(&headers)])
            }
            Err(e) => Err(e),
        };
        self.shared.note(&appended);
        match appended.is_ok().then(|| appender.soil()).flatten() {
            None => {}
            Some(Due::Now) => self.flush(appender),
            Some(Due::After(pause)) => {
                let (shared, appender) = (Arc::clone(&self.shared), Arc::clone(appender));
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    shared.order(Work::Flush(appender));
                });
            }
        }
        appended.map_err(|e| produce_error(&e, &pending))
    }

    /// Has a writer thread fsync a partition.
    pub fn flush(&self, appender: &Arc<Appender>) {
        self.shared.order(Work::Flush(Arc::clone(appender)));
    }

    /// Finishes what is queued and stops the threads.
    pub async fn close(&self) {
        self.shared.work.lock().take();
        let threads = std::mem::take(&mut *self.threads.lock());
        let _ = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join()))).await;
    }
}

impl Shared {
    /// False without threads: then everything is about to end, and has been fsynced.
    fn order(&self, work: Work) -> bool {
        self.work.lock().as_ref().is_some_and(|sender| sender.send(work).is_ok())
    }

    fn perform(&self, work: Work) {
        match work {
            Work::Commit(appender) => self.drain(&appender),
            Work::Flush(appender) if appender.is_dirty() => drop(self.sync(&appender)),
            Work::Flush(_) => {}
        }
    }

    /// That goes well also while there is no space, and so says nothing of faults before.
    fn sync(&self, appender: &Appender) -> Result<(), LogError> {
        appender.sync().inspect_err(|e| self.blame(e))
    }

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
            let bytes = batch.iter().map(|(p, _)| p.memory_bytes()).sum();
            self.commit(appender, batch);
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Commits a batch in as few runs as there can be.
    fn commit(&self, appender: &Appender, batch: Vec<Waiting>) {
        if batch.iter().all(|(p, _)| p.look.is_none()) {
            return self.append_run(appender, appender.log.begin_append(), batch);
        }
        let mut rest = batch.into_iter().peekable();
        while rest.peek().is_some() {
            let appending = appender.log.begin_append();
            let (mut run, mut keys) = (Vec::new(), HashSet::new());
            // What a record looks for must be in the log before it: a run ends before one that could look for another of the run.
            let may_join = |p: &Pending, run: &[Waiting], keys: &HashSet<Bytes>| match (&p.look, &p.record.key) {
                (None, _) => true,
                (Some(_), Some(key)) => !keys.contains(key),
                (Some(_), None) => run.is_empty(),
            };
            while let Some((mut pending, done)) = rest.next_if(|(p, _)| may_join(p, &run, &keys)) {
                // Of a log that takes none, nobody needs to look at anything.
                let look = pending.look.take().filter(|_| appending.is_ok());
                if let Err(refused) = queue::check(look) {
                    let _ = done.send(Err(refused));
                    continue;
                }
                keys.extend(pending.record.key.clone());
                run.push((pending, done));
            }
            self.append_run(appender, appending, run);
        }
    }

    /// Appends records with one write and one fsync, and answers.
    fn append_run(&self, appender: &Appender, appending: Result<Appending<'_>, LogError>, run: Vec<Waiting>) {
        if run.is_empty() {
            return;
        }
        let log = &appender.log;
        let headers: Vec<Header<'_>> = run.iter().flat_map(|(p, _)| p.headers()).collect();
        let mut rest = headers.as_slice();
        let mut records = Vec::with_capacity(run.len());
        for (pending, _) in &run {
            let (own, others) = rest.split_at(pending.record.headers.len());
            records.push(pending.as_new(own));
            rest = others;
        }
        let (appended, end) = match appending {
            // What a failed append left in the log before the record at fault is durable, and so acknowledged.
            Ok(mut appending) => (appending.append_next(&mut records), log.end_offset()),
            Err(e) => (Err(e), 0),
        };
        self.note(&appended);
        // Who queued them was promised an fsync, also where the topic was altered meanwhile and the log does not do it any more.
        let synced = if log.is_durable() { Ok(()) } else { self.sync(appender) };
        let offsets: Vec<_> = records.iter().map(|r| r.offset).collect();
        for ((pending, done), offset) in run.into_iter().zip(offsets) {
            // A client that has gone does not wait for its answer.
            let _ = done.send(match (&appended, &synced) {
                (Err(e), _) if offset >= end => Err(produce_error(e, &pending)),
                (_, Err(e)) => Err(unsynced(e, &pending)),
                _ => Ok(offset),
            });
        }
    }

    fn note(&self, appended: &Result<i64, LogError>) {
        match appended {
            Ok(_) => self.trouble.lock().pass(),
            Err(error) => self.blame(error),
        }
    }

    fn blame(&self, error: &LogError) {
        if matches!(error, LogError::TooLarge { .. } | LogError::Gone { .. }) {
            return;
        }
        let lasting = matches!(error, LogError::Poisoned { .. } | LogError::Cut { .. });
        // Each record may be refused for the same reason: a full disk is not to fill the log as well.
        let is_news = self.trouble.lock().add(error.to_string(), lasting);
        match is_news {
            true => tracing::error!(%error, "append or fsync failed"),
            false => tracing::debug!(%error, "append or fsync failed"),
        }
    }
}

fn produce_error(error: &LogError, pending: &Pending) -> ProduceError {
    match error {
        LogError::Gone { .. } => ProduceError::UnknownTopic { topic: pending.record.topic.clone() },
        LogError::DiskFull { .. } => ProduceError::DiskFull,
        LogError::Full { .. } => ProduceError::BytesMax,
        LogError::TooLarge { max, .. } => ProduceError::TooLarge { limit_bytes: Some(*max) },
        // Written, not known to be durable, and not visible unless recovery finds it.
        LogError::Poisoned { .. } | LogError::Cut { .. } => {
            ProduceError::Unavailable { reason: error.to_string(), written: Written::Maybe }
        }
        _ => ProduceError::Unavailable { reason: error.to_string(), written: Written::No },
    }
}

/// Of a record that was appended, whatever the error says of appends.
fn unsynced(error: &LogError, pending: &Pending) -> ProduceError {
    match error {
        LogError::Gone { .. } => produce_error(error, pending),
        _ => ProduceError::Unavailable { reason: error.to_string(), written: Written::Maybe },
    }
}
