//! The Kafka side of the door, against a real broker.

mod kafka_support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka::{
    AdminError, ConsumeFrom, ConsumedRecord, FetchStart, KafkaCluster, PartitionState, ProduceError, ProduceRecord, TopicSpec,
    Written, murmur2_partition,
};
use kafka_support::*;
use message_cache::{TimestampType, TopicCache};
use rdkafka::admin::{AdminOptions, NewPartitions};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_produced_is_cached_as_it_was() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = cluster(&servers, dir.path(), &[]);
    // One of the records is old: it would be deleted within moments.
    let topic = create(&cluster, "round-trip", 1, &[("retention.ms", "-1")]).await;
    let header = |name: &str, value: Option<&'static str>| (name.to_owned(), value.map(|v| Bytes::from_static(v.as_bytes())));
    let mut written = vec![
        record(&topic, Some("a"), Some("1")),
        record(&topic, None, Some("no key")),
        record(&topic, Some("a"), None),
        record(&topic, Some(""), Some("")),
        record(&topic, None, None),
        record(&topic, Some("h"), Some("headers")),
        record(&topic, Some("big"), Some(&"x".repeat(900_000))),
    ];
    written[5].headers = vec![
        header("same", Some("first")),
        header("same", Some("second")),
        header("null", None),
        header("empty", Some("")),
        header("", Some("no name")),
        header("ünïcode", Some("é")),
    ];
    written[0].timestamp_ms = Some(1_234_567_890_123);
    for (offset, record) in written.iter().enumerate() {
        let produced = cluster.produce(record.clone()).await.expect("acknowledged");
        assert_eq!((produced.partition, produced.offset), (0, Some(offset as i64)));
        assert!(record.timestamp_ms.is_none_or(|at| at == produced.timestamp_ms));
    }
    let cache = cached(&cluster, &topic, &[written.len() as i64]).await;
    for (read, written) in records(&cache, 0).iter().zip(&written) {
        assert_eq!(read.key(), written.key.as_deref());
        assert_eq!(read.value(), written.value.as_deref());
        assert_eq!(read.timestamp_type(), TimestampType::Create);
        assert!(written.timestamp_ms.is_none_or(|at| at == read.timestamp_ms()));
        let headers: Vec<_> = read.headers().map(|h| (h.name.to_owned(), h.value.map(Bytes::copy_from_slice))).collect();
        assert_eq!(headers, written.headers);
    }
    assert_eq!(records(&cache, 0).len(), written.len());
    assert!(cache.is_complete());
    cluster.close().await;
    let late = cluster.produce(record(&topic, None, None)).await;
    assert!(matches!(late, Err(ProduceError::Unavailable { written: Written::No, .. })), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn codecs_and_transactions_are_read_and_aborted_records_are_not() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = cluster(&servers, dir.path(), &[]);
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        let topic = create(&cluster, codec, 1, &[]).await;
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &servers)
            .set("compression.type", codec)
            .set("transactional.id", unique("tx"))
            .create()
            .expect("a producer");
        producer.init_transactions(PATIENCE).expect("transactions");
        let mut expected = Vec::new();
        for (round, commit) in [true, false, true, false].into_iter().enumerate() {
            producer.begin_transaction().expect("begun");
            for n in 0..50 {
                let value = format!("{round}-{n}-{}", "z".repeat(100));
                producer.send(BaseRecord::<(), str>::to(&topic).payload(&value)).expect("queued");
                expected.extend(commit.then_some(value));
            }
            producer.flush(PATIENCE).expect("written");
            if commit { producer.commit_transaction(PATIENCE) } else { producer.abort_transaction(PATIENCE) }.expect("ended");
        }
        // 4 x 50 records and a mark for each transaction.
        let cache = cached(&cluster, &topic, &[204]).await;
        assert_eq!(values(&cache, 0), expected, "{codec}");
        assert_eq!(topic_status(&cluster, &topic).map(|t| t.fetched_records), Some(100));
    }
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_go_where_kafkas_own_clients_send_them() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = cluster(&servers, dir.path(), &[]);
    let topic = create(&cluster, "partitions", 5, &[("message.timestamp.type", "LogAppendTime")]).await;
    for n in 0..20 {
        let key = format!("key-{n}");
        let produced = cluster.produce(record(&topic, Some(&key), Some("v"))).await.expect("acknowledged");
        assert_eq!(produced.partition, murmur2_partition(key.as_bytes(), 5), "{key}");
        assert!(produced.timestamp_ms > 1_700_000_000_000);
    }
    let explicit = ProduceRecord { partition: Some(3), ..record(&topic, Some("key-0"), Some("explicit")) };
    assert_eq!(cluster.produce(explicit.clone()).await.expect("acknowledged").partition, 3);
    for wrong in [5, -1, i32::MAX] {
        let refused = cluster.produce(ProduceRecord { partition: Some(wrong), ..explicit.clone() }).await;
        assert!(matches!(refused, Err(ProduceError::UnknownPartition { partition, .. }) if partition == wrong), "{refused:?}");
    }
    let description = cluster.describe_topic(&topic).await.expect("described");
    let ends: Vec<i64> = description.partitions.iter().map(|p| p.end_offset).collect();
    assert_eq!((ends.len(), ends.iter().sum::<i64>()), (5, 21));
    assert_eq!(description.config.get("message.timestamp.type").map(String::as_str), Some("LogAppendTime"));
    let cache = cached(&cluster, &topic, &ends).await;
    for partition in 0..5 {
        assert!(records(&cache, partition).iter().all(|r| r.timestamp_type() == TimestampType::LogAppend));
    }
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_missing_is_told_at_once_and_found_when_it_is_created() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = cluster(&servers, dir.path(), &[]);
    let topic = unique("later");
    let cache = cluster.cached(&topic, FetchStart::Latest).expect("the cache opens");
    until("the topic is told to be missing", || {
        topic_status(&cluster, &topic).is_some_and(|t| t.problem.is_some_and(|p| p.contains("does not exist")))
    })
    .await;
    let began = Instant::now();
    let refused = cluster.produce(record(&topic, Some("k"), Some("v"))).await;
    assert!(matches!(refused, Err(ProduceError::UnknownTopic { .. })), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(matches!(cluster.describe_topic(&topic).await, Err(AdminError::UnknownTopic(_))));
    assert!(!cluster.topics().await.expect("listed").contains(&topic), "asking must not create a topic");
    // By another client, so that nothing but the watching finds it.
    let other = kafka_support::cluster(&servers, dir.path(), &[]);
    create_named(&other, &topic, 2, &[]).await;
    let first = ProduceRecord { partition: Some(1), ..record(&topic, Some("k"), Some("first")) };
    other.produce(first).await.expect("acknowledged");
    until_cached(&cluster, &topic, &[0, 1]).await;
    assert_eq!(values(&cache, 1), ["first"], "a record that came before the topic was found is not missed");
    assert!(topic_status(&cluster, &topic).is_some_and(|t| t.problem.is_none()));
    assert!(cluster.topics().await.expect("listed").contains(&topic));
    let again = kafka::TopicSpec { name: topic.clone(), partitions: 1, replication: -1, config: [].into() };
    assert!(matches!(cluster.create_topic(&again).await, Err(AdminError::TopicExists(_))));
    other.close().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_fetches_only_what_is_new() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let first = cluster(&servers, dir.path(), &[]);
    let topic = create(&first, "restart", 1, &[]).await;
    for n in 0..300 {
        first.produce(record(&topic, None, Some(&n.to_string()))).await.expect("acknowledged");
    }
    drop(cached(&first, &topic, &[300]).await);
    assert_eq!(topic_status(&first, &topic).map(|t| t.fetched_records), Some(300));
    first.close().await;
    drop(first);

    let second = cluster(&servers, dir.path(), &[]);
    let cache = cached(&second, &topic, &[300]).await;
    assert_eq!(topic_status(&second, &topic).map(|t| t.fetched_records), Some(0));
    second.produce(record(&topic, None, Some("new"))).await.expect("acknowledged");
    until_cached(&second, &topic, &[301]).await;
    assert_eq!(topic_status(&second, &topic).map(|t| t.fetched_records), Some(1));
    assert_eq!(values(&cache, 0).last().map(String::as_str), Some("new"));
    assert_eq!(records(&cache, 0).len(), 301);
    second.close().await;
}

