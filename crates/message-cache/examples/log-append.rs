//! Appends records of 200 bytes to a partition log without fsync, beside a bare loop of `pwrite` of the same bytes in the same
//! run: `log-append [RECORDS] [ROUNDS] [DIRECTORY]`. Prints records per second, on one thread, and their ratio.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use message_cache::{Clock, Header, LogOptions, NewRecord, PartitionLog, Policy, Shared};

const KEY: usize = 16;
const VALUE: usize = 184;
/// Bytes of a frame around key and value (`docs/format.md`).
const FRAME: usize = 40;
const BATCH: u64 = 10_000;

struct Case {
    name: &'static str,
    keys: u64,
    headers: bool,
}

fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let number = |i: usize, default: u64| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (records, rounds) = (number(0, 5_000_000), number(1, 3));
    let base = args.get(2).map_or_else(std::env::temp_dir, Into::into);
    let cases = [
        Case { name: "unique keys", keys: u64::MAX, headers: false },
        Case { name: "50k keys", keys: 50_000, headers: false },
        Case { name: "50k keys, 2 headers", keys: 50_000, headers: true },
    ];
    for _ in 0..rounds {
        for case in &cases {
            let dir = tempfile::tempdir_in(&base).expect("a directory for the log");
            let (bytes, took, heap) = log(dir.path(), records, case);
            let bare = bare(dir.path(), bytes);
            let per_second = |took: Duration| records as f64 / took.as_secs_f64() / 1e6;
            println!(
                "{:<20} log {:>5.2} M records/s, bare pwrite {:>5.2} M records/s, ratio {:.2}, head's heap {heap} bytes",
                case.name,
                per_second(took),
                per_second(bare),
                bare.as_secs_f64() / took.as_secs_f64(),
            );
        }
    }
}

/// Bytes in the log, the time of its appends alone, and the heap of its indexes.
fn log(dir: &Path, records: u64, case: &Case) -> (u64, Duration, usize) {
    let options = LogOptions { segment_bytes: 1 << 30, ..LogOptions::default() };
    let log = PartitionLog::open(&dir.join("log"), options, Shared::new(Policy::default(), Clock::System)).expect("a log");
    let value = [b'v'; VALUE];
    let names = [Header { name: "type", value: Some(b"order") }, Header { name: "region", value: Some(b"eu") }];
    let mut took = Duration::ZERO;
    for first in (0..records).step_by(BATCH as usize) {
        let offsets = first..records.min(first + BATCH);
        let mut keys = vec![[b'k'; KEY]; BATCH as usize];
        for (key, i) in keys.iter_mut().zip(offsets.clone()) {
            key[..8].copy_from_slice(&(i % case.keys).to_le_bytes());
        }
        let batch: Vec<_> = offsets
            .zip(&keys)
            .map(|(offset, key)| NewRecord {
                offset: offset as i64,
                key: Some(key),
                value: Some(&value),
                headers: if case.headers { &names } else { &[] },
                ..NewRecord::default()
            })
            .collect();
        let began = Instant::now();
        log.append(&batch).expect("an append");
        took += began.elapsed();
    }
    let stats = log.stats();
    (stats.bytes, took, stats.index_heap_bytes)
}

fn bare(dir: &Path, bytes: u64) -> Duration {
    let file = File::create(dir.join("bare")).expect("a file");
    let batch = vec![b'v'; BATCH as usize * (FRAME + KEY + VALUE)];
    let began = Instant::now();
    let mut at = 0;
    while at < bytes {
        let len = batch.len().min((bytes - at) as usize);
        file.write_all_at(&batch[..len], at).expect("a write");
        at += len as u64;
    }
    began.elapsed()
}
