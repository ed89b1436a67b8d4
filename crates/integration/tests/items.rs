//! The items API of `examples/items`, the same table on both kinds of cluster.

use std::thread;
use std::time::{Duration, Instant};

use integration::{Cluster, items, items_on};
use serde_json::json;
use testkit::{Step, curl, http, run_steps, unique};

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

/// Runs the steps against a fresh gateway on every kind of cluster.
fn check(title: &str, steps: &[Step]) {
    for cluster in Cluster::both() {
        let gateway = items(&cluster).start().expect("the gateway starts");
        run_steps(gateway.address(), &format!("{title} ({})", cluster.name()), steps);
    }
}

#[test]
fn an_item_is_created_read_replaced_and_deleted() {
    check(
        "life of an item",
        &[
            Step::get("/items/a").expect(404).says("content-type", PROBLEM).member("status", 404),
            Step::put("/items/a", r#"{"name":"anchor"}"#).has("etag").has("tidegate-cursor").has("x-request-id").answers(""),
            Step::get("/items/a").answers(r#"{"name":"anchor"}"#).says("content-type", JSON).has("etag").has("last-modified"),
            Step::put("/items/a", r#"{"name":"buoy"}"#),
            Step::get("/items/a").answers(r#"{"name":"buoy"}"#),
            Step::delete("/items/a"),
            Step::get("/items/a").expect(404),
            Step::put("/items/a", r#"{"name":"back"}"#),
            Step::get("/items/a").answers(r#"{"name":"back"}"#),
        ],
    );
}

#[test]
fn entity_tags_answer_conditional_requests() {
    check(
        "conditional GET",
        &[
            Step::put("/items/a", "1").save("etag", "written"),
            Step::get("/items/a").says("etag", "$written").save("last-modified", "date"),
            Step::get("/items/a").header("if-none-match", "$written").expect(304).says("etag", "$written").lacks("content-type"),
            Step::get("/items/a").header("if-none-match", "\"other\", W/$written").expect(304),
            Step::get("/items/a").header("if-none-match", "*").expect(304),
            Step::get("/items/a").header("if-none-match", "\"other\"").answers("1"),
            Step::new("HEAD", "/items/a").header("if-none-match", "$written").expect(304),
            Step::put("/items/a", "1"),
            Step::get("/items/a").header("if-none-match", "$written").answers("1"),
            Step::delete("/items/a"),
            Step::get("/items/a").header("if-none-match", "*").expect(404),
        ],
    );
}

#[test]
fn post_takes_its_key_from_the_idempotency_key() {
    let post = |key: &str, body: &str| Step::new("POST", "/items").header("idempotency-key", key).body(body).expect(204);
    check(
        "POST",
        &[
            post("k-1", "1"),
            post("k-1", "1"),
            Step::get("/items/k-1").answers("1"),
            Step::get("/items").answers_json(json!([1])),
            // Without one, each request is an item of its own.
            Step::new("POST", "/items").body("2").expect(204),
            Step::new("POST", "/items").body("2").expect(204),
            Step::get("/items").answers_json(json!([1, 2, 2])),
        ],
    );
}

#[test]
fn the_collection_is_the_newest_value_of_each_key() {
    check(
        "GET /items",
        &[
            Step::get("/items").says("content-type", JSON).answers_json(json!([])).save("etag", "empty"),
            Step::put("/items/a", r#"{"n":1}"#),
            Step::put("/items/b", r#"{"n":2}"#),
            Step::put("/items/c", r#"{"n":3}"#),
            Step::get("/items")
                .header("if-none-match", "$empty")
                .answers_json(json!([{"n":1},{"n":2},{"n":3}]))
                .save("etag", "all"),
            Step::get("/items").header("if-none-match", "$all").expect(304),
            Step::put("/items/b", r#"{"n":22}"#),
            Step::delete("/items/c"),
            Step::get("/items").header("if-none-match", "$all").answers_json(json!([{"n":1},{"n":22}])),
            // A value that is no JSON is counted, and never spliced in.
            Step::put("/items/bad", r#"{"n":4}],["#),
            Step::get("/items").answers_json(json!([{"n":1},{"n":22}])).says("tidegate-omitted", "1"),
            Step::get("/items/bad").answers(r#"{"n":4}],["#),
        ],
    );
}

#[test]
fn the_client_chooses_what_a_write_answers() {
    check(
        "Prefer: return",
        &[
            Step::put("/items/a", "1")
                .expect(200)
                .header("prefer", "return=representation")
                .says("content-type", JSON)
                .says("preference-applied", "return=representation")
                .member("offset", 0),
            Step::put("/items/a", "2").expect(200).header("prefer", "return=representation").member("offset", 1),
            Step::put("/items/a", "3").header("prefer", "return=minimal").answers(""),
        ],
    );
}

#[test]
fn methods_and_paths_are_told_apart() {
    check(
        "routing",
        &[
            Step::put("/items/a", "1"),
            Step::new("HEAD", "/items/a").says("content-length", "1").has("etag").answers(""),
            Step::new("HEAD", "/items").answers(""),
            Step::new("PATCH", "/items/a").expect(405).has("allow").says("content-type", PROBLEM),
            Step::new("DELETE", "/items").expect(405).has("allow"),
            Step::new("OPTIONS", "/items/a").expect(204).has("allow"),
            Step::get("/nothing").expect(404).says("content-type", PROBLEM),
            Step::get("/items/a/b").expect(404),
            Step::get("/%69tems/a").answers("1"),
        ],
    );
}

#[test]
fn keys_are_what_the_path_says_after_decoding() {
    check(
        "percent-encoding",
        &[
            Step::put("/items/a%2Fb", "1"),
            Step::put("/items/%C3%A9%20%25", "2"),
            Step::get("/items/a%2fb").answers("1"),
            Step::get("/items/a/b").expect(404),
            Step::get("/items/%c3%a9%20%25").answers("2"),
        ],
    );
}

#[test]
fn bodies_of_every_framing_and_size_arrive_whole() {
    let large = "x".repeat(900_000);
    check(
        "bodies",
        &[
            Step::put("/items/chunked", "3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n").header("transfer-encoding", "chunked"),
            Step::get("/items/chunked").answers("abcdefg"),
            Step::put("/items/large", &large),
            Step::get("/items/large").answers(&large),
            Step::new("PUT", "/items/bytes")
                .header("content-type", "application/octet-stream")
                .body([0, 255, 10, 13])
                .expect(204),
            Step::get("/items/bytes").answers([0, 255, 10, 13]).says("content-type", "application/octet-stream"),
            Step::new("PUT", "/items/empty").expect(204),
            Step::get("/items/empty").answers(""),
        ],
    );
}

#[test]
fn a_request_keeps_its_id() {
    check(
        "request id",
        &[
            Step::get("/items").header("x-request-id", "from-the-client").says("x-request-id", "from-the-client"),
            Step::get("/items").has("x-request-id"),
        ],
    );
}

#[test]
fn a_cursor_is_honoured_and_a_broken_one_refused() {
    check(
        "cursor",
        &[
            Step::put("/items/a", "1").save("tidegate-cursor", "position"),
            Step::get("/items/a").header("tidegate-cursor", "$position").answers("1"),
            Step::get("/items/a").header("tidegate-cursor", "no cursor").expect(400).says("content-type", PROBLEM),
        ],
    );
}

#[test]
fn prefer_wait_holds_the_answer_until_the_item_changes() {
    for cluster in Cluster::both() {
        let gateway = items(&cluster).start().expect("the gateway starts");
        let address = gateway.address();
        let old = http::put(address, "/items/a", b"old").expect("an answer");
        let tag = old.header("etag").expect("an entity tag").to_owned();

        let begun = Instant::now();
        let same = [("if-none-match", tag.as_str()), ("prefer", "respond-async, wait=1")];
        let unchanged = http::request(address, "GET", "/items/a", &same, b"").expect("an answer");
        assert_eq!(unchanged.status, 304, "{}", cluster.name());
        assert_eq!(unchanged.header("preference-applied"), Some("wait=1"));
        assert!(begun.elapsed() >= Duration::from_millis(900), "it did not wait: {:?}", begun.elapsed());

        let reader = thread::spawn(move || {
            let held = [("if-none-match", tag.as_str()), ("prefer", "wait=30")];
            http::request(address, "GET", "/items/a", &held, b"").expect("an answer")
        });
        // Whether the reader waits already or comes after the write, it must get the new value.
        assert_eq!(http::put(address, "/items/a", b"new").expect("an answer").status, 204);
        let changed = reader.join().expect("the reader ends");
        assert_eq!((changed.status, changed.text().as_str()), (200, "new"), "{}", cluster.name());
    }
}

#[test]
fn a_restart_serves_what_was_written() {
    for cluster in Cluster::both() {
        let mut gateway = items(&cluster).start().expect("the gateway starts");
        for n in 0..50 {
            let answer = http::put(gateway.address(), &format!("/items/{n}"), format!("{n}").as_bytes()).expect("an answer");
            assert_eq!(answer.status, 204);
        }
        // Until the cache holds it: what a restart must not fetch again.
        assert_eq!(http::get(gateway.address(), "/items").expect("an answer").json().as_array().map(Vec::len), Some(50));
        gateway.restart().expect("the gateway starts again");
        for n in 0..50 {
            let answer = http::get(gateway.address(), &format!("/items/{n}")).expect("an answer");
            assert_eq!((answer.status, answer.text()), (200, n.to_string()), "{}", cluster.name());
        }
        let fetched = gateway.metric("tidegate_cache_fetched_records_total");
        assert_eq!(fetched.unwrap_or(0.0), 0.0, "{}: fetched again what was cached", cluster.name());
    }
}

#[test]
fn a_cursor_reads_the_same_from_another_replica() {
    let Some(servers) = testkit::shared_kafka() else { return };
    let (cluster, topic) = (Cluster::Kafka(servers), unique("items-snapshots"));
    let one = items_on(&cluster, &topic).start().expect("one gateway");
    let two = items_on(&cluster, &topic).start().expect("another gateway");
    for n in 0..50 {
        let written = http::put(one.address(), "/items/a", n.to_string().as_bytes()).expect("an answer");
        let cursor = written.header("tidegate-cursor").expect("a cursor").to_owned();
        let read = http::request(two.address(), "GET", "/items/a", &[("tidegate-cursor", &cursor)], b"").expect("an answer");
        assert_eq!((read.status, read.text()), (200, n.to_string()));
    }
}

#[test]
fn curl_speaks_with_it_in_both_protocols() {
    for cluster in Cluster::both() {
        let gateway = items(&cluster).start().expect("the gateway starts");
        let url = gateway.url("/items/a");
        for (protocol, version) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
            let value = format!("by {protocol}");
            let status = ["-o", "/dev/null", "-w", "%{http_code} %{http_version}"];
            let put = curl(&[&[protocol, "-X", "PUT", "--data", value.as_str(), url.as_str()], &status[..]].concat())
                .expect("curl runs");
            assert_eq!(
                String::from_utf8_lossy(&put.stdout),
                format!("204 {version}"),
                "{}",
                String::from_utf8_lossy(&put.stderr)
            );
            let got = curl(&[protocol, "--fail", &url]).expect("curl runs");
            assert_eq!(String::from_utf8_lossy(&got.stdout), value);
        }
    }
}
