//! The listener over real sockets.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use edge::{Body, Drain, DrainHandle, Handler, Limits, Listener, ListenerOptions, Observer, Peer, hit};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Far more than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Counts {
    opened: AtomicUsize,
    closed: AtomicUsize,
    hits: Mutex<Vec<&'static str>>,
    changed: Notify,
}

impl Observer for Counts {
    fn connection_opened(&self) {
        self.opened.fetch_add(1, SeqCst);
        self.changed.notify_one();
    }
    fn connection_closed(&self) {
        self.closed.fetch_add(1, SeqCst);
        self.changed.notify_one();
    }
    fn limit_hit(&self, limit: &'static str) {
        self.hits.lock().expect("hits").push(limit);
        self.changed.notify_one();
    }
}

/// Answers with method, path and the length of the body; `/hold` tells that it runs and waits to be released.
#[derive(Clone, Default)]
struct Echo {
    running: Arc<Notify>,
    release: Arc<Notify>,
}

impl Handler for Echo {
    async fn handle(&self, head: &mut Parts, body: &mut Incoming, _peer: Peer) -> Response<Body> {
        let text = format!("{} {}", head.method, head.uri.path());
        if head.uri.path() == "/big" {
            return Response::new(vec![b'x'; 64 * 1024 * 1024].into());
        }
        let Ok(body) = body.collect().await else {
            return Response::new(Body::Empty);
        };
        if text.ends_with("/hold") {
            self.running.notify_one();
            self.release.notified().await;
        }
        Response::new(Body::from(format!("{text} {}", body.to_bytes().len())))
    }
}

struct Fixture {
    address: SocketAddr,
    echo: Echo,
    counts: Arc<Counts>,
    handle: DrainHandle,
    served: JoinHandle<usize>,
}

fn start(limits: Limits) -> Fixture {
    let address = "127.0.0.1:0".parse().expect("address");
    let listener = Listener::bind(ListenerOptions { name: "test".into(), address, limits }).expect("bind");
    let (handle, drain) = Drain::new();
    let (echo, counts, address) = (Echo::default(), Arc::new(Counts::default()), listener.local_addr());
    let served = tokio::spawn(listener.serve(echo.clone(), counts.clone(), drain));
    Fixture { address, echo, counts, handle, served }
}

impl Fixture {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connect")
    }

    /// Waits until the observer has seen what is expected.
    async fn until(&self, seen: impl Fn(&Counts) -> bool) {
        let wait = async {
            while !seen(&self.counts) {
                self.counts.changed.notified().await;
            }
        };
        timeout(PATIENCE, wait).await.expect("the observer sees it");
    }

    fn hits(&self) -> Vec<&'static str> {
        self.counts.hits.lock().expect("hits").clone()
    }
}

fn short() -> Limits {
    Limits { header_timeout: Duration::from_millis(200), idle_timeout: Duration::from_millis(600), ..Limits::default() }
}

/// Everything until the peer closes.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the peer closes").expect("a clean close");
    String::from_utf8(bytes).expect("text")
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut buffer = [0; 1024];
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("bytes").expect("read");
        assert!(read > 0, "closed after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
    }
    text
}

#[tokio::test]
async fn answers_one_request_in_many_segments() {
    let fixture = start(Limits::default());
    let mut stream = fixture.connect().await;
    stream.set_nodelay(true).expect("nodelay");
    for byte in b"POST /split HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc" {
        stream.write_all(&[*byte]).await.expect("write");
        tokio::task::yield_now().await;
    }
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nPOST /split 3"), "{answer}");
}

