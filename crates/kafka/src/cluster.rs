//! One door, two kinds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use message_cache::TopicCache;

use crate::{
    AdminError, ClusterStatus, Condition, EmbeddedCluster, FetchOptions, KafkaCluster, ProduceError, ProduceRecord, Produced,
    TopicDescription, TopicSpec, Written,
};

/// A named cluster. Cloning shares it.
#[derive(Clone)]
pub enum Cluster {
    Kafka(Arc<KafkaCluster>),
    Embedded(Arc<EmbeddedCluster>),
}

impl Cluster {
    /// Answers when the cluster acknowledged the record by its `acks`.
    pub async fn produce(&self, record: ProduceRecord) -> Result<Produced, ProduceError> {
        match self {
            Self::Kafka(c) => c.produce(record).await,
            Self::Embedded(c) => c.produce(record).await,
        }
    }

    /// As [`Self::produce`], if a look at the cached topic says so. On the embedded cluster the look and the append are one: see
    /// [`EmbeddedCluster::produce_if`]. On Kafka they are not: the look sees what was fetched so far, and what others write between
    /// it and the append, or have written and nobody fetched yet, goes unnoticed.
    ///
    /// # Errors
    /// [`ProduceError::ConditionFailed`]: nothing was written. [`ProduceError::Unavailable`] until the cache of a Kafka topic has
    /// reached its end once. Otherwise as of [`Self::produce`].
    pub async fn produce_if(&self, record: ProduceRecord, condition: Condition) -> Result<Produced, ProduceError> {
        let cluster = match self {
            Self::Kafka(c) => c,
            Self::Embedded(c) => return c.produce_if(record, condition).await,
        };
        let unavailable = |reason| ProduceError::Unavailable { reason, written: Written::No };
        let cache = cluster.cached(&record.topic, FetchOptions::default()).map_err(|e| unavailable(e.to_string()))?;
        if !cache.is_complete() || cache.is_asleep() {
            return Err(unavailable(format!("what topic {} holds is still being fetched", record.topic)));
        }
        if condition(&cache) { cluster.produce(record).await } else { Err(ProduceError::ConditionFailed) }
    }

    /// The cache of a topic, filled from now on by one fetcher per partition however often this is called. Does not
    /// wait for the topic to exist: a topic that is missing has no partitions until it appears.
    pub fn cached(&self, topic: &str, options: impl Into<FetchOptions>) -> Result<Arc<TopicCache>, AdminError> {
        match self {
            Self::Kafka(c) => c.cached(topic, options),
            Self::Embedded(c) => c.cached(topic),
        }
    }

    /// The caches that are in use.
    pub fn caches(&self) -> Vec<Arc<TopicCache>> {
        match self {
            Self::Kafka(c) => c.caches(),
            Self::Embedded(c) => c.caches(),
        }
    }

    /// The next offset of every partition, by number, asked after this was called: the `end_offset` of the topic's cache gets there.
    /// See [`KafkaCluster::ends`].
    pub async fn ends(&self, topic: &str) -> Result<Vec<i64>, AdminError> {
        match self {
            Self::Kafka(c) => c.ends(topic).await,
            Self::Embedded(c) => Ok(c.cached(topic)?.partitions().iter().map(|log| log.end_offset()).collect()),
        }
    }

    pub async fn create_topic(&self, spec: &TopicSpec) -> Result<(), AdminError> {
        match self {
            Self::Kafka(c) => c.create_topic(spec).await,
            Self::Embedded(c) => c.create_topic(spec).await,
        }
    }

    pub async fn topics(&self) -> Result<BTreeSet<String>, AdminError> {
        match self {
            Self::Kafka(c) => c.topics().await,
            Self::Embedded(c) => Ok(c.topics()),
        }
    }

    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, AdminError> {
        match self {
            Self::Kafka(c) => c.describe_topic(name).await,
            Self::Embedded(c) => c.describe_topic(name),
        }
    }

    /// Sets properties and leaves the others, an empty value taking one back to its default; then grows the topic to this many
    /// partitions.
    pub async fn alter_topic(
        &self,
        name: &str,
        set: BTreeMap<String, String>,
        partitions: Option<i32>,
    ) -> Result<(), AdminError> {
        match self {
            Self::Kafka(c) => c.alter_topic(name, set, partitions).await,
            Self::Embedded(c) => c.alter_topic(name, set, partitions).await,
        }
    }

    pub async fn delete_topic(&self, name: &str) -> Result<(), AdminError> {
        match self {
            Self::Kafka(c) => c.delete_topic(name).await,
            Self::Embedded(c) => c.delete_topic(name).await,
        }
    }

    /// Deletes what lies before an offset, by partition; -1: all that there is.
    pub async fn delete_records(&self, name: &str, before: BTreeMap<i32, i64>) -> Result<(), AdminError> {
        match self {
            Self::Kafka(c) => c.delete_records(name, before).await,
            Self::Embedded(c) => c.delete_records(name, before).await,
        }
    }

    /// Has the topics looked at now. The embedded cluster is always up to date with itself.
    pub fn refresh(&self) {
        if let Self::Kafka(c) = self {
            c.refresh();
        }
    }

    pub fn status(&self) -> ClusterStatus {
        match self {
            Self::Kafka(c) => c.status(),
            Self::Embedded(c) => c.status(),
        }
    }

    /// Finishes what runs: records on their way are acknowledged or fail, fetchers stop.
    pub async fn close(&self) {
        match self {
            Self::Kafka(c) => c.close().await,
            Self::Embedded(c) => c.close().await,
        }
    }
}
