//! What a template sees of a request and of a record.

use std::borrow::Cow;

/// A name with its value.
pub type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// A request, as templates see it. Every part defaults to absent.
pub trait Scope {
    /// A path parameter, percent-decoded.
    fn param(&self, _name: &str) -> Option<Cow<'_, str>> {
        None
    }
    fn params(&self) -> Vec<Pair<'_>> {
        Vec::new()
    }
    /// The first query parameter of this name, decoded.
    fn query(&self, _name: &str) -> Option<Cow<'_, str>> {
        None
    }
    /// All query parameters in order; of equal names the first one counts.
    fn queries(&self) -> Vec<Pair<'_>> {
        Vec::new()
    }
    /// A request header; `name` is in lower case.
    fn header(&self, _name: &str) -> Option<Cow<'_, str>> {
        None
    }
    /// All request headers, names in lower case; of equal names the first one counts.
    fn headers(&self) -> Vec<Pair<'_>> {
        Vec::new()
    }
    /// `guard.identity`: who the guard found to be asking.
    fn identity(&self) -> Option<Cow<'_, str>> {
        None
    }
    fn idempotency_key(&self) -> Option<Cow<'_, str>> {
        None
    }
    fn correlation_id(&self) -> Option<Cow<'_, str>> {
        None
    }
    fn message(&self) -> Option<&dyn Message> {
        None
    }
}

/// A record, as templates see it.
pub trait Message {
    fn key(&self) -> Option<&[u8]>;
    /// `None` for a tombstone.
    fn value(&self) -> Option<&[u8]>;
    /// The last header of this name, as Kafka's own `lastHeader` has it. Names are case-sensitive.
    fn header(&self, name: &str) -> Option<&[u8]>;
    /// All headers in order, without those whose value is null; of equal names the last one counts.
    fn headers(&self) -> Vec<(&str, &[u8])>;
    fn topic(&self) -> &str;
    fn partition(&self) -> i32;
    fn offset(&self) -> i64;
    /// Milliseconds since the epoch.
    fn timestamp_ms(&self) -> i64;
}
