//! Exchanges over an embedded cluster: what one writes, the other shows.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use exchange::{
    Ask, ClauseTemplate, Fetch, FetchOptions, Found, Merged, Produce, ProduceOptions, RecordNames, Select, Topic, Topics,
};
use kafka::{Cluster, EmbeddedCluster, EmbeddedOptions, FetchStart, ProduceRecord, TopicSpec};
use proptest::prelude::*;
use template::{Scope, Template, Variable};

struct Params(&'static [(&'static str, &'static str)]);

impl Scope for Params {
    fn param(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| Cow::Borrowed(*v))
    }
}

async fn cluster(dir: &std::path::Path, partitions: i32) -> Cluster {
    // Not fsynced: these tests are not about disks.
    let properties = BTreeMap::from([("acks".to_owned(), "1".to_owned())]);
    let options = EmbeddedOptions::new("main", dir.to_owned(), 64 * 1024, &properties);
    let cluster = EmbeddedCluster::open(options).unwrap();
    let spec = TopicSpec { name: "items".into(), partitions, replication: -1, config: BTreeMap::new() };
    cluster.create_topic(&spec).await.unwrap();
    Cluster::Embedded(cluster)
}

fn template(text: &str) -> Template {
    Template::compile(text, &[Variable::Params]).unwrap()
}

fn of(value: Option<Bytes>) -> exchange::Write {
    exchange::Write { value, ..exchange::Write::default() }
}

struct House {
    produce: Produce,
    fetch: Fetch,
    stop: tokio::sync::watch::Sender<bool>,
    _dir: tempfile::TempDir,
}

async fn house() -> House {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(dir.path(), 3).await;
    let topic = Arc::new(Topic::new(cluster.clone(), "items", FetchStart::Earliest));
    let mut topics = Topics::default();
    topics.insert("main", Arc::clone(&topic));
    let options = ProduceOptions {
        cluster_name: "main".into(),
        cluster,
        topic: template("items"),
        key: Some(template("${params.id}")),
        partition: None,
        timestamp: None,
        headers: vec![("made-by".into(), template("test of ${params.id}"))],
        names: RecordNames { correlation_id: "id".into(), reply_to: None },
        once: None,
        patience: Duration::from_secs(1),
    };
    let select = Select::Newest(vec![ClauseTemplate { key: Some(template("${params.id}")), headers: Vec::new() }]);
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let fetch = Fetch::new(FetchOptions { topic, select, patience: Duration::from_secs(1), stopping });
    House { produce: Produce::new(options, Arc::new(topics)), fetch, stop, _dir: dir }
}

fn ask<'a>(has: &'a exchange::Has<'a>, wait: Option<Duration>) -> Ask<'a> {
    Ask { has, wait, cursor: None }
}

#[tokio::test]
async fn the_newest_record_of_a_key_is_found() {
    let house = house().await;
    let scope = Params(&[("id", "1")]);
    let nothing_held = |current: Option<(&str, i64)>| current.is_none();
    assert!(matches!(house.fetch.run(&scope, ask(&nothing_held, None)).await, Ok(Found::Nothing)));
    for value in ["a", "b"] {
        house.produce.run(&scope, of(Some(value.into()))).await.unwrap();
    }
    house.produce.run(&Params(&[("id", "2")]), of(Some("other".into()))).await.unwrap();
    let Ok(Found::Record(found, etag)) = house.fetch.run(&scope, ask(&nothing_held, None)).await else { panic!("not found") };
    assert_eq!((found.record.value(), found.record.header("made-by")), (Some(&b"b"[..]), Some(&b"test of 1"[..])));
    assert_eq!(etag, found.etag());
    let holds_it = |current: Option<(&str, i64)>| current.is_some_and(|(tag, _)| tag == etag);
    assert!(matches!(house.fetch.run(&scope, ask(&holds_it, None)).await, Ok(Found::Unchanged(tag, _)) if tag == etag));
    house.produce.run(&scope, of(None)).await.unwrap();
    assert!(matches!(house.fetch.run(&scope, ask(&holds_it, None)).await, Ok(Found::Nothing)));
}