#[tokio::test]
async fn answers_pipelined_requests_in_order() {
    let fixture = start(Limits::default());
    let mut stream = fixture.connect().await;
    let requests: String = (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: x\r\n\r\n")).collect();
    stream.write_all(requests.as_bytes()).await.expect("write");
    let answers = read_until(&mut stream, "GET /19 0").await;
    let places: Vec<_> = (0..20).map(|n| answers.find(&format!("GET /{n} 0")).expect("answered")).collect();
    assert!(places.is_sorted(), "{answers}");
}

/// Sends what is given, and expects the status, the end of the connection, and the limit in the books.
async fn check_refused(limits: Limits, request: String, status: &str, limit: Option<&'static str>) {
    let fixture = start(limits);
    let mut stream = fixture.connect().await;
    // The peer may close while we still send: what counts is that the answer is readable.
    let _ = stream.write_all(request.as_bytes()).await;
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with(status), "{answer}");
    drop(stream);
    fixture.until(|counts| counts.closed.load(SeqCst) == 1).await;
    assert_eq!(fixture.hits(), limit.into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn refuses_heads_over_the_limits() {
    let head = |rest: String| format!("GET / HTTP/1.1\r\nhost: x\r\n{rest}");
    let many = (0..101).map(|n| format!("a{n}: b\r\n")).collect();
    let limit = Some(hit::HEADER_BYTES);
    check_refused(Limits::default(), head(format!("big: {}\r\n\r\n", "x".repeat(17 * 1024))), "HTTP/1.1 431 ", limit).await;
    check_refused(Limits::default(), head(format!("big: {}", "x".repeat(700 * 1024))), "HTTP/1.1 431 ", limit).await;
    check_refused(Limits::default(), head(format!("{many}\r\n", many = String::clone(&many))), "HTTP/1.1 431 ", limit).await;
    let few = Limits { headers: 3, ..Limits::default() };
    check_refused(few, head("a: b\r\nc: d\r\ne: f\r\n\r\n".into()), "HTTP/1.1 431 ", limit).await;
    check_refused(Limits::default(), "nonsense\r\n\r\n".into(), "HTTP/1.1 400 ", None).await;
}

#[tokio::test]
async fn closes_slow_heads_and_idle_connections_each_in_its_time() {
    let fixture = start(short());
    let begun = Instant::now();
    let mut silent = fixture.connect().await;
    let mut slow = fixture.connect().await;
    let mut idle = fixture.connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\nx: ").await.expect("write");
    idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
    read_until(&mut idle, "GET / 0").await;
    let mut drip = tokio::time::interval(Duration::from_millis(20));
    let dripping = async {
        loop {
            drip.tick().await;
            if slow.write_all(b"x").await.is_err() {
                return;
            }
        }
    };
    timeout(PATIENCE, dripping).await.expect("the slow head is cut off");
    assert!(begun.elapsed() >= short().header_timeout);
    assert_eq!(read_all(&mut silent).await, "");
    assert_eq!(read_all(&mut idle).await, "");
    assert!(begun.elapsed() >= short().idle_timeout);
    drop(idle);
    fixture.until(|counts| counts.closed.load(SeqCst) == 3).await;
    assert_eq!(fixture.hits(), [hit::HEADER_TIMEOUT, hit::HEADER_TIMEOUT, hit::IDLE_TIMEOUT]);
}

#[tokio::test]
async fn a_request_in_progress_is_neither_slow_nor_idle() {
    let fixture = start(Limits { idle_timeout: Duration::from_millis(100), ..short() });
    let mut busy = fixture.connect().await;
    busy.write_all(b"GET /hold HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
    fixture.echo.running.notified().await;
    // A silent neighbour is cut off after both timeouts of the busy one would have passed.
    for _ in 0..2 {
        assert_eq!(read_all(&mut fixture.connect().await).await, "");
    }
    fixture.echo.release.notify_one();
    assert!(read_until(&mut busy, "GET /hold 0").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn cuts_off_a_peer_that_does_not_read() {
    let fixture = start(short());
    let mut stream = fixture.connect().await;
    stream.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
    fixture.until(|counts| counts.closed.load(SeqCst) == 1).await;
    assert_eq!(fixture.hits(), [hit::WRITE_TIMEOUT]);
}

#[tokio::test]
async fn closes_connections_over_the_limit_and_takes_new_ones_later() {
    let fixture = start(Limits { connections: 2, ..Limits::default() });
    let first = fixture.connect().await;
    let _second = fixture.connect().await;
    fixture.until(|counts| counts.opened.load(SeqCst) == 2).await;
    assert_eq!(read_all(&mut fixture.connect().await).await, "");
    assert_eq!(fixture.hits(), [hit::CONNECTIONS]);
    drop(first);
    fixture.until(|counts| counts.closed.load(SeqCst) == 1).await;
    let mut third = fixture.connect().await;
    third.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
    read_until(&mut third, "GET / 0").await;
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_closes_what_is_idle() {
    let fixture = start(Limits::default());
    let (mut busy, mut idle, mut fresh) = (fixture.connect().await, fixture.connect().await, fixture.connect().await);
    idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
    read_until(&mut idle, "GET / 0").await;
    busy.write_all(b"GET /hold HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
    fixture.echo.running.notified().await;
    fixture.handle.begin(PATIENCE);
    assert_eq!(read_all(&mut idle).await, "");
    assert_eq!(read_all(&mut fresh).await, "");
    assert!(TcpStream::connect(fixture.address).await.is_err(), "it no longer listens");
    fixture.echo.release.notify_one();
    let answer = read_all(&mut busy).await;
    assert!(answer.ends_with("GET /hold 0"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    drop((busy, idle, fresh));
    let aborted = timeout(PATIENCE, fixture.served).await.expect("serve returns").expect("serve");
    assert_eq!(aborted, 0);
    assert_eq!(fixture.counts.closed.load(SeqCst), 3);
}

#[tokio::test]
async fn a_drain_aborts_at_its_deadline() {
    let fixture = start(Limits::default());
    let mut busy = fixture.connect().await;
    busy.write_all(b"GET /hold HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
    fixture.echo.running.notified().await;
    fixture.handle.begin(PATIENCE * 100);
    fixture.handle.begin(Duration::from_millis(50));
    let aborted = timeout(PATIENCE, fixture.served).await.expect("serve returns").expect("serve");
    assert_eq!(aborted, 1);
    assert_eq!(read_all(&mut busy).await, "");
}

#[tokio::test]
async fn http2_by_prior_knowledge() {
    let fixture = start(Limits { headers: 10, ..short() });
    let io = TokioIo::new(fixture.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), io).await.expect("handshake");
    let connection = tokio::spawn(connection);
    let request = |path: &str, headers: &[(&str, String)]| {
        let mut request = Request::get(format!("http://{}{path}", fixture.address));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.body(Empty::new()).expect("request")
    };
    let held = sender.send_request(request("/hold", &[]));
    fixture.echo.running.notified().await;
    let quick = sender.send_request(request("/quick", &[])).await.expect("answer");
    assert_eq!(quick.into_body().collect().await.expect("body").to_bytes(), "GET /quick 0");
    let many: Vec<_> = (0..11).map(|_| ("a", "b".to_string())).collect();
    let refused = sender.send_request(request("/many", &many)).await.expect("answer");
    assert_eq!(refused.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    fixture.until(|counts| !counts.hits.lock().expect("hits").is_empty()).await;
    assert_eq!(fixture.hits(), [hit::HEADERS]);
    let refused = sender.send_request(request("/large", &[("a", "b".repeat(20 * 1024))])).await;
    assert!(refused.is_err() || refused.is_ok_and(|answer| answer.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    fixture.handle.begin(PATIENCE);
    fixture.echo.release.notify_one();
    let answer = held.await.expect("the drain lets it finish");
    assert_eq!(answer.into_body().collect().await.expect("body").to_bytes(), "GET /hold 0");
    let aborted = timeout(PATIENCE, fixture.served).await.expect("serve returns").expect("serve");
    assert_eq!(aborted, 0);
    timeout(PATIENCE, connection).await.expect("the connection ends").expect("task").expect("a clean end");
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed_and_a_large_body_is_whole() {
    let fixture = start(short());
    let io = TokioIo::new(fixture.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), io).await.expect("handshake");
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("http://{}/big", fixture.address)).body(Empty::new()).expect("request");
    let answer = sender.send_request(request).await.expect("answer");
    assert_eq!(answer.into_body().collect().await.expect("body").to_bytes().len(), 64 * 1024 * 1024);
    timeout(PATIENCE, connection).await.expect("the connection is closed").expect("task").expect("a clean end");
    fixture.until(|counts| counts.closed.load(SeqCst) == 1).await;
    assert_eq!(fixture.hits(), [hit::IDLE_TIMEOUT]);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let fixture = start(Limits::default());
    let options = ListenerOptions { name: "public".into(), address: fixture.address, limits: Limits::default() };
    let error = Listener::bind(options).expect_err("in use").to_string();
    assert!(error.contains(&format!("listener `public` cannot listen on {}", fixture.address)), "{error}");
    assert!(error.contains("in use by another process"), "{error}");
}
