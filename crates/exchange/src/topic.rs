//! A topic as the routes of this process share it: its cache, and what this process has acknowledged.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kafka::{AdminError, Cluster, Condition, FetchOptions, ProduceError, ProduceRecord, Produced};
use message_cache::{InUse, TopicCache};
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::cursor::Cursor;
use crate::fetch::FetchError;
use crate::follow::History;

/// One topic of one cluster.
pub struct Topic {
    cluster: Cluster,
    name: String,
    options: FetchOptions,
    history: History,
    cache: OnceLock<Arc<TopicCache>>,
    /// Per partition, the offset behind the last record that this process told a client was written, and in which lives of log and
    /// topic that was.
    acknowledged: RwLock<Vec<(i64, Lives)>>,
}

impl Topic {
    pub fn new(cluster: Cluster, name: &str, options: impl Into<FetchOptions>) -> Self {
        let (name, options) = (name.to_owned(), options.into());
        Self { cluster, name, options, history: History::default(), cache: OnceLock::new(), acknowledged: RwLock::default() }
    }

    /// The same, with what it does about offsets that are not cached.
    pub fn with_history(self, history: History) -> Self {
        Self { history, ..self }
    }

    pub fn history(&self) -> History {
        self.history
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn is_of(&self, cluster: &Cluster) -> bool {
        match (&self.cluster, cluster) {
            (Cluster::Kafka(a), Cluster::Kafka(b)) => Arc::ptr_eq(a, b),
            (Cluster::Embedded(a), Cluster::Embedded(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Whether other gateways may use the topic, too.
    pub fn is_of_kafka(&self) -> bool {
        matches!(self.cluster, Cluster::Kafka(_))
    }

    /// The cache, if it is in use.
    pub fn opened(&self) -> Option<&Arc<TopicCache>> {
        self.cache.get()
    }

    /// The cache; its fetchers start with the first call.
    pub fn cache(&self) -> Result<&Arc<TopicCache>, AdminError> {
        match self.cache.get() {
            Some(cache) => Ok(cache),
            None => {
                let cache = self.cluster.cached(&self.name, self.options)?;
                Ok(self.cache.get_or_init(|| cache))
            }
        }
    }

    /// Remembers that a client was told of a record: whoever fetches from now on must see it.
    fn acknowledge(&self, partition: i32, offset: i64) {
        // The embedded log shows a record before it acknowledges it.
        if matches!(self.cluster, Cluster::Embedded(_)) {
            return;
        }
        let Ok(partition) = usize::try_from(partition) else { return };
        let life = self.opened().map_or(Lives::default(), |cache| lives(cache, partition));
        let mut acknowledged = self.acknowledged.write();
        if acknowledged.len() <= partition {
            acknowledged.resize(partition + 1, (0, life));
        }
        let (next, of) = &mut acknowledged[partition];
        *next = if *of == life { (*next).max(offset + 1) } else { offset + 1 };
        *of = life;
    }

    /// The cache, once it has what this process acknowledged and what the client's cursor says.
    pub(crate) async fn caught_up(&self, cursor: Option<&Cursor>, patience: Duration) -> Result<Used<'_>, FetchError> {
        let cache = self.cache().map_err(|e| FetchError::Unavailable(e.to_string()))?;
        // Before the look, so that the cache cannot fall asleep behind it.
        let used = Used { cache, _in_use: cache.enter() };
        if self.lag(cache, cursor).is_some() {
            // Boxed: who does not wait, which is nearly everyone, has no room for it.
            Box::pin(self.catch_up(cache, cursor, patience)).await?;
        }
        Ok(used)
    }

    async fn catch_up(&self, cache: &TopicCache, cursor: Option<&Cursor>, patience: Duration) -> Result<(), FetchError> {
        let mut changes = cache.changes();
        let deadline = Instant::now() + patience;
        while let Some(lag) = self.lag(cache, cursor) {
            if !matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                return Err(lag);
            }
        }
        Ok(())
    }

    /// Writes a record; where there is a condition, only if it holds for the topic as it is then. On Kafka another may write
    /// between the look and the record.
    pub(crate) async fn produce(&self, record: ProduceRecord, condition: Option<Condition>) -> Result<Produced, ProduceError> {
        let produced = match condition {
            Some(condition) => self.cluster.produce_if(record, condition).await?,
            None => self.cluster.produce(record).await?,
        };
        if let Some(offset) = produced.offset {
            self.acknowledge(produced.partition, offset);
        }
        Ok(produced)
    }

    /// Waits until the cache holds all that the cluster had when this was called, also what transactions have not committed by then.
    /// The embedded log is its own cache.
    pub(crate) async fn at_end(&self, cache: &TopicCache, patience: Duration) -> Result<(), FetchError> {
        let Cluster::Kafka(kafka) = &self.cluster else { return Ok(()) };
        let deadline = Instant::now() + patience;
        let mut changes = cache.changes();
        let behind = || FetchError::Behind { topic: self.name.clone() };
        let before: Vec<i64> = cache.partitions().iter().map(|log| log.end_offset()).collect();
        let ends = match tokio::time::timeout_at(deadline, kafka.ends_uncommitted(&self.name)).await {
            Ok(ends) => ends.map_err(|e| FetchError::Unavailable(e.to_string()))?,
            Err(_) => return Err(FetchError::Unavailable("the cluster does not tell where the topic ends".to_owned())),
        };
        // What is cached is of another topic of this name, or of records that the cluster has lost: that has to be found out first.
        if before.len() > ends.len() || before.iter().zip(&ends).any(|(before, end)| before > end) {
            kafka.refresh();
            return Err(behind());
        }
        let is_there = || {
            let partitions = cache.partitions();
            partitions.len() >= ends.len() && partitions.iter().zip(&ends).all(|(log, end)| log.end_offset() >= *end)
        };
        while !is_there() {
            if !matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                return Err(behind());
            }
        }
        Ok(())
    }

    /// What the cache lacks, if anything.
    fn lag(&self, cache: &TopicCache, cursor: Option<&Cursor>) -> Option<FetchError> {
        if !cache.is_complete() || cache.is_asleep() {
            return Some(FetchError::Filling { topic: self.name.clone() });
        }
        let partitions = cache.partitions();
        let holds = |partition: usize, next: i64| partitions.get(partition).is_some_and(|log| log.end_offset() >= next);
        // What was acknowledged in a former life of the topic is gone.
        let is_past = |partition: usize, life: Lives| match partitions.get(partition) {
            Some(log) => log.life() != life.log,
            // A partition that is not known yet, or that the topic has no more.
            None => cache.life() != life.topic,
        };
        let acknowledged = self.acknowledged.read();
        let own = acknowledged.iter().enumerate().all(|(p, &(next, life))| next == 0 || is_past(p, life) || holds(p, next));
        let seen = cursor.is_none_or(|c| c.positions().iter().all(|&(p, next)| holds(p as usize, next)));
        (!own || !seen).then(|| FetchError::Behind { topic: self.name.clone() })
    }
}

/// How often a partition log, and its whole topic, began anew.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Lives {
    log: u64,
    topic: u64,
}

fn lives(cache: &TopicCache, partition: usize) -> Lives {
    Lives { log: cache.partitions().get(partition).map_or(0, |log| log.life()), topic: cache.life() }
}

/// A cache that is kept current for as long as this lives, also if the topic is only read while it is used.
pub(crate) struct Used<'t> {
    pub cache: &'t Arc<TopicCache>,
    _in_use: InUse,
}

/// The topics that this process caches, by cluster and name.
#[derive(Default)]
pub struct Topics {
    by_name: HashMap<(String, String), Arc<Topic>>,
}

impl Topics {
    pub fn insert(&mut self, cluster: &str, topic: Arc<Topic>) {
        self.by_name.insert((cluster.to_owned(), topic.name().to_owned()), topic);
    }

    pub fn get(&self, cluster: &str, topic: &str) -> Option<&Arc<Topic>> {
        // The standard map cannot look a pair up by borrowed parts; routes resolve a fixed topic once, at start.
        self.by_name.get(&(cluster.to_owned(), topic.to_owned()))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.by_name.values()
    }
}
