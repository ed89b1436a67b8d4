//! A position over the partitions of a topic, as clients carry it: opaque, versioned, the same on every replica.
//!
//! ```text
//! base64url of: u8 version = 1, u32 hash of the topic's name, then for each partition in ascending order
//!               varint partition - (previous partition + 1), varint next offset
//! ```

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const VERSION: u8 = 1;
/// Longest cursor taken from a client, in bytes: room for some thousands of partitions.
pub const CURSOR_BYTES_MAX: usize = 64 * 1024;

/// Next offsets of some partitions of one topic; the others are anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    topic: u32,
    /// Partition and next offset, partitions ascending.
    positions: Vec<(i32, i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    #[error("this is no cursor that Tidegate gave out")]
    Malformed,
    #[error("this cursor is of a version that this gateway does not know")]
    Version,
    #[error("this cursor belongs to another topic")]
    OtherTopic,
}

fn topic_hash(topic: &str) -> u32 {
    xxhash_rust::xxh3::xxh3_64(topic.as_bytes()) as u32
}

impl Cursor {
    /// `positions` in ascending order of partitions.
    pub fn new(topic: &str, positions: Vec<(i32, i64)>) -> Self {
        debug_assert!(positions.is_sorted_by(|a, b| a.0 < b.0));
        Self { topic: topic_hash(topic), positions }
    }

    pub fn positions(&self) -> &[(i32, i64)] {
        &self.positions
    }

    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(5 + 10 * self.positions.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.topic.to_le_bytes());
        let mut expected = 0;
        for &(partition, next) in &self.positions {
            put_varint((partition - expected) as u64, &mut bytes);
            put_varint(next as u64, &mut bytes);
            expected = partition + 1;
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Decodes what a client sent for this topic.
    pub fn decode(text: &[u8], topic: &str) -> Result<Self, CursorError> {
        if text.len() > CURSOR_BYTES_MAX {
            return Err(CursorError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Malformed)?;
        let (&version, rest) = bytes.split_first().ok_or(CursorError::Malformed)?;
        if version != VERSION {
            return Err(CursorError::Version);
        }
        let (hash, mut rest) = rest.split_first_chunk::<4>().ok_or(CursorError::Malformed)?;
        let topic_of_cursor = u32::from_le_bytes(*hash);
        let mut positions = Vec::new();
        let mut expected = 0i64;
        while !rest.is_empty() {
            let partition = i64::try_from(take_varint(&mut rest)?).ok().and_then(|d| d.checked_add(expected));
            let partition = partition.and_then(|p| i32::try_from(p).ok()).ok_or(CursorError::Malformed)?;
            let next = i64::try_from(take_varint(&mut rest)?).map_err(|_| CursorError::Malformed)?;
            positions.push((partition, next));
            expected = i64::from(partition) + 1;
        }
        if topic_of_cursor != topic_hash(topic) {
            return Err(CursorError::OtherTopic);
        }
        Ok(Self { topic: topic_of_cursor, positions })
    }
}

fn put_varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, CursorError> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(CursorError::Malformed)?;
        *bytes = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(n);
        }
    }
    Err(CursorError::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(map in proptest::collection::btree_map(0..i32::MAX, 0..i64::MAX, 0..40)) {
            let cursor = Cursor::new("t", map.into_iter().collect());
            let text = cursor.encode();
            prop_assert_eq!(Cursor::decode(text.as_bytes(), "t"), Ok(cursor));
            prop_assert_eq!(Cursor::decode(text.as_bytes(), "u"), Err(CursorError::OtherTopic));
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(text in proptest::collection::vec(any::<u8>(), 0..100), inner in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Cursor::decode(&text, "t");
            let mut bytes = vec![VERSION];
            bytes.extend(topic_hash("t").to_le_bytes());
            bytes.extend(inner);
            if let Ok(cursor) = Cursor::decode(URL_SAFE_NO_PAD.encode(&bytes).as_bytes(), "t") {
                let again = cursor.encode();
                prop_assert_eq!(Cursor::decode(again.as_bytes(), "t"), Ok(cursor));
            }
        }
    }
}
