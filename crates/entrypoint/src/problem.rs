//! One table from cause to answer: status, name of the problem, and whether the record may have been written.
//! `docs/problems.md` shows the same table to users.

use std::time::Duration;

use bytes::Bytes;
use exchange::{CursorError, FetchError, OnceError, ProduceFault};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use kafka::{ProduceError, Written};
use template::{Blame, RenderError};

use crate::Reply;

/// A fault as RFC 9457 tells it. `type` is `urn:tidegate:problem:` and the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    pub name: &'static str,
    pub title: &'static str,
    pub detail: String,
    /// Of a produce: whether a retry may write a second record.
    pub written: Option<Written>,
    /// `Retry-After` in seconds.
    pub retry_after: Option<u32>,
    /// Further members, by name.
    pub members: Vec<(&'static str, String)>,
}

/// Seconds after which a client may try again what is not available now.
const RETRY_SOON: u32 = 1;

impl Problem {
    fn new(status: StatusCode, name: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, name, title, detail: detail.into(), written: None, retry_after: None, members: Vec::new() }
    }

    fn retry(self) -> Self {
        Self { retry_after: Some(RETRY_SOON), ..self }
    }

    pub fn bad_path(status: StatusCode, detail: impl Into<String>) -> Self {
        Self::new(status, "bad-path", "The path cannot be read", detail)
    }

    pub fn bad_head(status: StatusCode, detail: impl Into<String>) -> Self {
        Self::new(status, "bad-head", "The head of the request cannot be taken", detail)
    }

    pub fn no_route() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no-route",
            "No route has this path",
            "no route of this gateway matches the path of the request",
        )
    }

    pub fn method_not_allowed(allow: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "The method is not allowed here",
            format!("allowed: {allow}"),
        )
    }

    pub fn nothing_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "There is nothing here",
            "no record has this key, or its newest one is a tombstone",
        )
    }

    pub fn body_too_large(limit_bytes: u64) -> Self {
        let detail = format!("the body may have {limit_bytes} bytes at most");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large", detail).not_written()
    }

    pub fn body_unreadable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "body-unreadable", "The body did not arrive whole", detail).not_written()
    }

    pub fn body_too_slow(timeout: Duration) -> Self {
        let detail = format!("the body did not arrive within {timeout:?}");
        Self::new(StatusCode::REQUEST_TIMEOUT, "body-too-slow", "The body is too slow", detail).not_written()
    }

    /// The cluster may still write the record.
    pub fn produce_too_slow(timeout: Duration) -> Self {
        let detail = format!("the cluster did not acknowledge the record within {timeout:?}");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timed-out", "The cluster did not answer in time", detail).maybe_written()
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "The request cannot be used", detail).not_written()
    }

    pub fn key_missing(header: &HeaderName) -> Self {
        let detail = format!("the request needs the header {header}: any text that is new for each new request");
        Self::new(StatusCode::BAD_REQUEST, "idempotency-key-missing", "The idempotency key is missing", detail).not_written()
    }

    pub fn precondition_required() -> Self {
        let detail = "say what is replaced: If-Match with the ETag of the current record, or If-None-Match: * for none";
        Self::new(StatusCode::PRECONDITION_REQUIRED, "precondition-required", "A condition is missing", detail).not_written()
    }

    /// The request is in its topic, and no reply came.
    pub fn no_reply(waited: Duration) -> Self {
        let detail = format!("the request was written, and nobody has replied within {:.1} s", waited.as_secs_f64());
        Self::new(StatusCode::GATEWAY_TIMEOUT, "no-reply", "There is no reply yet", detail).written()
    }

    pub fn bad_reply(detail: impl Into<String>) -> Self {
        let detail = format!("the reply cannot be passed on: {}", detail.into());
        Self::new(StatusCode::BAD_GATEWAY, "bad-reply", "The reply is faulty", detail)
    }

    pub fn unknown_exchange() -> Self {
        let detail = "no request of yours has this id";
        Self::new(StatusCode::NOT_FOUND, "unknown-exchange", "There is no such exchange", detail)
    }

    pub fn reply_gone() -> Self {
        let detail = "the exchange is older than what its topics keep, or its request was never written";
        Self::new(StatusCode::GONE, "reply-gone", "The reply is gone", detail)
    }

    pub fn too_many_pending(limit: usize) -> Self {
        let detail = format!("{limit} exchanges of this route wait for a reply (pending_max)");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-pending", "The worker is behind", detail).not_written().retry()
    }

    pub fn too_many_exchanges(limit: usize) -> Self {
        let detail = format!("{limit} exchanges wait for a reply (limits.pending_exchanges)");
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-exchanges", "The gateway is busy", detail);
        problem.not_written().retry()
    }

    pub fn too_many_requests(limit: usize) -> Self {
        let detail = format!("{limit} requests are running (limits.requests)");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-requests", "The gateway is busy", detail).retry()
    }

    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The gateway failed", detail)
    }

    /// Of a fault before the record was written.
    pub fn not_written(self) -> Self {
        Self { written: Some(Written::No), ..self }
    }

    fn maybe_written(self) -> Self {
        Self { written: Some(Written::Maybe), ..self }
    }

    /// Of a fault after the record was written.
    pub fn written(self) -> Self {
        Self { written: Some(Written::Yes), ..self }
    }

    /// Of a request that would have written nothing.
    pub fn of_a_look(self) -> Self {
        Self { written: None, ..self }
    }

    pub fn may_be_written(&self) -> bool {
        matches!(self.written, Some(Written::Maybe | Written::Yes))
    }

    /// With one more member.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: String) -> Self {
        self.members.push((name, value));
        self
    }

    /// How loud a fault of this status is told in the log: one of ours or of a worker; one of the cluster or of a limit, which
    /// lasts and is seen in metrics; one of the client.
    pub fn level(status: StatusCode) -> tracing::Level {
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => tracing::Level::INFO,
            status if status.is_server_error() => tracing::Level::WARN,
            _ => tracing::Level::DEBUG,
        }
    }

    fn body(&self) -> Bytes {
        let mut body = serde_json::json!({
            "type": format!("urn:tidegate:problem:{}", self.name),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(written) = self.written {
            body["written"] = match written {
                Written::No => "no".into(),
                Written::Maybe => "maybe".into(),
                Written::Yes => "yes".into(),
            };
        }
        for (name, value) in &self.members {
            body[*name] = value.as_str().into();
        }
        body.to_string().into()
    }

    pub fn response(&self) -> Response<Reply> {
        let mut response = Response::new(Reply::Full(self.body()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<&RenderError> for Problem {
    fn from(e: &RenderError) -> Self {
        match e.blame {
            Blame::Request => Self::new(StatusCode::BAD_REQUEST, "bad-request", "The request lacks something", e.to_string()),
            Blame::Template => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "template-failed", "A template of the route failed", e.to_string())
            }
        }
    }
}

impl From<CursorError> for Problem {
    fn from(e: CursorError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-cursor", "The cursor cannot be used", e.to_string())
    }
}

impl From<&ProduceFault> for Problem {
    fn from(fault: &ProduceFault) -> Self {
        let problem = match fault {
            ProduceFault::Render(e) => Self::from(e),
            ProduceFault::NoNumber { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "bad-request", "The request gives no usable value", fault.to_string())
            }
            ProduceFault::TopicName(_) => {
                Self::new(StatusCode::NOT_FOUND, "unknown-topic", "There is no such topic", fault.to_string())
            }
            ProduceFault::Cluster(e) => Self::from(e),
            ProduceFault::NotCached(_) | ProduceFault::NoKey => {
                let title = "Conditions cannot be looked at here";
                Self::new(StatusCode::BAD_REQUEST, "precondition-unsupported", title, fault.to_string())
            }
            ProduceFault::Current(e) => Self::from(e),
            ProduceFault::Once(e) => Self::from(e),
        };
        Self { written: problem.written.or(Some(Written::No)), ..problem }
    }
}

impl From<&OnceError> for Problem {
    fn from(e: &OnceError) -> Self {
        match e {
            OnceError::Produce(e) => Self::from(e),
            // Not by this request: one with that key before it may have.
            OnceError::Look(e) => Self::from(e.as_ref()).maybe_written(),
            OnceError::Conflict => {
                let detail =
                    "the idempotency key was used for a request with another method, path, body or header: take a new key";
                let title = "The idempotency key is taken";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", title, detail).not_written()
            }
            // It is in the cluster for good, and will be written once.
            OnceError::Claimed => {
                let title = "The cluster did not answer in time";
                Self::new(StatusCode::GATEWAY_TIMEOUT, "timed-out", title, e.to_string()).maybe_written()
            }
            OnceError::Broken => Self::internal(e.to_string()).maybe_written(),
        }
    }
}

impl From<&ProduceError> for Problem {
    fn from(e: &ProduceError) -> Self {
        use StatusCode as S;
        let (status, name, title) = match e {
            ProduceError::UnknownTopic { .. } => (S::NOT_FOUND, "unknown-topic", "There is no such topic"),
            ProduceError::UnknownPartition { .. } => (S::BAD_REQUEST, "unknown-partition", "The topic has no such partition"),
            ProduceError::TooLarge { .. } => (S::PAYLOAD_TOO_LARGE, "record-too-large", "The record is too large"),
            ProduceError::Invalid { .. } => (S::BAD_REQUEST, "record-refused", "The cluster refuses the record"),
            ProduceError::QueueFull => (S::TOO_MANY_REQUESTS, "queue-full", "Too many records are on their way"),
            ProduceError::NotAuthorized { .. } => (S::BAD_GATEWAY, "not-authorized", "The gateway may not write to the topic"),
            ProduceError::Unavailable { .. } => (S::SERVICE_UNAVAILABLE, "cluster-unavailable", "The cluster is not available"),
            ProduceError::TimedOut { .. } => (S::GATEWAY_TIMEOUT, "timed-out", "The cluster did not answer in time"),
            ProduceError::ConditionFailed => (S::PRECONDITION_FAILED, "precondition-failed", "The condition does not hold"),
            ProduceError::DiskFull => (S::SERVICE_UNAVAILABLE, "disk-full", "The disk of the embedded log is full"),
            ProduceError::BytesMax => (S::SERVICE_UNAVAILABLE, "disk-full", "The embedded log may take no more bytes"),
        };
        let retry_after = matches!(status, S::TOO_MANY_REQUESTS | S::SERVICE_UNAVAILABLE).then_some(RETRY_SOON);
        let detail = match e {
            // Brokers, addresses and paths are for `/readyz` and the log.
            ProduceError::Unavailable { .. } => "the cluster of this topic cannot take records now".into(),
            ProduceError::TimedOut { .. } => "the cluster did not acknowledge the record in time".into(),
            ProduceError::NotAuthorized { .. } => "the cluster does not let the gateway write to the topic".into(),
            ProduceError::ConditionFailed => "the current record is not the one that the request names, or there is none".into(),
            _ => e.to_string(),
        };
        Self { written: Some(e.written()), retry_after, ..Self::new(status, name, title, detail) }
    }
}

impl From<&FetchError> for Problem {
    fn from(e: &FetchError) -> Self {
        let (name, title) = match e {
            FetchError::Render(e) => return Self::from(e),
            FetchError::Unreadable(_) => {
                // Where on which disk is for the log, not for clients.
                let detail = "a record that the answer depends on is damaged on disk and is not served";
                return Self::new(StatusCode::INTERNAL_SERVER_ERROR, "unreadable", "The record cannot be read", detail);
            }
            FetchError::TooBroad { .. } => {
                let title = "The filter is too broad";
                return Self::new(StatusCode::UNPROCESSABLE_ENTITY, "filter-too-broad", title, e.to_string());
            }
            FetchError::Unavailable(_) => {
                let detail = "the topic is not cached and its cluster cannot be asked now";
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, "cluster-unavailable", "The cluster is not available", detail)
                    .retry();
            }
            FetchError::Filling { .. } => ("cache-filling", "The cache is not filled yet"),
            FetchError::Behind { .. } => ("cache-behind", "The cache is behind"),
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, name, title, e.to_string()).retry()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A route may have limits of its own: the value that applied is told, not a key of the configuration that may not have.
    #[test]
    fn details_tell_the_limit_that_applied() {
        for (problem, detail) in [
            (Problem::body_too_large(1024), "the body may have 1024 bytes at most"),
            (Problem::body_too_slow(Duration::from_millis(1500)), "the body did not arrive within 1.5s"),
            (Problem::produce_too_slow(Duration::from_secs(30)), "the cluster did not acknowledge the record within 30s"),
        ] {
            assert_eq!(problem.detail, detail);
        }
    }
}
