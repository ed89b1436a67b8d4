//! The admin listener: `/livez`, `/readyz`, `/metrics`, and the whole state as JSON at `/`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use edge::{Body, Peer};
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use kafka::Cluster;

use crate::clusters::Clusters;
use crate::exchanges::Exchanges;
use crate::readiness::{self, Look};

#[derive(Clone)]
pub struct Admin {
    pub state: Arc<AdminState>,
}

pub struct AdminState {
    pub clusters: Arc<Clusters>,
    pub exchanges: Arc<Exchanges>,
    pub metrics: Arc<telemetry::Metrics>,
    pub draining: AtomicBool,
    pub version: &'static str,
}

impl edge::Handler for Admin {
    async fn handle(&self, head: &mut Parts, _: &mut Incoming, _: Peer) -> Response<Body> {
        if !matches!(head.method, Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let mut response = self.state.answer(head.uri.path());
        if head.method == Method::HEAD {
            *response.body_mut() = Body::Empty;
        }
        response
    }
}

impl AdminState {
    fn answer(&self, path: &str) -> Response<Body> {
        match path {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.status(|ready| if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }),
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.metrics.encode());
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(telemetry::CONTENT_TYPE));
                response
            }
            "/" => self.status(|_| StatusCode::OK),
            _ => text(StatusCode::NOT_FOUND, "here are /livez, /readyz, /metrics and /\n"),
        }
    }

    /// The state of every cluster, broker, topic and partition, and what keeps the gateway from being ready.
    fn status(&self, code: impl FnOnce(bool) -> StatusCode) -> Response<Body> {
        let seen: Vec<_> = self.clusters.iter().map(|(name, c)| (name, matches!(c, Cluster::Embedded(_)), c.status())).collect();
        let looks: Vec<_> = seen.iter().map(|(name, embedded, status)| Look { name, embedded: *embedded, status }).collect();
        let mut obstacles = readiness::obstacles(&looks, self.draining.load(Ordering::Acquire));
        obstacles.extend(self.exchanges.obstacles());
        let status = readiness::status(&looks, self.version, self.clusters.lock_problem(), &obstacles);
        with_type(code(obstacles.is_empty()), format!("{status:#}\n").into(), "application/json")
    }
}

fn text(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    with_type(status, body.into(), "text/plain; charset=utf-8")
}

fn with_type(status: StatusCode, body: Body, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
