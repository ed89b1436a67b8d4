//! Exchanges when something is wrong: replies that cannot be passed on, topics that are missing, a cluster that is away.

use std::thread;
use std::time::{Duration, Instant};

use integration::{Bed, Cluster, DO, Exchanges, SOON};
use testkit::http::{self, Response};
use testkit::{Broker, BrokerOptions, Gateway, Step, poll_until, shared_kafka, without_kafka};

const PROBLEM: &str = "application/problem+json";

/// For a broker that was killed to serve again, and the gateways of a group to agree anew.
const BACK_WITHIN: Duration = Duration::from_secs(90);

fn post(path: &str, what: &str) -> Step {
    Step::new("POST", path).header(DO, what).body("b")
}

fn problem(step: Step, status: u16, name: &str, written: &str) -> Step {
    let step = step.expect(status).says("content-type", PROBLEM).member("type", format!("urn:tidegate:problem:{name}"));
    step.member("written", written)
}

/// The members of a problem that say what a client can do.
fn told(answer: &Response) -> (u16, String, String) {
    let (json, text) = (answer.json(), |json: &serde_json::Value| json.as_str().unwrap_or_default().to_owned());
    (answer.status, text(&json["type"]).replace("urn:tidegate:problem:", ""), text(&json["written"]))
}

/// How many records of exchanges came that were of this kind.
fn replies(bed: &Bed, kind: &str) -> f64 {
    let text = http::get(bed.gateway.admin(), "/metrics").expect("metrics").text();
    let samples = text.lines().filter(|line| line.starts_with("tidegate_exchange_replies_total{") && line.contains(kind));
    samples.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).sum()
}

#[test]
fn replies_that_cannot_be_passed_on_are_told() {
    for cluster in Cluster::both() {
        let bed = Exchanges::on(&cluster).start();
        let bad = |what: &str| problem(post("/sync/1", what), 502, "bad-reply", "yes");
        bed.steps(
            "bad replies",
            &[
                bad("status abc"),
                bad("status 99"),
                bad("status 100"),
                bad("status 600"),
                bad("status 2000"),
                bad("status "),
                bad("large 65537"),
                post("/sync/1", "large 65536").header("accept", "*/*"),
                // Values that HTTP cannot carry are left out.
                post("/sync/1", "split").answers("re:b").lacks("location").lacks("x-out").lacks("set-cookie"),
                post("/async/1", "status 600").header("idempotency-key", "k").expect(502).member("written", "yes"),
                post("/async/1", "status 600").header("idempotency-key", "k").expect(502).member("written", "yes"),
            ],
        );
        let accepted = bed.ask("POST", "/async/1", &[(DO, "hold status 600"), ("prefer", "respond-async")], "b");
        bed.release(1);
        let location = accepted.header("location").expect("a location");
        assert_eq!(bed.ask("GET", location, &[("prefer", "wait=20")], "").status, 502);
    }
}

#[test]
fn replies_without_an_id_reach_nobody() {
    for cluster in Cluster::both() {
        let bed = Exchanges::on(&cluster).start();
        let none = |what: &str| {
            problem(post("/sync/1", what).header("prefer", "wait=1"), 504, "no-reply", "yes").says("content-type", PROBLEM)
        };
        let stray = |what: &str| (none(what), post("/sync/1", "").answers("re:b"));
        for (kind, what) in [
            ("malformed", "anonymous"),
            ("malformed", "id "),
            ("malformed", "id AAAAAAAAAAAAAAAAAAAAA"),
            ("malformed", "id AAAAAAAAAAAAAAAAAAAAAAA"),
            ("malformed", "id AAAAAAAAAAAAAAAAAAAAA="),
            ("unasked", "id AAAAAAAAAAAAAAAAAAAAAA"),
        ] {
            let before = replies(&bed, kind);
            let (none, fine) = stray(what);
            bed.steps(what, &[none, fine]);
            let counted = poll_until(SOON, || (replies(&bed, kind) > before).then_some(()));
            assert!(counted.is_some(), "{what} is not counted as {kind} ({})", cluster.name());
        }
        // Who has given up is not met by what comes late.
        bed.steps("late", &[none("hold")]);
        bed.release(1);
        assert!(poll_until(SOON, || (replies(&bed, "late") > 0.0).then_some(())).is_some(), "{}", cluster.name());
    }
}

