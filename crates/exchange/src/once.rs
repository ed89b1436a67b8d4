//! Records that are written once, however often, and wherever, they are asked for.
//!
//! A record is known by the id of the client's idempotency key. Within the process one task at a time writes a record of a key, and
//! others wait for what becomes of it. What was written before, here or elsewhere, is found in the
//! cache of the topic, by index. What is written elsewhere at the same moment is found only where the cluster decides: see
//! [`Decide`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kafka::{Claims, Cluster, Condition, ProduceError, ProduceRecord, Produced};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::fetch::{FetchError, Latest};
use crate::id::{KeyId, RequestDigest};
use crate::topic::Topic;
use crate::watch::{Watch, first};

/// The record header that has the digest of the request.
pub const DIGEST_HEADER: &str = "tidegate-request-digest";
/// The record header that has the id of the key.
pub const KEY_HEADER: &str = "tidegate-idempotency-id";
/// How long a claim may take to become a record: an owner that died has to be missed, and another to begin.
const CLAIM_PATIENCE: Duration = Duration::from_secs(60);
/// Most bytes of records that are being written, in one topic: those of clients that have gone count, too.
const RUNNING_BYTES_MAX: u64 = 64 << 20;
/// What a record that is being written takes beside its bytes, about.
const RUNNING_BYTES_EACH: u64 = 1024;

/// Who decides which of two requests with one key is the first.
pub enum Decide {
    /// This process, after a look at all that the topic has at this moment: another gateway that is asked at the same moment may
    /// write, too. On the embedded cluster there is no other.
    Here,
    /// The cluster: each gateway writes a claim, and the one that owns its partition copies the first of each id to the topic, in a
    /// transaction. The watch is on the topic.
    Claims(Arc<Claims>, Arc<Watch>),
}

pub struct Once {
    topic: Arc<Topic>,
    decide: Decide,
    patience: Duration,
    running: Mutex<HashMap<KeyId, Running>>,
    running_bytes: AtomicU64,
    counts: Mutex<OnceStats>,
}

/// What became of the requests since the start, those that joined another included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnceStats {
    pub written: u64,
    pub repeated: u64,
    pub conflicts: u64,
    pub failed: u64,
}

/// A record that is being written.
struct Running {
    digest: RequestDigest,
    outcome: watch::Receiver<Option<Outcome>>,
}

type Outcome = Result<Written, OnceError>;

