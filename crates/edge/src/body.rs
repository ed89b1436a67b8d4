//! The body of a response.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;

/// A response body: nothing, bytes that are already there, or a stream.
#[derive(Debug, Default)]
pub enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// All bytes, known now; its length is exact.
    Full(Bytes),
    /// Bytes that come later. An error breaks the connection (HTTP/1.1) or the stream (HTTP/2), so that the peer never takes a
    /// part for the whole.
    Stream(BoxBody<Bytes, io::Error>),
}

impl Body {
    /// Boxes a body as a stream.
    pub fn stream<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = io::Error> + Send + Sync + 'static,
    {
        Self::Stream(body.boxed())
    }

    /// Takes at most `bytes` of what is there; a stream gives its own frames.
    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Stream(stream) => Pin::new(stream).poll_frame(cx),
            Self::Full(rest) if rest.len() > bytes => Poll::Ready(Some(Ok(Frame::data(rest.split_to(bytes))))),
            Self::Full(rest) => {
                let last = std::mem::take(rest);
                *self = Self::Empty;
                Poll::Ready((!last.is_empty()).then(|| Ok(Frame::data(last))))
            }
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.get_mut().poll_part(cx, usize::MAX)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(rest) => rest.is_empty(),
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(rest) => SizeHint::with_exact(rest.len() as u64),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Full(bytes)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Full(bytes.into())
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::Full(text.into())
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::Full(Bytes::from_static(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};

    use super::*;

    fn check(mut body: Body, size: Option<u64>, ended: bool, parts: &[&str]) {
        assert_eq!(body.size_hint().exact(), size);
        assert_eq!(body.is_end_stream(), ended);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut got = Vec::new();
        while let Poll::Ready(Some(frame)) = body.poll_part(&mut cx, 4) {
            got.push(frame.expect("frame").into_data().expect("data"));
        }
        assert_eq!(got, parts);
        assert!(body.is_end_stream());
    }

    #[test]
    fn sizes_and_parts() {
        check(Body::Empty, Some(0), true, &[]);
        check(Body::from(""), Some(0), true, &[]);
        check(Body::from("tide"), Some(4), false, &["tide"]);
        check(Body::from("tidegate!"), Some(9), false, &["tide", "gate", "!"]);
        let full = Full::new(Bytes::from_static(b"whole")).map_err(|never| match never {});
        check(Body::stream(full), Some(5), false, &["whole"]);
    }

    #[test]
    fn an_error_of_the_stream_is_passed_on() {
        let frames = futures_util::stream::iter([Err::<Frame<Bytes>, _>(io::Error::other("upstream is gone"))]);
        let mut body = Body::stream(StreamBody::new(frames));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(Some(Err(error))) = Pin::new(&mut body).poll_frame(&mut cx) else { panic!("expected the error") };
        assert_eq!(error.to_string(), "upstream is gone");
    }
}
