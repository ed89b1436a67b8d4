//! Every metric, span and log-field name in one place, and the cheap ways to write them.
//!
//! [`Metrics`] holds what is counted and prints it as OpenMetrics text; [`init_logging`] starts the one log of the process, to
//! which `tracing` events and the [`AccessLog`] go; [`RequestId`] and [`TraceContext`] name a request. This crate deliberately
//! knows no part of the gateway: what only others know is read at scrape time through [`Metrics::register_collector`].

mod access;
mod escape;
mod histogram;
mod ids;
mod logging;
mod metrics;
pub mod names;
mod queue;
mod samples;

pub use access::{AccessLog, Entry, RecordStep};
pub use histogram::RouteMetrics;
pub use ids::{RequestId, SpanId, TraceContext, TraceId};
pub use logging::{LogError, LogFormat, LogGuard, LogOptions, init_logging};
pub use metrics::{
    CONTENT_TYPE, EdgeMetrics, ExchangeMetrics, FetchMetrics, HttpMetrics, Metrics, ProduceMetrics, TopicExchange, TopicFetch,
    TopicProduce,
};
pub use queue::LogQueue;
pub use samples::Samples;
