//! A cluster of Kafka brokers: one librdkafka client that writes, one that reads, two threads that keep the caches
//! filled. None of them is waited for: what the cluster does not answer now it answers later, or the caller gets an error.

mod admin;
mod append;
mod backoff;
mod config;
mod consume;
mod delivery;
mod fetch;
mod health;
mod identity;
mod known;
mod native;
mod producer;
mod resume;
mod supervise;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use message_cache::{LogOptions, TopicCache};
use parking_lot::{Mutex, RwLock};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use self::delivery::{Failure, classify};
use self::fetch::{Fetcher, Notice, TopicFetch, TopicState};
use self::health::{Health, ReaderContext};
use self::known::{Known, KnownTopics, batch_bytes};
use self::native::{ReaderClient, TopicHandle};
use self::producer::{Failed, Producer};
use self::supervise::{Supervisor, Wanted};
use crate::properties::Scope;
use crate::{
    AdminError, ClusterStatus, ConsumeFrom, ConsumedRecord, FetchStart, PartitionStatus, ProduceError, ProduceRecord, Produced,
    TopicDescription, TopicSpec, TopicStatus,
};

/// How often a record that fits its topic is sent again because the batch around it did not.
const BATCH_RETRIES_MAX: u32 = 3;

/// What a cluster is made from.
#[derive(Clone)]
pub struct KafkaOptions {
    /// The cluster's name in the configuration.
    pub name: String,
    /// Under Kafka's own names; see [`crate::check_property`].
    pub properties: BTreeMap<String, String>,
    /// Topic caches lie in `<cache_directory>/<topic>/`.
    pub cache_directory: PathBuf,
    pub log: LogOptions,
}

/// Values of properties are left out: there are secrets among them.
impl std::fmt::Debug for KafkaOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("KafkaOptions").field("name", &self.name).field("properties", &names).finish_non_exhaustive()
    }
}

