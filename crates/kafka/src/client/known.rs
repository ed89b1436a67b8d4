//! Which topics can be produced to: asked once per topic, before librdkafka would wait half a minute for one to appear.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use message_cache::is_legal_topic_name;
use parking_lot::{Mutex, RwLock};
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::health::Health;
use super::native::{self, Ask, Code, ReaderClient, TopicHandle};
use super::producer::unavailable;
use crate::{ProduceError, ProduceRecord};

/// Questions to the cluster at a time: names may come from clients, so their number must not become the cluster's load.
const LOOKUPS_MAX: usize = 8;
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the answer that a topic or a partition does not exist is believed.
const MISSING_TTL: Duration = Duration::from_secs(1);
/// How long the number of partitions is believed where a new one must not be overlooked.
const COUNT_TTL: Duration = Duration::from_secs(1);
/// Names of missing topics that are remembered.
const MISSING_MAX: usize = 1000;
/// What a record takes in a batch beside its bytes, generously.
const RECORD_OVERHEAD_BYTES: usize = 100;
/// How long a topic's `max.message.bytes` is believed.
const LIMIT_TTL: Duration = Duration::from_secs(10);

/// A topic that exists.
pub struct Known {
    partitions: AtomicI32,
    looked_up: Mutex<Instant>,
    pace: RwLock<Option<Arc<Pace>>>,
}

/// Keeps the bytes on their way to a topic below its `max.message.bytes`: the broker measures whole batches by it, and
/// librdkafka would refuse every record of one that is too large.
struct Pace {
    limit_bytes: usize,
    learned: Instant,
    room: Arc<Semaphore>,
}

pub struct KnownTopics {
    asker: Arc<ReaderClient>,
    health: Arc<Health>,
    known: RwLock<HashMap<String, Arc<Known>>>,
    missing: Mutex<HashMap<String, Instant>>,
    lookups: Semaphore,
}

impl KnownTopics {
    /// `asker`: the client for questions. `health` is the reader's.
    pub fn new(asker: Arc<ReaderClient>, health: Arc<Health>) -> Self {
        let (known, missing) = (RwLock::default(), Mutex::default());
        Self { asker, health, known, missing, lookups: Semaphore::new(LOOKUPS_MAX) }
    }

    /// The topic, if it exists and has that partition.
    pub async fn find(&self, topic: &str, partition: Option<i32>) -> Result<Arc<Known>, ProduceError> {
        self.find_recent(topic, partition, Duration::MAX).await
    }

    /// How many partitions the topic had, at most [`COUNT_TTL`] ago.
    pub async fn count(&self, topic: &str) -> Result<i32, ProduceError> {
        let known = self.find_recent(topic, None, COUNT_TTL).await?;
        Ok(known.partitions.load(Ordering::Relaxed))
    }

    /// `age`: how old the answer may be.
    async fn find_recent(&self, topic: &str, partition: Option<i32>, age: Duration) -> Result<Arc<Known>, ProduceError> {
        if let Some(known) = self.remembered(topic, partition, age)? {
            return Ok(known);
        }
        let closed = |_| unavailable("this gateway is stopping");
        let _permit = tokio::select! {
            permit = self.lookups.acquire() => permit.map_err(closed)?,
            () = self.health.until_down() => return Err(self.down()),
        };
        // Another may have asked while this one waited.
        if let Some(known) = self.remembered(topic, partition, age)? {
            return Ok(known);
        }
        let (asker, health, name) = (Arc::clone(&self.asker), Arc::clone(&self.health), topic.to_owned());
        let asking = tokio::task::spawn_blocking(move || lookup(&asker, &health, &name));
        let answer = tokio::select! {
            answer = asking => answer.unwrap_or_else(|e| Err(unavailable(&format!("looking for the topic failed: {e}")))),
            () = self.health.until_down() => Err(self.down()),
        };
        if let Err(ProduceError::UnknownTopic { .. }) = &answer {
            self.forget(topic);
            let mut missing = self.missing.lock();
            if missing.len() >= MISSING_MAX {
                missing.clear();
            }
            missing.insert(topic.to_owned(), Instant::now());
        }
        let partitions = answer?;
        self.health.answered();
        let known = self.remember(topic, partitions);
        if partition.is_some_and(|p| p >= partitions) { Err(unknown_partition(topic, partition)) } else { Ok(known) }
    }

