//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::body::Body;
use crate::limits::{Limits, Observer, hit};
use crate::pulse::{Command, Pulse, RequestGuard};
use crate::registry::Registered;
use crate::wire::{Protocol, Wire};

/// Header fields that hyper parses without a heap allocation per request.
const HEADERS_ON_STACK: usize = 100;
/// Read and write buffer of one HTTP/1.1 connection, unless one head needs more. hyper refuses less than 8 KiB.
const BUFFER_BYTES: usize = 64 * 1024;
/// Largest piece of a body handed to HTTP/2 at once: what the peer has not made room for waits in the body, not in a buffer.
const HTTP2_PART_BYTES: usize = 64 * 1024;
/// Bytes that one HTTP/2 stream may have in our send buffer.
const HTTP2_SEND_BUFFER_BYTES: usize = 256 * 1024;
/// Streams that the peer opened and reset before we looked at them (the rapid reset attack, CVE-2023-44487).
const HTTP2_PENDING_RESETS_MAX: usize = 20;
/// Streams that we reset for the peer's faults before we close the connection.
const HTTP2_ERROR_RESETS_MAX: usize = 256;
/// Time between two HTTP/2 pings, and the time for the answer, so that a peer that vanished is noticed under a long response.
const HTTP2_PING: Duration = Duration::from_secs(30);

/// Answers requests. It is cloned once per connection; faults are its own to turn into responses.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers one request of `peer`. The future is dropped when the peer goes away or a drain reaches its deadline. The request is
    /// lent, so that there is room for it once; who has to wait for long may clear of the head what is not needed any more.
    fn handle(&self, head: &mut Parts, body: &mut Incoming, peer: Peer) -> impl Future<Output = Response<Body>> + Send;
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The address of its socket.
    pub address: SocketAddr,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// hyper's settings for one listener, made once.
#[derive(Clone)]
pub(crate) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    headers_max: usize,
}

impl Protocols {
    pub(crate) fn new(limits: &Limits) -> Self {
        let mut http1 = http1::Builder::new();
        // The watch keeps the time of heads and of idle connections, without a timer per request.
        http1.header_read_timeout(None);
        http1.max_header_size(limits.header_bytes);
        http1.max_buf_size(BUFFER_BYTES.max(limits.header_bytes.saturating_add(1)));
        if limits.headers != HEADERS_ON_STACK {
            http1.max_headers(limits.headers);
        }
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2.timer(TokioTimer::new());
        http2.max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
        http2.max_concurrent_streams(limits.streams_per_connection);
        http2.max_send_buf_size(HTTP2_SEND_BUFFER_BYTES);
        http2.max_pending_accept_reset_streams(HTTP2_PENDING_RESETS_MAX);
        http2.max_local_error_reset_streams(HTTP2_ERROR_RESETS_MAX);
        http2.keep_alive_interval(HTTP2_PING);
        http2.keep_alive_timeout(HTTP2_PING);
        Self { http1, http2, headers_max: limits.headers }
    }
}

/// Serves one connection until the peer, the watch or a drain ends it.
pub(crate) async fn serve<H: Handler>(
    socket: TcpStream,
    peer: Peer,
    handler: H,
    protocols: Arc<Protocols>,
    observer: Arc<dyn Observer>,
    registered: Registered,
) {
    let pulse = &registered.pulse;
    let mut wire = Wire::new(socket, pulse.clone());
    let Some(Ok(protocol)) = supervise(pulse, &mut wire, |wire, cx| wire.poll_protocol(cx), |_| Finish::Drop).await else {
        return;
    };
    let io = TokioIo::new(wire);
    let connection = Arc::new(Shared { handler, peer, pulse: pulse.clone(), observer: observer.clone() });
    let result = match protocol {
        Protocol::Http1 => {
            let service = service_fn(move |request| answer(connection.clone(), request, usize::MAX, usize::MAX));
            let mut served = pin!(protocols.http1.serve_connection(io, service));
            let finish = |served: &mut Pin<&mut http1::Connection<_, _>>| {
                served.as_mut().graceful_shutdown();
                Finish::Poll
            };
            supervise(pulse, &mut served, |served, cx| served.as_mut().poll(cx), finish).await
        }
        Protocol::Http2 => {
            let headers_max = protocols.headers_max;
            let service = service_fn(move |request| answer(connection.clone(), request, headers_max, HTTP2_PART_BYTES));
            let mut served = pin!(protocols.http2.serve_connection(io, service));
            let finish = |served: &mut Pin<&mut http2::Connection<_, _, _>>| {
                served.as_mut().graceful_shutdown();
                Finish::Poll
            };
            supervise(pulse, &mut served, |served, cx| served.as_mut().poll(cx), finish).await
        }
    };
    if let Some(Err(error)) = result {
        if error.is_parse_too_large() {
            observer.limit_hit(hit::HEADER_BYTES);
        }
        tracing::debug!(%peer, %error, "connection ended with an error");
    }
}

/// What remains to be done after a connection was asked to finish.
enum Finish {
    /// Poll it until it is done.
    Poll,
    /// Nothing is in progress: let it go.
    Drop,
}

/// Polls `target` and obeys the commands of the listener; `None` if it was let go before its end. What is ready is taken before a
/// command to finish is obeyed, so that a request that has already arrived is answered.
async fn supervise<T, R>(
    pulse: &Pulse,
    target: &mut T,
    mut poll: impl FnMut(&mut T, &mut Context<'_>) -> Poll<R>,
    mut finish: impl FnMut(&mut T) -> Finish,
) -> Option<R> {
    let mut registered_under = None;
    let mut finishing = false;
    poll_fn(|cx| {
        let before = Some(pulse.commanded());
        if registered_under != before {
            // The waker of a spawned task stays the same, so it is registered again only after a command has used it up.
            pulse.register(cx.waker());
            registered_under = before;
        }
        // Read after the waker is in place, so that no command is missed.
        let command = pulse.commanded();
        if command == Command::Abort {
            return Poll::Ready(None);
        }
        if let Poll::Ready(result) = poll(target, cx) {
            return Poll::Ready(Some(result));
        }
        if finishing || command != Command::Finish {
            return Poll::Pending;
        }
        finishing = true;
        match finish(target) {
            Finish::Drop => Poll::Ready(None),
            Finish::Poll => poll(target, cx).map(Some),
        }
    })
    .await
}

/// What the requests of one connection share.
struct Shared<H> {
    handler: H,
    peer: Peer,
    pulse: Arc<Pulse>,
    observer: Arc<dyn Observer>,
}

/// No `async fn`, which would have room for its arguments twice.
fn answer<H: Handler>(
    connection: Arc<Shared<H>>,
    request: Request<Incoming>,
    headers_max: usize,
    part_bytes: usize,
) -> impl Future<Output = Result<Response<Tracked>, Infallible>> {
    let guard = connection.pulse.request();
    let (mut head, mut body) = request.into_parts();
    async move {
        let mut response = if head.headers.len() > headers_max {
            connection.observer.limit_hit(hit::HEADERS);
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            response
        } else {
            connection.handler.handle(&mut head, &mut body, connection.peer).await
        };
        if head.version < Version::HTTP_2 && connection.pulse.commanded() >= Command::LastRequest {
            // The client learns it before it sends another request into a connection that is about to close.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| Tracked { body, part_bytes, _guard: guard }))
    }
}

/// A body whose end is the end of the request.
struct Tracked {
    body: Body,
    part_bytes: usize,
    _guard: RequestGuard,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        this.body.poll_part(cx, this.part_bytes)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
