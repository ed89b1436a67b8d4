//! Records of the embedded cluster that are written on a condition: the look and the append are one.

mod embedded_support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use embedded_support::{create, map, open, record};
use kafka::{Condition, EmbeddedCluster, EmbeddedOptions, ProduceError, ProduceRecord, Written};
use message_cache::{Faults, Files, Op, OpKind, TopicCache, Verdict};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

fn open_with(dir: &Path, acks: &str, files: Files) -> Arc<EmbeddedCluster> {
    let options = EmbeddedOptions::new("main", dir.to_owned(), 1 << 20, &map(&[("acks", acks)]));
    EmbeddedCluster::open(EmbeddedOptions { files, ..options }).unwrap()
}

/// Offset and value of the newest record of a key in partition 0.
fn newest(cache: &TopicCache, key: &str) -> Option<(i64, String)> {
    let found = cache.partition(0)?.latest(key.as_bytes()).unwrap()?;
    Some((found.offset(), String::from_utf8_lossy(found.value().unwrap_or_default()).into_owned()))
}

/// Whether the newest record of a key is still the one at this offset.
fn still(key: &str, offset: Option<i64>) -> Condition {
    let key = key.to_owned();
    Box::new(move |cache| newest(cache, &key).map(|(offset, _)| offset) == offset)
}

/// Adds one to a counter, if nobody else does it first.
async fn increment(cluster: &EmbeddedCluster, cache: &TopicCache) -> bool {
    let seen = newest(cache, "counter");
    let value = seen.as_ref().map_or(0, |(_, value)| value.parse::<u64>().unwrap()) + 1;
    tokio::task::yield_now().await;
    let condition = still("counter", seen.map(|(offset, _)| offset));
    match cluster.produce_if(record("t", Some("counter"), &value.to_string()), condition).await {
        Ok(_) => true,
        Err(e @ ProduceError::ConditionFailed) => {
            assert_eq!(e.written(), Written::No);
            false
        }
        Err(other) => panic!("{other}"),
    }
}

async fn count_together(acks: &str) {
    let dir = tempfile::tempdir().unwrap();
    let cluster = open_with(dir.path(), acks, Files::default());
    create(&cluster, "t", 1, &[]).await;
    let cache = cluster.cached("t").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let others = (0..4).map(|n| {
        let (cluster, stop) = (Arc::clone(&cluster), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut written = 0;
            while !stop.load(Ordering::Acquire) {
                cluster.produce(record("t", Some(&format!("other-{n}")), "v")).await.unwrap();
                written += 1;
                tokio::task::yield_now().await;
            }
            written
        })
    });
    let others: Vec<_> = others.collect();
    let tasks = (0..32).map(|_| {
        let (cluster, cache) = (Arc::clone(&cluster), Arc::clone(&cache));
        tokio::spawn(async move {
            let mut successes = 0;
            for _ in 0..200 {
                successes += u64::from(increment(&cluster, &cache).await);
            }
            successes
        })
    });
    let mut successes = 0;
    for task in tasks.collect::<Vec<_>>() {
        successes += task.await.unwrap();
    }
    stop.store(true, Ordering::Release);
    let mut unconditional = 0;
    for other in others {
        unconditional += other.await.unwrap();
    }
    let log = cache.partition(0).unwrap();
    let counted: Vec<_> = log.scan(0).map(Result::unwrap).filter(|r| r.key() == Some(b"counter")).collect();
    let values: Vec<u64> = counted.iter().map(|r| std::str::from_utf8(r.value().unwrap()).unwrap().parse().unwrap()).collect();
    assert_eq!(values, (1..=successes).collect::<Vec<_>>(), "acks={acks}: each number once, in order");
    assert!(successes > 0 && successes < 32 * 200, "acks={acks}: {successes} successes, some in vain");
    assert_eq!(log.end_offset() as u64, successes + unconditional, "acks={acks}: no record is lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_counter_counts() {
    count_together("all").await;
    count_together("1").await;
}

