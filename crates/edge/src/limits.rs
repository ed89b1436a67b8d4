//! What one listener and one peer may cost, each limit with its name and default.

use std::time::Duration;

/// Bounds of one listener. A limit that is hit is reported to the [`Observer`] under the names in [`hit`].
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one request head: request line and header fields together (HTTP/1.1), the decoded header list (HTTP/2,
    /// RFC 9113 section 6.5.2). Over it: `431`, and an HTTP/1.1 connection is closed.
    pub header_bytes: usize,
    /// Header fields of one request. Over it: `431`.
    pub headers: usize,
    /// Bytes of path and query. Over it: `414`, by way of [`PathFault::TooLong`](crate::PathFault).
    pub uri_bytes: usize,
    /// Segments of one path. Over it: `400`.
    pub path_segments: usize,
    /// Open connections of the listener. One more is accepted and closed at once, without an answer.
    pub connections: usize,
    /// Time from the first byte of a request head (or from the accept, for the first one) to its end.
    pub header_timeout: Duration,
    /// Time that a connection may live without a request in progress, and that a peer may leave written bytes unread.
    pub idle_timeout: Duration,
    /// Concurrent requests on one HTTP/2 connection (RFC 9113 section 5.1.2).
    pub streams_per_connection: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 16 * 1024,
            headers: 100,
            uri_bytes: 8 * 1024,
            path_segments: 64,
            connections: 10_000,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            streams_per_connection: 128,
        }
    }
}

/// The names under which limits are reported as hit.
pub mod hit {
    /// A request head over `header_bytes` or with more than `headers` fields.
    pub const HEADER_BYTES: &str = "header_bytes";
    /// An HTTP/2 request with more than `headers` fields.
    pub const HEADERS: &str = "headers";
    /// A connection over `connections`.
    pub const CONNECTIONS: &str = "connections";
    /// A request head that was not complete in time.
    pub const HEADER_TIMEOUT: &str = "header_timeout";
    /// A connection without a request for too long.
    pub const IDLE_TIMEOUT: &str = "idle_timeout";
    /// A peer that left our bytes unread for `idle_timeout`.
    pub const WRITE_TIMEOUT: &str = "write_timeout";
    /// The process or the machine is out of file descriptors or socket memory (`ulimit -n`).
    pub const OPEN_FILES: &str = "open_files";
}

/// Hears what happens at the edge, so that it can be counted elsewhere.
pub trait Observer: Send + Sync {
    /// A connection was accepted within the limits.
    fn connection_opened(&self);
    /// A connection that was opened is gone.
    fn connection_closed(&self);
    /// A limit was hit; `limit` is one of the names in [`hit`].
    fn limit_hit(&self, limit: &'static str);
}
