//! Replicas behind a balancer, with nothing in common but Kafka and a key: whoever is asked, and whoever dies meanwhile, every client
//! gets the right reply, and what was asked for many times is written once.

#[path = "replicas/load.rs"]
mod load;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration::{Cluster, Worker};
use testkit::{
    Balancer, Broker, BrokerOptions, Gateway, Record, Reply, http, kcat, poll_until, shared_kafka, unique, without_kafka,
};

use load::{Care, Load, Tally, random, right};

const REPLICAS: usize = 3;
/// Clients at a time. `TIDEGATE_CLIENTS` overrides it.
const CLIENTS: u64 = 48;
/// `TIDEGATE_REQUESTS` overrides it (`cargo xtask soak exchanges`).
const REQUESTS: u64 = 2_000;
/// Of each of the runs without faults.
const CALM_REQUESTS: u64 = 500;
const TIMEOUT: Duration = Duration::from_secs(10);
const CALM_TIMEOUT: Duration = Duration::from_secs(3);
/// Requests from one kill to the next, but not more kills than that in a run of `REQUESTS`.
const REQUESTS_PER_KILL: u64 = 4_000;
const KILLS_MIN: u64 = 2;
/// The longest that a dead gateway is away, however few the others answer: its partitions find other owners meanwhile.
const MISSED_WITHIN: Duration = Duration::from_secs(8);
/// From one event to the next: no request takes longer than its deadline, so this is for a machine that stands still.
const PROGRESS_WITHIN: Duration = Duration::from_secs(600);
/// Bytes of a gateway's log that a failure shows.
const LOG_BYTES: usize = 6_000;

/// Replicas that share topics, and the worker behind them.
struct Bed {
    servers: String,
    requests: String,
    replies: String,
    gateways: Vec<Gateway>,
    workers: Vec<Worker>,
    /// What gateways that were killed had counted, by metric and result.
    counted: BTreeMap<String, f64>,
}

/// What happens once so many requests have been answered.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// SIGKILL for these replicas, and how many requests the others answer before they come back.
    Kill { first: usize, count: usize, missed: u64 },
    /// Of the broker, and whether it was told to end before.
    Restart { in_order: bool },
}

impl Bed {
    fn start(servers: &str, mode: &str, timeout: Duration, seed: u64) -> Self {
        let (requests, replies) = (unique("requests"), unique("replies"));
        let config = config(servers, &requests, &replies, mode, timeout);
        // All at once: topics are created by one, and found by the others.
        let gateways = thread::scope(|scope| {
            let started: [_; REPLICAS] = std::array::from_fn(|_| scope.spawn(|| Gateway::builder().config(&config).start()));
            started.map(|gateway| gateway.join().expect("no panic").expect("a gateway starts")).into()
        });
        let mut bed =
            Self { servers: servers.to_owned(), requests, replies, gateways, workers: Vec::new(), counted: BTreeMap::new() };
        let cluster = Cluster::Kafka(servers.to_owned());
        let cares: [fn(Care) -> bool; 3] =
            [|care| matches!(care, Care::Prompt | Care::Twice), |care| care == Care::Late, |care| care == Care::TooLate];
        for is_mine in cares {
            let answer = Box::new(move |request: &Record| answer(request, seed, timeout, is_mine));
            bed.workers.push(Worker::start(&cluster, &bed.gateways[0], &bed.requests, answer).expect("a worker"));
        }
        bed
    }

    fn addresses(&self) -> Vec<std::net::SocketAddr> {
        self.gateways.iter().map(Gateway::address).collect()
    }

    fn happens(&mut self, event: Event, load: &Load, balancer: &Balancer, broker: &mut Broker) {
        match event {
            Event::Restart { in_order } => {
                if !in_order {
                    broker.kill9();
                }
                broker.restart().expect("the broker starts again");
            }
            Event::Kill { first, count, missed } => {
                let killed: Vec<usize> = (first..first + count).map(|n| n % REPLICAS).collect();
                self.count(&killed);
                killed.iter().for_each(|n| self.gateways[*n].kill9());
                let until = (load.done() + missed).min(load.requests.end);
                // Or until it has been missed long enough.
                poll_until(MISSED_WITHIN, || (load.done() >= until).then_some(()));
                killed.iter().for_each(|n| self.gateways[*n].restart().expect("a gateway starts after SIGKILL"));
                balancer.set(self.addresses());
            }
        }
    }

    /// Adds up what these gateways have counted.
    fn count(&mut self, replicas: &[usize]) {
        for n in replicas {
            // One that does not answer has counted for nobody.
            let Ok(metrics) = http::get(self.gateways[*n].admin(), "/metrics") else { continue };
            for line in metrics.text().lines() {
                let Some((name, value)) = line.rsplit_once(' ').and_then(|(n, v)| Some((counter(n)?, v.parse::<f64>().ok()?)))
                else {
                    continue;
                };
                *self.counted.entry(name).or_default() += value;
            }
        }
    }

