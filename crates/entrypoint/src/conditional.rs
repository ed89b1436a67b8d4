//! Whether a client has what it asks for (RFC 9110 section 13.1).

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};

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

/// `*` or a list of entity tags.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    Any,
    Listed(Vec<Tag>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Tag {
    /// With quotes.
    opaque: String,
    weak: bool,
}

impl Tags {
    fn parse(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        headers.get(name)?;
        let mut tags = Vec::new();
        for line in headers.get_all(name) {
            // An entity tag may hold any visible byte (obs-text too), so bytes are looked at, not text.
            let mut rest = line.as_bytes();
            if rest.trim_ascii() == b"*" {
                return Some(Self::Any);
            }
            while let Some(start) = rest.iter().position(|&b| b == b'"') {
                let Some(len) = rest[start + 1..].iter().position(|&b| b == b'"') else { break };
                let end = start + 1 + len + 1;
                if tags.len() < TAGS_MAX {
                    let opaque = String::from_utf8_lossy(&rest[start..end]).into_owned();
                    tags.push(Tag { opaque, weak: rest[..start].ends_with(b"W/") });
                }
                rest = &rest[end..];
            }
        }
        Some(Self::Listed(tags))
    }
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    headers.get(name)?.to_str().ok().and_then(|v| httpdate::parse_http_date(v).ok())
}

/// What a request that changes something wants to be so before (RFC 9110 section 13.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Required {
    matches: Option<Tags>,
    none_matches: Option<Tags>,
    /// Counts only without `If-Match` (section 13.2.2).
    unmodified_since: Option<SystemTime>,
}

impl Required {
    /// `None` when it wants nothing. What cannot be read is not taken for nothing: the name of the header at fault.
    pub fn parse(headers: &HeaderMap) -> Result<Option<Self>, HeaderName> {
        let tags = |name: HeaderName| match Tags::parse(headers, &name) {
            Some(Tags::Listed(tags)) if tags.is_empty() || tags.len() == TAGS_MAX => Err(name),
            tags => Ok(tags),
        };
        let (matches, none_matches) = (tags(IF_MATCH)?, tags(IF_NONE_MATCH)?);
        // A date that is none is to be ignored (section 13.1.4).
        let unmodified_since = date(headers, &IF_UNMODIFIED_SINCE).filter(|_| matches.is_none());
        let any = matches.is_some() || none_matches.is_some() || unmodified_since.is_some();
        Ok(any.then_some(Self { matches, none_matches, unmodified_since }))
    }

    /// `current` is the entity tag, quoted and strong, and the time of last modification in ms; `None` when there is no content.
    pub fn is_met(&self, current: Option<(&str, i64)>) -> bool {
        let tag = current.map(|(tag, _)| tag);
        // Strong comparison here, weak comparison there (section 8.8.3.2).
        let matches = |tags: &Tags| match tags {
            Tags::Any => tag.is_some(),
            Tags::Listed(tags) => tags.iter().any(|t| !t.weak && Some(t.opaque.as_str()) == tag),
        };
        let none_matches = |tags: &Tags| match tags {
            Tags::Any => tag.is_none(),
            Tags::Listed(tags) => tags.iter().all(|t| Some(t.opaque.as_str()) != tag),
        };
        let unmodified = |since: &SystemTime| current.and_then(|(_, ms)| modified(ms)).is_some_and(|m| m <= *since);
        self.matches.as_ref().is_none_or(matches)
            && self.unmodified_since.as_ref().is_none_or(unmodified)
            && self.none_matches.as_ref().is_none_or(none_matches)
    }
}

impl Held {
    pub fn parse(headers: &HeaderMap) -> Self {
        match Tags::parse(headers, &IF_NONE_MATCH) {
            Some(Tags::Any) => return Self::Any,
            Some(Tags::Listed(tags)) => return Self::Tags(tags.into_iter().map(|tag| tag.opaque).collect()),
            None => {}
        }
        date(headers, &IF_MODIFIED_SINCE).map_or(Self::Nothing, Self::Since)
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

    #[test]
    fn what_a_change_requires() {
        const TIME: &str = "Thu, 01 Jan 1970 00:00:05 GMT";
        let some = Some(("\"a\"", 5_999));
        for (headers, current, met) in [
            (&[("if-match", "\"a\"")][..], some, true),
            (&[("if-match", "\"b\"")], some, false),
            (&[("if-match", "\"b\", \"a\"")], some, true),
            (&[("if-match", "W/\"a\"")], some, false),
            (&[("if-match", "*")], some, true),
            (&[("if-match", "*")], None, false),
            (&[("if-match", "\"a\"")], None, false),
            (&[("if-none-match", "*")], some, false),
            (&[("if-none-match", "*")], None, true),
            (&[("if-none-match", "W/\"a\"")], some, false),
            (&[("if-none-match", "\"b\"")], some, true),
            (&[("if-unmodified-since", TIME)], some, true),
            (&[("if-unmodified-since", "Thu, 01 Jan 1970 00:00:04 GMT")], some, false),
            (&[("if-unmodified-since", TIME)], None, false),
            (&[("if-match", "\"a\""), ("if-unmodified-since", "Thu, 01 Jan 1970 00:00:04 GMT")], some, true),
            (&[("if-match", "\"a\""), ("if-none-match", "\"a\"")], some, false),
        ] {
            let map = headers.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap()));
            let required = Required::parse(&HeaderMap::from_iter(map)).unwrap().unwrap();
            assert_eq!(required.is_met(current), met, "{headers:?} {current:?}");
        }
        for headers in [&[][..], &[("if-unmodified-since", "yesterday")]] {
            let map = headers.iter().map(|(n, v): &(&'static str, &str)| (HeaderName::from_static(n), v.parse().unwrap()));
            assert_eq!(Required::parse(&HeaderMap::from_iter(map)), Ok(None));
        }
        let many = vec!["\"x\""; TAGS_MAX].join(",");
        for (name, value) in [("if-match", "a"), ("if-none-match", ""), ("if-none-match", "garbage"), ("if-none-match", &many)] {
            let map = HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())]);
            assert_eq!(Required::parse(&map), Err(HeaderName::from_static(name)), "{value}");
        }
    }
}
