//! What an exchange is known by: its correlation id, and the digest of its request.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// The id that a request record and its replies have in common: 16 bytes, as text 22 characters of base64url.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CorrelationId([u8; 16]);

impl CorrelationId {
    /// Length of the text.
    pub const TEXT_LEN: usize = 22;

    /// One that nobody can guess.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().into_bytes())
    }

    /// The id of a request with an idempotency key: the same on every gateway, and another for another request with that key, so
    /// that neither can have the reply of the other.
    pub fn of_request(key: KeyId, digest: RequestDigest) -> Self {
        Self(short(digest_of("tidegate correlation id 1", [&key.0[..], &digest.0[..]])))
    }

    /// The id of its text; `None` for any other text.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut id = [0; 16];
        let fits = text.len() == Self::TEXT_LEN && URL_SAFE_NO_PAD.decode_slice(text, &mut id) == Ok(16);
        fits.then_some(Self(id))
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn of_number(n: u64) -> Self {
        Self(u128::from(n).to_le_bytes())
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An idempotency key as records carry it: 16 bytes of a hash, as text 22 characters of base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// The key of an identity for a topic: the same on every gateway.
    pub fn new(topic: &str, identity: &str, key: &str) -> Self {
        Self(short(digest_of("tidegate idempotency id 1", [topic.as_bytes(), identity.as_bytes(), key.as_bytes()])))
    }
}

/// The same as a [`CorrelationId`]'s, for a watch on records with keys.
impl From<KeyId> for CorrelationId {
    fn from(key: KeyId) -> Self {
        Self(key.0)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// What makes two requests with one idempotency key the same: SHA-256, as text 43 characters of base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestDigest([u8; 32]);

impl RequestDigest {
    /// `target` is path and query as they were sent; `headers` are those that count, in a fixed order, each value of a name.
    pub fn of<'h>(method: &str, target: &str, body: &[u8], headers: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> Self {
        let fixed = [method.as_bytes(), target.as_bytes(), body];
        let headers = headers.into_iter().flat_map(|(name, value)| [name.as_bytes(), value]);
        Self(digest_of("tidegate request digest 1", fixed.into_iter().chain(headers)))
    }

    /// Whether a record that has this text is of the same request.
    pub fn is(&self, text: &[u8]) -> bool {
        self.to_string().as_bytes() == text
    }
}

impl fmt::Display for RequestDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

fn short(hash: [u8; 32]) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    id
}

/// Each part with its length, so that no two lists of parts are alike.
fn digest_of<'p>(purpose: &'p str, parts: impl IntoIterator<Item = &'p [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in std::iter::once(purpose.as_bytes()).chain(parts) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_of_keys_are_fixed() {
        // Records of earlier versions carry these.
        let key = KeyId::new("orders", "", "k");
        let digest = |body: &[u8]| RequestDigest::of("POST", "/", body, []);
        assert_eq!(key.to_string(), "1askc17cnMYCgaRNQ49J_w");
        assert_eq!(CorrelationId::of_request(key, digest(b"a")).to_string(), "qv5fb2xjoprFKYGCrcWcug");
        assert_ne!(CorrelationId::of_request(key, digest(b"a")), CorrelationId::of_request(key, digest(b"b")));
        let parts = [("orders", "a", "k"), ("orders", "", "ak"), ("ordersa", "", "k"), ("orders", "k", "a")];
        let ids: std::collections::HashSet<_> = parts.iter().map(|(t, i, k)| KeyId::new(t, i, k)).collect();
        assert_eq!(ids.len(), parts.len());
    }

    #[test]
    fn digests_tell_requests_apart() {
        let of = |method: &str, target: &str, body: &str, headers: &[(&str, &str)]| {
            RequestDigest::of(method, target, body.as_bytes(), headers.iter().map(|(n, v)| (*n, v.as_bytes()))).to_string()
        };
        let one = of("POST", "/a", "b", &[("x", "1")]);
        assert_eq!(one, of("POST", "/a", "b", &[("x", "1")]));
        assert_eq!(one.len(), 43);
        let others = [
            of("PUT", "/a", "b", &[("x", "1")]),
            of("POST", "/ab", "", &[("x", "1")]),
            of("POST", "/a?", "b", &[("x", "1")]),
            of("POST", "/a", "b", &[]),
            of("POST", "/a", "b", &[("x", "")]),
            of("POST", "/a", "b", &[("x", "1"), ("x", "2")]),
        ];
        assert!(others.iter().all(|other| *other != one));
    }

    proptest! {
        #[test]
        fn round_trip(bytes: [u8; 16]) {
            let id = CorrelationId(bytes);
            prop_assert_eq!(id.to_string().len(), CorrelationId::TEXT_LEN);
            prop_assert_eq!(CorrelationId::parse(id.to_string().as_bytes()), Some(id));
        }

        // One id, one text: what an index is asked for is what a worker was given.
        #[test]
        fn another_text_is_another_id(text in proptest::collection::vec(any::<u8>(), 0..30)) {
            if let Some(id) = CorrelationId::parse(&text) {
                prop_assert_eq!(id.to_string().into_bytes(), text);
            }
        }
    }
}
