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

use edge::{Body, HeadFault, Params, PathFault, Peer, Routed, Router};
use entrypoint::{ExchangeFace, FetchFace, Outcome, Problem, ProduceFace, Reply};
use http::header::{ALLOW, HeaderValue};
use http::request::Parts as Head;
use http::{Response, StatusCode};
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
    async fn handle(&self, head: &mut Head, body: &mut Incoming, peer: Peer) -> Response<Body> {
        let mut passage = Passage::begin(&self.parts.shared, head, peer);
        let (route, params) = match self.parts.admit(head, &mut passage) {
            Ok(found) => found,
            Err(refused) => return passage.end(*refused),
        };
        let response = self.parts.pass(route, &params, head, body, &mut passage).await;
        passage.end(response)
    }
}

impl Parts {
    /// The route of a request and the parameters of its path, or the answer where there is none.
    fn admit<'p>(&'p self, head: &Head, passage: &mut Passage<'p>) -> Result<(&'p Route, Params), Box<Response<Reply>>> {
        // A gateway that takes on more than it can bear serves nobody.
        if passage.running > self.shared.requests_max {
            self.shared.metrics.edge.limit_hit("requests");
            return Err(Problem::too_many_requests(self.shared.requests_max).response().into());
        }
        if let Some(fault) = HeadFault::find(head) {
            return Err(Problem::bad_head(fault.status(), fault.to_string()).response().into());
        }
        match self.router.route(head) {
            Routed::Found { route, params } => {
                passage.took(route);
                Ok((route, params))
            }
            Routed::NotFound => Err(Problem::no_route().response().into()),
            Routed::MethodNotAllowed { allow } => Err(with_allow(Problem::method_not_allowed(&allow).response(), &allow).into()),
            Routed::Options { allow } => Err(with_allow(no_content(), &allow).into()),
            Routed::BadPath(fault) => {
                self.count_limit(match fault {
                    PathFault::TooLong => "uri_bytes",
                    PathFault::TooManySegments => "path_segments",
                    _ => "",
                });
                Err(Problem::bad_path(fault.status(), fault.to_string()).response().into())
            }
        }
    }

    /// Fetches are frequent and end at once, so their future is here. The others are boxed as far as they write or look something up:
    /// there are as many futures of this size as requests wait.
    async fn pass(
        &self,
        route: &Route,
        params: &Params,
        head: &mut Head,
        body: &mut Incoming,
        passage: &mut Passage<'_>,
    ) -> Response<Reply> {
        let params: Vec<(&str, &str)> = params.iter().collect();
        let (response, outcome) = match &route.capability {
            Capability::Produce(face, metrics) => {
                let (response, outcome) = Box::pin(face.answer(head, body, &params)).await;
                count_produce(metrics, outcome);
                (response, outcome)
            }
            Capability::Fetch(face, metrics) => {
                let (response, outcome) = face.answer(head, &params).await;
                count_fetch(metrics, outcome);
                (response, outcome)
            }
            Capability::Exchange(face, metrics) => {
                let trail = passage.trail(&head.headers);
                let (response, outcome) = face.answer(head, body, &params, trail).await;
                count_exchange(metrics, outcome);
                (response, outcome)
            }
            Capability::FollowUp(face, metrics) => {
                let (response, outcome) = Box::pin(face.follow_up(head, &params, passage.trail(&head.headers))).await;
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

#[cfg(test)]
mod tests {
    use edge::Handler;

    use super::*;

    /// Room for one request in its own future, in bytes; an exchange holds it as long as it waits.
    const FUTURE_BYTES_MAX: usize = 1272;

    fn future_bytes<'a, F>(_: impl FnOnce(&'a Pipeline, &'a mut Head, &'a mut Incoming, Peer) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn one_that_waits_is_small() {
        let bytes = future_bytes(|pipeline, head, body, peer| pipeline.handle(head, body, peer));
        assert!(bytes <= FUTURE_BYTES_MAX, "{bytes} bytes");
    }
}
