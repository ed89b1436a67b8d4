//! A request as templates see it.

use std::borrow::Cow;
use std::sync::OnceLock;

use http::request::Parts;
use percent_encoding::percent_decode_str;
use template::{Message, Scope};

type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// Longest idempotency key taken, in bytes; where nothing depends on it, a longer one is replaced by one of ours.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 1024;
const IDEMPOTENCY_HEADER: &str = "idempotency-key";

/// A request head with its path parameters. Ids are made on first use and then stay the same.
pub struct RequestScope<'a> {
    head: &'a Parts,
    params: &'a [(&'a str, &'a str)],
    idempotency_header: &'a str,
    ids: Ids,
}

/// The ids of a request, those that are made on first use included.
#[derive(Debug, Default)]
pub struct Ids {
    idempotency_key: OnceLock<String>,
    correlation_id: OnceLock<String>,
}

impl Ids {
    pub fn new(correlation_id: String, idempotency_key: Option<String>) -> Self {
        let idempotency_key = idempotency_key.map_or_else(OnceLock::new, OnceLock::from);
        Self { idempotency_key, correlation_id: OnceLock::from(correlation_id) }
    }
}

impl<'a> RequestScope<'a> {
    /// `params` are percent-decoded.
    pub fn new(head: &'a Parts, params: &'a [(&'a str, &'a str)]) -> Self {
        Self { head, params, idempotency_header: IDEMPOTENCY_HEADER, ids: Ids::default() }
    }

    /// With the header that the route takes idempotency keys from, in lower case.
    #[must_use]
    pub fn with_idempotency_header(self, name: &'a str) -> Self {
        Self { idempotency_header: name, ..self }
    }

    /// With the ids of the request, for templates to see.
    #[must_use]
    pub fn with_ids(self, ids: Ids) -> Self {
        Self { ids, ..self }
    }

    pub fn into_ids(self) -> Ids {
        self.ids
    }

    pub fn head(&self) -> &'a Parts {
        self.head
    }

    /// Decoded; a parameter that is no UTF-8 is as good as absent: replaced characters would make different keys equal.
    fn query_pairs(&self) -> impl Iterator<Item = Pair<'_>> {
        let pairs = self.head.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        pairs.filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        })
    }
}

fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('+') {
        return percent_decode_str(text).decode_utf8().ok();
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(|t| Cow::Owned(t.into_owned()))
}

fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

impl Scope for RequestScope<'_> {
    fn param(&self, name: &str) -> Option<Cow<'_, str>> {
        self.params.iter().find(|(n, _)| *n == name).map(|(_, v)| Cow::Borrowed(*v))
    }

    fn params(&self) -> Vec<Pair<'_>> {
        self.params.iter().map(|(n, v)| (Cow::Borrowed(*n), Cow::Borrowed(*v))).collect()
    }

    fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        self.query_pairs().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    fn queries(&self) -> Vec<Pair<'_>> {
        self.query_pairs().collect()
    }

    /// One that is no UTF-8 is as good as absent, as in the query.
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        std::str::from_utf8(self.head.headers.get(name)?.as_bytes()).ok().map(Cow::Borrowed)
    }

    fn headers(&self) -> Vec<Pair<'_>> {
        let pair = |(name, value): (&'_ http::HeaderName, &'_ http::HeaderValue)| {
            let value = std::str::from_utf8(value.as_bytes()).ok()?;
            Some((Cow::Owned(name.as_str().to_owned()), Cow::Owned(value.to_owned())))
        };
        self.head.headers.iter().filter_map(pair).collect()
    }

    fn idempotency_key(&self) -> Option<Cow<'_, str>> {
        if let Some(key) = self.ids.idempotency_key.get() {
            return Some(Cow::Borrowed(key));
        }
        let given = self.head.headers.get(self.idempotency_header).and_then(|v| v.to_str().ok());
        match given.filter(|k| (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&k.len())) {
            Some(key) => Some(Cow::Borrowed(key)),
            None => Some(Cow::Borrowed(self.ids.idempotency_key.get_or_init(new_id))),
        }
    }

    fn correlation_id(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(self.ids.correlation_id.get_or_init(new_id)))
    }
}

/// A request together with the record that answers it.
pub struct WithMessage<'a> {
    pub request: &'a RequestScope<'a>,
    pub topic: &'a str,
    pub latest: &'a exchange::Latest,
}

impl Scope for WithMessage<'_> {
    fn param(&self, name: &str) -> Option<Cow<'_, str>> {
        self.request.param(name)
    }
    fn params(&self) -> Vec<Pair<'_>> {
        self.request.params()
    }
    fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        self.request.query(name)
    }
    fn queries(&self) -> Vec<Pair<'_>> {
        self.request.queries()
    }
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.request.header(name)
    }
    fn headers(&self) -> Vec<Pair<'_>> {
        Scope::headers(self.request)
    }
    fn idempotency_key(&self) -> Option<Cow<'_, str>> {
        self.request.idempotency_key()
    }
    fn correlation_id(&self) -> Option<Cow<'_, str>> {
        self.request.correlation_id()
    }
    fn message(&self) -> Option<&dyn Message> {
        Some(self)
    }
}

impl Message for WithMessage<'_> {
    fn key(&self) -> Option<&[u8]> {
        self.latest.record.key()
    }
    fn value(&self) -> Option<&[u8]> {
        self.latest.record.value()
    }
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.latest.record.header(name)
    }
    fn headers(&self) -> Vec<(&str, &[u8])> {
        self.latest.record.headers().filter_map(|h| Some((h.name, h.value?))).collect()
    }
    fn topic(&self) -> &str {
        self.topic
    }
    fn partition(&self) -> i32 {
        self.latest.partition
    }
    fn offset(&self) -> i64 {
        self.latest.record.offset()
    }
    fn timestamp_ms(&self) -> i64 {
        self.latest.record.timestamp_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters() {
        let request = http::Request::builder().uri("/?a=1&b=x+y%2B%20z&a=2&bad=%ff&%C3%A4=%C3%B6&empty&=n").body(()).unwrap();
        let (head, ()) = request.into_parts();
        let scope = RequestScope::new(&head, &[]);
        for (name, value) in [
            ("a", Some("1")),
            ("b", Some("x y+ z")),
            ("bad", None),
            ("\u{e4}", Some("\u{f6}")),
            ("empty", Some("")),
            ("", Some("n")),
            ("none", None),
        ] {
            assert_eq!(scope.query(name).as_deref(), value, "{name}");
        }
    }
}
