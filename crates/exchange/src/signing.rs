//! Tokens of exchanges: an id, signed for who may ask about it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::id::CorrelationId;

/// Bytes of a signature: HMAC-SHA-256, cut to 128 bits (RFC 2104 section 5).
const SIGNATURE_LEN: usize = 16;
const SIGNATURE_TEXT_LEN: usize = 22;

/// The keys of all gateways that serve one another's locations (`signing.keys`).
pub struct Signer {
    /// The first one signs, all verify: so that a key can be replaced.
    keys: Vec<Hmac<Sha256>>,
}

impl Signer {
    /// Shortest key, in bytes.
    pub const KEY_BYTES_MIN: usize = 16;

    /// A new key that nobody can guess.
    pub fn random_key() -> Vec<u8> {
        [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat()
    }

    /// `None` without a key.
    pub fn new(keys: &[Vec<u8>]) -> Option<Self> {
        let keys: Vec<_> = keys.iter().filter_map(|key| Hmac::new_from_slice(key).ok()).collect();
        (!keys.is_empty()).then_some(Self { keys })
    }

    /// Text of 44 characters that may stand in a URL: the id, and that this identity may ask about it on this topic.
    pub fn sign(&self, id: CorrelationId, topic: &str, identity: &str) -> String {
        let mut token = id.to_string();
        if let Some(key) = self.keys.first() {
            let signature = with_claim(key, id, topic, identity).finalize().into_bytes();
            URL_SAFE_NO_PAD.encode_string(&signature[..SIGNATURE_LEN], &mut token);
        }
        token
    }

    /// The id of a token that was signed for this topic and identity.
    pub fn verify(&self, token: &str, topic: &str, identity: &str) -> Option<CorrelationId> {
        let (id, signature) = token.as_bytes().split_at_checked(CorrelationId::TEXT_LEN)?;
        let id = CorrelationId::parse(id)?;
        let mut given = [0; SIGNATURE_LEN];
        if signature.len() != SIGNATURE_TEXT_LEN || URL_SAFE_NO_PAD.decode_slice(signature, &mut given) != Ok(SIGNATURE_LEN) {
            return None;
        }
        let is_of = |key: &Hmac<Sha256>| with_claim(key, id, topic, identity).verify_truncated_left(&given).is_ok();
        self.keys.iter().any(is_of).then_some(id)
    }
}

fn with_claim(key: &Hmac<Sha256>, id: CorrelationId, topic: &str, identity: &str) -> Hmac<Sha256> {
    let mut mac = key.clone();
    mac.update(id.as_bytes());
    mac.update(&(topic.len() as u64).to_le_bytes());
    mac.update(topic.as_bytes());
    mac.update(identity.as_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signer(keys: &[&str]) -> Signer {
        Signer::new(&keys.iter().map(|k| k.as_bytes().to_vec()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn who_may_ask() {
        let id = CorrelationId::random();
        let token = signer(&["first key", "second"]).sign(id, "orders", "ann");
        assert_eq!(token.len(), 44);
        for (keys, topic, identity, may) in [
            (&["first key"][..], "orders", "ann", true),
            (&["new key", "first key"], "orders", "ann", true),
            (&["second"], "orders", "ann", false),
            (&["first key"], "orders", "bob", false),
            (&["first key"], "orders", "", false),
            (&["first key"], "ordersann", "", false),
            (&["first key"], "others", "ann", false),
        ] {
            assert_eq!(signer(keys).verify(&token, topic, identity), may.then_some(id), "{keys:?} {topic} {identity}");
        }
        assert!(Signer::new(&[]).is_none());
    }

    proptest! {
        #[test]
        fn what_was_not_signed_is_refused(token in ".{0,60}", at in 0..44usize, bit in 0..7u8) {
            let signer = signer(&["a key"]);
            prop_assert_eq!(signer.verify(&token, "t", ""), None);
            let mut forged = signer.sign(CorrelationId::random(), "t", "").into_bytes();
            forged[at] ^= 1 << bit;
            if let Ok(forged) = String::from_utf8(forged) {
                prop_assert_eq!(signer.verify(&forged, "t", ""), None);
            }
        }
    }
}
