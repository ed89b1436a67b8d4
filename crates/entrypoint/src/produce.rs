//! `POST`, `PUT`, `PATCH`, `DELETE`: the body is a record's value.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use exchange::{Acknowledged, Produce};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;

use crate::prefer::{Preferences, Return};
use crate::problem::Problem;
use crate::scope::RequestScope;
use crate::{CURSOR_HEADER, Outcome, Reply, headers};

pub struct ProduceFaceOptions {
    /// Most bytes of a request body (`limits.body_bytes`, or the route's own).
    pub body_bytes_max: u64,
    /// For the body to arrive, and again for the acknowledgement (`limits.request_timeout`, or the
    /// route's own).
    pub timeout: Duration,
    /// Request headers that become record headers under the same name, besides `content-type`.
    pub copy_headers: Vec<HeaderName>,
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

    pub async fn answer<B>(&self, request: Request<B>, params: &[(&str, &str)]) -> (Response<Reply>, Outcome)
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        match self.run(request, params).await {
            Ok(response) => (response, Outcome::Produced),
            Err(problem) => (problem.response(), Outcome::Failed(problem.name)),
        }
    }

    async fn run<B>(&self, request: Request<B>, params: &[(&str, &str)]) -> Result<Response<Reply>, Problem>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let (head, body) = request.into_parts();
        let body = self.collect(&head.headers, body).await?;
        let value = value_of(&head.method, &head.headers, body);
        let scope = RequestScope::new(&head, params);
        let run = self.produce.run(&scope, value, self.record_headers(&head.headers));
        let acknowledged = match tokio::time::timeout(self.options.timeout, run).await {
            Ok(done) => done.map_err(|fault| Problem::from(&fault))?,
            Err(_) => return Err(Problem::produce_too_slow(self.options.timeout)),
        };
        Ok(respond(&acknowledged, Preferences::parse(&head.headers).returns))
    }

    async fn collect<B>(&self, headers: &HeaderMap, body: B) -> Result<Bytes, Problem>
    where
        B: Body<Data = Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let limit = self.options.body_bytes_max;
        // A body that says it is too large is not read at all.
        let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
        if announced.is_some_and(|n| n > limit) {
            return Err(Problem::body_too_large(limit));
        }
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        match tokio::time::timeout(self.options.timeout, whole(body, limit)).await {
            Ok(done) => done,
            Err(_) => Err(Problem::body_too_slow(self.options.timeout)),
        }
    }

    /// `content-type` and what the route names; all else stays home, secrets and hop-by-hop headers first of all.
    fn record_headers(&self, headers: &HeaderMap) -> Vec<(String, Option<Bytes>)> {
        let names = std::iter::once(&CONTENT_TYPE).chain(self.options.copy_headers.iter().filter(|n| *n != CONTENT_TYPE));
        let of_name = |name: &HeaderName| {
            let values = headers.get_all(name).into_iter();
            values.map(|v| (name.as_str().to_owned(), Some(Bytes::copy_from_slice(v.as_bytes())))).collect::<Vec<_>>()
        };
        names.filter(|n| !headers::is_hop_by_hop(n)).flat_map(of_name).collect()
    }
}

/// The bytes of a body in one piece. Frames are joined as they come: kept one by one, those of a client that sends single
/// bytes would take many times their size.
async fn whole<B>(body: B, limit: u64) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let mut body = std::pin::pin!(body);
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Problem::body_unreadable(e.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if (first.len() + joined.len() + data.len()) as u64 > limit {
            return Err(Problem::body_too_large(limit));
        }
        if first.is_empty() && joined.is_empty() {
            first = data;
            continue;
        }
        joined.extend_from_slice(&std::mem::take(&mut first));
        joined.extend_from_slice(&data);
    }
    // A body of one frame is not copied.
    Ok(if joined.is_empty() { first } else { joined.freeze() })
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;

    use super::*;

    struct Frames(VecDeque<Bytes>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
        }
    }

    #[tokio::test]
    async fn frames_are_joined_up_to_the_limit() {
        for (frames, whole_body) in [
            (&[][..], Some("")),
            (&["abc"], Some("abc")),
            (&["", "a", "", "bc"], Some("abc")),
            (&["ab", "cd"], Some("abcd")),
            (&["abcde"], None),
            (&["ab", "cd", "e"], None),
        ] {
            let body = Frames(frames.iter().map(|f| Bytes::from_static(f.as_bytes())).collect());
            let read = whole(body, 4).await;
            assert_eq!(read.as_deref().ok(), whole_body.map(str::as_bytes), "{frames:?}");
            assert!(read.is_ok() || read.is_err_and(|problem| problem.name == "body-too-large"));
        }
    }
}
