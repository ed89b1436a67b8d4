//! Whether bytes are JSON that any reader takes (RFC 8259): text in UTF-8, escapes that are characters, nesting that ends.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// serde_json's own bound on nesting, 128, counts here, since values are really visited.
struct Valid;

impl<'de> Deserialize<'de> for Valid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Valid)
    }
}

impl<'de> Visitor<'de> for Valid {
    type Value = Valid;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Valid, E> {
        Ok(Valid)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Valid, E> {
        Ok(Valid)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Valid, E> {
        Ok(Valid)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Valid, E> {
        Ok(Valid)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Valid, E> {
        Ok(Valid)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Valid, E> {
        Ok(Valid)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Valid, A::Error> {
        while seq.next_element::<Valid>()?.is_some() {}
        Ok(Valid)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Valid, A::Error> {
        while map.next_entry::<Valid, Valid>()?.is_some() {}
        Ok(Valid)
    }
}

pub fn is_valid(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<Valid>(text).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_any_reader_takes() {
        let deep = |n: usize| [vec![b'['; n], vec![b']'; n]].concat();
        for (bytes, valid) in [
            (&b" {\"a\": [1, -2.5e3, true, null, \"\\u00e4\\ud83d\\ude00\"]} "[..], true),
            (b"12345678901234567890123456789", true),
            (b"\"\xff\"", false),
            (b"\"\\ud800\"", false),
            (b"{\"\xff\":1}", false),
            (b"", false),
            (b"1 2", false),
            (b"{a:1}", false),
            (b"[1,]", false),
            (b"NaN", false),
            (&deep(100), true),
            (&deep(100_000), false),
        ] {
            assert_eq!(is_valid(bytes), valid, "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(60)]));
        }
    }
}
