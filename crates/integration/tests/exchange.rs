//! Exchanges end to end: a request waits for its reply, or is told where the reply will be, or wants none.

use std::thread;
use std::time::{Duration, Instant};

use integration::{Bed, CORRELATION_ID, Cluster, DO, Exchanges, SOON, Worker};
use testkit::http::{self, Client, Response};
use testkit::{Record, Reply, Step, poll_until, shared_kafka, unique};

const PROBLEM: &str = "application/problem+json";
const KEYS: &str = "signing: { keys: ['a key of sixteen bytes or more'] }";

/// Runs the steps against a fresh gateway with a worker on every kind of cluster.
fn check(title: &str, steps: &[Step]) {
    for cluster in Cluster::both() {
        Exchanges::on(&cluster).start().steps(title, steps);
    }
}

fn ask(method: &'static str, path: &str, what: &str) -> Step {
    Step::new(method, path).header(DO, what)
}

fn post(path: &str, what: &str) -> Step {
    ask("POST", path, what).body("b")
}

fn problem(step: Step, status: u16, name: &str) -> Step {
    step.expect(status).says("content-type", PROBLEM).member("type", format!("urn:tidegate:problem:{name}"))
}

/// The location of a request that the worker holds back.
fn accept(bed: &Bed, path: &str, headers: &[(&str, &str)]) -> String {
    let accepted = bed.ask("POST", path, &[&[("prefer", "respond-async"), (DO, "hold")], headers].concat(), "b");
    assert_eq!(accepted.status, 202, "{accepted:?}");
    accepted.header("location").expect("a location").to_owned()
}

fn said(response: &Response) -> (u16, String) {
    (response.status, response.text())
}

#[test]
fn a_request_waits_for_its_reply() {
    check(
        "sync",
        &[
            post("/sync/1", "").answers("re:b").says("x-out", "out").has("x-at").says("cache-control", "no-store"),
            post("/sync/1", "").says("content-type", "application/octet-stream").lacks("location").lacks(CORRELATION_ID),
            post("/sync/1", "type text/plain").says("content-type", "text/plain"),
            post("/sync/1", "status 201").expect(201),
            post("/sync/1", "status 418").expect(418).answers("re:b"),
            post("/sync/1", "status 304").expect(304).lacks("content-type"),
            post("/sync/1", "location /there").says("location", "/there"),
            post("/sync/1", "null").expect(204).answers("").lacks("content-type"),
            ask("GET", "/sync/1", "").answers("re:"),
            ask("DELETE", "/sync/1", "null").expect(204),
            ask("PATCH", "/sync/1", "").body("p").answers("re:p"),
            ask("PUT", "/sync/1", "").body("").answers("re:"),
            post("/sync/1", "")
                .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
                .has("traceparent"),
        ],
    );
}

