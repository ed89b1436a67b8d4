//! Requests that come again, and writes on a condition.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread;

use integration::{Bed, CORRELATION_ID, Cluster, DO, Exchanges, SOON};
use testkit::http::{self, Client, Response};
use testkit::{Step, kcat, poll_until, shared_kafka};

const PROBLEM: &str = "application/problem+json";
const KEY: &str = "idempotency-key";
const MODES: [&str; 2] = ["local-and-log", "exactly-once"];

/// Runs a test on each kind of cluster in each mode.
fn in_all_modes(test: impl Fn(Bed)) {
    for cluster in Cluster::both() {
        for mode in MODES {
            eprintln!("{} {mode}", cluster.name());
            test(Exchanges { mode, ..Exchanges::on(&cluster) }.start());
        }
    }
}

fn post(path: &str, key: &str) -> Step {
    Step::new("POST", path).header(KEY, key).body("b")
}

fn problem(step: Step, status: u16, name: &str) -> Step {
    step.expect(status)
        .says("content-type", PROBLEM)
        .member("type", format!("urn:tidegate:problem:{name}"))
        .member("written", "no")
}

/// What a client sees of an answer that must be the same each time.
fn essence(answer: &Response) -> (u16, String, Option<&str>, Option<&str>) {
    (answer.status, answer.text(), answer.header("x-at"), answer.header("etag"))
}

#[test]
fn a_request_that_comes_again_gets_the_same_reply() {
    in_all_modes(|mut bed| {
        let first = || post("/async/1", "k").answers("re:b");
        let taken = |step: Step| problem(step, 422, "idempotency-key-reused");
        bed.steps(
            "one key",
            &[
                first().save("x-at", "at"),
                first().says("x-at", "$at"),
                first().says("x-at", "$at").header("user-agent", "other").header("prefer", "respond-async"),
                taken(post("/async/1", "k").body("c")),
                taken(post("/async/1?q=1", "k")),
                taken(post("/async/2", "k")),
                taken(Step::new("PUT", "/async/1").header(KEY, "k").body("b")),
                taken(post("/async/1", "k").header("x-unit", "kg")),
                taken(post("/strict", "k")),
                // Each identity has its own keys.
                post("/async/1", "k").header("x-user", "bob").body("c").answers("re:c"),
                post("/async/1", "k2").answers("re:b"),
                Step::new("POST", "/async/1").body("none").answers("re:none"),
                Step::new("POST", "/async/1").body("none").answers("re:none"),
            ],
        );
        bed.steps(
            "keys",
            &[
                problem(Step::new("POST", "/strict"), 400, "idempotency-key-missing"),
                problem(post("/strict", ""), 400, "bad-request"),
                problem(post("/strict", "a").header(KEY, "a"), 400, "bad-request"),
                problem(post("/strict", &"k".repeat(1025)), 400, "bad-request"),
                post("/strict", &"k".repeat(1024)).answers("re:b"),
                post("/strict", "${params.id}").answers("re:b"),
                problem(Step::new("POST", "/derived"), 400, "bad-request"),
                Step::new("POST", "/derived").header("x-key", "d").answers("re:").save("x-at", "at"),
                Step::new("POST", "/derived").header("x-key", "d").answers("re:").says("x-at", "$at"),
                problem(Step::new("POST", "/derived").header("x-key", "d").body("x"), 422, "idempotency-key-reused"),
            ],
        );
        let written = bed.records(&bed.plan.requests).len();
        assert_eq!(written, 5 + 3);
        let before = bed.ask("POST", "/async/1", &[(KEY, "k")], "b");
        bed.dismiss();
        bed.gateway.restart().expect("it starts again");
        let after = bed.ask("POST", "/async/1", &[(KEY, "k")], "b");
        assert_eq!(essence(&before), essence(&after));
        bed.steps("after the restart", &[taken(post("/async/1", "k").body("c"))]);
        assert_eq!(bed.records(&bed.plan.requests).len(), written);
    });
}

