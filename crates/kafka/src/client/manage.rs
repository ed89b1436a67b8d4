//! What is asked of the cluster about its topics, on threads that may block.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{KafkaCluster, admin};
use crate::{AdminError, TopicDescription, TopicSpec};

/// How long a cache may take to be dropped, the cluster's answer to whether its topic exists included.
const PURGE_TIMEOUT: Duration = Duration::from_secs(10);

impl KafkaCluster {
    /// Answers when the topic can be produced to, if that is soon.
    ///
    /// # Errors
    /// [`AdminError::TopicExists`], or why the cluster refuses.
    pub async fn create_topic(&self, spec: &TopicSpec) -> Result<(), AdminError> {
        let (asker, config, wanted) = (Arc::clone(&self.asker), self.admin_config.clone(), spec.clone());
        let create = move || {
            // Most are there already at a start, and that is told for less than a client of its own.
            if admin::find_topic(&asker, &wanted.name).is_ok() {
                return Err(AdminError::TopicExists(wanted.name));
            }
            admin::create_topic(&config, &wanted)?;
            admin::wait_until_told(&asker, &wanted.name);
            Ok(())
        };
        self.ask(create).await?;
        self.changed(&spec.name);
        Ok(())
    }

    pub async fn topics(&self) -> Result<BTreeSet<String>, AdminError> {
        let asker = Arc::clone(&self.asker);
        self.ask(move || admin::topics(&asker)).await
    }

    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, AdminError> {
        let (asker, name) = (Arc::clone(&self.asker), name.to_owned());
        self.ask(move || admin::describe_topic(&asker, &name)).await
    }

    /// Sets properties of a topic under Kafka's own names, and leaves those that are not named; an empty value takes one back to its
    /// default. Then lets the topic have this many partitions. (KIP-339, KIP-195)
    ///
    /// # Errors
    /// When the cluster refuses: nothing was changed, or, if it refused the partitions, the properties were.
    pub async fn alter_topic(
        &self,
        name: &str,
        set: BTreeMap<String, String>,
        partitions: Option<i32>,
    ) -> Result<(), AdminError> {
        let (asker, config, topic) = (Arc::clone(&self.asker), self.admin_config.clone(), name.to_owned());
        let altered = self.ask(move || admin::alter_topic(&asker, &config, &topic, set, partitions)).await;
        self.changed(name);
        altered
    }

    /// # Errors
    /// When there is no such topic, or the cluster refuses.
    pub async fn delete_topic(&self, name: &str) -> Result<(), AdminError> {
        let (config, topic) = (self.admin_config.clone(), name.to_owned());
        self.ask(move || admin::delete_topic(&config, &topic)).await?;
        self.changed(name);
        Ok(())
    }

    /// Deletes the records before an offset, by partition; -1: all that there are. (KIP-107)
    ///
    /// # Errors
    /// When the topic or a partition does not exist, or the offset lies behind the end; other partitions may be done.
    pub async fn delete_records(&self, name: &str, before: BTreeMap<i32, i64>) -> Result<(), AdminError> {
        let (asker, config, topic) = (Arc::clone(&self.asker), self.admin_config.clone(), name.to_owned());
        let deleted = self.ask(move || admin::delete_records(&asker, &config, &topic, &before)).await;
        self.changed(name);
        deleted
    }

    /// Drops what is cached of a topic, and fetches it again; answers when it is dropped. Only while the cluster answers: until then
    /// what is cached is all there is.
    ///
    /// # Errors
    /// When the topic is not cached by this process, does not exist, or cannot be asked about.
    pub async fn purge(&self, name: &str) -> Result<(), AdminError> {
        let fetch = self.wanted.read().get(name).cloned();
        let fetch = fetch.ok_or_else(|| AdminError::Invalid(format!("topic {name} is not cached by the running gateway")))?;
        if self.reader_health.is_down() {
            return Err(AdminError::Unavailable(self.why_down()));
        }
        let (done, dropped) = oneshot::channel();
        {
            let mut state = fetch.state.lock();
            state.purge = true;
            state.purgers.push(done);
        }
        self.look();
        let unasked = || "the cluster does not answer".to_owned();
        match tokio::time::timeout(PURGE_TIMEOUT, dropped).await {
            Ok(Ok(purged)) => purged.map_err(AdminError::Unavailable),
            Ok(Err(_)) => Err(AdminError::Unavailable("shutting down".to_owned())),
            Err(_) => {
                let mut state = fetch.state.lock();
                state.purgers.retain(|waiting| !waiting.is_closed());
                state.purge = !state.purgers.is_empty();
                Err(AdminError::Unavailable(self.reader_health.fault().or_else(|| state.problem.clone()).unwrap_or_else(unasked)))
            }
        }
    }

    /// What was known of the topic may no longer hold.
    fn changed(&self, name: &str) {
        self.known.forget(name);
        self.look();
    }

    /// Asks the cluster on a thread that may block; gives up as soon as all brokers are known to be down.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> Result<T, AdminError> + Send + 'static,
    ) -> Result<T, AdminError> {
        let down = || AdminError::Unavailable(self.why_down());
        if self.reader_health.is_down() {
            return Err(down());
        }
        let asking = async {
            // The semaphore is never closed.
            let _permit = self.questions.acquire().await;
            tokio::task::spawn_blocking(question).await
        };
        tokio::select! {
            answer = asking => answer.unwrap_or_else(|e| Err(AdminError::Unavailable(e.to_string()))),
            () = self.reader_health.until_down() => Err(down()),
        }
    }
}
