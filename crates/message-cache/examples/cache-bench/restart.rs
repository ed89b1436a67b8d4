//! From opening a log to the first record by key.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use message_cache::Policy;
use rustix::fs::{Advice, fadvise};

use crate::{Bench, Row, data};

pub fn restart(bench: &Bench) -> Vec<Row> {
    [(1_000_000, "1 s"), (10_000_000, "3 s")].into_iter().flat_map(|(n, limit)| of(bench, bench.records(n), limit)).collect()
}

fn of(bench: &Bench, records: u64, limit: &str) -> [Row; 2] {
    let dir = bench.tempdir();
    let log = data::open(dir.path(), 256 << 20, Policy::default());
    data::fill(&log, 0..records, &[]);
    data::settle(&log, dir.path());
    let segments = log.stats().segments;
    drop(log);
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        forget(dir.path());
        cold.push(first_answer(dir.path(), records));
        warm.push(first_answer(dir.path(), records));
    }
    let row = |ours, files| Row {
        what: format!("Open a log of {records} records and look one up, {files} (limit {limit})"),
        ours,
        peer: Vec::new(),
        unit: "s",
        note: format!("{segments} segments of at most 256 MiB; the last is read whole"),
    };
    [row(cold, "its files not in memory"), row(warm, "its files in the page cache")]
}

fn first_answer(dir: &Path, records: u64) -> f64 {
    let began = Instant::now();
    let log = data::open(dir, 256 << 20, Policy::default());
    let found = log.latest(&data::key(records / 2)).expect("readable");
    assert_eq!(found.map(|r| r.offset()), Some(records as i64 / 2));
    began.elapsed().as_secs_f64()
}

/// Takes the files of a log out of the page cache.
fn forget(dir: &Path) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let file = File::open(entry.expect("an entry").path()).expect("a file");
        file.sync_all().expect("synced");
        fadvise(&file, 0, None, Advice::DontNeed).expect("advice taken");
    }
}
