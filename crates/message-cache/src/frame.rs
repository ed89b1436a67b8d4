//! One record on disk. All integers little-endian; a frame starts at a multiple of 8.
//!
//! ```text
//!  0 u32 checksum   CRC-32C of bytes 4..length, begun from the segment's salt
//!  4 u32 length     of the frame without padding
//!  8 i64 offset
//! 16 i64 timestamp  ms since the epoch, -1 for none
//! 24 u32 key length      0xffff_ffff: null
//! 28 u32 value length    0xffff_ffff: null, a tombstone
//! 32 u32 headers length
//! 36 u32 attributes      bit 0: the timestamp is the broker's append time; bit 1: a delete horizon ends the frame;
//!                        bit 2: the first frame of a write
//! 40 key, headers, value, delete horizon, zero padding to a multiple of 8
//!    delete horizon: i64, ms since the epoch, from when on a compacted tombstone may go; tombstones only
//!    header: u32 name length, u32 value length (0xffff_ffff: null), name, value
//! ```

use std::ops::Range;

use crate::record::{Header, NewRecord, TimestampType};

pub const FIXED: usize = 40;
pub const ALIGN: usize = 8;
const NULL: u32 = u32::MAX;
const APPEND_TIME: u32 = 1;
const HORIZON: u32 = 2;
const BEGINS_WRITE: u32 = 4;
/// Bytes of a delete horizon.
const HORIZON_BYTES: usize = 8;
/// Key, value and headers of one record together; keeps every length within the signed 32 bits that Kafka has for them.
pub const MAX_FRAME: usize = i32::MAX as usize - ALIGN - HORIZON_BYTES;

/// The fixed part of a frame, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    pub length: u32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub timestamp_type: TimestampType,
    pub key_len: Option<u32>,
    pub value_len: Option<u32>,
    pub headers_len: u32,
    /// From when on a compacted tombstone may go, ms since the epoch.
    pub horizon_ms: Option<i64>,
    /// Whether it was the first of a write: all writes before were done when it was made.
    pub begins_write: bool,
}

impl Fixed {
    pub fn key_range(&self) -> Option<Range<usize>> {
        self.key_len.map(|n| FIXED..FIXED + n as usize)
    }

    pub fn headers_range(&self) -> Range<usize> {
        let start = FIXED + self.key_len.unwrap_or(0) as usize;
        start..start + self.headers_len as usize
    }

    pub fn value_range(&self) -> Option<Range<usize>> {
        let start = self.headers_range().end;
        self.value_len.map(|n| start..start + n as usize)
    }

    /// Bytes up to the next frame.
    pub fn stride(&self) -> usize {
        padded(self.length as usize)
    }
}

pub fn padded(length: usize) -> usize {
    length.next_multiple_of(ALIGN)
}

/// Length of the frame of a record, without padding; `None` when it is over [`MAX_FRAME`].
pub fn length_of(record: &NewRecord<'_>) -> Option<usize> {
    let headers: usize = record.headers.iter().map(|h| 8 + h.name.len() + h.value.map_or(0, <[u8]>::len)).sum();
    let length = FIXED + record.key.map_or(0, <[u8]>::len) + headers + record.value.map_or(0, <[u8]>::len);
    (length <= MAX_FRAME).then_some(length)
}

/// Appends the frame of a record whose [`length_of`] is `length`; the first of a write if `out` is empty.
pub fn encode(record: &NewRecord<'_>, length: usize, salt: u32, out: &mut Vec<u8>) {
    let start = out.len();
    out.reserve(padded(length));
    let len = |part: Option<&[u8]>| part.map_or(NULL, |b| b.len() as u32);
    let headers_len = length - FIXED - record.key.map_or(0, <[u8]>::len) - record.value.map_or(0, <[u8]>::len);
    let mut fixed = [0u8; FIXED];
    fixed[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    fixed[8..16].copy_from_slice(&record.offset.to_le_bytes());
    fixed[16..24].copy_from_slice(&record.timestamp_ms.to_le_bytes());
    fixed[24..28].copy_from_slice(&len(record.key).to_le_bytes());
    fixed[28..32].copy_from_slice(&len(record.value).to_le_bytes());
    fixed[32..36].copy_from_slice(&(headers_len as u32).to_le_bytes());
    let appended = if record.timestamp_type == TimestampType::LogAppend { APPEND_TIME } else { 0 };
    let attributes = appended | if start == 0 { BEGINS_WRITE } else { 0 };
    fixed[36..40].copy_from_slice(&attributes.to_le_bytes());
    out.extend_from_slice(&fixed);
    out.extend_from_slice(record.key.unwrap_or_default());
    for h in record.headers {
        out.extend_from_slice(&(h.name.len() as u32).to_le_bytes());
        out.extend_from_slice(&len(h.value).to_le_bytes());
        out.extend_from_slice(h.name.as_bytes());
        out.extend_from_slice(h.value.unwrap_or_default());
    }
    out.extend_from_slice(record.value.unwrap_or_default());
    let crc = crc32c::crc32c_append(salt, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + padded(length), 0);
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes end before the frame does: a torn tail, if nothing follows.
    Short,
    Length,
    Checksum,
}

impl Fault {
    pub fn text(self) -> &'static str {
        match self {
            Self::Short => "cut short",
            Self::Length => "impossible length",
            Self::Checksum => "wrong checksum",
        }
    }
}

