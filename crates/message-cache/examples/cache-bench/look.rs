//! The newest record of a key, in logs of few and of many keys.

use std::hint::black_box;

use message_cache::{PartitionLog, Policy};

use crate::{Bench, Row, data};

const KEYS: [u64; 3] = [1000, 100_000, 10_000_000];
const LOOKS: usize = 500_000;

/// Keys in random order, so that with many nothing is in the processor's caches.
pub fn get(bench: &Bench) -> Vec<Row> {
    let dir = bench.tempdir();
    let logs = KEYS.map(|keys| {
        let (keys, dir) = (bench.records(keys), dir.path().join(keys.to_string()));
        let log = data::open(&dir, 256 << 20, Policy::default());
        data::fill(&log, 0..keys, &[]);
        data::settle(&log, &dir);
        // Pages are mapped when they are first touched; that is not what is measured.
        assert_eq!(log.scan(0).filter_map(Result::ok).count() as u64, keys);
        looks(&log, keys);
        (log, keys)
    });
    let mut nanos = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..bench.rounds {
        for ((log, keys), nanos) in logs.iter().zip(&mut nanos) {
            nanos.push(looks(log, *keys));
        }
    }
    let fewest = nanos[0].clone();
    let row = |((log, keys), ours): (&(PartitionLog, u64), Vec<f64>)| Row {
        what: format!("Look-up by key among {keys} live keys, random order, beside that among {}", logs[0].1),
        ours,
        peer: fewest.clone(),
        unit: "ns",
        note: format!("{} segments; processor time; no HTTP around it", log.stats().segments),
    };
    logs.iter().zip(nanos).map(row).collect()
}

/// Nanoseconds of processor time of one look-up.
fn looks(log: &PartitionLog, keys: u64) -> f64 {
    let wanted: Vec<_> = (0..LOOKS).map(|_| data::key(fastrand::u64(..keys))).collect();
    let began = data::cpu();
    for key in &wanted {
        let record = log.latest(key).expect("readable").expect("every key is there");
        black_box(record.value());
    }
    (data::cpu() - began).as_nanos() as f64 / LOOKS as f64
}
