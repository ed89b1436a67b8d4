//! What the partition logs of one topic have in common.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::log::PartitionLog;
use crate::policy::Policy;

/// Policy, clock, and the bell that rings when something changed.
pub struct Shared {
    policy: RwLock<Arc<Policy>>,
    pub clock: Clock,
    /// The bound on bytes is reached, and nothing may make room.
    pub is_full: AtomicBool,
    partitions: RwLock<Vec<Weak<PartitionLog>>>,
    changed: watch::Sender<u64>,
}

impl Shared {
    pub fn new(policy: Policy, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            policy: RwLock::new(Arc::new(policy)),
            clock,
            is_full: AtomicBool::new(false),
            partitions: RwLock::default(),
            changed: watch::channel(0).0,
        })
    }

    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read())
    }

    /// Says whether it is another than before.
    pub fn set_policy(&self, policy: Policy) -> bool {
        let mut current = self.policy.write();
        let differs = **current != policy;
        if differs {
            *current = Arc::new(policy);
        }
        differs
    }

    pub(crate) fn set_partitions(&self, partitions: &[Arc<PartitionLog>]) {
        *self.partitions.write() = partitions.iter().map(Arc::downgrade).collect();
    }

    /// The logs of the topic; none where a log was opened alone.
    pub(crate) fn partitions(&self) -> Vec<Arc<PartitionLog>> {
        self.partitions.read().iter().filter_map(Weak::upgrade).collect()
    }

    pub fn ring(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
