//! An embedded cluster, its topics, and records for them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kafka::{EmbeddedCluster, EmbeddedOptions, ProduceRecord, TopicSpec};

pub fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

pub fn open(dir: &Path) -> Arc<EmbeddedCluster> {
    EmbeddedCluster::open(EmbeddedOptions::new("main", dir.to_owned(), 1 << 20, &map(&[]))).unwrap()
}

pub async fn create(cluster: &Arc<EmbeddedCluster>, name: &str, partitions: i32, config: &[(&str, &str)]) {
    let spec = TopicSpec { name: name.to_owned(), partitions, replication: -1, config: map(config) };
    cluster.create_topic(&spec).await.unwrap();
}

pub fn record(topic: &str, key: Option<&str>, value: &str) -> ProduceRecord {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    ProduceRecord { topic: topic.to_owned(), key: key.map(bytes), value: Some(bytes(value)), ..ProduceRecord::default() }
}
