//! A topic that is watched for records of certain ids. However many wait, one reader reads it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use message_cache::{Clause, Event, Filter, From, ReadOptions, Reader, Record};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::fetch::{FetchError, Latest};
use crate::id::CorrelationId;
use crate::topic::Topic;
use crate::waiting::{Arrival, Waiting};

/// Records that are taken at a time.
const TAKE: usize = 512;
/// Pause before a topic that cannot be opened is tried again.
const RETRY: Duration = Duration::from_secs(1);

pub struct Watch {
    topic: Arc<Topic>,
    /// The record header that has the id.
    header: String,
    waiting: Mutex<Waiting<oneshot::Sender<()>>>,
    /// Whether the reader stands at the end: from then on no record passes unseen.
    reading: watch::Sender<bool>,
    counts: Counts,
    began: Instant,
    /// The second after `began` in which the log was last told of a record.
    told: AtomicU64,
}

#[derive(Default)]
struct Counts {
    awaited: AtomicU64,
    repeated: AtomicU64,
    late: AtomicU64,
    unasked: AtomicU64,
    malformed: AtomicU64,
}

/// What has been seen since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchStats {
    /// Who waits now.
    pub waiting: usize,
    pub awaited: u64,
    pub repeated: u64,
    pub late: u64,
    pub unasked: u64,
    /// Without an id, or with a text that is none.
    pub malformed: u64,
}

impl Watch {
    pub fn new(topic: Arc<Topic>, header: &str) -> Arc<Self> {
        let (reading, _) = watch::channel(false);
        Arc::new(Self {
            topic,
            header: header.to_owned(),
            waiting: Mutex::default(),
            reading,
            counts: Counts::default(),
            began: Instant::now(),
            told: AtomicU64::new(0),
        })
    }

    pub fn topic(&self) -> &Arc<Topic> {
        &self.topic
    }

    pub fn header(&self) -> &str {
        &self.header
    }

    /// Reads the topic from its end on. Never ends: to be aborted when nobody waits any more.
    pub async fn run(self: Arc<Self>) {
        let cache = loop {
            match self.topic.cache() {
                Ok(cache) => break Arc::clone(cache),
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        };
        let _in_use = cache.enter();
        let options = ReadOptions { from: From::Latest, filter: Filter::all(), conflate: Some(false) };
        let mut reader = Reader::new(Arc::clone(&cache), options);
        self.reading.send_replace(true);
        let mut events = Vec::with_capacity(TAKE);
        loop {
            reader.next(TAKE, &mut events).await;
            // What a cache is filled with for the first time is old, and nobody waits for it.
            let is_news = cache.is_complete();
            for event in events.drain(..) {
                match event {
                    Event::Record { partition, record } => self.meet(partition, &record, is_news),
                    Event::Unreadable { partition, error } => {
                        tracing::warn!(topic = self.topic.name(), partition, %error, "who waits for records there is not told");
                    }
                    Event::Gap { .. } | Event::Reset { .. } => {}
                }
            }
        }
    }

    fn meet(&self, partition: i32, record: &Record, is_news: bool) {
        let Some(id) = record.header(&self.header).and_then(CorrelationId::parse) else {
            if is_news {
                self.counts.malformed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(
                    topic = self.topic.name(),
                    partition,
                    offset = record.offset(),
                    "record without a correlation id"
                );
            }
            return;
        };
        let (arrival, met) = self.waiting.lock().arrive(id);
        for (_, who) in met {
            // Who has just gone does not hear of it.
            let _ = who.send(());
        }
        let counter = match arrival {
            Arrival::Awaited => &self.counts.awaited,
            Arrival::Repeated => &self.counts.repeated,
            Arrival::Late => &self.counts.late,
            Arrival::Unasked if !is_news => return,
            Arrival::Unasked => &self.counts.unasked,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if matches!(arrival, Arrival::Repeated | Arrival::Late) && self.may_tell() {
            tracing::info!(topic = self.topic.name(), partition, offset = record.offset(), %id, ?arrival, "reply not used");
        }
    }

    /// Whether a line may go to the log: one a second, since a worker that runs wild would fill it.
    fn may_tell(&self) -> bool {
        let now = self.began.elapsed().as_secs() + 1;
        self.told.fetch_max(now, Ordering::Relaxed) < now
    }

    /// Waits until no record can pass unseen.
    pub async fn ready(&self) {
        if !*self.reading.borrow() {
            // The sender lives as long as this does.
            let _ = self.reading.subscribe().wait_for(|reading| *reading).await;
        }
    }

    /// Waits for a record of the id that comes from now on: once this is [`Watch::ready`].
    pub fn await_id(self: &Arc<Self>, id: CorrelationId) -> Awaited {
        let (tell, told) = oneshot::channel();
        let ticket = self.waiting.lock().enter(id, tell);
        Awaited { watch: Arc::clone(self), id, ticket, in_order: false, told }
    }

    /// The first record of the id that there is; see [`first`].
    pub fn first(&self, id: CorrelationId) -> Result<Option<Latest>, FetchError> {
        first(&self.topic, &self.header, id.to_string())
    }

    pub fn stats(&self) -> WatchStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &self.counts;
        WatchStats {
            waiting: self.waiting.lock().len(),
            awaited: count(&c.awaited),
            repeated: count(&c.repeated),
            late: count(&c.late),
            unasked: count(&c.unasked),
            malformed: count(&c.malformed),
        }
    }
}

/// The first record that has an id, as text: in each partition by offset, over partitions by time.
pub fn first(topic: &Topic, header: &str, id: String) -> Result<Option<Latest>, FetchError> {
    let cache = topic.cache().map_err(|e| FetchError::Unavailable(e.to_string()))?;
    let clause = Clause { key: None, headers: vec![(header.to_owned(), Some(id.into_bytes()))] };
    let mut first: Option<Latest> = None;
    for (log, partition) in cache.partitions().iter().zip(0..) {
        let Some(record) = log.first(&clause)? else { continue };
        if first.as_ref().is_none_or(|f| record.timestamp_ms() < f.record.timestamp_ms()) {
            first = Some(Latest { partition, record });
        }
    }
    Ok(first)
}

/// One who waits; gone when dropped.
pub struct Awaited {
    watch: Arc<Watch>,
    id: CorrelationId,
    ticket: u64,
    in_order: bool,
    told: oneshot::Receiver<()>,
}

impl Awaited {
    /// Leaves without giving up: whoever asked is to come again.
    pub fn leave(mut self) {
        self.in_order = true;
    }

    /// Ends when there is a record of the id. May be broken off and called again until it has ended.
    pub async fn arrival(&mut self) {
        let _ = (&mut self.told).await;
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.watch.waiting.lock().leave(self.id, self.ticket, self.in_order);
    }
}
