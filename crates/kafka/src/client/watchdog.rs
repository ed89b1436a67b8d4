//! Whether a partition that is being read makes progress. Pure.

use std::time::{Duration, Instant};

/// How long nothing may come of a partition though the cluster has more.
pub const WATCHDOG: Duration = Duration::from_secs(30);

/// How far a partition had been read, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    cached_end: i64,
    since: Instant,
}

impl Progress {
    pub fn new(cached_end: i64, now: Instant) -> Self {
        Self { cached_end, since: now }
    }

    /// Notes how far the partition is read now. For how long it has stood still if that is too long: then it is to be stopped and
    /// started again. `cluster_end` is what the cluster told when it was asked, which a reader that hangs does not hear.
    pub fn look(&mut self, cached_end: i64, cluster_end: i64, now: Instant) -> Option<Duration> {
        // At the end there is nothing to come, and the time of waiting for more does not count.
        if cached_end != self.cached_end || cached_end >= cluster_end {
            *self = Self::new(cached_end, now);
            return None;
        }
        Some(now.saturating_duration_since(self.since)).filter(|still| *still >= WATCHDOG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_when_the_cluster_is_ahead_for_too_long_without_progress() {
        let start = Instant::now();
        let check = |looks: &[(i64, i64, u64)], expected: Option<u64>| {
            let mut progress = Progress::new(5, start);
            let last =
                looks.iter().map(|(cached, end, at)| progress.look(*cached, *end, start + Duration::from_secs(*at))).last();
            assert_eq!(last.flatten(), expected.map(Duration::from_secs), "{looks:?}");
        };
        check(&[(5, 9, 10), (5, 9, 29)], None);
        check(&[(5, 9, 10), (5, 9, 30)], Some(30));
        check(&[(5, 9, 41)], Some(41));
        check(&[(5, 9, 20), (6, 9, 40), (6, 9, 60)], None);
        check(&[(5, 9, 20), (6, 9, 40), (6, 9, 70)], Some(30));
        // At the end, however long.
        check(&[(5, 5, 500)], None);
        check(&[(5, 5, 500), (5, 6, 520)], None);
        check(&[(5, 5, 500), (5, 6, 530)], Some(30));
        // Ahead of an older answer.
        check(&[(5, 4, 500)], None);
        // A cache that was dropped goes back.
        check(&[(0, 9, 500)], None);
    }
}
