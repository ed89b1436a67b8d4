//! Entity tags: equal on every replica for the same content, different for any other.

use std::fmt::Write;

use message_cache::{Filter, TopicCache};
use xxhash_rust::xxh3::Xxh3Default;

/// The strong entity tag of a record, quoted. The timestamp tells apart the records that a topic and its namesake of a
/// later life have at the same offset.
pub fn record_etag(partition: i32, offset: i64, timestamp_ms: i64) -> String {
    // Its whole length at once: partition, offset and time have at most 10, 16 and 16 digits.
    let mut etag = String::with_capacity(48);
    let _ = write!(etag, "\"{partition}-{offset:x}-{timestamp_ms:x}\"");
    etag
}

/// What a collection over all partitions is made of, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    hash: u64,
    /// Timestamp of the newest record, ms since the epoch; -1 for an empty topic.
    pub timestamp_ms: i64,
}

impl Version {
    /// `view` is the part of the content that does not come from the topic: two routes that show the same topic in
    /// different ways have different tags.
    pub fn of(cache: &TopicCache, view: &str, filter: &Filter) -> Self {
        let mut hash = Xxh3Default::new();
        hash.update(view.as_bytes());
        for clause in &filter.any {
            let mut part = |kind: u8, bytes: &[u8]| {
                hash.update(&[kind]);
                hash.update(&(bytes.len() as u64).to_le_bytes());
                hash.update(bytes);
            };
            part(b'c', clause.key.as_deref().unwrap_or_default());
            for (name, value) in &clause.headers {
                part(b'n', name.as_bytes());
                part(b'v', value.as_deref().unwrap_or_default());
            }
        }
        let mut newest = -1;
        for (n, log) in cache.partitions().iter().enumerate() {
            // What expired changes the content, too. Where that is not told by the first that has not, every look is a version.
            hash.update(&log.first_offset().to_le_bytes());
            if cache.policy().expired_before(0).is_some() && !log.is_ordered() {
                hash.update(uuid::Uuid::new_v4().as_bytes());
            }
            if let Some((offset, timestamp_ms)) = log.last() {
                hash.update(&(n as u64).to_le_bytes());
                hash.update(&offset.to_le_bytes());
                hash.update(&timestamp_ms.to_le_bytes());
                newest = newest.max(timestamp_ms);
            }
        }
        Self { hash: hash.digest(), timestamp_ms: newest }
    }

    /// Quoted, strong.
    pub fn etag(&self) -> String {
        format!("\"m-{:016x}\"", self.hash)
    }
}
