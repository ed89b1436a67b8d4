//! Topics that change while they are cached, against a real broker.

mod kafka_support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use kafka::{AdminError, FetchOptions, FetchStart, KafkaCluster, PartitionState, ProduceRecord, TopicSpec};
use kafka_support::*;
use rdkafka::mocking::MockCluster;

/// Tries until the topic can be created: a deleted one goes away in its own time.
async fn create_again(cluster: &KafkaCluster, name: &str, partitions: i32) {
    let spec = TopicSpec { name: name.to_owned(), partitions, replication: 1, config: BTreeMap::new() };
    let began = Instant::now();
    while let Err(error) = cluster.create_topic(&spec).await {
        assert!(began.elapsed() < PATIENCE, "{name} cannot be created again: {error}");
    }
}

/// Writes until as many are acknowledged; a client may still know the former topic.
async fn write(cluster: &KafkaCluster, topic: &str, life: &str, count: usize) {
    let began = Instant::now();
    let mut written = 0;
    while written < count {
        let one = ProduceRecord { partition: Some(0), ..record(topic, Some("k"), Some(&format!("{life}-{written}"))) };
        match cluster.produce(one).await {
            Ok(_) => written += 1,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{topic} takes no record: {error}"),
        }
    }
}

fn expected(life: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{life}-{n}")).collect()
}

