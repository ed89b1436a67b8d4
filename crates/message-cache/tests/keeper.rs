//! The housekeeper: bounds on bytes, and what is done and said when one is reached.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use message_cache::{
    Bounds, Event, Filter, From, Keeper, KeeperOptions, LogError, LogOptions, NewRecord, OnCorruption, Policy, ReadOptions,
    Reader, TopicCache,
};

const SEGMENT_BYTES: u64 = 4096;
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    OnDemand,
    Bootstrapped,
    Compacted,
    OnlyCopy,
}

fn open(dir: &Path, name: &str, kind: Kind, max_bytes: Option<u64>) -> Arc<TopicCache> {
    let on_corruption = if kind == Kind::OnlyCopy { OnCorruption::Keep } else { OnCorruption::Refetch };
    let options = LogOptions { segment_bytes: SEGMENT_BYTES, on_corruption, ..LogOptions::default() };
    let cache = TopicCache::open_exactly(dir, name, &options, 1).unwrap();
    cache.set_bounds(Bounds { max_bytes, on_demand: kind == Kind::OnDemand });
    cache.set_policy(Policy { compact: kind == Kind::Compacted, delete: kind != Kind::Compacted, ..Policy::default() });
    Arc::new(cache)
}

/// Appends so many records of 1 KiB, each of its own key.
fn fill(cache: &TopicCache, records: usize) -> Result<(), LogError> {
    let log = cache.partition(0).unwrap();
    for _ in 0..records {
        let key = log.end_offset().to_string();
        log.append_next(&mut [NewRecord { key: Some(key.as_bytes()), value: Some(&[7; 1024]), ..NewRecord::default() }])?;
    }
    Ok(())
}

fn bytes(cache: &TopicCache) -> u64 {
    cache.partition(0).unwrap().stats().bytes
}

fn keeper(max_bytes: Option<u64>, caches: &[&Arc<TopicCache>]) -> Keeper {
    let caches: Vec<_> = caches.iter().map(|c| Arc::clone(c)).collect();
    Keeper::start(KeeperOptions { interval: HOUR, max_bytes }, move || caches.clone()).unwrap()
}

#[test]
fn what_is_fetched_on_demand_makes_room_first() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open(dir.path(), "kept", Kind::Bootstrapped, None);
    let lent = open(dir.path(), "lent", Kind::OnDemand, None);
    fill(&lent, 30).unwrap();
    fill(&kept, 30).unwrap();
    let before = bytes(&kept);
    let mut slow = Reader::new(Arc::clone(&lent), ReadOptions { from: From::Earliest, filter: Filter::all(), conflate: None });
    let keeper = keeper(Some(50 << 10), &[&kept, &lent]);
    keeper.wait(keeper.hurry());
    assert!(bytes(&kept) == before && bytes(&lent) + before <= 50 << 10, "{} {}", bytes(&kept), bytes(&lent));
    assert!(keeper.status().evicted_bytes >= 10 << 10);
    assert!(!lent.is_full() && !kept.is_full());
    let start = lent.partition(0).unwrap().start_offset();
    let mut events = Vec::new();
    while slow.poll(100, &mut events) {}
    assert!(matches!(&events[0], Event::Gap { offsets, .. } if *offsets == (0..start)), "{:?}", events[0]);
    assert_eq!(events.len() as i64, 1 + 30 - start);
}

/// Many topics with little in each: what is in an open segment can go, too.
#[test]
fn open_segments_make_room_when_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open(dir.path(), "kept", Kind::Compacted, None);
    let lent: Vec<_> = (0..8).map(|n| open(dir.path(), &format!("lent-{n}"), Kind::OnDemand, None)).collect();
    fill(&kept, 10).unwrap();
    lent.iter().for_each(|cache| fill(cache, 2).unwrap());
    let all: Vec<_> = lent.iter().chain([&kept]).collect();
    let keeper = keeper(Some(14 << 10), &all);
    keeper.wait(keeper.hurry());
    assert!(!kept.is_full() && all.iter().map(|c| bytes(c)).sum::<u64>() <= 14 << 10);
    fill(&kept, 1).unwrap();
}

#[test]
fn what_may_not_go_is_full_until_there_is_room() {
    for kind in [Kind::Compacted, Kind::OnlyCopy] {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path(), "t", kind, Some(20 << 10));
        fill(&cache, 30).unwrap();
        let keeper = keeper(None, &[&cache]);
        keeper.wait(keeper.hurry());
        assert!(cache.is_full());
        let refused = fill(&cache, 1).unwrap_err();
        assert!(matches!(refused, LogError::Full { .. }), "{refused}");
        assert!(refused.to_string().contains("a bound on bytes is reached"), "{refused}");
        let log = cache.partition(0).unwrap();
        assert!(log.latest(b"0").unwrap().is_some(), "reads go on");
        log.append_next(&mut [NewRecord { key: Some(b"1"), ..NewRecord::default() }]).expect("a tombstone makes room");
        assert_eq!(log.end_offset(), 31);
        cache.set_bounds(Bounds { max_bytes: Some(1 << 20), on_demand: false });
        keeper.wait(keeper.hurry());
        fill(&cache, 1).unwrap();
    }
}

#[test]
fn a_file_that_was_cut_by_somebody_else_is_an_error_of_its_topic() {
    let dir = tempfile::tempdir().unwrap();
    let (cut, whole) = (open(dir.path(), "cut", Kind::OnlyCopy, None), open(dir.path(), "whole", Kind::OnlyCopy, None));
    fill(&cut, 10).unwrap();
    fill(&whole, 10).unwrap();
    let keeper = keeper(None, &[&cut, &whole]);
    keeper.wait(keeper.hurry());
    assert_eq!(cut.partition(0).unwrap().stats().problem, None);
    let path = dir.path().join("cut/0/00000000000000000000.log");
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
    keeper.wait(keeper.hurry());
    let problem = cut.partition(0).unwrap().stats().problem.unwrap();
    assert!(problem.contains("cut short or removed by somebody else"), "{problem}");
    assert!(cut.partition(0).unwrap().latest(b"0").is_err());
    assert!(whole.partition(0).unwrap().latest(b"0").unwrap().is_some());
    assert_eq!(whole.partition(0).unwrap().stats().problem, None);
}

#[test]
fn it_stops_at_once() {
    let keeper = keeper(None, &[]);
    keeper.stop();
    keeper.wait(keeper.hurry());
    keeper.stop();
}
