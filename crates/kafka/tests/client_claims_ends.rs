//! Where partitions end, against a real broker: that caches get there, and what it costs to ask.

mod kafka_support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::{FetchStart, KafkaCluster};
use kafka_support::*;
use message_cache::TopicCache;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

fn transactional(servers: &str) -> BaseProducer {
    let id = unique("transactions");
    let mut config = ClientConfig::new();
    let producer: BaseProducer = config.set("bootstrap.servers", servers).set("transactional.id", id).create().expect("fine");
    producer.init_transactions(PATIENCE).expect("transactions");
    producer
}

/// Records of one open transaction, delivered.
fn begin(producer: &BaseProducer, topic: &str, count: usize) {
    producer.begin_transaction().expect("begun");
    for n in 0..count {
        let record = BaseRecord::<[u8], _>::to(topic).partition(0).payload("v");
        producer.send(record).unwrap_or_else(|(e, _)| panic!("record {n}: {e}"));
    }
    producer.flush(PATIENCE).expect("delivered");
}

/// How long the cache takes to get to these ends.
async fn reached(cache: &TopicCache, ends: &[i64]) -> Duration {
    let began = Instant::now();
    let is_there = || {
        cache.partitions().len() >= ends.len() && cache.partitions().iter().zip(ends).all(|(log, end)| log.end_offset() >= *end)
    };
    until("the cache gets there", is_there).await;
    began.elapsed()
}

/// Waits until these are told: who ends a transaction has its answer before the mark is written.
async fn until_ends(cluster: &KafkaCluster, topic: &str, expected: [Vec<i64>; 2]) {
    let began = Instant::now();
    loop {
        let told = ends(cluster, topic).await;
        if told == expected {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{told:?}, not {expected:?}");
    }
}

async fn ends(cluster: &KafkaCluster, topic: &str) -> [Vec<i64>; 2] {
    let (shown, written) = tokio::join!(cluster.ends(topic), cluster.ends_uncommitted(topic));
    [shown.expect("told"), written.expect("told")]
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_reach_the_ends_of_transactions() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = cluster(&servers, dir.path(), &[]);
    let topic = create(&cluster, "ends", 2, &[]).await;
    let cache = cluster.cached(&topic, FetchStart::Earliest).expect("the cache opens");
    assert_eq!(ends(&cluster, &topic).await, [vec![0, 0], vec![0, 0]]);
    let producer = Arc::new(transactional(&servers));
    begin(&producer, &topic, 3);
    assert_eq!(ends(&cluster, &topic).await, [vec![0, 0], vec![3, 0]], "an open transaction holds the end back");
    let commit = |commit: bool| {
        let ended = if commit { producer.commit_transaction(PATIENCE) } else { producer.abort_transaction(PATIENCE) };
        ended.expect("ended");
    };
    tokio::task::block_in_place(|| commit(true));
    // The mark of the transaction counts.
    until_ends(&cluster, &topic, [vec![4, 0], vec![4, 0]]).await;
    println!("behind a commit after {:?}", reached(&cache, &[4, 0]).await);
    tokio::task::block_in_place(|| {
        begin(&producer, &topic, 2);
        commit(false);
    });
    until_ends(&cluster, &topic, [vec![7, 0], vec![7, 0]]).await;
    println!("behind an abort after {:?}", reached(&cache, &[7, 0]).await);
    assert_eq!(values(&cache, 0), ["v", "v", "v"]);
    // Records behind it take it along at once.
    cluster.produce(record(&topic, Some("k"), Some("last"))).await.expect("produced");
    let now = cluster.ends(&topic).await.expect("told");
    reached(&cache, &now).await;
    cluster.alter_topic(&topic, [].into(), Some(3)).await.expect("grown");
    let began = Instant::now();
    // Until it has a leader, its end cannot be told.
    while cluster.ends(&topic).await.map_or(0, |ends| ends.len()) < 3 {
        assert!(began.elapsed() < PATIENCE, "the new partition is not told");
    }
    println!("a new partition counts after {:?}", began.elapsed());
    cluster.close().await;
    assert!(cluster.ends(&topic).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_share_questions() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = cluster(&servers, dir.path(), &[]);
    let topic = create(&cluster, "ends", 4, &[]).await;
    cluster.ends(&topic).await.expect("told");
    let mut alone = Vec::new();
    for _ in 0..300 {
        let began = Instant::now();
        cluster.ends(&topic).await.expect("told");
        alone.push(began.elapsed());
    }
    alone.sort();
    println!("alone: p50 {:?}, p99 {:?}", alone[150], alone[297]);
    let (asked, began) = (cluster.ends_asked(), Instant::now());
    let callers: Vec<_> = (0..200)
        .map(|n| {
            let (cluster, topic) = (Arc::clone(&cluster), topic.clone());
            tokio::spawn(async move {
                for _ in 0..50 {
                    // What was acknowledged before the call lies below the end.
                    let before = if n == 0 { cluster.produce(record(&topic, None, Some("v"))).await.ok() } else { None };
                    let ends = cluster.ends(&topic).await.expect("told");
                    if let Some(written) = before {
                        assert!(ends[written.partition as usize] > written.offset.expect("told"), "{ends:?} {written:?}");
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no panic");
    }
    let questions = cluster.ends_asked() - asked;
    println!("10,000 calls in {:?} by {questions} questions", began.elapsed());
    assert!(questions < 2_000, "{questions} questions");
    cluster.close().await;
}