/// The fixed part of the frame at the start of `bytes`, plausible and inside `bytes`, its checksum not looked at.
pub fn peek(bytes: &[u8]) -> Result<Fixed, Fault> {
    let Some(fixed) = bytes.first_chunk::<FIXED>() else { return Err(Fault::Short) };
    let u32_at = |i: usize| u32::from_le_bytes([fixed[i], fixed[i + 1], fixed[i + 2], fixed[i + 3]]);
    let i64_at = |i: usize| i64::from(u32_at(i)) | i64::from(u32_at(i + 4)) << 32;
    let part = |i: usize| Some(u32_at(i)).filter(|&n| n != NULL);
    let has_horizon = u32_at(36) & HORIZON != 0 && u32_at(28) == NULL;
    let mut decoded = Fixed {
        length: u32_at(4),
        offset: i64_at(8),
        timestamp_ms: i64_at(16),
        timestamp_type: if u32_at(36) & APPEND_TIME != 0 { TimestampType::LogAppend } else { TimestampType::Create },
        key_len: part(24),
        value_len: part(28),
        headers_len: u32_at(32),
        horizon_ms: None,
        begins_write: u32_at(36) & BEGINS_WRITE != 0,
    };
    let parts =
        u64::from(decoded.key_len.unwrap_or(0)) + u64::from(decoded.value_len.unwrap_or(0)) + u64::from(decoded.headers_len);
    let parts = parts + if has_horizon { HORIZON_BYTES as u64 } else { 0 };
    if parts + FIXED as u64 != u64::from(decoded.length) || decoded.length as usize > MAX_FRAME || decoded.offset < 0 {
        return Err(Fault::Length);
    }
    if bytes.len() < decoded.stride() {
        return Err(Fault::Short);
    }
    if has_horizon {
        decoded.horizon_ms = bytes[..decoded.length as usize].last_chunk().map(|h| i64::from_le_bytes(*h));
    }
    Ok(decoded)
}

/// Most bytes that [`copy`] appends.
pub fn copy_bytes_max(fixed: &Fixed) -> usize {
    padded(fixed.length as usize + HORIZON_BYTES)
}

