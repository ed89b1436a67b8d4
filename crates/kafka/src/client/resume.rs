//! Where reading a partition begins, from what is cached and what the cluster has. Pure.

use crate::FetchStart;

/// What is known of a partition before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Nothing was ever cached.
    pub fresh: bool,
    /// The next offset that the cache would hold.
    pub cached_end: i64,
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

impl Before {
    /// Whether the cluster must be asked for its first and next offset.
    pub fn needs_watermarks(self) -> bool {
        self.fresh || self.reason != Reason::Started
    }

    /// `low`, `high`: the cluster's first and next offset.
    pub fn decide(self, start: FetchStart, low: i64, high: i64) -> Resume {
        match self.reason {
            _ if self.fresh => Resume::Begin(if start == FetchStart::Earliest { low } else { high }),
            Reason::Started => Resume::Continue,
            Reason::Diverged => Resume::Refetch(low),
            Reason::OutOfRange if self.cached_end < low => Resume::Skip(low),
            Reason::OutOfRange if self.cached_end > high => Resume::Refetch(low),
            // A follower that was behind answered; the leader has the offset.
            Reason::OutOfRange => Resume::Continue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_by_what_is_cached_and_what_the_cluster_has() {
        use FetchStart::{Earliest, Latest};
        use Reason::{Diverged, OutOfRange, Started};
        let check = |fresh, cached_end, reason, start, (low, high), expected| {
            let before = Before { fresh, cached_end, reason };
            assert_eq!(before.decide(start, low, high), expected, "{before:?} {start:?} {low}..{high}");
        };
        check(true, 0, Started, Earliest, (5, 9), Resume::Begin(5));
        check(true, 0, Started, Latest, (5, 9), Resume::Begin(9));
        check(true, 0, Diverged, Earliest, (5, 9), Resume::Begin(5));
        check(false, 7, Started, Latest, (5, 9), Resume::Continue);
        check(false, 4, OutOfRange, Earliest, (5, 9), Resume::Skip(5));
        check(false, 10, OutOfRange, Earliest, (5, 9), Resume::Refetch(5));
        check(false, 9, OutOfRange, Earliest, (5, 9), Resume::Continue);
        check(false, 7, Diverged, Latest, (5, 9), Resume::Refetch(5));
        assert!(Before { fresh: true, cached_end: 0, reason: Started }.needs_watermarks());
        assert!(!Before { fresh: false, cached_end: 0, reason: Started }.needs_watermarks());
    }
}
