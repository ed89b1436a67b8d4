//! A request record and its reply, as one HTTP request, or as two: one that is accepted, and one that asks what became of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use exchange::{Acknowledged, Correlate, CorrelationId, Latest, Marks, Permit, Produce, Progress, Quota, Signer, Write};
use http::header::{HOST, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body::Body;
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use template::Scope;

use crate::body;
use crate::correlated::waiting::{Asked, Begun, Waiting};
use crate::identify::Identify;
use crate::prefer::Preferences;
use crate::problem::Problem;
use crate::reply::ReplyFace;
use crate::scope::{Ids, RequestScope};
use crate::{Outcome, Reply, headers};

mod waiting;

pub struct ExchangeFaceOptions {
    /// Most bytes of a request body.
    pub body_bytes_max: u64,
    /// From the whole body to the reply.
    pub timeout: Duration,
    /// Request headers that become record headers under the same name, besides `content-type`.
    pub copy_headers: Vec<HeaderName>,
    pub copy_pseudo: Vec<Pseudo>,
    pub identify: Identify,
    /// `None`: nobody replies.
    pub replies: Option<Replies>,
}

/// What of the request line may be copied to record headers; named as in HTTP/2 (RFC 9113 section 8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pseudo {
    Method,
    Path,
    Authority,
    Scheme,
}

/// The second half of an exchange.
pub struct Replies {
    pub correlate: Correlate,
    pub face: ReplyFace,
    /// Where a reply may be asked for later.
    pub location: Option<Location>,
    /// Most that `Prefer: wait` is given at the location.
    pub wait_max: Duration,
    /// Exchanges of this route that wait, where they have a bound of their own.
    pub pending: Option<Arc<Quota>>,
    /// Exchanges of all routes that wait.
    pub pending_in_all: Arc<Quota>,
}

pub struct Location {
    pub pieces: Vec<LocationPiece>,
    pub signer: Arc<Signer>,
    /// What a client is told to wait before it asks.
    pub retry_after: Duration,
}

pub enum LocationPiece {
    /// Decoded.
    Text(String),
    /// A parameter of the path, encoded again.
    Param(String),
    /// The signed id.
    Token,
}

/// The path parameter with the token.
pub const TOKEN_PARAM: &str = "correlationId";

/// What an exchange leaves in the access log. Times are in microseconds from the whole body on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trail {
    /// `traceparent` for the record.
    pub trace: String,
    pub request: Option<Step>,
    pub reply: Option<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub partition: i32,
    pub offset: i64,
    pub micros: u64,
}

/// Characters of a parameter that can stand in a path segment as they are (RFC 3986 section 2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a text cannot have as it is, for all that it may be several segments (RFC 3986 section 3.3).
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// An exchange route as HTTP.
pub struct ExchangeFace {
    produce: Produce,
    options: ExchangeFaceOptions,
}

impl ExchangeFace {
    pub fn new(produce: Produce, options: ExchangeFaceOptions) -> Self {
        Self { produce, options }
    }

    pub fn topic_label(&self) -> &str {
        self.produce.topic_label()
    }

