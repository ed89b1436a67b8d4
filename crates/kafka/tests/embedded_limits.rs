//! What a topic of the embedded cluster takes, and how large it grows: each property in force when it is altered.

mod embedded_support;

use std::sync::Arc;
use std::time::Duration;

use embedded_support::{create, map, open, record};
use kafka::{AdminError, EmbeddedCluster, EmbeddedOptions, ProduceError, ProduceRecord, Written};
use message_cache::{Keeper, KeeperOptions};

/// Records of the first segment that is both begun and full from now on.
async fn records_of_a_segment(cluster: &EmbeddedCluster) -> usize {
    let log = cluster.cached("t").unwrap().partition(0).unwrap();
    let value = "x".repeat(400);
    let (mut rolls, mut records) = (0, 0);
    while rolls < 2 {
        let before = log.stats().segments;
        cluster.produce(record("t", Some("k"), &value)).await.unwrap();
        rolls += usize::from(log.stats().segments > before);
        records += usize::from(rolls == 1);
    }
    records
}

#[tokio::test]
async fn an_altered_segment_size_holds_for_the_next_segment() {
    const CLUSTER: usize = 32 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions::new("main", dir.path().to_owned(), CLUSTER as u64, &map(&[("acks", "1")]));
    let cluster = EmbeddedCluster::open(options).unwrap();
    create(&cluster, "t", 1, &[("segment.bytes", "4096")]).await;
    for (set, bytes) in [("4096", 4096), ("16384", 16384), ("", CLUSTER), ("8192", 8192), ("999999", CLUSTER)] {
        cluster.alter_topic("t", map(&[("segment.bytes", set)]), None).await.unwrap();
        // A record takes 400 bytes and less than 100 beside.
        let records = records_of_a_segment(&cluster).await;
        assert!((bytes / 500 - 1..=bytes / 400).contains(&records), "segment.bytes {set:?}: {records} records");
    }
}

#[tokio::test]
async fn headers_count_with_their_frames() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = open(dir.path());
    create(&cluster, "t", 1, &[("max.message.bytes", "1002")]).await;
    for (headers, taken) in [(100, true), (101, false), (100_000, false)] {
        let headers = vec![(String::new(), None); headers];
        let count = headers.len();
        match cluster.produce(ProduceRecord { headers, ..record("t", Some("k"), "v") }).await {
            Ok(_) => assert!(taken, "{count} empty headers"),
            Err(ProduceError::TooLarge { limit_bytes: Some(1002) }) => assert!(!taken, "{count} empty headers"),
            Err(other) => panic!("{count}: {other}"),
        }
    }
}

#[tokio::test]
async fn a_bound_on_bytes_is_told_from_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = open(dir.path());
    create(&cluster, "t", 1, &[]).await;
    let options = KeeperOptions { interval: Duration::from_secs(3600), max_bytes: Some(1) };
    let keeper = Keeper::start(options, {
        let cluster = Arc::clone(&cluster);
        move || cluster.caches()
    });
    let until_refused = async {
        loop {
            if let Err(error) = cluster.produce(record("t", Some("k"), "v")).await {
                return error;
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(30), until_refused).await.expect("the bound is looked at");
    assert!(matches!(refused, ProduceError::BytesMax) && refused.written() == Written::No, "{refused}");
    assert!(refused.to_string().contains("cache.max_bytes"), "{refused}");
    let status = cluster.status();
    assert!(status.up && status.problem.is_some_and(|p| p.contains("a bound on bytes is reached")), "reads go on");
    drop(keeper);
}

#[tokio::test]
async fn times_are_checked_by_what_the_topic_says_now() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = open(dir.path());
    create(&cluster, "t", 1, &[]).await;
    let far = ProduceRecord { timestamp_ms: Some(i64::MAX), ..record("t", Some("k"), "v") };
    for (property, value, taken) in [
        ("message.timestamp.after.max.ms", "", false),
        ("message.timestamp.after.max.ms", "9223372036854775807", true),
        ("message.timestamp.after.max.ms", "0", false),
        ("message.timestamp.type", "LogAppendTime", true),
    ] {
        cluster.alter_topic("t", map(&[(property, value)]), None).await.unwrap();
        match cluster.produce(far.clone()).await {
            Ok(_) => assert!(taken, "{property}={value}"),
            Err(ProduceError::Invalid { reason }) => {
                assert!(!taken && reason.contains("message.timestamp.after.max.ms of the topic"), "{property}={value}: {reason}");
            }
            Err(other) => panic!("{property}={value}: {other}"),
        }
    }
}

#[tokio::test]
async fn a_compacted_topic_takes_no_record_without_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = open(dir.path());
    for (policy, taken) in [("compact", false), ("delete", true), ("compact,delete", false), ("", true)] {
        let set = map(&[("cleanup.policy", policy)]);
        match cluster.alter_topic("t", set.clone(), None).await {
            Err(AdminError::UnknownTopic(_)) => create(&cluster, "t", 1, &[("cleanup.policy", policy)]).await,
            altered => altered.unwrap(),
        }
        match cluster.produce(record("t", None, "v")).await {
            Ok(_) => assert!(taken, "{policy}"),
            Err(ProduceError::Invalid { reason }) => {
                assert!(!taken && reason.contains("needs a key: give it one"), "{policy}: {reason}");
            }
            Err(other) => panic!("{policy}: {other}"),
        }
        cluster.produce(record("t", Some("k"), "v")).await.unwrap();
    }
}
