//! Whether anybody uses a topic that is only cached while it is used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Who uses the cache, and whether it is kept current meanwhile.
///
/// A reader enters first and looks then whether the cache is asleep; who puts it to sleep marks it first and looks then for readers.
/// So one of the two sees the other, by sequentially consistent order.
pub struct Demand {
    born: Instant,
    users: AtomicUsize,
    last_used_ms: AtomicU64,
    /// From when nobody fills the cache until it has caught up again.
    asleep: AtomicBool,
    /// Somebody entered while it slept, and its filler was told.
    called: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Demand {
    /// Asleep; `wake` is called when somebody enters, once until [`Demand::answer`].
    pub fn new(wake: Box<dyn Fn() + Send + Sync>) -> Arc<Self> {
        Arc::new(Self {
            born: Instant::now(),
            users: AtomicUsize::new(0),
            last_used_ms: AtomicU64::new(0),
            asleep: AtomicBool::new(true),
            called: AtomicBool::new(false),
            wake,
        })
    }

    pub(crate) fn enter(self: &Arc<Self>) -> InUse {
        self.users.fetch_add(1, Ordering::SeqCst);
        if self.is_asleep() && !self.called.swap(true, Ordering::SeqCst) {
            (self.wake)();
        }
        InUse(Some(Arc::clone(self)))
    }

    /// What is cached may be older than what the cluster has: wait, or serve it as such.
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    /// For how long nobody has used the cache; `None` while somebody does.
    pub fn idle(&self, now: Instant) -> Option<Duration> {
        if self.users.load(Ordering::SeqCst) > 0 {
            return None;
        }
        let last = self.born + Duration::from_millis(self.last_used_ms.load(Ordering::SeqCst));
        Some(now.saturating_duration_since(last))
    }

    /// The filler has stopped. `Err` when somebody came meanwhile: it goes on, and whether the cache was awake before is told.
    pub(crate) fn sleep(&self) -> Result<(), bool> {
        let was_awake = !self.asleep.swap(true, Ordering::SeqCst);
        if self.users.load(Ordering::SeqCst) == 0 { Ok(()) } else { Err(was_awake) }
    }

    /// Whether somebody called since the last answer; the filler starts then.
    pub fn answer(&self) -> bool {
        self.called.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn awake(&self) -> bool {
        self.asleep.swap(false, Ordering::SeqCst)
    }
}

/// The cache is in use for as long as this lives.
pub struct InUse(pub(crate) Option<Arc<Demand>>);

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(demand) = &self.0 {
            let now_ms = u64::try_from(demand.born.elapsed().as_millis()).unwrap_or(u64::MAX);
            demand.last_used_ms.fetch_max(now_ms, Ordering::SeqCst);
            demand.users.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_sleeps_when_nobody_uses_it_and_calls_once_when_somebody_does() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let demand = Demand::new(Box::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        }));
        let (first, second) = (demand.enter(), demand.enter());
        assert_eq!((calls.load(Ordering::SeqCst), demand.answer(), demand.answer()), (1, true, false));
        assert!(demand.is_asleep(), "until it has caught up");
        assert!(demand.awake() && !demand.awake());
        drop(first);
        assert_eq!(demand.idle(Instant::now()), None, "the second is still there");
        assert_eq!(demand.sleep(), Err(true));
        assert_eq!(demand.sleep(), Err(false), "it has not caught up since");
        assert!(demand.awake());
        drop(second);
        let later = Instant::now() + Duration::from_secs(5);
        assert!(demand.idle(later).is_some_and(|idle| idle >= Duration::from_secs(4) && idle <= Duration::from_secs(6)));
        assert_eq!(demand.sleep(), Ok(()));
        assert!(demand.is_asleep());
        drop(demand.enter());
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }
}