#[test]
fn the_first_reply_wins_everywhere_and_for_ever() {
    for cluster in Cluster::both() {
        let mut bed = Exchanges::on(&cluster).start();
        bed.dismiss();
        let key = [("idempotency-key", "k"), (DO, "twice")];
        let first = bed.ask("POST", "/async/1", &[&key[..], &[("prefer", "respond-async")]].concat(), "b");
        assert_eq!(first.status, 202, "{first:?}");
        let location = first.header("location").expect("a location").to_owned();
        bed.hire("");
        let more = |bed: &Bed, n: usize| {
            let replies = || bed.records(&bed.plan.replies).len();
            assert!(poll_until(SOON, || (replies() >= n).then_some(())).is_some(), "{} of {n} replies", replies());
        };
        more(&bed, 2);
        let check = |bed: &Bed| {
            let waiting = bed.ask("GET", &location, &[("prefer", "wait=20")], "");
            assert_eq!((waiting.status, waiting.text().as_str()), (200, "re:b"), "{}", cluster.name());
            let again = bed.ask("POST", "/async/1", &key, "b");
            assert_eq!((again.status, again.text().as_str()), (200, "re:b"), "{}", cluster.name());
        };
        check(&bed);
        bed.dismiss();
        bed.gateway.restart().expect("it starts again");
        check(&bed);
        // A worker that was restarted answers everything once more, and otherwise.
        bed.hire("another ");
        more(&bed, 4);
        check(&bed);
    }
}

#[test]
fn a_record_that_the_topic_refuses_is_not_written() {
    for cluster in Cluster::both() {
        let bed = Exchanges { requests_config: "max.message.bytes: 1000".into(), ..Exchanges::on(&cluster) }.start();
        let large = |path: &str| {
            let step = Step::new("POST", path).body("x".repeat(2000)).header("idempotency-key", "k");
            problem(step, 413, "record-too-large", "no")
        };
        bed.steps(
            "max.message.bytes",
            &[large("/sync/1"), large("/async/1"), large("/async/1"), post("/sync/1", "").answers("re:b")],
        );
        let key = post("/async/1", "").header("idempotency-key", "k");
        // What was refused did not use up the key.
        bed.steps("the key", &[key.answers("re:b")]);
        assert_eq!(bed.records(&bed.plan.requests).len(), 2);
    }
}

