//! The thread that copies the claims of one partition, while it is this process's.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode as E;
use rdkafka::{Offset, TopicPartitionList};

use super::choice::{Choice, choose};
use super::format::{self, Claim};
use super::member::GroupClient;
use super::sight::Sight;
use super::writer::{Fault, Writer};
use super::{Shared, Stop};
use crate::client::backoff::{Backoff, RETRY_MAX};
use crate::client::native::{Message, ReaderClient, RecordQueue, TopicHandle};
use crate::client::{KafkaCluster, admin};

/// The most claims of one transaction.
const BATCH_RECORDS_MAX: usize = 1000;
/// The most bytes of keys and values of one transaction, unless one claim alone is larger.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How long the thread waits for claims before it looks whether it is to stop.
const WAIT: Duration = Duration::from_millis(50);
/// How long the cluster may take to tell how far claims were copied.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a transaction is tried again before the producer is replaced.
const TRIES_MAX: u32 = 5;
/// Producers of a partition, which take turns: a transaction that follows one of the same producer would have to wait until the marks
/// of that are written, and librdkafka looks for that only every 20 ms.
const WRITERS: usize = 2;
/// Before the first claim that is kept. (librdkafka's `RD_KAFKA_OFFSET_BEGINNING`)
const BEGINNING: i64 = -2;

pub struct Owner {
    pub cluster: Arc<KafkaCluster>,
    pub shared: Arc<Shared>,
    pub group: Arc<GroupClient>,
    pub reader: Arc<ReaderClient>,
    pub partition: i32,
    pub stop: Arc<Stop>,
}

/// What an owner holds while all is well.
struct Copying<'o> {
    owner: &'o Owner,
    /// `None` after a transaction that was not committed.
    writers: [Option<Writer>; WRITERS],
    turn: usize,
    /// How many the target has, as far as that was asked for.
    partitions: i32,
    sight: Sight<'o>,
}

impl Owner {
    /// Copies claims until told to stop.
    pub fn run(&self) {
        let mut backoff = Backoff::new(RETRY_MAX);
        while !self.stop.is_set() {
            if let Err(problem) = self.own(&mut backoff) {
                self.shared.note(self.partition, problem);
                self.shared.counters.restarts.fetch_add(1, Ordering::Relaxed);
                self.stop.wait(backoff.next(fastrand::f64()));
            }
        }
    }

    /// In this order: whoever had the partition before can commit nothing any more; all that it committed is seen; how far it came.
    fn own(&self, backoff: &mut Backoff) -> Result<(), String> {
        let options = &self.shared.options;
        let cache = self.cluster.cached(&options.target, crate::FetchStart::Earliest).map_err(|e| e.to_string())?;
        // A topic that is only read while it is used is used from now on.
        let _in_use = cache.enter();
        let target = self.cluster.wanted.read().get(&options.target).cloned();
        let target = target.ok_or_else(|| format!("topic {} is not cached", options.target))?;
        let writers = std::thread::scope(|scope| {
            let opening: [_; WRITERS] = std::array::from_fn(|n| scope.spawn(move || self.open(n)));
            opening.map(|thread| thread.join().unwrap_or_else(|_| Err("a thread has failed".to_owned())))
        });
        let writers: Vec<_> = writers.into_iter().collect::<Result<_, _>>()?;
        let Ok(writers) = <[_; WRITERS]>::try_from(writers) else { return Ok(()) };
        if writers.iter().any(Option::is_none) {
            return Ok(());
        }
        let sight = Sight::gain(&self.cluster, &self.shared, self.partition, &target, &self.stop)?;
        let Some(sight) = sight else { return Ok(()) };
        let from = self.committed()?;
        tracing::info!(topic = options.topic, partition = self.partition, from, "claims of this partition are copied here");
        self.shared.clear(self.partition);
        self.read(from, &mut Copying { owner: self, writers, turn: 0, partitions: 0, sight }, backoff)
    }

    /// From now on, the same producer of whoever had this partition before can commit nothing. `None`: stopped.
    fn open(&self, n: usize) -> Result<Option<Writer>, String> {
        let options = &self.shared.options;
        let id = format!("tidegate-claims.{}.{}.{n}", options.topic, self.partition);
        // What cannot be asked is told by the writes.
        let properties = admin::topic_config(&self.cluster.asker, &options.target).unwrap_or_default();
        let limit = properties.get("max.message.bytes").and_then(|bytes| bytes.parse().ok());
        Writer::open(&self.cluster, &id, limit, &self.stop)
    }

