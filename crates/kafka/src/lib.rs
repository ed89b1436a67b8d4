//! The door to the clusters: Kafka through librdkafka, or the embedded log. Knows no HTTP and no configuration file.

mod client;
mod cluster;
mod embedded;
mod error;
mod partitioner;
mod properties;
mod types;

pub use client::{Claims, ClaimsOptions, ClaimsStats, KafkaCluster, KafkaOptions, TOPIC_REFRESH};
pub use cluster::Cluster;
pub use embedded::{Acks, Condition, EmbeddedCluster, EmbeddedOptions, check_topic};
pub use error::{AdminError, ProduceError, Written};
pub use partitioner::murmur2_partition;
pub use properties::{PropertyProblem, Scope, check_property, is_embedded};
pub use types::{
    BrokerStatus, ClusterStatus, ConsumeFrom, ConsumedRecord, FetchOptions, FetchStart, PartitionDescription, PartitionFaults,
    PartitionState, PartitionStatus, ProduceRecord, Produced, TopicDescription, TopicSpec, TopicStatus,
};

/// The version of librdkafka, as it says itself.
pub fn librdkafka_version() -> String {
    rdkafka::util::get_rdkafka_version().1
}
