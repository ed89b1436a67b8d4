//! Whether a client has what it asks for (RFC 9110 section 13.1).

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH};

/// What the conditional headers of a GET or HEAD say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    Nothing,
    /// `If-None-Match: *`: any content at all.
    Any,
    /// The opaque parts of the listed tags, with quotes; weak comparison ignores `W/`.
    Tags(Vec<String>),
    /// `If-Modified-Since`, which counts only without `If-None-Match`.
    Since(SystemTime),
}

/// Tags taken from one request; a cache has few variants of one resource.
const TAGS_MAX: usize = 256;

impl Held {
    pub fn parse(headers: &HeaderMap) -> Self {
        if headers.contains_key(IF_NONE_MATCH) {
            let mut tags = Vec::new();
            for line in headers.get_all(IF_NONE_MATCH) {
                // An entity tag may hold any visible byte (obs-text too), so bytes are looked at, not text.
                let mut rest = line.as_bytes();
                if rest.trim_ascii() == b"*" {
                    return Self::Any;
                }
                while let Some(start) = rest.iter().position(|&b| b == b'"') {
                    let Some(len) = rest[start + 1..].iter().position(|&b| b == b'"') else { break };
                    let end = start + 1 + len + 1;
                    if tags.len() < TAGS_MAX {
                        tags.push(String::from_utf8_lossy(&rest[start..end]).into_owned());
                    }
                    rest = &rest[end..];
                }
            }
            return Self::Tags(tags);
        }
        let since = headers.get(IF_MODIFIED_SINCE).and_then(|v| v.to_str().ok()).and_then(|v| httpdate::parse_http_date(v).ok());
        since.map_or(Self::Nothing, Self::Since)
    }

    /// `current` is the entity tag, quoted, and the time of last modification in ms; `None` when there is no content.
    pub fn has(&self, current: Option<(&str, i64)>) -> bool {
        match (self, current) {
            // Whoever names no content waits for some to appear; whoever has some learns that it is gone.
            (Self::Nothing, None) => true,
            (Self::Nothing, Some(_)) | (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::Tags(tags), Some((etag, _))) => tags.iter().any(|t| t == etag),
            // Whole seconds, as `Last-Modified` shows them.
            (Self::Since(since), Some((_, ms))) => modified(ms).is_some_and(|m| m <= *since),
        }
    }
}

/// The time of `Last-Modified`, in whole seconds; `None` for a record without a timestamp or one that no date can show.
pub fn modified(timestamp_ms: i64) -> Option<SystemTime> {
    /// 9999-12-31T23:59:59Z, the last second that an HTTP date can name.
    const LAST: u64 = 253_402_300_799;
    let seconds = u64::try_from(timestamp_ms).ok()? / 1000;
    (seconds <= LAST).then(|| UNIX_EPOCH + Duration::from_secs(seconds))
}

thread_local! {
    /// The date that was written last: answers in a row seldom have different ones.
    static WRITTEN: RefCell<Option<(SystemTime, HeaderValue)>> = const { RefCell::new(None) };
}

/// The value of `Last-Modified`.
pub fn last_modified(timestamp_ms: i64) -> Option<HeaderValue> {
    let time = modified(timestamp_ms)?;
    WRITTEN.with_borrow_mut(|written| match written {
        Some((of, value)) if *of == time => Some(value.clone()),
        _ => {
            let value = HeaderValue::try_from(httpdate::fmt_http_date(time)).ok()?;
            *written = Some((time, value.clone()));
            Some(value)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_none_match() {
        for (lines, etag, has) in [
            (&["\"a\""][..], "\"a\"", true),
            (&["\"a\""], "\"b\"", false),
            (&["W/\"a\""], "\"a\"", true),
            (&["\"x\", W/\"y\" ,\"a\""], "\"a\"", true),
            (&["\"x\"", "\"a\""], "\"a\"", true),
            (&["\"x,\\\"a\""], "\"a\"", false),
            (&["*"], "\"a\"", true),
            (&["a"], "\"a\"", false),
            (&["\"a"], "\"a\"", false),
            (&[], "\"a\"", false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(IF_NONE_MATCH, line.parse().unwrap());
            }
            headers.insert(IF_MODIFIED_SINCE, "Thu, 01 Jan 1970 00:00:00 GMT".parse().unwrap());
            assert_eq!(Held::parse(&headers).has(Some((etag, 5_000))), has, "{lines:?} {etag}");
        }
    }

    #[test]
    fn if_modified_since() {
        for (date, ms, has) in [
            ("Thu, 01 Jan 1970 00:00:05 GMT", 5_999, true),
            ("Thu, 01 Jan 1970 00:00:05 GMT", 6_000, false),
            ("Thu, 01 Jan 1970 00:00:05 GMT", -1, false),
            ("yesterday", 5_000, false),
        ] {
            let headers = HeaderMap::from_iter([(IF_MODIFIED_SINCE, date.parse().unwrap())]);
            assert_eq!(Held::parse(&headers).has(Some(("\"a\"", ms))), has, "{date} {ms}");
        }
    }
}
