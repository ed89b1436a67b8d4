//! The keys of an `exchange`, and of `idempotency`, as they are typed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::plan::IdempotencyMode;
use crate::units::{Size, TemplateText, Time, Word};

/// The keys that sign what must not be forged. All replicas need the same.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Signing {
    /// Secrets of 16 bytes or more, such as `${TIDEGATE_SIGNING_KEY}`. The first one signs, all of them verify.
    #[schemars(extend("minItems" = 1, "maxItems" = 16))]
    pub keys: Vec<Word>,
}

/// Writes the request to one topic, and answers with the reply that a worker writes to another.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exchange {
    /// The request record: its value is the body of the request.
    pub request: Request,
    /// Where the reply comes from. When left out, the exchange is one-way: answered when the request record is acknowledged.
    #[serde(default)]
    pub reply: Option<Reply>,
    /// Lets a client fetch the reply later. Only with `reply`.
    #[serde(default)]
    #[serde(rename = "async")]
    pub later: Option<Async>,
    /// Whose exchange it is: a template over the request. When left out: nobody's in particular.
    #[serde(default)]
    pub identity: Option<TemplateText>,
    /// Makes a request that is sent again the same exchange, not a second one.
    #[serde(default)]
    pub idempotency: Option<Idempotency>,
    /// The names of the record headers: `tidegate` (the default), `zilla`, or a map.
    #[serde(default)]
    pub names: Option<Names>,
    /// How long a request waits for its reply; by default `limits.request_timeout`.
    #[serde(default)]
    pub timeout: Option<Time>,
    /// Longest time that a client may wait at the location with `Prefer: wait=N`; by default `limits.wait_max`.
    #[serde(default)]
    pub wait_max: Option<Time>,
    /// Most bytes of the body of a request; by default `limits.body_bytes`.
    #[serde(default)]
    pub body_bytes: Option<Size>,
    /// Most exchanges of this route that wait for a reply; by default as many as `limits.pending_exchanges`.
    #[serde(default)]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub pending_max: Option<u32>,
}

/// The request record: its value is the body of the request.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// The topic; a name without expressions if there is `async` or `idempotency`.
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
    /// Request headers that become record headers of the same name; also `:method`, `:path`, `:authority`, `:scheme`.
    #[serde(default)]
    pub copy_headers: Vec<String>,
}

/// Where the reply comes from, and what becomes of it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reply {
    /// The reply topic.
    pub topic: String,
    /// The cluster; by default that of the topic in `cache.topics`, or that of the request.
    #[serde(default)]
    pub cluster: Option<String>,
    /// Record headers, by names in their exact case, that become response headers of the same name.
    #[serde(default)]
    pub copy_headers: Vec<String>,
    /// Response headers; templates that may use `message`, too.
    #[serde(default)]
    pub headers: BTreeMap<String, TemplateText>,
    /// The content type for replies that say none.
    #[serde(default)]
    pub content_type: Option<String>,
    /// Most bytes of the value of a reply; 1MiB when left out.
    #[serde(default)]
    pub body_bytes: Option<Size>,
}

/// Lets a client fetch the reply later.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Async {
    /// The path of the reply, with one `${correlationId}`: `/orders/${params.id};cid=${correlationId}`.
    pub location: TemplateText,
    /// What a client that asks too early is told to wait; 1s when left out.
    #[serde(default)]
    pub retry_after: Option<Time>,
}

/// Which requests are the same.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub(crate) struct Idempotency {
    /// The request header that has the client's key; `idempotency-key` when left out.
    pub header: Option<String>,
    /// Whether a request without that header is refused.
    pub required: Option<bool>,
    /// A template over the request that makes the key, instead of a header.
    pub key: Option<TemplateText>,
    /// `local-and-log`, or `exactly-once` over all replicas, which costs a transaction.
    pub mode: IdempotencyMode,
    /// Request headers that must be the same, too, besides method, path, query and body.
    pub compare_headers: Vec<String>,
    /// The topic of the claims, with `exactly-once`; by default the request topic's name with `-claims`.
    pub claims: Option<String>,
}

/// The names of the record headers.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Names {
    Profile(Profile),
    Own(OwnNames),
}

/// A known set of names.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Profile {
    /// `tidegate-correlation-id`, `tidegate-reply-to`, `:status`.
    Tidegate,
    /// `zilla:correlation-id`, `zilla:reply-to`, `:status`.
    Zilla,
}

/// The names of the record headers, one by one.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OwnNames {
    /// Of the correlation id, in request and reply; `tidegate-correlation-id` when left out.
    #[serde(default)]
    pub correlation_id: Option<String>,
    /// Of the reply topic, in the request; `tidegate-reply-to` when left out.
    #[serde(default)]
    pub reply_to: Option<String>,
    /// Of the response's status, in the reply; `:status` when left out.
    #[serde(default)]
    pub status: Option<String>,
}
