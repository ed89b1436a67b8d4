//! Exchanges in every order: requests that are repeated, replies that come early, late, twice or never, clients that go, and a
//! gateway that begins anew on what is on disk.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exchange::{
    Correlate, CorrelationId, DIGEST_HEADER, Decide, KEY_HEADER, KeyId, Once, OnceError, Progress, RequestDigest, Topic, Watch,
};
use kafka::{Cluster, EmbeddedCluster, EmbeddedOptions, FetchStart, ProduceRecord, TopicSpec};
use message_cache::Record;
use proptest::prelude::*;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const ID: &str = "id";
const REQUESTS: &str = "requests";
const REPLIES: &str = "replies";
/// Keys and bodies.
const REQUESTS_MADE: [(u8, u8); 6] = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)];
/// Longer than any case takes: who waits this long waits for a reply.
const LONG: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
enum Step {
    /// A client asks with a key; `body` makes it another request. It waits for the reply, or not.
    Ask { key: u8, body: u8, waits: bool },
    /// A worker replies to a request, asked or not; to one of the partitions.
    Reply { key: u8, asked: u8, body: u8, partition: i32 },
    /// Retention takes all requests.
    Forget,
    /// A reply that nobody can use.
    Garbage,
    /// The client that asked as the n-th goes away.
    Gone(prop::sample::Index),
    /// Lets others have their turns.
    Pause(u8),
    /// The gateway dies and begins anew.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..3u8;
    let body = || prop_oneof![5 => Just(0u8), 1 => Just(1)];
    prop_oneof![
        6 => (key(), body(), any::<bool>()).prop_map(|(key, body, waits)| Step::Ask { key, body, waits }),
        4 => (key(), body(), 0..4u8, 0..2).prop_map(|(key, asked, body, partition)| Step::Reply { key, asked, body, partition }),
        1 => Just(Step::Forget),
        1 => Just(Step::Garbage),
        2 => any::<prop::sample::Index>().prop_map(Step::Gone),
        4 => (0..20u8).prop_map(Step::Pause),
        1 => Just(Step::Restart),
    ]
}

fn key_of(key: u8) -> KeyId {
    KeyId::new(REQUESTS, "", &key.to_string())
}

fn id_of(key: u8, body: u8) -> CorrelationId {
    CorrelationId::of_request(key_of(key), digest_of(body))
}

fn digest_of(body: u8) -> RequestDigest {
    RequestDigest::of("POST", "/", &[body], [])
}

/// One gateway.
struct Gateway {
    cluster: Cluster,
    once: Arc<Once>,
    watch: Arc<Watch>,
    correlate: Arc<Correlate>,
    requests: Arc<Topic>,
    stop: watch::Sender<Option<tokio::time::Instant>>,
    reading: JoinHandle<()>,
}

impl Gateway {
    async fn start(dir: &Path) -> Self {
        let properties = BTreeMap::from([("acks".to_owned(), "1".to_owned())]);
        let cluster = EmbeddedCluster::open(EmbeddedOptions::new("main", dir.to_owned(), 1 << 20, &properties)).unwrap();
        for name in [REQUESTS, REPLIES] {
            let spec = TopicSpec { name: name.into(), partitions: 2, replication: -1, config: BTreeMap::new() };
            let _ = cluster.create_topic(&spec).await;
        }
        let cluster = Cluster::Embedded(cluster);
        let topic = |name| Arc::new(Topic::new(cluster.clone(), name, FetchStart::Earliest));
        let (requests, replies) = (topic(REQUESTS), topic(REPLIES));
        let once = Once::new(Arc::clone(&requests), Decide::Here, LONG);
        let watch = Watch::new(replies, ID);
        let (stop, until) = watch::channel(None);
        let reading = tokio::spawn(Arc::clone(&watch).run());
        let correlate = Correlate::new(Arc::clone(&watch), Some(Arc::clone(&requests)), LONG, until);
        Self { cluster, once, correlate: Arc::new(correlate), watch, requests, stop, reading }
    }