/// The door to one Kafka cluster.
pub struct KafkaCluster {
    options: KafkaOptions,
    admin_config: ClientConfig,
    message_max_bytes: Option<u64>,
    producer: Arc<Producer>,
    producer_health: Arc<Health>,
    reader: Arc<ReaderClient>,
    reader_health: Arc<Health>,
    known: KnownTopics,
    wanted: Arc<Wanted>,
    notices: Sender<Notice>,
    stop: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl KafkaCluster {
    /// Never waits for the cluster.
    ///
    /// # Errors
    /// Why a property is refused.
    pub fn start(options: KafkaOptions) -> Result<Arc<Self>, String> {
        let producer_config = config::client_config(&options.properties, Scope::Producer)?;
        let reader_config = config::client_config(&options.properties, Scope::Consumer)?;
        let admin_config = config::client_config(&options.properties, Scope::Admin)?;
        let producer_health = Health::new(&options.name, "producer");
        let reader_health = Health::new(&options.name, "reader");
        let reader = start_reader(&reader_config, &reader_health)?;
        let message_max_bytes = producer_config.get("message.max.bytes").and_then(|bytes| bytes.parse().ok());
        let producer = Arc::new(Producer::start(producer_config, Arc::clone(&producer_health))?);
        let (notices, noticed) = crossbeam_channel::unbounded();
        let (orders, ordered) = crossbeam_channel::unbounded();
        let wanted = Arc::new(Wanted::default());
        let fetcher = Fetcher::new(Arc::clone(&reader), ordered, notices.clone());
        let supervisor = Supervisor {
            client: Arc::clone(&reader),
            health: Arc::clone(&reader_health),
            producer: Arc::clone(&producer),
            producer_health: Arc::clone(&producer_health),
            wanted: Arc::clone(&wanted),
            directory: options.cache_directory.clone(),
            notices: noticed,
            orders,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (fetching, supervising) = (Arc::clone(&stop), Arc::clone(&stop));
        let threads = vec![
            spawn("kafka-fetch", move || fetcher.run(&fetching))?,
            spawn("kafka-supervise", move || supervisor.run(&supervising))?,
        ];
        let known = KnownTopics::new(Arc::clone(&reader), Arc::clone(&reader_health));
        let threads = Mutex::new(threads);
        Ok(Arc::new(Self {
            options,
            admin_config,
            message_max_bytes,
            producer,
            producer_health,
            reader,
            reader_health,
            known,
            wanted,
            notices,
            stop,
            threads,
        }))
    }

    /// Answers when the cluster acknowledged the record by the property `acks`.
    ///
    /// # Errors
    /// Within `delivery.timeout.ms`; at once when the topic does not exist or every broker is down.
    pub async fn produce(&self, record: ProduceRecord) -> Result<Produced, ProduceError> {
        let topic = self.known.find(&record.topic, record.partition).await?;
        let mut tries = 0;
        loop {
            let room = topic.room_for(batch_bytes(&record)).await;
            let receiver = match self.producer.send(&record) {
                Ok(receiver) => receiver,
                Err(Failed::Error(error)) => return Err(error),
                Err(Failed::Local(failure)) => return Err(self.give_up(failure, &record, self.message_max_bytes)),
            };
            let failure = match receiver.await {
                Ok(Ok(produced)) => return Ok(produced),
                Ok(Err(failure)) => failure,
                // The producer was dropped with the record in it.
                Err(_) => Failure { code: RDKafkaErrorCode::PurgeInflight, written: crate::Written::Maybe },
            };
            if failure.code != RDKafkaErrorCode::MessageSizeTooLarge {
                return Err(self.give_up(failure, &record, None));
            }
            drop(room);
            let limit = self.learn_limit(&topic, &record.topic).await;
            tries += 1;
            if limit.is_none_or(|limit| batch_bytes(&record) > limit) || tries > BATCH_RETRIES_MAX {
                return Err(self.give_up(failure, &record, limit.map(|limit| limit as u64)));
            }
        }
    }

    fn give_up(&self, failure: Failure, record: &ProduceRecord, limit_bytes: Option<u64>) -> ProduceError {
        let error = classify(failure, &record.topic, record.partition, limit_bytes);
        if matches!(error, ProduceError::UnknownTopic { .. } | ProduceError::UnknownPartition { .. }) {
            self.known.forget(&record.topic);
        }
        error
    }

    /// `max.message.bytes` of a topic that refused a batch.
    async fn learn_limit(&self, known: &Known, topic: &str) -> Option<usize> {
        if let Some(limit) = known.limit_bytes() {
            return Some(limit);
        }
        let (config, name) = (self.admin_config.clone(), topic.to_owned());
        let properties = tokio::task::spawn_blocking(move || admin::topic_config(&config, &name)).await.ok()?.ok()?;
        let limit = properties.get("max.message.bytes")?.parse().ok()?;
        known.learn_limit(limit);
        Some(limit)
    }

    /// The cache of a topic, which is filled from now on. A topic that does not exist has no partitions until it does.
    ///
    /// # Errors
    /// When the name is illegal or the cache on disk cannot be opened.
    pub fn cached(&self, topic: &str, start: FetchStart) -> Result<Arc<TopicCache>, AdminError> {
        if let Some(fetch) = self.wanted.read().get(topic) {
            return Ok(Arc::clone(&fetch.cache));
        }
        let mut wanted = self.wanted.write();
        if let Some(fetch) = wanted.get(topic) {
            return Ok(Arc::clone(&fetch.cache));
        }
        let opened = TopicCache::open(&self.options.cache_directory, topic, &self.options.log);
        let cache = Arc::new(opened.map_err(|e| AdminError::Invalid(e.to_string()))?);
        let handle = TopicHandle::new(&self.reader, topic).ok_or_else(|| AdminError::UnknownTopic(topic.to_owned()))?;
        let fetch = TopicFetch {
            handle,
            start,
            found_on_disk: cache.partitions().len(),
            cache: Arc::clone(&cache),
            fetched: AtomicU64::new(0),
            slots: RwLock::default(),
            state: Mutex::new(TopicState::default()),
        };
        wanted.insert(topic.to_owned(), Arc::new(fetch));
        self.look();
        Ok(cache)
    }

    /// The caches that are in use.
    pub fn caches(&self) -> Vec<Arc<TopicCache>> {
        self.wanted.read().values().map(|fetch| Arc::clone(&fetch.cache)).collect()
    }

    /// Has the supervisor look for topics now.
    fn look(&self) {
        // Without a supervisor everything is about to end.
        let _ = self.notices.send(Notice::Look);
    }

    pub async fn create_topic(&self, spec: &TopicSpec) -> Result<(), AdminError> {
        let (config, wanted) = (self.admin_config.clone(), spec.clone());
        self.ask(move || admin::create_topic(&config, &wanted)).await?;
        self.known.forget(&spec.name);
        self.look();
        Ok(())
    }

    pub async fn topics(&self) -> Result<BTreeSet<String>, AdminError> {
        let reader = Arc::clone(&self.reader);
        self.ask(move || admin::topics(&reader)).await
    }

    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, AdminError> {
        let (reader, config, name) = (Arc::clone(&self.reader), self.admin_config.clone(), name.to_owned());
        self.ask(move || admin::describe_topic(&reader, &config, &name)).await
    }

    /// Asks the cluster on a thread that may block; gives up as soon as all brokers are known to be down.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> Result<T, AdminError> + Send + 'static,
    ) -> Result<T, AdminError> {
        let down = || AdminError::Unavailable(self.reader_health.fault().unwrap_or_else(|| "all brokers are down".to_owned()));
        if self.reader_health.is_down() {
            return Err(down());
        }
        let asking = tokio::task::spawn_blocking(question);
        tokio::select! {
            answer = asking => answer.unwrap_or_else(|e| Err(AdminError::Unavailable(e.to_string()))),
            () = self.reader_health.until_down() => Err(down()),
        }
    }

    /// One look at the cluster as this process sees it. Asks nobody.
    pub fn status(&self) -> ClusterStatus {
        let topics = self.wanted.read().values().map(|topic| topic_status(topic)).collect();
        ClusterStatus {
            up: self.reader_health.is_reached() && !self.producer_health.is_down(),
            brokers: self.reader_health.brokers(),
            topics,
            problem: self.reader_health.fault().or_else(|| self.producer_health.fault()),
        }
    }

    /// Reads a topic without a cache; see [`ConsumeFrom`]. Ends where the partitions ended at the start unless `follow`.
    /// Blocks.
    ///
    /// # Errors
    /// When the topic or the partition does not exist, or reading cannot go on.
    pub fn consume(
        &self,
        topic: &str,
        partition: Option<i32>,
        from: ConsumeFrom,
        follow: bool,
        each: &mut dyn FnMut(ConsumedRecord) -> ControlFlow<()>,
    ) -> Result<(), AdminError> {
        let config = config::client_config(&self.options.properties, Scope::Consumer).map_err(AdminError::Invalid)?;
        // A client of its own: a partition can be read only once by each.
        let reader = start_reader(&config, &Health::new(&self.options.name, "consume")).map_err(AdminError::Invalid)?;
        consume::consume(&reader, topic, partition, from, follow, each)
    }

    /// Records on their way are acknowledged or fail, reading stops, threads end.
    pub async fn close(&self) {
        self.stop.store(true, Ordering::Release);
        self.look();
        let (producer, threads) = (Arc::clone(&self.producer), std::mem::take(&mut *self.threads.lock()));
        let closing = tokio::task::spawn_blocking(move || {
            producer.close();
            for thread in threads {
                let _ = thread.join();
            }
        });
        if let Err(error) = closing.await {
            tracing::error!(%error, "closing the cluster failed");
        }
    }
}

impl Drop for KafkaCluster {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn start_reader(config: &ClientConfig, health: &Arc<Health>) -> Result<Arc<ReaderClient>, String> {
    let context = ReaderContext(Arc::clone(health));
    config.create_with_context(context).map(Arc::new).map_err(|e: KafkaError| config::refusal(&e))
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|e| format!("no thread {name}: {e}"))
}

fn topic_status(topic: &TopicFetch) -> TopicStatus {
    let slots = topic.slots.read();
    let partitions = slots.iter().map(|slot| {
        let (state, problem) = slot.state();
        PartitionStatus {
            partition: slot.partition,
            state,
            cached_end: slot.log.end_offset(),
            cluster_end: topic.handle.last_heard_end(slot.partition),
            problem,
        }
    });
    TopicStatus {
        name: topic.cache.name().to_owned(),
        partitions: partitions.collect(),
        fetched_records: topic.fetched.load(Ordering::Relaxed),
        problem: topic.state.lock().problem.clone(),
    }
}
