//! The document as it is typed: the single source of its shape, by [`schemars`].

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::{HistoryPlan, LogFormat, LogLevel};
use crate::units::{Address, MaybeAddress, Size, Start, TemplateText, Time, Word};

mod exchange;

pub(crate) use exchange::*;

/// Tidegate: Kafka topics behind one HTTP surface, served from a durable cache.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "tidegate.yaml", extend("required" = ["listeners"]))]
#[derive(Default)]
pub(crate) struct Document {
    /// The addresses that accept HTTP/1.1 and HTTP/2, by name.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 64))]
    pub listeners: BTreeMap<String, Listener>,
    /// Where /livez, /readyz, /metrics and the status are served.
    pub admin: Admin,
    /// What is written to standard error.
    pub log: Log,
    /// Every limit of the HTTP front.
    pub limits: Limits,
    /// The Kafka clusters, by name.
    pub clusters: BTreeMap<String, Cluster>,
    /// The message cache: which topics are kept, and where.
    pub cache: Cache,
    /// The keys that sign what must not be forged. Without them one is made and kept in the cache directory, which will do for a
    /// single gateway.
    pub signing: Option<Signing>,
    /// What is answered: each route is a match with one capability.
    pub routes: Vec<Route>,
}

/// The properties of a cluster under Kafka's own names: `bootstrap.servers` (`embedded`: the built-in log), `security.protocol`,
/// `sasl.mechanism`, `linger.ms` and so on; with the scopes `producer.`, `consumer.`, `admin.` where they differ.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Cluster(pub BTreeMap<String, Word>);

/// An address that accepts HTTP.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    /// IP address and port; port 0 takes a free one.
    pub address: Address,
}

/// The admin listener.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Admin {
    /// IP address and port, or `off`.
    pub address: MaybeAddress,
}

impl Default for Admin {
    fn default() -> Self {
        Admin { address: MaybeAddress(Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)))) }
    }
}

/// What is written to standard error.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// The least important level that is written.
    pub level: LogLevel,
    /// The form of a line.
    pub format: LogFormat,
    /// Whether each request writes a line.
    pub access: bool,
}

impl Default for Log {
    fn default() -> Self {
        Log { level: LogLevel::Info, format: LogFormat::Auto, access: true }
    }
}

/// Every limit of the HTTP front.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Most bytes of the head of a request; 431 above.
    pub header_bytes: Size,
    /// Most header fields of a request; 431 above.
    #[schemars(range(min = 1, max = 10_000))]
    pub headers: u32,
    /// Most bytes of a request target; 414 above.
    pub uri_bytes: Size,
    /// Most bytes of the body of one request; 413 above.
    pub body_bytes: Size,
    /// Most connections of one listener; further ones are closed at once.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections: u32,
    /// Longest time that the head of a request may take to arrive.
    pub header_timeout: Time,
    /// Longest time that a connection may be without a request.
    pub idle_timeout: Time,
    /// Longest time of a produce for its body to arrive (408 above), and again for the acknowledgement (504 above).
    pub request_timeout: Time,
    /// Longest time that a client may wait for a change with `Prefer: wait=N` (RFC 7240, section 4.3).
    pub wait_max: Time,
    /// Longest time that running requests may take after the stop signal.
    pub drain_timeout: Time,
    /// Most requests in flight over all listeners; 503 above.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub requests: u32,
    /// Most segments of a path; 400 above.
    #[schemars(range(min = 1, max = 10_000))]
    pub path_segments: u32,
    /// Most concurrent streams of one HTTP/2 connection (RFC 9113, SETTINGS_MAX_CONCURRENT_STREAMS).
    #[schemars(range(min = 1, max = 100_000))]
    pub streams_per_connection: u32,
    /// Most exchanges that wait for a reply, over all routes; 503 above.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub pending_exchanges: u32,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = |n| Time(Duration::from_secs(n));
        Limits {
            header_bytes: Size(16 * 1024),
            headers: 100,
            uri_bytes: Size(8 * 1024),
            body_bytes: Size(1024 * 1024),
            connections: 10_000,
            header_timeout: seconds(10),
            idle_timeout: seconds(75),
            request_timeout: seconds(30),
            wait_max: seconds(60),
            drain_timeout: seconds(30),
            requests: 10_000,
            path_segments: 64,
            streams_per_connection: 128,
            pending_exchanges: 50_000,
        }
    }
}

/// The message cache.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Cache {
    /// Where the logs are kept; a relative path starts at the directory of this file.
    pub directory: String,
    /// Most bytes of one segment of a log.
    pub segment_bytes: Size,
    /// Longest time that a fetch waits for what was produced before it.
    pub read_your_writes_timeout: Time,
    /// Most bytes that the logs of all topics take together, embedded ones included; without a bound when left out. The oldest
    /// segments of Kafka topics go to make room; where that is not enough, no log takes records until there is room.
    pub max_bytes: Option<Size>,
    /// How often the configuration, the id and the partitions of each Kafka topic are looked at.
    pub topic_refresh: Time,
    /// How often retention and compaction are looked at.
    pub housekeeping_interval: Time,
    /// The topics that are cached, by name.
    pub topics: BTreeMap<String, Topic>,
}

impl Default for Cache {
    fn default() -> Self {
        Cache {
            directory: "./data".into(),
            segment_bytes: Size(256 << 20),
            read_your_writes_timeout: Time(Duration::from_secs(5)),
            max_bytes: None,
            topic_refresh: Time(Duration::from_secs(10)),
            housekeeping_interval: Time(Duration::from_secs(15)),
            topics: BTreeMap::new(),
        }
    }
}

