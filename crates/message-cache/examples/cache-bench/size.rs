//! What a record costs in memory and on disk.

use message_cache::Policy;

use crate::{Bench, Row, data};

const KEYS: u64 = 10_000_000;
const RECORDS: u64 = 4_000_000;

/// Heap per live key, at the most: in the head everything is in memory, of sealed segments next to nothing.
pub fn memory(bench: &Bench) -> Vec<Row> {
    let keys = bench.records(KEYS);
    let cases = [(8 << 30, "all in the head segment"), (256 << 20, "in segments of 256 MiB, the last being the head")];
    let of = |(segment_bytes, how): (u64, &str)| {
        let dir = bench.tempdir();
        let before = data::rss_anon();
        let log = data::open(dir.path(), segment_bytes, Policy::default());
        data::fill(&log, 0..keys, &[]);
        data::settle(&log, dir.path());
        let (heap, rss) = (log.stats().index_heap_bytes as f64, data::rss_anon().saturating_sub(before) as f64);
        let note = format!("{:.0} MB; the process grew by {:.0} MB of memory (RssAnon); wanted 32", heap / 1e6, rss / 1e6);
        let what = format!("Heap per live key, {keys} keys, {how}");
        Row { what, ours: vec![heap / keys as f64], peer: Vec::new(), unit: "bytes", note }
    };
    cases.into_iter().map(of).collect()
}

/// Files of a log with all its indexes, held against key and value alone.
pub fn disk(bench: &Bench) -> Vec<Row> {
    let records = bench.records(RECORDS);
    let dir = bench.tempdir();
    let log = data::open(dir.path(), 256 << 20, Policy::default());
    data::fill(&log, 0..records, &[]);
    data::settle(&log, dir.path());
    let on_disk = |ending| data::files(dir.path(), ending).iter().map(|f| f.1).sum::<u64>() as f64 / records as f64;
    let (records_take, indexes_take) = (on_disk("log"), on_disk("index"));
    let raw = (data::KEY + data::VALUE) as f64;
    let note = format!("records {records_take:.1}, indexes {indexes_take:.1} (none of the head); keys unique, no headers");
    let what = "Bytes on disk per record, beside those of key and value".into();
    vec![Row { what, ours: vec![records_take + indexes_take], peer: vec![raw], unit: "bytes", note }]
}
