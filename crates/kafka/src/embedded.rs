//! The embedded cluster: topics whose only copy is the partition logs of this process. It speaks Kafka's names and
//! semantics; it has no wire protocol and one node.

mod admin;
mod appender;
mod flush;
mod meta;
mod queue;
mod times;
mod topic;
mod topic_config;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use message_cache::{Files, PartitionLog, TopicCache, is_legal_topic_name};
use parking_lot::{Mutex, RwLock};

pub use self::admin::check_topic;
use self::appender::Pool;
use self::meta::Meta;
use self::queue::Pending;
use self::topic::Topic;
use self::trouble::Trouble;
use crate::{
    AdminError, ClusterStatus, PartitionState, PartitionStatus, ProduceError, ProduceRecord, Produced, TopicStatus, Written,
};

/// Most partitions of one topic.
pub const PARTITIONS_MAX: i32 = 1000;
/// Kafka's default of `message.max.bytes`.
const MESSAGE_MAX_BYTES: u64 = 1_048_588;
/// Default of `queue.buffering.max.kbytes`: memory for records that wait for the disk.
const QUEUE_MAX_KBYTES: u64 = 65_536;

/// What an acknowledgement stands for (Kafka property `acks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Acks {
    /// `all`, `-1`: the record is on disk, fsynced, and survives a power loss.
    #[default]
    Durable,
    /// `1`, `0`: the record is with the kernel and survives the death of the process.
    Written,
}

/// Whether a record is to be written, by a look at its topic: see [`EmbeddedCluster::produce_if`].
pub type Condition = Box<dyn FnOnce(&TopicCache) -> bool + Send>;

#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    pub name: String,
    /// Topics lie in `<directory>/<topic>/<partition>/`.
    pub directory: PathBuf,
    pub acks: Acks,
    pub message_max_bytes: u64,
    pub queue_max_bytes: u64,
    pub segment_bytes: u64,
    /// What the logs write through.
    pub files: Files,
}

impl EmbeddedOptions {
    /// From the properties of the cluster, which [`crate::check_property`] has passed.
    pub fn new(name: &str, directory: PathBuf, segment_bytes: u64, properties: &BTreeMap<String, String>) -> Self {
        let number = |name: &str, default: u64| properties.get(name).and_then(|v| v.parse().ok()).unwrap_or(default);
        let acks = properties.get("acks").map_or("all", String::as_str);
        Self {
            name: name.to_owned(),
            directory,
            acks: if matches!(acks, "all" | "-1") { Acks::Durable } else { Acks::Written },
            message_max_bytes: number("message.max.bytes", MESSAGE_MAX_BYTES),
            queue_max_bytes: number("queue.buffering.max.kbytes", QUEUE_MAX_KBYTES).saturating_mul(1024),
            segment_bytes,
            files: Files::default(),
        }
    }
}

/// A cluster of one process. The caller holds the lock of the directory.
pub struct EmbeddedCluster {
    options: EmbeddedOptions,
    topics: RwLock<BTreeMap<String, Arc<Topic>>>,
    /// Topics on disk that cannot be served, and why.
    broken: RwLock<BTreeMap<String, String>>,
    /// Caches of topics that were deleted. Who reads one goes on with a later topic of its name.
    deleted: Mutex<BTreeMap<String, Weak<TopicCache>>>,
    /// Topics are created, altered and deleted one at a time.
    admin: Mutex<()>,
    pool: Pool,
    trouble: Arc<Mutex<Trouble>>,
    closed: AtomicBool,
}

