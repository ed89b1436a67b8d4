//! The embedded cluster through its door: topics altered, deleted, cut; what an acknowledgement stands for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kafka::{AdminError, EmbeddedCluster, EmbeddedOptions, ProduceError, ProduceRecord, TopicSpec};

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

fn open(dir: &Path) -> Arc<EmbeddedCluster> {
    EmbeddedCluster::open(EmbeddedOptions::new("main", dir.to_owned(), 1 << 20, &map(&[]))).unwrap()
}

async fn create(cluster: &Arc<EmbeddedCluster>, name: &str, partitions: i32, config: &[(&str, &str)]) {
    let spec = TopicSpec { name: name.to_owned(), partitions, replication: -1, config: map(config) };
    cluster.create_topic(&spec).await.unwrap();
}

fn record(topic: &str, key: Option<&str>, value: &str) -> ProduceRecord {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    ProduceRecord { topic: topic.to_owned(), key: key.map(bytes), value: Some(bytes(value)), ..ProduceRecord::default() }
}

/// Offsets of the records that are acknowledged.
async fn produce(cluster: &EmbeddedCluster, topic: &str, count: usize) -> Vec<i64> {
    let mut offsets = Vec::new();
    for n in 0..count {
        let record = ProduceRecord { partition: Some(0), ..record(topic, Some("k"), &n.to_string()) };
        offsets.push(cluster.produce(record).await.unwrap().offset.unwrap());
    }
    offsets
}

/// The values in partition 0.
fn values(cluster: &EmbeddedCluster, topic: &str) -> Vec<String> {
    let log = cluster.cached(topic).unwrap().partition(0).unwrap();
    let text = |r: message_cache::Record| String::from_utf8_lossy(r.value().unwrap_or_default()).into_owned();
    log.scan(0).map(|r| text(r.unwrap())).collect()
}

/// The first and the next offset of partition 0.
fn bounds(cluster: &EmbeddedCluster, topic: &str) -> (i64, i64) {
    let partition = &cluster.describe_topic(topic).unwrap().partitions[0];
    (partition.start_offset, partition.end_offset)
}

#[tokio::test]
async fn altering_is_checked_and_in_force_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = open(dir.path());
    create(&cluster, "t", 2, &[("retention.ms", "5000")]).await;
    for (set, partitions, fault) in [
        (&[("retention.mss", "1")][..], None, "no topic property retention.mss; did you mean retention.ms?"),
        (&[("retention.mss", "")], None, "no topic property retention.mss"),
        (&[("segment.ms", "0")], None, "segment.ms is \"0\""),
        (&[("min.compaction.lag.ms", "5"), ("max.compaction.lag.ms", "4")], None, "is more than"),
        (&[], Some(2), "has 2 partitions; they can only become more, not 2"),
        (&[], Some(1), "they can only become more, not 1"),
        (&[], Some(1001), "1 to 1000 are possible"),
        (&[("max.message.bytes", "3")], Some(0), "they can only become more"),
    ] {
        match cluster.alter_topic("t", map(set), partitions).await {
            Err(AdminError::Invalid(text)) if text.contains(fault) => {}
            other => panic!("{set:?} {partitions:?}: {other:?}"),
        }
    }
    assert!(matches!(cluster.alter_topic("u", map(&[]), None).await, Err(AdminError::UnknownTopic(_))));
    assert_eq!(cluster.describe_topic("t").unwrap().config["retention.ms"], "5000", "a refused change changes nothing");

    let cache = cluster.cached("t").unwrap();
    let set = [("cleanup.policy", "compact"), ("max.message.bytes", "4"), ("retention.ms", "")];
    cluster.alter_topic("t", map(&set), Some(3)).await.unwrap();
    assert!(cache.policy().compact, "whoever has the topic open sees it");
    assert_eq!(cache.partitions().len(), 3);
    assert!(matches!(
        cluster.produce(record("t", Some("k"), "long")).await,
        Err(ProduceError::TooLarge { limit_bytes: Some(4) })
    ));
    cluster.produce(ProduceRecord { partition: Some(2), ..record("t", Some("k"), "v") }).await.unwrap();
    let before = cluster.describe_topic("t").unwrap();
    assert_eq!((before.config["retention.ms"].as_str(), before.config["max.message.bytes"].as_str()), ("604800000", "4"));
    cluster.close().await;
    assert_eq!(open(dir.path()).describe_topic("t").unwrap(), before, "it outlives the process");
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

