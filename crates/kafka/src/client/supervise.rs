//! The thread that keeps every wanted partition read: it finds topics, starts their partitions, and starts them again
//! after a fault.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::RwLock;
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode as E;

use super::backoff::{Backoff, MISSING_TOPIC_RETRY_MAX, RETRY_MAX};
use super::fetch::{Notice, Order, Slot, TopicFetch};
use super::health::Health;
use super::identity;
use super::native::{self, Ask, Metadata, ReaderClient, TopicId, TopicMetadata};
use super::producer::Producer;
use super::resume::{Before, Reason, Resume};
use crate::{FetchStart, PartitionState};

/// How often topics are looked at while all is well: partitions may be added, topics deleted.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// How long the cluster may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the producer's brokers may take for a sign of life.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is looked whether the producer's brokers are down.
const TICK: Duration = Duration::from_secs(1);
/// Answers in a row that a topic does not exist before its cached records are taken for those of a deleted topic.
const MISSING_BEFORE_DELETED: u32 = 3;
/// A partition that was read for so long before it stopped is started again at once.
const STEADY: Duration = Duration::from_secs(60);

/// The topics that are cached, by name.
pub type Wanted = RwLock<BTreeMap<String, Arc<TopicFetch>>>;

pub struct Supervisor {
    pub client: Arc<ReaderClient>,
    /// The reader's.
    pub health: Arc<Health>,
    pub producer: Arc<Producer>,
    pub producer_health: Arc<Health>,
    pub wanted: Arc<Wanted>,
    /// Where the caches of this cluster lie.
    pub directory: PathBuf,
    pub notices: Receiver<Notice>,
    pub orders: Sender<Order>,
}

/// A partition that is to be read.
struct Reader {
    topic: Arc<TopicFetch>,
    slot: Arc<Slot>,
    /// When to start it; `None` while it is read.
    due: Option<Instant>,
    reason: Reason,
    started: Instant,
    backoff: Backoff,
}

/// What the loop remembers.
struct Plan {
    /// Whether the directory is known to be this cluster's.
    settled: bool,
    look_at: Instant,
    cluster: Backoff,
    missing: Backoff,
    readers: HashMap<(TopicId, i32), Reader>,
}

