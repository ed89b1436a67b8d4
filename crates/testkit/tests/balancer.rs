//! The balancer itself: what tests of several replicas rely on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use testkit::http::{Client, send_bytes};
use testkit::{Balancer, free_ports};

/// What a test waits for comes at once, unless the machine stalls.
const WITHIN: Duration = Duration::from_secs(20);

/// A server that answers each request with `answer` and tells what it was sent; without an answer it closes the connection
/// instead, and with `None` it waits for the other side to do so.
fn replica(answer: Option<&'static str>) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (heard, told) = channel();
    thread::spawn(move || {
        for client in listener.incoming() {
            let heard = heard.clone();
            thread::spawn(move || serve(BufReader::new(client.expect("a connection")), answer, &heard));
        }
    });
    (address, told)
}

fn serve(mut client: BufReader<TcpStream>, answer: Option<&str>, heard: &Sender<String>) {
    loop {
        let (mut request, mut length) = (String::new(), 0);
        while !request.ends_with("\r\n\r\n") {
            let start = request.len();
            if client.read_line(&mut request).expect("a line") == 0 {
                return drop(heard.send("end".into()));
            }
            if let Some(value) = request[start..].to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
        }
        while request.contains("chunked") && !request.ends_with("0\r\n\r\n") {
            client.read_line(&mut request).expect("a line");
        }
        let mut body = vec![0; length];
        client.read_exact(&mut body).expect("a body");
        drop(heard.send(request + &String::from_utf8(body).expect("text")));
        match answer {
            Some("") => return,
            Some(answer) => client.get_mut().write_all(answer.as_bytes()).expect("written"),
            None => {}
        }
    }
}

fn dead() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_ports(1).expect("a port")[0]))
}

const A: Option<&str> = Some("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na");
const B: Option<&str> =
    Some("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n\r\n");
const LAST: Option<&str> = Some("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nl");

/// One connection, these requests, these statuses and bodies; the body of a refusal by its beginning.
fn check(replicas: &[SocketAddr], requests: usize, expected: &[&str]) {
    let balancer = Balancer::start(replicas.to_vec()).expect("a balancer");
    let mut client = Client::connect(balancer.address()).expect("a connection");
    let one = |_| {
        let answer = client.request("PUT", "/x", &[], b"body").expect("an answer");
        format!("{} {}", answer.status, answer.text().split(':').next().unwrap_or_default())
    };
    assert_eq!((0..requests).map(one).collect::<Vec<_>>(), expected);
}

#[test]
fn each_request_goes_to_the_next_replica() {
    let (a, b, last) = (replica(A).0, replica(B).0, replica(LAST).0);
    check(&[a, b, last], 6, &["200 a", "200 b", "200 l", "200 a", "200 b", "200 l"]);
    check(&[a], 2, &["200 a", "200 a"]);
}

#[test]
fn another_replica_is_tried_only_if_nothing_was_sent() {
    let (a, closes) = (replica(A).0, replica(Some("")).0);
    check(&[dead(), a], 3, &["200 a", "200 a", "200 a"]);
    check(&[closes, a], 3, &["502 balancer", "200 a", "502 balancer"]);
    check(&[dead(), dead()], 1, &["502 balancer"]);
    check(&[], 1, &["502 balancer"]);
}

#[test]
fn messages_pass_as_they_are() {
    let (address, told) = replica(A);
    let balancer = Balancer::start(vec![address]).expect("a balancer");
    let chunked =
        "PUT /x?y HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n2;e\r\nab\r\n0\r\n\r\n";
    let (answer, mut client) = send_bytes(balancer.address(), chunked.as_bytes()).expect("an answer");
    assert_eq!((answer.text().as_str(), answer.header("balancer-replica")), ("a", Some(address.to_string().as_str())));
    let heard = told.recv_timeout(WITHIN).expect("a request");
    assert_eq!(heard, "PUT /x?y HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2;e\r\nab\r\n0\r\n\r\n");
    // Its answer has no body, whatever its head says; the connection goes on, until the client says otherwise.
    balancer.set(vec![replica(Some("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")).0]);
    assert_eq!(client.request("HEAD", "/", &[], b"").expect("an answer").header("content-length"), Some("9"));
    assert_eq!(client.request("HEAD", "/", &[("connection", "close")], b"").expect("an answer").status, 200);
    assert!(client.closed(WITHIN).expect("a look"));
}

#[test]
fn a_client_that_hangs_up_is_gone_for_the_replica() {
    let (address, told) = replica(None);
    let balancer = Balancer::start(vec![address]).expect("a balancer");
    let mut client = Client::connect(balancer.address()).expect("a connection");
    client.write(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").expect("written");
    assert!(told.recv_timeout(WITHIN).expect("a request").starts_with("GET /"));
    drop(client);
    assert_eq!(told.recv_timeout(WITHIN).expect("an end"), "end");
}