    /// Where the group has come to. Waits for what a transaction that was ended may still have to say. (KIP-447)
    fn committed(&self) -> Result<i64, String> {
        let topic = &self.shared.options.topic;
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, self.partition);
        let untold = |e: String| format!("how far the claims of topic {topic} were copied is not told: {e}");
        let told = self.group.committed_offsets(list, ANSWER_TIMEOUT).map_err(|e| untold(e.to_string()))?;
        let element = told.find_partition(topic, self.partition).ok_or_else(|| untold("no answer".to_owned()))?;
        element.error().map_err(|e| untold(e.to_string()))?;
        Ok(match element.offset() {
            Offset::Offset(offset) => offset,
            _ => BEGINNING,
        })
    }

    fn read(&self, from: i64, copying: &mut Copying<'_>, backoff: &mut Backoff) -> Result<(), String> {
        let topic = &self.shared.options.topic;
        let handle = TopicHandle::new(&self.reader, topic).ok_or_else(|| format!("{topic:?} is no topic's name"))?;
        let mut queue = RecordQueue::new(&self.reader, BATCH_RECORDS_MAX);
        queue.start(&handle, self.partition, from)?;
        let mut result = Ok(());
        while result.is_ok() && !self.stop.is_set() {
            let (mut claims, fault) = self.take(&mut queue);
            if claims.is_empty() {
                copying.writers.iter().flatten().for_each(Writer::idle);
            }
            result = self.check_partitions(&mut claims, copying).and_then(|()| copying.copy(&claims));
            if result.is_ok() && !claims.is_empty() {
                backoff.reset();
            }
            match fault {
                Some(Gap::Lost) if result.is_ok() => {
                    tracing::warn!(topic, partition = self.partition, "claims were deleted before they were copied");
                    queue.stop(&handle, self.partition);
                    result = queue.start(&handle, self.partition, BEGINNING);
                }
                Some(Gap::Fault(problem)) => result = result.and(Err(problem)),
                Some(Gap::Lost) | None => {}
            }
        }
        queue.stop(&handle, self.partition);
        result
    }

    fn take(&self, queue: &mut RecordQueue) -> (Vec<Claim>, Option<Gap>) {
        let batch = queue.take(WAIT);
        let mut claims = Vec::with_capacity(batch.iter().len());
        for message in batch.iter() {
            let code = message.code();
            if !code.is_error() {
                claims.push(self.claim(message));
            } else if code.is(E::AutoOffsetReset) || code.is(E::OffsetOutOfRange) {
                return (claims, Some(Gap::Lost));
            } else if !code.is(E::PartitionEOF) {
                let topic = &self.shared.options.topic;
                return (claims, Some(Gap::Fault(format!("claims of topic {topic} are not read: {}", message.error_text()))));
            }
        }
        (claims, None)
    }

    /// A record for a partition that is not there would be waited for until its transaction is over.
    fn check_partitions(&self, claims: &mut [Claim], copying: &mut Copying<'_>) -> Result<(), String> {
        let target = &self.shared.options.target;
        for claim in claims {
            let Ok(Some(partition)) = claim.what.as_ref().map(|wanted| wanted.record.partition) else { continue };
            if partition >= copying.partitions {
                let found = admin::find_topic(&self.cluster.asker, target).map_err(|e| e.to_string())?;
                copying.partitions = i32::try_from(found.leaders.len()).unwrap_or(i32::MAX);
            }
            if partition >= copying.partitions {
                claim.what = Err(format!("topic {target} has no partition {partition}"));
            }
        }
        Ok(())
    }

    fn claim(&self, message: Message<'_>) -> Claim {
        let mut headers = Vec::new();
        message.each_header(|name, value| {
            headers.push((name.to_string_lossy().into_owned(), value.map(Bytes::copy_from_slice)));
        });
        let what = format::wanted(&self.shared.options, message.key(), message.value(), headers);
        Claim { offset: message.offset(), what }
    }
}

/// Why the next claims do not come.
enum Gap {
    /// Retention has taken them.
    Lost,
    Fault(String),
}

