//! A topic that is open: its logs, its queues, and what its configuration means for a record.

use std::sync::Arc;

use message_cache::{LogOptions, OnCorruption, PartitionLog, Policy, TopicCache};

use super::flush::Flush;
use super::meta::Meta;
use super::queue::Appender;
use super::times::Times;
use super::{EmbeddedOptions, topic_config};
use crate::{ProduceError, ProduceRecord, murmur2_partition};

pub struct Topic {
    pub meta: Meta,
    pub cache: Arc<TopicCache>,
    pub appenders: Vec<Arc<Appender>>,
    pub max_message_bytes: u64,
    pub times: Times,
    /// Whether a record is fsynced before it is acknowledged, and before it is seen.
    pub strict: bool,
    compact: bool,
}

impl Topic {
    pub fn open(options: &EmbeddedOptions, name: &str, meta: Meta) -> Result<Self, String> {
        let log = LogOptions {
            // The topic's own is in its policy, which can be altered.
            segment_bytes: options.segment_bytes,
            durable: is_strict(options, &meta),
            on_corruption: OnCorruption::Keep,
            files: options.files.clone(),
            ..LogOptions::default()
        };
        meta.find_partitions(&options.directory.join(name))?;
        let cache = TopicCache::open_exactly(&options.directory, name, &log, meta.partitions as usize);
        let cache = cache.map_err(|e| e.to_string())?;
        Self::serve(options, meta, Arc::new(cache), &[])
    }

    /// The topic as `meta` has it, on logs that are open. `appenders` are those of its first partitions, if they are in use.
    pub fn serve(
        options: &EmbeddedOptions,
        meta: Meta,
        cache: Arc<TopicCache>,
        appenders: &[Arc<Appender>],
    ) -> Result<Self, String> {
        let strict = is_strict(options, &meta);
        cache.set_durable(strict).map_err(|e| e.to_string())?;
        cache.ensure_partitions(meta.partitions as usize).map_err(|e| e.to_string())?;
        cache.mark_complete().map_err(|e| e.to_string())?;
        let config = topic_config::effective(&meta.config);
        let mut policy = Policy::from_properties(&config);
        policy.segment_bytes = policy.segment_bytes.map(|bytes| bytes.min(options.segment_bytes));
        let compact = policy.compact;
        cache.set_policy(policy);
        let flush = Flush::of(&meta.config, options.acks);
        appenders.iter().for_each(|appender| appender.set_flush(flush));
        let mut appenders = appenders.to_vec();
        let new = |log: &Arc<PartitionLog>| Arc::new(Appender::new(Arc::clone(log), flush));
        appenders.extend(cache.partitions().iter().skip(appenders.len()).map(new));
        Ok(Self {
            appenders,
            max_message_bytes: number(&meta, "max.message.bytes"),
            times: Times::of(&config),
            strict,
            compact,
            cache,
            meta,
        })
    }

    /// Where a record goes, if the topic takes it.
    pub fn choose(&self, record: &ProduceRecord) -> Result<(i32, Arc<Appender>), ProduceError> {
        // Kafka: INVALID_RECORD. Without a key nothing could ever replace it.
        if self.compact && record.key.is_none() {
            let topic = &record.topic;
            return Err(ProduceError::Invalid {
                reason: format!(
                    "{topic} is compacted, so that a record needs a key: give it one, or take compact out of cleanup.policy"
                ),
            });
        }
        let count = self.appenders.len() as i32;
        let partition = match (record.partition, &record.key) {
            (Some(p), _) => p,
            (None, Some(key)) => murmur2_partition(key, count),
            (None, None) => fastrand::i32(0..count.max(1)),
        };
        let appender = usize::try_from(partition).ok().and_then(|p| self.appenders.get(p));
        match appender {
            Some(a) => Ok((partition, Arc::clone(a))),
            None => Err(ProduceError::UnknownPartition { topic: record.topic.clone(), partition }),
        }
    }
}

/// Whether the topic's configuration asks for an fsync before each acknowledgement.
pub fn is_strict(options: &EmbeddedOptions, meta: &Meta) -> bool {
    Flush::of(&meta.config, options.acks).is_strict(options.acks)
}

fn number(meta: &Meta, property: &str) -> u64 {
    meta.config.get(property).and_then(|v| v.trim().parse().ok()).unwrap_or(u64::MAX)
}
