//! A bound on how many there are of something at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug)]
pub struct Quota {
    used: AtomicUsize,
    max: usize,
}

impl Quota {
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    pub fn max(&self) -> usize {
        self.max
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// One of them, until the permit is dropped; `None` when all are taken.
    pub fn enter(self: &Arc<Self>) -> Option<Permit> {
        let permit = Permit(Arc::clone(self));
        // Counted before the look, so that two cannot take the last one; dropped again where there was none.
        (self.used.fetch_add(1, Ordering::Relaxed) < self.max).then_some(permit)
    }
}

#[derive(Debug)]
pub struct Permit(Arc<Quota>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_there_are() {
        let quota = Quota::new(2);
        let (one, two) = (quota.enter(), quota.enter());
        assert!(one.is_some() && two.is_some() && quota.enter().is_none());
        assert_eq!(quota.used(), 2);
        drop(one);
        assert!(quota.enter().is_some());
        drop(two);
        assert_eq!(quota.used(), 0);
    }
}