/// Appends a verified frame again, for a segment of another salt; a tombstone that has no delete horizon yet gets this one.
pub fn copy(frame: &[u8], fixed: &Fixed, horizon_ms: Option<i64>, salt: u32, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&frame[..fixed.length as usize]);
    if let (Some(horizon), None, None) = (horizon_ms, fixed.horizon_ms, fixed.value_len) {
        out.extend_from_slice(&horizon.to_le_bytes());
        let attributes = u32::from_le_bytes([frame[36], frame[37], frame[38], frame[39]]) | HORIZON;
        out[start + 36..start + 40].copy_from_slice(&attributes.to_le_bytes());
    }
    let length = out.len() - start;
    out[start + 4..start + 8].copy_from_slice(&(length as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(salt, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + padded(length), 0);
}

/// As [`peek`], with the checksum verified: from here on the bytes are those that were written.
pub fn decode(bytes: &[u8], salt: u32) -> Result<Fixed, Fault> {
    let fixed = peek(bytes)?;
    let stored = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    if crc32c::crc32c_append(salt, &bytes[4..fixed.length as usize]) != stored {
        return Err(Fault::Checksum);
    }
    Ok(fixed)
}

/// The headers of a frame; ends early on bytes that are none, which a verified frame does not have.
pub fn headers(mut bytes: &[u8]) -> impl Iterator<Item = Header<'_>> {
    std::iter::from_fn(move || {
        let (lengths, rest) = bytes.split_first_chunk::<8>()?;
        let name_len = u32::from_le_bytes([lengths[0], lengths[1], lengths[2], lengths[3]]) as usize;
        let value_len = u32::from_le_bytes([lengths[4], lengths[5], lengths[6], lengths[7]]);
        let (name, rest) = rest.split_at_checked(name_len)?;
        let name = std::str::from_utf8(name).ok()?;
        let (value, rest) = if value_len == NULL {
            (None, rest)
        } else {
            let (value, rest) = rest.split_at_checked(value_len as usize)?;
            (Some(value), rest)
        };
        bytes = rest;
        Some(Header { name, value })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Parts = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

    fn parts() -> impl Strategy<Value = Parts> {
        let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..80));
        let headers = proptest::collection::vec((".{0,12}", bytes()), 0..5);
        (0..i64::MAX, any::<i64>(), bytes(), bytes(), headers)
    }

    fn encoded((offset, timestamp_ms, key, value, headers): &Parts, salt: u32) -> Vec<u8> {
        let headers: Vec<_> = headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }).collect();
        let record = NewRecord {
            offset: *offset,
            timestamp_ms: *timestamp_ms,
            timestamp_type: TimestampType::LogAppend,
            key: key.as_deref(),
            value: value.as_deref(),
            headers: &headers,
        };
        let mut out = Vec::new();
        encode(&record, length_of(&record).unwrap(), salt, &mut out);
        out
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(p in parts(), salt: u32) {
            let bytes = encoded(&p, salt);
            let fixed = decode(&bytes, salt).unwrap();
            prop_assert_eq!(fixed.stride(), bytes.len());
            prop_assert_eq!((fixed.offset, fixed.timestamp_ms), (p.0, p.1));
            prop_assert_eq!(fixed.key_range().map(|r| &bytes[r]), p.2.as_deref());
            prop_assert_eq!(fixed.value_range().map(|r| &bytes[r]), p.3.as_deref());
            let read: Vec<_> = headers(&bytes[fixed.headers_range()]).map(|h| (h.name.to_owned(), h.value.map(<[u8]>::to_vec))).collect();
            prop_assert_eq!(read, p.4);
        }

        #[test]
        fn a_copy_is_the_same_but_for_salt_and_horizon(p in parts(), salt: u32, other: u32, horizon in proptest::option::of(any::<i64>())) {
            let bytes = encoded(&p, salt);
            let fixed = decode(&bytes, salt).unwrap();
            let mut copied = vec![0; 8];
            copy(&bytes, &fixed, horizon, other, &mut copied);
            let again = decode(&copied[8..], other).unwrap();
            prop_assert_eq!(again.stride() + 8, copied.len());
            prop_assert_eq!(again.horizon_ms, horizon.filter(|_| p.3.is_none()));
            prop_assert_eq!(Fixed { length: fixed.length, horizon_ms: None, ..again }, fixed);
            let content = |f: &Fixed, b: &[u8]| b[FIXED..f.headers_range().end + f.value_len.unwrap_or(0) as usize].to_vec();
            prop_assert_eq!(content(&again, &copied[8..]), content(&fixed, &bytes));
            // The first horizon stays.
            let mut thrice = Vec::new();
            copy(&copied[8..], &again, Some(7), salt, &mut thrice);
            let expected = horizon.or(Some(7)).filter(|_| p.3.is_none());
            prop_assert_eq!(decode(&thrice, salt).unwrap().horizon_ms, expected);
        }

        #[test]
        fn a_flipped_bit_is_seen(p in parts(), salt: u32, at: prop::sample::Index, bit in 0..8u8) {
            let mut bytes = encoded(&p, salt);
            let length = decode(&bytes, salt).unwrap().length as usize;
            bytes[at.index(length)] ^= 1 << bit;
            prop_assert!(decode(&bytes, salt).is_err());
        }

        #[test]
        fn any_cut_is_short(p in parts(), at: prop::sample::Index) {
            let bytes = encoded(&p, 7);
            prop_assert_eq!(decode(&bytes[..at.index(bytes.len())], 7), Err(Fault::Short));
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(fixed) = peek(&bytes) {
                let _ = headers(&bytes[fixed.headers_range()]).count();
            }
            let _ = headers(&bytes).count();
        }
    }
}
