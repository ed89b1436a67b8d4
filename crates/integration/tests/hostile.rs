//! Requests that mean no good: refused with a status of their own, the connection closed where it cannot be trusted any more,
//! and nobody else disturbed.

use std::fs;
use std::time::{Duration, Instant};

use integration::Records;
use testkit::http::{self, Client};
use testkit::{Gateway, poll_until};

const HEADER_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest a connection may stay open after the time at which it must be closed.
const CLOSES_WITHIN: Duration = Duration::from_secs(10);

fn gateway() -> Gateway {
    let limits = "body_bytes: 64KiB, header_timeout: 500ms, idle_timeout: 2s".to_owned();
    Records { limits, ..Records::embedded() }.builder().start().expect("the gateway starts")
}

/// Sends the bytes and expects the status, and whether the connection is closed behind it; the next client must notice nothing.
fn check(gateway: &Gateway, name: &str, bytes: &[u8], statuses: &[u16], closed: bool) {
    let (answer, mut client) =
        http::send_bytes(gateway.address(), bytes).unwrap_or_else(|cause| panic!("{name}: no answer: {cause}"));
    assert!(statuses.contains(&answer.status), "{name}: {answer:?}");
    if closed {
        assert!(client.closed(CLOSES_WITHIN).expect("a verdict"), "{name}: the connection stays open");
    }
    let next = http::get(gateway.address(), "/records/x").expect("the next client is served");
    assert_eq!(next.status, 404, "{name}");
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes()
}

fn put(headers: &str, body: &str) -> Vec<u8> {
    format!("PUT /records/x HTTP/1.1\r\nhost: x\r\n{headers}\r\n{body}").into_bytes()
}

#[test]
fn odd_paths_are_refused() {
    let gateway = gateway();
    let segments = format!("/records/{}", "a/".repeat(4_000));
    let ten_thousand = format!("/records/{}", "a/".repeat(10_000));
    let long = format!("/records/{}", "a".repeat(9_000));
    for (path, status) in [
        ("/records/%00", 400),
        ("/records/%ff", 400),
        ("/records/%c3%28", 400),
        ("/records/%zz", 400),
        ("/records/%4", 400),
        ("/records/../records/x", 400),
        ("/records/%2e%2e/x", 400),
        ("/records/./x", 400),
        ("/records/%0d%0ax", 400),
    ] {
        check(&gateway, path, &get(path), &[status], false);
    }
    check(&gateway, "4k segments", &get(&segments), &[400, 414], false);
    check(&gateway, "10k segments", &get(&ten_thousand), &[400, 414, 431], false);
    check(&gateway, "a long path", &get(&long), &[414], false);
}

