//! A topic cache: the partition logs of one topic.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::budget::Give;
use crate::demand::{Demand, InUse};
use crate::error::LogError;
use crate::files::Files;
use crate::log::{LogOptions, OnCorruption, PartitionLog};
use crate::policy::Policy;
use crate::shared::Shared;

/// A file that is there once the cache has held all that its cluster had.
const COMPLETE: &str = "complete";

/// The cached partitions of one topic, in `<dir>/<partition>/`.
pub struct TopicCache {
    name: String,
    dir: PathBuf,
    options: LogOptions,
    partitions: RwLock<Arc<Vec<Arc<PartitionLog>>>>,
    /// Held while the partitions change, which takes long; who only reads which there are does not wait for it.
    changing: Mutex<()>,
    /// As the options had it, until somebody says otherwise.
    durable: AtomicBool,
    complete: AtomicBool,
    life: AtomicU64,
    bounds: RwLock<Bounds>,
    demand: OnceLock<Arc<Demand>>,
    shared: Arc<Shared>,
}

/// How many bytes a topic may hold, and what of it may go to make room for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Most bytes of its segments, over all partitions.
    pub max_bytes: Option<u64>,
    /// Fetched when somebody asks: its oldest segments go before those of other topics.
    pub on_demand: bool,
}

/// Takes the mark away from the topic of a partition, for good, before records of it go.
pub(crate) fn unmark(partition_dir: &Path, files: &Files) -> Result<(), LogError> {
    let mark = partition_dir.with_file_name(COMPLETE);
    match files.remove(&mark) {
        Ok(()) => files.sync_parent(&mark).map_err(|e| LogError::io(&mark, e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(LogError::io(&mark, e)),
    }
}

/// Whether Kafka takes this name for a topic, and a directory can have it.
pub fn is_legal_topic_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=249).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(legal)
}