    /// The records of a topic that count, in order within each partition: key and value.
    fn records(&self, topic: &str) -> Vec<(String, String)> {
        let args = ["-b", &self.servers, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%k %s\n"];
        let read = kcat(&[&args[..], &["-X", "isolation.level=read_committed"]].concat(), b"").expect("kcat consumes");
        let line = |line: &str| line.split_once(' ').map(|(key, value)| (key.to_owned(), value.to_owned()));
        String::from_utf8_lossy(&read).lines().map(|l| line(l).unwrap_or_else(|| panic!("no key and value: {l:?}"))).collect()
    }

    /// The numbers of requests that are in the request topic more than once. Each must be there, with its value, and its first reply
    /// must be what every client was told.
    fn verify(&mut self, tally: &Tally, requests: u64) -> Vec<u64> {
        let faults: Vec<String> = self.workers.iter().flat_map(Worker::faults).collect();
        assert!(faults.is_empty(), "the worker could not work: {faults:?}");
        let logs = || self.gateways.iter().map(|gateway| tail(&gateway.stderr())).collect::<Vec<_>>().join("\n---\n");
        let shown: Vec<_> = tally.faults.iter().take(5).collect();
        assert!(tally.faults.is_empty(), "{} requests went wrong: {shown:#?}\n{}", tally.faults.len(), logs());
        let mut written: BTreeMap<String, usize> = BTreeMap::new();
        for (key, value) in self.records(&self.requests) {
            assert_eq!(key.strip_prefix('k'), value.strip_prefix('v'), "the value of another request");
            *written.entry(key).or_default() += 1;
        }
        let mut first: BTreeMap<String, String> = BTreeMap::new();
        for (key, value) in self.records(&self.replies) {
            first.entry(key).or_insert(value);
        }
        assert_eq!(written.len() as u64, requests, "each request that was made, and no other");
        let check = |n: &u64| {
            let key = format!("k{n}");
            assert_eq!(first.get(&key), Some(&right(*n)), "the first reply to {key}");
            *written.get(&key).unwrap_or_else(|| panic!("{key} was answered, and is not there")) > 1
        };
        (0..requests).filter(check).collect()
    }

    /// What all gateways counted, but for what those that were killed had not told yet.
    fn counts(&mut self) -> &BTreeMap<String, f64> {
        self.count(&(0..REPLICAS).collect::<Vec<_>>());
        println!("  counted: {:?}", self.counted);
        &self.counted
    }
}

/// Three replicas have this in common, and directories of their own.
fn config(servers: &str, requests: &str, replies: &str, mode: &str, timeout: Duration) -> String {
    let cached = "cluster: main, bootstrap: true, create: { partitions: 6 }";
    format!(
        "listeners: {{ public: {{ address: '127.0.0.1:0' }} }}
admin: {{ address: '127.0.0.1:0' }}
signing: {{ keys: ['the replicas share this one'] }}
clusters: {{ main: {{ bootstrap.servers: '{servers}' }} }}
cache:
  directory: ./data
  topics:
    {requests}: {{ {cached} }}
    {replies}: {{ {cached} }}
    {requests}-claims: {{ cluster: main, create: {{ partitions: 6 }} }}
routes:
  - match: 'POST /orders/{{id}}'
    exchange:
      request: {{ topic: {requests}, key: '${{idempotencyKey}}' }}
      reply: {{ topic: {replies} }}
      async: {{ location: '/orders/${{params.id}};cid=${{correlationId}}', retry_after: 1s }}
      idempotency: {{ required: true, mode: {mode} }}
      timeout: {}ms
",
        timeout.as_millis()
    )
}

/// The replies of one of the workers.
fn answer(request: &Record, seed: u64, timeout: Duration, is_mine: fn(Care) -> bool) -> Vec<Reply> {
    let value = String::from_utf8_lossy(request.value.as_deref().unwrap_or_default()).into_owned();
    let n: u64 = value.strip_prefix('v').and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{request:?}"));
    let care = Care::of(seed, n);
    let Some(reply) = Reply::to(request).filter(|_| is_mine(care)) else { return Vec::new() };
    if let Some(time) = care.takes(timeout) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        // Requests come in about the order of their times, so that none waits for another.
        let due = (request.timestamp as u64 + time.as_millis() as u64).saturating_sub(now);
        thread::sleep(Duration::from_millis(due).min(time));
    }
    let first = reply.clone().value(right(n));
    if care == Care::Twice { vec![first, reply.value(format!("something else v{n}"))] } else { vec![first] }
}

/// `claims copied`, of a sample of the metrics that tell what was written once.
fn counter(sample: &str) -> Option<String> {
    let (name, labels) = sample.split_once('{')?;
    let short = [("tidegate_claims_total", "claims"), ("tidegate_idempotent_requests_total", "requests")];
    let (_, short) = short.iter().find(|(known, _)| *known == name)?;
    let result = labels.split(',').find_map(|label| label.trim_end_matches('}').strip_prefix("result="))?;
    Some(format!("{short} {}", result.trim_matches('"')))
}