#[test]
fn a_record_has_what_the_route_says_and_nothing_else() {
    for cluster in Cluster::both() {
        let bed = Exchanges::on(&cluster).start();
        let headers = [
            ("host", "shop.example"),
            ("content-type", "text/plain"),
            ("x-tag", "mine"),
            ("x-in", "${params.id}"),
            ("authorization", "secret"),
            ("cookie", "secret"),
            (CORRELATION_ID, "AAAAAAAAAAAAAAAAAAAAAA"),
            ("tidegate-reply-to", "elsewhere"),
            ("tidegate-request-digest", "forged"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ];
        let path = "/sync/a%24%7B1%7D%3Bb=c?q=%24%7Bparams.id%7D%0D%0Ax-user:ann%00";
        let answer = bed.ask("PUT", path, &headers, "body");
        assert_eq!(said(&answer), (200, "re:body".to_owned()), "{answer:?}");
        let records = bed.seen("x-tag", "mine");
        let [record] = records.as_slice() else { panic!("{records:?}") };
        let names: Vec<&str> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
        let expected = [
            "content-type",
            "x-tag",
            ":method",
            ":path",
            ":authority",
            ":scheme",
            "traceparent",
            "x-made",
            "tidegate-reply-to",
            CORRELATION_ID,
        ];
        assert_eq!(names, expected, "{record:?}");
        for (name, value) in [
            ("content-type", "text/plain"),
            (":method", "PUT"),
            (":path", path),
            (":authority", "shop.example"),
            (":scheme", "http"),
            // What a client sends is data: it is neither rendered nor a header of its own.
            ("x-made", "a${1};b=c|${params.id}\r\nx-user:ann\0|${params.id}"),
            ("tidegate-reply-to", &bed.plan.replies),
        ] {
            assert_eq!(record.header(name), Some(value), "{name}");
        }
        let trace = record.header("traceparent").expect("a trace");
        assert!(trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{trace}");
        assert_eq!(record.key.as_deref(), Some(&b"a${1};b=c"[..]));
        let id = record.header(CORRELATION_ID).expect("an id");
        assert_ne!(id, "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(id.len(), 22, "{id}");
        let trace = answer.header("traceparent").expect("a trace of the answer");
        assert!(trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{trace}");
        // No header of HTTP has such a name.
        assert_eq!(bed.ask("PUT", "/sync/1", &[(":status", "200")], "").status, 400);
    }
}

#[test]
fn the_names_of_record_headers_are_those_of_the_worker() {
    const ZILLA: [&str; 2] = ["zilla:correlation-id", "zilla:reply-to"];
    for cluster in Cluster::both() {
        let plan = Exchanges::on(&cluster);
        let (requests, replies) = (unique("zilla-requests"), unique("zilla-replies"));
        let topics = [&requests, &replies]
            .map(|t| format!("    {t}: {{ cluster: main, bootstrap: true, create: {{ partitions: 1 }} }}\n"));
        let route = format!(
            "- match: POST /zilla\n  exchange: {{ request: {{ topic: {requests} }}, reply: {{ topic: {replies} }}, names: zilla }}\n"
        );
        let yaml = plan.yaml().replace("  topics:\n", &format!("  topics:\n{}", topics.concat())) + &route;
        let gateway = plan.builder().config(yaml).start().expect("the gateway starts");
        let answer = |request: &Record| {
            let header = |name: &str| request.header(name).unwrap_or_default().to_owned();
            let reply = Reply { topic: header(ZILLA[1]), partition: None, key: None, value: None, headers: Vec::new() };
            vec![reply.header(ZILLA[0], header(ZILLA[0])).header(":status", "202").value("zilla")]
        };
        let worker = Worker::start(&cluster, &gateway, &requests, Box::new(answer)).expect("a worker");
        let answer = http::request(gateway.address(), "POST", "/zilla", &[], b"b").expect("an answer");
        assert_eq!((said(&answer), worker.faults()), ((202, "zilla".to_owned()), Vec::new()));
    }
}

#[test]
fn without_a_reply_the_wait_ends_and_the_reply_is_found_later() {
    for cluster in Cluster::both() {
        let bed = Exchanges::on(&cluster).start();
        let mut held = 0;
        for (path, prefer) in [("/brief", "foo"), ("/async/1", "wait=1"), ("/brief", "wait=0"), ("/brief", "wait=60")] {
            let begun = Instant::now();
            let answer = bed.ask("POST", path, &[(DO, "hold"), ("prefer", prefer)], "b");
            assert!(begun.elapsed() < Duration::from_secs(10), "{prefer}: {:?}", begun.elapsed());
            let told = answer.json();
            assert_eq!((answer.status, &told["written"]), (504, &"yes".into()), "{path} {prefer}: {answer:?}");
            assert_eq!(told["type"], "urn:tidegate:problem:no-reply", "{told}");
            let id = told["correlation_id"].as_str().expect("an id");
            let location = told["location"].as_str().expect("a location").to_owned();
            assert!(location.contains(&format!(";cid={id}")), "{told}");
            let pending = bed.get(&location);
            assert_eq!((pending.status, pending.header("location")), (202, Some(location.as_str())), "{pending:?}");
            held += 1;
            bed.release(held);
            let late = bed.ask("GET", &location, &[("prefer", "wait=20")], "");
            assert_eq!(said(&late), (200, "re:b".to_owned()), "{location}");
        }
        let none = bed.ask("POST", "/sync/1", &[(DO, "nothing"), ("prefer", "wait=0")], "b");
        assert_eq!((none.status, none.json()["location"].is_null()), (504, true), "{none:?}");
    }
}

#[test]
fn a_client_that_hangs_up_frees_its_place() {
    for cluster in Cluster::both() {
        let bed = Exchanges::on(&cluster).start();
        let mut clients = Vec::new();
        for _ in 0..2 {
            let mut client = Client::connect(bed.gateway.address()).expect("a connection");
            let wire = format!("POST /few HTTP/1.1\r\nhost: x\r\n{DO}: nothing\r\ncontent-length: 0\r\n\r\n");
            client.write(wire.as_bytes()).expect("a request");
            clients.push(client);
        }
        bed.until_pending(2);
        bed.steps(
            "pending_max",
            &[problem(post("/few", ""), 429, "too-many-pending").says("retry-after", "1").member("written", "no")],
        );
        drop(clients);
        bed.until_pending(0);
        bed.steps("after they went", &[post("/few", "").answers("re:b")]);
    }
}

#[test]
fn exchanges_that_wait_are_counted_over_all_routes() {
    for cluster in Cluster::both() {
        let bed = Exchanges { limits: "pending_exchanges: 1".into(), ..Exchanges::on(&cluster) }.start();
        let mut client = Client::connect(bed.gateway.address()).expect("a connection");
        let wire = format!("POST /few HTTP/1.1\r\nhost: x\r\n{DO}: nothing\r\ncontent-length: 0\r\n\r\n");
        client.write(wire.as_bytes()).expect("a request");
        bed.until_pending(1);
        let busy = |step: Step| problem(step, 503, "too-many-exchanges").says("retry-after", "1").member("written", "no");
        bed.steps("pending_exchanges", &[busy(post("/sync/1", "")), busy(post("/async/1", "")), post("/oneway", "").expect(204)]);
    }
}

#[test]
fn preferences_of_every_form_are_honoured() {
    let accepted = |step: Step| {
        step.expect(202).says("preference-applied", "respond-async").says("retry-after", "2").has("location").answers("")
    };
    let prefer = |lines: &[&str], what: &str| lines.iter().fold(post("/async/1", what), |step, line| step.header("prefer", line));
    check(
        "RFC 7240",
        &[
            accepted(prefer(&["respond-async"], "nothing")),
            accepted(prefer(&["foo; bar", "Respond-Async"], "nothing")),
            accepted(prefer(&["lenient, x=\"a, wait=9\" , respond-async;p=\"q\""], "nothing")),
            prefer(&["respond-async", "wait=1"], "nothing").expect(202).says("preference-applied", "respond-async, wait=1"),
            // The reply comes while it is waited for, so nothing is deferred.
            prefer(&["wait=20, respond-async"], "").answers("re:b").says("preference-applied", "wait=20"),
            prefer(&["x=\"respond-async\""], "").answers("re:b").lacks("preference-applied"),
            // There is no place to look at later.
            post("/sync/1", "").header("prefer", "respond-async").answers("re:b").lacks("preference-applied"),
        ],
    );
}

#[test]
fn who_looks_at_the_location_is_woken_by_the_reply() {
    for cluster in Cluster::both() {
        let bed = Exchanges::on(&cluster).start();
        let location = accept(&bed, "/async/7", &[]);
        let token = location.strip_prefix("/async/7;cid=").expect("the parameter of the path, and a token");
        assert_eq!(token.len(), 44, "{location}");
        let pending = bed.get(&location);
        assert_eq!((pending.status, pending.header("location")), (202, Some(location.as_str())), "{pending:?}");
        assert_eq!((pending.header("retry-after"), pending.header("cache-control")), (Some("2"), Some("no-store")));
        let (address, path) = (bed.gateway.address(), location.clone());
        let held = thread::spawn(move || {
            let answer = http::request(address, "GET", &path, &[("prefer", "wait=30")], b"").expect("an answer");
            (answer, Instant::now())
        });
        bed.until_pending(1);
        bed.release(1);
        // The held reply lies before that of who released it.
        let released = Instant::now();
        let (answer, came) = held.join().expect("the reader ends");
        let behind = came.saturating_duration_since(released);
        eprintln!("{}: woken {behind:?} after another was answered", cluster.name());
        assert!(behind < Duration::from_secs(1), "woken after {behind:?}: {answer:?}");
        assert_eq!((said(&answer), answer.header("preference-applied")), ((200, "re:b".to_owned()), Some("wait=30")));
        let head = bed.ask("HEAD", &location, &[], "");
        assert_eq!((head.status, head.header("content-length"), head.text().as_str()), (200, Some("4"), ""), "{head:?}");
        assert_eq!(bed.ask("DELETE", &location, &[], "").status, 405);
    }
}

#[test]
fn only_who_was_given_a_location_finds_something_there() {
    for cluster in Cluster::both() {
        let bed = Exchanges::on(&cluster).start();
        let location = accept(&bed, "/async/7", &[("x-user", "ann")]);
        let (path, token) = location.split_once(";cid=").expect("a token");
        let changed = if token.starts_with('A') { "B" } else { "A" };
        let forged = format!("{path};cid={changed}{}", &token[1..]);
        let unsigned = format!("{path};cid={}{}", &token[..22], "A".repeat(22));
        let encoded: String = token.bytes().map(|b| format!("%{b:02x}")).collect();
        let other = accept(&bed, "/other", &[("x-user", "ann")]);
        let other = other.strip_prefix("/other;cid=").expect("a token");
        bed.release(1);
        for (user, at, status) in [
            ("ann", location.clone(), 200),
            ("ann", format!("{path};cid={encoded}"), 200),
            // The token says whose it is; what else is in the path is for the client.
            ("ann", format!("/async/8;cid={token}"), 200),
            ("bob", location.clone(), 404),
            ("", location.clone(), 404),
            ("ann", forged, 404),
            ("ann", unsigned, 404),
            ("ann", format!("{path};cid={}", &token[..43]), 404),
            ("ann", format!("{path};cid={}", &token[..22]), 404),
            ("ann", format!("{path};cid={token}A"), 404),
            ("ann", format!("{path};cid=%24%7B1%7D"), 404),
            ("ann", format!("{path};cid={other}"), 404),
            ("ann", format!("/other;cid={token}"), 404),
        ] {
            let answer = bed.ask("GET", &at, &[("x-user", user), ("prefer", "wait=20")], "");
            assert_eq!(answer.status, status, "{user} {at} ({}): {answer:?}", cluster.name());
            if status == 404 {
                assert_eq!(answer.json()["type"], "urn:tidegate:problem:unknown-exchange", "{at}: {answer:?}");
            }
        }
    }
}

#[test]
fn a_location_is_good_until_the_reply_expires() {
    for cluster in Cluster::both() {
        let (requests_config, replies_config) = ("retention.ms: 600000".into(), "retention.ms: 4000".into());
        let bed = Exchanges { requests_config, replies_config, ..Exchanges::on(&cluster) }.start();
        let replied = accept(&bed, "/async/1", &[]);
        bed.release(1);
        let pending = accept(&bed, "/async/1", &[]);
        let waiting = bed.ask("GET", &replied, &[("prefer", "wait=5")], "");
        assert_eq!(said(&waiting), (200, "re:b".to_owned()), "{}", cluster.name());
        assert_eq!(bed.get(&pending).status, 202);
        for location in [replied, pending] {
            let gone = poll_until(SOON, || Some(bed.get(&location)).filter(|answer| answer.status == 410)).expect("410");
            assert_eq!(gone.json()["type"], "urn:tidegate:problem:reply-gone", "{gone:?}");
        }
    }
}

#[test]
fn a_location_whose_request_is_gone_is_gone() {
    for cluster in Cluster::both() {
        let bed = Exchanges { requests_config: "retention.ms: 4000".into(), ..Exchanges::on(&cluster) }.start();
        let replied = accept(&bed, "/async/1", &[]);
        bed.release(1);
        let pending = accept(&bed, "/async/1", &[]);
        let gone = poll_until(SOON, || Some(bed.get(&pending)).filter(|answer| answer.status == 410)).expect("410");
        assert_eq!(gone.json()["type"], "urn:tidegate:problem:reply-gone", "{gone:?}");
        // A reply that is there is worth more than its request.
        assert_eq!(said(&bed.get(&replied)), (200, "re:b".to_owned()));
    }
}

#[test]
fn any_replica_with_the_keys_knows_the_location() {
    let Some(servers) = shared_kafka() else { return };
    let cluster = Cluster::Kafka(servers);
    let one = Exchanges { top: KEYS.into(), ..Exchanges::on(&cluster) }.start();
    let another = |keys: &str| Exchanges { top: keys.into(), ..one.plan.clone() }.builder().start().expect("a replica");
    let two = another("signing: { keys: ['another key, which signs now', 'a key of sixteen bytes or more'] }");
    let three = another("signing: { keys: ['a key that nobody else has'] }");
    let location = accept(&one, "/async/1", &[]);
    let look = |at: &testkit::Gateway, prefer: &str| {
        http::request(at.address(), "GET", &location, &[("prefer", prefer)], b"").expect("an answer").status
    };
    assert_eq!((look(&two, "wait=0"), look(&three, "wait=0")), (202, 404));
    one.release(1);
    assert_eq!((look(&two, "wait=20"), look(&three, "wait=0")), (200, 404));
    // Deleted from the topic, they are gone everywhere.
    let file = std::env::temp_dir().join(unique("delete-records"));
    let partitions: Vec<String> =
        [&one.plan.requests, &one.plan.replies].iter().flat_map(|topic| (0..3).map(move |p| deletion(topic, p))).collect();
    std::fs::write(&file, format!("{{\"partitions\":[{}],\"version\":1}}", partitions.join(","))).expect("a file");
    let path = file.to_str().expect("a path");
    testkit::kafka_tool(cluster.bootstrap(), "org.apache.kafka.tools.DeleteRecordsCommand", &["--offset-json-file", path])
        .expect("records are deleted");
    std::fs::remove_file(&file).expect("the file goes");
    for gateway in [&one.gateway, &two] {
        let gone = poll_until(SOON, || (look(gateway, "wait=0") == 410).then_some(()));
        assert!(gone.is_some(), "status {}", look(gateway, "wait=0"));
    }
}

/// All that a partition has, to be deleted.
fn deletion(topic: &str, partition: i32) -> String {
    format!("{{\"topic\":\"{topic}\",\"partition\":{partition},\"offset\":-1}}")
}

#[test]
fn one_way_requests_are_answered_when_they_are_written() {
    for cluster in Cluster::both() {
        let bed = Exchanges::on(&cluster).start();
        let event = |tag: &str| post("/oneway", "").header("x-tag", tag).answers("").has("tidegate-cursor");
        bed.steps(
            "one-way",
            &[
                event("one").expect(204).lacks("preference-applied"),
                event("two").header("prefer", "respond-async").expect(202).says("preference-applied", "respond-async"),
            ],
        );
        let records = bed.records(&bed.plan.events);
        assert_eq!(records.len(), 2, "{records:?}");
        for (record, tag) in records.iter().zip(["one", "two"]) {
            let read: serde_json::Value = serde_json::from_str(record).expect("JSON");
            let names: Vec<&str> = read["headers"].as_array().into_iter().flatten().filter_map(|h| h["name"].as_str()).collect();
            assert_eq!((&read["value"], read["headers"][0]["value"].as_str()), (&"b".into(), Some(tag)), "{record}");
            assert_eq!(names, ["x-tag", "traceparent", CORRELATION_ID], "{record}");
        }
    }
}
