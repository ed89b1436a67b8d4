//! The embedded cluster through its door: topics altered, deleted, cut; what an acknowledgement stands for.

mod embedded_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use embedded_support::{create, map, open, record};
use kafka::{AdminError, EmbeddedCluster, EmbeddedOptions, ProduceError, ProduceRecord, Written};
use message_cache::{Faults, Files, Op, OpKind, PartitionLog, Verdict};

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

/// Notes how far readers saw at each fsync of a segment, and may let them fail.
#[derive(Default)]
struct Fsyncs {
    ends: Mutex<Vec<i64>>,
    fail: AtomicBool,
    log: OnceLock<Weak<PartitionLog>>,
}

impl Faults for Fsyncs {
    fn before(&self, op: &Op<'_>) -> Verdict {
        if op.kind != OpKind::SyncData || op.path.extension().is_none_or(|e| e != "log") {
            return Verdict::Go;
        }
        let end = self.log.get().and_then(Weak::upgrade).map_or(-1, |log| log.end_offset());
        self.ends.lock().unwrap().push(end);
        if self.fail.load(Ordering::Acquire) { Verdict::Fail(rustix::io::Errno::IO.raw_os_error()) } else { Verdict::Go }
    }

    fn after(&self, _: &Op<'_>) {}
}

/// A cluster with topic t of one partition, whose fsyncs are seen.
async fn watched(dir: &Path, config: &[(&str, &str)]) -> (Arc<EmbeddedCluster>, Arc<Fsyncs>) {
    let fsyncs = Arc::new(Fsyncs::default());
    let options = EmbeddedOptions {
        files: Files::with_faults(fsyncs.clone()),
        ..EmbeddedOptions::new("main", dir.to_owned(), 1 << 20, &map(&[]))
    };
    let cluster = EmbeddedCluster::open(options).unwrap();
    create(&cluster, "t", 1, config).await;
    fsyncs.log.set(Arc::downgrade(&cluster.cached("t").unwrap().partition(0).unwrap())).unwrap();
    (cluster, fsyncs)
}

const STRICT: &[(&str, &str)] = &[("flush.messages", "1")];
/// Never within a test.
const LAZY: &[(&str, &str)] = &[("flush.messages", "1000000")];

/// `flush.messages` of a topic in use: in force for the next record, to and fro.
#[tokio::test]
async fn altered_flushing_is_in_force_at_once() {
    for first_is_strict in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (cluster, fsyncs) = watched(dir.path(), if first_is_strict { STRICT } else { LAZY }).await;
        let mut strict = first_is_strict;
        let mut end = 0;
        for _ in 0..3 {
            fsyncs.ends.lock().unwrap().clear();
            produce(&cluster, "t", 2).await;
            // Each was fsynced when it was acknowledged, and not yet seen when it was fsynced.
            assert_eq!(*fsyncs.ends.lock().unwrap(), if strict { vec![end, end + 1] } else { vec![] }, "{first_is_strict}");
            end += 2;
            fsyncs.ends.lock().unwrap().clear();
            strict = !strict;
            cluster.alter_topic("t", map(if strict { STRICT } else { LAZY }), None).await.unwrap();
            assert_eq!(*fsyncs.ends.lock().unwrap(), vec![end; usize::from(strict)], "what is there is made durable first");
        }
        // A partition that is added is as the others.
        cluster.alter_topic("t", map(&[]), Some(2)).await.unwrap();
        cluster.produce(ProduceRecord { partition: Some(1), ..record("t", Some("k"), "v") }).await.unwrap();
        assert_eq!(fsyncs.ends.lock().unwrap().contains(&end), strict, "{first_is_strict}");
    }
}

/// A topic of a name that was there before is as it was created, not as the former was.
#[tokio::test]
async fn flushing_of_a_topic_that_is_created_again() {
    for (former, later, count) in [(STRICT, LAZY, 0), (LAZY, STRICT, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let (cluster, fsyncs) = watched(dir.path(), former).await;
        let _reader = cluster.cached("t").unwrap();
        cluster.delete_topic("t").await.unwrap();
        create(&cluster, "t", 1, later).await;
        fsyncs.ends.lock().unwrap().clear();
        produce(&cluster, "t", 1).await;
        assert_eq!(fsyncs.ends.lock().unwrap().len(), count, "{former:?}, then {later:?}");
    }
}

/// However the fsync came about: the record may be there, the partition takes no more, and the cluster says why.
#[tokio::test]
async fn a_failed_fsync() {
    let check = async |config: &[(&str, &str)], alter: Option<&[(&str, &str)]>, told: bool| {
        let what = format!("{config:?} {alter:?}");
        let dir = tempfile::tempdir().unwrap();
        let (cluster, fsyncs) = watched(dir.path(), config).await;
        fsyncs.fail.store(true, Ordering::Release);
        let first = cluster.produce(record("t", Some("k"), "v")).await;
        assert_eq!(first.is_err(), told, "{what}");
        if let Some(set) = alter {
            match cluster.alter_topic("t", map(set), None).await {
                Err(AdminError::Unavailable(text)) if text.contains("an fsync failed") => {}
                other => panic!("{what}: {other:?}"),
            }
            let flush = &cluster.describe_topic("t").unwrap().config["flush.messages"];
            assert_eq!(flush, "1000000", "{what}: not altered");
        } else if !told {
            // Closing flushes what was not.
            cluster.close().await;
            let problem = cluster.status().problem.unwrap();
            assert!(problem.contains("takes no more records: an fsync failed"), "{what}: {problem}");
            return;
        }
        fsyncs.fail.store(false, Ordering::Release);
        fsyncs.ends.lock().unwrap().clear();
        let refused = cluster.produce(record("t", Some("k"), "v")).await.unwrap_err();
        assert!(refused.to_string().contains("an fsync failed") && refused.written() == Written::Maybe, "{what}: {refused}");
        assert!(fsyncs.ends.lock().unwrap().is_empty(), "{what}: it is not tried again");
        let status = cluster.status();
        assert!(!status.up && status.problem.is_some_and(|p| p.contains("an fsync failed")), "{what}");
    };
    check(STRICT, None, true).await;
    check(LAZY, None, false).await;
    check(LAZY, Some(STRICT), false).await;
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
                    // Without an fsync there is nothing to wait for, and the runtime has one thread.
                    Ok(_) => {
                        acknowledged += 1;
                        tokio::task::yield_now().await;
                    }
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