/// Whether a directory is a log that was dropped: `<partition>.dead-<eight hex digits>`.
fn is_dead(name: &str) -> bool {
    name.split_once(".dead-").is_some_and(|(partition, mark)| {
        partition.parse::<usize>().is_ok() && mark.len() == 8 && mark.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

impl TopicCache {
    /// Opens the partitions that are in `<parent>/<name>`, from 0 on without a gap; there may be none.
    pub fn open(parent: &Path, name: &str, options: &LogOptions) -> Result<Self, LogError> {
        Self::open_some(parent, name, options, None)
    }

    /// Opens this many partitions, whatever else lies in `<parent>/<name>`.
    pub fn open_exactly(parent: &Path, name: &str, options: &LogOptions, count: usize) -> Result<Self, LogError> {
        Self::open_some(parent, name, options, Some(count))
    }

    fn open_some(parent: &Path, name: &str, options: &LogOptions, count: Option<usize>) -> Result<Self, LogError> {
        if !is_legal_topic_name(name) {
            return Err(LogError::TopicName(name.to_owned()));
        }
        let dir = parent.join(name);
        let dir_has_mark = dir.join(COMPLETE).exists();
        let cache = Self {
            name: name.to_owned(),
            dir,
            options: options.clone(),
            partitions: RwLock::default(),
            changing: Mutex::default(),
            durable: AtomicBool::new(options.durable),
            complete: AtomicBool::new(dir_has_mark),
            life: AtomicU64::new(0),
            bounds: RwLock::default(),
            demand: OnceLock::new(),
            shared: Shared::new(Policy::default(), options.clock.clone()),
        };
        let on_disk = cache.count_on_disk()?;
        cache.ensure_partitions(count.unwrap_or(on_disk))?;
        if cache.partitions().iter().any(|log| log.has_lost_records()) && !options.read_only {
            cache.mark_incomplete()?;
        }
        Ok(cache)
    }

    /// How many partitions have a directory, from 0 on without a gap. Removes logs that a reset left behind.
    fn count_on_disk(&self) -> Result<usize, LogError> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(e) => return Err(LogError::io(&self.dir, e)),
        };
        let mut found = BTreeSet::new();
        for entry in entries {
            let path = entry.map_err(|e| LogError::io(&self.dir, e))?.path();
            let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
            if is_dead(name) && !self.options.read_only {
                self.options.files.remove_tree(&path).map_err(|e| LogError::io(&path, e))?;
            } else if let Ok(partition) = name.parse::<usize>()
                && path.is_dir()
            {
                found.insert(partition);
            }
        }
        Ok((0..).zip(found).take_while(|(n, partition)| n == partition).count())
    }

    /// Creates the partitions that are missing below `count`. They stay: Kafka never takes a partition away.
    pub fn ensure_partitions(&self, count: usize) -> Result<(), LogError> {
        let _changing = self.changing.lock();
        let partitions = self.partitions();
        if count <= partitions.len() {
            return Ok(());
        }
        let mut grown = Vec::clone(&partitions);
        let options = LogOptions { durable: self.durable.load(Ordering::Acquire), ..self.options.clone() };
        for n in grown.len()..count {
            let dir = self.dir.join(n.to_string());
            grown.push(Arc::new(PartitionLog::open(&dir, options.clone(), Arc::clone(&self.shared))?));
        }
        self.shared.set_partitions(&grown);
        *self.partitions.write() = Arc::new(grown);
        self.shared.ring();
        Ok(())
    }

    /// Whether the cache has ever caught up with its cluster, in this process or one before. Until then a key that is not
    /// found may be one that was not fetched yet; from then on the cache is served even while the cluster is away.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Says that every partition has been fetched up to the end that the cluster had.
    pub fn mark_complete(&self) -> Result<(), LogError> {
        if !self.is_complete() {
            let mark = self.dir.join(COMPLETE);
            self.options.files.create(&mark).map_err(|e| LogError::io(&mark, e))?;
            self.complete.store(true, Ordering::Release);
            self.shared.ring();
        }
        Ok(())
    }

    /// Says that the cache lacks records that it had, as before a refetch: it is served again when it has caught up.
    pub fn mark_incomplete(&self) -> Result<(), LogError> {
        if self.complete.swap(false, Ordering::AcqRel) {
            // For good, before the records go that it speaks of.
            unmark(&self.dir.join("0"), &self.options.files)?;
        }
        Ok(())
    }

    /// As [`PartitionLog::set_durable`], of each partition and of those that are still to come.
    ///
    /// # Errors
    /// Of the first partition that could not be made durable; the others are.
    pub fn set_durable(&self, durable: bool) -> Result<(), LogError> {
        self.durable.store(durable, Ordering::Release);
        let partitions = self.partitions();
        partitions.iter().map(|log| log.set_durable(durable)).fold(Ok(()), Result::and)
    }

    /// Drops every record, and the partitions from `count` on: what is cached is of a former life of the topic.
    pub fn drop_all(&self, count: usize) -> Result<(), LogError> {
        self.mark_incomplete()?;
        let _changing = self.changing.lock();
        // A log is dropped when nobody appends to it, and who appends may be looking at the topic.
        let partitions = self.partitions();
        self.life.fetch_add(1, Ordering::AcqRel);
        let drop_one = |(n, log): (usize, &Arc<PartitionLog>)| if n < count { log.clear() } else { log.retire() };
        partitions.iter().enumerate().try_for_each(drop_one)?;
        for n in (count..partitions.len()).rev() {
            let dir = self.dir.join(n.to_string());
            self.options.files.remove_tree(&dir).map_err(|e| LogError::io(&dir, e))?;
        }
        if count < partitions.len() {
            self.options.files.sync_dir(&self.dir).map_err(|e| LogError::io(&self.dir, e))?;
        }
        let kept = partitions.iter().take(count).cloned().collect();
        *self.partitions.write() = Arc::new(kept);
        self.shared.ring();
        Ok(())
    }

    /// Counts how often the topic turned out to be another one of the same name since it was opened: a reader that finds it moved
    /// begins anew.
    pub fn life(&self) -> u64 {
        self.life.load(Ordering::Acquire)
    }

    /// What is kept from now on, as the topic's configuration says. What is on disk follows with the next housekeeping.
    pub fn set_policy(&self, policy: Policy) {
        if self.shared.set_policy(policy) {
            self.shared.ring();
        }
    }

    pub fn set_bounds(&self, bounds: Bounds) {
        *self.bounds.write() = bounds;
    }

    pub fn bounds(&self) -> Bounds {
        *self.bounds.read()
    }

    /// Whether appends are refused, because a bound on bytes is reached and nothing may go.
    pub fn is_full(&self) -> bool {
        self.shared.is_full.load(Ordering::Relaxed)
    }

    pub(crate) fn set_full(&self, is_full: bool) {
        if self.shared.is_full.swap(is_full, Ordering::Relaxed) != is_full {
            let name = &self.name;
            if is_full {
                tracing::error!(
                    topic = name,
                    "its bound on bytes is reached and nothing may make room: it takes no more records"
                );
            } else {
                tracing::info!(topic = name, "there is room again");
            }
        }
    }

    /// What of its bytes may go to make room.
    pub(crate) fn give(&self) -> Give {
        match self.options.on_corruption {
            // The only copy.
            OnCorruption::Keep => Give::Nothing,
            // Without its oldest records it would lack keys that its cluster has.
            OnCorruption::Refetch if self.policy().compact => Give::Nothing,
            OnCorruption::Refetch if self.bounds().on_demand => Give::First,
            OnCorruption::Refetch => Give::Then,
        }
    }

    pub fn policy(&self) -> Arc<Policy> {
        self.shared.policy()
    }

    /// From now on the cache is filled only while it is used, and `wake` says when that is. To be called once.
    pub fn fill_on_demand(&self, wake: Box<dyn Fn() + Send + Sync>) -> &Arc<Demand> {
        self.demand.get_or_init(|| Demand::new(wake))
    }

    /// Says that the cache is used until what is returned is dropped.
    pub fn enter(&self) -> InUse {
        self.demand.get().map_or(InUse(None), Demand::enter)
    }

    /// Whether nobody has kept the cache current: it is to be waited for, not served.
    pub fn is_asleep(&self) -> bool {
        self.demand.get().is_some_and(|demand| demand.is_asleep())
    }

    /// Nobody keeps the cache current from now on, unless it is in use: then this is false.
    pub fn put_to_sleep(&self) -> bool {
        match self.demand.get().map(|demand| demand.sleep()) {
            Some(Ok(())) => true,
            Some(Err(true)) => {
                self.mark_awake();
                false
            }
            Some(Err(false)) | None => false,
        }
    }

    /// The cache has reached the end that its cluster told since it was woken.
    pub fn mark_awake(&self) {
        if self.demand.get().is_some_and(|demand| demand.awake()) {
            self.shared.ring();
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// By partition number.
    pub fn partitions(&self) -> Arc<Vec<Arc<PartitionLog>>> {
        Arc::clone(&self.partitions.read())
    }

    pub fn partition(&self, number: i32) -> Option<Arc<PartitionLog>> {
        self.partitions.read().get(usize::try_from(number).ok()?).cloned()
    }

    /// Tells of every change of the topic: records that became visible, new partitions, resets. Subscribe first, then
    /// look, then wait: so no change is missed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.subscribe()
    }
}
