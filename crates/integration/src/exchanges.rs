//! Routes of every kind that ask by a record, and a worker that does what a request tells it to.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use testkit::http::{self, Response};
use testkit::{Gateway, GatewayBuilder, Record, Reply, poll_until, run_steps, unique};

use crate::{Cluster, Worker};

pub const CORRELATION_ID: &str = "tidegate-correlation-id";
/// The request header that tells the worker what to do.
pub const DO: &str = "x-do";
/// Before what the worker is to do, but not before it is released.
const HOLD: &str = "hold";
/// For what takes a round trip or some on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(30);

/// A configuration with exchanges and with produce routes that look before they write.
///
/// - any method, `/sync/{id}`: no location, no idempotency; pseudo headers and a made one in the record.
/// - `POST PUT /async/{id}`: a location, `x-user` as identity, an optional `Idempotency-Key`; `x-unit` belongs to the request.
/// - `POST /other`: the same on another topic of requests. `POST /few`: two may wait. `POST /brief`: waits for 0.3 s.
/// - `POST /strict`: with a key only. `POST /derived`: the key is made of `x-key`.
/// - `POST /oneway`: nobody replies.
/// - `/items/{id}`: written once for each key, and on condition; `/strict/{id}`: never without one. `PUT /plain/{id}`: of a topic that
///   is not cached.
#[derive(Debug, Clone)]
pub struct Exchanges {
    pub cluster: Cluster,
    pub requests: String,
    pub replies: String,
    pub events: String,
    pub items: String,
    /// Members of `cache.topics.NAME.create.config`, as flow YAML.
    pub requests_config: String,
    pub replies_config: String,
    /// Members of `limits`, as flow YAML.
    pub limits: String,
    /// Further members of the file, a line each.
    pub top: String,
    pub mode: &'static str,
    /// Where it runs; a temporary folder if left out.
    pub dir: Option<PathBuf>,
}

impl Exchanges {
    pub fn on(cluster: &Cluster) -> Self {
        Self {
            cluster: cluster.clone(),
            requests: unique("requests"),
            replies: unique("replies"),
            events: unique("events"),
            items: unique("items"),
            requests_config: String::new(),
            replies_config: String::new(),
            limits: String::new(),
            top: String::new(),
            mode: "local-and-log",
            dir: None,
        }
    }