#[tokio::test]
async fn a_wait_ends_when_the_key_changes_and_not_when_another_does() {
    let house = house().await;
    let scope = Params(&[("id", "1")]);
    let nothing_held = |current: Option<(&str, i64)>| current.is_none();
    let waiting = house.fetch.run(&scope, ask(&nothing_held, Some(Duration::from_secs(60))));
    tokio::pin!(waiting);
    let other = Params(&[("id", "2")]);
    let write = house.produce.run(&other, of(Some("x".into())));
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("ended early"),
        written = write => drop(written.unwrap()),
    }
    let (found, written) = tokio::join!(waiting, house.produce.run(&scope, of(Some("y".into()))));
    written.unwrap();
    assert!(matches!(found, Ok(Found::Record(l, _)) if l.record.value() == Some(b"y")));
    let wait = Some(Duration::from_millis(20));
    let ended = house.fetch.run(&Params(&[("id", "3")]), ask(&nothing_held, wait)).await;
    assert!(matches!(ended, Ok(Found::Nothing)));
    // A process that stops answers whoever waits.
    let waiting = house.fetch.run(&Params(&[("id", "3")]), ask(&nothing_held, Some(Duration::from_secs(3600))));
    let (ended, ()) = tokio::join!(waiting, async { house.stop.send(true).unwrap() });
    assert!(matches!(ended, Ok(Found::Nothing)));
}

/// Keys, headers, both; on a compacted topic only the newest record of a key counts.
#[tokio::test]
async fn filters_by_key_and_headers() {
    let clause = |key: Option<&str>, headers: &[(&str, &str)]| ClauseTemplate {
        key: key.map(template),
        headers: headers.iter().map(|(n, v)| ((*n).to_owned(), template(v))).collect(),
    };
    for (policy, expected) in [("delete", ["b2", "a1", "c1", "a1", "c1", "-"]), ("compact", ["b2", "-", "c1", "-", "c1", "-"])] {
        let dir = tempfile::tempdir().unwrap();
        let Cluster::Embedded(cluster) = cluster(dir.path(), 3).await else { panic!("not embedded") };
        let config = BTreeMap::from([("cleanup.policy".to_owned(), policy.to_owned())]);
        cluster.create_topic(&TopicSpec { name: "t".into(), partitions: 3, replication: -1, config }).await.unwrap();
        let cluster = Cluster::Embedded(cluster);
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        let rows =
            [("a", "a1", "red", 1), ("b", "b1", "red", 2), ("c", "c1", "red", 3), ("a", "a2", "blue", 4), ("b", "b2", "red", 5)];
        for (key, value, colour, timestamp_ms) in rows {
            let headers = vec![("colour".to_owned(), Some(Bytes::from(colour))), ("key".to_owned(), Some(Bytes::from(key)))];
            let record = ProduceRecord {
                topic: "t".into(),
                key: Some(key.into()),
                value: Some(format!("\"{value}\"").into()),
                headers,
                timestamp_ms: Some(timestamp_ms + now_ms),
                ..ProduceRecord::default()
            };
            cluster.produce(record).await.unwrap();
        }
        let topic = Arc::new(Topic::new(cluster, "t", FetchStart::Earliest));
        let (_stop, stopping) = tokio::sync::watch::channel(false);
        let fetch = |select| {
            Fetch::new(FetchOptions {
                topic: Arc::clone(&topic),
                select,
                patience: Duration::from_secs(1),
                stopping: stopping.clone(),
            })
        };
        let clauses = [
            vec![clause(None, &[("colour", "red")])],
            vec![clause(Some("${params.id}"), &[("colour", "red")])],
            vec![clause(None, &[("colour", "red"), ("key", "c")])],
            vec![clause(None, &[("colour", "red"), ("key", "${params.id}")])],
            vec![
                clause(Some("a"), &[("colour", "red")]),
                clause(None, &[("key", "c")]),
                clause(Some("b"), &[("colour", "red"), ("key", "x")]),
            ],
            vec![clause(None, &[("colour", "re")])],
        ];
        let scope = Params(&[("id", "a")]);
        for (n, (clauses, expected)) in clauses.into_iter().zip(expected).enumerate() {
            let found = fetch(Select::Newest(clauses)).run(&scope, ask(&|_| false, None)).await.unwrap();
            let value = match found {
                Found::Record(l, _) => String::from_utf8_lossy(l.record.value().unwrap()).trim_matches('"').to_owned(),
                _ => "-".to_owned(),
            };
            assert_eq!(value, expected, "{policy}, filter {n}");
        }
        let red = fetch(Select::MergeJson(vec![clause(None, &[("colour", "red")])]));
        let Ok(Found::Collection(_, mut merged)) = red.run(&scope, ask(&|_| false, None)).await else { panic!("no collection") };
        let mut out = BytesMut::new();
        while merged.fill(&mut out, 1 << 20).unwrap() {}
        let mut values: Vec<String> = serde_json::from_slice(&out).unwrap();
        values.sort();
        assert_eq!(values, ["b2", "c1"], "{policy}: the newest of each key, where it is red");
    }
}

