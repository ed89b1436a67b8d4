//! What is left of an exchange while it waits for its reply, and what comes of it.

use std::time::{Duration, Instant};

use exchange::{Acknowledged, CorrelationId, Latest, Pending, Permit};
use http::header::{CACHE_CONTROL, HeaderValue};
use http::{Response, StatusCode};

use super::{Location, Replies, Step, Trail};
use crate::problem::Problem;
use crate::scope::{Ids, RequestScope};
use crate::{CURSOR_HEADER, Outcome, Reply};

/// How far a request has come.
pub enum Begun<'f> {
    Done(Response<Reply>, Outcome),
    Waits(Waiting<'f>),
}

/// A request that is written, and what its answer will need. There are as many of these as exchanges wait.
pub struct Waiting<'f> {
    pub replies: &'f Replies,
    pub asked: Asked,
    pub pending: Pending<'f>,
    pub location: Option<(&'f Location, String)>,
    /// Where the answer looks at the request again.
    pub ids: Option<Box<Ids>>,
    pub _permits: (Option<Permit>, Permit),
}

impl Waiting<'_> {
    pub fn is_async(&self) -> bool {
        self.asked.respond_async && self.location.is_some()
    }

    /// The answer: the reply, or where it will be, or that there is none.
    pub fn end(
        self,
        reply: Option<Latest>,
        scope: &RequestScope<'_>,
        trail: &mut Trail,
    ) -> Result<(Response<Reply>, Outcome), Problem> {
        let is_async = self.is_async();
        if is_async {
            self.pending.leave();
        }
        let asked = self.asked;
        match (reply, self.location) {
            (Some(reply), _) => {
                trail.reply = Some(asked.step(reply.partition, reply.record.offset()));
                let mut response = self.replies.respond(scope, &reply).map_err(Problem::written)?;
                asked.applied(&mut response, false);
                Ok((response, Outcome::Replied))
            }
            (None, Some((location, at))) if is_async => {
                let mut response = asked.accepted(StatusCode::ACCEPTED, true);
                location.point(&mut response, &at);
                Ok((response, Outcome::Accepted))
            }
            (None, location) => {
                let problem = Problem::no_reply(asked.began.elapsed()).with("correlation_id", asked.id.to_string());
                Err(match location {
                    Some((_, at)) => problem.with("location", at),
                    None => problem,
                })
            }
        }
    }
}

/// A request on its way.
#[derive(Clone, Copy)]
pub struct Asked {
    pub id: CorrelationId,
    pub respond_async: bool,
    /// How long it wants to wait, as far as it may.
    pub wait: Option<Duration>,
    pub began: Instant,
}

impl Asked {
    pub fn step(&self, partition: i32, offset: i64) -> Step {
        Step { partition, offset, micros: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX) }
    }

    /// The answer where nobody replies.
    pub fn written(&self, acknowledged: &Acknowledged) -> Response<Reply> {
        let status = if self.respond_async { StatusCode::ACCEPTED } else { StatusCode::NO_CONTENT };
        let mut response = self.accepted(status, self.respond_async);
        let cursor = acknowledged.cursor.as_ref().and_then(|cursor| HeaderValue::try_from(cursor.encode()).ok());
        response.headers_mut().extend(cursor.map(|cursor| (CURSOR_HEADER, cursor)));
        response
    }

    pub fn accepted(&self, status: StatusCode, respond_async: bool) -> Response<Reply> {
        let mut response = Response::new(Reply::Empty);
        *response.status_mut() = status;
        self.applied(&mut response, respond_async);
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// Which preferences counted (RFC 7240 section 3).
    pub fn applied(&self, response: &mut Response<Reply>, respond_async: bool) {
        let wait = self.wait.map(|w| format!("wait={}", w.as_secs()));
        let applied = match (respond_async, wait) {
            (true, Some(wait)) => format!("respond-async, {wait}"),
            (true, None) => "respond-async".to_owned(),
            (false, Some(wait)) => wait,
            (false, None) => return,
        };
        if let Ok(applied) = HeaderValue::try_from(applied) {
            response.headers_mut().insert("preference-applied", applied);
        }
    }
}
