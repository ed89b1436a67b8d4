//! A real broker that goes away and comes back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use integration::{Cluster, Records};
use testkit::http::{self, Response};
use testkit::{Broker, BrokerOptions, Gateway, kcat, poll_until, without_kafka};

/// From a broker that is back to a gateway that serves: back-off and reconnects included.
const RECOVERS_WITHIN: Duration = Duration::from_secs(60);
/// A gateway that knows its cluster to be down says so; it does not hold the client until a delivery times out.
const REFUSES_WITHIN: Duration = Duration::from_secs(35);

fn broker() -> Option<Broker> {
    if without_kafka("faults of a real broker") {
        return None;
    }
    Some(Broker::start(BrokerOptions::default()).expect("a broker"))
}

fn on(broker: &Broker) -> Records {
    Records::on(&Cluster::Kafka(broker.bootstrap().to_owned()))
}

/// A refusal that a client can act on.
fn assert_unavailable(answer: &Response) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").is_some_and(|v| v.parse::<u32>().is_ok()), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
}

fn put(gateway: &Gateway, key: &str, value: &str) -> Response {
    http::put(gateway.address(), &format!("/records/{key}"), value.as_bytes()).expect("an answer")
}

fn get(gateway: &Gateway, key: &str) -> Response {
    http::get(gateway.address(), &format!("/records/{key}")).expect("an answer")
}

/// Waits until the gateway is not ready and refuses to produce.
fn wait_refused(gateway: &Gateway) -> Response {
    let refused = poll_until(REFUSES_WITHIN, || Some(put(gateway, "probe", "x")).filter(|answer| answer.status == 503));
    let refused = refused.unwrap_or_else(|| panic!("still accepts: {}", gateway.stderr()));
    let unready = poll_until(REFUSES_WITHIN, || (!gateway.ready()).then_some(()));
    assert!(unready.is_some(), "ready without a cluster");
    refused
}

fn wait_accepted(gateway: &Gateway, key: &str) {
    let accepted = poll_until(RECOVERS_WITHIN, || (put(gateway, key, key).status == 204).then_some(()));
    assert!(accepted.is_some(), "does not recover: {:?}\n{}", put(gateway, key, key), gateway.stderr());
}

