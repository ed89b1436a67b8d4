//! The message cache as its users see it: filters, retention, compaction, bounds, and files that somebody else touched.

use std::fs::OpenOptions;
use std::time::Duration;

use integration::{Cluster, Records};
use testkit::{Gateway, http, poll_until, shared_kafka, unique};

/// How long housekeeping, which is due every 100 ms in these tests, may take to show.
const WITHIN: Duration = Duration::from_secs(30);
const HURRY: &str = "housekeeping_interval: 100ms";

fn put(gateway: &Gateway, path: &str, headers: &[(&str, &str)], value: &[u8]) {
    let answer = http::request(gateway.address(), "PUT", path, headers, value).expect("an answer");
    assert_eq!(answer.status, 204, "{answer:?}");
}

fn get(gateway: &Gateway, path: &str) -> http::Response {
    http::get(gateway.address(), path).expect("an answer")
}

fn metric(gateway: &Gateway, name: &str) -> f64 {
    gateway.metric(name).unwrap_or(0.0)
}

fn until(what: &str, gateway: &Gateway, mut reached: impl FnMut() -> bool) {
    assert!(poll_until(WITHIN, || reached().then_some(())).is_some(), "{what}\n{}", gateway.stderr());
}

/// By key and headers, alternatives, all over three partitions; the same on both kinds of cluster.
#[test]
fn filters_by_headers() {
    for cluster in Cluster::both() {
        let topic = unique("filters");
        let bootstrap = cluster.bootstrap();
        let yaml = format!(
            "listeners: {{ public: {{ address: '127.0.0.1:0' }} }}
admin: {{ address: '127.0.0.1:0' }}
clusters: {{ main: {{ bootstrap.servers: '{bootstrap}' }} }}
cache: {{ topics: {{ {topic}: {{ bootstrap: true, create: {{ partitions: 3, config: {{ cleanup.policy: compact }} }} }} }} }}
routes:
  - {{ match: 'PUT /items/{{id}}', produce: {{ topic: {topic}, key: '${{params.id}}', copy_headers: [colour, shape] }} }}
  - {{ match: 'DELETE /items/{{id}}', produce: {{ topic: {topic}, key: '${{params.id}}' }} }}
  - {{ match: 'GET /items/{{id}}/{{colour}}', fetch: {{ topic: {topic}, filters: [{{ key: '${{params.id}}', headers: {{ colour: '${{params.colour}}' }} }}] }} }}
  - {{ match: 'GET /colour/{{colour}}', fetch: {{ topic: {topic}, merge: json, filters: [{{ headers: {{ colour: '${{params.colour}}' }} }}] }} }}
  - {{ match: 'GET /either', fetch: {{ topic: {topic}, merge: json, filters: [{{ headers: {{ colour: red, shape: round }} }}, {{ key: d }}] }} }}
"
        );
        let gateway = Gateway::builder().config(yaml).start().expect("start");
        let rows =
            [("a", "red", "round"), ("b", "red", "flat"), ("c", "blue", "round"), ("d", "blue", "flat"), ("e", "red", "round")];
        for (key, colour, shape) in rows {
            let value = format!("\"{key}\"");
            put(&gateway, &format!("/items/{key}"), &[("colour", colour), ("shape", shape)], value.as_bytes());
        }
        let check = |path: &str, status: u16, keys: &[&str]| {
            let answer = get(&gateway, path);
            assert_eq!(answer.status, status, "{path} on {}: {answer:?}", cluster.name());
            if status == 200 {
                let found = answer.json();
                let mut found: Vec<_> = found.as_array().map_or(vec![found.clone()], Clone::clone);
                found.sort_by_key(ToString::to_string);
                assert_eq!(found, keys, "{path} on {}", cluster.name());
            }
            answer
        };
        check("/items/a/red", 200, &["a"]);
        check("/items/a/blue", 404, &[]);
        check("/items/a/re", 404, &[]);
        check("/colour/red", 200, &["a", "b", "e"]);
        check("/colour/green", 200, &[]);
        check("/either", 200, &["a", "d", "e"]);
        let red = check("/colour/red", 200, &["a", "b", "e"]);
        // The newest record of a key is what counts: what it was before is over.
        put(&gateway, "/items/a", &[("colour", "blue"), ("shape", "round")], b"\"a\"");
        assert_eq!(http::request(gateway.address(), "DELETE", "/items/e", &[], b"").expect("an answer").status, 204);
        check("/colour/red", 200, &["b"]);
        check("/items/a/red", 404, &[]);
        check("/colour/blue", 200, &["a", "c", "d"]);
        let tags = [red.header("etag"), get(&gateway, "/colour/red").header("etag")].map(|t| t.map(str::to_owned));
        let other = get(&gateway, "/colour/blue").header("etag").map(str::to_owned);
        assert!(tags[0].is_some() && tags[0] != tags[1] && tags[1] != other, "{tags:?} {other:?}");
    }
}

