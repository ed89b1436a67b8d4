//! The clusters of a plan, opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use config::{CapabilityPlan, ClusterPlan, CreatePlan, Plan, TopicPlan};
use kafka::{
    AdminError, Cluster, EmbeddedCluster, EmbeddedOptions, FetchOptions, FetchStart, KafkaCluster, KafkaOptions, TopicSpec,
};
use message_cache::{DirLock, LockError, LogOptions, OnCorruption};

/// Clusters by name, and the lock of the directory that their logs lie in.
pub struct Clusters {
    by_name: BTreeMap<String, Cluster>,
    lock: DirLock,
    /// Whether the log has it that the lock was lost.
    lock_loss_told: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenClustersError {
    #[error(transparent)]
    Directory(#[from] LockError),
    #[error("{} cannot be used: {source}", dir.display())]
    Io { dir: PathBuf, source: std::io::Error },
    #[error("cluster {name}: {reason}")]
    Properties { name: String, reason: String },
    #[error("topic {topic} of the embedded cluster {cluster} cannot be created: {source}")]
    Create { cluster: String, topic: String, source: AdminError },
}

/// Embedded logs and caches of Kafka topics never share a directory: the same cluster name may stand for one today and
/// for the other tomorrow.
pub fn directory_of(cache_directory: &Path, cluster: &ClusterPlan) -> PathBuf {
    cache_directory.join(if cluster.embedded { "embedded" } else { "kafka" }).join(&cluster.name)
}

/// Partitions of a topic that the embedded cluster creates because a route or the cache names it.
const DEFAULT_PARTITIONS: i32 = 1;

impl Clusters {
    /// Takes the lock, opens embedded logs, starts Kafka clients (which connect by themselves), and creates the topics of
    /// embedded clusters that the plan names. `purpose` is what others are told of who holds the lock.
    pub async fn open(plan: &Plan, purpose: &str) -> Result<Self, OpenClustersError> {
        let lock = DirLock::acquire(&plan.cache.directory, purpose)?;
        let mut by_name = BTreeMap::new();
        for cluster in &plan.clusters {
            by_name.insert(cluster.name.clone(), open_one(plan, cluster)?);
        }
        let clusters = Self { by_name, lock, lock_loss_told: AtomicBool::new(false) };
        clusters.create_embedded_topics(plan).await?;
        Ok(clusters)
    }

    async fn create_embedded_topics(&self, plan: &Plan) -> Result<(), OpenClustersError> {
        let mut wanted: BTreeMap<(&str, &str), Option<&TopicPlan>> = BTreeMap::new();
        for route in &plan.routes {
            let (produce, reply) = match &route.capability {
                CapabilityPlan::Produce(produce) => (produce, None),
                CapabilityPlan::Exchange(exchange) => (&exchange.request, exchange.reply.as_ref()),
                CapabilityPlan::Fetch(_) => continue,
            };
            wanted.extend(produce.topic.literal().map(|topic| ((produce.cluster.as_str(), topic), None)));
            wanted.extend(reply.map(|reply| ((reply.cluster.as_str(), reply.topic.as_str()), None)));
        }
        wanted.extend(plan.cache.topics.iter().map(|t| ((t.cluster.as_str(), t.name.as_str()), Some(t))));
        for ((cluster, topic), declared) in wanted {
            let Some(Cluster::Embedded(embedded)) = self.by_name.get(cluster) else { continue };
            match embedded.create_topic(&topic_spec(topic, declared)).await {
                Ok(()) => tracing::info!(cluster, topic, "topic created"),
                Err(AdminError::TopicExists(_)) => {}
                Err(source) => {
                    return Err(OpenClustersError::Create { cluster: cluster.into(), topic: topic.into(), source });
                }
            }
        }
        Ok(())
    }

    /// Creates the topics of Kafka clusters that the plan says how to create; tries for as long as the cluster is away.
    pub fn create_kafka_topics(&self, plan: &Plan) {
        for declared in plan.cache.topics.iter().filter(|t| t.create.is_some()) {
            if let Some(cluster @ Cluster::Kafka(_)) = self.by_name.get(&declared.cluster) {
                tokio::spawn(create_until_there(cluster.clone(), topic_spec(&declared.name, Some(declared))));
            }
        }
    }

    /// Creates the topics of claims that are missing.
    pub fn create_claims_topics(&self, plan: &Plan) {
        for claims in &plan.claims {
            let Some(cluster @ Cluster::Kafka(_)) = self.by_name.get(&claims.cluster) else { continue };
            let create = claims.create.clone().unwrap_or_else(claims_topic);
            tokio::spawn(create_until_there(cluster.clone(), spec_of(&claims.topic, Some(&create))));
        }
    }

    pub fn get(&self, name: &str) -> Option<&Cluster> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Cluster)> {
        self.by_name.iter().map(|(name, cluster)| (name.as_str(), cluster))
    }

    /// What is wrong with the lock of the directory; told in the log once.
    pub fn lock_problem(&self) -> Option<String> {
        if self.lock.is_intact() {
            return None;
        }
        let directory = self.lock.dir().display();
        let problem = format!(
            "the lock file of {directory} was removed or replaced: another process may use the directory as well, and both would \
             damage it; make sure that there is none, and restart the gateway"
        );
        if !self.lock_loss_told.swap(true, Ordering::AcqRel) {
            tracing::error!("{problem}");
        }
        Some(problem)
    }

    pub async fn close(&self) {
        for cluster in self.by_name.values() {
            cluster.close().await;
        }
    }
}

fn open_one(plan: &Plan, cluster: &ClusterPlan) -> Result<Cluster, OpenClustersError> {
    let directory = directory_of(&plan.cache.directory, cluster);
    let io = |source| OpenClustersError::Io { dir: directory.clone(), source };
    std::fs::create_dir_all(&directory).map_err(io)?;
    if cluster.embedded {
        let options = EmbeddedOptions::new(&cluster.name, directory.clone(), plan.cache.segment_bytes, &cluster.properties);
        return EmbeddedCluster::open(options).map(Cluster::Embedded).map_err(io);
    }
    let options = KafkaOptions {
        name: cluster.name.clone(),
        properties: cluster.properties.clone(),
        cache_directory: directory,
        log: LogOptions {
            segment_bytes: plan.cache.segment_bytes,
            durable: false,
            on_corruption: OnCorruption::Refetch,
            ..LogOptions::default()
        },
        refresh: plan.cache.topic_refresh,
    };
    let started: Result<Arc<KafkaCluster>, String> = KafkaCluster::start(options);
    started.map(Cluster::Kafka).map_err(|reason| OpenClustersError::Properties { name: cluster.name.clone(), reason })
}

fn topic_spec(name: &str, declared: Option<&TopicPlan>) -> TopicSpec {
    spec_of(name, declared.and_then(|t| t.create.as_ref()))
}

fn spec_of(name: &str, create: Option<&CreatePlan>) -> TopicSpec {
    TopicSpec {
        name: name.to_owned(),
        partitions: create.map_or(DEFAULT_PARTITIONS, |c| c.partitions),
        replication: create.map_or(-1, |c| c.replication),
        config: create.map(|c| c.config.clone()).unwrap_or_default(),
    }
}

/// As many partitions as some gateways can share, for a day: by then a claim is decided, or its client gone.
fn claims_topic() -> CreatePlan {
    let config = [("cleanup.policy", "delete"), ("retention.ms", "86400000")];
    let config = config.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    CreatePlan { partitions: 6, replication: -1, config }
}

async fn create_until_there(cluster: Cluster, spec: TopicSpec) {
    const PAUSE_MAX: Duration = Duration::from_secs(10);
    let mut pause = Duration::from_millis(250);
    loop {
        match cluster.create_topic(&spec).await {
            Ok(()) => return tracing::info!(topic = spec.name, "topic created"),
            Err(AdminError::TopicExists(_)) => return,
            Err(error @ AdminError::Unavailable(_)) => tracing::debug!(topic = spec.name, %error, "topic not created yet"),
            Err(error) => return tracing::error!(topic = spec.name, %error, "topic cannot be created"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

pub(crate) fn fetch_options(topic: &TopicPlan) -> FetchOptions {
    let start = match topic.start {
        config::StartPlan::Earliest => FetchStart::Earliest,
        config::StartPlan::Latest => FetchStart::Latest,
        config::StartPlan::Back(back) => FetchStart::Back(back),
    };
    FetchOptions { start, linger: topic.linger }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_lock_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::acquire(dir.path(), "test").unwrap();
        let clusters = Clusters { by_name: BTreeMap::new(), lock, lock_loss_told: AtomicBool::new(false) };
        assert_eq!(clusters.lock_problem(), None);
        std::fs::remove_file(dir.path().join("LOCK")).unwrap();
        let _other = DirLock::acquire(dir.path(), "other").unwrap();
        let problem = clusters.lock_problem().unwrap();
        assert!(
            problem.contains("another process may use the directory") && problem.contains("restart the gateway"),
            "{problem}"
        );
    }
}
