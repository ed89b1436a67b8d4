//! A look at the topics: whether they exist and are the same as before, how they are configured, where they begin and end. A few
//! requests, however many partitions there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode as E;

use super::ask::{Configs, Described, OffsetOf, Offsets, Partition};
use super::identity;
use super::marks::{self, Life};
use super::native::{self, Ask, Code};
use super::resume::Reason;
use super::start::now_ms;
use super::supervise::{ANSWER_TIMEOUT, Plan, Reader, Supervisor};
use super::topic::{Slot, TopicFetch};
use crate::{FetchStart, PartitionState};

impl Supervisor {
    pub fn look(&self, plan: &mut Plan, stop: &AtomicBool) {
        let stopping = || stop.load(Ordering::Acquire);
        let wait = match self.describe(&stopping) {
            Ok(described) => {
                self.health.answered();
                plan.cluster.reset();
                let complete = self.settle(plan) && self.compare(&described, plan, &stopping);
                self.follow(plan, &stopping);
                if complete {
                    plan.missing.reset();
                    self.refresh
                } else {
                    plan.missing.next(fastrand::f64()).min(self.refresh)
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

    fn describe(&self, stopping: &dyn Fn() -> bool) -> Result<BTreeMap<String, Described>, Code> {
        let names: Vec<String> = self.wanted.read().keys().cloned().collect();
        if names.is_empty() {
            // Whether the cluster answers at all.
            native::metadata_unless(self.asker.client(), Ask::Known, ANSWER_TIMEOUT, stopping)?;
        }
        self.asking(stopping).topics(&names)
    }

    /// Whether the cached records are known to be this cluster's. Nothing is fetched before.
    fn settle(&self, plan: &mut Plan) -> bool {
        if !plan.settled {
            let id = self.asker.client().fetch_cluster_id(ANSWER_TIMEOUT);
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

    /// Whether all wanted topics are there, and are as they should be.
    fn compare(&self, described: &BTreeMap<String, Described>, plan: &mut Plan, stopping: &dyn Fn() -> bool) -> bool {
        let present = described.iter().filter(|(_, found)| !found.code.is_error());
        let present: Vec<String> = present.map(|(name, _)| name.clone()).collect();
        let configs = self.asking(stopping).configs(&present);
        let wanted: Vec<_> = self.wanted.read().values().cloned().collect();
        let (mut complete, now) = (true, Instant::now());
        for topic in wanted {
            let problem = match described.get(topic.name()) {
                // Asked for after the request was made.
                None => Some("not looked for yet".to_owned()),
                Some(found) if found.code.is(E::UnknownTopicOrPartition) => Some(self.gone(&topic, plan, now)),
                Some(found) if found.led.is_empty() => Some(found.code.text()),
                Some(found) => self.present(&topic, found, &configs, plan).err(),
            };
            complete &= problem.is_none();
            topic.state.lock().problem = problem;
        }
        complete
    }

    /// The topic does not exist, or no longer.
    fn gone(&self, topic: &Arc<TopicFetch>, plan: &mut Plan, now: Instant) -> String {
        let missed = {
            let mut state = topic.state.lock();
            state.missed.note(now);
            state.watched = true;
            state.missed
        };
        for slot in topic.slots.read().iter() {
            if plan.readers.remove(&(topic.handle.id(), slot.partition)).is_some() {
                self.stop(topic, slot, plan);
                slot.set(PartitionState::Waiting, None);
            }
        }
        // Nobody is to be served what is left of a deleted topic.
        if missed.is_deleted(now) && !topic.cache.partitions().is_empty() {
            tracing::warn!(topic = topic.name(), "the topic was deleted: what is cached of it is dropped");
            if let Err(problem) = self.drop_cached(topic, 0, plan) {
                return problem;
            }
        }
        "the topic does not exist: create it, or correct its name".to_owned()
    }

    /// The topic exists: every partition of it is to be read.
    fn present(
        &self,
        topic: &Arc<TopicFetch>,
        found: &Described,
        configs: &Result<Configs, Code>,
        plan: &mut Plan,
    ) -> Result<(), String> {
        self.ensure_life(topic, found, plan)?;
        configure(topic, configs)?;
        topic.cache.ensure_partitions(found.led.len()).map_err(|e| e.to_string())?;
        let logs = topic.cache.partitions();
        let (missed, known, watched, on_disk, paused) = {
            let mut state = topic.state.lock();
            let watched = state.watched || state.found_on_disk > 0;
            state.watched = true;
            (std::mem::take(&mut state.missed), state.marks.id.is_some(), watched, state.found_on_disk, state.paused)
        };
        let deleted = missed.is_often() && !known;
        let reason = if deleted { Reason::Diverged } else { Reason::Started };
        let mut slots = topic.slots.write();
        let mut to_start: Vec<Arc<Slot>> = if missed.is_any() { slots.clone() } else { Vec::new() };
        for (number, log) in logs.iter().enumerate().skip(slots.len()) {
            let Ok(partition) = i32::try_from(number) else { break };
            // A partition that appears while the topic is watched holds nothing that came before the watching began.
            let start = if watched && number >= on_disk { FetchStart::Earliest } else { topic.options.start };
            let slot = Arc::new(Slot::new(partition, start, Arc::clone(log)));
            slots.push(Arc::clone(&slot));
            to_start.push(slot);
        }
        slots.iter().zip(&found.led).for_each(|(slot, led)| slot.note_leader(*led));
        plan.unheard |= !to_start.is_empty();
        if paused {
            to_start.drain(..).for_each(|slot| slot.set(PartitionState::Paused, None));
        }
        let now = Instant::now();
        for slot in to_start {
            plan.readers.insert((topic.handle.id(), slot.partition), Reader::new(topic, slot, reason, now));
        }
        Ok(())
    }

    /// Drops what is cached if it is of another topic that had the same name: by its id, or because a topic never loses partitions.
    fn ensure_life(&self, topic: &Arc<TopicFetch>, found: &Described, plan: &mut Plan) -> Result<(), String> {
        let (life, purge) = {
            let state = topic.state.lock();
            (state.marks.life(found.id), state.purge)
        };
        let shrunk = found.led.len() < topic.cache.partitions().len();
        let another = matches!(life, Life::Another(_)) || shrunk;
        if another || purge {
            let why = if another { "the topic was re-created" } else { "the cache is purged" };
            tracing::warn!(topic = topic.name(), partitions = found.led.len(), "{why}: fetched again");
            let dropped = self.drop_cached(topic, found.led.len(), plan);
            let mut state = topic.state.lock();
            // What has been begun is tried until it is done, even if nobody waits for it any more.
            state.purge = purge && dropped.is_err();
            // A topic of the same life begins where it is configured to.
            state.watched &= another;
            state.purgers.drain(..).for_each(|purger| drop(purger.send(dropped.clone())));
            drop(state);
            dropped?;
        }
        match life {
            Life::Same => Ok(()),
            // After the drop: a crash between the two drops once more.
            Life::Adopted(id) | Life::Another(id) => topic.state.lock().marks.set_id(topic.cache.dir(), id),
        }
    }

    fn drop_cached(&self, topic: &Arc<TopicFetch>, partitions: usize, plan: &mut Plan) -> Result<(), String> {
        for slot in topic.slots.read().iter() {
            if plan.readers.remove(&(topic.handle.id(), slot.partition)).is_some() {
                self.stop(topic, slot, plan);
            }
            slot.set(PartitionState::Waiting, None);
        }
        self.confirm_stops(plan)?;
        topic.cache.drop_all(partitions).map_err(|e| e.to_string())?;
        topic.slots.write().clear();
        let mut state = topic.state.lock();
        state.found_on_disk = 0;
        state.marks.live_ms = None;
        Ok(())
    }

    /// Has partitions fetched again whose files hold what cannot be read: the cluster has it.
    fn mend(&self, plan: &mut Plan, now: Instant) {
        let damaged = |(_, r): &(&_, &Reader)| r.due.is_none() && r.slot.log.is_damaged();
        let ids: Vec<_> = plan.readers.iter().filter(damaged).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(reader) = plan.readers.get_mut(&id) else { continue };
            let (topic, slot) = (Arc::clone(&reader.topic), Arc::clone(&reader.slot));
            tracing::error!(topic = topic.name(), partition = slot.partition, "what is cached cannot be read: fetched again");
            reader.reason = Reason::Diverged;
            reader.fail("what is cached cannot be read: it is fetched again".to_owned(), now);
            self.stop(&topic, &slot, plan);
        }
    }

    /// Follows the beginnings of partitions that are read, and watches that what the cluster has comes.
    fn follow(&self, plan: &mut Plan, stopping: &dyn Fn() -> bool) {
        self.mend(plan, Instant::now());
        let read = || plan.readers.iter().filter(|(_, r)| r.due.is_none() && r.slot.is_led());
        let by_name: BTreeMap<Partition, _> =
            read().map(|(id, r)| ((r.topic.name().to_owned(), r.slot.partition), *id)).collect();
        let all = |of: OffsetOf| by_name.keys().map(|partition| (partition.clone(), of)).collect::<Vec<_>>();
        let asked = self.asking(stopping).offsets(&all(OffsetOf::Earliest), false).and_then(|firsts| {
            let ends = self.asking(stopping).offsets(&all(OffsetOf::Latest), self.committed)?;
            Ok((firsts, ends))
        });
        let (firsts, ends) = match asked {
            Ok(told) => told,
            Err(code) => return tracing::debug!(error = code.text(), "the offsets are not told"),
        };
        let now = Instant::now();
        let mut current: HashMap<*const TopicFetch, usize> = HashMap::new();
        for (name, id) in &by_name {
            let told = |offsets: &Offsets| offsets.get(name).and_then(|o| o.ok().flatten());
            let Some(reader) = plan.readers.get_mut(id) else { continue };
            if let Some(first) = told(&firsts) {
                move_start(reader, first);
            }
            let Some(end) = told(&ends) else { continue };
            reader.slot.note_end(end);
            // A busy topic may never be seen at its very end.
            if reader.slot.log.end_offset() >= end || reader.slot.is(PartitionState::Live) {
                *current.entry(Arc::as_ptr(&reader.topic)).or_insert(0) += 1;
            }
            let Some(still) = reader.progress.look(reader.slot.log.end_offset(), end, now) else { continue };
            let cached = reader.slot.log.end_offset();
            let problem = format!("no progress since {} s: at offset {cached} of {end}", still.as_secs());
            tracing::error!(topic = name.0, partition = name.1, problem, "the watchdog starts the partition again");
            reader.slot.count_stall();
            reader.reason = Reason::Started;
            reader.fail(problem, now);
            let (topic, slot) = (Arc::clone(&reader.topic), Arc::clone(&reader.slot));
            self.stop(&topic, &slot, plan);
        }
        for topic in self.wanted.read().values() {
            let partitions = topic.slots.read().len();
            if partitions > 0 && current.get(&Arc::as_ptr(topic)) == Some(&partitions) {
                let within_ms = topic.cache.policy().delete_retention_ms / 8;
                topic.state.lock().marks.set_live(topic.cache.dir(), now_ms(), within_ms);
            }
        }
    }
}

/// The cluster's log begins here now: what lies before was deleted there, by retention or on request.
pub fn move_start(reader: &Reader, first: i64) {
    let log = &reader.slot.log;
    if first > log.start_offset()
        && let Err(error) = log.move_start(first)
    {
        tracing::warn!(topic = reader.topic.name(), partition = reader.slot.partition, %error, "the start cannot be moved");
    }
}

/// Makes the cache keep what the topic's configuration says.
fn configure(topic: &TopicFetch, configs: &Result<Configs, Code>) -> Result<(), String> {
    let mut state = topic.state.lock();
    let told = match configs {
        Ok(told) => told.get(topic.name()),
        // What was told once holds; without that, records would be served that have expired.
        Err(_) if state.marks.config.is_some() => return Ok(()),
        // A cluster that cannot tell, and has nothing to say.
        Err(code) if code.is(E::UnsupportedFeature) || code.is(E::UnsupportedVersion) => return Ok(()),
        Err(code) => return Err(format!("its configuration is not told: {}", code.text())),
    };
    match told {
        Some(Ok(told)) => {
            if state.marks.config.as_ref() != Some(told) {
                topic.cache.set_policy(marks::policy(told));
                state.marks.set_config(topic.cache.dir(), told)?;
            }
        }
        Some(Err(code)) if state.marks.config.is_none() => {
            // Not allowed to ask, most likely, and then it stays so: the topic is served all the same.
            tracing::debug!(topic = topic.name(), error = code.text(), "the configuration is not told: everything is kept");
        }
        Some(Err(_)) | None => {}
    }
    Ok(())
}
