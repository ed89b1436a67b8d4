//! How long to wait before the next try.

use std::time::Duration;

/// The wait before the second try of anything that failed.
pub const RETRY_MIN: Duration = Duration::from_millis(250);
/// The longest wait between two tries against a cluster that answers nothing.
pub const RETRY_MAX: Duration = Duration::from_secs(10);
/// The longest wait between two looks for a topic that is missing: one small metadata request.
pub const MISSING_TOPIC_RETRY_MAX: Duration = Duration::from_secs(2);

/// Doubles from [`RETRY_MIN`] up to a limit, spread over the upper half, so that many gateways do not come back at once.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    failures: u32,
    max: Duration,
}

impl Backoff {
    pub fn new(max: Duration) -> Self {
        Self { failures: 0, max }
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after one more failure. `jitter` is in `0.0..1.0`.
    pub fn next(&mut self, jitter: f64) -> Duration {
        let full = RETRY_MIN.saturating_mul(1 << self.failures.min(16)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        full.div_f64(2.0) + full.mul_f64(jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_limit_and_starts_again() {
        let mut backoff = Backoff::new(RETRY_MAX);
        let full: Vec<u64> = (0..8).map(|_| backoff.next(1.0).as_millis() as u64).collect();
        assert_eq!(full, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        backoff.reset();
        assert_eq!(backoff.next(0.0), RETRY_MIN / 2);
        let mut many = Backoff { failures: u32::MAX, max: MISSING_TOPIC_RETRY_MAX };
        assert_eq!(many.next(1.0), MISSING_TOPIC_RETRY_MAX);
    }
}
