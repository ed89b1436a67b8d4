//! A reader that takes the latest record of every key of a compacted topic, and does nothing with it.

use std::hint::black_box;
use std::sync::Arc;

use message_cache::{Event, Filter, From, LogOptions, Policy, ReadOptions, Reader, TopicCache};

use crate::{Bench, Row, data};

const KEYS: u64 = 1_000_000;
/// Records of one poll.
const POLL: usize = 1000;

pub fn snapshot(bench: &Bench) -> Vec<Row> {
    let keys = bench.records(KEYS);
    let head = of(bench, keys, 1, 1 << 30, "all in the head segment");
    let sealed = of(bench, keys, 1, 32 << 20, "in 8 segments, of which 7 are sealed");
    let replaced = of(bench, keys, 2, 32 << 20, "each written twice and not yet compacted, in 15 segments");
    vec![head, sealed, replaced]
}

fn of(bench: &Bench, keys: u64, times: u64, segment_bytes: u64, how: &str) -> Row {
    let dir = bench.tempdir();
    let options = LogOptions { segment_bytes, ..LogOptions::default() };
    let cache = Arc::new(TopicCache::open_exactly(dir.path(), "topic", &options, 1).expect("a cache"));
    cache.set_policy(Policy { compact: true, ..Policy::default() });
    let log = cache.partition(0).expect("a partition");
    data::fill(&log, (0..keys * times).map(|i| i % keys), &[]);
    data::settle(&log, &cache.dir().join("0"));
    let ours = (0..bench.rounds).map(|_| keys as f64 / take(&cache, keys)).collect();
    let note = "one reader; per second of processor time; wanted 1 M".into();
    Row { what: format!("Snapshot of {keys} keys of 200 B, {how}"), ours, peer: Vec::new(), unit: "records/s", note }
}

/// Seconds of processor time of one snapshot.
fn take(cache: &Arc<TopicCache>, keys: u64) -> f64 {
    let began = data::cpu();
    let options = ReadOptions { from: From::Earliest, filter: Filter::all(), conflate: None };
    let mut reader = Reader::new(Arc::clone(cache), options);
    let (mut events, mut records, mut more) = (Vec::new(), 0, true);
    while more {
        more = reader.poll(POLL, &mut events);
        for event in events.drain(..) {
            let Event::Record { record, .. } = event else { panic!("{event:?}") };
            black_box(record.value());
            records += 1;
        }
    }
    assert_eq!(records, keys, "the snapshot has each key once");
    (data::cpu() - began).as_secs_f64()
}
