//! HTTP load that `wrk` cannot make: an open loop, many requests that are the same, many that stay.

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bench::{Latencies, Pace};
use bytes::Bytes;
use clap::{Args, Parser, Subcommand};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An open loop opens a connection for each request that finds none idle, up to so many. A request that waits for one is late.
const CONNECTIONS_MAX: usize = 1000;
/// For the last answers of a run.
const LAST_WITHIN: Duration = Duration::from_secs(60);
/// Of one HTTP/2 connection; servers allow more.
const STREAMS: usize = 100;
/// Between two streams of a connection that is to hold many: a burst is not what is measured.
const BREATH: Duration = Duration::from_millis(1);

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// So many per second, whatever becomes of them. Prints one line of JSON.
    Rate {
        #[command(flatten)]
        what: What,
        #[arg(long)]
        rate: u32,
        #[arg(long, default_value_t = 5)]
        seconds: u32,
        /// Give each an idempotency key of its own, beginning like this.
        #[arg(long)]
        keys: Option<String>,
    },
    /// The same request, with one idempotency key, as often as said, all at once over HTTP/2. Prints one line of JSON.
    Same {
        #[command(flatten)]
        what: What,
        #[arg(long, default_value_t = 10_000)]
        requests: usize,
        #[arg(long)]
        key: String,
    },
    /// Requests over HTTP/2 whose answers do not come. Prints `holding`, and holds them until it is killed.
    Hold {
        #[command(flatten)]
        what: What,
        #[arg(long, default_value_t = 50_000)]
        requests: usize,
    },
}

#[derive(Args, Clone)]
struct What {
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    path: String,
    #[arg(long, default_value_t = 256)]
    bytes: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    match Cli::parse().verb {
        Verb::Rate { what, rate, seconds, keys } => println!("{}", open_loop(&runtime, &what, rate, seconds, keys.as_deref())?),
        Verb::Same { what, requests, key } => println!("{}", runtime.block_on(same(&what, requests, &key))?),
        Verb::Hold { what, requests } => runtime.block_on(hold(&what, requests))?,
    }
    Ok(())
}

impl What {
    fn request(&self, key: Option<&str>) -> hyper::http::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(Method::POST).uri(format!("http://{}{}", self.address, self.path));
        request = request.header("host", self.address.to_string()).header("content-type", "application/octet-stream");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        request.body(Full::new(Bytes::from(vec![b'x'; self.bytes])))
    }
}

/// HTTP/1.1 connections that wait for their next request.
struct Pool {
    address: SocketAddr,
    idle: Mutex<Vec<http1::SendRequest<Full<Bytes>>>>,
    places: Semaphore,
    opened: AtomicUsize,
}

/// What an open loop has seen.
#[derive(Default)]
struct Seen {
    latencies: Latencies,
    /// By status or fault.
    others: BTreeMap<String, u64>,
    ended: u64,
}

fn open_loop(runtime: &Runtime, what: &What, rate: u32, seconds: u32, keys: Option<&str>) -> Result<Value, Box<dyn Error>> {
    let places = Semaphore::new(CONNECTIONS_MAX);
    let pool = Arc::new(Pool { address: what.address, idle: Mutex::default(), places, opened: AtomicUsize::new(0) });
    let seen = Arc::<Mutex<Seen>>::default();
    let pace = Arc::new(Pace::new(rate, seconds));
    let (mut n, mut fault) = (0_u64, None);
    pace.run(|due| {
        n += 1;
        match what.request(keys.map(|prefix| format!("{prefix}-{n}")).as_deref()) {
            Ok(request) => {
                let (pool, seen, pace) = (Arc::clone(&pool), Arc::clone(&seen), Arc::clone(&pace));
                runtime.spawn(async move {
                    let ended = pool.send(request).await;
                    let latency = due.elapsed();
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.ended += 1;
                    match ended {
                        Ok(200) if pace.counts(due) => seen.latencies.add(latency),
                        Ok(200) => {}
                        Ok(status) => *seen.others.entry(status.to_string()).or_default() += 1,
                        Err(fault) => *seen.others.entry(fault).or_default() += 1,
                    }
                });
            }
            Err(cause) => fault = Some(cause),
        }
    });
    fault.map_or(Ok(()), Err)?;
    let sent = Instant::now();
    loop {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.ended == pace.total() {
            let (latencies, others) = (std::mem::take(&mut seen.latencies), std::mem::take(&mut seen.others));
            let mut report = latencies.report();
            report["others"] = json!(others);
            report["connections"] = pool.opened.load(Ordering::Relaxed).into();
            return Ok(report);
        }
        if sent.elapsed() > LAST_WITHIN {
            return Err(format!("{} of {} requests have no answer", pace.total() - seen.ended, pace.total()).into());
        }
        drop(seen);
        thread::park_timeout(Duration::from_millis(10));
    }
}