/// librdkafka tells of a partition's end only when a fetch finds nothing, and here each finds something.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_never_quiet_is_caught_up_with() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = cluster(&servers, dir.path(), &[]);
    let topic = create(&cluster, "busy", 1, &[]).await;
    cluster.produce(record(&topic, None, Some("first"))).await.expect("acknowledged");
    let (writer, name) = (cluster.clone(), topic.clone());
    let writing = tokio::spawn(async move {
        loop {
            writer.produce(record(&name, None, Some("v"))).await.expect("acknowledged");
        }
    });
    let cache = cluster.cached(&topic, FetchStart::Earliest).expect("the cache opens");
    until("the cache is complete", || cache.is_complete()).await;
    assert!(!writing.is_finished(), "the topic was busy all the time");
    writing.abort();
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_new_records_are_cached_from_latest() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = cluster(&servers, dir.path(), &[]);
    let topic = create(&cluster, "latest", 1, &[]).await;
    cluster.produce(record(&topic, None, Some("old"))).await.expect("acknowledged");
    let cache = cluster.cached(&topic, FetchStart::Latest).expect("the cache opens");
    until_cached(&cluster, &topic, &[1]).await;
    cluster.produce(record(&topic, None, Some("new"))).await.expect("acknowledged");
    until_cached(&cluster, &topic, &[2]).await;
    assert_eq!(values(&cache, 0), ["new"]);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_is_refused_and_its_neighbours_are_not() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = cluster(&servers, dir.path(), &[("producer.message.max.bytes", "500000"), ("linger.ms", "20")]);
    let topic = create(&cluster, "small", 1, &[("max.message.bytes", "2000")]).await;
    let local = cluster.produce(record(&topic, None, Some(&"x".repeat(600_000)))).await;
    assert!(matches!(local, Err(ProduceError::TooLarge { limit_bytes: Some(500_000) })), "{local:?}");
    let remote = cluster.produce(record(&topic, None, Some(&"x".repeat(5000)))).await;
    assert!(matches!(remote, Err(ProduceError::TooLarge { limit_bytes: Some(2000) })), "{remote:?}");

    // Each fits the topic, but not all of them in one batch.
    let topic = create(&cluster, "small", 1, &[("max.message.bytes", "2000")]).await;
    let done = AtomicU64::new(0);
    let one = async |n: u32| {
        let produced = cluster.produce(record(&topic, None, Some(&format!("{n}{}", "x".repeat(500))))).await;
        produced.expect("a record that fits is acknowledged");
        done.fetch_add(1, Ordering::Relaxed);
    };
    futures_util::future::join_all((0..64).map(one)).await;
    assert_eq!(done.load(Ordering::Relaxed), 64);
    drop(cached(&cluster, &topic, &[64]).await);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_log_start_and_a_new_partition_are_noticed() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let writer = cluster(&servers, dir.path(), &[]);
    let topic = create(&writer, "moved", 1, &[]).await;
    let first = cluster(&servers, dir.path(), &[]);
    for n in 0..10 {
        writer.produce(record(&topic, None, Some(&n.to_string()))).await.expect("acknowledged");
    }
    drop(cached(&first, &topic, &[10]).await);
    first.close().await;
    drop(first);
    for n in 10..30 {
        writer.produce(record(&topic, None, Some(&n.to_string()))).await.expect("acknowledged");
    }
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&topic, 0, Offset::Offset(20)).expect("an offset");
    admin(&servers).delete_records(&before, &AdminOptions::new()).await.expect("deleted");
    let second = cluster(&servers, dir.path(), &[]);
    let cache = cached(&second, &topic, &[30]).await;
    let expected: Vec<String> = (20..30).map(|n: u32| n.to_string()).collect();
    let served = |cache: &TopicCache| cache.partition(0).map(|log| log.start_offset());
    assert_eq!(served(&cache), Some(20), "what was deleted there is not served here");
    assert_eq!(values(&cache, 0), expected);
    // Also while it is read.
    second.delete_records(&topic, BTreeMap::from([(0, 25)])).await.expect("deleted");
    until("the start has moved", || served(&cache) == Some(25)).await;

    admin(&servers).create_partitions(&[NewPartitions::new(&topic, 2)], &AdminOptions::new()).await.expect("added");
    until_cached(&second, &topic, &[30, 0]).await;
    second.close().await;
    writer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_created_again_is_fetched_again() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = cluster(&servers, dir.path(), &[]);
    let topic = create(&cluster, "again", 1, &[]).await;
    for n in 0..5 {
        cluster.produce(record(&topic, None, Some(&format!("old-{n}")))).await.expect("acknowledged");
    }
    let cache = cached(&cluster, &topic, &[5]).await;
    admin(&servers).delete_topics(&[&topic], &AdminOptions::new()).await.expect("deleted");
    until("the topic is told to be missing", || topic_status(&cluster, &topic).is_some_and(|t| t.problem.is_some())).await;
    until("the topic can be created again", || {
        topic_status(&cluster, &topic).is_some_and(|t| t.partitions[0].state != PartitionState::Live)
    })
    .await;
    create_named(&cluster, &topic, 1, &[]).await;
    let began = Instant::now();
    while cluster.produce(record(&topic, None, Some("new"))).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "producing to a topic that was created again");
    }
    until_cached(&cluster, &topic, &[1]).await;
    assert_eq!(values(&cache, 0), ["new"]);
    cluster.close().await;
}

