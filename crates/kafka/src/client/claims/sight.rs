//! What is in the target: its cache, once that has all that was there when a partition came to be owned, and what was written since
//! and the cache does not show yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use message_cache::{Clause, TopicCache};

use super::{Shared, Stop};
use crate::client::ask::{Asking, OffsetOf, Partition};
use crate::client::topic::TopicFetch;
use crate::client::{KafkaCluster, admin};
use crate::{PartitionState, Produced};

/// How long the cluster may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether the cache has got there.
const LOOK: Duration = Duration::from_millis(2);
/// After which it is said what is waited for.
const SLOW: Duration = Duration::from_secs(10);
/// The most records that were written and are not cached yet; then the cache is waited for.
const UNSEEN_MAX: usize = 20_000;

pub struct Sight<'s> {
    cluster: &'s KafkaCluster,
    shared: &'s Shared,
    partition: i32,
    target: Arc<TopicFetch>,
    /// Of the cache and of each of its partitions, before it was waited for: when one has moved, records were dropped.
    lives: (u64, Vec<u64>),
    unseen: HashMap<String, Produced>,
}

impl<'s> Sight<'s> {
    /// Waits until the cache has all that the target had when this was called, however it was written. Blocks until then, or until
    /// `stop`: then the answer is `None`.
    ///
    /// # Errors
    /// When the cluster does not tell where the target ends.
    pub fn gain(
        cluster: &'s KafkaCluster,
        shared: &'s Shared,
        partition: i32,
        target: &Arc<TopicFetch>,
        stop: &Stop,
    ) -> Result<Option<Self>, String> {
        let lives = lives(&target.cache);
        let mut sight = Self { cluster, shared, partition, target: Arc::clone(target), lives, unseen: HashMap::new() };
        Ok(sight.regain(stop)?.then_some(sight))
    }

    /// As [`Self::gain`]; false when it was stopped.
    fn regain(&mut self, stop: &Stop) -> Result<bool, String> {
        'anew: loop {
            self.lives = lives(&self.target.cache);
            let (ends, began) = (self.ends()?, Instant::now());
            while !self.has_reached(&ends) {
                if stop.is_set() {
                    return Ok(false);
                }
                if began.elapsed() > SLOW {
                    let name = self.target.name();
                    self.shared.note(
                        self.partition,
                        format!(
                            "the cache of topic {name} does not get to {ends:?}: it is not read, or somebody's transaction is open"
                        ),
                    );
                }
                if lives(&self.target.cache) != self.lives {
                    continue 'anew;
                }
                stop.wait(LOOK);
            }
            self.unseen.clear();
            return Ok(true);
        }
    }

    /// Whether there is a record of this id.
    ///
    /// # Errors
    /// When the cache is damaged.
    pub fn has(&self, id: &str) -> Result<bool, String> {
        if self.unseen.contains_key(id) {
            return Ok(true);
        }
        let header = (self.shared.options.id_header.clone(), Some(id.as_bytes().to_vec()));
        let clause = Clause { key: None, headers: vec![header] };
        for log in self.target.cache.partitions().iter() {
            if log.newest(&clause, false).map_err(|e| e.to_string())?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether what [`Self::has`] said since the last call still holds. If not, the cache has dropped records: it is waited for until it
    /// has them again, and `has` is to be asked again. `None`: stopped.
    pub fn held(&mut self, stop: &Stop) -> Result<Option<bool>, String> {
        if lives(&self.target.cache) == self.lives {
            return Ok(Some(true));
        }
        Ok(self.regain(stop)?.then_some(false))
    }

    /// Notes what was written and committed.
    pub fn add(&mut self, written: impl Iterator<Item = (String, Produced)>) {
        self.unseen.extend(written);
    }

    /// Forgets what the cache shows by now; waits for that if there is too much. False when it was stopped.
    pub fn settle(&mut self, stop: &Stop) -> Result<bool, String> {
        let cache = &self.target.cache;
        self.unseen.retain(|_, written| {
            let end = cache.partition(written.partition).map_or(0, |log| log.end_offset());
            written.offset.is_none_or(|offset| end <= offset)
        });
        // By then it has all of them.
        if self.unseen.len() > UNSEEN_MAX { self.regain(stop) } else { Ok(true) }
    }

    /// The high watermarks of the target: what a former owner has written lies below them.
    fn ends(&self) -> Result<Vec<i64>, String> {
        let (asker, name) = (&self.cluster.asker, self.target.name());
        let count = admin::find_topic(asker, name).map_err(|e| e.to_string())?.leaders.len();
        let name_of = |p: i32| -> Partition { (name.to_owned(), p) };
        let partitions: Vec<_> = (0..i32::try_from(count).unwrap_or(i32::MAX)).map(|p| (name_of(p), OffsetOf::Latest)).collect();
        let give_up = || self.cluster.reader_health.is_down();
        let asking = Asking { client: asker, timeout: ANSWER_TIMEOUT, give_up: &give_up };
        let offsets = asking.offsets(&partitions, false);
        let untold = |why: String| format!("the ends of topic {name} are not told: {why}");
        let mut offsets = offsets.map_err(|code| untold(code.text()))?;
        let told = |(partition, _): &(Partition, OffsetOf)| match offsets.remove(partition) {
            Some(Ok(Some(end))) => Ok(end),
            Some(Err(code)) => Err(untold(code.text())),
            Some(Ok(None)) | None => Err(untold("a partition has no leader".to_owned())),
        };
        partitions.iter().map(told).collect()
    }

    /// Only what is being read counts: before that, what is on disk may be of another topic of the same name.
    fn has_reached(&self, ends: &[i64]) -> bool {
        let slots = self.target.slots.read();
        let is_read = |n: usize, end: i64| {
            slots.get(n).is_some_and(|slot| {
                (slot.is(PartitionState::Live) || slot.is(PartitionState::CatchingUp)) && slot.log.end_offset() >= end
            })
        };
        ends.iter().enumerate().all(|(n, end)| is_read(n, *end))
    }
}

fn lives(cache: &TopicCache) -> (u64, Vec<u64>) {
    (cache.life(), cache.partitions().iter().map(|log| log.life()).collect())
}
