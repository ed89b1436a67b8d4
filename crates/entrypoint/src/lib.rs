//! The HTTP face of an exchange: requests become what [`exchange`] asks for, its answers become responses, and every
//! fault becomes one of the problems in [`problem`].
//!
//! Knows HTTP semantics (RFC 9110, 7240, 9457) and exchanges; no sockets, no routing, no Kafka client.

mod body;
mod conditional;
mod correlated;
mod fetch;
mod headers;
mod identify;
mod prefer;
pub mod problem;
mod produce;
mod reply;
mod scope;

pub use conditional::Required;
pub use correlated::{ExchangeFace, ExchangeFaceOptions, Location, LocationPiece, Pseudo, Replies, Step, TOKEN_PARAM, Trail};
pub use fetch::{FetchFace, FetchFaceOptions};
pub use headers::is_hop_by_hop;
pub use identify::{Idempotency, Identify, KeySource};
pub use prefer::Preferences;
pub use problem::Problem;
pub use produce::{ProduceFace, ProduceFaceOptions};
pub use reply::{ReplyFace, ReplyFaceOptions};
pub use scope::RequestScope;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;

/// The name of the header that carries a cursor, both ways.
pub const CURSOR_HEADER: http::HeaderName = http::HeaderName::from_static("tidegate-cursor");
/// Says how many records were left out of a collection.
pub const OMITTED_HEADER: http::HeaderName = http::HeaderName::from_static("tidegate-omitted");

/// The body of an answer.
pub enum Reply {
    Empty,
    Full(Bytes),
    Stream(BoxBody<Bytes, std::io::Error>),
}

/// What came of a request, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Produced,
    /// An exchange whose reply is for later, or for nobody.
    Accepted,
    /// With the reply of a worker.
    Replied,
    /// The name of the problem.
    Failed(&'static str),
    Hit,
    Miss,
    NotModified,
}

pub type Response = http::Response<Reply>;
