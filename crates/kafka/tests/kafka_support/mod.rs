//! What the tests against a real broker share.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka::{FetchStart, KafkaCluster, KafkaOptions, PartitionState, ProduceRecord, TopicSpec, TopicStatus};
use message_cache::{LogOptions, Record, TopicCache};
use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;

/// How long anything may take that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often topics are looked at.
pub const REFRESH: Duration = Duration::from_millis(500);

/// The broker's address; `None` when tests without Kafka were asked for.
pub fn servers() -> Option<String> {
    if let Ok(servers) = std::env::var("KAFKA_BOOTSTRAP_SERVERS") {
        return Some(servers);
    }
    assert!(
        std::env::var("TIDEGATE_NO_KAFKA").is_ok_and(|v| v == "1"),
        "no broker: set KAFKA_BOOTSTRAP_SERVERS, run `cargo xtask test`, or leave these tests out with TIDEGATE_NO_KAFKA=1"
    );
    println!("left out: needs a Kafka broker");
    None
}

pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{:x}-{}", fastrand::u64(..), COUNT.fetch_add(1, Ordering::Relaxed))
}

pub fn cluster(servers: &str, dir: &Path, properties: &[(&str, &str)]) -> Arc<KafkaCluster> {
    let mut all = BTreeMap::from([("bootstrap.servers".to_owned(), servers.to_owned())]);
    all.extend(properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let options = KafkaOptions {
        name: "main".to_owned(),
        properties: all,
        cache_directory: dir.to_owned(),
        log: LogOptions::default(),
        refresh: REFRESH,
    };
    KafkaCluster::start(options).expect("properties are fine")
}

/// Creates a topic with a name of its own, and gives the name.
pub async fn create(cluster: &KafkaCluster, what: &str, partitions: i32, config: &[(&str, &str)]) -> String {
    let name = unique(what);
    create_named(cluster, &name, partitions, config).await;
    name
}

pub async fn create_named(cluster: &KafkaCluster, name: &str, partitions: i32, config: &[(&str, &str)]) {
    let config = config.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let spec = TopicSpec { name: name.to_owned(), partitions, replication: -1, config };
    cluster.create_topic(&spec).await.expect("the topic is created");
}

pub fn record(topic: &str, key: Option<&str>, value: Option<&str>) -> ProduceRecord {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    ProduceRecord { topic: topic.to_owned(), key: key.map(bytes), value: value.map(bytes), ..ProduceRecord::default() }
}

pub async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn topic_status(cluster: &KafkaCluster, topic: &str) -> Option<TopicStatus> {
    cluster.status().topics.into_iter().find(|t| t.name == topic)
}

/// Waits until every partition is cached up to these ends.
pub async fn until_cached(cluster: &KafkaCluster, topic: &str, ends: &[i64]) {
    let state = || topic_status(cluster, topic);
    let live = || {
        state().is_some_and(|t| {
            t.partitions.iter().map(|p| p.cached_end).eq(ends.iter().copied())
                && t.partitions.iter().all(|p| p.state == PartitionState::Live)
        })
    };
    let began = Instant::now();
    while !live() {
        assert!(began.elapsed() < PATIENCE, "{topic} is not cached up to {ends:?}: {:?}", state());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A cache of the topic, filled up to these ends.
pub async fn cached(cluster: &KafkaCluster, topic: &str, ends: &[i64]) -> Arc<TopicCache> {
    let cache = cluster.cached(topic, FetchStart::Earliest).expect("the cache opens");
    until_cached(cluster, topic, ends).await;
    cache
}

pub fn records(cache: &TopicCache, partition: i32) -> Vec<Record> {
    let log = cache.partition(partition).expect("the partition is cached");
    log.scan(0).map(|r| r.expect("the record is whole")).collect()
}

pub fn values(cache: &TopicCache, partition: i32) -> Vec<String> {
    let text = |r: &Record| r.value().map_or("-".to_owned(), |v| String::from_utf8_lossy(v).into_owned());
    records(cache, partition).iter().map(text).collect()
}

pub fn admin(servers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", servers).create().expect("an admin client")
}