fn tail(log: &str) -> String {
    log[log.ceil_char_boundary(log.len().saturating_sub(LOG_BYTES))..].to_owned()
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

/// By how many answers they come behind: kills all along, and the broker at a third and at two thirds of a long run.
fn events(requests: u64, seed: u64) -> Vec<(u64, Event)> {
    let kills = (requests / REQUESTS_PER_KILL).max(KILLS_MIN);
    let kill = |n: u64| {
        let (of, apart) = (|what: u64| random(seed, n, what), requests / (kills + 1));
        let at = (n + 1) * apart + of(3) % (apart / 2).max(1);
        let count = if of(4).is_multiple_of(4) { 2 } else { 1 };
        let missed = if of(5).is_multiple_of(2) { 0 } else { of(6) % (apart / 2).max(1) };
        (at, Event::Kill { first: of(7) as usize % REPLICAS, count, missed })
    };
    let mut events: Vec<_> = (0..kills).map(kill).collect();
    events.push((requests / 3, Event::Restart { in_order: true }));
    if requests > REQUESTS {
        events.push((requests * 2 / 3, Event::Restart { in_order: false }));
    }
    events.sort_by_key(|(at, _)| *at);
    events
}

/// A few lines for whoever runs the soak.
fn report(what: &str, tally: &Tally, began: Instant) {
    println!("{what}: {} requests in {:.1} s", tally.latencies.len(), began.elapsed().as_secs_f64());
    let (at, silence) = tally.silence(began);
    println!("  longest time without any answer: {silence:.1?}, from {at:.1?} on");
    println!("  worker at once: {}\n  worker late: {}", tally.quantiles(false), tally.quantiles(true));
    println!("  made: {:?}\n  asked again after: {:?}", tally.ways, tally.retries);
}

/// All clients, until they have asked for all; meanwhile, what happens.
fn run(load: &Load, what: &str, meanwhile: impl FnOnce(Instant)) -> Tally {
    let (began, clients) = (Instant::now(), number("TIDEGATE_CLIENTS", CLIENTS));
    let tally = thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(|| load.run())).collect();
        meanwhile(began);
        clients.into_iter().map(|client| client.join().expect("no panic")).fold(Tally::default(), Tally::add)
    });
    report(what, &tally, began);
    tally
}

fn seed() -> u64 {
    let seed = number("TIDEGATE_SEED", SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_secs()));
    println!("TIDEGATE_SEED={seed}");
    seed
}

#[test]
fn whatever_dies_each_key_is_written_once_and_answered_right() {
    if without_kafka("replicas that die, and a broker that is restarted") {
        return;
    }
    let (requests, seed) = (number("TIDEGATE_REQUESTS", REQUESTS), seed());
    let options = BrokerOptions { throughput: requests > REQUESTS, ..BrokerOptions::default() };
    let mut broker = Broker::start(options).expect("a broker");
    let mut bed = Bed::start(broker.bootstrap(), "exactly-once", TIMEOUT, seed);
    let balancer = Balancer::start(bed.addresses()).expect("a balancer");
    let load = Load::new(vec![balancer.address()], 0..requests, seed);
    let events = events(requests, seed);
    let tally = run(&load, "exactly-once, with kills", |began| {
        for (at, event) in &events {
            poll_until(PROGRESS_WITHIN, || (load.done() >= *at).then_some(())).expect("requests are answered");
            let (at, answered) = (began.elapsed(), load.done());
            bed.happens(*event, &load, &balancer, &mut broker);
            println!("  behind {answered} answers, from {at:.1?} to {:.1?}: {event:?}", began.elapsed());
        }
    });
    let doubled = bed.verify(&tally, requests);
    assert!(doubled.is_empty(), "written more than once: {doubled:?}");
    assert!(!tally.retries.is_empty(), "nothing that happened was noticed");
    let repeated = bed.counts().get("claims repeated").copied().unwrap_or(0.0);
    assert!(repeated > 0.0, "no two replicas claimed the same");
}

#[test]
fn by_looking_at_the_log_one_replica_writes_nothing_twice() {
    let Some(servers) = shared_kafka() else { return };
    let seed = seed();
    let mut bed = Bed::start(&servers, "local-and-log", CALM_TIMEOUT, seed);
    // Each request to one replica, as often as it is made.
    let load = Load::new(bed.addresses(), 0..CALM_REQUESTS, seed);
    let first = run(&load, "local-and-log, retries at the same replica", |_| {});
    // Then at any: two that are asked at the same moment may both write, which only shows that this load finds such a window.
    let balancer = Balancer::start(bed.addresses()).expect("a balancer");
    let load = Load::new(vec![balancer.address()], CALM_REQUESTS..2 * CALM_REQUESTS, seed);
    let second = run(&load, "local-and-log, retries at any replica", |_| {});
    bed.counts();
    let doubled = bed.verify(&first.add(second), 2 * CALM_REQUESTS);
    let (same, any): (Vec<u64>, Vec<u64>) = doubled.into_iter().partition(|n| *n < CALM_REQUESTS);
    println!("  written more than once: {} at the same replica, {} at any", same.len(), any.len());
    assert!(same.is_empty(), "written more than once by one replica: {same:?}");
}
