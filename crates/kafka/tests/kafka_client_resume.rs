//! Caches that are taken up again, against a real broker: whether what they hold is still what the cluster has.

mod kafka_support;

use kafka_support::*;

/// How many records a second process fetches of a topic of 20 whose cache was current at some time.
async fn fetched_again(policy: &str, live: Option<&str>) -> u64 {
    let servers = servers().expect("a broker");
    let dir = tempfile::tempdir().expect("a directory");
    let first = cluster(&servers, dir.path(), &[]);
    let topic = create(&first, "stale", 1, &[("cleanup.policy", policy)]).await;
    for n in 0..20 {
        first.produce(record(&topic, Some(&n.to_string()), Some("v"))).await.expect("produced");
    }
    cached(&first, &topic, &[20]).await;
    let note = dir.path().join(&topic).join("topic.live");
    until("it is noted that the cache is current", || note.exists()).await;
    first.close().await;
    if let Some(live) = live {
        std::fs::write(&note, live).expect("written");
    }
    let second = cluster(&servers, dir.path(), &[]);
    let cache = cached(&second, &topic, &[20]).await;
    until("the cache is served", || cache.is_complete()).await;
    let fetched = topic_status(&second, &topic).expect("the topic").fetched_records;
    second.close().await;
    fetched
}

/// A tombstone may have come and gone meanwhile: then nothing but all records tells what is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_that_was_left_for_too_long_is_fetched_again() {
    if servers().is_none() {
        return;
    }
    assert_eq!(fetched_again("compact", None).await, 0);
    assert_eq!(fetched_again("compact", Some("1000")).await, 20);
    assert_eq!(fetched_again("compact", Some("garbage")).await, 20);
    assert_eq!(fetched_again("delete", Some("1000")).await, 0);
}

/// As after an unclean election: the cluster has other records at the offsets that are cached, and more of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_of_records_that_the_cluster_has_lost_is_fetched_again() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let first = cluster(&servers, dir.path(), &[]);
    let (lost, kept) = (create(&first, "lost", 1, &[]).await, create(&first, "kept", 1, &[]).await);
    for (topic, count) in [(&lost, 10), (&kept, 15)] {
        for n in 0..count {
            first.produce(record(topic, Some("k"), Some(&format!("{topic}-{n}")))).await.expect("produced");
        }
    }
    cached(&first, &lost, &[10]).await;
    first.close().await;
    // What was cached of one topic passes for that of the other, whose id is not known.
    std::fs::rename(dir.path().join(&lost), dir.path().join(&kept)).expect("renamed");
    std::fs::remove_file(dir.path().join(&kept).join("topic.id")).expect("removed");
    let second = cluster(&servers, dir.path(), &[]);
    let cache = cached(&second, &kept, &[15]).await;
    let expected: Vec<_> = (0..15).map(|n| format!("{kept}-{n}")).collect();
    until("only what the cluster has is cached", || values(&cache, 0) == expected).await;
    second.close().await;
}