impl Supervisor {
    /// Runs until told to stop.
    pub fn run(&self, stop: &AtomicBool) {
        let mut plan = Plan {
            settled: false,
            look_at: Instant::now(),
            cluster: Backoff::new(MISSING_TOPIC_RETRY_MAX),
            missing: Backoff::new(MISSING_TOPIC_RETRY_MAX),
            readers: HashMap::new(),
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
            if plan.look_at <= Instant::now() {
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

    fn look(&self, plan: &mut Plan, stop: &AtomicBool) {
        let stopping = || stop.load(Ordering::Acquire);
        let wait = match native::metadata_unless(self.client.client(), Ask::Known, ANSWER_TIMEOUT, stopping) {
            Ok(metadata) => {
                self.health.answered();
                plan.cluster.reset();
                if self.settle(plan) && self.compare(&metadata, plan) {
                    plan.missing.reset();
                    LOOK_INTERVAL
                } else {
                    plan.missing.next(fastrand::f64())
                }
            }
            Err(code) => {
                if self.health.fault().is_none() {
                    self.health.failed(&format!("the cluster does not answer: {}", code.text()));
                }
                plan.cluster.next(fastrand::f64())
            }
        };
        plan.look_at = Instant::now() + wait;
    }

    /// Whether the cached records are known to be this cluster's. Nothing is fetched before.
    fn settle(&self, plan: &mut Plan) -> bool {
        if !plan.settled {
            let id = self.client.client().fetch_cluster_id(ANSWER_TIMEOUT);
            // Held while the directory is made the cluster's, so that no topic is opened in it meanwhile.
            let wanted = self.wanted.read();
            let settled = match id {
                Some(id) => identity::settle(&self.directory, &id, &wanted),
                None => Err("the cluster does not tell its id".to_owned()),
            };
            plan.settled = settled.is_ok();
            if let Err(problem) = settled {
                wanted.values().for_each(|topic| topic.state.lock().problem = Some(problem.clone()));
            }
        }
        plan.settled
    }

    /// Whether all wanted topics are there.
    fn compare(&self, metadata: &Metadata, plan: &mut Plan) -> bool {
        let wanted: Vec<_> = self.wanted.read().values().cloned().collect();
        let mut complete = true;
        for topic in wanted {
            let problem = match metadata.topics.get(topic.cache.name()) {
                // Asked for after the request was made.
                None => Some("not looked for yet".to_owned()),
                Some(found) if found.code.is(E::UnknownTopicOrPartition) => Some(self.gone(&topic, plan)),
                Some(found) if found.leaders.is_empty() => Some(found.code.text()),
                Some(found) => self.present(&topic, found, plan).err(),
            };
            complete &= problem.is_none();
            topic.state.lock().problem = problem;
        }
        complete
    }

    /// The topic does not exist, or no longer.
    fn gone(&self, topic: &Arc<TopicFetch>, plan: &mut Plan) -> String {
        topic.state.lock().missing += 1;
        for slot in topic.slots.read().iter() {
            // Ends when the fetcher does, and then nothing is to be ordered.
            let _ = self.orders.send(Order::Stop(Arc::clone(topic), Arc::clone(slot)));
            slot.set(PartitionState::Waiting, None);
            plan.readers.remove(&(topic.handle.id(), slot.partition));
        }
        "the topic does not exist: create it, or correct its name".to_owned()
    }

    /// The topic exists: every partition of it is to be read.
    fn present(&self, topic: &Arc<TopicFetch>, found: &TopicMetadata, plan: &mut Plan) -> Result<(), String> {
        if found.leaders.len() < topic.cache.partitions().len() {
            self.drop_former_life(topic, found.leaders.len(), plan)?;
        }
        topic.cache.ensure_partitions(found.leaders.len()).map_err(|e| e.to_string())?;
        let logs = topic.cache.partitions();
        let missing = std::mem::take(&mut topic.state.lock().missing);
        let reason = if missing >= MISSING_BEFORE_DELETED { Reason::Diverged } else { Reason::Started };
        let mut slots = topic.slots.write();
        // A partition that appears while the topic is watched holds nothing that came before the watching began.
        let watched = missing > 0 || !slots.is_empty() || topic.found_on_disk > 0;
        let mut to_start: Vec<Arc<Slot>> = if missing > 0 { slots.clone() } else { Vec::new() };
        for (number, log) in logs.iter().enumerate().skip(slots.len()) {
            let Ok(partition) = i32::try_from(number) else { break };
            let start = if watched && number >= topic.found_on_disk { FetchStart::Earliest } else { topic.start };
            let slot = Arc::new(Slot::new(partition, start, Arc::clone(log)));
            slots.push(Arc::clone(&slot));
            to_start.push(slot);
        }
        let now = Instant::now();
        for slot in to_start {
            let backoff = Backoff::new(RETRY_MAX);
            let id = (topic.handle.id(), slot.partition);
            plan.readers.insert(id, Reader { topic: Arc::clone(topic), slot, due: Some(now), reason, started: now, backoff });
        }
        Ok(())
    }

    /// A topic never loses partitions: one that has fewer than were cached is another one of the same name.
    fn drop_former_life(&self, topic: &Arc<TopicFetch>, partitions: usize, plan: &mut Plan) -> Result<(), String> {
        tracing::warn!(topic = topic.cache.name(), partitions, "the topic was re-created with fewer partitions: fetched again");
        for slot in topic.slots.write().drain(..) {
            plan.readers.remove(&(topic.handle.id(), slot.partition));
            let _ = self.orders.send(Order::Stop(Arc::clone(topic), slot));
        }
        topic.cache.drop_all(partitions).map_err(|e| e.to_string())
    }

    fn start_due(&self, plan: &mut Plan, stop: &AtomicBool) {
        let now = Instant::now();
        for reader in plan.readers.values_mut().filter(|r| r.due.is_some_and(|due| due <= now)) {
            if stop.load(Ordering::Acquire) || !self.health.is_reached() {
                return;
            }
            match self.start(&reader.topic, &reader.slot, reader.reason) {
                Ok(()) => {
                    reader.due = None;
                    reader.started = Instant::now();
                }
                Err(problem) => {
                    reader.due = Some(Instant::now() + reader.backoff.next(fastrand::f64()));
                    reader.slot.set(PartitionState::Failed, Some(problem));
                }
            }
        }
    }

    /// Makes the log fit what the cluster has, and orders it to be read.
    fn start(&self, topic: &Arc<TopicFetch>, slot: &Arc<Slot>, reason: Reason) -> Result<(), String> {
        let (name, partition, log) = (topic.cache.name(), slot.partition, &slot.log);
        let before = Before { fresh: log.is_fresh(), cached_end: log.end_offset(), reason };
        if before.needs_watermarks() {
            let asked = self.client.fetch_watermarks(name, partition, ANSWER_TIMEOUT);
            let (low, high) = asked.map_err(|e| format!("the offsets are not told: {e}"))?;
            let cached = before.cached_end;
            match before.decide(slot.start, low, high) {
                Resume::Continue => {}
                Resume::Begin(offset) => log.reset(offset).map_err(|e| e.to_string())?,
                Resume::Skip(offset) => {
                    tracing::warn!(
                        topic = name,
                        partition,
                        cached,
                        offset,
                        "the cluster has deleted records before they were cached"
                    );
                    log.skip_to(offset);
                }
                Resume::Refetch(offset) => {
                    tracing::warn!(
                        topic = name,
                        partition,
                        cached,
                        low,
                        high,
                        "the topic was re-created or truncated: fetched again"
                    );
                    // Until it has caught up again, nobody may take what is there for all.
                    topic.cache.mark_incomplete().map_err(|e| e.to_string())?;
                    log.reset(offset).map_err(|e| e.to_string())?;
                }
            }
        }
        slot.set(PartitionState::CatchingUp, None);
        let _ = self.orders.send(Order::Start(Arc::clone(topic), Arc::clone(slot)));
        Ok(())
    }
}

impl Plan {
    fn wait(&self, now: Instant) -> Duration {
        let due = self.readers.values().filter_map(|r| r.due).fold(self.look_at, Instant::min);
        due.saturating_duration_since(now)
    }

    fn note(&mut self, notice: Notice, now: Instant) {
        match notice {
            Notice::Look => {
                self.missing.reset();
                self.look_at = now;
            }
            Notice::Stopped { topic, slot, reason, problem } => {
                tracing::info!(
                    topic = topic.cache.name(),
                    partition = slot.partition,
                    problem,
                    "reading stopped, to be tried again"
                );
                let Some(reader) = self.readers.get_mut(&(topic.handle.id(), slot.partition)) else {
                    return;
                };
                if now.saturating_duration_since(reader.started) > STEADY {
                    reader.backoff.reset();
                }
                // A topic that was deleted ends so, too.
                self.look_at = now;
                reader.reason = reason;
                reader.due = Some(now + reader.backoff.next(fastrand::f64()));
            }
        }
    }
}
