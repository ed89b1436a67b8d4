//! A cluster of Kafka brokers: one librdkafka client that writes, one that reads, two threads that keep the caches
//! filled. None of them is waited for: what the cluster does not answer now it answers later, or the caller gets an error.

mod admin;
mod append;
mod arrivals;
mod ask;
mod backoff;
mod claims;
mod config;
mod consume;
mod delivery;
mod ends;
mod fetch;
mod health;
mod identity;
mod known;
mod look;
mod manage;
mod marks;
mod native;
mod producer;
mod resume;
mod start;
mod supervise;
mod topic;
mod watchdog;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;
use message_cache::{LogOptions, TopicCache};
use parking_lot::{Mutex, RwLock};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::Semaphore;

pub use self::claims::{Claims, ClaimsOptions, ClaimsStats};
use self::delivery::{Failure, classify};
use self::ends::Ends;
use self::fetch::{Fetcher, Notice};
use self::health::{Health, ReaderContext};
use self::known::{Known, KnownTopics, batch_bytes};
use self::marks::Marks;
use self::native::{ReaderClient, TopicHandle};
use self::producer::{Failed, Producer};
use self::supervise::{Supervisor, Wanted};
use self::topic::{TopicFetch, TopicState};
use crate::properties::Scope;
use crate::{AdminError, ClusterStatus, ConsumeFrom, ConsumedRecord, FetchOptions, ProduceError, ProduceRecord, Produced};

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
    /// How often topics are looked at: whether they are the same, how configured, where their partitions begin
    /// (`cache.topic_refresh`).
    pub refresh: Duration,
}