/// Compaction beside reads and writes, then a kill: every key keeps its last value, and the space comes back.
#[test]
fn compaction_gives_space_back_and_loses_nothing() {
    let config = "{ cleanup.policy: compact, segment.bytes: 16384, min.cleanable.dirty.ratio: 0.1 }";
    let records =
        Records { cached: format!("create: {{ partitions: 2, config: {config} }}"), cache: HURRY.into(), ..Records::embedded() };
    let mut gateway = records.builder().start().expect("start");
    let mut client = http::Client::connect(gateway.address()).expect("connect");
    let value = |n: usize| format!("{n}-{}", "x".repeat(300)).into_bytes();
    for n in 0..1500 {
        let answer = client.request("PUT", &format!("/records/k{}", n % 7), &[], &value(n)).expect("put");
        assert_eq!(answer.status, 204);
        let seen = client.request("GET", &format!("/records/k{}", n % 7), &[], b"").expect("get");
        assert_eq!((seen.status, seen.body.as_slice()), (200, &value(n)[..]), "record {n}");
    }
    assert_eq!(client.request("DELETE", "/records/k0", &[], b"").expect("delete").status, 204);
    until("records to be compacted", &gateway, || metric(&gateway, "tidegate_cache_compacted_total") > 1000.0);
    assert!(metric(&gateway, "tidegate_cache_reclaimed_bytes_total") > 300_000.0);
    assert!(metric(&gateway, "tidegate_cache_bytes") < 200_000.0, "{}", metric(&gateway, "tidegate_cache_bytes"));
    assert_eq!(metric(&gateway, "tidegate_cache_housekeeping_failing"), 0.0);
    gateway.kill9();
    gateway.restart().expect("restart");
    for n in 1494..1500 {
        let key = n % 7;
        let (status, body) = if key == 0 { (404, None) } else { (200, Some(value(n))) };
        let answer = get(&gateway, &format!("/records/k{key}"));
        assert_eq!(answer.status, status, "k{key}: {answer:?}");
        assert!(body.is_none_or(|b| b == answer.body));
    }
    let verified = gateway.verb("cache verify", &[]).expect("verify");
    assert_eq!(verified.code, Some(0), "{}{}", verified.stdout, verified.stderr);
}

/// What has expired is not served, in the head neither; then it leaves the disk.
#[test]
fn what_has_expired_is_not_served() {
    let config = "{ cleanup.policy: delete, retention.ms: 1500 }";
    let records =
        Records { cached: format!("create: {{ partitions: 1, config: {config} }}"), cache: HURRY.into(), ..Records::embedded() };
    let gateway = records.builder().start().expect("start");
    put(&gateway, "/records/a", &[], b"1");
    let first = get(&gateway, "/records");
    assert_eq!((first.status, first.text()), (200, "[1]".into()));
    until("the record to expire", &gateway, || get(&gateway, "/records/a").status == 404);
    let tag = first.header("etag").expect("a tag").to_owned();
    let again = http::request(gateway.address(), "GET", "/records", &[("if-none-match", &tag)], b"").expect("get");
    assert_eq!((again.status, again.text()), (200, "[]".into()), "another content has another tag");
    until("the record to leave the disk", &gateway, || metric(&gateway, "tidegate_cache_expired_total") == 1.0);
    assert_eq!(metric(&gateway, "tidegate_cache_start_offset"), 1.0);
    put(&gateway, "/records/a", &[], b"2");
    assert_eq!(get(&gateway, "/records/a").text(), "2");
}

/// The oldest records make room, and it is told.
#[test]
fn a_bound_on_bytes_is_held() {
    let Some(servers) = shared_kafka() else { return };
    let records = Records {
        cached: "max_bytes: 200KiB, create: { partitions: 1 }".into(),
        cache: "segment_bytes: 64KiB".into(),
        ..Records::on(&Cluster::Kafka(servers))
    };
    let gateway = records.builder().start().expect("start");
    let value = vec![b'x'; 10_000];
    for n in 0..60 {
        put(&gateway, &format!("/records/k{n}"), &[], &value);
    }
    until("segments to make room", &gateway, || metric(&gateway, "tidegate_cache_evicted_bytes_total") > 100_000.0);
    until("the bound to be held", &gateway, || metric(&gateway, "tidegate_cache_bytes") <= 200.0 * 1024.0);
    assert_eq!(metric(&gateway, "tidegate_cache_full"), 0.0);
    assert_eq!((get(&gateway, "/records/k0").status, get(&gateway, "/records/k59").status), (404, 200));
}

/// A file that somebody cut is an error of its topic, and the process lives. A copy is fetched again.
#[test]
fn a_cut_file_is_an_error_of_its_topic() {
    for cluster in Cluster::both() {
        let records = Records {
            cached: "create: { partitions: 1 }".into(),
            cache: format!("{HURRY}\n  topic_refresh: 1s"),
            ..Records::on(&cluster)
        };
        let gateway = records.builder().start().expect("start");
        put(&gateway, "/records/a", &[], b"1");
        assert_eq!(get(&gateway, "/records/a").status, 200);
        let mut found = vec![gateway.dir().to_owned()];
        let mut segment = None;
        while let Some(dir) = found.pop() {
            for entry in std::fs::read_dir(dir).expect("read").map(|e| e.expect("entry").path()) {
                match entry.extension().and_then(|e| e.to_str()) {
                    Some("log") => segment = Some(entry),
                    _ if entry.is_dir() => found.push(entry),
                    _ => {}
                }
            }
        }
        OpenOptions::new().write(true).open(segment.expect("a segment")).expect("open").set_len(0).expect("cut");
        match cluster {
            Cluster::Embedded => {
                until("the fault to be told", &gateway, || metric(&gateway, "tidegate_cache_housekeeping_failing") == 1.0);
                let answer = get(&gateway, "/records/a");
                assert_eq!((answer.status, answer.json()["type"].as_str().map(|t| t.ends_with("unreadable"))), (500, Some(true)));
                let refused = http::put(gateway.address(), "/records/b", b"2").expect("an answer");
                assert_eq!(refused.status, 503, "{refused:?}");
            }
            Cluster::Kafka(_) => until("the record to be fetched again", &gateway, || get(&gateway, "/records/a").text() == "1"),
        }
        let is_told = || gateway.stderr().contains("cut short or removed by somebody else");
        until("the log to tell", &gateway, is_told);
    }
}