/// A cached topic.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub(crate) struct Topic {
    /// The cluster that has it; may be left out when there is one cluster only.
    pub cluster: Option<String>,
    /// Whether it is fetched from the start of the gateway on; otherwise on first use.
    pub bootstrap: bool,
    /// Where to begin when nothing is cached yet.
    pub start: Start,
    /// Most bytes that the cache of the topic takes; without a bound of its own when left out. Kafka topics only.
    pub max_bytes: Option<Size>,
    /// How long it is still fetched after its last reader; 60s when left out. Kafka topics without `bootstrap` only.
    pub linger: Option<Time>,
    /// What becomes of a reader that asks for offsets which the cluster has and the cache has not.
    pub history: HistoryPlan,
    /// How to create the topic if it is missing. The embedded cluster creates missing topics without it, too.
    pub create: Option<Create>,
}

/// How to create a missing topic.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Create {
    /// The number of partitions.
    #[schemars(range(min = 1, max = 10_000))]
    pub partitions: i32,
    /// The replication factor; -1: the default of the cluster.
    #[schemars(range(min = -1, max = 1000))]
    pub replication: i32,
    /// Topic properties under Kafka's own names, such as `cleanup.policy`.
    pub config: BTreeMap<String, Word>,
}

impl Default for Create {
    fn default() -> Self {
        Create { partitions: 1, replication: -1, config: BTreeMap::new() }
    }
}

/// A match with one capability: `produce`, `fetch` or `exchange`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    /// Which requests: `POST /items`, or a map.
    #[serde(rename = "match")]
    pub matches: Match,
    /// The listeners that serve it; all when left out.
    #[serde(default)]
    pub listener: Option<OneOrMany>,
    /// Writes the request to a topic.
    #[serde(default)]
    pub produce: Option<Produce>,
    /// Answers from a cached topic.
    #[serde(default)]
    pub fetch: Option<Fetch>,
    /// Writes the request to one topic and answers with the reply from another.
    #[serde(default)]
    pub exchange: Option<Exchange>,
}

/// Which requests a route takes.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Match {
    /// Method and path pattern, such as `GET /items/{id}`.
    Short(String),
    Long(MatchMap),
}

/// Which requests a route takes.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MatchMap {
    /// One method, a list, or `*`: all that the capability has.
    #[serde(default)]
    pub method: Option<OneOrMany>,
    /// The path pattern, such as `/items/{id}` or `/files/{*rest}`.
    pub path: String,
    /// The host name, without port.
    #[serde(default)]
    pub host: Option<String>,
    /// Request headers with the value they must have; `*`: any.
    #[serde(default)]
    pub headers: BTreeMap<String, Word>,
}

/// One name or a list of names.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Writes the request to a topic: its body is the value of the record.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Produce {
    /// The topic.
    pub topic: TemplateText,
    /// The cluster; by default that of the topic in `cache.topics`, or the only one.
    #[serde(default)]
    pub cluster: Option<String>,
    /// The key of the record; none when left out.
    #[serde(default)]
    pub key: Option<TemplateText>,
    /// The partition; by default chosen from the key as Kafka's own clients do (murmur2).
    #[serde(default)]
    pub partition: Option<TemplateText>,
    /// The timestamp of the record in milliseconds since the epoch; by default the time of the request.
    #[serde(default)]
    pub timestamp: Option<TemplateText>,
    /// Record headers.
    #[serde(default)]
    pub headers: BTreeMap<String, TemplateText>,
    /// Request headers that become record headers of the same name.
    #[serde(default)]
    pub copy_headers: Vec<String>,
    /// Most bytes of a body; by default `limits.body_bytes`.
    #[serde(default)]
    pub body_bytes: Option<Size>,
    /// Longest time for the body to arrive, and again for the acknowledgement; by default `limits.request_timeout`.
    #[serde(default)]
    pub timeout: Option<Time>,
    /// Whose request it is: a template over the request. Idempotency keys of different identities have nothing to do with each other.
    #[serde(default)]
    pub identity: Option<TemplateText>,
    /// Makes a request that is sent again cause no second record.
    #[serde(default)]
    pub idempotency: Option<Idempotency>,
    /// Whether a PUT, PATCH or DELETE without `If-Match`, `If-None-Match` or `If-Unmodified-Since` is refused (428).
    #[serde(default)]
    pub require_match: bool,
}

/// Answers from a cached topic: one record by `filters`, or all of them, or all that pass `filters`, by `merge`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fetch {
    /// The topic, one of `cache.topics`.
    pub topic: String,
    /// The cluster of the topic; may be left out.
    #[serde(default)]
    pub cluster: Option<String>,
    /// The newest record that passes one of these; with `merge`, all that do.
    #[serde(default)]
    #[schemars(extend("minItems" = 1))]
    pub filters: Option<Vec<Filter>>,
    /// The newest value of every key, as one document.
    #[serde(default)]
    pub merge: Option<Merge>,
    /// Response headers; templates that may use `message`, too, except with `merge`.
    #[serde(default)]
    pub headers: BTreeMap<String, TemplateText>,
    /// Record headers, by names in their exact case, that become response headers of the same name. Not with `merge`.
    #[serde(default)]
    pub copy_headers: Vec<String>,
    /// The content type for records that say none, and for a merged answer.
    #[serde(default)]
    pub content_type: Option<String>,
    /// Longest time that a client may wait for a change; by default `limits.wait_max`.
    #[serde(default)]
    pub wait_max: Option<Time>,
}

/// What a record must have, all of it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub(crate) struct Filter {
    /// The key of the record.
    #[serde(default)]
    pub key: Option<TemplateText>,
    /// Headers of the record: names in their exact case, and the value that one header of that name must have.
    #[serde(default)]
    #[schemars(extend("minProperties" = 1))]
    pub headers: BTreeMap<String, TemplateText>,
}

/// How records become one document.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Merge {
    /// A JSON array of the values.
    Json,
}
