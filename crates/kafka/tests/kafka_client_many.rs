//! Many partitions on one real broker.

mod kafka_support;

use std::time::{Duration, Instant};

use kafka::{FetchStart, KafkaCluster, PartitionState};
use kafka_support::*;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};

/// Topics and partitions of each: 1,000 partitions in all.
const TOPICS: usize = 200;
const PARTITIONS: i32 = 5;
/// From the start until every partition is at the cluster's end; a debug build beside other tests on two cores.
const LIVE_WITHIN: Duration = Duration::from_secs(20);

fn count_live(cluster: &KafkaCluster) -> usize {
    let topics = cluster.status().topics;
    topics.iter().flat_map(|t| &t.partitions).filter(|p| p.state == PartitionState::Live).count()
}

/// Caches all topics and waits until they are live.
async fn all_live(cluster: &KafkaCluster, topics: &[String]) -> Duration {
    let began = Instant::now();
    for topic in topics {
        cluster.cached(topic, FetchStart::Earliest).expect("the cache opens");
    }
    while count_live(cluster) < TOPICS * PARTITIONS as usize {
        let taken = began.elapsed();
        assert!(taken < LIVE_WITHIN, "{} partitions are live after {taken:?}", count_live(cluster));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

fn resident_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib / 1024)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_partitions_are_live_within_seconds() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let names: Vec<String> = (0..TOPICS).map(|n| unique(&format!("many-{n}"))).collect();
    let new: Vec<_> = names.iter().map(|n| NewTopic::new(n, PARTITIONS, TopicReplication::Fixed(1))).collect();
    admin(&servers).create_topics(&new, &AdminOptions::new()).await.expect("created");
    // The broker says that topics are created before it serves them: that is not our time.
    let elsewhere = tempfile::tempdir().expect("a directory");
    let warm = cluster(&servers, elsewhere.path(), &[]);
    for topic in &names {
        warm.cached(topic, FetchStart::Earliest).expect("the cache opens");
    }
    until("the broker serves the topics", || count_live(&warm) == TOPICS * PARTITIONS as usize).await;
    warm.close().await;
    drop(warm);
    let before = resident_mib();
    for round in ["fresh", "restarted"] {
        let cluster = cluster(&servers, dir.path(), &[]);
        let taken = all_live(&cluster, &names).await;
        println!("{round}: 1,000 partitions live after {taken:?}, {} MiB more resident", resident_mib().saturating_sub(before));
        for (n, topic) in names.iter().enumerate().step_by(20) {
            let cache = cluster.cached(topic, FetchStart::Earliest).expect("open");
            let next = cache.partitions().iter().map(|p| p.end_offset()).sum::<i64>() + 1;
            cluster.produce(record(topic, Some("k"), Some(&n.to_string()))).await.expect("acknowledged");
            until("the record is cached", || cache.partitions().iter().map(|p| p.end_offset()).sum::<i64>() == next).await;
        }
        cluster.close().await;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    admin(&servers).delete_topics(&names, &AdminOptions::new()).await.expect("deleted");
}