/// Counts the fsyncs of segments; one of them can be kept waiting.
struct Gate {
    syncs: AtomicUsize,
    is_shut: AtomicBool,
    entered: UnboundedSender<()>,
    go: Mutex<Receiver<()>>,
}

impl Faults for Gate {
    fn before(&self, op: &Op<'_>) -> Verdict {
        if op.kind == OpKind::SyncData && op.path.extension().is_some_and(|e| e == "log") {
            self.syncs.fetch_add(1, Ordering::AcqRel);
            if self.is_shut.swap(false, Ordering::AcqRel) {
                self.entered.send(()).unwrap();
                let _ = self.go.lock().unwrap().recv();
            }
        }
        Verdict::Go
    }

    fn after(&self, _: &Op<'_>) {}
}

impl Gate {
    fn new() -> (Arc<Self>, tokio::sync::mpsc::UnboundedReceiver<()>, Sender<()>) {
        let ((entered, seen), (open, go)) = (unbounded_channel(), channel());
        let gate = Self { syncs: AtomicUsize::new(0), is_shut: AtomicBool::new(false), entered, go: Mutex::new(go) };
        (Arc::new(gate), seen, open)
    }
}

/// What waits together for the disk: a key or none, and a condition. `=`: none, `+`: holds, `-`: does not, `1`: no record of the key
/// is there yet, `!`: panics.
fn parse(word: &str) -> (Option<&str>, Option<Condition>) {
    let (key, what) = word.split_at(word.len() - 1);
    let (own_key, key) = (key.to_owned(), Some(key).filter(|k| !k.is_empty()));
    let condition: Option<Condition> = match what {
        "=" => None,
        "+" => Some(Box::new(|_| true)),
        "-" => Some(Box::new(|_| false)),
        "1" => Some(Box::new(move |cache| newest(cache, &own_key).is_none())),
        _ => Some(Box::new(|_| panic!("as the test wants it"))),
    };
    (key, condition)
}

/// Records that came while the disk was busy, the offsets they got, and how many fsyncs that took.
#[tokio::test]
async fn conditions_share_an_fsync_where_none_sees_another() {
    let check = async |words: &str, offsets: &str, syncs: usize| {
        let dir = tempfile::tempdir().unwrap();
        let (gate, mut seen, go) = Gate::new();
        let cluster = open_with(dir.path(), "all", Files::with_faults(gate.clone()));
        create(&cluster, "t", 1, &[]).await;
        let write = |key: Option<&str>, condition: Option<Condition>| {
            let (cluster, record) = (Arc::clone(&cluster), record("t", key, "v"));
            tokio::spawn(async move {
                match condition {
                    Some(condition) => cluster.produce_if(record, condition).await,
                    None => cluster.produce(record).await,
                }
            })
        };
        gate.is_shut.store(true, Ordering::Release);
        let first = write(Some("first"), None);
        seen.recv().await.unwrap();
        let mut waiting = Vec::new();
        for word in words.split(' ') {
            let (key, condition) = parse(word);
            waiting.push(write(key, condition));
            tokio::task::yield_now().await; // it is queued
        }
        let before = gate.syncs.load(Ordering::Acquire);
        go.send(()).unwrap();
        assert_eq!(first.await.unwrap().unwrap().offset, Some(0));
        let mut answers = Vec::new();
        for task in waiting {
            answers.push(match task.await.unwrap() {
                Ok(produced) => produced.offset.unwrap().to_string(),
                Err(ProduceError::ConditionFailed) => "-".to_owned(),
                Err(ProduceError::Unavailable { written: Written::No, .. }) => "!".to_owned(),
                Err(other) => panic!("{other}"),
            });
        }
        assert_eq!(answers.join(" "), offsets, "{words}");
        assert_eq!(gate.syncs.load(Ordering::Acquire) - before, syncs, "fsyncs of {words}");
    };
    check("a= b= a= =", "1 2 3 4", 1).await;
    check("a+ b+ c+ d= e1", "1 2 3 4 5", 1).await;
    check("a- b-", "- -", 0).await;
    check("a1 a1 b1 a1", "1 - 2 -", 2).await;
    check("a= a1 b1 b=", "1 - 2 3", 2).await;
    check("a1 a= a1", "1 2 -", 1).await;
    check("first1 a1", "- 1", 1).await;
    check("+ + =", "1 2 3", 2).await;
    check("a+ + b+ c+", "1 2 3 4", 2).await;
    check("a- + b+", "- 1 2", 1).await;
    check("a! b1 ! b1", "! 1 ! -", 1).await;
}

/// A condition sees what is in the log, though it was not fsynced nor will be soon.
#[tokio::test]
async fn a_condition_without_fsyncs() {
    for config in [&[("flush.messages", "1000000")][..], &[("flush.ms", "3600000")]] {
        let dir = tempfile::tempdir().unwrap();
        let cluster = open(dir.path());
        create(&cluster, "t", 1, config).await;
        for (word, expected) in [("a1", Ok(0)), ("a1", Err("-")), ("b1", Ok(1)), ("-", Err("-")), ("c!", Err("!")), ("c1", Ok(2))]
        {
            let (key, condition) = parse(word);
            let answer = cluster.produce_if(record("t", key, "v"), condition.unwrap()).await;
            let answer = answer.map(|p| p.offset.unwrap()).map_err(|e| match e {
                ProduceError::ConditionFailed => "-",
                ProduceError::Unavailable { written: Written::No, .. } => "!",
                other => panic!("{other}"),
            });
            assert_eq!(answer, expected, "{config:?} {word}");
        }
    }
}

/// Whatever becomes of the cluster or the topic meanwhile: everybody is answered, and what was acknowledged is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everybody_is_answered() {
    for (acks, deletes) in [("all", false), ("1", false), ("all", true), ("1", true)] {
        for round in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let cluster = open_with(dir.path(), acks, Files::default());
            create(&cluster, "t", 1, &[]).await;
            let cache = cluster.cached("t").unwrap();
            let (started, mut running) = unbounded_channel();
            let tasks = (0..16).map(|n| {
                let (cluster, started) = (Arc::clone(&cluster), started.clone());
                tokio::spawn(async move {
                    let (key, mut acknowledged, mut last) = (format!("key-{n}"), Vec::new(), None);
                    loop {
                        let record = ProduceRecord { partition: Some(0), ..record("t", Some(&key), "v") };
                        match cluster.produce_if(record, still(&key, last)).await {
                            Ok(produced) => {
                                last = produced.offset;
                                acknowledged.extend(produced.offset);
                            }
                            Err(ProduceError::UnknownTopic { .. } | ProduceError::Unavailable { .. }) => return acknowledged,
                            Err(other) => panic!("{other}"),
                        }
                        let _ = started.send(());
                    }
                })
            });
            let tasks: Vec<_> = tasks.collect();
            for _ in 0..16 + round {
                running.recv().await.unwrap();
            }
            if deletes {
                cluster.delete_topic("t").await.unwrap()
            } else {
                cluster.close().await
            }
            let mut acknowledged = Vec::new();
            for task in tasks {
                acknowledged.extend(task.await.unwrap());
            }
            let distinct: BTreeSet<_> = acknowledged.iter().collect();
            assert_eq!(distinct.len(), acknowledged.len(), "acks={acks}: an offset for each");
            if !deletes {
                let found: BTreeSet<i64> = cache.partition(0).unwrap().scan(0).map(|r| r.unwrap().offset()).collect();
                assert!(acknowledged.iter().all(|offset| found.contains(offset)), "acks={acks}");
            }
        }
    }
}
