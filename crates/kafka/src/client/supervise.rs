//! The thread that keeps every wanted partition read: it looks at topics ([`super::look`]), starts their partitions
//! ([`super::start`]), and starts them again after a fault.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::RwLock;

use super::ask::Asking;
use super::backoff::{Backoff, MISSING_TOPIC_RETRY_MAX, RETRY_MAX};
use super::fetch::{Notice, Order};
use super::health::Health;
use super::native::{self, ReaderClient, TopicId};
use super::producer::Producer;
use super::resume::Reason;
use super::topic::{Slot, TopicFetch};
use super::watchdog::Progress;
use crate::PartitionState;

/// How long the cluster may take for one answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the producer's brokers may take for a sign of life.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is looked whether the producer's brokers are down, and which topics are no longer used.
const TICK: Duration = Duration::from_secs(1);
/// A partition that was read for so long before it stopped is started again at once.
const STEADY: Duration = Duration::from_secs(60);
/// The time between two looks that faults of partitions ask for: a thousand of them must not become a thousand looks.
const FAULT_LOOK_MIN: Duration = Duration::from_secs(1);
/// How long the fetcher may take to obey, behind what it is appending.
const OBEY_TIMEOUT: Duration = Duration::from_secs(10);

/// The topics that are cached, by name.
pub type Wanted = RwLock<BTreeMap<String, Arc<TopicFetch>>>;

pub struct Supervisor {
    /// Reads, and is asked nothing: an answer would wait behind a fetch that waits for records.
    pub reader: Arc<ReaderClient>,
    /// Has connections of its own for questions.
    pub asker: Arc<ReaderClient>,
    /// The reader's.
    pub health: Arc<Health>,
    pub producer: Arc<Producer>,
    pub producer_health: Arc<Health>,
    pub wanted: Arc<Wanted>,
    /// Where the caches of this cluster lie.
    pub directory: PathBuf,
    /// How often topics are looked at while all is well.
    pub refresh: Duration,
    /// Whether ends are those of transactions that are over (`isolation.level`).
    pub committed: bool,
    pub notices: Receiver<Notice>,
    pub orders: Sender<Order>,
}

/// A partition that is to be read.
pub struct Reader {
    pub topic: Arc<TopicFetch>,
    pub slot: Arc<Slot>,
    /// When to start it; `None` while it is read.
    pub due: Option<Instant>,
    pub reason: Reason,
    pub started: Instant,
    pub progress: Progress,
    pub backoff: Backoff,
}

impl Reader {
    pub fn new(topic: &Arc<TopicFetch>, slot: Arc<Slot>, reason: Reason, now: Instant) -> Self {
        let progress = Progress::new(slot.log.end_offset(), now);
        Self { topic: Arc::clone(topic), slot, due: Some(now), reason, started: now, progress, backoff: Backoff::new(RETRY_MAX) }
    }

    pub fn fail(&mut self, problem: String, now: Instant) {
        self.slot.set(PartitionState::Failed, Some(problem));
        self.due = Some(now + self.backoff.next(fastrand::f64()));
    }
}

/// What the loop remembers.
pub struct Plan {
    /// Whether the directory is known to be this cluster's.
    pub settled: bool,
    pub look_at: Instant,
    looked: Instant,
    pub cluster: Backoff,
    pub missing: Backoff,
    pub readers: HashMap<(TopicId, i32), Reader>,
    /// A stop was ordered and not confirmed: no log may be dropped before it is.
    pub stopping: bool,
    /// There are topics or partitions that the reader has not heard of.
    pub unheard: bool,
}

