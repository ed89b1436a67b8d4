//! What goes through the door, the same for both kinds of cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

/// A record to write.
#[derive(Clone, Debug, Default)]
pub struct ProduceRecord {
    pub topic: String,
    /// `None`: chosen by murmur2 over the key as Kafka's own clients do, or at random without a key.
    pub partition: Option<i32>,
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since the Unix epoch; `None`: now.
    pub timestamp_ms: Option<i64>,
}

/// What the cluster said of a record it acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    pub partition: i32,
    /// `None` only with `acks=0`, where the broker tells none.
    pub offset: Option<i64>,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
}

/// Where a topic cache that holds nothing begins (`cache.topics.NAME.start`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FetchStart {
    #[default]
    Earliest,
    Latest,
    /// At the first record that is not older than this, by its timestamp.
    Back(Duration),
}

/// How a topic is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FetchOptions {
    pub start: FetchStart,
    /// How long it is fetched after its last use (`cache.topics.NAME.linger`); `None`: always.
    pub linger: Option<Duration>,
}

impl From<FetchStart> for FetchOptions {
    fn from(start: FetchStart) -> Self {
        Self { start, linger: None }
    }
}

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
    /// -1: the broker's default. Ignored by the embedded cluster.
    pub replication: i32,
    /// Under Kafka's own names: `cleanup.policy`, `retention.ms`, ...
    pub config: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    pub name: String,
    /// First and next offset of each partition, by partition number.
    pub partitions: Vec<PartitionDescription>,
    /// Every topic property that the cluster tells.
    pub config: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    pub partition: i32,
    pub start_offset: i64,
    pub end_offset: i64,
    /// Node id; -1 without a leader. Always 0 on the embedded cluster.
    pub leader: i32,
}

/// One look at a cluster, for `/readyz`, metrics and `doctor`.
#[derive(Clone, Debug, Default)]
pub struct ClusterStatus {
    /// True when records can be produced and fetched, as far as is known.
    pub up: bool,
    pub brokers: Vec<BrokerStatus>,
    /// The topics this process caches, by name.
    pub topics: Vec<TopicStatus>,
    /// The last fault seen, in words, while it lasts.
    pub problem: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerStatus {
    /// `host:port`
    pub address: String,
    pub id: i32,
    /// librdkafka's own word: `UP`, `DOWN`, `CONNECT`, `AUTH...`
    pub state: String,
}

#[derive(Clone, Debug)]
pub struct TopicStatus {
    pub name: String,
    pub partitions: Vec<PartitionStatus>,
    /// Records that this process fetched from the cluster; 0 after a restart that found everything in the cache.
    pub fetched_records: u64,
    /// Why the topic is not served: it is missing, or not authorised.
    pub problem: Option<String>,
}

#[derive(Clone, Debug)]
pub struct PartitionStatus {
    pub partition: i32,
    pub state: PartitionState,
    /// The next offset that the cache will hold.
    pub cached_end: i64,
    /// The cluster's high watermark as last heard; `None` before that.
    pub cluster_end: Option<i64>,
    pub problem: Option<String>,
    pub faults: PartitionFaults,
    /// Why housekeeping of what is cached fails, while it does.
    pub housekeeping: Option<String>,
}

/// What has gone wrong with a partition since this process began to read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionFaults {
    /// In words; stays when it is over.
    pub last: Option<String>,
    /// How often reading was started again after a fault.
    pub restarts: u64,
    /// How often the watchdog found that nothing came though the cluster had more.
    pub stalls: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionState {
    /// Not asked for yet, or its topic is not known yet.
    Waiting,
    /// Behind the cluster's end.
    CatchingUp,
    /// At the cluster's end.
    Live,
    /// Stopped by a fault, to be tried again.
    Failed,
    /// Not read, because nobody uses the topic.
    Paused,
}

/// Where [`crate::KafkaCluster::consume`] begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumeFrom {
    Earliest,
    Latest,
    /// Of every partition that is read.
    Offset(i64),
}

/// A record as it is in the cluster, read without a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the Unix epoch; -1 where the record has none.
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Bytes>)>,
}
