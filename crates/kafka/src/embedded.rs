//! The embedded cluster: topics whose only copy is the partition logs of this process. It speaks Kafka's names and
//! semantics; it has no wire protocol and one node.

mod appender;
mod meta;
mod topic_config;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use message_cache::{LogOptions, OnCorruption, PartitionLog, TimestampType, TopicCache, is_legal_topic_name};
use parking_lot::{Mutex, RwLock};

use crate::embedded::appender::{Appender, Pool};
use crate::embedded::meta::Meta;
use crate::types::PartitionDescription;
use crate::{
    AdminError, ClusterStatus, PartitionState, PartitionStatus, ProduceError, ProduceRecord, Produced, TopicDescription,
    TopicSpec, TopicStatus, Written, murmur2_partition,
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

#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    pub name: String,
    /// Topics lie in `<directory>/<topic>/<partition>/`.
    pub directory: PathBuf,
    pub acks: Acks,
    pub message_max_bytes: u64,
    pub queue_max_bytes: u64,
    pub segment_bytes: u64,
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
        }
    }
}

/// A cluster of one process. The caller holds the lock of the directory.
pub struct EmbeddedCluster {
    options: EmbeddedOptions,
    topics: RwLock<BTreeMap<String, Arc<Topic>>>,
    /// Topics on disk that cannot be served, and why.
    broken: BTreeMap<String, String>,
    pool: Pool,
    /// The last fault of the disk, until an append goes well again.
    problem: Arc<Mutex<Option<DiskProblem>>>,
    closed: AtomicBool,
}

/// What the disk did to the last append.
struct DiskProblem {
    text: String,
    /// Whether only a restart helps.
    lasting: bool,
}

struct Topic {
    meta: Meta,
    cache: Arc<TopicCache>,
    appenders: Vec<Arc<Appender>>,
    max_message_bytes: u64,
    append_time: bool,
}

impl EmbeddedCluster {
    /// Opens the topics that are on disk. One that cannot be opened is left out and told of in [`Self::status`].
    ///
    /// # Errors
    /// When the directory cannot be read or the writer threads cannot be started.
    pub fn open(options: EmbeddedOptions) -> Result<Arc<Self>, std::io::Error> {
        std::fs::create_dir_all(&options.directory)?;
        let problem = Arc::default();
        let pool = Pool::start(options.queue_max_bytes, Arc::clone(&problem))?;
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
        Ok(Arc::new(Self { options, topics: RwLock::new(topics), broken, pool, problem, closed: AtomicBool::new(false) }))
    }

    fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().get(name).cloned()
    }

    /// Answers when the record is durable, or with the kernel if `acks` asks for no more.
    pub async fn produce(&self, record: ProduceRecord) -> Result<Produced, ProduceError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(ProduceError::Unavailable { reason: "shutting down".into(), written: Written::No });
        }
        let Some(topic) = self.topic(&record.topic) else {
            return Err(match self.broken.get(&record.topic) {
                Some(reason) => ProduceError::Unavailable { reason: reason.clone(), written: Written::No },
                None => ProduceError::UnknownTopic { topic: record.topic },
            });
        };
        let (partition, appender) = topic.choose(&record)?;
        let limit_bytes = topic.max_message_bytes.min(self.options.message_max_bytes);
        let timestamp_ms = if topic.append_time { None } else { record.timestamp_ms };
        let timestamp_type = if topic.append_time { TimestampType::LogAppend } else { TimestampType::Create };
        let timestamp_ms = timestamp_ms.unwrap_or_else(now_ms);
        if timestamp_ms < 0 {
            return Err(ProduceError::Invalid { reason: format!("{timestamp_ms} is no time: it is before 1970") });
        }
        let pending = appender::Pending::new(record, timestamp_ms, timestamp_type);
        if pending.bytes() > limit_bytes {
            return Err(ProduceError::TooLarge { limit_bytes: Some(limit_bytes) });
        }
        let offset = match self.options.acks {
            Acks::Durable => self.pool.append(appender, pending).await?,
            Acks::Written => self.pool.append_now(&appender, pending)?,
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
                .get(topic)
                .map_or_else(|| AdminError::UnknownTopic(topic.to_owned()), |reason| AdminError::Unavailable(reason.clone()))),
        }
    }

    pub async fn create_topic(self: &Arc<Self>, spec: &TopicSpec) -> Result<(), AdminError> {
        let (cluster, spec) = (Arc::clone(self), spec.clone());
        tokio::task::spawn_blocking(move || cluster.create_topic_blocking(&spec))
            .await
            .unwrap_or_else(|e| Err(AdminError::Unavailable(e.to_string())))
    }

    fn create_topic_blocking(&self, spec: &TopicSpec) -> Result<(), AdminError> {
        if !is_legal_topic_name(&spec.name) {
            return Err(AdminError::Invalid(message_cache::LogError::TopicName(spec.name.clone()).to_string()));
        }
        check_topic(spec.partitions, &spec.config).map_err(|faults| AdminError::Invalid(faults.join("; ")))?;
        let mut topics = self.topics.write();
        if topics.contains_key(&spec.name) || self.broken.contains_key(&spec.name) {
            return Err(AdminError::TopicExists(spec.name.clone()));
        }
        let meta = Meta::new(spec.partitions, spec.config.clone(), now_ms());
        let unavailable = |e: String| AdminError::Unavailable(e);
        meta.write(&self.options.directory, &spec.name).map_err(unavailable)?;
        let topic = Topic::open(&self.options, &spec.name, meta).map_err(unavailable)?;
        topics.insert(spec.name.clone(), Arc::new(topic));
        Ok(())
    }

    pub fn topics(&self) -> BTreeSet<String> {
        self.topics.read().keys().cloned().collect()
    }

    pub fn describe_topic(&self, name: &str) -> Result<TopicDescription, AdminError> {
        let topic = self.topic(name).ok_or_else(|| AdminError::UnknownTopic(name.to_owned()))?;
        let describe = |(n, log): (usize, &Arc<PartitionLog>)| PartitionDescription {
            partition: n as i32,
            start_offset: log.start_offset(),
            end_offset: log.end_offset(),
            leader: 0,
        };
        Ok(TopicDescription {
            name: name.to_owned(),
            partitions: topic.cache.partitions().iter().enumerate().map(describe).collect(),
            config: topic_config::effective(&topic.meta.config),
        })
    }

    pub fn status(&self) -> ClusterStatus {
        let (problem, lasting) = self.problem.lock().as_ref().map(|p| (p.text.clone(), p.lasting)).unzip();
        let partition = |(n, log): (usize, &Arc<PartitionLog>)| PartitionStatus {
            partition: n as i32,
            state: PartitionState::Live,
            cached_end: log.end_offset(),
            cluster_end: Some(log.end_offset()),
            problem: None,
        };
        let served = self.topics.read();
        let served = served.values().map(|t| TopicStatus {
            name: t.cache.name().to_owned(),
            partitions: t.cache.partitions().iter().enumerate().map(partition).collect(),
            problem: None,
            fetched_records: 0,
        });
        let broken = self.broken.iter().map(|(name, reason)| TopicStatus {
            name: name.clone(),
            partitions: Vec::new(),
            problem: Some(reason.clone()),
            fetched_records: 0,
        });
        // A full disk does not take the cluster down: reads go on, and only writes can find out that there is space again.
        let up = lasting != Some(true);
        ClusterStatus { up, brokers: Vec::new(), topics: served.chain(broken).collect(), problem }
    }

    /// Waits for the records on their way; later ones are refused.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.pool.close().await;
    }

    pub fn name(&self) -> &str {
        &self.options.name
    }
}

/// Whether the embedded cluster can create a topic like this; all that is wrong.
pub fn check_topic(partitions: i32, config: &BTreeMap<String, String>) -> Result<(), Vec<String>> {
    let mut faults = Vec::new();
    if !(1..=PARTITIONS_MAX).contains(&partitions) {
        faults.push(format!("{partitions} partitions: 1 to {PARTITIONS_MAX} are possible in the embedded cluster"));
    }
    faults.extend(config.iter().filter_map(|(name, value)| topic_config::check(name, value).err()));
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

impl Topic {
    fn open(options: &EmbeddedOptions, name: &str, meta: Meta) -> Result<Self, String> {
        let number = |property: &str| meta.config.get(property).and_then(|v| v.parse::<u64>().ok());
        let log = LogOptions {
            segment_bytes: number("segment.bytes").unwrap_or(u64::MAX).min(options.segment_bytes),
            durable: options.acks == Acks::Durable,
            on_corruption: OnCorruption::Keep,
            ..LogOptions::default()
        };
        meta.find_partitions(&options.directory.join(name))?;
        let count = meta.partitions as usize;
        let cache = TopicCache::open_exactly(&options.directory, name, &log, count).map_err(|e| e.to_string())?;
        cache.mark_complete().map_err(|e| e.to_string())?;
        Ok(Self {
            appenders: cache.partitions().iter().map(|log| Arc::new(Appender::new(Arc::clone(log)))).collect(),
            max_message_bytes: number("max.message.bytes").unwrap_or(u64::MAX),
            append_time: meta.config.get("message.timestamp.type").is_some_and(|t| t == "LogAppendTime"),
            cache: Arc::new(cache),
            meta,
        })
    }

    fn choose(&self, record: &ProduceRecord) -> Result<(i32, Arc<Appender>), ProduceError> {
        let count = self.appenders.len() as i32;
        let partition = match (record.partition, &record.key) {
            (Some(p), _) => p,
            (None, Some(key)) => murmur2_partition(key, count),
            (None, None) => fastrand::i32(0..count.max(1)),
        };
        let appender = usize::try_from(partition).ok().and_then(|p| self.appenders.get(p));
        match appender {
            Some(a) => Ok((partition, Arc::clone(a))),
            None => Err(ProduceError::UnknownPartition { topic: record.topic.clone(), partition }),
        }
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}
