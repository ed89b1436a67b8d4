//! Who asks, and which request it is: what makes the id of an exchange.

use exchange::{CorrelationId, KeyId, Marks, RequestDigest};
use http::header::HeaderName;
use http::request::Parts;
use template::Template;

use crate::problem::Problem;
use crate::scope::{IDEMPOTENCY_KEY_BYTES_MAX, Ids, RequestScope};

/// Longest identity taken, in bytes.
const IDENTITY_BYTES_MAX: usize = 4096;

pub struct Identify {
    /// The topic that requests are written to: part of the id of a key.
    pub topic: String,
    /// Whose the request is; nobody's in particular when left out.
    pub identity: Option<Template>,
    pub idempotency: Option<Idempotency>,
}

/// How requests that are the same are told.
pub struct Idempotency {
    pub source: KeySource,
    /// Request headers that must be equal, beside method, path, query and body.
    pub compare_headers: Vec<HeaderName>,
}

/// Where the key is from.
pub enum KeySource {
    Header { name: HeaderName, required: bool },
    Template(Template),
}

impl Identify {
    /// The identity.
    pub fn identity(&self, scope: &RequestScope<'_>) -> Result<String, Problem> {
        let Some(identity) = &self.identity else { return Ok(String::new()) };
        let identity = identity.render(scope).map_err(|e| Problem::from(&e))?.into_owned();
        match identity.len() <= IDENTITY_BYTES_MAX {
            true => Ok(identity),
            false => Err(Problem::bad_request(format!("an identity has {IDENTITY_BYTES_MAX} bytes at most"))),
        }
    }

    /// The request as templates see it, without ids.
    pub fn scope<'a>(&'a self, head: &'a Parts, params: &'a [(&'a str, &'a str)]) -> RequestScope<'a> {
        let scope = RequestScope::new(head, params);
        match self.idempotency.as_ref().map(|idempotency| &idempotency.source) {
            Some(KeySource::Header { name, .. }) => scope.with_idempotency_header(name.as_str()),
            Some(KeySource::Template(_)) | None => scope,
        }
    }

    /// The request as templates see it, the identity, and what its record is known by. `None` where the route has no use for it.
    pub fn identify<'a>(
        &'a self,
        head: &'a Parts,
        params: &'a [(&'a str, &'a str)],
        body: &[u8],
    ) -> Result<(RequestScope<'a>, String, Option<Marks>), Problem> {
        let scope = self.scope(head, params);
        let identity = self.identity(&scope).map_err(Problem::not_written)?;
        let Some(idempotency) = &self.idempotency else { return Ok((scope, identity, None)) };
        let Some(key) = idempotency.key(&scope)? else { return Ok((scope, identity, None)) };
        let (key_id, digest) = (KeyId::new(&self.topic, &identity, &key), idempotency.digest(head, body));
        let id = CorrelationId::of_request(key_id, digest);
        Ok((scope.with_ids(Ids::new(id.to_string(), Some(key))), identity, Some(Marks { id, key: Some((key_id, digest)) })))
    }
}

impl Idempotency {
    fn key(&self, scope: &RequestScope<'_>) -> Result<Option<String>, Problem> {
        let key = match &self.source {
            KeySource::Template(template) => template.render(scope).map_err(|e| Problem::from(&e).not_written())?.into_owned(),
            KeySource::Header { name, required } => {
                let mut given = scope.head().headers.get_all(name).into_iter();
                match (given.next(), given.next()) {
                    (Some(key), None) => {
                        let text =
                            key.to_str().map_err(|_| Problem::bad_request(format!("{name} is not made of visible ASCII")))?;
                        text.to_owned()
                    }
                    (Some(_), Some(_)) => return Err(Problem::bad_request(format!("{name} is given more than once"))),
                    (None, _) if *required => return Err(Problem::key_missing(name)),
                    (None, _) => return Ok(None),
                }
            }
        };
        match key.len() {
            0 => Err(Problem::bad_request("the idempotency key is empty")),
            1..=IDEMPOTENCY_KEY_BYTES_MAX => Ok(Some(key)),
            _ => Err(Problem::bad_request(format!("an idempotency key has {IDEMPOTENCY_KEY_BYTES_MAX} bytes at most"))),
        }
    }

    fn digest(&self, head: &Parts, body: &[u8]) -> RequestDigest {
        let target = head.uri.path_and_query().map_or("", |target| target.as_str());
        let values = |name: &'_ HeaderName| {
            head.headers.get_all(name).into_iter().map(|v| (name.as_str().to_owned(), v.as_bytes())).collect::<Vec<_>>()
        };
        let headers: Vec<(String, &[u8])> = self.compare_headers.iter().flat_map(values).collect();
        RequestDigest::of(head.method.as_str(), target, body, headers.iter().map(|(name, value)| (name.as_str(), *value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(
        identify: &Identify,
        uri: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Option<(String, String)>, &'static str> {
        let mut request = http::Request::builder().method("POST").uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let found = identify.identify(&head, &[], body.as_bytes());
        let (_, _, marks) = found.map_err(|p| p.name)?;
        Ok(marks.and_then(|m| m.key).map(|(key, digest)| (key.to_string(), digest.to_string())))
    }

    fn identify(required: bool) -> Identify {
        Identify {
            topic: "orders".into(),
            identity: None,
            idempotency: Some(Idempotency {
                source: KeySource::Header { name: HeaderName::from_static("x-key"), required },
                compare_headers: vec![HeaderName::from_static("x-unit")],
            }),
        }
    }

    #[test]
    fn what_counts_as_the_same_request() {
        let one = id_of(&identify(false), "/o?a=1", &[("x-key", "k")], "b").unwrap().unwrap();
        for (uri, headers, body, same_id, same_digest) in [
            ("/o?a=1", &[("x-key", "k"), ("user-agent", "other")][..], "b", true, true),
            ("/o?a=2", &[("x-key", "k")], "b", true, false),
            ("/p?a=1", &[("x-key", "k")], "b", true, false),
            ("/o?a=1", &[("x-key", "k")], "c", true, false),
            ("/o?a=1", &[("x-key", "k"), ("x-unit", "kg")], "b", true, false),
            ("/o?a=1", &[("x-key", "l")], "b", false, true),
        ] {
            let other = id_of(&identify(false), uri, headers, body).unwrap().unwrap();
            assert_eq!((other.0 == one.0, other.1 == one.1), (same_id, same_digest), "{uri} {headers:?} {body}");
        }
    }

    #[test]
    fn keys_that_cannot_be_taken() {
        let long = "k".repeat(IDEMPOTENCY_KEY_BYTES_MAX + 1);
        for (required, headers, expected) in [
            (false, &[][..], Ok(false)),
            (true, &[], Err("idempotency-key-missing")),
            (true, &[("x-key", "k")], Ok(true)),
            (false, &[("x-key", "")], Err("bad-request")),
            (false, &[("x-key", "k"), ("x-key", "k")], Err("bad-request")),
            (false, &[("x-key", "\u{fc}")], Err("bad-request")),
            (false, &[("x-key", &long)], Err("bad-request")),
        ] {
            let found = id_of(&identify(required), "/", headers, "").map(|marks| marks.is_some());
            assert_eq!(found, expected, "{required} {headers:?}");
        }
    }
}
