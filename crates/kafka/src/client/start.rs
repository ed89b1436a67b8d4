//! Starting partitions: all that are due in one go, because each question to the cluster costs a round trip.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::consumer::Consumer;

use super::ask::{OffsetOf, Offsets, Partition};
use super::fetch::Order;
use super::look::move_start;
use super::native::{self, Ask, Code, TopicId};
use super::resume::{Before, Resume, Told};
use super::supervise::{ANSWER_TIMEOUT, Plan, Reader, Supervisor};
use super::watchdog::Progress;
use crate::FetchStart;

/// What is due so soon is started with what is due: tries after a fault are spread, and each costs its questions.
const TOGETHER: Duration = Duration::from_millis(100);

/// The offsets that a start needs, of many partitions.
struct Answers {
    first: Offsets,
    end: Offsets,
    since: Offsets,
}

impl Supervisor {
    /// Starts what is due.
    pub fn start_due(&self, plan: &mut Plan, stop: &AtomicBool) {
        let stopping = || stop.load(Ordering::Acquire) || !self.health.is_reached();
        let now = Instant::now();
        let due: Vec<(TopicId, i32)> =
            plan.readers.iter().filter(|(_, r)| r.due.is_some_and(|at| at <= now + TOGETHER)).map(|(id, _)| *id).collect();
        if due.is_empty() || stopping() {
            return;
        }
        if std::mem::take(&mut plan.unheard) {
            // Else librdkafka would look for new partitions at its own pace. That it fails is told by the fetch.
            let _ = native::metadata_unless(self.reader.client(), Ask::Known, ANSWER_TIMEOUT, stopping);
        }
        let answers = self.confirm_stops(plan).and_then(|()| self.ask_offsets(plan, &due, &stopping));
        for id in due {
            let Some(reader) = plan.readers.get_mut(&id) else { continue };
            let started = match &answers {
                Ok(_) if !reader.slot.is_led() => Err("the partition has no leader: see whether its brokers are up".to_owned()),
                Ok(answers) => self.start(reader, answers),
                Err(problem) => Err(problem.clone()),
            };
            match started {
                Ok(()) => {
                    let now = Instant::now();
                    (reader.due, reader.started) = (None, now);
                    reader.progress = Progress::new(reader.slot.log.end_offset(), now);
                }
                Err(problem) => reader.fail(problem, Instant::now()),
            }
        }
    }

    fn ask_offsets(&self, plan: &Plan, due: &[(TopicId, i32)], stopping: &dyn Fn() -> bool) -> Result<Answers, String> {
        let refused = |code: Code| format!("the offsets are not told: {}", code.text());
        let readers = || due.iter().filter_map(|id| plan.readers.get(id)).filter(|r| r.slot.is_led());
        let all = |of: OffsetOf| readers().map(|r| (name(r), of)).collect::<Vec<_>>();
        let now_ms = now_ms();
        let back = readers().filter(|r| r.slot.log.is_fresh()).filter_map(|r| match r.slot.start {
            FetchStart::Back(back) => {
                let back_ms = i64::try_from(back.as_millis()).unwrap_or(i64::MAX);
                Some((name(r), OffsetOf::Time(now_ms.saturating_sub(back_ms))))
            }
            FetchStart::Earliest | FetchStart::Latest => None,
        });
        let back: Vec<_> = back.collect();
        let asking = self.asking(stopping);
        Ok(Answers {
            first: asking.offsets(&all(OffsetOf::Earliest), false).map_err(refused)?,
            end: asking.offsets(&all(OffsetOf::Latest), self.committed).map_err(refused)?,
            since: asking.offsets(&back, self.committed).map_err(refused)?,
        })
    }

    /// Makes the log fit what the cluster has, and orders it to be read.
    fn start(&self, reader: &Reader, answers: &Answers) -> Result<(), String> {
        let (topic, slot, log) = (&reader.topic, &reader.slot, &reader.slot.log);
        let partition = name(reader);
        let told = |offsets: &Offsets| match offsets.get(&partition) {
            Some(Ok(offset)) => Ok(*offset),
            Some(Err(code)) => Err(format!("the offsets are not told: {}", code.text())),
            None => Ok(None),
        };
        let missing = || "the offsets are not told".to_owned();
        let told = Told {
            first: told(&answers.first)?.ok_or_else(missing)?,
            end: told(&answers.end)?.ok_or_else(missing)?,
            since: told(&answers.since)?,
        };
        let now_ms = now_ms();
        let fresh = log.is_fresh();
        let stale = {
            let mut state = topic.state.lock();
            // What is fetched from now on is current as of now.
            if fresh && state.marks.live_ms.is_none() {
                state.marks.set_live(topic.cache.dir(), now_ms, 0);
            }
            !fresh && state.marks.is_stale(&topic.cache.policy(), slot.begun_ms.load(Ordering::Relaxed), now_ms)
        };
        let before = Before { fresh, cached_end: log.end_offset(), stale, reason: reader.reason };
        let (name, partition, cached) = (topic.name(), slot.partition, before.cached_end);
        match before.decide(slot.start, told) {
            Resume::Continue => {}
            // So it is already; an empty segment for each of many empty partitions would cost more than it tells.
            Resume::Begin(0) if slot.start == FetchStart::Earliest => {}
            Resume::Begin(offset) => log.reset(offset).map_err(|e| e.to_string())?,
            Resume::Skip(offset) => {
                tracing::warn!(
                    topic = name,
                    partition,
                    cached,
                    offset,
                    "the cluster has deleted records before they were cached"
                );
                // Readers are told of the gap.
                log.move_start(offset).map_err(|e| e.to_string())?;
            }
            Resume::Refetch(offset) => {
                tracing::warn!(
                    topic = name,
                    partition,
                    cached,
                    ?told,
                    stale,
                    "what is cached is not what the cluster has, or is damaged: fetched again"
                );
                // Until it has caught up again, nobody may take what is there for all.
                topic.cache.mark_incomplete().map_err(|e| e.to_string())?;
                log.reset(offset).map_err(|e| e.to_string())?;
                slot.begun_ms.store(now_ms, Ordering::Relaxed);
            }
        }
        move_start(reader, told.first);
        // One record is read twice, to see that it is still the same: a new leader may lack what was cached.
        let last = log.last().map(|(offset, _)| offset).filter(|offset| *offset >= told.first);
        slot.read_from.store(last.unwrap_or(log.end_offset()), Ordering::Relaxed);
        slot.aim(told.end);
        slot.begin();
        // Ends when the fetcher does, and then nothing is to be ordered.
        let _ = self.orders.send(Order::Start(Arc::clone(topic), Arc::clone(slot)));
        Ok(())
    }
}

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

fn name(reader: &Reader) -> Partition {
    (reader.topic.name().to_owned(), reader.slot.partition)
}
