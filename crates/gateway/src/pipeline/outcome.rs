//! What came of a request: counted, and told in the log where somebody has to know.

use entrypoint::{Outcome, Problem};
use http::StatusCode;
use telemetry::{RequestId, TopicExchange, TopicFetch, TopicProduce};

pub fn count_produce(metrics: &TopicProduce, outcome: Outcome) {
    match outcome {
        Outcome::Failed(cause) => metrics.error(cause),
        _ => drop(metrics.records.inc()),
    }
}

pub fn count_fetch(metrics: &TopicFetch, outcome: Outcome) {
    match outcome {
        Outcome::Hit => drop(metrics.hit.inc()),
        Outcome::NotModified => drop(metrics.not_modified.inc()),
        Outcome::Miss => drop(metrics.miss.inc()),
        Outcome::Failed("cache-behind" | "cache-filling") => drop(metrics.behind.inc()),
        _ => {}
    }
}

pub fn count_exchange(metrics: &TopicExchange, outcome: Outcome) {
    match outcome {
        Outcome::Replied => drop(metrics.replied.inc()),
        Outcome::Failed(cause) => metrics.error(cause),
        _ => drop(metrics.accepted.inc()),
    }
}

/// The limit that a problem is about; empty for none.
pub fn limit_of(problem: &str) -> &'static str {
    match problem {
        "body-too-large" => "body_bytes",
        "body-too-slow" | "timed-out" => "request_timeout",
        "queue-full" => "queue.buffering.max",
        "too-many-pending" => "pending_max",
        "too-many-exchanges" => "pending_exchanges",
        _ => "",
    }
}

/// Tells of a request that failed, as loud as [`Problem::level`] has it. The queue of log lines is bounded.
pub fn log_fault(status: StatusCode, problem: &'static str, route: &str, request_id: &RequestId) {
    let status_code = status.as_u16();
    match Problem::level(status) {
        tracing::Level::WARN => tracing::warn!(problem, status = status_code, route, %request_id, "request failed"),
        tracing::Level::INFO => tracing::info!(problem, status = status_code, route, %request_id, "request failed"),
        _ => tracing::debug!(problem, status = status_code, route, %request_id, "request refused"),
    }
}
