//! A log of several segments, one file of which is anything: manifest, index, segment of any generation. What is served has been
//! verified; what cannot be read is refused, and nothing panics, hangs or grows.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use message_cache::{Clause, Clock, Filter, LogOptions, NewRecord, OnCorruption, PartitionLog, Policy, Shared, Want};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/message-cache/tests/fixtures/v1/whole");

fn files() -> &'static [PathBuf] {
    static FILES: OnceLock<Vec<PathBuf>> = OnceLock::new();
    FILES.get_or_init(|| {
        let entries = std::fs::read_dir(FIXTURE).expect("the fixture");
        let mut files: Vec<_> = entries.map(|e| e.expect("entry").path()).collect();
        files.sort();
        files
    })
}

fn open(dir: &Path, on_corruption: OnCorruption) -> Option<PartitionLog> {
    let policy = Policy { compact: true, min_cleanable_dirty_ratio: 0.0, segment_bytes: Some(1500), ..Policy::default() };
    let options = LogOptions { on_corruption, ..LogOptions::default() };
    PartitionLog::open(dir, options, Shared::new(policy, Clock::System)).ok()
}

fn read(log: &PartitionLog) {
    for record in log.scan(0).filter_map(Result::ok) {
        let _ = (record.key(), record.value(), record.headers().count());
    }
    let clause = Clause { key: None, headers: vec![("n".into(), Some(b"v".to_vec()))] };
    let _ = (log.latest(b"key-1"), log.newest(&clause, true), log.offset_for_time(1_700_000_010_000));
    let filter = Filter { any: vec![clause] };
    let (mut from, mut turns) = (log.start_offset(), 0);
    loop {
        let want = Want { from, records_max: 8, bytes_max: 1 << 16, filter: &filter, conflate: true, tombstones_from: 0 };
        let taken = log.take(&want);
        turns += 1;
        assert!(turns < 100_000, "a reader does not come to the end");
        if taken.next == from {
            break;
        }
        from = taken.next;
    }
    let _ = log.verify();
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [choice, how, bytes @ ..] = data else { return };
    let dir = tempfile::tempdir().expect("directory");
    let chosen = &files()[usize::from(*choice) % files().len()];
    for file in files() {
        let mut content = std::fs::read(file).expect("read");
        if file == chosen {
            match how % 3 {
                0 => content = bytes.to_vec(),
                1 => content.extend_from_slice(bytes),
                // Patches of (position, byte).
                _ => bytes.chunks_exact(3).for_each(|p| {
                    let at = usize::from(u16::from_le_bytes([p[0], p[1]])) % content.len().max(1);
                    if let Some(byte) = content.get_mut(at) {
                        *byte ^= p[2];
                    }
                }),
            }
        }
        std::fs::write(dir.path().join(file.file_name().expect("a name")), content).expect("write");
    }
    let on_corruption = if how & 64 == 0 { OnCorruption::Keep } else { OnCorruption::Refetch };
    let Some(log) = open(dir.path(), on_corruption) else { return };
    read(&log);
    let _ = log.append_next(&mut [NewRecord { key: Some(b"key-1"), value: Some(b"new"), ..NewRecord::default() }]);
    let _ = log.keep(&|| true);
    read(&log);
});
