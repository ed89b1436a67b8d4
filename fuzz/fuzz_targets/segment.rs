//! A segment file, or its index, whose bytes after the header are anything: what is served has been verified.
#![no_main]

use message_cache::{Clock, LogOptions, NewRecord, OnCorruption, PartitionLog, Policy, Shared};

fn open(dir: &std::path::Path, on_corruption: OnCorruption) -> Option<PartitionLog> {
    let options = LogOptions { segment_bytes: 4096, on_corruption, ..LogOptions::default() };
    PartitionLog::open(dir, options, Shared::new(Policy::default(), Clock::System)).ok()
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let on_corruption = if choice & 1 == 0 { OnCorruption::Keep } else { OnCorruption::Refetch };
    let dir = tempfile::tempdir().expect("directory");
    let log = open(dir.path(), on_corruption).expect("a new log");
    log.append(&[NewRecord { key: Some(b"k"), value: Some(b"v"), ..NewRecord::default() }]).expect("append");
    drop(log);
    let path = dir.path().join("00000000000000000000.log");
    let mut file = std::fs::read(&path).expect("read");
    let keep = if choice & 2 == 0 { 64 } else { file.len() };
    file.truncate(keep);
    file.extend_from_slice(bytes);
    std::fs::write(&path, file).expect("write");
    if let Some(log) = open(dir.path(), on_corruption) {
        for record in log.scan(0).filter_map(Result::ok) {
            let _ = (record.key(), record.value(), record.headers().count());
        }
        let _ = log.latest(b"k");
    }
});
