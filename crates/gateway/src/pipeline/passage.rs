//! What is noted of a request on its way: ids, time, and at the end a metric and a line in the access log, also when the
//! client went away before its answer.

use std::time::{Duration, Instant};

use edge::{Body, Peer};
use entrypoint::{Reply, Step, Trail};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::request::Parts;
use http::{Method, Response};
use http_body::Body as _;
use telemetry::names::{REQUEST_ID_HEADER, TRACEPARENT_HEADER};
use telemetry::{Entry, RecordStep, RequestId, TraceContext};

use super::{Route, Shared};

/// The status that the access log and metrics give a request whose client did not wait for the answer.
const CLIENT_CLOSED: u16 = 499;

pub struct Passage<'p> {
    shared: &'p Shared,
    route: Option<&'p Route>,
    began: Instant,
    peer: Peer,
    is_head: bool,
    request_id: RequestId,
    /// Only where an access log wants it.
    logged: Option<Logged>,
    /// Of an exchange.
    trail: Option<Box<Trail>>,
    /// Requests running, this one included.
    pub running: usize,
    ended: bool,
}

struct Logged {
    trace: TraceContext,
    method: Method,
    path: String,
    bytes_in: Option<u64>,
    user_agent: Option<HeaderValue>,
}

impl<'p> Passage<'p> {
    pub fn begin(shared: &'p Shared, head: &Parts, peer: Peer) -> Self {
        let headers = &head.headers;
        let header = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
        let logged = shared.access_log.as_ref().map(|_| Logged {
            trace: TraceContext::take_or_make(header(TRACEPARENT_HEADER)),
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            bytes_in: headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok()),
            user_agent: headers.get(USER_AGENT).cloned(),
        });
        Self {
            route: None,
            began: Instant::now(),
            peer,
            is_head: head.method == Method::HEAD,
            request_id: RequestId::take_or_make(header(REQUEST_ID_HEADER)),
            logged,
            trail: None,
            running: shared.enter(),
            ended: false,
            shared,
        }
    }

    pub fn took(&mut self, route: &'p Route) {
        self.route = Some(route);
    }

    pub fn request_id(&self) -> &RequestId {
        &self.request_id
    }

    /// What an exchange leaves behind, with the trace that its records belong to.
    pub fn trail(&mut self, headers: &HeaderMap) -> &mut Trail {
        let traceparent = || headers.get(TRACEPARENT_HEADER).map(HeaderValue::as_bytes);
        // The head lies in a buffer of the connection, of which one value would keep all as long as the exchange waits.
        if let Some(agent) = self.logged.as_mut().and_then(|logged| logged.user_agent.as_mut()) {
            *agent = HeaderValue::from_bytes(agent.as_bytes()).unwrap_or_else(|_| agent.clone());
        }
        let trace = self.logged.as_ref().map_or_else(|| TraceContext::take_or_make(traceparent()), |logged| logged.trace);
        self.trail.insert(Box::new(Trail { trace: trace.to_string(), ..Trail::default() }))
    }

    pub fn end(mut self, response: Response<Reply>) -> Response<Body> {
        let (mut head, reply) = response.into_parts();
        let mut body = match reply {
            Reply::Empty => Body::Empty,
            Reply::Full(bytes) => Body::Full(bytes),
            Reply::Stream(stream) => Body::Stream(stream),
        };
        let length = body.size_hint().exact();
        if self.is_head {
            // The length that GET would have (RFC 9110 section 9.3.2); without content on every HTTP version.
            if let Some(length) = length.filter(|_| head.status.is_success()) {
                head.headers.insert(CONTENT_LENGTH, length.into());
            }
            body = Body::Empty;
        }
        if let Ok(id) = HeaderValue::from_str(self.request_id.as_str()) {
            head.headers.insert(HeaderName::from_static(REQUEST_ID_HEADER), id);
        }
        self.ended = true;
        self.note(head.status.as_u16(), length);
        Response::from_parts(head, body)
    }

    fn note(&self, status: u16, bytes_out: Option<u64>) {
        let duration = self.began.elapsed();
        let metrics = self.route.map_or(&self.shared.unrouted, |r| &r.metrics);
        metrics.observe(status, duration);
        let (Some(log), Some(logged)) = (&self.shared.access_log, &self.logged) else { return };
        let step = |step: Option<Step>| {
            step.map(|s| RecordStep { partition: s.partition, offset: s.offset, after: Duration::from_micros(s.micros) })
        };
        let (request, reply) = self.trail.as_ref().map_or((None, None), |trail| (step(trail.request), step(trail.reply)));
        log.log(&Entry {
            request_id: self.request_id.as_str(),
            trace_id: logged.trace.trace_id,
            method: logged.method.as_str(),
            path: &logged.path,
            route: self.route.map_or("", |r| &r.name),
            status,
            bytes_in: logged.bytes_in,
            bytes_out,
            duration,
            request,
            reply,
            peer: self.peer.address,
            user_agent: logged.user_agent.as_ref().map(HeaderValue::as_bytes),
        });
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.shared.leave();
        if !self.ended {
            self.note(CLIENT_CLOSED, None);
        }
    }
}