/// Both happened while this process was down: what it finds on disk is of another topic, or of another cluster.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_former_life_are_dropped_at_the_start() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let first = cluster(&servers, dir.path(), &[]);
    let topic = create(&first, "life", 3, &[]).await;
    for partition in 0..3 {
        let old = ProduceRecord { partition: Some(partition), ..record(&topic, None, Some("old")) };
        first.produce(old).await.expect("acknowledged");
    }
    drop(cached(&first, &topic, &[1, 1, 1]).await);
    first.close().await;
    drop(first);

    let elsewhere = tempfile::tempdir().expect("a directory");
    let other = cluster(&servers, elsewhere.path(), &[]);
    admin(&servers).delete_topics(&[&topic], &AdminOptions::new()).await.expect("deleted");
    let began = Instant::now();
    let spec = TopicSpec { name: topic.clone(), partitions: 1, replication: 1, config: BTreeMap::new() };
    while other.create_topic(&spec).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "creating the topic again");
    }
    while other.produce(record(&topic, None, Some("new"))).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "producing to the topic that was created again");
    }
    other.close().await;

    let second = cluster(&servers, dir.path(), &[]);
    let cache = cached(&second, &topic, &[1]).await;
    assert_eq!((cache.partitions().len(), values(&cache, 0)), (1, vec!["new".to_owned()]));
    second.close().await;
    drop((cache, second));

    let id = dir.path().join("cluster.id");
    let real = std::fs::read_to_string(&id).expect("the id of the cluster");
    std::fs::write(&id, "another").expect("written");
    let third = cluster(&servers, dir.path(), &[]);
    let cache = cached(&third, &topic, &[1]).await;
    until("the record is fetched again", || topic_status(&third, &topic).is_some_and(|t| t.fetched_records == 1)).await;
    assert_eq!((values(&cache, 0), std::fs::read_to_string(&id).ok()), (vec!["new".to_owned()], Some(real)));
    third.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_can_be_read_without_a_cache() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = cluster(&servers, dir.path(), &[]);
    let topic = create(&cluster, "consume", 2, &[]).await;
    for n in 0..6 {
        let mut one = ProduceRecord { partition: Some(n % 2), ..record(&topic, Some("k"), Some(&n.to_string())) };
        one.headers = vec![("h".to_owned(), None)];
        cluster.produce(one).await.expect("acknowledged");
    }
    let read = |partition, from, most| read_values(&cluster, &topic, partition, from, most);
    tokio::task::block_in_place(|| {
        let mut all = read(None, ConsumeFrom::Earliest, 100).expect("read");
        all.sort();
        assert_eq!(all, ["0", "1", "2", "3", "4", "5"]);
        assert_eq!(read(Some(1), ConsumeFrom::Earliest, 100).expect("read"), ["1", "3", "5"]);
        assert_eq!(read(Some(0), ConsumeFrom::Offset(1), 100).expect("read"), ["2", "4"]);
        assert_eq!(read(Some(0), ConsumeFrom::Earliest, 2).expect("read"), ["0", "2"]);
        assert_eq!(read(None, ConsumeFrom::Latest, 100).expect("read").len(), 0);
        assert!(matches!(read(Some(2), ConsumeFrom::Earliest, 1), Err(AdminError::Invalid(_))));
        let missing = read_values(&cluster, &unique("none"), None, ConsumeFrom::Earliest, 1);
        assert!(matches!(missing, Err(AdminError::UnknownTopic(_))), "{missing:?}");
    });
    cluster.close().await;
}

