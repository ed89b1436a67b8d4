//! `tidegate cache verify`: everything is read, and held against what is said of it.

use message_cache::{PartitionLog, TopicCache};

/// Faults of one partition that are told one by one.
const TOLD_MAX: usize = 100;

/// What was read of a topic.
#[derive(Debug, Default)]
pub struct Verified {
    pub partitions: usize,
    pub records: u64,
    pub bytes: u64,
    pub faults: u64,
}

impl Verified {
    pub fn add(&mut self, other: &Self) {
        self.partitions += other.partitions;
        self.records += other.records;
        self.bytes += other.bytes;
        self.faults += other.faults;
    }
}

/// Reads all records of a topic. `tell` gets a line per fault.
pub fn verify<E>(cache: &TopicCache, mut tell: impl FnMut(String) -> Result<(), E>) -> Result<Verified, E> {
    let mut all = Verified::default();
    for (partition, log) in cache.partitions().iter().enumerate() {
        let mut faults = Vec::new();
        let mut more = 0;
        let mut note = |fault: String| if faults.len() < TOLD_MAX { faults.push(fault) } else { more += 1 };
        all.records += check(log, &mut note);
        all.partitions += 1;
        all.bytes += log.stats().bytes;
        all.faults += faults.len() as u64 + more;
        if more > 0 {
            faults.push(format!("and {more} faults more"));
        }
        faults.into_iter().try_for_each(|fault| tell(format!("{}/{partition}: {fault}", cache.name())))?;
    }
    Ok(all)
}

/// How many records can be read. What is wrong goes to `note`.
fn check(log: &PartitionLog, note: &mut dyn FnMut(String)) -> u64 {
    let mut next = log.start_offset();
    let mut records = 0;
    for record in log.scan(i64::MIN) {
        let record = match record {
            Ok(record) => record,
            Err(e) => {
                note(e.to_string());
                continue;
            }
        };
        records += 1;
        let offset = record.offset();
        if offset < next {
            note(format!("offset {offset} comes after {}", next - 1));
        }
        next = offset + 1;
        // Whatever the index says of the key must be this record or a later one.
        if let Some(key) = record.key() {
            match log.latest(key) {
                Ok(Some(newest)) if newest.offset() >= offset && newest.key() == Some(key) => {}
                Ok(newest) => {
                    let found = newest.map_or_else(|| "none".to_owned(), |r| format!("that of offset {}", r.offset()));
                    note(format!("offset {offset}: by its key the index finds {found}"));
                }
                Err(e) => note(format!("offset {offset}: its key cannot be looked up: {e}")),
            }
        }
    }
    // The log may have grown since.
    if next > log.end_offset() {
        note(format!("offset {} is beyond the end, {}", next - 1, log.end_offset()));
    }
    records
}

pub fn summary(topics: usize, all: &Verified) -> String {
    let Verified { partitions, records, bytes, faults } = all;
    format!("{topics} topics, {partitions} partitions, {records} records, {bytes} bytes: {faults} faults")
}

#[cfg(test)]
mod tests {
    use message_cache::{LogOptions, NewRecord, OnCorruption, TimestampType};

    use super::*;

    /// Writes records, lets `harm` at the first segment, and expects faults with these words.
    fn check(harm: &dyn Fn(&std::path::Path), words: &[&str]) {
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
        harm(&dir.path().join("t/0/00000000000000000000.log"));
        let read = LogOptions { read_only: true, on_corruption: OnCorruption::Keep, ..LogOptions::default() };
        let cache = TopicCache::open(dir.path(), "t", &read).unwrap();
        let mut told = Vec::new();
        let verified = verify(&cache, |line| {
            told.push(line);
            Ok::<_, ()>(())
        });
        let verified = verified.unwrap();
        assert_eq!((verified.faults as usize, verified.partitions), (words.len(), 1), "{told:?}");
        assert_eq!(verified.records as usize, 60 - words.len(), "{told:?}");
        for (line, word) in told.iter().zip(words) {
            assert!(line.starts_with("t/0: ") && line.contains(word), "no {word:?} in {line}");
        }
    }

    #[test]
    fn faults() {
        let flip = |at: usize| {
            move |path: &std::path::Path| {
                let mut bytes = std::fs::read(path).unwrap();
                bytes[at] ^= 1;
                std::fs::write(path, bytes).unwrap();
            }
        };
        check(&|_| {}, &[]);
        // Into the value of a record: segments begin with a header of 64 bytes, frames with 40.
        check(&flip(64 + 40 + 20), &["corrupt record at byte 64"]);
    }
}