impl EmbeddedCluster {
    /// Opens the topics that are on disk. One that cannot be opened is left out and told of in [`Self::status`].
    ///
    /// # Errors
    /// When the directory cannot be read or the writer threads cannot be started.
    pub fn open(options: EmbeddedOptions) -> Result<Arc<Self>, std::io::Error> {
        std::fs::create_dir_all(&options.directory)?;
        meta::remove_remains(&options.directory)?;
        let trouble = Arc::default();
        let pool = Pool::start(options.queue_max_bytes, Arc::clone(&trouble))?;
        let mut topics = BTreeMap::new();
        let mut broken = BTreeMap::new();
        for entry in std::fs::read_dir(&options.directory)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|n| is_legal_topic_name(n)) else { continue };
            let opened = match Meta::read(&path) {
                Ok(None) => continue, // nothing was ever acknowledged for it
                Ok(Some(meta)) => Topic::open(&options, name, meta),
                Err(e) => Err(e),
            };
            match opened {
                Ok(topic) => drop(topics.insert(name.to_owned(), Arc::new(topic))),
                Err(e) => {
                    tracing::error!(topic = name, error = e, "topic cannot be opened");
                    broken.insert(name.to_owned(), e);
                }
            }
        }
        Ok(Arc::new(Self {
            options,
            topics: RwLock::new(topics),
            broken: RwLock::new(broken),
            deleted: Mutex::default(),
            admin: Mutex::default(),
            pool,
            trouble,
            closed: AtomicBool::new(false),
        }))
    }

    fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().get(name).cloned()
    }

    /// Answers when the record is durable, or with the kernel if `acks` asks for no more.
    pub async fn produce(&self, record: ProduceRecord) -> Result<Produced, ProduceError> {
        self.write(record, None).await
    }

    /// As [`Self::produce`], if a look at the topic says so at the moment of the append. No record of the same key, or with a null
    /// key of any, comes between the look and the append in the partition that the record goes to; and every such record that was
    /// appended there before is seen, acknowledged or not. Records of other keys that are written at the same moment may share an
    /// fsync with this one, and so come before it unseen. Of other partitions is seen what they show then: that is everything only
    /// if all records of a key go to the same one.
    ///
    /// The look keeps other writers of the partition waiting, on one of the few threads that there are: it is to be short, and to
    /// write nothing.
    ///
    /// # Errors
    /// [`ProduceError::ConditionFailed`]: nothing was written. Otherwise as [`Self::produce`].
    pub async fn produce_if(&self, record: ProduceRecord, condition: Condition) -> Result<Produced, ProduceError> {
        self.write(record, Some(condition)).await
    }

    async fn write(&self, record: ProduceRecord, condition: Option<Condition>) -> Result<Produced, ProduceError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(ProduceError::Unavailable { reason: "shutting down".into(), written: Written::No });
        }
        let Some(topic) = self.topic(&record.topic) else {
            return Err(match self.broken.read().get(&record.topic).cloned() {
                Some(reason) => ProduceError::Unavailable { reason, written: Written::No },
                None => ProduceError::UnknownTopic { topic: record.topic },
            });
        };
        let (partition, appender) = topic.choose(&record)?;
        let limit_bytes = topic.max_message_bytes.min(self.options.message_max_bytes);
        let (timestamp_ms, timestamp_type) = topic.times.stamp(record.timestamp_ms, now_ms())?;
        let mut pending = Pending::new(record, timestamp_ms, timestamp_type);
        if let Some(condition) = condition {
            let cache = Arc::clone(&topic.cache);
            pending.look = Some(Box::new(move || condition(&cache)));
        }
        if pending.bytes() > limit_bytes {
            return Err(ProduceError::TooLarge { limit_bytes: Some(limit_bytes) });
        }
        let offset = match topic.strict {
            true => self.pool.append(appender, pending).await?,
            false => self.pool.append_now(&appender, pending)?,
        };
        Ok(Produced { partition, offset: Some(offset), timestamp_ms })
    }

    /// The caches that are in use: those of all topics.
    pub fn caches(&self) -> Vec<Arc<TopicCache>> {
        self.topics.read().values().map(|topic| Arc::clone(&topic.cache)).collect()
    }

    /// The log of a topic is its cache.
    pub fn cached(&self, topic: &str) -> Result<Arc<TopicCache>, AdminError> {
        match self.topic(topic) {
            Some(t) => Ok(Arc::clone(&t.cache)),
            None => Err(self
                .broken
                .read()
                .get(topic)
                .map_or_else(|| AdminError::UnknownTopic(topic.to_owned()), |reason| AdminError::Unavailable(reason.clone()))),
        }
    }

    pub fn topics(&self) -> BTreeSet<String> {
        self.topics.read().keys().cloned().collect()
    }

    pub fn status(&self) -> ClusterStatus {
        let (problem, lasting) = self.trouble.lock().current().map(|p| (p.text.clone(), p.lasting)).unzip();
        let partition = |(n, log): (usize, &Arc<PartitionLog>)| PartitionStatus {
            partition: n as i32,
            state: PartitionState::Live,
            cached_end: log.end_offset(),
            cluster_end: Some(log.end_offset()),
            problem: None,
            faults: crate::PartitionFaults::default(),
            housekeeping: log.stats().problem,
        };
        let served = self.topics.read();
        let served = served.values().map(|t| TopicStatus {
            name: t.cache.name().to_owned(),
            partitions: t.cache.partitions().iter().enumerate().map(partition).collect(),
            problem: None,
            fetched_records: 0,
        });
        let broken = self.broken.read();
        let broken = broken.iter().map(|(name, reason)| TopicStatus {
            name: name.clone(),
            partitions: Vec::new(),
            problem: Some(reason.clone()),
            fetched_records: 0,
        });
        // A full disk does not take the cluster down: reads go on, and only writes can find out that there is space again.
        let up = lasting != Some(true);
        ClusterStatus { up, brokers: Vec::new(), topics: served.chain(broken).collect(), problem }
    }

    /// Waits for the records on their way, and fsyncs what was not; later records are refused.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.topics.read().values().flat_map(|topic| &topic.appenders).for_each(|appender| self.pool.flush(appender));
        self.pool.close().await;
    }

    pub fn name(&self) -> &str {
        &self.options.name
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}
