//! From the raw path of a request target to text that patterns can be matched with (RFC 3986 sections 2.1 and 3.3).

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;

/// Stands for a `/` that was percent-encoded and so does not part segments. No decoded path holds it otherwise, since control
/// bytes are refused.
pub(crate) const ENCODED_SLASH: char = '\u{1}';

/// Why a path is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathFault {
    /// A `%` without two hexadecimal digits.
    Encoding,
    /// Decoded bytes that are no UTF-8.
    Utf8,
    /// NUL or another control byte, raw or encoded.
    Nul,
    /// A `.` or `..` segment, raw or encoded.
    DotSegment,
    /// More segments than `path_segments`.
    TooManySegments,
    /// Path and query longer than `uri_bytes`.
    TooLong,
}

impl PathFault {
    /// The status that answers it (RFC 9110 sections 15.5.1 and 15.5.15).
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLong => StatusCode::URI_TOO_LONG,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for PathFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encoding => {
                "the path holds a `%` that is not followed by two hexadecimal digits; encode a percent sign as `%25`"
            }
            Self::Utf8 => "the decoded path is not UTF-8; encode text as UTF-8 before percent-encoding it",
            Self::Nul => "the path holds NUL or another control byte, which no path may",
            Self::DotSegment => "the path holds a `.` or `..` segment; resolve it before sending the request",
            Self::TooManySegments => "the path has more segments than this listener allows; use a shorter path",
            Self::TooLong => "the path and query are longer than this listener allows; send long values in the body",
        })
    }
}

impl std::error::Error for PathFault {}

/// Decodes a path, leaving encoded slashes as [`ENCODED_SLASH`]. Borrows if nothing was encoded.
pub(crate) fn decode(raw: &str, segments_max: usize) -> Result<Cow<'_, str>, PathFault> {
    let (mut slashes, mut encoded, mut control) = (0, false, false);
    for byte in raw.bytes() {
        slashes += usize::from(byte == b'/');
        encoded |= byte == b'%';
        control |= byte.is_ascii_control();
    }
    if slashes > segments_max {
        return Err(PathFault::TooManySegments);
    }
    if control {
        return Err(PathFault::Nul);
    }
    let path = if encoded { Cow::Owned(percent_decode(raw)?) } else { Cow::Borrowed(raw) };
    // An encoded slash parts segments for whoever decodes the value as a path later, so it counts here.
    if path.contains('.') && path.split(['/', ENCODED_SLASH]).any(|segment| matches!(segment, "." | "..")) {
        return Err(PathFault::DotSegment);
    }
    Ok(path)
}

fn percent_decode(raw: &str) -> Result<String, PathFault> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (Some(high), Some(low)) = (rest.next().and_then(hex), rest.next().and_then(hex)) else {
            return Err(PathFault::Encoding);
        };
        match high << 4 | low {
            b'/' => decoded.push(ENCODED_SLASH as u8),
            byte if byte.is_ascii_control() => return Err(PathFault::Nul),
            byte => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).map_err(|_| PathFault::Utf8)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &str, expected: Result<&str, PathFault>) {
        assert_eq!(decode(raw, 4).as_deref(), expected.as_ref().copied(), "{raw:?}");
    }

    #[test]
    fn paths() {
        check("/items/7", Ok("/items/7"));
        check("/%69tems/%C3%A9", Ok("/items/é"));
        check("/é", Ok("/é"));
        check("/a%2Fb", Ok("/a\u{1}b"));
        check("/a%2fb%25", Ok("/a\u{1}b%"));
        check("/a+b", Ok("/a+b"));
        check("/...", Ok("/..."));
        check("/.well-known", Ok("/.well-known"));
        check("/a/b/c/d", Ok("/a/b/c/d"));
        check("/a/b/c/d/e", Err(PathFault::TooManySegments));
        check("/%", Err(PathFault::Encoding));
        check("/%6", Err(PathFault::Encoding));
        check("/%zz", Err(PathFault::Encoding));
        check("/%+1", Err(PathFault::Encoding));
        check("/%ff", Err(PathFault::Utf8));
        check("/%C3", Err(PathFault::Utf8));
        check("/%00", Err(PathFault::Nul));
        check("/%01", Err(PathFault::Nul));
        check("/%7F", Err(PathFault::Nul));
        check("/a\u{1}b", Err(PathFault::Nul));
        check("/..", Err(PathFault::DotSegment));
        check("/./a", Err(PathFault::DotSegment));
        check("/a/%2e%2E/b", Err(PathFault::DotSegment));
        check("/a/.%2e", Err(PathFault::DotSegment));
        check("/a/x%2f..%2fb", Err(PathFault::DotSegment));
    }

    #[test]
    fn statuses() {
        assert_eq!(PathFault::TooLong.status(), StatusCode::URI_TOO_LONG);
        assert_eq!(PathFault::Utf8.status(), StatusCode::BAD_REQUEST);
    }
}