impl Supervisor {
    /// Runs until told to stop.
    pub fn run(&self, stop: &AtomicBool) {
        let now = Instant::now();
        let mut plan = Plan {
            settled: false,
            look_at: now,
            looked: now,
            cluster: Backoff::new(MISSING_TOPIC_RETRY_MAX),
            missing: Backoff::new(MISSING_TOPIC_RETRY_MAX),
            readers: HashMap::new(),
            stopping: false,
            unheard: false,
        };
        while !stop.load(Ordering::Acquire) {
            match self.notices.recv_timeout(plan.wait(Instant::now()).min(TICK)) {
                Ok(notice) => {
                    plan.note(notice, Instant::now());
                    while let Ok(notice) = self.notices.try_recv() {
                        plan.note(notice, Instant::now());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            native::serve_events(&self.asker);
            self.follow_demand(&mut plan, Instant::now());
            if plan.look_at <= Instant::now() {
                plan.looked = Instant::now();
                self.look(&mut plan, stop);
            }
            if self.health.is_reached() {
                self.start_due(&mut plan, stop);
            }
            // At the start, so that the first record need not wait for a connection; later, because librdkafka does not
            // look for brokers that nothing is to be sent to.
            if !self.producer_health.is_reached() {
                self.producer.probe(PROBE_TIMEOUT);
            }
        }
    }

    /// Asks the cluster on this thread.
    pub fn asking<'a>(&'a self, give_up: &'a dyn Fn() -> bool) -> Asking<'a> {
        Asking { client: &self.asker, timeout: ANSWER_TIMEOUT, give_up }
    }

    /// Orders that a partition be read no more.
    pub fn stop(&self, topic: &Arc<TopicFetch>, slot: &Arc<Slot>, plan: &mut Plan) {
        // Ends when the fetcher does, and then nothing is to be ordered.
        let _ = self.orders.send(Order::Stop(Arc::clone(topic), Arc::clone(slot)));
        plan.stopping = true;
    }

    /// Waits until what was stopped has stopped, so that logs can be dropped without a late batch getting into the new one.
    ///
    /// # Errors
    /// When the fetcher does not get to it; try again later.
    pub fn confirm_stops(&self, plan: &mut Plan) -> Result<(), String> {
        if plan.stopping {
            let (passed, passing) = crossbeam_channel::bounded(1);
            let _ = self.orders.send(Order::Barrier(passed));
            passing.recv_timeout(OBEY_TIMEOUT).map_err(|_| "the fetcher does not stop; the disk may be slow".to_owned())?;
            plan.stopping = false;
        }
        Ok(())
    }

    /// Stops what nobody has used for a while, and starts what is used again.
    fn follow_demand(&self, plan: &mut Plan, now: Instant) {
        let on_demand: Vec<_> = self.wanted.read().values().filter(|t| t.demand.is_some()).cloned().collect();
        for topic in on_demand {
            let called = topic.demand.as_ref().is_some_and(|demand| demand.answer());
            let paused = topic.state.lock().paused;
            if paused && called {
                self.resume(&topic, plan, now);
            } else if !paused && topic.is_over(now) {
                self.pause(&topic, plan, now);
            }
        }
    }

    /// Only what has really stopped sleeps: a late batch would else pass for the end that it was to reach.
    fn pause(&self, topic: &Arc<TopicFetch>, plan: &mut Plan, now: Instant) {
        for slot in topic.slots.read().iter() {
            plan.readers.remove(&(topic.handle.id(), slot.partition));
            self.stop(topic, slot, plan);
        }
        if self.confirm_stops(plan).is_ok() && topic.cache.put_to_sleep() {
            topic.state.lock().paused = true;
            topic.slots.read().iter().for_each(|slot| slot.set(PartitionState::Paused, None));
        } else {
            self.resume(topic, plan, now);
        }
    }

    fn resume(&self, topic: &Arc<TopicFetch>, plan: &mut Plan, now: Instant) {
        topic.state.lock().paused = false;
        for slot in topic.slots.read().iter() {
            slot.set(PartitionState::Waiting, None);
            let reader = Reader::new(topic, Arc::clone(slot), Reason::Started, now);
            plan.readers.insert((topic.handle.id(), slot.partition), reader);
        }
        // It may have become another topic since the last look.
        plan.look_at = now;
    }
}

impl Plan {
    fn wait(&self, now: Instant) -> Duration {
        let due = self.readers.values().filter_map(|r| r.due).fold(self.look_at, Instant::min);
        due.saturating_duration_since(now)
    }

    fn note(&mut self, notice: Notice, now: Instant) {
        match notice {
            Notice::Wake => {}
            Notice::Look => {
                self.missing.reset();
                self.look_at = now;
            }
            Notice::Stopped { topic, slot, reason, problem } => {
                let Some(reader) = self.readers.get_mut(&(topic.handle.id(), slot.partition)) else {
                    return;
                };
                tracing::info!(topic = topic.name(), partition = slot.partition, problem, "reading stopped, to be tried again");
                if now.saturating_duration_since(reader.started) > STEADY {
                    reader.backoff.reset();
                }
                // A topic that was deleted ends so, too.
                self.look_at = self.look_at.min((self.looked + FAULT_LOOK_MIN).max(now));
                reader.reason = reason;
                reader.fail(problem, now);
            }
        }
    }
}
