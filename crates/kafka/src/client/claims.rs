//! Records that are written to a topic once, whoever asks how often and at which gateway: each ask is a *claim*, a record of a topic
//! of claims, keyed by the id of what it wants written. Of each partition of that topic one gateway is the *owner*, by a consumer group.
//! The owner copies the first claim of each id to the target, and notes how far it has come, in one transaction. Whoever owns a
//! partition next ends what the former owner had begun ([`writer`]), and sees all that it wrote ([`sight`]), before it copies anything.

mod choice;
mod format;
mod member;
mod owner;
mod sight;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::known::batch_bytes;
use super::{KafkaCluster, admin};
use crate::{ProduceError, ProduceRecord, Produced};

/// What claims are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimsOptions {
    /// The topic of claims, of one target only. Its partitions must stay as many as they are while claims are made: the partition of an
    /// id decides who copies it. Its retention must be longer than all gateways may be away at once.
    pub topic: String,
    /// Where each id is to be once, for as long as this topic keeps it.
    pub target: String,
    /// The record header of the target that holds the id.
    pub id_header: String,
}

/// What one process has done with claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClaimsStats {
    /// Claims whose record was written.
    pub copied: u64,
    /// Claims of an id that was there already.
    pub repeated: u64,
    /// Claims that cannot be read, or whose record the target takes never: skipped.
    pub refused: u64,
    /// Partitions of claims that this process copies now.
    pub owned: u64,
    /// Transactions that were committed.
    pub transactions: u64,
    /// How often copying a partition was begun again after a fault.
    pub restarts: u64,
}

/// The door to a topic of claims; see [`KafkaCluster::claims`].
pub struct Claims {
    cluster: Arc<KafkaCluster>,
    shared: Arc<Shared>,
    /// `max.message.bytes` of the target, and when it was told.
    limit: tokio::sync::Mutex<Option<(Instant, Option<usize>)>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How long the target's `max.message.bytes` is believed.
const LIMIT_TTL: Duration = Duration::from_secs(10);

impl KafkaCluster {
    /// Begins to take part in copying claims. Never waits for the cluster. To be called once for each topic of claims. The target's
    /// cache is kept, and has to go back as far as ids are to be written once.
    pub fn claims(self: &Arc<Self>, options: ClaimsOptions) -> Arc<Claims> {
        let shared =
            Arc::new(Shared { options, stop: Stop::default(), counters: Counters::default(), problems: Mutex::default() });
        let (cluster, member) = (Arc::clone(self), Arc::clone(&shared));
        let thread = super::spawn("kafka-claims", move || member::run(&cluster, &member));
        let thread = thread.map_err(|problem| shared.note(MEMBER, problem)).ok();
        Arc::new(Claims { cluster: Arc::clone(self), shared, limit: tokio::sync::Mutex::default(), thread: Mutex::new(thread) })
    }
}

impl Claims {
    /// Asks that this record be written to the target, unless one of this id is or was asked for before. Answers when the ask is
    /// acknowledged: that the record is there is told by the target's cache. The id is added to the headers if they lack it.
    ///
    /// # Errors
    /// As of [`KafkaCluster::produce`], about the topic of claims; and about the target, as far as can be told before the record is
    /// copied: that it does not exist, lacks the partition, or takes no record that large (before compression).
    pub async fn submit(&self, id: &str, record: ProduceRecord) -> Result<Produced, ProduceError> {
        self.cluster.known.find(&self.shared.options.target, record.partition).await?;
        let limit = self.limit_bytes().await;
        if limit.is_some_and(|limit| batch_bytes(&record) > limit) {
            return Err(ProduceError::TooLarge { limit_bytes: limit.map(|limit| limit as u64) });
        }
        let claim = format::claim(&self.shared.options, id, record).map_err(|reason| ProduceError::Invalid { reason })?;
        self.cluster.produce(claim).await
    }

    /// `None` where the cluster does not tell: then only the owner finds out.
    async fn limit_bytes(&self) -> Option<usize> {
        let mut told = self.limit.lock().await;
        if let Some((_, limit)) = told.filter(|(at, _)| at.elapsed() < LIMIT_TTL) {
            return limit;
        }
        let (asker, name) = (Arc::clone(&self.cluster.asker), self.shared.options.target.clone());
        let properties = tokio::task::spawn_blocking(move || admin::topic_config(&asker, &name)).await;
        let limit = properties.ok().and_then(Result::ok).and_then(|all| all.get("max.message.bytes")?.parse().ok());
        *told = Some((Instant::now(), limit));
        limit
    }

    /// Why claims are not copied by this process, in words, while that lasts. Another may copy them.
    pub fn problem(&self) -> Option<String> {
        self.shared.problems.lock().values().next().cloned()
    }

    pub fn stats(&self) -> ClaimsStats {
        let counters = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ClaimsStats {
            copied: get(&counters.copied),
            repeated: get(&counters.repeated),
            refused: get(&counters.refused),
            owned: get(&counters.owned),
            transactions: get(&counters.transactions),
            restarts: get(&counters.restarts),
        }
    }

    /// Commits what runs and leaves the group, so that others take over at once. To be called before the cluster is closed.
    pub async fn close(&self) {
        self.shared.stop.set();
        let thread = self.thread.lock().take();
        let joining = tokio::task::spawn_blocking(move || thread.map(JoinHandle::join));
        if !matches!(joining.await, Ok(None | Some(Ok(())))) {
            tracing::error!(topic = self.shared.options.topic, "the thread that copies claims has failed");
        }
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        self.shared.stop.set();
    }
}

/// Where the problem of the group's member is noted, beside those of partitions.
const MEMBER: i32 = -1;

/// What the threads of one topic of claims share.
struct Shared {
    options: ClaimsOptions,
    stop: Stop,
    counters: Counters,
    /// By partition.
    problems: Mutex<BTreeMap<i32, String>>,
}

#[derive(Default)]
struct Counters {
    copied: AtomicU64,
    repeated: AtomicU64,
    refused: AtomicU64,
    owned: AtomicU64,
    transactions: AtomicU64,
    restarts: AtomicU64,
}

impl Shared {
    fn note(&self, partition: i32, problem: String) {
        let before = self.problems.lock().insert(partition, problem.clone());
        if before.as_ref() != Some(&problem) {
            tracing::warn!(topic = self.options.topic, partition, problem, "claims are not copied");
        }
    }

    fn clear(&self, partition: i32) {
        if self.problems.lock().remove(&partition).is_some() {
            tracing::info!(topic = self.options.topic, partition, "claims are copied again");
        }
    }
}

/// Says once, for good, that a thread is to end, and wakes it if it waits.
#[derive(Default)]
struct Stop {
    since: Mutex<Option<Instant>>,
    bell: Condvar,
}

/// How long a transaction may still take to end when its thread is to end. Whoever owns the partition next ends it else.
const END_GRACE: Duration = Duration::from_secs(3);

impl Stop {
    fn set(&self) {
        self.since.lock().get_or_insert_with(Instant::now);
        self.bell.notify_all();
    }

    fn is_set(&self) -> bool {
        self.since.lock().is_some()
    }

    /// Whether the time for what was under way is over, too.
    fn is_over(&self) -> bool {
        self.since.lock().is_some_and(|since| since.elapsed() > END_GRACE)
    }

    /// Waits that long, or less if it is set.
    fn wait(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut since = self.since.lock();
        while since.is_none() && !self.bell.wait_until(&mut since, until).timed_out() {}
    }
}
