//! What the threads of a cluster share about a topic that is cached.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use message_cache::{Demand, PartitionLog, TopicCache};
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use super::marks::Marks;
use super::native::TopicHandle;
use super::resume::Missed;
use crate::{FetchOptions, FetchStart, PartitionFaults, PartitionState, PartitionStatus, TopicStatus};

/// A partition that was at the cluster's end counts as behind again from here.
pub const LIVE_LAG_RECORDS_MAX: i64 = 1_000;

/// A topic that is cached.
pub struct TopicFetch {
    pub cache: Arc<TopicCache>,
    pub handle: TopicHandle,
    pub options: FetchOptions,
    pub fetched: AtomicU64,
    pub slots: RwLock<Vec<Arc<Slot>>>,
    pub state: Mutex<TopicState>,
    /// Of a topic that is only read while it is used.
    pub demand: Option<Arc<Demand>>,
}

#[derive(Default)]
pub struct TopicState {
    /// Why the topic is not served.
    pub problem: Option<String>,
    /// That the cluster said that there is no such topic.
    pub missed: Missed,
    /// Partitions that were on disk when the topic was opened, and are of its present life.
    pub found_on_disk: usize,
    /// The topic was looked for before, so that what is new came after that.
    pub watched: bool,
    /// Nobody uses it, so nothing is read.
    pub paused: bool,
    /// The cache is to be dropped and fetched again.
    pub purge: bool,
    /// Who asked for that, and is told when it is dropped.
    pub purgers: Vec<oneshot::Sender<Result<(), String>>>,
    /// What lies beside the cache: the topic's id and its last known configuration.
    pub marks: Marks,
}

impl TopicFetch {
    pub fn name(&self) -> &str {
        self.cache.name()
    }

    /// A partition has been read up to the cluster's end, and with it perhaps the last one.
    pub fn reached_end(&self, slot: &Slot) {
        slot.set(PartitionState::Live, None);
        let is_live = self.slots.read().iter().all(|slot| slot.is(PartitionState::Live));
        if !is_live {
            return;
        }
        if let Err(error) = self.cache.mark_complete() {
            tracing::warn!(topic = self.name(), %error, "cannot note that the cache is complete");
        }
        self.cache.mark_awake();
    }

    /// For how long nobody has used the topic, if it is one that is only read while it is used.
    pub fn is_over(&self, now: Instant) -> bool {
        let Some((demand, linger)) = self.demand.as_ref().zip(self.options.linger) else { return false };
        demand.idle(now).is_some_and(|idle| idle >= linger)
    }

    pub fn status(&self) -> TopicStatus {
        TopicStatus {
            name: self.name().to_owned(),
            partitions: self.slots.read().iter().map(|slot| slot.status(&self.handle)).collect(),
            fetched_records: self.fetched.load(Ordering::Relaxed),
            problem: self.state.lock().problem.clone(),
        }
    }
}

/// A partition that is cached.
pub struct Slot {
    pub partition: i32,
    /// Where it begins if nothing is cached.
    pub start: FetchStart,
    pub log: Arc<PartitionLog>,
    state: Mutex<SlotState>,
    /// The cluster's end as it was told when reading began, or later; reached, the partition is live.
    target: AtomicI64,
    /// The cluster's end as it was last asked for; -1 before.
    asked_end: AtomicI64,
    /// Where reading begins.
    pub read_from: AtomicI64,
    /// When what is cached was begun anew in this process, ms since the epoch; -1: it was not.
    pub begun_ms: AtomicI64,
    /// Whether the cluster has a leader for it, as was last told.
    led: AtomicBool,
}

struct SlotState {
    state: PartitionState,
    problem: Option<String>,
    faults: PartitionFaults,
}

impl Slot {
    pub fn new(partition: i32, start: FetchStart, log: Arc<PartitionLog>) -> Self {
        let state = SlotState { state: PartitionState::Waiting, problem: None, faults: PartitionFaults::default() };
        Self {
            partition,
            start,
            log,
            state: Mutex::new(state),
            target: AtomicI64::new(i64::MAX),
            asked_end: AtomicI64::new(-1),
            read_from: AtomicI64::new(0),
            begun_ms: AtomicI64::new(-1),
            led: AtomicBool::new(true),
        }
    }

    pub fn set(&self, state: PartitionState, problem: Option<String>) {
        let mut now = self.state.lock();
        if problem.is_some() {
            now.faults.last.clone_from(&problem);
        }
        (now.state, now.problem) = (state, problem);
    }

    pub fn is(&self, state: PartitionState) -> bool {
        self.state.lock().state == state
    }

    /// Reading begins; counted when a fault had ended it.
    pub fn begin(&self) {
        let mut now = self.state.lock();
        now.faults.restarts += u64::from(now.state == PartitionState::Failed);
        (now.state, now.problem) = (PartitionState::CatchingUp, None);
    }

    pub fn count_stall(&self) {
        self.state.lock().faults.stalls += 1;
    }

    pub fn note_leader(&self, is_led: bool) {
        self.led.store(is_led, Ordering::Relaxed);
    }

    /// Nobody can be asked about a partition without a leader.
    pub fn is_led(&self) -> bool {
        self.led.load(Ordering::Relaxed)
    }

    /// Reading begins, and is done when it has come to this end.
    pub fn aim(&self, end: i64) {
        self.target.store(end, Ordering::Relaxed);
        self.note_end(end);
    }

    /// The cluster was asked, and told this end.
    pub fn note_end(&self, end: i64) {
        self.asked_end.store(end, Ordering::Relaxed);
    }

    /// Whether all that the cluster had when reading began is cached.
    pub fn has_reached_target(&self) -> bool {
        self.is(PartitionState::CatchingUp) && self.log.end_offset() >= self.target.load(Ordering::Relaxed)
    }

    /// Whether the partition has come to the cluster's end, though librdkafka tells of that only when a fetch finds nothing, which
    /// on a busy topic never happens. The end moves while it is approached: after the first comes a newer one, until it is near.
    pub fn has_caught_up(&self, handle: &TopicHandle) -> bool {
        if !self.has_reached_target() {
            return false;
        }
        let cached = self.log.end_offset();
        let end = handle.last_heard_end(self.partition).unwrap_or(cached);
        self.target.store(end, Ordering::Relaxed);
        end - cached <= LIVE_LAG_RECORDS_MAX
    }

    fn status(&self, handle: &TopicHandle) -> PartitionStatus {
        let asked = Some(self.asked_end.load(Ordering::Relaxed)).filter(|end| *end >= 0);
        let state = self.state.lock();
        PartitionStatus {
            partition: self.partition,
            state: state.state,
            cached_end: self.log.end_offset(),
            cluster_end: handle.last_heard_end(self.partition).max(asked),
            problem: state.problem.clone(),
            faults: state.faults.clone(),
            housekeeping: self.log.stats().problem,
        }
    }
}
