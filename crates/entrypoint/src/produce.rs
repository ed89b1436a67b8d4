//! `POST`, `PUT`, `PATCH`, `DELETE`: the body is a record's value.

use std::time::Duration;

use bytes::Bytes;
use exchange::{Acknowledged, Produce, Write};
use http::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body::Body;

use crate::body;
use crate::conditional::Required;
use crate::identify::Identify;
use crate::prefer::{Preferences, Return};
use crate::problem::Problem;
use crate::{CURSOR_HEADER, Outcome, Reply, headers};

pub struct ProduceFaceOptions {
    /// Most bytes of a request body (`limits.body_bytes`, or the route's own).
    pub body_bytes_max: u64,
    /// For the body to arrive, and again for the acknowledgement (`limits.request_timeout`, or the
    /// route's own).
    pub timeout: Duration,
    /// Request headers that become record headers under the same name, besides `content-type`.
    pub copy_headers: Vec<HeaderName>,
    /// Who asks, and whether the record is written once.
    pub identify: Identify,
    /// Whether `PUT`, `PATCH` and `DELETE` must say what they replace.
    pub require_match: bool,
}

/// A produce route as HTTP.
pub struct ProduceFace {
    produce: Produce,
    options: ProduceFaceOptions,
}

impl ProduceFace {
    pub fn new(produce: Produce, options: ProduceFaceOptions) -> Self {
        Self { produce, options }
    }

    pub fn topic_label(&self) -> &str {
        self.produce.topic_label()
    }

    pub async fn answer<B>(&self, head: &Parts, body: B, params: &[(&str, &str)]) -> (Response<Reply>, Outcome)
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        match self.run(head, body, params).await {
            Ok(response) => (response, Outcome::Produced),
            Err(problem) => (problem.response(), Outcome::Failed(problem.name)),
        }
    }

    async fn run<B>(&self, head: &Parts, body: B, params: &[(&str, &str)]) -> Result<Response<Reply>, Problem>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let precondition = self.precondition(head)?;
        let body = body::collect(&head.headers, body, self.options.body_bytes_max, self.options.timeout).await?;
        let (scope, _, marks) = self.options.identify.identify(head, params, &body)?;
        let value = value_of(&head.method, &head.headers, body);
        let headers = headers::to_record(&head.headers, &self.options.copy_headers);
        // Without a key nobody looks for the record by its id.
        let marks = marks.filter(|marks| marks.key.is_some());
        let run = self.produce.run(&scope, Write { value, headers, marks, precondition });
        let acknowledged = match tokio::time::timeout(self.options.timeout, run).await {
            Ok(done) => done.map_err(|fault| Problem::from(&fault))?,
            Err(_) => return Err(Problem::produce_too_slow(self.options.timeout)),
        };
        Ok(respond(&acknowledged, Preferences::parse(&head.headers).returns))
    }

    fn precondition(&self, head: &Parts) -> Result<Option<exchange::Precondition>, Problem> {
        if !matches!(head.method, Method::PUT | Method::PATCH | Method::DELETE) {
            return Ok(None);
        }
        let unreadable = |name| Problem::bad_request(format!("{name} is neither * nor a list of up to 255 entity tags"));
        match Required::parse(&head.headers).map_err(unreadable)? {
            None if self.options.require_match => Err(Problem::precondition_required()),
            required => Ok(required.map(|r| -> exchange::Precondition { Box::new(move |current| r.is_met(current)) })),
        }
    }
}

/// A DELETE without a body writes a tombstone; an empty body of another method is an empty value.
fn value_of(method: &Method, headers: &HeaderMap, body: Bytes) -> Option<Bytes> {
    let tombstone = method == Method::DELETE && body.is_empty() && !headers.contains_key(CONTENT_TYPE);
    (!tombstone).then_some(body)
}

fn respond(acknowledged: &Acknowledged, returns: Option<Return>) -> Response<Reply> {
    let mut response = if returns == Some(Return::Representation) {
        let mut body = serde_json::json!({
            "topic": acknowledged.topic,
            "partition": acknowledged.partition,
            "offset": acknowledged.offset,
            "timestamp": acknowledged.timestamp_ms,
        });
        // Whoever let the gateway make the key needs it to find the record again.
        if let Some(key) = acknowledged.key.as_deref().and_then(|k| std::str::from_utf8(k).ok()) {
            body["key"] = key.into();
        }
        let mut response = Response::new(Reply::Full(body.to_string().into()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    } else {
        let mut response = Response::new(Reply::Empty);
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    };
    let applied = returns.map(|r| if r == Return::Minimal { "return=minimal" } else { "return=representation" });
    let cursor = acknowledged.cursor.as_ref().map(exchange::Cursor::encode);
    // That of the record, which is what a later GET shows (RFC 9110 section 9.3.4).
    let etag = acknowledged.etag.as_deref();
    for (name, value) in
        [(HeaderName::from_static("preference-applied"), applied), (ETAG, etag), (CURSOR_HEADER, cursor.as_deref())]
    {
        if let Some(value) = value.and_then(|v| HeaderValue::from_str(v).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
