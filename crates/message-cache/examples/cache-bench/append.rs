//! Appends without fsync, beside a bare loop of `pwrite` of as many bytes in pieces of the same size. That is the stricter measure:
//! `writev` would take the parts of at most 341 records per call.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use message_cache::{Header, Policy};

use crate::data::{self, BATCH, FRAME, KEY, VALUE};
use crate::{Bench, Row};

const RECORDS: u64 = 4_000_000;

struct Case {
    name: &'static str,
    keys: u64,
    headers: &'static [Header<'static>],
}

const HEADERS: &[Header<'static>] =
    &[Header { name: "type", value: Some(b"order") }, Header { name: "region", value: Some(b"eu") }];

pub fn append(bench: &Bench) -> Vec<Row> {
    let cases = [
        Case { name: "unique keys", keys: u64::MAX, headers: &[] },
        Case { name: "50k keys", keys: 50_000, headers: &[] },
        Case { name: "50k keys, 2 headers", keys: 50_000, headers: HEADERS },
    ];
    let places = [("on disk", bench.dir.clone()), ("in /dev/shm", "/dev/shm".into())];
    let both = places.iter().flat_map(|place| cases.iter().map(move |case| (place, case)));
    both.map(|((place, dir), case)| of(bench, dir, place, case)).collect()
}

fn of(bench: &Bench, dir: &Path, place: &str, case: &Case) -> Row {
    let records = bench.records(RECORDS);
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let dir = tempfile::tempdir_in(dir).expect("a directory");
        let (bytes, took) = {
            let log = data::open(&dir.path().join("log"), 256 << 20, Policy::default());
            let took = data::fill(&log, (0..records).map(|i| i % case.keys), case.headers);
            (log.stats().bytes, took)
        };
        ours.push(records as f64 / took.as_secs_f64());
        peer.push(records as f64 / bare(&dir.path().join("bare"), bytes).as_secs_f64());
    }
    let what = format!("Append of 200-B records without fsync, {}, {place}, beside bare writes of the same bytes", case.name);
    Row { what, ours, peer, unit: "records/s", note: "per second of processor time, one thread; wanted 10 M".into() }
}

fn bare(path: &Path, bytes: u64) -> Duration {
    let file = File::create(path).expect("a file");
    let batch = vec![b'v'; BATCH * (FRAME + KEY + VALUE)];
    let began = data::cpu();
    let mut at = 0;
    while at < bytes {
        let len = batch.len().min((bytes - at) as usize);
        file.write_all_at(&batch[..len], at).expect("a write");
        at += len as u64;
    }
    data::cpu() - began
}
