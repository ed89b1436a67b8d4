//! Which headers may cross between HTTP and records.

use bytes::Bytes;
use http::header::{self, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

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

/// The record headers of a request: `content-type` and what the route names. All else stays home, secrets and hop-by-hop headers
/// first of all.
pub fn to_record(headers: &HeaderMap, copied: &[HeaderName]) -> Vec<(String, Option<Bytes>)> {
    let names = std::iter::once(&CONTENT_TYPE).chain(copied.iter().filter(|n| *n != CONTENT_TYPE));
    let of_name = |name: &HeaderName| {
        let values = headers.get_all(name).into_iter();
        values.map(|v| (name.as_str().to_owned(), Some(Bytes::copy_from_slice(v.as_bytes())))).collect::<Vec<_>>()
    };
    names.filter(|n| !is_hop_by_hop(n)).flat_map(of_name).collect()
}

/// A record header as a response header; `None` where it is empty, too long, or nothing that HTTP can carry.
pub fn to_response(name: &HeaderName, value: Option<&[u8]>) -> Option<HeaderValue> {
    if is_ours(name) { None } else { to_value(value) }
}

/// As [`to_response`], of the reply of a worker, who may have entity tags and dates of its own.
pub fn of_reply(name: &HeaderName, value: Option<&[u8]>) -> Option<HeaderValue> {
    let is_framing = is_hop_by_hop(name) || matches!(*name, header::CONTENT_LENGTH | header::DATE);
    if is_framing { None } else { to_value(value) }
}

fn to_value(value: Option<&[u8]>) -> Option<HeaderValue> {
    let value = value.filter(|v| (1..=VALUE_BYTES_MAX).contains(&v.len()))?;
    HeaderValue::from_bytes(value).ok()
}