/// Sends a request and does not wait for its answer.
fn send(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Client {
    let mut client = Client::connect(address).expect("a connection");
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let wire = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: 1\r\n\r\nb");
    client.write(wire.as_bytes()).expect("a request");
    client
}

/// So many identical requests at once, of which each waits until the reply is released.
fn at_once(bed: &Bed, clients: usize) {
    let sent: Vec<Client> = (0..clients).map(|_| send(bed.gateway.address(), "/async/1", &[(KEY, "k"), (DO, "hold")])).collect();
    bed.until_pending(clients);
    bed.release(1);
    let answers = sent.into_iter().map(|mut client| client.read("POST").expect("an answer"));
    let answers: BTreeMap<_, usize> = answers.fold(BTreeMap::new(), |mut all, answer| {
        let (status, text, at, _) = essence(&answer);
        *all.entry((status, text, at.map(str::to_owned))).or_default() += 1;
        all
    });
    let [((200, text, Some(_)), count)] =
        answers.iter().map(|(a, n)| ((a.0, a.1.as_str(), a.2.as_deref()), *n)).collect::<Vec<_>>()[..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!((text, count), ("re:b", clients));
    assert_eq!(bed.records(&bed.plan.requests).len(), 2);
}

#[test]
fn identical_requests_at_once_are_one() {
    in_all_modes(|bed| at_once(&bed, 200));
}

#[test]
fn ten_thousand_identical_requests_are_one() {
    // The first waits until the last is there, on however slow a machine.
    let limits = "connections: 20000, requests: 20000, request_timeout: 5m".to_owned();
    let bed = Exchanges { limits, ..Exchanges::on(&Cluster::Embedded) }.start();
    at_once(&bed, 10_000);
}

#[test]
fn a_request_of_a_pending_one_joins_it() {
    in_all_modes(|bed| {
        let first = bed.ask("POST", "/async/1", &[(KEY, "k"), (DO, "hold"), ("prefer", "respond-async")], "b");
        let again = bed.ask("POST", "/async/1", &[(KEY, "k"), (DO, "hold"), ("prefer", "respond-async")], "b");
        // The id is made from the key, so the place is the same.
        assert_eq!((first.status, again.status, first.header("location")), (202, 202, again.header("location")));
        let mut waiting = send(bed.gateway.address(), "/async/1", &[(KEY, "k"), (DO, "hold")]);
        bed.until_pending(1);
        bed.release(1);
        let (status, text) = waiting.read("POST").map(|a| (a.status, a.text())).expect("an answer");
        assert_eq!((status, text.as_str()), (200, "re:b"));
        assert_eq!(bed.get(first.header("location").unwrap_or_default()).text(), "re:b");
        assert_eq!(bed.records(&bed.plan.requests).len(), 2);
    });
}

/// Correlation ids of a topic as a consumer of committed records reads them.
fn ids(cluster: &Cluster, topic: &str) -> Vec<String> {
    let committed =
        ["-b", cluster.bootstrap(), "-C", "-e", "-q", "-t", topic, "-X", "isolation.level=read_committed", "-f", "%h\n"];
    let told = String::from_utf8(kcat(&committed, b"").expect("kcat reads")).expect("text");
    let id =
        |line: &str| line.split(',').find_map(|header| header.strip_prefix(CORRELATION_ID)?.strip_prefix('=').map(str::to_owned));
    told.lines().map(|line| id(line).unwrap_or_else(|| panic!("no id in {line:?}"))).collect()
}

#[test]
fn another_replica_gives_the_same_reply() {
    let Some(servers) = shared_kafka() else { return };
    let cluster = Cluster::Kafka(servers);
    for mode in MODES {
        let one = Exchanges { mode, ..Exchanges::on(&cluster) }.start();
        let two = one.plan.builder().start().expect("a replica");
        for n in 0..20 {
            let key = format!("k{n}");
            let ask = |address, body: &str| {
                http::request(address, "POST", "/async/1", &[(KEY, &key)], body.as_bytes()).expect("an answer")
            };
            let places = [one.gateway.address(), two.address()];
            let (here, there) = (ask(places[n % 2], "b"), ask(places[(n + 1) % 2], "b"));
            assert_eq!((here.status, essence(&here)), (200, essence(&there)), "{mode}");
            assert_eq!(ask(places[(n + 1) % 2], "c").status, 422, "{mode}");
        }
        let ids = ids(&cluster, &one.plan.requests);
        assert_eq!((ids.len(), ids.iter().collect::<BTreeSet<_>>().len()), (20, 20), "{mode}");
    }
}

#[test]
fn replicas_that_race_write_each_request_once() {
    let Some(servers) = shared_kafka() else { return };
    let cluster = Cluster::Kafka(servers);
    let one = Exchanges { mode: "exactly-once", ..Exchanges::on(&cluster) }.start();
    let two = one.plan.builder().start().expect("a replica");
    let (keys, clients) = (100, 10);
    let race = |address: SocketAddr, from: usize| {
        thread::spawn(move || {
            let mut client = Client::connect(address).expect("a connection");
            let keys = (from..keys).step_by(clients).map(|n| format!("k{n}"));
            let ask = |key: String| client.request("POST", "/strict", &[(KEY, &key)], key.as_bytes()).map(|a| (key, a));
            keys.map(ask).collect::<Result<Vec<_>, _>>().expect("answers")
        })
    };
    let racers: Vec<_> =
        (0..clients).flat_map(|from| [one.gateway.address(), two.address()].map(|address| race(address, from))).collect();
    let mut answers: BTreeMap<String, Vec<Response>> = BTreeMap::new();
    for (key, answer) in racers.into_iter().flat_map(|racer| racer.join().expect("a client ends")) {
        answers.entry(key).or_default().push(answer);
    }
    for (key, both) in &answers {
        let [here, there] = both.as_slice() else { panic!("{both:?}") };
        assert_eq!((here.status, here.text()), (200, format!("re:{key}")), "{here:?}");
        assert_eq!(essence(here), essence(there));
    }
    let ids = ids(&cluster, &one.plan.requests);
    assert_eq!((answers.len(), ids.len(), ids.iter().collect::<BTreeSet<_>>().len()), (keys, keys, keys));
}

#[test]
fn a_reply_is_found_when_the_request_is_gone() {
    for cluster in Cluster::both() {
        let mut bed = Exchanges { requests_config: "retention.ms: 3000".into(), ..Exchanges::on(&cluster) }.start();
        let first = bed.ask("POST", "/async/1", &[(KEY, "k")], "b");
        bed.dismiss();
        assert!(poll_until(SOON, || bed.records(&bed.plan.requests).is_empty().then_some(())).is_some(), "{}", cluster.name());
        // Nobody answers it again, but its reply is there.
        let again = bed.ask("POST", "/async/1", &[(KEY, "k"), ("prefer", "wait=2")], "b");
        assert_eq!(essence(&again), essence(&first), "{}", cluster.name());
        // Another request with that key, which is free by now, is not given it.
        assert!(poll_until(SOON, || bed.records(&bed.plan.requests).is_empty().then_some(())).is_some(), "{}", cluster.name());
        let other = bed.ask("POST", "/async/1", &[(KEY, "k"), ("prefer", "wait=0")], "other");
        assert_eq!(other.status, 504, "{}: {other:?}", cluster.name());
    }
}

#[test]
fn a_write_that_comes_again_is_the_same_write() {
    for cluster in Cluster::both() {
        let bed = Exchanges::on(&cluster).start();
        let put = |key: &str, body: &str| Step::put("/items/a", body).header(KEY, key);
        let new = || put("k1", "1").header("if-none-match", "*");
        bed.steps(
            "written once",
            &[
                new().save("etag", "tag").save("tidegate-cursor", "cursor"),
                // A condition is one on what was there when it was written.
                new().says("etag", "$tag").says("tidegate-cursor", "$cursor"),
                problem(put("k1", "2"), 422, "idempotency-key-reused"),
                problem(Step::delete("/items/a").header(KEY, "k1"), 422, "idempotency-key-reused"),
                put("k2", "2"),
                put("k1", "1").says("etag", "$tag").says("tidegate-cursor", "$cursor"),
                Step::get("/items/a").answers("2"),
                Step::delete("/items/a").header(KEY, "k3").save("etag", "gone"),
                Step::delete("/items/a").header(KEY, "k3").says("etag", "$gone"),
                Step::get("/items/a").expect(404),
                put("k4", "4").header("prefer", "return=representation").expect(200).member("key", "a"),
            ],
        );
        assert_eq!(bed.records(&bed.plan.items).len(), 4);
    }
}

#[test]
fn writes_on_a_condition() {
    const LONG_AGO: &str = "Thu, 01 Jan 1970 00:00:05 GMT";
    const FAR_AWAY: &str = "Fri, 01 Jan 2100 00:00:00 GMT";
    let put = |body: &str, name: &str, value: &str| Step::put("/strict/a", body).header(name, value);
    let failed = |step: Step| problem(step, 412, "precondition-failed");
    let required = |step: Step| problem(step, 428, "precondition-required");
    for cluster in Cluster::both() {
        let bed = Exchanges::on(&cluster).start();
        bed.steps(
            "conditions",
            &[
                required(Step::put("/strict/a", "1")),
                required(Step::delete("/strict/a")),
                required(Step::put("/strict/a", "1").header("if-unmodified-since", "yesterday")),
                failed(put("1", "if-match", "*")),
                failed(put("1", "if-unmodified-since", FAR_AWAY)),
                put("1", "if-none-match", "*").save("etag", "one"),
                failed(put("2", "if-none-match", "*")),
                failed(put("2", "if-match", "\"other\"")),
                failed(put("2", "if-match", "W/$one")),
                failed(put("2", "if-unmodified-since", LONG_AGO)),
                put("2", "if-match", "\"other\", $one").save("etag", "two"),
                failed(put("3", "if-match", "$one")),
                put("3", "if-unmodified-since", FAR_AWAY).save("etag", "three"),
                Step::new("PATCH", "/strict/a").header("if-match", "$three").body("4").expect(204).save("etag", "four"),
                Step::get("/items/a").answers("4").says("etag", "$four"),
                failed(Step::delete("/strict/a").header("if-match", "$three")),
                Step::delete("/strict/a").header("if-match", "$four"),
                failed(put("5", "if-match", "$four")),
                put("5", "if-none-match", "*"),
                // Where no condition is required, one counts all the same.
                failed(Step::put("/items/a", "6").header("if-none-match", "*")),
                Step::put("/items/b", "1").header("if-none-match", "*"),
                problem(Step::put("/plain/a", "1").header("if-none-match", "*"), 400, "precondition-unsupported"),
            ],
        );
        assert_eq!(bed.records(&bed.plan.items).len(), 7);
    }
}

#[test]
fn a_condition_is_held_against_what_another_replica_wrote() {
    let Some(servers) = shared_kafka() else { return };
    let one = Exchanges::on(&Cluster::Kafka(servers)).start();
    let two = one.plan.builder().start().expect("a replica");
    let put = |address, name: &str, value: &str| {
        let answer = http::request(address, "PUT", "/strict/a", &[(name, value)], b"x").expect("an answer");
        (answer.status, answer.header("etag").unwrap_or_default().to_owned())
    };
    let (mut here, mut there) = (one.gateway.address(), two.address());
    let (created, mut tag) = put(here, "if-none-match", "*");
    assert_eq!((created, put(there, "if-none-match", "*").0), (204, 412));
    for n in 0..20 {
        let (status, next) = put(there, "if-match", &tag);
        assert_eq!((status, put(here, "if-match", &tag).0), (204, 412), "write {n}");
        (here, there, tag) = (there, here, next);
    }
}

#[test]
fn no_update_is_lost_on_the_embedded_cluster() {
    let bed = Exchanges::on(&Cluster::Embedded).start();
    let (clients, times, address) = (8, 15, bed.gateway.address());
    bed.steps("the first", &[Step::put("/strict/n", "0").header("if-none-match", "*")]);
    let count = move || {
        let mut client = Client::connect(address).expect("a connection");
        let mut lost = 0;
        for _ in 0..times {
            loop {
                let current = client.request("GET", "/items/n", &[], b"").expect("an answer");
                let next = current.text().parse::<usize>().expect("a number") + 1;
                let tag = current.header("etag").expect("a tag");
                let written = client.request("PUT", "/strict/n", &[("if-match", tag)], next.to_string().as_bytes());
                match written.expect("an answer").status {
                    204 => break,
                    412 => lost += 1,
                    status => panic!("status {status}"),
                }
            }
        }
        lost
    };
    let races: Vec<_> = (0..clients).map(|_| thread::spawn(count)).collect();
    let lost: usize = races.into_iter().map(|race| race.join().expect("a client ends")).sum();
    assert_eq!(bed.get("/items/n").text(), (clients * times).to_string());
    assert!(lost > 0, "the clients did not race");
}
