//! What the programs share: when the next one is due, and how long they took.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What comes in this time is not counted: connections are opened and code becomes warm.
pub const WARM_UP: Duration = Duration::from_secs(1);

/// An open loop: each one is due at its time, whatever became of those before. Latency counts from that time on, so that a stall
/// shows in all that it delayed, and not in one.
pub struct Pace {
    start: Instant,
    per_second: f64,
    total: u64,
}

impl Pace {
    /// From now on, warm-up included.
    pub fn new(per_second: u32, seconds: u32) -> Self {
        let total = u64::from(per_second) * (u64::from(seconds) + WARM_UP.as_secs());
        Self { start: Instant::now(), per_second: f64::from(per_second), total }
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// Sleeps until each is due, and gives the time that it was due.
    pub fn run(&self, mut each: impl FnMut(Instant)) {
        for n in 0..self.total {
            let due = self.start + Duration::from_secs_f64(n as f64 / self.per_second);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            each(due);
        }
    }

    /// Whether what was due then counts.
    pub fn counts(&self, due: Instant) -> bool {
        due >= self.start + WARM_UP
    }
}

/// How long those took that counted.
#[derive(Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `answered`, and quantiles in milliseconds.
    pub fn report(mut self) -> Value {
        self.0.sort_unstable();
        let at = |quantile: f64| {
            let rank = (self.0.len() as f64 * quantile).ceil() as usize;
            self.0.get(rank.max(1) - 1).map(|latency| latency.as_secs_f64() * 1e3)
        };
        json!({ "answered": self.0.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999), "max_ms": at(1.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_by_rank() {
        let mut latencies = Latencies::default();
        (1..=1000).rev().for_each(|ms| latencies.add(Duration::from_millis(ms)));
        let expected = json!({ "answered": 1000, "p50_ms": 500.0, "p99_ms": 990.0, "p999_ms": 999.0, "max_ms": 1000.0 });
        assert_eq!(latencies.report(), expected);
        assert_eq!(Latencies::default().report()["p50_ms"], Value::Null);
    }

    #[test]
    fn a_pace_is_kept_and_its_beginning_does_not_count() {
        let pace = Pace { start: Instant::now(), per_second: 1000.0, total: 20 };
        let mut due = Vec::new();
        pace.run(|at| due.push(at));
        assert!(pace.start.elapsed() >= Duration::from_millis(19));
        assert_eq!(due.len(), 20);
        assert!(due.iter().zip(&due[1..]).all(|(a, b)| a < b) && !pace.counts(due[19]));
        assert!(pace.counts(pace.start + WARM_UP));
    }
}
