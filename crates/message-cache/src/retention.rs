//! What of a log may go, and what of it wants compacting: by its topic's policy, what is known of its segments, and the time.
//! Pure. Apache Kafka's rules, in `UnifiedLog` and `LogCleanerManager`, are the measure; where this differs, it says so.

use crate::policy::Policy;

/// What is known of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub base_offset: i64,
    /// Base offset of the next segment; the end of the log for the head.
    pub next_base: i64,
    pub bytes: u64,
    pub records: u64,
    /// The highest timestamp in it, ms since the epoch; -1 if none has a time.
    pub time_max: i64,
    /// When it was begun, ms since the epoch.
    pub created_ms: i64,
    /// The earliest delete horizon of its tombstones.
    pub horizon_ms: Option<i64>,
}

/// Whether the head is to be sealed, so that a new one begins.
///
/// By age (`segment.ms`, and `max.compaction.lag.ms` where the topic is compacted), or because all in it has expired: only
/// sealed segments are deleted.
pub fn wants_roll(policy: &Policy, head: &Facts, now_ms: i64) -> bool {
    if head.records == 0 {
        return false;
    }
    let age = now_ms.saturating_sub(head.created_ms);
    let lag = policy.max_compaction_lag_ms.filter(|_| policy.compact);
    policy.segment_ms.is_some_and(|ms| age > ms) || lag.is_some_and(|ms| age > ms) || policy.is_expired(head.time_max, now_ms)
}

/// Where the log begins once what may go has gone. `sealed` is in order, without the head, whose bytes are `head_bytes`.
///
/// Records below `start` are gone already; their segments follow. Beyond that the oldest segments go while all of them has
/// expired (`retention.ms`), and while the log without them is still as long as it may be (`retention.bytes`).
pub fn new_start(policy: &Policy, start: i64, sealed: &[Facts], head_bytes: u64, now_ms: i64) -> i64 {
    let mut start = start;
    let mut bytes = head_bytes + sealed.iter().map(|s| s.bytes).sum::<u64>();
    for s in sealed {
        let gone = s.next_base <= start;
        let expired = policy.is_expired(s.time_max, now_ms);
        let over = policy.delete && policy.retention_bytes.is_some_and(|max| bytes - s.bytes >= max);
        if !gone && !expired && !over {
            break;
        }
        start = start.max(s.next_base);
        bytes -= s.bytes;
    }
    start
}