#[tokio::test]
async fn a_deleted_topic_is_gone_and_its_name_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = open(dir.path());
    create(&cluster, "t", 1, &[]).await;
    produce(&cluster, "t", 3).await;
    let reader = cluster.cached("t").unwrap();
    let life = reader.life();
    cluster.delete_topic("t").await.unwrap();
    assert!(reader.partitions().is_empty() && reader.life() > life, "readers end");
    assert!(reader.is_complete(), "and wait for nothing");
    assert!(matches!(cluster.produce(record("t", None, "v")).await, Err(ProduceError::UnknownTopic { .. })));
    assert!(matches!(cluster.delete_topic("t").await, Err(AdminError::UnknownTopic(_))));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");

    create(&cluster, "t", 2, &[]).await;
    assert_eq!(produce(&cluster, "t", 1).await, [0]);
    assert_eq!(reader.partitions().len(), 2, "who reads the name goes on with the new topic");
    assert!(reader.is_complete());
    assert_eq!(values(&cluster, "t"), ["0"]);
    cluster.delete_topic("t").await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left of the second either");
    create(&cluster, "t", 1, &[]).await;
    assert_eq!(produce(&cluster, "t", 2).await, [0, 1]);
    cluster.close().await;
    assert_eq!(values(&open(dir.path()), "t"), ["0", "1"]);
}

/// Directories as a crash in the middle of a deletion leaves them.
#[tokio::test]
async fn a_crash_while_deleting() {
    for (step, from, to) in [("marked", "t/topic.json", "t/topic.json.deleted"), ("aside", "t", "~deleted-0123456789abcdef")] {
        let dir = tempfile::tempdir().unwrap();
        let cluster = open(dir.path());
        create(&cluster, "t", 1, &[]).await;
        create(&cluster, "other", 1, &[]).await;
        produce(&cluster, "t", 3).await;
        cluster.close().await;
        drop(cluster);
        std::fs::rename(dir.path().join(from), dir.path().join(to)).unwrap();
        let cluster = open(dir.path());
        assert_eq!(cluster.topics().into_iter().collect::<Vec<_>>(), ["other"], "{step}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "{step}: nothing is left");
        create(&cluster, "t", 1, &[]).await;
        assert_eq!(bounds(&cluster, "t"), (0, 0), "{step}: no record comes back");
    }
}

#[tokio::test]
async fn a_topic_that_cannot_be_opened_can_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = open(dir.path());
    create(&cluster, "t", 2, &[]).await;
    cluster.close().await;
    drop(cluster);
    std::fs::remove_dir_all(dir.path().join("t/1")).unwrap();
    let cluster = open(dir.path());
    assert!(matches!(cluster.describe_topic("t"), Err(AdminError::Unavailable(text)) if text.contains("partition 1 is missing")));
    assert!(matches!(cluster.alter_topic("t", map(&[]), Some(3)).await, Err(AdminError::Unavailable(_))));
    cluster.delete_topic("t").await.unwrap();
    create(&cluster, "t", 1, &[]).await;
    assert_eq!(produce(&cluster, "t", 1).await, [0]);
}

