//! Where reading a partition begins, from what is cached and what the cluster has, and when there is no topic any more. Pure.

use std::time::{Duration, Instant};

use crate::FetchStart;

/// What is known of a partition before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Nothing was ever cached.
    pub fresh: bool,
    /// The next offset that the cache would hold.
    pub cached_end: i64,
    /// So long ago that a compacted topic may have forgotten what was deleted since.
    pub stale: bool,
    pub reason: Reason,
}

/// Why reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// For the first time, or after a fault that says nothing about offsets.
    Started,
    /// The cluster has no record at the cached end.
    OutOfRange,
    /// What is cached is not what the cluster has: the topic was re-created, or a new leader lacked records.
    Diverged,
}

/// What to do with the cache before reading on from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Nothing.
    Continue,
    /// An empty cache begins here.
    Begin(i64),
    /// The cluster has deleted records that were not cached yet: go on behind them.
    Skip(i64),
    /// The cached records are not the cluster's: drop them and fetch all from here.
    Refetch(i64),
}

/// What the cluster told of a partition's offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub first: i64,
    pub end: i64,
    /// Of the first record that is young enough, where that was asked for and there is one.
    pub since: Option<i64>,
}

impl Before {
    pub fn decide(self, start: FetchStart, told: Told) -> Resume {
        let Told { first, end, since } = told;
        match self.reason {
            _ if self.fresh => Resume::Begin(match start {
                FetchStart::Earliest => first,
                FetchStart::Latest => end,
                FetchStart::Back(_) => since.unwrap_or(end),
            }),
            _ if self.stale => Resume::Refetch(first),
            Reason::Diverged => Resume::Refetch(first),
            Reason::Started | Reason::OutOfRange if self.cached_end < first => Resume::Skip(first),
            Reason::Started => Resume::Continue,
            Reason::OutOfRange if self.cached_end > end => Resume::Refetch(first),
            // A follower that was behind answered; the leader has the offset.
            Reason::OutOfRange => Resume::Continue,
        }
    }
}

/// Answers in a row that a topic does not exist before its cached records are taken for those of a deleted topic, and dropped.
const MISSING_BEFORE_DELETED: u32 = 3;
/// And for how long: brokers that have just started may not know it yet.
const DELETED_AFTER: Duration = Duration::from_secs(30);

/// What the cluster said in a row about a topic that it does not have. The default: it has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    times: u32,
    /// The first of them.
    since: Option<Instant>,
}

impl Missed {
    /// The cluster says it once more.
    pub fn note(&mut self, now: Instant) {
        self.times = self.times.saturating_add(1);
        self.since.get_or_insert(now);
    }

    pub fn is_any(self) -> bool {
        self.times > 0
    }

    /// Said so often that one who does not know the topic's id takes what is there afterwards for another topic.
    pub fn is_often(self) -> bool {
        self.times >= MISSING_BEFORE_DELETED
    }

    /// Said so often and for so long that it is so.
    pub fn is_deleted(self, now: Instant) -> bool {
        self.is_often() && self.since.is_some_and(|since| now.saturating_duration_since(since) >= DELETED_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_by_what_is_cached_and_what_the_cluster_has() {
        use FetchStart::{Back, Earliest, Latest};
        use Reason::{Diverged, OutOfRange, Started};
        let check = |fresh, cached_end, reason, start, (first, end, since), expected| {
            let before = Before { fresh, cached_end, stale: false, reason };
            assert_eq!(before.decide(start, Told { first, end, since }), expected, "{before:?} {start:?} {first}..{end}");
        };
        let hour = Back(Duration::from_secs(3600));
        check(true, 0, Started, Earliest, (5, 9, None), Resume::Begin(5));
        check(true, 0, Started, Latest, (5, 9, None), Resume::Begin(9));
        check(true, 0, Started, hour, (5, 9, Some(7)), Resume::Begin(7));
        check(true, 0, Started, hour, (5, 9, None), Resume::Begin(9));
        check(true, 0, Diverged, Earliest, (5, 9, None), Resume::Begin(5));
        check(false, 7, Started, Latest, (5, 9, None), Resume::Continue);
        check(false, 4, Started, Latest, (5, 9, None), Resume::Skip(5));
        // The end of a new leader may lag behind for a moment.
        check(false, 10, Started, Latest, (5, 9, None), Resume::Continue);
        check(false, 4, OutOfRange, Earliest, (5, 9, None), Resume::Skip(5));
        check(false, 10, OutOfRange, Earliest, (5, 9, None), Resume::Refetch(5));
        check(false, 9, OutOfRange, Earliest, (5, 9, None), Resume::Continue);
        check(false, 7, Diverged, Latest, (5, 9, None), Resume::Refetch(5));
    }

    #[test]
    fn a_topic_is_deleted_when_that_is_said_often_and_for_long() {
        let start = Instant::now();
        // Seconds at which it is said, and at which it is asked: whether it is often, and whether it is deleted.
        let check = |said: &[u64], asked, expected| {
            let at = |seconds| start + Duration::from_secs(seconds);
            let mut missed = Missed::default();
            said.iter().for_each(|seconds| missed.note(at(*seconds)));
            assert_eq!((missed.is_any(), missed.is_often(), missed.is_deleted(at(asked))), expected, "{said:?} at {asked}");
        };
        check(&[], 99, (false, false, false));
        check(&[0], 99, (true, false, false));
        check(&[5, 40], 99, (true, false, false));
        check(&[5, 6, 7], 7, (true, true, false));
        check(&[5, 6, 34], 34, (true, true, false));
        check(&[5, 6, 35], 35, (true, true, true));
        check(&[5, 6, 7, 40], 40, (true, true, true));
        // A clock that went back.
        check(&[5, 6, 7], 0, (true, true, false));
    }
}