    /// `None`: the cluster must be asked.
    fn remembered(&self, topic: &str, partition: Option<i32>, age: Duration) -> Result<Option<Arc<Known>>, ProduceError> {
        if !is_legal_topic_name(topic) {
            return Err(ProduceError::Invalid { reason: format!("{topic:?} is no legal topic name") });
        }
        if partition.is_some_and(|p| p < 0) {
            return Err(unknown_partition(topic, partition));
        }
        if let Some(known) = self.known.read().get(topic) {
            let told = known.looked_up.lock().elapsed();
            if partition.is_none_or(|p| p < known.partitions.load(Ordering::Relaxed)) {
                return Ok((told < age).then(|| Arc::clone(known)));
            }
            let is_fresh = told < MISSING_TTL;
            return if is_fresh { Err(unknown_partition(topic, partition)) } else { Ok(None) };
        }
        let is_missing = self.missing.lock().get(topic).is_some_and(|at| at.elapsed() < MISSING_TTL);
        if is_missing { Err(ProduceError::UnknownTopic { topic: topic.to_owned() }) } else { Ok(None) }
    }

    fn remember(&self, topic: &str, partitions: i32) -> Arc<Known> {
        let mut all = self.known.write();
        let fresh =
            || Arc::new(Known { partitions: AtomicI32::new(0), looked_up: Mutex::new(Instant::now()), pace: RwLock::default() });
        let known = all.entry(topic.to_owned()).or_insert_with(fresh);
        known.partitions.store(partitions, Ordering::Relaxed);
        *known.looked_up.lock() = Instant::now();
        Arc::clone(known)
    }

    /// Ask again next time: the topic was deleted, or has just been created.
    pub fn forget(&self, topic: &str) {
        self.known.write().remove(topic);
        self.missing.lock().remove(topic);
    }

    fn down(&self) -> ProduceError {
        unavailable(&self.health.fault().unwrap_or_else(|| "all brokers are down".to_owned()))
    }
}

impl Known {
    /// Waits for room in a topic that takes less than a batch; at once in any other.
    pub async fn room_for(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let pace = self.pace.read().clone()?;
        let permits = u32::try_from(bytes.min(pace.limit_bytes)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        Arc::clone(&pace.room).acquire_many_owned(permits).await.ok()
    }

    /// The limit that [`Known::learn_limit`] was last told, while it is believed.
    pub fn limit_bytes(&self) -> Option<usize> {
        self.pace.read().as_ref().filter(|p| p.learned.elapsed() < LIMIT_TTL).map(|p| p.limit_bytes)
    }

    /// From now on, no more than these bytes are on their way to the topic at a time.
    pub fn learn_limit(&self, limit_bytes: usize) {
        let mut pace = self.pace.write();
        let room = match &*pace {
            Some(old) if old.limit_bytes == limit_bytes => Arc::clone(&old.room),
            _ => Arc::new(Semaphore::new(limit_bytes.clamp(1, Semaphore::MAX_PERMITS))),
        };
        *pace = Some(Arc::new(Pace { limit_bytes, learned: Instant::now(), room }));
    }
}

/// Bytes of a record in a batch, at most.
pub fn batch_bytes(record: &ProduceRecord) -> usize {
    let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + length(value) + 10).sum();
    length(&record.key) + length(&record.value) + headers + RECORD_OVERHEAD_BYTES
}

fn unknown_partition(topic: &str, partition: Option<i32>) -> ProduceError {
    ProduceError::UnknownPartition { topic: topic.to_owned(), partition: partition.unwrap_or(-1) }
}

/// The number of partitions. Blocks up to [`LOOKUP_TIMEOUT`].
fn lookup(asker: &Arc<ReaderClient>, health: &Health, topic: &str) -> Result<i32, ProduceError> {
    let unknown = || ProduceError::UnknownTopic { topic: topic.to_owned() };
    let handle = TopicHandle::new(asker, topic).ok_or_else(unknown)?;
    let answer = native::metadata_unless(asker.client(), Ask::One(&handle), LOOKUP_TIMEOUT, || health.is_down());
    let found = answer.map_err(|code| unavailable(&code.text()))?;
    let Some(found) = found.topics.get(topic) else {
        return Err(unknown());
    };
    let is = |code: RDKafkaErrorCode| found.code.is(code);
    match found.leaders.len() {
        _ if is(RDKafkaErrorCode::UnknownTopicOrPartition) => Err(unknown()),
        _ if is(RDKafkaErrorCode::TopicAuthorizationFailed) => Err(ProduceError::NotAuthorized { reason: found.code.text() }),
        0 => Err(if found.code == Code::NONE { unknown() } else { unavailable(&found.code.text()) }),
        partitions => Ok(i32::try_from(partitions).unwrap_or(i32::MAX)),
    }
}