impl Copying<'_> {
    fn copy(&mut self, mut claims: &[Claim]) -> Result<(), String> {
        while let Some(last) = claims.len().checked_sub(1) {
            if !self.sight.settle(&self.owner.stop)? {
                return Ok(());
            }
            let mut bytes = 0;
            let fits = |claim: &&Claim| {
                bytes += size(claim);
                bytes <= BATCH_BYTES_MAX
            };
            let count = claims.iter().take_while(fits).count().clamp(1, last + 1);
            let (batch, rest) = claims.split_at(count);
            if !self.write(batch)? {
                return Ok(());
            }
            claims = rest;
        }
        Ok(())
    }

    /// Writes a batch in one transaction; where the target refuses one of its records, that one is tried by itself, and skipped if it
    /// is refused then, too. False when it was stopped.
    fn write(&mut self, batch: &[Claim]) -> Result<bool, String> {
        let mut backoff = Backoff::new(RETRY_MAX);
        for tries in 1.. {
            if self.owner.stop.is_set() {
                return Ok(false);
            }
            let why = match self.transact(batch) {
                Ok(done) => return Ok(done),
                Err(Fault::Refused(at, _)) if batch.len() > 1 => {
                    let (before, rest) = batch.split_at(at);
                    let (suspect, after) = rest.split_at(1.min(rest.len()));
                    return Ok(self.write(before)? && self.write(suspect)? && self.write(after)?);
                }
                Err(Fault::Refused(_, why)) => {
                    let offset = batch.first().map_or(-1, |claim| claim.offset);
                    return self.write(&[Claim { offset, what: Err(why) }]);
                }
                Err(Fault::Broken(why)) => return Err(why),
                Err(Fault::Aborted(why)) if tries >= TRIES_MAX => return Err(why),
                Err(Fault::Aborted(why)) => why,
            };
            tracing::debug!(partition = self.owner.partition, why, "a transaction of claims is tried again");
            self.owner.stop.wait(backoff.next(fastrand::f64()));
        }
        Ok(false)
    }

    /// One transaction: the records that are not there yet, and how far the partition has come. False when it was stopped.
    ///
    /// A producer that replaces our own need not wait for the cache again: had somebody else owned the partition meanwhile, the group
    /// would take no offsets of ours.
    fn transact(&mut self, batch: &[Claim]) -> Result<bool, Fault> {
        let (owner, options) = (self.owner, &self.owner.shared.options);
        let Some(last) = batch.last() else { return Ok(true) };
        let Choice { write, repeated, refused } = loop {
            let choice = choose(batch, |id| self.sight.has(id)).map_err(Fault::Broken)?;
            match self.sight.held(&owner.stop).map_err(Fault::Broken)? {
                Some(true) => break choice,
                Some(false) => {}
                None => return Ok(false),
            }
        };
        let mut offsets = TopicPartitionList::new();
        let next = offsets.add_partition_offset(&options.topic, owner.partition, Offset::Offset(last.offset + 1));
        next.map_err(|e| Fault::Broken(e.to_string()))?;
        let group = owner.group.group_metadata().ok_or_else(|| Fault::Aborted("no member of the group".to_owned()))?;
        let records: Vec<_> = write.iter().map(|(_, wanted)| &wanted.record).collect();
        self.turn = (self.turn + 1) % WRITERS;
        let writer = match self.writers[self.turn].take() {
            Some(writer) => writer,
            None => match owner.open(self.turn).map_err(Fault::Aborted)? {
                Some(writer) => writer,
                None => return Ok(false),
            },
        };
        let places = |fault| match fault {
            Fault::Refused(at, why) => Fault::Refused(write.get(at).map_or(0, |(place, _)| *place), why),
            fault => fault,
        };
        let written = writer.write(&records, &offsets, &group).map_err(places)?;
        self.writers[self.turn] = Some(writer);
        let counters = &owner.shared.counters;
        counters.transactions.fetch_add(1, Ordering::Relaxed);
        counters.copied.fetch_add(written.len() as u64, Ordering::Relaxed);
        counters.repeated.fetch_add(repeated, Ordering::Relaxed);
        counters.refused.fetch_add(refused.len() as u64, Ordering::Relaxed);
        for (offset, why) in refused {
            tracing::warn!(topic = options.topic, partition = owner.partition, offset, why, "a claim is skipped");
        }
        self.sight.add(write.iter().map(|(_, wanted)| wanted.id.clone()).zip(written));
        Ok(true)
    }
}

fn size(claim: &Claim) -> usize {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    claim.what.as_ref().map_or(0, |wanted| length(&wanted.record.key) + length(&wanted.record.value))
}