    async fn end(self) {
        self.stop.send_replace(Some(tokio::time::Instant::now()));
        self.reading.abort();
        self.cluster.close().await;
    }

    /// What a client does: `None` when it did not wait, or was not replied to.
    fn ask(&self, key: u8, body: u8, waits: bool) -> JoinHandle<Result<Option<Bytes>, OnceError>> {
        let (once, correlate) = (Arc::clone(&self.once), Arc::clone(&self.correlate));
        tokio::spawn(async move {
            let (id, key, digest) = (id_of(key, body), key_of(key), digest_of(body));
            let mut pending = correlate.expect(id).await.unwrap();
            let headers = [(KEY_HEADER, key.to_string()), (DIGEST_HEADER, digest.to_string()), (ID, id.to_string())];
            let headers = headers.map(|(name, value)| (name.to_owned(), Some(Bytes::from(value)))).to_vec();
            let record =
                ProduceRecord { topic: REQUESTS.into(), value: Some(vec![body].into()), headers, ..ProduceRecord::default() };
            once.write(key, digest, record, None).await?;
            let reply = match pending.ready().unwrap() {
                Some(reply) => Some(reply),
                None => pending.reply(if waits { LONG } else { Duration::ZERO }).await.unwrap(),
            };
            Ok(reply.map(|r| r.record.value_bytes().unwrap()))
        })
    }

    async fn reply(&self, id: Option<String>, body: u8, partition: i32) {
        let headers = id.map(|id| (ID.to_owned(), Some(id.into()))).into_iter().collect();
        let value = Some(vec![body].into());
        let record =
            ProduceRecord { topic: REPLIES.into(), partition: Some(partition), value, headers, ..ProduceRecord::default() };
        self.cluster.produce(record).await.unwrap();
    }

    fn records(&self, topic: &Topic) -> Vec<(i32, Record)> {
        let cache = topic.cache().unwrap();
        let all = cache.partitions();
        let of =
            |(n, log): (i32, &Arc<message_cache::PartitionLog>)| log.scan(0).map(move |r| (n, r.unwrap())).collect::<Vec<_>>();
        (0..).zip(all.iter()).flat_map(of).collect()
    }
}

/// Keys and bodies of requests, with what was answered.
type Answers = Vec<(u8, u8, Bytes)>;

struct Client {
    key: u8,
    body: u8,
    refused: bool,
    task: Option<JoinHandle<Result<Option<Bytes>, OnceError>>>,
}

async fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut gateway = Gateway::start(dir.path()).await;
    let mut clients: Vec<Client> = Vec::new();
    let mut answers: Answers = Vec::new();
    for step in steps {
        match step {
            Step::Ask { key, body, waits } => {
                let task = Some(gateway.ask(key, body, waits));
                clients.push(Client { key, body, refused: false, task });
            }
            Step::Reply { key, asked, body, partition } => {
                gateway.reply(Some(id_of(key, asked).to_string()), body, partition).await;
            }
            Step::Forget => {
                let all = (0..2).map(|partition| (partition, -1)).collect();
                gateway.cluster.delete_records(REQUESTS, all).await.unwrap();
            }
            Step::Garbage => {
                gateway.reply(None, 9, 0).await;
                gateway.reply(Some("no id".into()), 9, 1).await;
            }
            Step::Gone(_) if clients.is_empty() => {}
            Step::Gone(which) => {
                let n = which.index(clients.len());
                if let Some(task) = &clients[n].task {
                    task.abort();
                }
            }
            Step::Pause(turns) => {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
            }
            Step::Restart => {
                for client in &mut clients {
                    client.finish(true, &mut answers).await;
                }
                gateway.end().await;
                gateway = Gateway::start(dir.path()).await;
            }
        }
    }
    // Whoever still waits gets a reply now.
    for (key, asked) in REQUESTS_MADE {
        gateway.reply(Some(id_of(key, asked).to_string()), 7, 0).await;
    }
    for client in &mut clients {
        client.finish(false, &mut answers).await;
    }
    check(&gateway, &clients, &answers).await;
    gateway.end().await;
}

