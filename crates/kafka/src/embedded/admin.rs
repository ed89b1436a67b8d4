//! Topics created, altered, deleted, described. What is changed on disk is changed on a thread that may block, one change at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use message_cache::{LogError, PartitionLog, is_legal_topic_name};

use super::meta::{self, Meta};
use super::topic::{Topic, is_strict};
use super::{EmbeddedCluster, PARTITIONS_MAX, now_ms, topic_config};
use crate::{AdminError, PartitionDescription, TopicDescription, TopicSpec};

/// Stands for the end of a partition in [`EmbeddedCluster::delete_records`] (Kafka: `DeleteRecordsRequest.HIGH_WATERMARK`).
const END: i64 = -1;

impl EmbeddedCluster {
    /// # Errors
    /// [`AdminError::TopicExists`], or what is wrong with the topic.
    pub async fn create_topic(self: &Arc<Self>, spec: &TopicSpec) -> Result<(), AdminError> {
        let spec = spec.clone();
        self.change(move |cluster| cluster.create(&spec)).await
    }

    /// Sets properties, an empty value back to the default, and adds partitions up to `partitions`. All of it or nothing; in force
    /// for the next record.
    ///
    /// # Errors
    /// What cannot be set, or [`AdminError::UnknownTopic`].
    pub async fn alter_topic(
        self: &Arc<Self>,
        name: &str,
        set: BTreeMap<String, String>,
        partitions: Option<i32>,
    ) -> Result<(), AdminError> {
        let name = name.to_owned();
        self.change(move |cluster| cluster.alter(&name, set, partitions)).await
    }

    /// Removes a topic with all its records, also one that cannot be opened. Readers end.
    ///
    /// # Errors
    /// [`AdminError::UnknownTopic`], or why it cannot be removed.
    pub async fn delete_topic(self: &Arc<Self>, name: &str) -> Result<(), AdminError> {
        let name = name.to_owned();
        self.change(move |cluster| cluster.delete(&name)).await
    }

    /// Removes the records of partitions below an offset; -1 stands for the end. (KIP-107)
    ///
    /// # Errors
    /// When a partition is missing, an offset lies beyond the end, or the topic is only compacted; nothing is removed then.
    pub async fn delete_records(self: &Arc<Self>, name: &str, offsets: BTreeMap<i32, i64>) -> Result<(), AdminError> {
        let name = name.to_owned();
        self.change(move |cluster| cluster.move_starts(&name, &offsets)).await
    }

    async fn change(
        self: &Arc<Self>,
        change: impl FnOnce(&Self) -> Result<(), AdminError> + Send + 'static,
    ) -> Result<(), AdminError> {
        let cluster = Arc::clone(self);
        let work = move || {
            let _one_at_a_time = cluster.admin.lock();
            change(&cluster)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(AdminError::Unavailable(e.to_string())))
    }

    fn create(&self, spec: &TopicSpec) -> Result<(), AdminError> {
        let name = &spec.name;
        if !is_legal_topic_name(name) {
            return Err(AdminError::Invalid(LogError::TopicName(name.clone()).to_string()));
        }
        check_topic(spec.partitions, &spec.config).map_err(|faults| AdminError::Invalid(faults.join("; ")))?;
        if self.topic(name).is_some() || self.broken.read().contains_key(name) {
            return Err(AdminError::TopicExists(name.clone()));
        }
        let directory = &self.options.directory;
        let open = || {
            meta::bury(directory, name)?;
            let meta = Meta::new(spec.partitions, spec.config.clone(), now_ms());
            meta.write(directory, name)?;
            let former = self.deleted.lock().remove(name).and_then(|cache| cache.upgrade());
            match former {
                Some(cache) => {
                    // The mark went with the directory.
                    let _ = cache.mark_incomplete();
                    Topic::serve(&self.options, meta, cache, &[])
                }
                None => Topic::open(&self.options, name, meta),
            }
        };
        let topic = open().map_err(AdminError::Unavailable)?;
        self.topics.write().insert(name.clone(), Arc::new(topic));
        Ok(())
    }