#[test]
fn a_missing_reply_topic_is_told_before_anything_is_written() {
    let Some(servers) = shared_kafka() else { return };
    let plan = Exchanges::on(&Cluster::Kafka(servers.clone()));
    let declared =
        format!("    {}: {{ cluster: main, bootstrap: true, create: {{ partitions: 3, config: {{  }} }} }}\n", plan.replies);
    let without = plan.yaml().replace(&declared, "");
    assert_ne!(without, plan.yaml());
    let mut gateway = Gateway::builder().config(without).without_ready().start().expect("the gateway starts");
    let obstacles = || gateway.readyz().expect("readyz").json()["obstacles"].as_array().cloned().unwrap_or_default();
    let said = poll_until(SOON, || Some(obstacles()).filter(|obstacles| obstacles.len() == 1));
    let said = said.unwrap_or_else(|| panic!("{:?}", obstacles()));
    assert!(said[0].as_str().is_some_and(|o| o.contains(&plan.replies) && o.contains("does not exist: create it")), "{said:?}");
    for (path, headers) in
        [("/sync/1", &[][..]), ("/async/1", &[("idempotency-key", "k")]), ("/async/1", &[("prefer", "respond-async")])]
    {
        let begun = Instant::now();
        let answer = http::request(gateway.address(), "POST", path, headers, b"b").expect("an answer");
        assert_eq!(told(&answer), (503, "cache-filling".into(), "no".into()), "{path}: {}", answer.text());
        assert!(answer.text().contains(&plan.replies) && begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
    let records = gateway.verb("topic consume", &[&plan.requests]).expect("the verb ends").stdout;
    assert_eq!(records, "");
    testkit::kafka_tool(
        &servers,
        "org.apache.kafka.tools.TopicCommand",
        &["--create", "--topic", &plan.replies, "--partitions", "3"],
    )
    .expect("a topic");
    gateway.wait_ready().expect("it is ready");
    let answer = http::request(gateway.address(), "POST", "/brief", &[], b"b").expect("an answer");
    assert_eq!(told(&answer), (504, "no-reply".into(), "yes".into()), "{}", answer.text());
}

#[test]
fn who_waits_when_the_gateway_stops_is_told_where_to_ask() {
    for cluster in Cluster::both() {
        let mut bed = Exchanges { limits: "drain_timeout: 2s".into(), ..Exchanges::on(&cluster) }.start();
        let address = bed.gateway.address();
        let waiting = thread::spawn(move || http::request(address, "POST", "/async/1", &[(DO, "nothing")], b"b"));
        let read = poll_until(SOON, || (!bed.seen(DO, "nothing").is_empty()).then_some(()));
        assert!(read.is_some(), "the request was not read");
        bed.dismiss();
        bed.gateway.terminate().expect("it ends");
        let answer = waiting.join().expect("the client ends").expect("an answer");
        assert_eq!(told(&answer), (504, "no-reply".into(), "yes".into()), "{}", answer.text());
        let location = answer.json()["location"].as_str().expect("a location").to_owned();
        bed.gateway.restart().expect("it starts again");
        assert_eq!(bed.get(&location).status, 202, "{}", cluster.name());
        bed.hire("");
        assert_eq!(bed.ask("GET", &location, &[("prefer", "wait=1")], "").status, 202, "{}", cluster.name());
    }
}

#[test]
fn a_cluster_that_is_away_is_told_within_bounds() {
    if without_kafka("exchanges while Kafka is away") {
        return;
    }
    let mut broker = Broker::start(BrokerOptions::default()).expect("a broker");
    let cluster = Cluster::Kafka(broker.bootstrap().to_owned());
    let start = |mode| {
        let bed = Exchanges { mode, limits: "request_timeout: 3s".into(), ..Exchanges::on(&cluster) }.start();
        let accept = |what: &str| {
            let accepted = bed.ask("POST", "/async/1", &[("prefer", "respond-async"), (DO, what)], "b");
            accepted.header("location").expect("a location").to_owned()
        };
        let (replied, pending) = (accept("hold"), accept("nothing"));
        bed.release(1);
        // One that waits when the broker goes.
        let address = bed.gateway.address();
        let waiting =
            thread::spawn(move || http::request(address, "POST", "/sync/1", &[(DO, "nothing")], b"b").expect("an answer"));
        let read = poll_until(SOON, || (bed.seen(DO, "nothing").len() == 2).then_some(()));
        assert!(read.is_some(), "{} were read", bed.seen(DO, "nothing").len());
        (bed, Some(waiting), replied, pending)
    };
    let mut beds: Vec<_> = ["local-and-log", "exactly-once"].map(start).into();
    broker.kill9();
    for (bed, waiting, replied, pending) in &mut beds {
        while_away(bed);
        let waited = waiting.take().and_then(|waiting| waiting.join().ok()).expect("a client ends");
        assert_eq!(told(&waited), (504, "no-reply".into(), "yes".into()));
        // What is known already is told all the same.
        assert_eq!(bed.get(replied).text(), "re:b");
        assert_eq!(bed.get(pending).status, 202);
        bed.until_pending(0);
    }
    broker.restart().expect("the broker starts again");
    for (bed, ..) in &beds {
        let begun = Instant::now();
        let back = poll_until(BACK_WITHIN, || {
            let answer = bed.ask("POST", "/async/1", &[("idempotency-key", "k")], "b");
            (answer.status == 200).then_some(answer)
        });
        eprintln!("{}: back after {:?}", bed.plan.mode, begun.elapsed());
        assert_eq!(back.map(|answer| answer.text()).as_deref(), Some("re:b"));
        let of_key = bed.records(&bed.plan.requests).iter().filter(|record| record.contains("tidegate-request-digest")).count();
        assert_eq!(of_key, 1);
    }
}

fn while_away(bed: &Bed) {
    for (path, headers) in [
        ("/sync/1", &[][..]),
        ("/async/1", &[("prefer", "respond-async")]),
        ("/async/1", &[("idempotency-key", "k")]),
        ("/async/1", &[("idempotency-key", "k")]),
        ("/oneway", &[]),
    ] {
        let begun = Instant::now();
        let answer = bed.ask("POST", path, headers, "b");
        let (took, (status, name, written)) = (begun.elapsed(), told(&answer));
        eprintln!("{}: away: {path} {headers:?} {took:?} {status} {name} {written}", bed.plan.mode);
        assert!(took < Duration::from_secs(10), "{path}: {took:?}");
        assert!([503, 504].contains(&status) && ["no", "maybe"].contains(&written.as_str()), "{}", answer.text());
    }
}
