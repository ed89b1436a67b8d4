//! Writes the fixtures of `tests/fixtures`: logs as this version lays them out, for later versions to read, or to refuse by
//! name. Run it when the format changes, into a directory of the new version; those of older versions stay.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use message_cache::{Clock, Header, LogOptions, NewRecord, PartitionLog, Policy, Shared};

fn main() {
    let root = PathBuf::from(std::env::args().nth(1).expect("the directory to write to"));
    let whole = root.join("whole");
    write_log(&whole);
    let damaged = |name: &str, file: &str, damage: &dyn Fn(&mut Vec<u8>)| {
        let dir = root.join(name);
        copy(&whole, &dir);
        let mut bytes = std::fs::read(dir.join(file)).expect("read");
        damage(&mut bytes);
        std::fs::write(dir.join(file), bytes).expect("write");
    };
    let head = last_segment(&whole);
    damaged("manifest-damaged", "manifest", &|bytes| bytes[20] ^= 1);
    damaged("segment-of-a-later-version", &head, &|bytes| bytes[8] = 99);
    damaged("torn-tail", &head, &|bytes| bytes.truncate(bytes.len() - 5));
    damaged("record-damaged", &head, &|bytes| bytes[64 + 41] ^= 1);
    let index = "00000000000000000000-00000001.index";
    damaged("index-of-a-later-version", index, &|bytes| bytes[8] = 99);
    copy(&whole, &root.join("manifest-missing"));
    std::fs::remove_file(root.join("manifest-missing/manifest")).expect("remove");
    copy(&whole, &root.join("segment-missing"));
    std::fs::remove_file(root.join("segment-missing").join("00000000000000000000-00000001.log")).expect("remove");
}

/// A compacted segment, a sealed one, a head; tombstones with and without a delete horizon, headers, offsets that are skipped.
fn write_log(dir: &Path) {
    let now = Arc::new(AtomicI64::new(1_700_000_000_000));
    let policy = Policy { compact: true, segment_bytes: Some(1500), min_cleanable_dirty_ratio: 0.0, ..Policy::default() };
    let clock = Clock::Manual(Arc::clone(&now));
    let options = LogOptions { clock: clock.clone(), durable: true, ..LogOptions::default() };
    let log = PartitionLog::open(dir, options, Shared::new(policy, clock)).expect("open");
    let append = |key: &str, value: Option<&str>| {
        let headers = [Header { name: "n", value: Some(b"v") }, Header { name: "n", value: None }];
        let record = NewRecord {
            offset: log.end_offset(),
            timestamp_ms: now.fetch_add(1000, Ordering::Relaxed),
            key: Some(key.as_bytes()),
            value: value.map(str::as_bytes),
            headers: &headers[..log.end_offset() as usize % 3],
            ..NewRecord::default()
        };
        log.append(&[record]).expect("append");
    };
    for n in 0..30 {
        append(&format!("key-{}", n % 7), (n % 9 != 4).then_some("a value of some length, for the sake of its length"));
    }
    log.keep(&|| true).expect("keep");
    for n in 0..12 {
        append(&format!("key-{}", n % 3), Some("a later value"));
    }
    log.skip_to(log.end_offset() + 5);
    log.move_start(3).expect("move");
}

fn last_segment(dir: &Path) -> String {
    let names = std::fs::read_dir(dir).expect("read").map(|e| e.expect("entry").file_name().into_string().expect("text"));
    names.filter(|n| n.ends_with(".log")).max().expect("a segment")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("directory");
    for entry in std::fs::read_dir(from).expect("read") {
        let entry = entry.expect("entry");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copy");
    }
}