#[test]
fn a_broker_that_stops_and_comes_back() {
    let Some(mut broker) = broker() else { return };
    let mut gateway = on(&broker).builder().start().expect("the gateway starts");
    assert_eq!(put(&gateway, "before", "1").status, 204);
    assert_eq!(get(&gateway, "before").text(), "1");
    let tag = get(&gateway, "before").header("etag").expect("an entity tag").to_owned();

    broker.stop().expect("stops");
    let refused = wait_refused(&gateway);
    assert_unavailable(&refused);
    assert!(refused.json()["written"] == "no" || refused.json()["written"] == "maybe", "{refused:?}");
    // Once it is known to be down, refusals come at once and leave nothing behind that would be written later.
    let begun = Instant::now();
    let refused = put(&gateway, "never", "x");
    assert_unavailable(&refused);
    assert_eq!(refused.json()["written"], "no", "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "refused after {:?}", begun.elapsed());
    assert_eq!(get(&gateway, "before").text(), "1", "the cache serves without its cluster");

    // A reader that waits through the restart must not be stuck.
    let address = gateway.address();
    let reader = thread::spawn(move || {
        let held = [("if-none-match", tag.as_str()), ("prefer", "wait=60")];
        http::request(address, "GET", "/records/before", &held, b"")
    });
    broker.restart().expect("starts");
    wait_accepted(&gateway, "after");
    assert_eq!(put(&gateway, "before", "2").status, 204);
    let read = reader.join().expect("the reader ends").expect("an answer");
    assert_eq!((read.status, read.text().as_str()), (200, "2"));
    gateway.wait_ready().expect("ready again");
    assert_eq!(get(&gateway, "after").text(), "after");
    assert_eq!(get(&gateway, "never").status, 404, "refused with written: no, and yet there");
}

#[test]
fn a_broker_that_is_down_at_start() {
    let Some(mut broker) = broker() else { return };
    broker.stop().expect("stops");
    let mut gateway = on(&broker).builder().without_ready().start().expect("the gateway starts without its cluster");
    let readyz = gateway.readyz().expect("an answer");
    assert_eq!(readyz.status, 503);
    assert!(readyz.text().contains("main"), "names the cluster: {}", readyz.text());
    assert_eq!(http::get(gateway.admin(), "/livez").expect("an answer").status, 200);
    assert_unavailable(&put(&gateway, "a", "1"));
    assert_unavailable(&get(&gateway, "a"));

    broker.restart().expect("starts");
    gateway.wait_ready().expect("recovers by itself");
    wait_accepted(&gateway, "a");
    assert_eq!(get(&gateway, "a").text(), "a");
}

#[test]
fn a_topic_that_is_created_later() {
    let Some(broker) = broker() else { return };
    let records = Records { cached: String::new(), ..on(&broker) };
    let mut gateway = records.builder().without_ready().start().expect("the gateway starts without its topic");
    let named = poll_until(RECOVERS_WITHIN, || {
        gateway.readyz().ok().filter(|answer| answer.status == 503 && answer.text().contains(&records.topic))
    });
    assert!(named.is_some(), "ready does not name the topic: {:?}", gateway.readyz());
    let missing = poll_until(RECOVERS_WITHIN, || Some(put(&gateway, "a", "1")).filter(|answer| answer.status == 404));
    let missing = missing.expect("a produce to a missing topic is answered with 404");
    assert_eq!(missing.json()["written"], "no", "{missing:?}");

    broker.create_topic(&records.topic, 3, &[]).expect("a topic");
    gateway.wait_ready().expect("recovers by itself");
    wait_accepted(&gateway, "a");
    assert_eq!(get(&gateway, "a").text(), "a");
}

/// Puts one key after the other and yields what was acknowledged; a refusal is tried again as a client would.
fn produce(address: SocketAddr, producer: usize, done: &AtomicU64, stop: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("p{producer}-{n}");
        let answer = http::put(address, &format!("/records/{key}"), key.as_bytes()).expect("an answer");
        assert!(matches!(answer.status, 204 | 429 | 503 | 504), "{key}: {answer:?}");
        if answer.status == 204 {
            acknowledged.push(key);
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
    acknowledged
}

#[test]
fn a_killed_broker_loses_and_doubles_nothing_that_was_acknowledged() {
    let Some(mut broker) = broker() else { return };
    let records = on(&broker);
    let gateway = records.builder().start().expect("the gateway starts");
    let address = gateway.address();
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let acknowledged = thread::scope(|scope| {
        let (done, stop) = (&done, &stop);
        let producers: Vec<_> = (0..4).map(|p| scope.spawn(move || produce(address, p, done, stop))).collect();
        let more = |count: u64| {
            let wanted = done.load(Ordering::Relaxed) + count;
            poll_until(RECOVERS_WITHIN, || (done.load(Ordering::Relaxed) >= wanted).then_some(()))
        };
        let before = more(200);
        broker.kill9();
        let restarted = broker.restart();
        let after = more(200);
        // Before any assertion: the producers must end, or the test would not.
        stop.store(true, Ordering::Relaxed);
        let keys: Vec<String> = producers.into_iter().flat_map(|p| p.join().expect("a producer")).collect();
        restarted.expect("the broker starts after SIGKILL");
        assert!(before.is_some() && after.is_some(), "{} acknowledged\n{}", done.load(Ordering::Relaxed), gateway.stderr());
        keys
    });
    let args = ["-b", broker.bootstrap(), "-C", "-t", &records.topic, "-o", "beginning", "-e", "-q", "-f", "%k %s\n"];
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for line in String::from_utf8_lossy(&kcat(&args, b"").expect("kcat consumes")).lines() {
        let (key, value) = line.split_once(' ').expect("a key and a value");
        assert_eq!(key, value);
        *counts.entry(key.to_owned()).or_default() += 1;
    }
    for key in &acknowledged {
        assert_eq!(counts.get(key), Some(&1), "{key} was acknowledged");
        assert_eq!(get(&gateway, key).text(), *key);
    }
}
