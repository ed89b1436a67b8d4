//! Which headers may cross between HTTP and records.

use http::header::{self, HeaderName, HeaderValue};

/// Headers of one connection, never of a message (RFC 9110 section 7.6.1).
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::PROXY_AUTHENTICATE
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
    ) || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Headers of a response that a record may not set: they frame the message or are ours to give.
fn is_ours(name: &HeaderName) -> bool {
    is_hop_by_hop(name) || matches!(*name, header::CONTENT_LENGTH | header::DATE | header::ETAG | header::LAST_MODIFIED)
}

/// A record header as a response header; `None` where HTTP cannot carry it.
pub fn to_response(name: &HeaderName, value: Option<&[u8]>) -> Option<HeaderValue> {
    if is_ours(name) {
        return None;
    }
    HeaderValue::from_bytes(value?).ok()
}