    /// Writes the request, and answers with the reply, or where it will be. Of the head, what the answer does not need is gone then.
    pub async fn answer<B>(
        &self,
        head: &mut Parts,
        body: B,
        params: &[(&str, &str)],
        trail: &mut Trail,
    ) -> (Response<Reply>, Outcome)
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        or_problem(self.run(head, body, params, trail).await)
    }

    async fn run<B>(
        &self,
        head: &mut Parts,
        body: B,
        params: &[(&str, &str)],
        trail: &mut Trail,
    ) -> Result<(Response<Reply>, Outcome), Problem>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        // Boxed: many wait for a long time, and need not hold on to what a request needs until it is written.
        let mut waiting = match Box::pin(self.begin(head, body, params, trail)).await? {
            Begun::Done(response, outcome) => return Ok((response, outcome)),
            Begun::Waits(waiting) => waiting,
        };
        if waiting.ids.is_none() {
            (head.headers, head.uri) = Default::default();
            head.extensions.clear();
        }
        let wait = self.wait(&waiting.asked, waiting.is_async());
        let reply = waiting.pending.reply(wait).await.map_err(|e| Problem::from(&e).written())?;
        let ids = waiting.ids.take().map(|ids| *ids).unwrap_or_default();
        waiting.end(reply, &self.options.identify.scope(head, params).with_ids(ids), trail)
    }

    /// All that comes before the wait.
    async fn begin<'f, B>(
        &'f self,
        head: &Parts,
        body: B,
        params: &[(&str, &str)],
        trail: &mut Trail,
    ) -> Result<Begun<'f>, Problem>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let body = body::collect(&head.headers, body, self.options.body_bytes_max, self.options.timeout).await?;
        let replies = self.options.replies.as_ref();
        let replies = replies.map(|replies| Ok::<_, Problem>((replies, replies.enter()?))).transpose()?;
        let began = Instant::now();
        let (scope, identity, marks) = self.options.identify.identify(head, params, &body)?;
        let (scope, marks) = match marks {
            Some(marks) => (scope, marks),
            None => {
                let id = CorrelationId::random();
                (scope.with_ids(Ids::new(id.to_string(), None)), Marks { id, key: None })
            }
        };
        let write =
            Write { value: Some(body), headers: self.record_headers(head, trail), marks: Some(marks), precondition: None };
        let prefers = Preferences::parse(&head.headers);
        // Nobody waits where nobody replies.
        let wait = prefers.wait.filter(|_| replies.is_some()).map(|wait| wait.min(self.options.timeout));
        let asked = Asked { id: marks.id, respond_async: prefers.respond_async, wait, began };
        let Some((replies, permits)) = replies else {
            let acknowledged = self.write(&asked, &scope, write, trail).await?;
            return Ok(Begun::Done(asked.written(&acknowledged), Outcome::Accepted));
        };
        let location = replies.location.as_ref().map(|l| (l, l.render(self, &scope, &identity, asked.id)));
        let pending = replies.correlate.expect(asked.id).await.map_err(|e| Problem::from(&e).not_written())?;
        let mut waiting = Waiting { replies, asked, pending, location, ids: None, _permits: permits };
        self.write(&asked, &scope, write, trail).await.map_err(|problem| match &waiting.location {
            Some((_, at)) if problem.may_be_written() => problem.with("location", at.clone()),
            _ => problem,
        })?;
        // The id of a key may have been replied to before this request; that of no key is new.
        let ready = if marks.key.is_some() { waiting.pending.ready().map_err(|e| Problem::from(&e).written())? } else { None };
        if ready.is_some() {
            let (response, outcome) = waiting.end(ready, &scope, trail)?;
            return Ok(Begun::Done(response, outcome));
        }
        waiting.ids = replies.face.needs_request().then(|| Box::new(scope.into_ids()));
        Ok(Begun::Waits(waiting))
    }

    /// What is left for the reply.
    fn wait(&self, asked: &Asked, is_async: bool) -> Duration {
        let wished = asked.wait.unwrap_or(if is_async { Duration::ZERO } else { self.options.timeout });
        wished.saturating_sub(asked.began.elapsed())
    }

    async fn write(
        &self,
        asked: &Asked,
        scope: &RequestScope<'_>,
        write: Write,
        trail: &mut Trail,
    ) -> Result<Acknowledged, Problem> {
        let left = self.options.timeout.saturating_sub(asked.began.elapsed());
        let acknowledged = match tokio::time::timeout(left, self.produce.run(scope, write)).await {
            Ok(done) => done.map_err(|fault| Problem::from(&fault))?,
            Err(_) => {
                let problem = Problem::produce_too_slow(self.options.timeout);
                return Err(problem.with("correlation_id", asked.id.to_string()));
            }
        };
        trail.request = acknowledged.offset.map(|offset| asked.step(acknowledged.partition, offset));
        Ok(acknowledged)
    }

    fn record_headers(&self, head: &Parts, trail: &Trail) -> Vec<(String, Option<Bytes>)> {
        let mut out = headers::to_record(&head.headers, &self.options.copy_headers);
        for pseudo in &self.options.copy_pseudo {
            out.extend(pseudo.of(head).map(|value| (pseudo.name().to_owned(), Some(value.into()))));
        }
        if !trail.trace.is_empty() && !out.iter().any(|(name, _)| name == "traceparent") {
            out.push(("traceparent".to_owned(), Some(trail.trace.clone().into())));
        }
        out
    }

    /// Answers at the location: the reply, or that it is pending, or that there is none.
    pub async fn follow_up(&self, head: &Parts, params: &[(&str, &str)], trail: &mut Trail) -> (Response<Reply>, Outcome) {
        or_problem(self.look(head, params, trail).await)
    }

    async fn look(
        &self,
        head: &Parts,
        params: &[(&str, &str)],
        trail: &mut Trail,
    ) -> Result<(Response<Reply>, Outcome), Problem> {
        let began = Instant::now();
        let Some((replies, location)) = self.options.replies.as_ref().and_then(|r| Some((r, r.location.as_ref()?))) else {
            return Err(Problem::unknown_exchange());
        };
        let scope = RequestScope::new(head, params);
        let identity = self.options.identify.identity(&scope)?;
        let token = scope.param(TOKEN_PARAM).unwrap_or_default();
        let id = location.signer.verify(&token, self.topic_label(), &identity).ok_or_else(Problem::unknown_exchange)?;
        let prefers = Preferences::parse(&head.headers);
        let wait = prefers.wait.unwrap_or_default().min(replies.wait_max);
        let _permits = if wait.is_zero() { None } else { Some(replies.enter().map_err(Problem::of_a_look)?) };
        let asked = Asked { id, respond_async: false, wait: prefers.wait.map(|_| wait), began };
        let (mut response, outcome) = match replies.correlate.progress(id, wait).await.map_err(|e| Problem::from(&e))? {
            Progress::Replied(reply) => {
                trail.reply = Some(asked.step(reply.partition, reply.record.offset()));
                (replies.respond(&scope, &reply)?, Outcome::Replied)
            }
            Progress::Pending => {
                let mut response = asked.accepted(StatusCode::ACCEPTED, false);
                // Where the client is, as it said so.
                location.point(&mut response, head.uri.path());
                (response, Outcome::Accepted)
            }
            Progress::Gone => return Err(Problem::reply_gone()),
        };
        asked.applied(&mut response, false);
        Ok((response, outcome))
    }
}

