//! The thread that reads: one queue into which all wanted partitions deliver, appended to their logs in batches.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use rdkafka::error::RDKafkaErrorCode as E;

use super::append::{self, Appended};
use super::native::{self, Message, ReaderClient, RecordQueue, TopicId};
use super::resume::Reason;
use super::topic::{LIVE_LAG_RECORDS_MAX, Slot, TopicFetch};
use crate::PartitionState;

/// Most records of one append.
const BATCH_RECORDS_MAX: usize = 1000;
/// Bytes of keys and values after which an append is made, so that readers see them and memory stays small.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// How long the thread waits for records before it looks at its orders.
const WAIT: Duration = Duration::from_millis(50);
/// How often librdkafka's log, errors and statistics are looked at.
const EVENTS_INTERVAL: Duration = Duration::from_millis(50);
/// What the supervisor orders.
pub enum Order {
    /// Read from the log's end on.
    Start(Arc<TopicFetch>, Arc<Slot>),
    Stop(Arc<TopicFetch>, Arc<Slot>),
    /// Say when the orders before have been obeyed: nothing that was fetched before a stop is appended after that.
    Barrier(Sender<()>),
}

/// What the supervisor is told.
pub enum Notice {
    /// A topic is wanted, or was created: look at once.
    Look,
    /// Somebody uses a topic that is not read.
    Wake,
    /// Reading stopped.
    Stopped { topic: Arc<TopicFetch>, slot: Arc<Slot>, reason: Reason, problem: String },
}

/// The fetching thread's own.
pub struct Fetcher {
    client: Arc<ReaderClient>,
    orders: Receiver<Order>,
    notices: Sender<Notice>,
    reading: HashMap<(TopicId, i32), (Arc<TopicFetch>, Arc<Slot>)>,
}

impl Fetcher {
    pub fn new(client: Arc<ReaderClient>, orders: Receiver<Order>, notices: Sender<Notice>) -> Self {
        Self { client, orders, notices, reading: HashMap::new() }
    }

    /// Reads until told to stop.
    pub fn run(mut self, stop: &AtomicBool) {
        let mut queue = RecordQueue::new(&self.client, BATCH_RECORDS_MAX);
        let mut looked = Instant::now();
        while !stop.load(Ordering::Acquire) {
            while let Ok(order) = self.orders.try_recv() {
                self.obey(order, &queue);
            }
            if looked.elapsed() >= EVENTS_INTERVAL {
                native::serve_events(&self.client);
                looked = Instant::now();
            }
            let faults = {
                let batch = queue.take(WAIT);
                self.deliver(batch.iter())
            };
            for (id, reason, problem) in faults {
                self.give_up(id, reason, problem, &queue);
            }
        }
        for ((_, partition), (topic, _)) in &self.reading {
            queue.stop(&topic.handle, *partition);
        }
    }

    fn obey(&mut self, order: Order, queue: &RecordQueue) {
        match order {
            Order::Start(topic, slot) => {
                let id = (topic.handle.id(), slot.partition);
                if self.reading.contains_key(&id) {
                    return;
                }
                match queue.start(&topic.handle, slot.partition, slot.read_from.load(Ordering::Relaxed)) {
                    Ok(()) => {
                        // Nothing came since the cluster told its end, or there is nothing at all: no fetch needs to say so.
                        if slot.has_reached_target() {
                            topic.reached_end(&slot);
                        }
                        self.reading.insert(id, (topic, slot));
                    }
                    Err(problem) => self.tell(topic, slot, Reason::Started, problem),
                }
            }
            Order::Stop(topic, slot) => {
                if self.reading.remove(&(topic.handle.id(), slot.partition)).is_some() {
                    queue.stop(&topic.handle, slot.partition);
                }
            }
            // Nobody waits for it any more: that is the waiter's affair.
            Order::Barrier(passed) => drop(passed.send(())),
        }
    }

    /// Appends what has come. Returns the partitions that cannot go on.
    fn deliver<'b>(&self, messages: impl Iterator<Item = Message<'b>>) -> Vec<((TopicId, i32), Reason, String)> {
        let mut faults: Vec<((TopicId, i32), Reason, String)> = Vec::new();
        let mut run: Vec<Message<'b>> = Vec::new();
        let mut bytes = 0;
        for message in messages {
            let id = (message.topic(), message.partition());
            let another = run.first().is_some_and(|first| (first.topic(), first.partition()) != id);
            if another || bytes >= BATCH_BYTES_MAX || message.code().is_error() {
                self.append(&mut run, &mut faults);
                bytes = 0;
            }
            if faults.iter().any(|(failed, ..)| *failed == id) {
                continue;
            }
            if message.code().is_error() {
                faults.extend(self.event(message).map(|(reason, problem)| (id, reason, problem)));
            } else {
                bytes += message.key().map_or(0, <[u8]>::len) + message.value().map_or(0, <[u8]>::len);
                run.push(message);
            }
        }
        self.append(&mut run, &mut faults);
        faults
    }

    /// Appends a run of records of one partition, and empties it.
    fn append(&self, run: &mut Vec<Message<'_>>, faults: &mut Vec<((TopicId, i32), Reason, String)>) {
        let Some(first) = run.first() else { return };
        let id = (first.topic(), first.partition());
        // A partition that was stopped has no entry; what was still under way is dropped and fetched again.
        if let Some((topic, slot)) = self.reading.get(&id) {
            let Appended { records, problem } = append::append(&slot.log, run);
            topic.fetched.fetch_add(records, Ordering::Relaxed);
            if let Some((reason, problem)) = problem {
                faults.push((id, reason, problem));
            } else if slot.has_caught_up(&topic.handle) {
                topic.reached_end(slot);
            } else if run.len() > BATCH_RECORDS_MAX / 2 && slot.is(PartitionState::Live) {
                let end = topic.handle.last_heard_end(slot.partition).unwrap_or(0);
                if end - slot.log.end_offset() > LIVE_LAG_RECORDS_MAX {
                    slot.set(PartitionState::CatchingUp, None);
                }
            }
        }
        run.clear();
    }

    /// What librdkafka says of a partition: its end was reached, or why reading it cannot go on.
    fn event(&self, message: Message<'_>) -> Option<(Reason, String)> {
        let (topic, slot) = self.reading.get(&(message.topic(), message.partition()))?;
        let code = message.code();
        if code.is(E::PartitionEOF) {
            // Offsets that hold no record for us: marks of transactions, aborted records, compacted ones.
            slot.log.skip_to(message.offset());
            topic.reached_end(slot);
            return None;
        }
        let text = message.error_text();
        let diverged = code.is(E::LogTruncation) || text.contains("truncation");
        let out_of_range = code.is(E::AutoOffsetReset) || code.is(E::OffsetOutOfRange);
        let reason = match (diverged, out_of_range) {
            (true, _) => Reason::Diverged,
            (false, true) => Reason::OutOfRange,
            (false, false) => Reason::Started,
        };
        Some((reason, text))
    }

    fn give_up(&mut self, id: (TopicId, i32), reason: Reason, problem: String, queue: &RecordQueue) {
        if let Some((topic, slot)) = self.reading.remove(&id) {
            queue.stop(&topic.handle, slot.partition);
            self.tell(topic, slot, reason, problem);
        }
    }

    fn tell(&self, topic: Arc<TopicFetch>, slot: Arc<Slot>, reason: Reason, problem: String) {
        slot.set(PartitionState::Failed, Some(problem.clone()));
        // Without a supervisor everything is about to end.
        let _ = self.notices.send(Notice::Stopped { topic, slot, reason, problem });
    }
}