    pub fn yaml(&self) -> String {
        let Self { requests, replies, events, items, requests_config, replies_config, limits, top, mode, .. } = self;
        let bootstrap = self.cluster.bootstrap();
        let reply = format!(
            "reply: {{ topic: {replies}, copy_headers: [location, x-out], body_bytes: 64KiB, headers: {{ x-at: '${{message.offset}}' }} }}"
        );
        let request = format!("request: {{ topic: {requests}, copy_headers: [{DO}] }}, {reply}");
        let user = "identity: \"${headers[?'x-user'].orValue('')}\"";
        let once = format!("mode: {mode}");
        let key = "key: '${params.id}'";
        let location = "location: '/async/${params.id};cid=${correlationId}'";
        format!(
            "listeners: {{ public: {{ address: '127.0.0.1:0' }} }}
admin: {{ address: '127.0.0.1:0' }}
limits: {{ {limits} }}
clusters: {{ main: {{ bootstrap.servers: '{bootstrap}' }} }}
{top}
cache:
  directory: ./data
  topics:
    {requests}: {{ cluster: main, bootstrap: true, create: {{ partitions: 3, config: {{ {requests_config} }} }} }}
    {requests}-other: {{ cluster: main, bootstrap: true, create: {{ partitions: 1 }} }}
    {replies}: {{ cluster: main, bootstrap: true, create: {{ partitions: 3, config: {{ {replies_config} }} }} }}
    {events}: {{ cluster: main, bootstrap: true, create: {{ partitions: 1 }} }}
    {items}: {{ cluster: main, bootstrap: true, create: {{ partitions: 2, config: {{ cleanup.policy: compact }} }} }}
routes:
- match: '* /sync/{{id}}'
  exchange:
    request: {{ topic: {requests}, {key}, copy_headers: [{DO}, x-tag, ':method', ':path', ':authority', ':scheme'],
      headers: {{ x-made: \"${{params.id}}|${{query[?'q'].orValue('')}}|${{headers[?'x-in'].orValue('')}}\" }} }}
    {reply}
- match: {{ method: [POST, PUT], path: '/async/{{id}}' }}
  exchange: {{ {request}, async: {{ {location}, retry_after: 2s }}, {user}, idempotency: {{ {once}, compare_headers: [x-unit] }} }}
- match: POST /other
  exchange: {{ request: {{ topic: {requests}-other }}, {reply}, async: {{ location: '/other;cid=${{correlationId}}' }}, {user} }}
- match: POST /few
  exchange: {{ {request}, pending_max: 2 }}
- match: POST /brief
  exchange: {{ {request}, timeout: 300ms, async: {{ location: '/brief;cid=${{correlationId}}' }} }}
- match: POST /strict
  exchange: {{ {request}, idempotency: {{ {once}, required: true }} }}
- match: POST /derived
  exchange: {{ {request}, idempotency: {{ {once}, key: \"${{headers['x-key']}}\" }} }}
- match: POST /oneway
  exchange: {{ request: {{ topic: {events}, copy_headers: [x-tag] }} }}
- match: {{ method: [PUT, PATCH, DELETE], path: '/items/{{id}}' }}
  produce: {{ topic: {items}, {key}, idempotency: {{}} }}
- match: {{ method: [PUT, PATCH, DELETE], path: '/strict/{{id}}' }}
  produce: {{ topic: {items}, {key}, require_match: true }}
- match: {{ method: GET, path: '/items/{{id}}' }}
  fetch: {{ topic: {items}, filters: [{{ {key} }}] }}
- match: PUT /plain/{{id}}
  produce: {{ topic: {items}-plain, {key}, cluster: main }}
"
        )
    }

    pub fn builder(&self) -> GatewayBuilder {
        let builder = Gateway::builder().config(self.yaml());
        self.dir.iter().fold(builder, |builder, dir| builder.dir(dir))
    }

    /// With the worker that obeys.
    ///
    /// # Panics
    /// When they do not start.
    pub fn start(self) -> Bed {
        let gateway = self.builder().start().expect("the gateway starts");
        let mut bed = Bed { plan: self, gateway, worker: None, seen: Arc::default() };
        bed.hire("");
        bed
    }
}

/// A gateway and its worker.
#[derive(Debug)]
pub struct Bed {
    pub plan: Exchanges,
    // Before the gateway, so that it ends first.
    worker: Option<Worker>,
    pub gateway: Gateway,
    seen: Arc<Mutex<Vec<Record>>>,
}

impl Bed {
    /// A worker that answers all requests from the first on, and puts this text before each answer; the former one ends.
    ///
    /// # Panics
    /// When it does not start.
    pub fn hire(&mut self, says: &'static str) {
        self.worker = None;
        let (seen, mut held) = (Arc::clone(&self.seen), Vec::new());
        let answer = move |request: &Record| {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
            obey(says, request, &mut held)
        };
        let worker = Worker::start(&self.plan.cluster, &self.gateway, &self.plan.requests, Box::new(answer));
        self.worker = Some(worker.expect("the worker starts"));
    }

    /// Nobody answers any more.
    pub fn dismiss(&mut self) {
        self.worker = None;
    }

    /// What workers have read, with this header.
    pub fn seen(&self, name: &str, value: &str) -> Vec<Record> {
        self.look(|record| record.header(name) == Some(value))
    }

    fn look(&self, is_meant: impl Fn(&Record) -> bool) -> Vec<Record> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|record| is_meant(record)).cloned().collect()
    }

    /// # Panics
    /// Without an answer.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        http::request(self.gateway.address(), method, path, headers, body.as_bytes()).expect("an answer")
    }

    pub fn get(&self, path: &str) -> Response {
        self.ask("GET", path, &[], "")
    }

    pub fn steps(&self, title: &str, steps: &[testkit::Step]) {
        run_steps(self.gateway.address(), &format!("{title} ({})", self.plan.cluster.name()), steps);
    }

    /// Records of a topic, as the command line tells them.
    ///
    /// # Panics
    /// When it does not.
    pub fn records(&self, topic: &str) -> Vec<String> {
        let told = self.gateway.verb("topic consume", &[topic]).expect("the verb ends");
        assert_eq!(told.code, Some(0), "{}", told.stderr);
        told.stdout.lines().map(str::to_owned).collect()
    }

    /// Has the worker write what it holds back, once it has read so many requests of that kind.
    ///
    /// # Panics
    /// When it does not.
    pub fn release(&self, held: usize) {
        let count = || self.look(|record| record.header(DO).is_some_and(|told| told.starts_with(HOLD))).len();
        let read = poll_until(SOON, || (count() >= held).then_some(()));
        assert!(read.is_some(), "{} of {held} requests were read", count());
        let released = self.ask("POST", "/sync/1", &[(DO, "release")], "now");
        assert_eq!((released.status, released.text().as_str()), (200, "re:now"));
    }

    /// Waits until so many wait for a record of an exchange.
    ///
    /// # Panics
    /// When they do not.
    pub fn until_pending(&self, expected: usize) {
        let pending = || self.gateway.metric("tidegate_exchange_pending").map(|n| n as usize);
        let reached = poll_until(SOON, || (pending() == Some(expected)).then_some(()));
        assert!(reached.is_some(), "{:?} wait instead of {expected}", pending());
    }
}

/// What `x-do` says: a word, and something more behind a space.
fn obey(says: &str, request: &Record, held: &mut Vec<Reply>) -> Vec<Reply> {
    let Some(reply) = Reply::to(request) else { return Vec::new() };
    let asked = String::from_utf8_lossy(request.value.as_deref().unwrap_or_default()).into_owned();
    // Where a worker answers twice, the order of a partition says which was first.
    let reply = Reply { partition: Some(0), ..reply }.header("x-out", "out").value(format!("{says}re:{asked}"));
    match request.header(DO).unwrap_or_default() {
        "release" => held.drain(..).chain([reply]).collect(),
        told => match told.strip_prefix(HOLD) {
            Some(told) => {
                held.extend(answers(reply, told.trim_start()));
                Vec::new()
            }
            None => answers(reply, told),
        },
    }
}

fn answers(reply: Reply, told: &str) -> Vec<Reply> {
    let (what, with) = told.split_once(' ').unwrap_or((told, ""));
    let without = |mut reply: Reply, name: &str| {
        reply.headers.retain(|(known, _)| known != name);
        reply
    };
    match what {
        "nothing" => Vec::new(),
        "null" => vec![Reply { value: None, ..without(reply, ":status") }],
        "status" => vec![reply.header(":status", with)],
        "location" => vec![reply.header("location", with)],
        "type" => vec![reply.header("content-type", with)],
        "split" => vec![reply.header("location", "/a\r\nset-cookie: b").header("x-out", "c\0")],
        "large" => vec![reply.value(vec![b'x'; with.parse().unwrap_or_default()])],
        "twice" => vec![reply.clone(), reply.value("second")],
        "anonymous" => vec![without(reply, CORRELATION_ID)],
        "id" => vec![reply.header(CORRELATION_ID, with)],
        _ => vec![reply],
    }
}