impl Client {
    async fn finish(&mut self, cut: bool, answers: &mut Answers) {
        let Some(task) = self.task.take() else { return };
        if cut {
            task.abort();
        }
        match task.await {
            Ok(Ok(Some(answer))) => answers.push((self.key, self.body, answer)),
            Ok(Ok(None)) => {}
            Ok(Err(OnceError::Conflict)) => self.refused = true,
            Ok(Err(e)) => panic!("{e}"),
            Err(e) => assert!(e.is_cancelled(), "{e}"),
        }
    }
}

async fn check(gateway: &Gateway, clients: &[Client], answers: &[(u8, u8, Bytes)]) {
    let requests = gateway.records(&gateway.requests);
    let mut written = HashSet::new();
    for (_, record) in &requests {
        assert!(written.insert(record.header(KEY_HEADER).unwrap().to_vec()), "a request was written twice");
    }
    for client in clients.iter().filter(|c| c.refused) {
        // The other one need not be written in the end: it may have been on its way when the gateway died.
        let is_other = |other: &&Client| other.key == client.key && other.body != client.body;
        assert!(clients.iter().any(|other| is_other(&other)), "refused, and yet the same request as all others");
    }
    // In each partition by offset, over partitions by time, of equal times the lower partition.
    let mut replies = gateway.records(gateway.watch.topic());
    replies.sort_by_key(|(partition, r)| (r.timestamp_ms(), *partition, r.offset()));
    let first = |key: u8, body: u8| {
        let id = id_of(key, body).to_string();
        replies.iter().find(|(_, r)| r.header(ID) == Some(id.as_bytes())).map(|(_, r)| r.value_bytes().unwrap())
    };
    let in_one_partition = |key: u8, body: u8| {
        let id = id_of(key, body).to_string();
        let of_key: Vec<i32> = replies.iter().filter(|(_, r)| r.header(ID) == Some(id.as_bytes())).map(|(p, _)| *p).collect();
        of_key.iter().all(|p| *p == of_key[0])
    };
    for (key, body, answer) in answers {
        // Replies in two partitions within a millisecond have no order that is the same for all.
        if in_one_partition(*key, *body) {
            assert_eq!(Some(answer.clone()), first(*key, *body), "key {key} was given another reply than the first");
        }
    }
    for (key, body) in REQUESTS_MADE {
        let Progress::Replied(reply) = gateway.correlate.progress(id_of(key, body), Duration::ZERO).await.unwrap() else {
            panic!("key {key} has no reply")
        };
        assert_eq!(reply.record.value_bytes(), first(key, body));
    }
    assert_eq!(gateway.watch.stats().waiting, 0, "somebody is still waited for");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_request_and_the_first_reply(steps in proptest::collection::vec(step(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_at_once_write_one_record_and_get_one_reply() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let gateway = Gateway::start(dir.path()).await;
    let clients: Vec<_> = (0..10_000).map(|_| gateway.ask(1, 0, true)).collect();
    while gateway.watch.stats().waiting < 10_000 {
        tokio::task::yield_now().await;
    }
    let other = gateway.ask(1, 1, true);
    gateway.reply(Some(id_of(1, 0).to_string()), 5, 1).await;
    gateway.reply(Some(id_of(1, 0).to_string()), 6, 1).await;
    for client in clients {
        assert_eq!(client.await.unwrap().unwrap(), Some(Bytes::from_static(&[5])));
    }
    assert!(matches!(other.await.unwrap(), Err(OnceError::Conflict)));
    assert_eq!(gateway.records(&gateway.requests).len(), 1);
    assert_eq!((gateway.watch.stats().waiting, gateway.watch.stats().awaited), (0, 1));
    let stats = gateway.once.stats();
    assert_eq!((stats.written, stats.repeated, stats.conflicts, stats.failed), (1, 9_999, 1, 0));
    gateway.end().await;
}
