//! What the tests of claims share.

use std::collections::HashMap;
use std::io::Read;
use std::ops::ControlFlow;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::{AdminError, Claims, ClaimsOptions, ConsumeFrom, FetchStart, KafkaCluster, ProduceRecord};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::kafka_support::*;

pub const ID: &str = "test-id";

/// A topic of claims and its target.
#[derive(Clone)]
pub struct Topics {
    pub claims: String,
    pub target: String,
}

impl Topics {
    pub async fn create(cluster: &KafkaCluster, claims: i32, target: i32, target_config: &[(&str, &str)]) -> Self {
        let claims = create(cluster, "claims", claims, &[]).await;
        Self { claims, target: create(cluster, "target", target, target_config).await }
    }

    pub fn options(&self) -> ClaimsOptions {
        ClaimsOptions { topic: self.claims.clone(), target: self.target.clone(), id_header: ID.to_owned() }
    }

    pub fn record(&self, value: &str) -> ProduceRecord {
        record(&self.target, None, Some(value))
    }
}

/// The id and the value of every record that has an id and is committed, by partition and offset.
pub fn read_ids(cluster: &KafkaCluster, topic: &str) -> Vec<(String, String)> {
    let began = Instant::now();
    loop {
        match tokio::task::block_in_place(|| try_read_ids(cluster, topic)) {
            Ok(all) => return all,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{topic} is not read: {error}"),
        }
    }
}

fn try_read_ids(cluster: &KafkaCluster, topic: &str) -> Result<Vec<(String, String)>, AdminError> {
    let mut all = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut each = |record: kafka::ConsumedRecord| {
        if let Some((_, Some(id))) = record.headers.iter().find(|(name, _)| name == ID) {
            all.push((record.partition, record.offset, text(id), text(record.value.as_deref().unwrap_or_default())));
        }
        ControlFlow::Continue(())
    };
    cluster.consume(topic, None, ConsumeFrom::Earliest, false, &mut each)?;
    all.sort();
    Ok(all.into_iter().map(|(_, _, id, value)| (id, value)).collect())
}

/// Asks until the ask is acknowledged, as a client does whose gateway cannot reach the cluster for a while.
pub async fn submit(claims: &Claims, id: &str, record: ProduceRecord) {
    let began = Instant::now();
    while let Err(error) = claims.submit(id, record.clone()).await {
        assert!(began.elapsed() < PATIENCE, "not acknowledged: {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until every claim that is there now is copied or skipped by one of these.
pub async fn until_all_done(cluster: &KafkaCluster, topics: &Topics, claims: &[Arc<Claims>]) {
    let all: i64 = cluster.ends(&topics.claims).await.expect("told").iter().sum();
    let done = || claims.iter().map(|c| c.stats()).map(|s| s.copied + s.repeated + s.refused).sum::<u64>();
    let (began, problems) = (Instant::now(), || claims.iter().map(|c| (c.stats(), c.problem())).collect::<Vec<_>>());
    while done() < all as u64 {
        assert!(began.elapsed() < PATIENCE, "{} of {all} claims are dealt with: {:?}", done(), problems());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A gateway that is a process of its own.
pub struct Other(Child);

const OTHER: &str = "TIDEGATE_TEST_OTHER_GATEWAY";

impl Other {
    pub fn start(servers: &str, topics: &Topics) -> Self {
        let child = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", "the_other_gateway", "--nocapture"])
            .env(OTHER, format!("{servers} {} {}", topics.claims, topics.target))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Self(child.expect("it starts"))
    }

    /// As kill -9 does.
    pub fn kill(&mut self) {
        self.0.kill().expect("it was running");
        self.0.wait().expect("it is ours");
    }

    /// Copies claims until killed, if this process is such a one.
    pub async fn be() {
        let Ok(what) = std::env::var(OTHER) else { return };
        let words: Vec<&str> = what.split(' ').collect();
        let [servers, claims, target] = words[..] else { panic!("{what}") };
        let dir = tempfile::tempdir().expect("a directory");
        let gateway = cluster(servers, dir.path(), &[]);
        let _claims = gateway.claims(Topics { claims: claims.to_owned(), target: target.to_owned() }.options());
        // Ends with whoever started it, at the latest.
        let wait = || std::io::stdin().read(&mut [0]);
        tokio::task::spawn_blocking(wait).await.expect("no panic").expect("the end of the input");
        std::process::exit(1);
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tells when the target's cache shows an id.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<HashMap<String, oneshot::Sender<Instant>>>>);

impl Seen {
    pub fn watch(cluster: &KafkaCluster, topics: &Topics) -> Self {
        let cache = cluster.cached(&topics.target, FetchStart::Earliest).expect("the cache opens");
        let seen = Self::default();
        let told = seen.clone();
        tokio::spawn(async move {
            let mut next: HashMap<usize, i64> = HashMap::new();
            let mut changes = cache.changes();
            loop {
                for (n, log) in cache.partitions().iter().enumerate() {
                    for record in log.scan(next.get(&n).copied().unwrap_or(0)).filter_map(Result::ok) {
                        next.insert(n, record.offset() + 1);
                        let id = String::from_utf8_lossy(record.header(ID).unwrap_or_default()).into_owned();
                        let _ = told.0.lock().remove(&id).map(|waiting| waiting.send(Instant::now()));
                    }
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
        seen
    }

    /// How long it takes until the record of a claim is cached.
    pub async fn copied(&self, claims: &Claims, topics: &Topics, id: &str) -> Duration {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().insert(id.to_owned(), sender);
        let began = Instant::now();
        submit(claims, id, topics.record("v")).await;
        let at = tokio::time::timeout(PATIENCE, receiver).await.expect("soon").expect("watched");
        at - began
    }
}

pub fn figures(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{what}: p50 {:?}, p90 {:?}, p99 {:?}", at(50), at(90), at(99));
    assert!(at(99) < Duration::from_secs(5), "{what}: {:?}", at(99));
}