    fn alter(&self, name: &str, set: BTreeMap<String, String>, partitions: Option<i32>) -> Result<(), AdminError> {
        let topic = self.open_topic(name)?;
        let mut meta = topic.meta.clone();
        if let Some(count) = partitions {
            // Kafka: INVALID_PARTITIONS.
            if count <= meta.partitions {
                let has = meta.partitions;
                return Err(AdminError::Invalid(format!(
                    "topic {name} has {has} partitions; they can only become more, not {count}"
                )));
            }
            meta.partitions = count;
        }
        let resets = set.iter().filter(|(_, value)| value.is_empty());
        let mut faults: Vec<String> = resets.filter_map(|(property, _)| topic_config::is_known(property).err()).collect();
        for (property, value) in set {
            if value.is_empty() { drop(meta.config.remove(&property)) } else { drop(meta.config.insert(property, value)) }
        }
        faults.extend(check_topic(meta.partitions, &meta.config).err().into_iter().flatten());
        if !faults.is_empty() {
            return Err(AdminError::Invalid(faults.join("; ")));
        }
        // First what may fail without a trace: empty partitions that no record goes to, and more fsyncs than are promised.
        let strict = is_strict(&self.options, &meta);
        let prepare = || {
            topic.cache.set_durable(strict || topic.strict)?;
            topic.cache.ensure_partitions(meta.partitions as usize)
        };
        let prepared = prepare().map_err(|e| e.to_string());
        if let Err(error) = prepared.and_then(|()| meta.write(&self.options.directory, name)) {
            // Fewer fsyncs cannot fail, and for as many as before there is nothing to do.
            let _ = topic.cache.set_durable(topic.strict);
            return Err(AdminError::Unavailable(error));
        }
        let altered = Topic::serve(&self.options, meta, Arc::clone(&topic.cache), &topic.appenders);
        let altered = Arc::new(altered.map_err(AdminError::Unavailable)?);
        // What waits for the old interval need not wait any longer.
        altered.appenders.iter().for_each(|appender| self.pool.flush(appender));
        self.topics.write().insert(name.to_owned(), altered);
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), AdminError> {
        let topic = self.topic(name);
        if topic.is_none() && !self.broken.read().contains_key(name) {
            return Err(AdminError::UnknownTopic(name.to_owned()));
        }
        let directory = &self.options.directory;
        Meta::delete(&directory.join(name)).map_err(AdminError::Unavailable)?;
        self.topics.write().remove(name);
        self.broken.write().remove(name);
        if let Some(topic) = topic {
            // Nobody is to wait for records that never come: what a reader does not find is not there.
            let dropped = topic.cache.drop_all(0).and_then(|()| topic.cache.mark_complete());
            let mut deleted = self.deleted.lock();
            deleted.retain(|_, cache| Weak::strong_count(cache) > 0);
            match dropped {
                Ok(()) => drop(deleted.insert(name.to_owned(), Arc::downgrade(&topic.cache))),
                Err(error) => tracing::warn!(topic = name, %error, "files of a deleted topic cannot be removed"),
            }
        }
        // The topic is gone whatever becomes of its files: those that stay are removed at the next start, or create.
        meta::bury(directory, name).unwrap_or_else(|error| tracing::warn!(topic = name, error, "a directory cannot be removed"));
        Ok(())
    }

    fn move_starts(&self, name: &str, offsets: &BTreeMap<i32, i64>) -> Result<(), AdminError> {
        let topic = self.open_topic(name)?;
        let policy = topic.cache.policy();
        if policy.compact && !policy.delete {
            // Kafka: POLICY_VIOLATION.
            let remedy = "add delete to its cleanup.policy, or write tombstones";
            return Err(AdminError::Invalid(format!(
                "topic {name} is only compacted, and nothing is deleted by offset: {remedy}"
            )));
        }
        let mut moves = Vec::new();
        for (&partition, &offset) in offsets {
            let log = topic.cache.partition(partition);
            let log = log.ok_or_else(|| AdminError::Invalid(format!("topic {name} has no partition {partition}")))?;
            let end = log.end_offset();
            // Kafka: OFFSET_OUT_OF_RANGE.
            if offset > end || offset < END {
                let remedy = "give an offset up to that, or the end";
                return Err(AdminError::Invalid(format!(
                    "offset {offset} is out of range: partition {partition} of topic {name} ends at {end}; {remedy}"
                )));
            }
            moves.push((log, if offset == END { end } else { offset }));
        }
        // Whatever the topic says of flushing, it is noted on disk before this is answered. The housekeeper gives the space back.
        let moved = moves.iter().try_for_each(|(log, offset)| log.move_start(*offset));
        moved.map_err(|e| AdminError::Unavailable(e.to_string()))
    }

    fn open_topic(&self, name: &str) -> Result<Arc<Topic>, AdminError> {
        self.topic(name).ok_or_else(|| match self.broken.read().get(name) {
            Some(reason) => AdminError::Unavailable(reason.clone()),
            None => AdminError::UnknownTopic(name.to_owned()),
        })
    }

    /// # Errors
    /// [`AdminError::UnknownTopic`], or why the topic is not open.
    pub fn describe_topic(&self, name: &str) -> Result<TopicDescription, AdminError> {
        let topic = self.open_topic(name)?;
        let describe = |(n, log): (usize, &Arc<PartitionLog>)| PartitionDescription {
            partition: n as i32,
            start_offset: log.start_offset(),
            end_offset: log.end_offset(),
            leader: 0,
        };
        Ok(TopicDescription {
            name: name.to_owned(),
            // A cache may have more for a moment, or after an alteration that failed.
            partitions: topic.cache.partitions().iter().enumerate().take(topic.appenders.len()).map(describe).collect(),
            config: topic_config::effective(&topic.meta.config),
        })
    }
}

/// Whether the embedded cluster can have a topic like this; all that is wrong.
pub fn check_topic(partitions: i32, config: &BTreeMap<String, String>) -> Result<(), Vec<String>> {
    let mut faults = Vec::new();
    if !(1..=PARTITIONS_MAX).contains(&partitions) {
        faults.push(format!("{partitions} partitions: 1 to {PARTITIONS_MAX} are possible in the embedded cluster"));
    }
    faults.extend(config.iter().filter_map(|(name, value)| topic_config::check(name, value).err()));
    faults.extend(topic_config::check_together(config).err());
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}
