//! `tidegate cache verify`: everything is read, and held against what is said of it.

use message_cache::TopicCache;

/// What was read.
#[derive(Debug, Default, PartialEq)]
pub struct Verified {
    pub topics: usize,
    pub partitions: usize,
    pub records: u64,
    pub bytes: u64,
    /// In words.
    pub faults: Vec<String>,
}

impl Verified {
    pub fn add(&mut self, other: Self) {
        self.topics += other.topics;
        self.partitions += other.partitions;
        self.records += other.records;
        self.bytes += other.bytes;
        self.faults.extend(other.faults);
    }

    pub fn summary(&self) -> String {
        let Self { topics, partitions, records, bytes, faults } = self;
        format!("{topics} topics, {partitions} partitions, {records} records, {bytes} bytes: {} faults", faults.len())
    }
}

/// Verifies a topic, which `open` opens. Beside a running gateway, files may be replaced while they are read: so a fault counts
/// if it is found a second time.
pub fn verify<E: std::fmt::Display>(topic: &str, open: impl Fn() -> Result<TopicCache, E>) -> Verified {
    let look = || match open() {
        Ok(cache) => read(&cache),
        Err(e) => Verified { topics: 1, faults: vec![format!("{topic}: {e}")], ..Verified::default() },
    };
    let first = look();
    if first.faults.is_empty() {
        return first;
    }
    let mut second = look();
    second.faults.retain(|fault| first.faults.contains(fault));
    second
}

/// Reads all records of a topic and asks every index about them.
fn read(cache: &TopicCache) -> Verified {
    let mut all = Verified { topics: 1, ..Verified::default() };
    for (partition, log) in cache.partitions().iter().enumerate() {
        let faults = log.verify().into_iter().map(|fault| format!("{}/{partition}: {fault}", cache.name())).collect();
        let stats = log.stats();
        all.add(Verified { topics: 0, partitions: 1, records: stats.records, bytes: stats.bytes, faults });
    }
    all
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use message_cache::{LogOptions, NewRecord, OnCorruption, TimestampType};

    use super::*;

    /// Writes records, flips a bit of the first segment or its index, and expects faults with these words.
    fn check(harm: Option<(&str, usize)>, words: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let write = LogOptions { segment_bytes: 1024, ..LogOptions::default() };
        let cache = TopicCache::open_exactly(dir.path(), "t", &write, 1).unwrap();
        for n in 0..60i64 {
            let key = format!("key-{}", n % 7);
            let timestamp_type = TimestampType::Create;
            let record = NewRecord {
                offset: n,
                timestamp_ms: n,
                timestamp_type,
                key: Some(key.as_bytes()),
                value: Some(&[7; 50]),
                headers: &[],
            };
            cache.partition(0).unwrap().append(&[record]).unwrap();
        }
        drop(cache);
        if let Some((extension, at)) = harm {
            let path = dir.path().join("t/0/00000000000000000000").with_extension(extension);
            // Indexes are written by another thread, under another name until they are whole.
            let deadline = Instant::now() + Duration::from_secs(10);
            while !path.exists() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[at] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }
        let read = LogOptions { read_only: true, on_corruption: OnCorruption::Keep, ..LogOptions::default() };
        let verified = verify("t", || TopicCache::open(dir.path(), "t", &read));
        assert_eq!((verified.topics, verified.partitions, verified.records), (1, 1, 60), "{verified:?}");
        assert_eq!(verified.faults.len(), words.len(), "{verified:?}");
        for (line, word) in verified.faults.iter().zip(words) {
            assert!(line.starts_with("t/0: ") && line.contains(word), "no {word:?} in {line}");
        }
    }

    #[test]
    fn a_fault_counts_if_it_is_there_twice() {
        for (looks, expected) in [(["a", "a"], &["t: a"][..]), (["a", "b"], &[])] {
            let looks = std::cell::RefCell::new(looks.into_iter());
            let verified = verify("t", || Err(looks.borrow_mut().next().unwrap_or("asked too often")));
            assert_eq!(verified.faults, expected);
        }
    }

    #[test]
    fn faults() {
        check(None, &[]);
        // Into the value of a record: segments begin with a header of 64 bytes, frames with 40.
        check(Some(("log", 64 + 40 + 20)), &["corrupt record at byte 64"]);
        // Into a page of the key table; the segment has seven keys.
        check(Some(("index", 600)), &["wrong checksum of an index page"; 7]);
    }
}
