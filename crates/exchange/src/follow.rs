//! A topic as a stream: what is cached, then what comes; and, where the topic says so, what only the cluster still has.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Duration;

use kafka::{Cluster, ConsumedRecord};
use message_cache::{Event, Filter, From, ReadOptions, Reader, TopicCache};
use tokio::time::Instant;

use crate::fetch::FetchError;
use crate::topic::{Topic, Used};

/// Records of a range that are read from the cluster before they are given on.
const READ_THROUGH_RECORDS: usize = 512;
/// Bytes of keys and values of them, more or less: the last record may go over.
const READ_THROUGH_BYTES: usize = 1 << 20;
/// How long a cluster that did not give a range is left alone.
pub const READ_THROUGH_RETRY: Duration = Duration::from_secs(1);

/// What becomes of offsets that the cache does not hold and the cluster may (`cache.topics.NAME.history`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum History {
    /// The reader is told of the gap.
    #[default]
    Gap,
    /// They are read from the cluster, once for each reader that asks.
    ReadThrough,
}

pub struct FollowOptions {
    pub read: ReadOptions,
    /// How long to wait for the cache to be filled for the first time.
    pub patience: Duration,
}

/// What a follower meets, in the order of each partition.
#[derive(Debug)]
pub enum Followed {
    /// In the cache. A gap is gone from the cluster too, as far as it was asked.
    Met(Event),
    /// Read from the cluster, of offsets before those that are cached.
    ReadThrough(ConsumedRecord),
    /// The cluster does not give what is wanted; it is asked again after [`READ_THROUGH_RETRY`].
    Unavailable { partition: i32, offsets: Range<i64>, reason: String },
}

/// Reads a topic on and on. Keeps it current while it lives.
pub struct Follow<'t> {
    topic: &'t Topic,
    filter: Filter,
    conflate: Option<bool>,
    reader: Reader,
    used: Used<'t>,
    /// What a range lacked, to be read before anything else of its partition.
    missing: BTreeMap<i32, Range<i64>>,
    /// Events that wait for it.
    held: VecDeque<Event>,
    /// When the cluster may be asked again.
    retry_at: Option<Instant>,
}

impl<'t> Follow<'t> {
    /// # Errors
    /// When the topic cannot be cached, or is not filled in time.
    pub async fn start(topic: &'t Topic, options: FollowOptions) -> Result<Self, FetchError> {
        let used = topic.caught_up(None, options.patience).await?;
        let FollowOptions { read: ReadOptions { from, filter, conflate }, .. } = options;
        let from = match from {
            // Where the cluster begins, which is before the cache does.
            From::Earliest if topic.history() == History::ReadThrough => {
                let partitions = 0..used.cache.partitions().len() as i32;
                From::Positions(partitions.map(|p| (p, 0)).collect())
            }
            from => from,
        };
        let reader = Reader::new(Arc::clone(used.cache), ReadOptions { from, filter: filter.clone(), conflate });
        let (missing, held) = Default::default();
        Ok(Self { topic, filter, conflate, reader, used, missing, held, retry_at: None })
    }

    /// The next events, at least one and `max` records or a few more; waits for them.
    pub async fn next(&mut self, max: usize, out: &mut Vec<Followed>) {
        while out.is_empty() {
            if self.missing.is_empty() && self.held.is_empty() {
                let mut events = Vec::new();
                self.reader.next(max, &mut events).await;
                self.held = events.into();
            }
            while self.missing.is_empty()
                && let Some(event) = self.held.pop_front()
            {
                self.note(event, out);
            }
            if let Some((partition, offsets)) = self.missing.first_key_value().map(|(p, o)| (*p, o.clone())) {
                self.read_through(partition, offsets, out).await;
            }
        }
    }

    fn note(&mut self, event: Event, out: &mut Vec<Followed>) {
        match event {
            Event::Gap { partition, offsets } if self.topic.history() == History::ReadThrough => {
                self.missing.insert(partition, offsets);
            }
            event => out.push(Followed::Met(event)),
        }
    }

