//! The checked configuration: every name resolved, every template compiled, every default filled in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use template::Template;

use crate::secret::looks_secret;

mod exchange;

pub use exchange::*;

#[derive(Debug)]
pub struct Plan {
    pub listeners: Vec<ListenerPlan>,
    /// `None`: switched off.
    pub admin: Option<SocketAddr>,
    pub log: LogPlan,
    pub limits: LimitsPlan,
    pub clusters: Vec<ClusterPlan>,
    pub cache: CachePlan,
    /// `None`: one random key, kept in the cache directory.
    pub signing: Option<SigningPlan>,
    /// The topics of claims, each once; not cached unless `cache.topics` declares them.
    pub claims: Vec<ClaimsPlan>,
    pub routes: Vec<RoutePlan>,
}

#[derive(Clone, Debug)]
pub struct ListenerPlan {
    pub name: String,
    /// Port 0: a free one is taken.
    pub address: SocketAddr,
}

#[derive(Clone, Debug)]
pub struct LogPlan {
    pub level: LogLevel,
    pub format: LogFormat,
    pub access: bool,
}

/// The least important level that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub const fn as_str(self) -> &'static str {
        match self {
            LogLevel::Off => "off",
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    Text,
    Json,
}

/// Every limit of the HTTP front; the words are those of the document.
#[derive(Clone, Debug)]
pub struct LimitsPlan {
    pub header_bytes: usize,
    pub headers: usize,
    pub uri_bytes: usize,
    /// Most bytes of the body of one request.
    pub body_bytes: usize,
    pub connections: usize,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub request_timeout: Duration,
    pub wait_max: Duration,
    pub drain_timeout: Duration,
    /// Most requests in flight.
    pub requests: usize,
    pub path_segments: usize,
    pub streams_per_connection: u32,
    /// Most exchanges that wait for a reply, of all routes.
    pub pending_exchanges: usize,
}

#[derive(Clone)]
pub struct ClusterPlan {
    pub name: String,
    /// The built-in log instead of a Kafka cluster.
    pub embedded: bool,
    /// By Kafka's own names, `bootstrap.servers` among them.
    pub properties: BTreeMap<String, String>,
}

impl fmt::Debug for ClusterPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value)| (name, if looks_secret(name) { "***" } else { value });
        let properties: BTreeMap<&str, &str> =
            self.properties.iter().map(|(name, value)| shown((name.as_str(), value.as_str()))).collect();
        f.debug_struct("ClusterPlan")
            .field("name", &self.name)
            .field("embedded", &self.embedded)
            .field("properties", &properties)
            .finish()
    }
}

#[derive(Clone, Debug)]
pub struct CachePlan {
    pub directory: PathBuf,
    pub segment_bytes: u64,
    pub read_your_writes_timeout: Duration,
    /// Of the logs of all topics together; `None`: without a bound.
    pub max_bytes: Option<u64>,
    /// How often the cluster is asked about the topics that are cached.
    pub topic_refresh: Duration,
    /// How often retention and compaction are looked at.
    pub housekeeping_interval: Duration,
    pub topics: Vec<TopicPlan>,
}

#[derive(Clone, Debug)]
pub struct TopicPlan {
    pub name: String,
    /// The name of a [`ClusterPlan`].
    pub cluster: String,
    /// Fetched from the start on, not from the first use on.
    pub bootstrap: bool,
    pub start: StartPlan,
    /// `None`: no bound but that of the node. Always `None` on an embedded cluster.
    pub max_bytes: Option<u64>,
    /// How long it is fetched after its last reader; `None`: always, as with `bootstrap` and on an embedded cluster.
    pub linger: Option<Duration>,
    pub history: HistoryPlan,
    pub create: Option<CreatePlan>,
}

/// Where a topic's cache begins when nothing is cached yet (Kafka: `auto.offset.reset`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartPlan {
    #[default]
    Earliest,
    Latest,
    /// With the first record that is no older than this (Kafka: `auto.offset.reset=by_duration:...`, KIP-1106).
    Back(Duration),
}

/// What becomes of a reader that asks for offsets which the cluster has and the cache has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HistoryPlan {
    /// It is told which offsets it missed.
    #[default]
    Gap,
    /// They are read from the cluster.
    ReadThrough,
}

#[derive(Clone, Debug)]
pub struct CreatePlan {
    pub partitions: i32,
    /// -1: the default of the cluster (KIP-464).
    pub replication: i32,
    pub config: BTreeMap<String, String>,
}

#[derive(Debug)]
pub struct RoutePlan {
    /// Methods and pattern, such as `GET /items/{id}`.
    pub name: String,
    /// Where it stands in the file; 0 when it came from an override.
    pub line: usize,
    pub listeners: Vec<String>,
    /// In upper case, never empty. `GET` answers `HEAD`, too.
    pub methods: Vec<String>,
    pub path: String,
    /// In lower case, without port.
    pub host: Option<String>,
    /// Names in lower case; `None`: any value will do.
    pub headers: Vec<(String, Option<String>)>,
    pub capability: CapabilityPlan,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each route, made once")]
pub enum CapabilityPlan {
    Produce(ProducePlan),
    Fetch(FetchPlan),
    Exchange(ExchangePlan),
}

#[derive(Debug)]
pub struct ProducePlan {
    pub topic: Template,
    pub cluster: String,
    pub key: Option<Template>,
    pub partition: Option<Template>,
    /// Milliseconds since the epoch.
    pub timestamp: Option<Template>,
    /// Record headers.
    pub headers: Vec<(String, Template)>,
    /// Request headers to copy, names in lower case.
    pub copy_headers: Vec<String>,
    /// `None`: [`LimitsPlan::body_bytes`].
    pub body_bytes: Option<usize>,
    /// `None`: [`LimitsPlan::request_timeout`].
    pub timeout: Option<Duration>,
    /// Who asks: of the request alone. `None`: nobody in particular, an empty text.
    pub identity: Option<Template>,
    pub idempotency: Option<IdempotencyPlan>,
    /// Whether a PUT, PATCH or DELETE without precondition is refused (RFC 6585, section 3). The topic is in the cache then.
    pub require_match: bool,
    /// Whether the topic, which is a literal then, is in [`CachePlan::topics`], so that preconditions can be evaluated.
    pub caches: bool,
}

#[derive(Debug)]
pub struct FetchPlan {
    pub topic: String,
    pub cluster: String,
    pub select: SelectPlan,
    /// Response headers, names in lower case.
    pub headers: Vec<(String, Template)>,
    /// Record headers to copy; record headers are case-sensitive, so these are as written.
    pub copy_headers: Vec<String>,
    pub content_type: Option<String>,
    /// `None`: [`LimitsPlan::wait_max`].
    pub wait_max: Option<Duration>,
}

#[derive(Debug)]
pub enum SelectPlan {
    /// The newest record that passes one of these; never empty.
    Newest(Vec<FilterPlan>),
    /// The newest value of every key, as one JSON array; only what passes one of these, if there are any.
    MergeJson(Vec<FilterPlan>),
}

/// What a record must have: all of it, and there is something.
#[derive(Debug)]
pub struct FilterPlan {
    pub key: Option<Template>,
    /// Record headers are case-sensitive: names as written.
    pub headers: Vec<(String, Template)>,
}
