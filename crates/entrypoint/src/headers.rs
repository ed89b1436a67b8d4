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

/// Longest value that a record header may give a response header, in bytes; clients have limits on heads, too.
const VALUE_BYTES_MAX: usize = 8 * 1024;

/// A record header as a response header; `None` where it is empty, too long, or nothing that HTTP can carry.
pub fn to_response(name: &HeaderName, value: Option<&[u8]>) -> Option<HeaderValue> {
    let value = value.filter(|v| (1..=VALUE_BYTES_MAX).contains(&v.len()))?;
    if is_ours(name) {
        return None;
    }
    HeaderValue::from_bytes(value).ok()
}