    /// Reads a piece of a range from the cluster; what is left of it is kept for the next, all of it if this is broken off.
    async fn read_through(&mut self, partition: i32, offsets: Range<i64>, out: &mut Vec<Followed>) {
        if let Some(at) = self.retry_at {
            tokio::time::sleep_until(at).await;
            self.retry_at = None;
        }
        let (cluster, name) = (self.topic.cluster().clone(), self.topic.name().to_owned());
        let wanted = offsets.clone();
        let read = tokio::task::spawn_blocking(move || read_piece(&cluster, &name, partition, wanted)).await;
        match read.unwrap_or_else(|e| Err(e.to_string())) {
            Err(reason) => {
                self.retry_at = Some(Instant::now() + READ_THROUGH_RETRY);
                out.push(Followed::Unavailable { partition, offsets, reason });
            }
            Ok(Piece { records, next }) => {
                // The cluster's own start lies behind what was asked for.
                if let Some(first) = records.first().map(|r| r.offset).or(next.is_none().then_some(offsets.end))
                    && first > offsets.start
                    && !self.is_compacted()
                {
                    out.push(Followed::Met(Event::Gap { partition, offsets: offsets.start..first }));
                }
                out.extend(records.into_iter().filter(|r| self.wants(r)).map(Followed::ReadThrough));
                match next {
                    Some(next) => drop(self.missing.insert(partition, next..offsets.end)),
                    None => drop(self.missing.remove(&partition)),
                }
            }
        }
    }

    fn is_compacted(&self) -> bool {
        self.used.cache.policy().compact
    }

    fn wants(&self, record: &ConsumedRecord) -> bool {
        let headers: Vec<_> = record.headers.iter().map(|(n, v)| (n.as_str(), v.as_deref())).collect();
        let conflate = self.conflate.unwrap_or_else(|| self.is_compacted());
        let is_replaced = conflate && record.key.as_ref().is_some_and(|key| is_cached(self.used.cache, record.partition, key));
        !is_replaced && self.filter.matches_parts(record.key.as_deref(), &headers)
    }

    /// The next offset by partition: what [`From::Positions`] takes. What is held back counts as not read.
    pub fn positions(&self) -> BTreeMap<i32, i64> {
        let mut positions = self.reader.positions();
        for event in &self.held {
            if let Event::Record { partition, record } = event {
                let at = positions.entry(*partition).or_insert(i64::MAX);
                *at = (*at).min(record.offset());
            }
        }
        positions.extend(self.missing.iter().map(|(partition, offsets)| (*partition, offsets.start)));
        positions
    }
}

/// Whether a newer record of the key is cached than any that is not.
fn is_cached(cache: &TopicCache, partition: i32, key: &[u8]) -> bool {
    cache.partition(partition).is_some_and(|log| log.latest(key).is_ok_and(|found| found.is_some()))
}

struct Piece {
    records: Vec<ConsumedRecord>,
    /// Where to go on; `None` at the end of the range.
    next: Option<i64>,
}

fn read_piece(cluster: &Cluster, topic: &str, partition: i32, offsets: Range<i64>) -> Result<Piece, String> {
    let Cluster::Kafka(kafka) = cluster else { return Ok(Piece { records: Vec::new(), next: None }) };
    let mut piece = Piece { records: Vec::new(), next: None };
    let mut bytes = 0;
    let mut each = |record: ConsumedRecord| {
        bytes += record.key.as_ref().map_or(0, |k| k.len()) + record.value.as_ref().map_or(0, |v| v.len());
        let next = record.offset + 1;
        piece.records.push(record);
        if piece.records.len() == READ_THROUGH_RECORDS || bytes >= READ_THROUGH_BYTES {
            piece.next = Some(next).filter(|next| *next < offsets.end);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    kafka.read_range(topic, partition, offsets.start, offsets.end, &mut each).map_err(|e| e.to_string())?;
    Ok(piece)
}