/// (key, value: 0 a tombstone, 1 no JSON, else a number; partition)
type Write = (u8, u8, i32);

async fn write(cluster: &Cluster, &(key, value, partition): &Write) {
    let value = match value {
        0 => None,
        1 => Some(Bytes::from_static(b"{not json")),
        n => Some(format!(" {{\"k\":{key},\"v\":{n}}} ").into()),
    };
    let record = ProduceRecord {
        topic: "items".into(),
        partition: Some(partition),
        key: Some(vec![key].into()),
        value,
        ..ProduceRecord::default()
    };
    cluster.produce(record).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Writes go on while the collection is made: keys that they leave alone are in it exactly as they are, the others
    /// at most once.
    #[test]
    fn a_collection_has_the_latest_of_each_key(
        before in proptest::collection::vec((0..20u8, 0..6u8, 0..3i32), 0..120),
        during in proptest::collection::vec((10..20u8, 0..6u8, 0..3i32), 0..40),
        piece in 1..200usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let cluster = cluster(dir.path(), 3).await;
            // One partition per key, as any partitioner has it.
            let home = |w: &Write| (w.0, w.1, i32::from(w.0 % 3));
            let mut model = HashMap::new();
            for w in &before {
                write(&cluster, &home(w)).await;
                model.insert(w.0, w.1);
            }
            let Cluster::Embedded(embedded) = &cluster else { unreachable!() };
            let mut merged = Merged::new(&embedded.cached("items").unwrap(), message_cache::Filter::all());
            let mut out = BytesMut::new();
            let mut writes = during.iter();
            loop {
                let target = out.len() + piece;
                if !merged.fill(&mut out, target).unwrap() {
                    break;
                }
                if let Some(w) = writes.next() {
                    write(&cluster, &home(w)).await;
                }
            }
            let read: Vec<serde_json::Value> = serde_json::from_slice(&out).unwrap();
            let mut seen = HashMap::new();
            for item in &read {
                let key = item["k"].as_u64().unwrap() as u8;
                assert!(seen.insert(key, item["v"].as_u64().unwrap() as u8).is_none(), "key {key} twice");
            }
            let touched: Vec<u8> = during.iter().map(|w| w.0).collect();
            for key in (0..20u8).filter(|k| !touched.contains(k)) {
                let expected = model.get(&key).copied().filter(|v| *v > 1);
                assert_eq!(seen.get(&key).copied(), expected, "key {key}");
            }
            // A key that had a value all the time is there with one of them.
            for key in touched {
                let values: Vec<u8> = model.get(&key).copied().into_iter().chain(during.iter().filter(|w| w.0 == key).map(|w| w.1)).collect();
                if model.contains_key(&key) && values.iter().all(|v| *v > 1) {
                    assert!(seen.get(&key).is_some_and(|v| values.contains(v)), "key {key} is missing");
                }
            }
            let not_json = model.iter().filter(|(k, v)| **v == 1 && !during.iter().any(|w| w.0 == **k)).count() as u64;
            assert!(merged.omitted.not_json >= not_json && merged.omitted.unreadable == 0);
        });
    }
}
