//! `GET` and `HEAD`: the newest record of a key, or the collection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use exchange::{Ask, Broken, Cursor, Fetch, Found, Latest, Merged, Omitted};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED, TRAILER};
use http::{Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use template::{Scope, Template};

use crate::conditional::{self, Held};
use crate::prefer::Preferences;
use crate::problem::Problem;
use crate::scope::{RequestScope, WithMessage};
use crate::{CURSOR_HEADER, OMITTED_HEADER, Outcome, Reply, headers};

pub struct FetchFaceOptions {
    /// Record headers, whose names are case-sensitive, that become response headers, besides `content-type`.
    pub copy_headers: Vec<(String, HeaderName)>,
    /// Response headers made from the request and the record.
    pub headers: Vec<(HeaderName, Template)>,
    /// Where a record says none, and of a collection; by default that of any bytes, and that of JSON.
    pub content_type: Option<HeaderValue>,
    /// Most seconds that `Prefer: wait` is given (`limits.wait_max`).
    pub wait_max: Duration,
    /// Called for each collection that left records out.
    pub omitted: Box<dyn Fn(Omitted) + Send + Sync>,
}

/// A fetch route as HTTP.
pub struct FetchFace {
    fetch: Fetch,
    options: Arc<FetchFaceOptions>,
}

/// A collection up to this size is made before the response begins, and so has a length and says what it left out in a
/// header; a larger one is streamed in pieces of this size and says so in a trailer.
const PIECE_BYTES: usize = 64 * 1024;

/// Headers of an ordinary answer, those that the gateway and hyper add included.
const HEADERS_EXPECTED: usize = 12;
const ANY_BYTES: &str = "application/octet-stream";
const JSON: &str = "application/json";

impl FetchFace {
    pub fn new(fetch: Fetch, options: FetchFaceOptions) -> Self {
        Self { fetch, options: Arc::new(options) }
    }

    pub fn topic_label(&self) -> &str {
        self.fetch.topic().name()
    }

    pub async fn answer(&self, head: &http::request::Parts, params: &[(&str, &str)]) -> (Response<Reply>, Outcome) {
        match self.run(head, params).await {
            Ok(done) => done,
            Err(problem) => (problem.response(), Outcome::Failed(problem.name)),
        }
    }

    async fn run(&self, head: &http::request::Parts, params: &[(&str, &str)]) -> Result<(Response<Reply>, Outcome), Problem> {
        let scope = RequestScope::new(head, params);
        let held = Held::parse(&head.headers);
        let wait = Preferences::parse(&head.headers).wait.map(|w| w.min(self.options.wait_max));
        let cursor = match head.headers.get(CURSOR_HEADER) {
            Some(text) => Some(Cursor::decode(text.as_bytes(), self.fetch.topic().name())?),
            None => None,
        };
        let has = |current: Option<(&str, i64)>| held.has(current);
        let found = self.fetch.run(&scope, Ask { has: &has, wait, cursor }).await.map_err(|e| Problem::from(&e))?;
        let (mut response, outcome) = match found {
            Found::Record(latest, etag) => (self.record(&scope, &latest, etag)?, Outcome::Hit),
            Found::Nothing => (Problem::nothing_found().response(), Outcome::Miss),
            Found::Unchanged(etag, timestamp_ms) => {
                let mut response = Response::new(Reply::Empty);
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                validators(response.headers_mut(), etag, timestamp_ms);
                (response, Outcome::NotModified)
            }
            Found::Collection(version, merged) => {
                let mut response = Box::pin(self.collection(&scope, merged)).await?;
                validators(response.headers_mut(), version.etag(), version.timestamp_ms);
                (response, Outcome::Hit)
            }
        };
        if let Some(wait) = wait.and_then(|w| HeaderValue::try_from(format!("wait={}", w.as_secs())).ok()) {
            response.headers_mut().insert("preference-applied", wait);
        }
        Ok((response, outcome))
    }

    fn record(&self, scope: &RequestScope<'_>, latest: &Latest, etag: String) -> Result<Response<Reply>, Problem> {
        let record = &latest.record;
        let mut response = Response::new(record.value_bytes().map_or(Reply::Empty, Reply::Full));
        // Room for all of them, so that none moves.
        *response.headers_mut() = HeaderMap::with_capacity(HEADERS_EXPECTED + self.options.copy_headers.len());
        let out = response.headers_mut();
        let content_type = headers::to_response(&CONTENT_TYPE, record.header(CONTENT_TYPE.as_str()));
        out.insert(CONTENT_TYPE, content_type.unwrap_or_else(|| self.content_type_or(ANY_BYTES)));
        for (of_record, name) in &self.options.copy_headers {
            if let Some(value) = headers::to_response(name, record.header(of_record)) {
                out.insert(name, value);
            }
        }
        if !self.options.headers.is_empty() {
            self.add_headers(&WithMessage { request: scope, topic: self.fetch.topic().name(), latest }, out)?;
        }
        validators(out, etag, record.timestamp_ms());
        Ok(response)
    }

    fn content_type_or(&self, default: &'static str) -> HeaderValue {
        self.options.content_type.clone().unwrap_or(HeaderValue::from_static(default))
    }

    fn add_headers(&self, scope: &dyn Scope, out: &mut HeaderMap) -> Result<(), Problem> {
        for (name, template) in &self.options.headers {
            let text = template.render(scope).map_err(|e| Problem::from(&e))?;
            if let Some(value) = headers::to_response(name, Some(text.as_bytes())) {
                out.insert(name, value);
            }
        }
        Ok(())
    }

    async fn collection(&self, scope: &RequestScope<'_>, mut merged: Merged) -> Result<Response<Reply>, Problem> {
        let mut piece = BytesMut::new();
        let mut more = true;
        while more && piece.len() < PIECE_BYTES {
            more = merged.fill(&mut piece, PIECE_BYTES).map_err(|e| Problem::internal(e.to_string()))?;
            tokio::task::yield_now().await;
        }
        let options = Arc::clone(&self.options);
        let omitted = merged.omitted;
        let mut response = if more {
            let body = CollectionBody { ready: Some(piece.freeze()), merged: Some(merged), trailers: None, options };
            let mut response = Response::new(Reply::Stream(body.boxed()));
            response.headers_mut().insert(TRAILER, HeaderValue::from_name(OMITTED_HEADER));
            response
        } else {
            let mut response = Response::new(Reply::Full(piece.freeze()));
            if omitted.total() > 0 {
                (options.omitted)(omitted);
                response.headers_mut().insert(OMITTED_HEADER, omitted.total().into());
            }
            response
        };
        response.headers_mut().insert(CONTENT_TYPE, self.content_type_or(JSON));
        self.add_headers(scope, response.headers_mut())?;
        Ok(response)
    }
}

/// What a client may use to ask again; and that it should, since a record can be replaced at any moment.
fn validators(headers: &mut HeaderMap, etag: String, timestamp_ms: i64) {
    if let Ok(etag) = HeaderValue::try_from(etag) {
        headers.insert(ETAG, etag);
    }
    if let Some(modified) = conditional::last_modified(timestamp_ms) {
        headers.insert(LAST_MODIFIED, modified);
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
}

/// A collection that is made while it is sent: only one piece of it is in memory.
struct CollectionBody {
    ready: Option<Bytes>,
    merged: Option<Merged>,
    trailers: Option<HeaderMap>,
    options: Arc<FetchFaceOptions>,
}

impl CollectionBody {
    fn next_piece(&mut self) -> Result<Option<Frame<Bytes>>, Broken> {
        if let Some(piece) = self.ready.take() {
            return Ok(Some(Frame::data(piece)));
        }
        let Some(merged) = &mut self.merged else { return Ok(self.trailers.take().map(Frame::trailers)) };
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        if !merged.fill(&mut piece, PIECE_BYTES)? {
            let omitted = merged.omitted;
            self.merged = None;
            self.trailers = Some(HeaderMap::from_iter([(OMITTED_HEADER, HeaderValue::from(omitted.total()))]));
            if omitted.total() > 0 {
                (self.options.omitted)(omitted);
            }
        }
        Ok(Some(Frame::data(piece.freeze())))
    }
}

impl Body for CollectionBody {
    type Data = Bytes;
    type Error = std::io::Error;

    /// An error ends the response before its end, so that the client sees that it is not whole.
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let next = self.next_piece().map_err(std::io::Error::other).transpose();
        if let Some(Ok(frame)) = &next
            && frame.data_ref().is_some_and(Bytes::is_empty)
        {
            // It looked long and found nothing: others first.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(next)
    }
}