/// How many of the oldest sealed segments are to be compacted now; 0 for none. Records below `clean` have been before.
///
/// A segment stays untouched while a record in it is younger than `min.compaction.lag.ms`. Compaction begins when the share of
/// bytes that were never compacted reaches `min.cleanable.dirty.ratio`, when one of them is older than
/// `max.compaction.lag.ms`, or when a tombstone's time has come (for which Kafka waits until one of the other two holds).
pub fn to_clean(policy: &Policy, clean: i64, sealed: &[Facts], now_ms: i64) -> usize {
    if !policy.compact {
        return 0;
    }
    let young = |s: &Facts| policy.min_compaction_lag_ms > 0 && s.time_max > now_ms.saturating_sub(policy.min_compaction_lag_ms);
    let ready = sealed.iter().position(young).unwrap_or(sealed.len());
    let sealed = &sealed[..ready];
    let is_dirty = |s: &&Facts| s.base_offset >= clean;
    let total: u64 = sealed.iter().map(|s| s.bytes).sum();
    let dirty: u64 = sealed.iter().filter(is_dirty).map(|s| s.bytes).sum();
    if total == 0 {
        return 0;
    }
    let overdue = |s: &Facts| policy.max_compaction_lag_ms.is_some_and(|ms| now_ms.saturating_sub(s.created_ms) > ms);
    let enough = dirty > 0 && dirty as f64 / total as f64 >= policy.min_cleanable_dirty_ratio;
    let late = sealed.iter().filter(is_dirty).any(overdue);
    let tombstones = sealed.iter().any(|s| s.horizon_ms.is_some_and(|h| h <= now_ms));
    if enough || late || tombstones { ready } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn policy(change: impl FnOnce(&mut Policy)) -> Policy {
        let mut policy = Policy { segment_ms: None, ..Policy::default() };
        change(&mut policy);
        policy
    }

    /// Segments of 10 offsets and 100 bytes, their highest times as given.
    fn segments(times: &[i64]) -> Vec<Facts> {
        let facts = |(n, &time_max): (i64, &i64)| Facts {
            base_offset: n * 10,
            next_base: n * 10 + 10,
            bytes: 100,
            records: 10,
            time_max,
            created_ms: time_max,
            horizon_ms: None,
        };
        (0..).zip(times).map(facts).collect()
    }

    #[test]
    fn rolls() {
        let check = |change: fn(&mut Policy), records, expected| {
            let head = Facts { records, ..segments(&[NOW - 100])[0] };
            assert_eq!(wants_roll(&policy(change), &head, NOW), expected, "{:?}", policy(change));
        };
        check(|_| (), 1, false);
        check(|p| p.segment_ms = Some(99), 1, true);
        check(|p| p.segment_ms = Some(99), 0, false);
        check(|p| p.segment_ms = Some(100), 1, false);
        check(|p| p.max_compaction_lag_ms = Some(99), 1, false);
        check(|p| (p.max_compaction_lag_ms, p.compact) = (Some(99), true), 1, true);
        check(|p| (p.retention_ms, p.delete) = (Some(99), true), 1, true);
        check(|p| (p.retention_ms, p.delete) = (Some(99), false), 1, false);
    }

    #[test]
    fn starts() {
        let check = |change: fn(&mut Policy), start, times: &[i64], expected| {
            assert_eq!(new_start(&policy(change), start, &segments(times), 50, NOW), expected, "{:?} {times:?}", policy(change));
        };
        let old = NOW - 1000;
        check(|_| (), 0, &[old, old], 0);
        check(|_| (), 15, &[old, old], 15);
        check(|p| (p.retention_ms, p.delete) = (Some(500), true), 0, &[old, old, NOW], 20);
        check(|p| (p.retention_ms, p.delete) = (Some(500), true), 0, &[NOW, old], 0);
        check(|p| (p.retention_ms, p.delete) = (Some(500), true), 0, &[-1, old], 0);
        check(|p| p.retention_ms = Some(500), 0, &[old], 0);
        check(|p| (p.retention_bytes, p.delete) = (Some(150), true), 0, &[NOW; 4], 30);
        check(|p| (p.retention_bytes, p.delete) = (Some(151), true), 0, &[NOW; 4], 20);
        check(|p| (p.retention_bytes, p.delete) = (Some(0), true), 0, &[NOW; 2], 20);
        check(|p| p.retention_bytes = Some(0), 0, &[NOW; 2], 0);
    }

    #[test]
    fn cleans() {
        let check = |change: fn(&mut Policy), clean, times: &[i64], expected| {
            let change = |p: &mut Policy| {
                p.compact = true;
                change(p);
            };
            assert_eq!(to_clean(&policy(change), clean, &segments(times), NOW), expected, "{:?} {times:?}", policy(change));
        };
        let old = NOW - 1000;
        check(|_| (), 0, &[], 0);
        check(|_| (), 0, &[old, old], 2);
        check(|p| p.compact = false, 0, &[old, old], 0);
        check(|_| (), 10, &[old, old], 2);
        check(|_| (), 20, &[old, old], 0);
        check(|_| (), 20, &[old, old, old], 0);
        check(|p| p.min_cleanable_dirty_ratio = 0.3, 20, &[old, old, old], 3);
        check(|p| p.min_cleanable_dirty_ratio = 0.0, 30, &[old, old, old], 0);
        check(|p| p.min_compaction_lag_ms = 500, 0, &[old, NOW, old], 1);
        check(|p| p.max_compaction_lag_ms = Some(500), 20, &[old, old, old], 3);
        let mut due = segments(&[old, old]);
        due[0].horizon_ms = Some(NOW);
        assert_eq!(to_clean(&policy(|p| p.compact = true), 20, &due, NOW), 2);
        assert_eq!(to_clean(&policy(|p| p.compact = true), 20, &due, NOW - 1), 0);
    }
}