/// The default of [`KafkaOptions::refresh`].
pub const TOPIC_REFRESH: Duration = Duration::from_secs(10);
/// A shorter time than this would keep the brokers busy for nothing.
const TOPIC_REFRESH_MIN: Duration = Duration::from_millis(100);
/// The most questions about topics at a time: each has a thread, and some a client with connections of its own.
const QUESTIONS_MAX: usize = 8;
/// The most readers of [`KafkaCluster::read_range`] that are kept for the next.
const IDLE_READERS_MAX: usize = 2;

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
    /// Whether caches have only what transactions that are over have left (`isolation.level`).
    committed: bool,
    producer: Arc<Producer>,
    producer_health: Arc<Health>,
    reader: Arc<ReaderClient>,
    reader_health: Arc<Health>,
    asker: Arc<ReaderClient>,
    questions: Semaphore,
    /// Clients that have read a range and can read another.
    idle_readers: Arc<Mutex<Vec<Arc<ReaderClient>>>>,
    known: KnownTopics,
    /// Begun by the first who asks.
    ends: OnceLock<Result<Ends, String>>,
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
        // What it hears of brokers that are down the reader hears, too.
        let asker = start_reader(&admin_config, &Health::new(&options.name, "asker"))?;
        let committed = reader_config.get("isolation.level") != Some("read_uncommitted");
        let message_max_bytes = producer_config.get("message.max.bytes").and_then(|bytes| bytes.parse().ok());
        let producer = Arc::new(Producer::start(producer_config, Arc::clone(&producer_health))?);
        let (notices, noticed) = crossbeam_channel::unbounded();
        let (orders, ordered) = crossbeam_channel::unbounded();
        let wanted = Arc::new(Wanted::default());
        let fetcher = Fetcher::new(Arc::clone(&reader), ordered, notices.clone());
        let idle_readers = Arc::<Mutex<Vec<Arc<ReaderClient>>>>::default();
        let supervisor = Supervisor {
            idle_readers: Arc::clone(&idle_readers),
            reader: Arc::clone(&reader),
            asker: Arc::clone(&asker),
            health: Arc::clone(&reader_health),
            producer: Arc::clone(&producer),
            producer_health: Arc::clone(&producer_health),
            wanted: Arc::clone(&wanted),
            directory: options.cache_directory.clone(),
            refresh: options.refresh.max(TOPIC_REFRESH_MIN),
            committed,
            notices: noticed,
            orders,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (fetching, supervising) = (Arc::clone(&stop), Arc::clone(&stop));
        let threads = vec![
            spawn("kafka-fetch", move || fetcher.run(&fetching))?,
            spawn("kafka-supervise", move || supervisor.run(&supervising))?,
        ];
        let known = KnownTopics::new(Arc::clone(&asker), Arc::clone(&reader_health));
        let threads = Mutex::new(threads);
        Ok(Arc::new(Self {
            options,
            admin_config,
            message_max_bytes,
            committed,
            producer,
            producer_health,
            reader,
            reader_health,
            asker,
            questions: Semaphore::new(QUESTIONS_MAX),
            idle_readers,
            known,
            ends: OnceLock::new(),
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
        let (asker, name) = (Arc::clone(&self.asker), topic.to_owned());
        let properties = tokio::task::spawn_blocking(move || admin::topic_config(&asker, &name)).await.ok()?.ok()?;
        let limit = properties.get("max.message.bytes")?.parse().ok()?;
        known.learn_limit(limit);
        Some(limit)
    }

    /// The cache of a topic, which is filled from now on. A topic that does not exist has no partitions until it does.
    ///
    /// # Errors
    /// When the name is illegal or the cache on disk cannot be opened.
    pub fn cached(&self, topic: &str, options: impl Into<FetchOptions>) -> Result<Arc<TopicCache>, AdminError> {
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
        let options = options.into();
        let marks = Marks::read(cache.dir());
        if let Some(config) = &marks.config {
            cache.set_policy(marks::policy(config));
        }
        let notices = self.notices.clone();
        // Without a supervisor everything is about to end.
        let wake = move || drop(notices.send(Notice::Wake));
        let demand = options.linger.map(|_| Arc::clone(cache.fill_on_demand(Box::new(wake))));
        let fetch = TopicFetch {
            handle,
            options,
            cache: Arc::clone(&cache),
            fetched: AtomicU64::new(0),
            slots: RwLock::default(),
            state: Mutex::new(TopicState { found_on_disk: cache.partitions().len(), marks, ..TopicState::default() }),
            demand,
        };
        wanted.insert(topic.to_owned(), Arc::new(fetch));
        self.look();
        Ok(cache)
    }

    fn why_down(&self) -> String {
        self.reader_health.fault().unwrap_or_else(|| "all brokers are down".to_owned())
    }

    /// The caches that are in use.
    pub fn caches(&self) -> Vec<Arc<TopicCache>> {
        self.wanted.read().values().map(|fetch| Arc::clone(&fetch.cache)).collect()
    }

    /// Has the topics looked at now, not only at the next [`KafkaOptions::refresh`]. Does not wait for the cluster.
    pub fn refresh(&self) {
        self.look();
    }

    fn look(&self) {
        // Without a supervisor everything is about to end.
        let _ = self.notices.send(Notice::Look);
    }

    /// One look at the cluster as this process sees it. Asks nobody.
    pub fn status(&self) -> ClusterStatus {
        let topics = self.wanted.read().values().map(|topic| topic.status()).collect();
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
        let reader = self.own_reader()?;
        consume::consume(&reader, topic, partition, from, follow, each)
    }

    /// Reads the offsets `from..to` of a partition without a cache, as far as the cluster has them: the first record given tells
    /// where it begins. Blocks until `each` breaks off or there is no more.
    ///
    /// # Errors
    /// When the topic or the partition does not exist, or reading cannot go on.
    pub fn read_range(
        &self,
        topic: &str,
        partition: i32,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(ConsumedRecord) -> ControlFlow<()>,
    ) -> Result<(), AdminError> {
        let idle = self.idle_readers.lock().pop();
        let reader = match idle {
            Some(reader) => reader,
            None => self.own_reader()?,
        };
        consume::range(&reader, topic, partition, from..to, each)?;
        let mut idle = self.idle_readers.lock();
        if idle.len() < IDLE_READERS_MAX {
            idle.push(reader);
        }
        Ok(())
    }

    /// A client of its own: a partition can be read only once by each.
    fn own_reader(&self) -> Result<Arc<ReaderClient>, AdminError> {
        let config = config::client_config(&self.options.properties, Scope::Consumer).map_err(AdminError::Invalid)?;
        start_reader(&config, &Health::new(&self.options.name, "consume")).map_err(AdminError::Invalid)
    }

    /// Records on their way are acknowledged or fail, reading stops, threads end.
    pub async fn close(&self) {
        self.stop.store(true, Ordering::Release);
        self.look();
        let (producer, threads) = (Arc::clone(&self.producer), std::mem::take(&mut *self.threads.lock()));
        if let Some(Ok(ends)) = self.ends.get() {
            ends.close();
        }
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