impl Pool {
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<u16, String> {
        let _place = self.places.acquire().await.map_err(|cause| cause.to_string())?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut sender = match idle {
            Some(sender) => sender,
            None => self.open().await?,
        };
        let text = |cause: hyper::Error| cause.to_string();
        let answer = sender.send_request(request).await.map_err(text)?;
        let status = answer.status().as_u16();
        answer.into_body().collect().await.map_err(text)?;
        // Its task has to note the end of the answer before the next request may go.
        sender.ready().await.map_err(text)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Ok(status)
    }

    async fn open(&self) -> Result<http1::SendRequest<Full<Bytes>>, String> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let socket = TcpStream::connect(self.address).await.map_err(|cause| cause.to_string())?;
        socket.set_nodelay(true).map_err(|cause| cause.to_string())?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(|cause| cause.to_string())?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

type Streams = http2::SendRequest<Full<Bytes>>;

/// HTTP/2 connections for so many streams.
async fn multiplexed(address: SocketAddr, streams: usize) -> Result<Vec<Streams>, Box<dyn Error>> {
    let mut senders = Vec::new();
    for _ in 0..streams.div_ceil(STREAMS) {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        senders.push(sender);
    }
    Ok(senders)
}

async fn same(what: &What, requests: usize, key: &str) -> Result<Value, Box<dyn Error>> {
    let senders = multiplexed(what.address, requests).await?;
    let ready = Arc::new(Barrier::new(requests));
    let mut tasks = JoinSet::new();
    for n in 0..requests {
        let (mut sender, request) = (senders[n / STREAMS].clone(), what.request(Some(key))?);
        let ready = Arc::clone(&ready);
        tasks.spawn(async move {
            ready.wait().await;
            let began = Instant::now();
            let answer = sender.send_request(request).await.map_err(|cause| cause.to_string())?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|cause| cause.to_string())?.to_bytes();
            // Each has a request id and a date of its own.
            let etag = head.headers.get("etag").cloned();
            Ok::<_, String>((head.status.as_u16(), etag, body, began.elapsed()))
        });
    }
    let (mut latencies, mut statuses, mut different) = (Latencies::default(), BTreeMap::<String, u64>::new(), HashSet::new());
    while let Some(done) = tasks.join_next().await {
        match done? {
            Ok((status, etag, body, latency)) => {
                latencies.add(latency);
                *statuses.entry(status.to_string()).or_default() += 1;
                different.insert((status, etag, body));
            }
            Err(fault) => *statuses.entry(fault).or_default() += 1,
        }
    }
    let mut report = latencies.report();
    report["statuses"] = json!(statuses);
    report["different"] = different.len().into();
    Ok(report)
}

async fn hold(what: &What, requests: usize) -> Result<(), Box<dyn Error>> {
    let senders = multiplexed(what.address, requests).await?;
    let (mut tasks, failed) = (JoinSet::new(), Arc::<AtomicBool>::default());
    for n in 0..requests {
        let (mut sender, request) = (senders[n % senders.len()].clone(), what.request(None)?);
        let failed = Arc::clone(&failed);
        tasks.spawn(async move {
            let ended = sender.send_request(request).await.map(|answer| answer.status().to_string());
            if !failed.swap(true, Ordering::Relaxed) {
                println!("ended {}", ended.unwrap_or_else(|cause| cause.to_string()));
            }
        });
        if n % senders.len() == 0 {
            tokio::time::sleep(BREATH).await;
        }
    }
    println!("holding");
    while tasks.join_next().await.is_some() {}
    Err("all requests have ended".into())
}
