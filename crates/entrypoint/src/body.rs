//! The body of a request, in one piece.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap};
use http_body::Body;
use http_body_util::BodyExt;

use crate::problem::Problem;

/// Reads a body of at most `limit` bytes within `timeout`.
pub async fn collect<B>(headers: &HeaderMap, body: B, limit: u64, timeout: Duration) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    // A body that says it is too large is not read at all.
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if announced.is_some_and(|n| n > limit) {
        return Err(Problem::body_too_large(limit));
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    match tokio::time::timeout(timeout, whole(body, limit)).await {
        Ok(done) => done,
        Err(_) => Err(Problem::body_too_slow(timeout)),
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
