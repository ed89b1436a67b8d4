//! The path of one request:
//!
//! ```text
//! listener -> admission -> routing -> capability (entrypoint -> exchange -> cache or cluster) -> answer
//! ```
//!
//! The edge hands over a request and a peer; what comes back is a response, whatever happened. Which capability answers
//! was decided by the configuration; what it does with the request is its own affair.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use edge::{Body, HeadFault, PathFault, Peer, Routed, Router};
use entrypoint::{ExchangeFace, FetchFace, Outcome, Problem, ProduceFace, Reply};
use http::header::{ALLOW, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use telemetry::{RouteMetrics, TopicExchange, TopicFetch, TopicProduce};

use crate::pipeline::outcome::{count_exchange, count_fetch, count_produce, limit_of, log_fault};
use crate::pipeline::passage::Passage;

mod outcome;
mod passage;

/// What the requests of one listener go through. Cloning shares it.
#[derive(Clone)]
pub struct Pipeline {
    pub(crate) parts: Arc<Parts>,
}

pub(crate) struct Parts {
    pub router: Router<Arc<Route>>,
    pub shared: Arc<Shared>,
}

/// What the listeners of the process have in common.
pub(crate) struct Shared {
    pub metrics: Arc<telemetry::Metrics>,
    pub access_log: Option<telemetry::AccessLog>,
    /// For requests that no route takes.
    pub unrouted: Arc<RouteMetrics>,
    pub requests: AtomicUsize,
    /// `limits.requests`
    pub requests_max: usize,
}

pub(crate) struct Route {
    pub name: String,
    pub metrics: Arc<RouteMetrics>,
    pub capability: Capability,
}

pub(crate) enum Capability {
    Produce(Box<ProduceFace>, TopicProduce),
    Fetch(FetchFace, TopicFetch),
    Exchange(Arc<ExchangeFace>, TopicExchange),
    /// The location of an exchange.
    FollowUp(Arc<ExchangeFace>, TopicExchange),
}

impl edge::Handler for Pipeline {
    async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let mut passage = Passage::begin(&self.parts.shared, &request, peer);
        let response = self.parts.pass(request, &mut passage).await;
        passage.end(response)
    }
}

impl Parts {
    async fn pass<'p>(&'p self, request: Request<Incoming>, passage: &mut Passage<'p>) -> Response<Reply> {
        // A gateway that takes on more than it can bear serves nobody.
        if passage.running > self.shared.requests_max {
            self.shared.metrics.edge.limit_hit("requests");
            return Problem::too_many_requests(self.shared.requests_max).response();
        }
        let (head, body) = request.into_parts();
        if let Some(fault) = HeadFault::find(&head) {
            return Problem::bad_head(fault.status(), fault.to_string()).response();
        }
        let (route, params) = match self.router.route(&head) {
            Routed::Found { route, params } => (route, params),
            Routed::NotFound => return Problem::no_route().response(),
            Routed::MethodNotAllowed { allow } => return with_allow(Problem::method_not_allowed(&allow).response(), &allow),
            Routed::Options { allow } => return with_allow(no_content(), &allow),
            Routed::BadPath(fault) => {
                self.count_limit(match fault {
                    PathFault::TooLong => "uri_bytes",
                    PathFault::TooManySegments => "path_segments",
                    _ => "",
                });
                return Problem::bad_path(fault.status(), fault.to_string()).response();
            }
        };
        passage.took(route);
        let params: Vec<(&str, &str)> = params.iter().collect();
        let (response, outcome) = match &route.capability {
            Capability::Produce(face, metrics) => {
                let (response, outcome) = face.answer(Request::from_parts(head, body), &params).await;
                count_produce(metrics, outcome);
                (response, outcome)
            }
            Capability::Fetch(face, metrics) => {
                let (response, outcome) = face.answer(&head, &params).await;
                count_fetch(metrics, outcome);
                (response, outcome)
            }
            Capability::Exchange(face, metrics) => {
                let trail = passage.trail(&head.headers);
                let (response, outcome) = face.answer(Request::from_parts(head, body), &params, trail).await;
                count_exchange(metrics, outcome);
                (response, outcome)
            }
            Capability::FollowUp(face, metrics) => {
                let (response, outcome) = face.follow_up(&head, &params, passage.trail(&head.headers)).await;
                count_exchange(metrics, outcome);
                (response, outcome)
            }
        };
        if let Outcome::Failed(problem) = outcome {
            self.count_limit(limit_of(problem));
            log_fault(response.status(), problem, &route.name, passage.request_id());
        }
        response
    }
}

impl Parts {
    fn count_limit(&self, name: &str) {
        if !name.is_empty() {
            self.shared.metrics.edge.limit_hit(name);
        }
    }
}

impl Shared {
    fn enter(&self) -> usize {
        self.metrics.http.active_requests.inc();
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn leave(&self) {
        self.metrics.http.active_requests.dec();
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

fn no_content() -> Response<Reply> {
    let mut response = Response::new(Reply::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn with_allow(mut response: Response<Reply>, allow: &str) -> Response<Reply> {
    if let Ok(allow) = HeaderValue::from_str(allow) {
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}