impl Replies {
    fn enter(&self) -> Result<(Option<Permit>, Permit), Problem> {
        let of_route = |quota: &Arc<Quota>| quota.enter().ok_or_else(|| Problem::too_many_pending(quota.max()));
        let of_route = self.pending.as_ref().map(of_route).transpose()?;
        let in_all = self.pending_in_all.enter().ok_or_else(|| Problem::too_many_exchanges(self.pending_in_all.max()))?;
        Ok((of_route, in_all))
    }

    fn respond(&self, scope: &RequestScope<'_>, reply: &Latest) -> Result<Response<Reply>, Problem> {
        self.face.respond(scope, self.correlate.replies().topic().name(), reply)
    }
}

impl Location {
    fn render(&self, face: &ExchangeFace, scope: &RequestScope<'_>, identity: &str, id: CorrelationId) -> String {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                LocationPiece::Text(text) => out.extend(utf8_percent_encode(text, PATH)),
                LocationPiece::Param(name) => {
                    let value = scope.param(name).unwrap_or_default();
                    out.extend(utf8_percent_encode(&value, SEGMENT));
                }
                LocationPiece::Token => out.push_str(&self.signer.sign(id, face.topic_label(), identity)),
            }
        }
        out
    }

    fn point(&self, response: &mut Response<Reply>, at: &str) {
        if let Ok(at) = HeaderValue::from_str(at) {
            response.headers_mut().insert(LOCATION, at);
        }
        let seconds = self.retry_after.as_millis().div_ceil(1000).clamp(1, 86_400) as u64;
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
}

impl Pseudo {
    pub fn name(self) -> &'static str {
        match self {
            Self::Method => ":method",
            Self::Path => ":path",
            Self::Authority => ":authority",
            Self::Scheme => ":scheme",
        }
    }

    fn of(self, head: &Parts) -> Option<String> {
        match self {
            Self::Method => Some(head.method.to_string()),
            Self::Path => head.uri.path_and_query().map(ToString::to_string),
            Self::Authority => {
                let host = || head.headers.get(HOST).and_then(|h| h.to_str().ok()).map(ToOwned::to_owned);
                head.uri.authority().map(ToString::to_string).or_else(host)
            }
            // There is no TLS yet.
            Self::Scheme => Some(head.uri.scheme_str().unwrap_or("http").to_owned()),
        }
    }
}

fn or_problem(done: Result<(Response<Reply>, Outcome), Problem>) -> (Response<Reply>, Outcome) {
    done.unwrap_or_else(|problem| (problem.response(), Outcome::Failed(problem.name)))
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    /// Room for an exchange while it waits, in bytes.
    const FUTURE_BYTES_MAX: usize = 736;

    fn future_bytes<'a, F>(_: impl FnOnce(&'a ExchangeFace, &'a mut Parts, &'a mut Full<Bytes>, &'a mut Trail) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn one_that_waits_is_small() {
        let bytes = future_bytes(|face, head, body, trail| face.answer(head, body, &[], trail));
        assert!(bytes <= FUTURE_BYTES_MAX, "{bytes} bytes");
    }
}