fn read_values(
    cluster: &KafkaCluster,
    topic: &str,
    partition: Option<i32>,
    from: ConsumeFrom,
    most: usize,
) -> Result<Vec<String>, AdminError> {
    let mut values = Vec::new();
    let mut each = |record: ConsumedRecord| {
        assert_eq!(record.headers, [("h".to_owned(), None)]);
        values.push(String::from_utf8_lossy(&record.value.unwrap_or_default()).into_owned());
        if values.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    cluster.consume(topic, partition, from, false, &mut each)?;
    Ok(values)
}

/// Needs no broker: that there is none is the point.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_away_is_told_at_once_and_stops_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    // A port that was free a moment ago and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let cluster = cluster(&format!("127.0.0.1:{port}"), dir.path(), &[]);
    let began = Instant::now();
    let cache = cluster.cached("t", FetchStart::Earliest).expect("the cache opens");
    assert_eq!(cache.partitions().len(), 0);
    for _ in 0..3 {
        let refused = cluster.produce(record("t", None, Some("v"))).await;
        assert!(
            matches!(&refused, Err(ProduceError::Unavailable { written: Written::No, reason }) if reason.contains("refused")),
            "{refused:?}"
        );
    }
    assert!(matches!(cluster.describe_topic("t").await, Err(AdminError::Unavailable(_))));
    let status = cluster.status();
    assert!(!status.up && status.problem.is_some_and(|p| p.contains("refused")));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    cluster.close().await;
}