fn properties(set: &[(&str, &str)]) -> BTreeMap<String, String> {
    set.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

/// Offsets tell nothing here: the new topic has more records than the old one had. Each round is a life; under load, a batch of
/// the former one may be on its way when its log is dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_created_again_and_grows_past_the_cached_end_is_fetched_again() {
    let Some(servers) = servers() else { return };
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    let (reader, writer) = (cluster(&servers, dirs[0].path(), &[]), cluster(&servers, dirs[1].path(), &[]));
    let topic = create(&writer, "lives", 1, &[]).await;
    write(&writer, &topic, "0", 20).await;
    let cache = cached(&reader, &topic, &[20]).await;
    for life in 1..4 {
        writer.delete_topic(&topic).await.expect("deleted");
        create_again(&writer, &topic, 1).await;
        let (name, count) = (life.to_string(), 20 + life * 200);
        write(&writer, &topic, &name, count).await;
        until_cached(&reader, &topic, &[count as i64]).await;
        until("nothing of the former life is left", || values(&cache, 0) == expected(&name, count)).await;
        assert!(cache.is_complete());
    }
    assert!(cache.life() >= 3, "{}", cache.life());
    reader.close().await;
    writer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_created_again_while_nobody_looked_is_fetched_again() {
    let Some(servers) = servers() else { return };
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    let first = cluster(&servers, dirs[0].path(), &[]);
    let topic = create(&first, "down", 1, &[]).await;
    write(&first, &topic, "old", 5).await;
    drop(cached(&first, &topic, &[5]).await);
    first.close().await;
    drop(first);
    let writer = cluster(&servers, dirs[1].path(), &[]);
    writer.delete_topic(&topic).await.expect("deleted");
    create_again(&writer, &topic, 1).await;
    write(&writer, &topic, "new", 9).await;
    writer.close().await;

    let second = cluster(&servers, dirs[0].path(), &[]);
    let cache = cached(&second, &topic, &[9]).await;
    assert_eq!(values(&cache, 0), expected("new", 9));
    second.close().await;
    drop((second, cache));

    // An id that nobody can read says nothing of what is cached.
    std::fs::write(dirs[0].path().join(&topic).join("topic.id"), b"\xff").expect("written");
    let third = cluster(&servers, dirs[0].path(), &[]);
    drop(cached(&third, &topic, &[9]).await);
    until("all is fetched again", || topic_status(&third, &topic).is_some_and(|t| t.fetched_records == 9)).await;
    third.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topics_configuration_is_followed_and_remembered() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = cluster(&servers, dir.path(), &[]);
    let topic = create(&cluster, "config", 1, &[("cleanup.policy", "compact"), ("delete.retention.ms", "77")]).await;
    write(&cluster, &topic, "v", 1).await;
    let cache = cached(&cluster, &topic, &[1]).await;
    let policy = cache.policy();
    assert_eq!((policy.compact, policy.delete, policy.delete_retention_ms), (true, false, 77));
    let alter = async |set: &[(&str, &str)]| cluster.alter_topic(&topic, properties(set), None).await;
    alter(&[("cleanup.policy", "compact,delete"), ("retention.ms", "5000000"), ("retention.bytes", "1000")]).await.expect("set");
    until("the policy has changed", || cache.policy().retention_ms == Some(5_000_000)).await;
    let policy = cache.policy();
    assert_eq!((policy.compact, policy.delete, policy.delete_retention_ms, policy.retention_bytes), (true, true, 77, None));
    alter(&[("retention.ms", "")]).await.expect("reset");
    until("the default is back", || cache.policy().retention_ms == Some(604_800_000)).await;
    assert_eq!(cache.policy().delete_retention_ms, 77, "what is not named stays");
    cluster.close().await;
    drop((cluster, cache));

    let away = kafka_support::cluster("127.0.0.1:1", dir.path(), &[]);
    let cache = away.cached(&topic, FetchStart::Earliest).expect("the cache opens");
    assert_eq!(*cache.policy(), *policy_of(&policy, 604_800_000), "without the cluster what it said last holds");
    away.close().await;
}

fn policy_of(policy: &message_cache::Policy, retention_ms: i64) -> Box<message_cache::Policy> {
    Box::new(message_cache::Policy { retention_ms: Some(retention_ms), ..policy.clone() })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_refuses_is_told_by_who_is_to_blame() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = cluster(&servers, dir.path(), &[]);
    let topic = create(&cluster, "manage", 2, &[]).await;
    let missing = unique("none");
    write(&cluster, &topic, "v", 3).await;
    let alter = async |name: &str, set: &[(&str, &str)], partitions| cluster.alter_topic(name, properties(set), partitions).await;
    let delete = async |name: &str, before: &[(i32, i64)]| cluster.delete_records(name, before.iter().copied().collect()).await;
    let check = |outcome: Result<(), AdminError>, expected: &str| {
        let shown = outcome.map_or_else(|e| format!("{e:?}"), |()| "done".to_owned());
        assert!(shown.contains(expected), "{shown} lacks {expected}");
    };
    check(alter(&missing, &[("retention.ms", "1")], None).await, "UnknownTopic");
    check(alter(&topic, &[("retention.ms", "soon")], None).await, "retention.ms");
    check(alter(&topic, &[("no.such.property", "1")], None).await, "no.such.property");
    check(alter(&topic, &[("a\0b", "1")], None).await, "Invalid");
    check(alter(&topic, &[], Some(1)).await, "only grows");
    check(alter(&topic, &[], Some(-1)).await, "only grows");
    check(alter(&topic, &[], Some(2)).await, "done");
    check(alter(&topic, &[], Some(3)).await, "done");
    check(alter("a/b", &[], None).await, "Invalid");
    check(delete(&missing, &[(0, 1)]).await, "UnknownTopic");
    check(delete(&topic, &[(3, 1)]).await, "no partition 3");
    check(delete(&topic, &[(-1, 1)]).await, "no partition -1");
    check(delete(&topic, &[(0, -2)]).await, "no offset");
    check(delete(&topic, &[(0, 4)]).await, "outside of the log");
    check(delete(&topic, &[]).await, "done");
    check(delete(&topic, &[(0, 2), (1, -1)]).await, "done");
    let offsets = cluster.describe_topic(&topic).await.expect("described");
    let offsets: Vec<_> = offsets.partitions.iter().map(|p| (p.start_offset, p.end_offset)).collect();
    assert_eq!(offsets, [(2, 3), (0, 0), (0, 0)]);
    check(delete(&topic, &[(0, -1)]).await, "done");
    check(cluster.delete_topic(&missing).await, "UnknownTopic");
    check(cluster.delete_topic(&topic).await, "done");
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_used_is_not_read_until_it_is() {
    let Some(servers) = servers() else { return };
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    let (reader, writer) = (cluster(&servers, dirs[0].path(), &[]), cluster(&servers, dirs[1].path(), &[]));
    let topic = create(&writer, "demand", 2, &[]).await;
    let states = || topic_status(&reader, &topic).map(|t| t.partitions.iter().map(|p| p.state).collect::<Vec<_>>());
    let linger = Some(Duration::from_millis(300));
    let cache = reader.cached(&topic, FetchOptions { start: FetchStart::Earliest, linger }).expect("the cache opens");
    for round in 1..4 {
        let used = cache.enter();
        write(&writer, &topic, "v", 1).await;
        until("what is used is current", || !cache.is_asleep()).await;
        until("the record is cached", || values(&cache, 0).len() == round * 2 - 1).await;
        let looked = Instant::now();
        until("some looks have passed", || looked.elapsed() > Duration::from_millis(1500)).await;
        assert_eq!(states(), Some(vec![PartitionState::Live; 2]), "in use all the while");
        drop(used);
        until("nobody uses it", || states() == Some(vec![PartitionState::Paused; 2])).await;
        assert!(cache.is_asleep());
        write(&writer, &topic, "unseen", 1).await;
        assert_eq!(values(&cache, 0).len(), round * 2 - 1, "nothing is fetched");
    }
    // What happens to the topic meanwhile is followed all the same.
    writer.delete_topic(&topic).await.expect("deleted");
    create_again(&writer, &topic, 3).await;
    write(&writer, &topic, "new", 8).await;
    until("the former life is gone", || states() == Some(vec![PartitionState::Paused; 3])).await;
    let _used = cache.enter();
    until("it is read again", || !cache.is_asleep()).await;
    assert_eq!(values(&cache, 0), expected("new", 8));
    reader.close().await;
    writer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_can_begin_a_while_back() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let writer = cluster(&servers, dir.path(), &[]);
    let topic = create(&writer, "back", 2, &[("retention.ms", "-1")]).await;
    let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    for minutes in [300, 200, 100, 50, 1] {
        let one = ProduceRecord { partition: Some(0), ..record(&topic, None, Some(&minutes.to_string())) };
        writer.produce(ProduceRecord { timestamp_ms: Some(now_ms - minutes * 60_000), ..one }).await.expect("acknowledged");
    }
    let check = async |minutes: u64, expected: &[&str]| {
        let dir = tempfile::tempdir().expect("a directory");
        let reader = cluster(&servers, dir.path(), &[]);
        let start = FetchStart::Back(Duration::from_secs(minutes * 60));
        let cache = reader.cached(&topic, start).expect("the cache opens");
        until_cached(&reader, &topic, &[5, 0]).await;
        assert_eq!(values(&cache, 0), expected, "{minutes} minutes back");
        reader.close().await;
    };
    check(150, &["100", "50", "1"]).await;
    check(1000, &["300", "200", "100", "50", "1"]).await;
    // Younger than every record: from the end on.
    check(0, &[]).await;
    check(u64::MAX / 60, &["300", "200", "100", "50", "1"]).await;
    writer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_can_be_read_without_a_cache() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = cluster(&servers, dir.path(), &[]);
    let topic = create(&cluster, "range", 1, &[]).await;
    write(&cluster, &topic, "v", 30).await;
    cluster.delete_records(&topic, BTreeMap::from([(0, 10)])).await.expect("deleted");
    let read = |partition, from, to, most: usize| {
        let mut offsets = Vec::new();
        let mut each = |record: kafka::ConsumedRecord| {
            offsets.push(record.offset);
            if offsets.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        cluster.read_range(&topic, partition, from, to, &mut each).map(|()| offsets)
    };
    tokio::task::block_in_place(|| {
        for (from, to, most, expected) in [
            (12, 17, 100, 12..17),
            (12, 17, 2, 12..14),
            (0, 12, 100, 10..12),
            (25, 99, 100, 25..30),
            (i64::MIN, i64::MAX, 100, 10..30),
            (20, 20, 100, 0..0),
            (20, 3, 100, 0..0),
            (30, 40, 100, 0..0),
        ] {
            assert_eq!(read(0, from, to, most).expect("read"), expected.collect::<Vec<i64>>(), "{from}..{to}, {most}");
        }
        assert!(matches!(read(1, 0, 1, 1), Err(AdminError::Invalid(_))));
        assert!(matches!(read(-1, 0, 1, 1), Err(AdminError::Invalid(_))));
    });
    cluster.close().await;
}

/// What stands in the way of the cache's directory, as a full disk would, ends reading; it is told, and over by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_cannot_be_written_is_told_and_tried_again() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = cluster(&servers, dir.path(), &[]);
    let topic = create(&cluster, "blocked", 1, &[]).await;
    write(&cluster, &topic, "v", 1).await;
    let blocked = block(dir.path(), &topic);
    let cache = cluster.cached(&topic, FetchStart::Earliest).expect("the cache opens");
    let problem = || topic_status(&cluster, &topic).and_then(|t| t.problem.or_else(|| t.partitions.first()?.problem.clone()));
    until("the problem is told", || problem().is_some_and(|p| p.contains(&topic))).await;
    std::fs::remove_file(blocked).expect("out of the way");
    until_cached(&cluster, &topic, &[1]).await;
    assert_eq!((values(&cache, 0), problem()), (expected("v", 1), None));
    cluster.close().await;
}

/// A file where the topic's directory must be.
fn block(dir: &Path, topic: &str) -> std::path::PathBuf {
    let at = dir.join(topic).join("0");
    std::fs::create_dir_all(dir.join(topic)).expect("a directory");
    std::fs::write(&at, b"").expect("a file");
    at
}

/// Needs no broker but librdkafka's own stand-in, which can be taken away in the middle of a range.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_whose_broker_goes_away_is_an_error() {
    let brokers = MockCluster::new(1).expect("a stand-in");
    brokers.create_topic("t", 1, 1).expect("a topic");
    let dir = tempfile::tempdir().expect("a directory");
    let small =
        [("consumer.fetch.message.max.bytes", "1000"), ("consumer.queued.min.messages", "1"), ("batch.num.messages", "1")];
    let cluster = cluster(&brokers.bootstrap_servers(), dir.path(), &small);
    for _ in 0..50 {
        cluster.produce(record("t", None, Some(&"x".repeat(900)))).await.expect("acknowledged");
    }
    let mut read = 0;
    let began = Instant::now();
    let mut each = |_| {
        read += 1;
        if read == 1 {
            brokers.broker_down(1).expect("taken away");
        }
        ControlFlow::Continue(())
    };
    let outcome = tokio::task::block_in_place(|| cluster.read_range("t", 0, 0, 50, &mut each));
    assert!(matches!(outcome, Err(AdminError::Unavailable(_))), "{outcome:?} after {read} records");
    assert!(began.elapsed() < PATIENCE && read < 50, "{read} records in {:?}", began.elapsed());
    cluster.close().await;
}
