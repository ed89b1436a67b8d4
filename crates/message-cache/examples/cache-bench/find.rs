//! The first record with a header that each has another value of, as a reply is found by its correlation id.

use std::hint::black_box;
use std::path::Path;

use message_cache::{Clause, Clock, Header, NewRecord, PartitionLog, Policy};

use crate::{Bench, Row, data};

const RECORDS: [u64; 3] = [1000, 1_000_000, 10_000_000];
const PARTITIONS: u64 = 3;
const SEALED: [u64; 2] = [1, 13];
/// Rows of one number of records.
const CASES: usize = 3;
const LOOKS: u64 = 20_000;
const NAME: &str = "tidegate-correlation-id";
/// What a record of this takes on disk, about.
const RECORD_BYTES: u64 = 296;

/// 22 characters, as 16 random bytes are in base64url.
fn id(n: u64) -> String {
    let mixed = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{mixed:016x}{:06x}", n % 0xff_ffff)
}

/// Over all partitions: record `n` is in partition `n % 3`.
pub fn find(bench: &Bench) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for sealed in SEALED {
        for (nth, records) in RECORDS.into_iter().enumerate() {
            let (dir, records) = (bench.tempdir(), bench.records(records));
            let logs: Vec<_> = (0..PARTITIONS).map(|p| fill(dir.path(), p, records, sealed)).collect();
            let segments: usize = logs.iter().map(|log| log.stats().segments).sum();
            let tenth = records / 10;
            let cases: [_; CASES] = [
                ("an id that is not there", records..2 * records),
                ("an old id", 0..tenth),
                ("a new id", records - tenth..records),
            ];
            for (what, wanted) in cases {
                look(&logs, wanted.clone(), records); // pages are mapped when they are first touched
                let ours: Vec<f64> = (0..bench.rounds).map(|_| look(&logs, wanted.clone(), records)).collect();
                // Held against the same case of the fewest records.
                let peer = if nth == 0 { ours.clone() } else { rows[rows.len() - nth * CASES].ours.clone() };
                let note = format!("{segments} segments, the last of each partition empty; processor time");
                rows.push(Row {
                    what: format!("The first record with {what}, among {records} in {PARTITIONS} partitions"),
                    ours,
                    peer,
                    unit: "µs",
                    note,
                });
            }
        }
    }
    rows
}

fn fill(dir: &Path, partition: u64, records: u64, sealed: u64) -> PartitionLog {
    let dir = dir.join(partition.to_string());
    let segment_bytes = records / PARTITIONS * RECORD_BYTES / sealed + 1024;
    let log = data::open(&dir, segment_bytes, Policy::default());
    let value = [b'v'; data::VALUE];
    let timestamp_ms = Clock::System.now_ms();
    let own: Vec<u64> = (partition..records).step_by(PARTITIONS as usize).collect();
    for some in own.chunks(data::BATCH) {
        let texts: Vec<_> = some.iter().map(|n| (data::key(*n), id(*n))).collect();
        let headers: Vec<_> = texts.iter().map(|(_, id)| [Header { name: NAME, value: Some(id.as_bytes()) }]).collect();
        let rows = texts.iter().zip(&headers).zip(log.end_offset()..);
        let record = rows.map(|(((key, _), headers), offset)| {
            let (key, value) = (Some(&key[..]), Some(&value[..]));
            NewRecord { offset, timestamp_ms, key, value, headers, ..NewRecord::default() }
        });
        let batch: Vec<_> = record.collect();
        log.append(&batch).expect("an append");
    }
    log.seal_head().expect("room for a segment");
    data::settle(&log, &dir);
    log
}

/// Microseconds of processor time of one look-up in all partitions.
fn look(logs: &[PartitionLog], wanted: std::ops::Range<u64>, records: u64) -> f64 {
    let clause = |n: u64| Clause { key: None, headers: vec![(NAME.to_owned(), Some(id(n).into_bytes()))] };
    let wanted: Vec<_> = (0..LOOKS).map(|_| fastrand::u64(wanted.clone())).map(|n| (n < records, clause(n))).collect();
    let began = data::cpu();
    for (is_there, clause) in &wanted {
        let found = logs.iter().filter_map(|log| log.first(clause).expect("readable")).count();
        assert_eq!(black_box(found), usize::from(*is_there));
    }
    (data::cpu() - began).as_secs_f64() * 1e6 / LOOKS as f64
}