#[test]
fn header_floods_are_refused_and_closed() {
    let gateway = gateway();
    let many: String = (0..1_000).map(|n| format!("x-{n}: 1\r\n")).collect();
    let large = format!("x-large: {}\r\n", "y".repeat(64 * 1024));
    for (name, headers) in [("many headers", many), ("a large header", large)] {
        let request = format!("GET /records/x HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        check(&gateway, name, request.as_bytes(), &[431], true);
    }
}

#[test]
fn bodies_over_the_limit_are_refused() {
    let gateway = gateway();
    let over = "x".repeat(64 * 1024 + 1);
    let chunked = format!("{:x}\r\n{over}\r\n0\r\n\r\n", over.len());
    let problem = http::put(gateway.address(), "/records/x", over.as_bytes()).expect("an answer");
    assert_eq!((problem.status, problem.header("content-type")), (413, Some("application/problem+json")));
    assert_eq!(problem.json()["written"], "no");
    check(&gateway, "an announced length", &put("content-length: 999999999\r\n", ""), &[413], true);
    check(&gateway, "chunks", &put("transfer-encoding: chunked\r\n", &chunked), &[413], false);
    let fits = http::put(gateway.address(), "/records/y", &over.as_bytes()[1..]).expect("an answer");
    assert_eq!(fits.status, 204, "a body of exactly the limit");
}

#[test]
fn framing_that_two_servers_could_read_differently_is_refused() {
    let gateway = gateway();
    for (name, headers, body) in [
        ("two lengths", "content-length: 1\r\ncontent-length: 2\r\n", "ab"),
        ("a negative length", "content-length: -1\r\n", "a"),
        ("a length that is no number", "content-length: 1x\r\n", "a"),
        ("a huge length", "content-length: 99999999999999999999999\r\n", "a"),
        ("a coding that is not chunked", "transfer-encoding: chunked, gzip\r\n", "a"),
    ] {
        check(&gateway, name, &put(headers, body), &[400, 413, 501], true);
    }
    check(&gateway, "no request at all", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", &[400], true);
}

#[test]
fn a_length_beside_chunks_smuggles_nothing() {
    let gateway = gateway();
    // RFC 9112, section 6.3: the coding wins, and the connection may be closed; the second request must never be answered as one.
    let smuggled = put("content-length: 4\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n");
    let (answer, mut client) = http::send_bytes(gateway.address(), &smuggled).expect("an answer");
    assert!(matches!(answer.status, 204 | 400), "{answer:?}");
    assert!(client.closed(CLOSES_WITHIN).expect("a verdict"), "open after ambiguous framing");
}

#[test]
fn slow_heads_and_idle_connections_are_closed() {
    let gateway = gateway();
    let mut slow = Client::connect(gateway.address()).expect("a connection");
    slow.write(b"GET /records/x HTTP/1.1\r\nhost: x\r\nx-slow: ").expect("sent");
    let begun = Instant::now();
    // An answer (408) may come before the end; what counts is the end.
    let _ = slow.read("GET");
    assert!(slow.closed(CLOSES_WITHIN).expect("a verdict"), "a half head keeps its connection");
    assert!(begun.elapsed() >= HEADER_TIMEOUT / 2, "closed before its time: {:?}", begun.elapsed());

    let mut idle = Client::connect(gateway.address()).expect("a connection");
    assert_eq!(idle.request("GET", "/records/x", &[], b"").expect("an answer").status, 404);
    assert!(idle.closed(CLOSES_WITHIN).expect("a verdict"), "an idle connection is kept for ever");
}

#[test]
fn a_request_in_many_pieces_and_many_in_one_are_served() {
    let gateway = gateway();
    let mut client = Client::connect(gateway.address()).expect("a connection");
    for byte in put("content-length: 3\r\n", "abc") {
        client.write(&[byte]).expect("sent");
    }
    assert_eq!(client.read("PUT").expect("an answer").status, 204);
    client.write(&get("/records/x").repeat(20)).expect("sent");
    for n in 0..20 {
        let answer = client.read("GET").expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "abc"), "answer {n}");
    }
}

#[test]
fn memory_stays_flat_under_abuse() {
    let mut gateway = gateway();
    let flood = format!("GET /records/{} HTTP/1.1\r\nhost: x\r\n{}\r\n", "a/".repeat(10_000), "x: y\r\n".repeat(10_000));
    let abuse = |gateway: &Gateway, times: usize| {
        for _ in 0..times {
            let mut client = Client::connect(gateway.address()).expect("a connection");
            // The gateway may close before all of it is sent.
            let _ = client.write(flood.as_bytes());
            let _ = client.read("GET");
        }
    };
    // Once to let every pool grow to its size.
    abuse(&gateway, 50);
    let before = resident_kib(&mut gateway);
    abuse(&gateway, 500);
    let grown = resident_kib(&mut gateway).saturating_sub(before);
    assert!(grown < 16 * 1024, "grew by {grown} KiB");
    assert!(poll_until(CLOSES_WITHIN, || gateway.ready().then_some(())).is_some());
}

fn resident_kib(gateway: &mut Gateway) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.process().id())).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}
