//! Exchanges: one request record, one reply record, matched by their correlation id.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use template::Template;

use super::{CreatePlan, ProducePlan};

/// The record header that holds the request digest: what an idempotent request is compared by.
pub const DIGEST_HEADER: &str = "tidegate-request-digest";
/// The record header that an idempotency key is looked for by.
pub const KEY_HEADER: &str = "tidegate-idempotency-id";

/// The keys that sign location tokens. All replicas share them.
#[derive(Clone)]
pub struct SigningPlan {
    /// The first one signs, all of them verify; never empty, 16 bytes or more each.
    pub keys: Vec<Vec<u8>>,
}

impl fmt::Debug for SigningPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningPlan").field("keys", &self.keys.len()).finish()
    }
}

#[derive(Debug)]
pub struct ExchangePlan {
    /// The request record. Its `identity`, `idempotency`, `body_bytes` and `timeout` are those of the exchange; `copy_headers` may
    /// also have `:method`, `:path`, `:authority` and `:scheme`.
    pub request: ProducePlan,
    /// `None`: one-way.
    pub reply: Option<ReplyPlan>,
    /// Where a reply may be fetched later; `None`: nowhere. Only with a reply.
    pub location: Option<LocationPlan>,
    /// What a client that asks too early is told to wait.
    pub retry_after: Duration,
    pub names: RecordNamesPlan,
    /// How long a request waits for its reply; `None`: [`LimitsPlan::request_timeout`](super::LimitsPlan::request_timeout).
    pub timeout: Option<Duration>,
    /// Longest `Prefer: wait` at the location; `None`: [`LimitsPlan::wait_max`](super::LimitsPlan::wait_max).
    pub wait_max: Option<Duration>,
    /// Most exchanges of the route that wait; `None`: no bound but
    /// [`LimitsPlan::pending_exchanges`](super::LimitsPlan::pending_exchanges).
    pub pending_max: Option<usize>,
}

#[derive(Debug)]
pub struct ReplyPlan {
    pub topic: String,
    pub cluster: String,
    /// Record headers to copy, names as written: record headers are case-sensitive.
    pub copy_headers: Vec<String>,
    /// Response headers, names in lower case.
    pub headers: Vec<(String, Template)>,
    /// For replies that say none.
    pub content_type: Option<String>,
    /// Most bytes of the value of a reply.
    pub body_bytes: usize,
}

/// The path where a reply may be fetched later: a GET route of its own, and the text that leads there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocationPlan {
    /// The path pattern of the GET route. It has the parameter [`LocationPlan::PARAM`], and others of the exchange's own path.
    pub pattern: String,
    /// What the path is made from, in order; exactly one is the correlation id.
    pub pieces: Vec<LocationPiece>,
}

impl LocationPlan {
    /// The parameter of the pattern that holds the location token.
    pub const PARAM: &str = "correlationId";
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocationPiece {
    /// As it is; not percent-encoded.
    Text(String),
    /// A parameter of the exchange's own path.
    Param(String),
    /// The location token: the correlation id, signed.
    CorrelationId,
}

/// The names of the record headers of an exchange; no two of them equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordNamesPlan {
    pub correlation_id: String,
    /// Of the request: the reply topic.
    pub reply_to: String,
    /// Of the reply: the status of the response.
    pub status: String,
}

impl RecordNamesPlan {
    pub fn tidegate() -> Self {
        RecordNamesPlan::of("tidegate-correlation-id", "tidegate-reply-to")
    }

    /// Those of Zilla's `http-kafka` binding.
    pub fn zilla() -> Self {
        RecordNamesPlan::of("zilla:correlation-id", "zilla:reply-to")
    }

    fn of(correlation_id: &str, reply_to: &str) -> Self {
        RecordNamesPlan { correlation_id: correlation_id.into(), reply_to: reply_to.into(), status: ":status".into() }
    }
}

/// What makes a request that is sent again the same request.
#[derive(Debug)]
pub struct IdempotencyPlan {
    pub source: IdempotencySource,
    pub mode: IdempotencyMode,
    /// Request headers that count as part of the request, besides method, path, query and body; in lower case.
    pub compare_headers: Vec<String>,
    /// The claims topic, on the cluster of the request topic; one of [`Plan::claims`](super::Plan::claims). With exactly-once on a
    /// Kafka cluster only: the embedded cluster is exact without it.
    pub claims: Option<String>,
}

#[derive(Debug)]
pub enum IdempotencySource {
    /// A request header, in lower case; without it a request is like no other, unless it is required.
    Header {
        name: String,
        required: bool,
    },
    Key(Template),
}

/// How surely a request that comes again causes no second record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IdempotencyMode {
    /// Looked up in this process and in the topic: two replicas that race may both write.
    #[default]
    LocalAndLog,
    /// Claimed through the cluster: one record, whoever races.
    ExactlyOnce,
}

/// A topic of claims: at most one for each request topic, and for no other.
#[derive(Clone, Debug)]
pub struct ClaimsPlan {
    pub cluster: String,
    pub topic: String,
    /// The topic that claims are copied to, on the same cluster.
    pub target: String,
    /// From `cache.topics`, if the claims topic is declared there; else it is created as the cluster's defaults have it.
    pub create: Option<CreatePlan>,
}
