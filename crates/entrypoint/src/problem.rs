//! One table from cause to answer: status, name of the problem, and whether the record may have been written.
//! `docs/problems.md` shows the same table to users.

use std::time::Duration;

use bytes::Bytes;
use exchange::{CursorError, FetchError, ProduceFault};
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
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
}

/// Seconds after which a client may try again what is not available now.
const RETRY_SOON: u32 = 1;

impl Problem {
    fn new(status: StatusCode, name: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, name, title, detail: detail.into(), written: None, retry_after: None }
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
        let problem = Self::new(StatusCode::GATEWAY_TIMEOUT, "timed-out", "The cluster did not answer in time", detail);
        Self { written: Some(Written::Maybe), ..problem }
    }

    pub fn too_many_requests(limit: usize) -> Self {
        let detail = format!("{limit} requests are running (limits.requests)");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-requests", "The gateway is busy", detail).retry()
    }

    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The gateway failed", detail)
    }

    fn not_written(self) -> Self {
        Self { written: Some(Written::No), ..self }
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
            };
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
        };
        Self { written: problem.written.or(Some(Written::No)), ..problem }
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
            ProduceError::DiskFull => (S::SERVICE_UNAVAILABLE, "disk-full", "The disk of the embedded log is full"),
            ProduceError::BytesMax => (S::SERVICE_UNAVAILABLE, "disk-full", "The embedded log may take no more bytes"),
        };
        let retry_after = matches!(status, S::TOO_MANY_REQUESTS | S::SERVICE_UNAVAILABLE).then_some(RETRY_SOON);
        let detail = match e {
            // Brokers, addresses and paths are for `/readyz` and the log.
            ProduceError::Unavailable { .. } => "the cluster of this topic cannot take records now".into(),
            ProduceError::TimedOut { .. } => "the cluster did not acknowledge the record in time".into(),
            ProduceError::NotAuthorized { .. } => "the cluster does not let the gateway write to the topic".into(),
            _ => e.to_string(),
        };
        Self { status, name, title, detail, written: Some(e.written()), retry_after }
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