/// Where the record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub produced: Produced,
    /// It was there before.
    pub repeated: bool,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum OnceError {
    #[error("this idempotency key was used for another request")]
    Conflict,
    #[error(transparent)]
    Produce(#[from] ProduceError),
    /// Whether it was written before cannot be told; nothing was written now.
    #[error(transparent)]
    Look(#[from] Arc<FetchError>),
    /// Its claim is in the cluster, and will be copied when one of the gateways can.
    #[error("the record was claimed, and no gateway has written it yet")]
    Claimed,
    #[error("the task that wrote the record failed")]
    Broken,
}

impl Once {
    /// `patience`: how long the cache may take to reach the end of the topic.
    pub fn new(topic: Arc<Topic>, decide: Decide, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            topic,
            decide,
            patience,
            running: Mutex::default(),
            running_bytes: AtomicU64::new(0),
            counts: Mutex::default(),
        })
    }

    pub fn topic(&self) -> &Arc<Topic> {
        &self.topic
    }

    /// Writes the record, which has key and digest in its headers, unless one of its key was written before. Goes on when the caller
    /// does not wait any more. A condition counts only for a record that is new.
    pub async fn write(
        self: &Arc<Self>,
        key: KeyId,
        digest: RequestDigest,
        record: ProduceRecord,
        condition: Option<Condition>,
    ) -> Outcome {
        let outcome = self.join_or_write(key, digest, record, condition).await;
        let mut counts = self.counts.lock();
        match &outcome {
            Ok(Written { repeated: false, .. }) => counts.written += 1,
            Ok(_) => counts.repeated += 1,
            Err(OnceError::Conflict) => counts.conflicts += 1,
            Err(_) => counts.failed += 1,
        }
        drop(counts);
        outcome
    }

    pub fn stats(&self) -> OnceStats {
        *self.counts.lock()
    }

    async fn join_or_write(
        self: &Arc<Self>,
        key: KeyId,
        digest: RequestDigest,
        record: ProduceRecord,
        condition: Option<Condition>,
    ) -> Outcome {
        let (mut outcome, joined) = match self.join_or_lead(key, digest, bytes_of(&record))? {
            Role::Joins(outcome) => (outcome, true),
            Role::Leads(lead, outcome) => {
                let once = Arc::clone(self);
                tokio::spawn(async move {
                    let outcome = once.lead(key, digest, record, condition).await;
                    lead.end(outcome);
                });
                (outcome, false)
            }
        };
        let outcome = outcome.wait_for(Option::is_some).await.map_err(|_| OnceError::Broken)?;
        let outcome = outcome.clone().unwrap_or(Err(OnceError::Broken));
        outcome.map(|written| Written { repeated: written.repeated || joined, ..written })
    }

    fn join_or_lead(self: &Arc<Self>, key: KeyId, digest: RequestDigest, bytes: u64) -> Result<Role, OnceError> {
        let mut running = self.running.lock();
        if let Some(other) = running.get(&key) {
            return if other.digest == digest { Ok(Role::Joins(other.outcome.clone())) } else { Err(OnceError::Conflict) };
        }
        // Under the lock, so that two cannot take the last bytes; one alone may always.
        if self.running_bytes.load(Ordering::Relaxed) + bytes > RUNNING_BYTES_MAX && !running.is_empty() {
            return Err(ProduceError::QueueFull.into());
        }
        self.running_bytes.fetch_add(bytes, Ordering::Relaxed);
        let (tell, outcome) = watch::channel(None);
        running.insert(key, Running { digest, outcome: outcome.clone() });
        Ok(Role::Leads(Lead { once: Arc::clone(self), key, bytes, tell }, outcome))
    }

    async fn lead(&self, key: KeyId, digest: RequestDigest, record: ProduceRecord, condition: Option<Condition>) -> Outcome {
        let used = self.topic.caught_up(None, self.patience).await.map_err(Arc::new)?;
        if let Some(found) = self.look(key, digest)? {
            return Ok(found);
        }
        let must_see_all = matches!(self.decide, Decide::Here) || condition.is_some();
        if must_see_all && matches!(self.topic.cluster(), Cluster::Kafka(_)) {
            self.topic.at_end(used.cache, self.patience).await.map_err(Arc::new)?;
            if let Some(found) = self.look(key, digest)? {
                return Ok(found);
            }
        }
        let Decide::Claims(claims, watch) = &self.decide else {
            let produced = self.topic.produce(record, condition).await?;
            return Ok(Written { produced, repeated: false });
        };
        if condition.is_some_and(|holds| !holds(used.cache)) {
            return Err(ProduceError::ConditionFailed.into());
        }
        watch.ready().await;
        let mut copied = watch.await_id(key.into());
        claims.submit(&key.to_string(), record).await?;
        // A record that came between the look and the wait would have no other to tell of it.
        if let Some(found) = self.look(key, digest)? {
            return Ok(found);
        }
        match tokio::time::timeout(CLAIM_PATIENCE, copied.arrival()).await {
            Ok(()) => self.look(key, digest)?.map(|w| Written { repeated: false, ..w }).ok_or(OnceError::Claimed),
            Err(_) => Err(OnceError::Claimed),
        }
    }

    /// What was written of the id, if it was the same request.
    fn look(&self, key: KeyId, digest: RequestDigest) -> Result<Option<Written>, OnceError> {
        let Some(Latest { partition, record }) = first(&self.topic, KEY_HEADER, key.to_string()).map_err(Arc::new)? else {
            return Ok(None);
        };
        if !record.header(DIGEST_HEADER).is_some_and(|text| digest.is(text)) {
            return Err(OnceError::Conflict);
        }
        let produced = Produced { partition, offset: Some(record.offset()), timestamp_ms: record.timestamp_ms() };
        Ok(Some(Written { produced, repeated: true }))
    }
}

enum Role {
    Joins(watch::Receiver<Option<Outcome>>),
    Leads(Lead, watch::Receiver<Option<Outcome>>),
}

/// Makes room for the next when dropped, however the writing ended.
struct Lead {
    once: Arc<Once>,
    key: KeyId,
    bytes: u64,
    tell: watch::Sender<Option<Outcome>>,
}

impl Lead {
    fn end(self, outcome: Outcome) {
        self.tell.send_replace(Some(outcome));
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        // What was acknowledged is seen by every look from now on.
        self.once.running.lock().remove(&self.key);
        self.once.running_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn bytes_of(record: &ProduceRecord) -> u64 {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + length(value)).sum();
    (length(&record.key) + length(&record.value) + headers) as u64 + RUNNING_BYTES_EACH
}
