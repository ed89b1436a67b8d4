//! Records on their way in ([`NewRecord`]) and out ([`Record`]).

use std::sync::Arc;

use bytes::Bytes;

use crate::frame;
use crate::segment::Mapping;

/// Who set a record's timestamp (Kafka property `message.timestamp.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TimestampType {
    /// `CreateTime`: the producer did.
    #[default]
    Create,
    /// `LogAppendTime`: the broker did.
    LogAppend,
}

/// One record header; names repeat and keep their order, a value may be null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    pub name: &'a str,
    pub value: Option<&'a [u8]>,
}

/// A record to append, borrowed from wherever it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NewRecord<'a> {
    /// Must be above the offset of the record before it; gaps are allowed.
    pub offset: i64,
    /// Milliseconds since the Unix epoch; -1 where the record has none.
    pub timestamp_ms: i64,
    pub timestamp_type: TimestampType,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    pub headers: &'a [Header<'a>],
}

/// A record in the log. Cloning is cheap; the bytes are those of the mapped segment, which lives as long as any record
/// of it does.
#[derive(Clone)]
pub struct Record {
    map: Arc<Mapping>,
    at: usize,
    fixed: frame::Fixed,
}

/// The owner behind a value's [`Bytes`].
struct Part {
    record: Record,
    range: std::ops::Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.record.frame()[self.range.clone()]
    }
}

impl Record {
    /// `fixed` is that of the frame at `at`, whose checksum was verified.
    pub(crate) fn new(map: Arc<Mapping>, at: usize, fixed: frame::Fixed) -> Self {
        Self { map, at, fixed }
    }

    fn frame(&self) -> &[u8] {
        // SAFETY: a verified frame lies below the written length of its segment.
        unsafe { self.map.slice(self.at, self.fixed.length as usize) }
    }

    pub(crate) fn stride(&self) -> usize {
        self.fixed.stride()
    }

    pub fn offset(&self) -> i64 {
        self.fixed.offset
    }

    /// Milliseconds since the Unix epoch; -1 where the record has none.
    pub fn timestamp_ms(&self) -> i64 {
        self.fixed.timestamp_ms
    }

    pub fn timestamp_type(&self) -> TimestampType {
        self.fixed.timestamp_type
    }

    pub fn key(&self) -> Option<&[u8]> {
        self.fixed.key_range().map(|r| &self.frame()[r])
    }

    /// `None` for a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        self.fixed.value_range().map(|r| &self.frame()[r])
    }

    /// As [`Record::value`], sharing the mapped bytes.
    pub fn value_bytes(&self) -> Option<Bytes> {
        let range = self.fixed.value_range()?;
        Some(Bytes::from_owner(Part { record: self.clone(), range }))
    }

    pub fn is_tombstone(&self) -> bool {
        self.fixed.value_len.is_none()
    }

    /// In the order they were written, duplicates included.
    pub fn headers(&self) -> impl Iterator<Item = Header<'_>> {
        frame::headers(&self.frame()[self.fixed.headers_range()])
    }

    /// The value of the last header of that name: the one Kafka's `lastHeader` gives.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().filter(|h| h.name == name).last().and_then(|h| h.value)
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("offset", &self.offset())
            .field("timestamp_ms", &self.timestamp_ms())
            .field("key", &self.key().map(String::from_utf8_lossy))
            .field("value_len", &self.fixed.value_len)
            .finish_non_exhaustive()
    }
}