#[tokio::test]
async fn records_are_deleted_below_an_offset() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = open(dir.path());
    create(&cluster, "t", 2, &[]).await;
    produce(&cluster, "t", 5).await;
    for (offsets, fault) in [
        (&[(0, 6)][..], "offset 6 is out of range: partition 0 of topic t ends at 5"),
        (&[(0, 3), (1, 1)], "partition 1 of topic t ends at 0"),
        (&[(0, 3), (2, 0)], "no partition 2"),
        (&[(-1, 0)], "no partition -1"),
        (&[(0, -2)], "offset -2 is out of range"),
    ] {
        match cluster.delete_records("t", offsets.iter().copied().collect()).await {
            Err(AdminError::Invalid(text)) if text.contains(fault) => {}
            other => panic!("{offsets:?}: {other:?}"),
        }
        assert_eq!(bounds(&cluster, "t"), (0, 5), "{offsets:?}: all or nothing");
    }
    for (before, left) in [(2, (2, 5)), (1, (2, 5)), (5, (5, 5)), (-1, (5, 5))] {
        cluster.delete_records("t", BTreeMap::from([(0, before)])).await.unwrap();
        assert_eq!(bounds(&cluster, "t"), left, "{before}");
    }
    assert_eq!(produce(&cluster, "t", 1).await, [5]);
    let end = BTreeMap::from([(0, -1)]);
    cluster.delete_records("t", end.clone()).await.unwrap();
    assert_eq!(bounds(&cluster, "t"), (6, 6));

    cluster.alter_topic("t", map(&[("cleanup.policy", "compact")]), None).await.unwrap();
    let refused = cluster.delete_records("t", end.clone()).await;
    assert!(matches!(refused, Err(AdminError::Invalid(text)) if text.contains("add delete to its cleanup.policy")));
    assert!(matches!(cluster.delete_records("u", end).await, Err(AdminError::UnknownTopic(_))));
}

#[tokio::test]
async fn deleted_records_stay_deleted() {
    for config in [&[][..], &[("flush.messages", "10")], &[("flush.ms", "1000")]] {
        let dir = tempfile::tempdir().unwrap();
        let cluster = open(dir.path());
        create(&cluster, "t", 1, config).await;
        produce(&cluster, "t", 5).await;
        cluster.delete_records("t", BTreeMap::from([(0, 3)])).await.unwrap();
        // Not closed: as after a crash.
        drop(cluster);
        assert_eq!(bounds(&open(dir.path()), "t"), (3, 5), "{config:?}");
    }
}

/// However a topic is flushed, and whenever that was said: records are acknowledged in order, and all are there after a stop.
#[tokio::test]
async fn flushing() {
    for first in [&[][..], &[("flush.messages", "3")], &[("flush.ms", "0")], &[("flush.messages", "1"), ("flush.ms", "50")]] {
        for then in [&[("flush.messages", ""), ("flush.ms", "")][..], &[("flush.messages", "2"), ("flush.ms", "1")]] {
            let dir = tempfile::tempdir().unwrap();
            let cluster = open(dir.path());
            create(&cluster, "t", 1, first).await;
            assert_eq!(produce(&cluster, "t", 7).await, (0..7).collect::<Vec<_>>(), "{first:?}");
            cluster.alter_topic("t", map(then), None).await.unwrap();
            assert_eq!(produce(&cluster, "t", 7).await, (7..14).collect::<Vec<_>>(), "{first:?}, then {then:?}");
            assert_eq!(cluster.status().problem, None);
            cluster.close().await;
            assert_eq!(values(&open(dir.path()), "t").len(), 14, "{first:?}, then {then:?}");
        }
    }
}

#[tokio::test]
async fn topics_change_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = open(dir.path());
    create(&cluster, "t", 1, &[]).await;
    let writer = tokio::spawn({
        let cluster = Arc::clone(&cluster);
        async move {
            let mut acknowledged = 0;
            loop {
                match cluster.produce(record("t", Some("k"), "v")).await {
                    Ok(_) => acknowledged += 1,
                    Err(ProduceError::UnknownTopic { .. }) => return acknowledged,
                    Err(other) => panic!("{other}"),
                }
            }
        }
    });
    for n in 2..20 {
        let flush = if n % 2 == 0 { "5" } else { "" };
        cluster.alter_topic("t", map(&[("flush.messages", flush)]), Some(n)).await.unwrap();
    }
    cluster.delete_topic("t").await.unwrap();
    assert!(writer.await.unwrap() > 0);
    assert_eq!(cluster.status().problem, None, "a deletion is no fault of the disk");
}
