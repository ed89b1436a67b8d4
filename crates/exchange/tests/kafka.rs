//! Following a topic whose cache holds less than its cluster, against a real broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use exchange::{Follow, FollowOptions, Followed, History, Topic};
use kafka::{Cluster, FetchStart, KafkaCluster, KafkaOptions, ProduceRecord, TopicSpec};
use message_cache::{Clause, Event, Filter, From, LogOptions, ReadOptions};

const PATIENCE: Duration = Duration::from_secs(30);
/// More than one piece of a range.
const BEFORE: usize = 1200;

async fn produce(cluster: &KafkaCluster, topic: &str, numbers: std::ops::Range<usize>) {
    for n in numbers {
        let (topic, key) = (topic.to_owned(), Some(format!("k{}", n % 10).into()));
        let record = ProduceRecord { topic, key, value: Some(n.to_string().into()), ..ProduceRecord::default() };
        cluster.produce(record).await.unwrap();
    }
}

async fn start(topic: &Topic, from: From, filter: Filter) -> Follow<'_> {
    let read = ReadOptions { from, filter, conflate: None };
    Follow::start(topic, FollowOptions { read, patience: PATIENCE }).await.unwrap()
}

/// Reads until the last record, and gives what was met in words.
async fn follow(topic: &Topic, from: From, filter: Filter, last: usize) -> Vec<String> {
    let mut follow = start(topic, from, filter).await;
    let (mut met, mut events) = (Vec::new(), Vec::new());
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or(b"-")).into_owned();
    while met.last() != Some(&last.to_string()) {
        tokio::time::timeout(PATIENCE, follow.next(100, &mut events)).await.expect("it does not stall");
        met.extend(events.drain(..).map(|event| match event {
            Followed::Met(Event::Record { record, .. }) => text(record.value()),
            Followed::ReadThrough(record) => text(record.value.as_deref()),
            Followed::Met(Event::Gap { offsets, .. }) => format!("gap {}..{}", offsets.start, offsets.end),
            other => format!("{other:?}"),
        }));
        assert!(!follow.positions().is_empty());
    }
    met
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_cluster_has_is_read_through_or_told_of() {
    let Ok(servers) = std::env::var("KAFKA_BOOTSTRAP_SERVERS") else {
        assert!(std::env::var("TIDEGATE_NO_KAFKA").is_ok_and(|v| v == "1"), "no broker: run `cargo xtask test`");
        println!("left out: needs a Kafka broker");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let cluster = KafkaCluster::start(KafkaOptions {
        name: "main".into(),
        properties: BTreeMap::from([("bootstrap.servers".into(), servers), ("linger.ms".into(), "0".into())]),
        cache_directory: dir.path().to_owned(),
        log: LogOptions::default(),
        refresh: Duration::from_millis(500),
    })
    .unwrap();
    let name = format!("follow-{}", uuid::Uuid::new_v4());
    let spec = TopicSpec { name: name.clone(), partitions: 1, replication: -1, config: BTreeMap::new() };
    cluster.create_topic(&spec).await.unwrap();
    produce(&cluster, &name, 0..BEFORE).await;
    let door = || Cluster::Kafka(Arc::clone(&cluster));
    let through = Topic::new(door(), &name, FetchStart::Latest).with_history(History::ReadThrough);
    let plain = Topic::new(door(), &name, FetchStart::Latest);
    // Cached from here on.
    drop(start(&through, From::Latest, Filter::all()).await);
    let last = BEFORE + 20;
    produce(&cluster, &name, BEFORE..last + 1).await;

    let numbers = |from: usize| (from..=last).map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(follow(&through, From::Earliest, Filter::all(), last).await, numbers(0));
    let at = |offset| From::Positions(BTreeMap::from([(0, offset)]));
    assert_eq!(follow(&through, at(700), Filter::all(), last).await, numbers(700));
    assert_eq!(follow(&plain, From::Earliest, Filter::all(), last).await, numbers(BEFORE));
    let told = follow(&plain, at(700), Filter::all(), last).await;
    assert_eq!((told[0].as_str(), &told[1..]), (format!("gap 700..{BEFORE}").as_str(), &numbers(BEFORE)[..]));

    let zeros = Filter { any: vec![Clause { key: Some(b"k0".to_vec()), headers: Vec::new() }] };
    let tens: Vec<_> = (0..=last).step_by(10).map(|n| n.to_string()).collect();
    assert_eq!(follow(&through, From::Earliest, zeros, last).await, tens);
    cluster.close().await;
}
