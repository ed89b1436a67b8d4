//! What hyper leaves to us of a request head: faults by which two servers could read the same request differently.

use http::header::{HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{StatusCode, Version};

/// Why a request head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// RFC 9112 section 3.2.
    #[error("the request needs exactly one Host header, with a host name and at most a port")]
    Host,
    /// RFC 9113 section 8.3.1.
    #[error("the Host header is not the :authority of the request")]
    Authority,
    /// RFC 9112 section 6.1.
    #[error("the request has a transfer coding other than chunked")]
    TransferCoding,
}

impl HeadFault {
    pub fn status(self) -> StatusCode {
        match self {
            Self::Host | Self::Authority => StatusCode::BAD_REQUEST,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
        }
    }

    /// Looks at the head of a request.
    pub fn find(head: &Parts) -> Option<Self> {
        let mut hosts = head.headers.get_all(HOST).iter();
        match (hosts.next(), hosts.next()) {
            (_, Some(_)) => return Some(Self::Host),
            (None, None) if head.version == Version::HTTP_11 => return Some(Self::Host),
            (None, None) => {}
            (Some(host), None) => {
                if !is_host(host.as_bytes()) {
                    return Some(Self::Host);
                }
                let authority = head.uri.authority().filter(|_| head.version == Version::HTTP_2);
                if authority.is_some_and(|a| !a.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())) {
                    return Some(Self::Authority);
                }
            }
        }
        let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
        let other = codings.any(|coding| !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
        other.then_some(Self::TransferCoding)
    }
}

/// `uri-host [ ":" port ]`, or nothing, which is for targets without an authority.
fn is_host(bytes: &[u8]) -> bool {
    let plain = bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-._:[]%~!$&'()*+,;=".contains(b));
    // Only an address in brackets has colons besides the one before the port.
    let (host, port) = match bytes.iter().rposition(|&b| b == b']') {
        Some(end) => (&bytes[..=end], &bytes[end + 1..]),
        None => bytes.split_at(bytes.iter().position(|&b| b == b':').unwrap_or(bytes.len())),
    };
    let bracketed = host.starts_with(b"[") && host.iter().filter(|b| matches!(b, b'[' | b']')).count() == 2;
    let named = !host.is_empty() && !host.iter().any(|b| matches!(b, b'[' | b']' | b':'));
    let numeric = port.is_empty() || (port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit));
    bytes.is_empty() || (plain && numeric && (bracketed || named))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn heads() {
        let check = |version: Version, uri: &str, headers: &[(&str, &str)], fault: Option<HeadFault>| {
            let mut request = Request::builder().version(version).uri(uri);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (head, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(HeadFault::find(&head), fault, "{version:?} {uri} {headers:?}");
        };
        let (h1, h2) = (Version::HTTP_11, Version::HTTP_2);
        check(h1, "/", &[("host", "a.example:80")], None);
        check(h1, "/", &[("host", "[::1]:80")], None);
        check(h1, "/", &[("host", "")], None);
        check(h1, "/", &[], Some(HeadFault::Host));
        check(Version::HTTP_10, "/", &[], None);
        check(h1, "/", &[("host", "a"), ("host", "b")], Some(HeadFault::Host));
        for host in ["a b", "a@b", "a/b", "a:x", "a\\b", ":80", "a:1:2", "[::1", "::1]", "[a]b", "a[b]", "[[a]]"] {
            check(h1, "/", &[("host", host)], Some(HeadFault::Host));
        }
        check(h2, "http://a/", &[], None);
        check(h2, "http://a/", &[("host", "A")], None);
        check(h2, "http://a/", &[("host", "b")], Some(HeadFault::Authority));
        check(h1, "/", &[("host", "a"), ("transfer-encoding", "Chunked")], None);
        check(h1, "/", &[("host", "a"), ("transfer-encoding", "gzip, chunked")], Some(HeadFault::TransferCoding));
        check(
            h1,
            "/",
            &[("host", "a"), ("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")],
            Some(HeadFault::TransferCoding),
        );
    }
}
