//! Topics: created, listed, described. Every call asks the cluster and blocks a thread of the pool, not the runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use message_cache::is_legal_topic_name;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as E};

use super::native::{self, Ask, Code, ReaderClient, TopicHandle, TopicMetadata};
use crate::{AdminError, PartitionDescription, TopicDescription, TopicSpec};

/// How long the cluster may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// # Errors
/// [`AdminError::TopicExists`], or why the cluster refuses.
pub fn create_topic(config: &ClientConfig, spec: &TopicSpec) -> Result<(), AdminError> {
    check_name(&spec.name)?;
    if spec.partitions == 0 || spec.partitions < -1 {
        return Err(AdminError::Invalid("a topic has at least one partition; -1 stands for the broker's default".to_owned()));
    }
    let mut topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(spec.replication));
    for (name, value) in &spec.config {
        topic = topic.set(name, value);
    }
    let admin = admin(config)?;
    let created = block_on(admin.create_topics([&topic], &options())).map_err(|e| failed(&e))?;
    match created.into_iter().next() {
        None | Some(Ok(_)) => Ok(()),
        Some(Err((_, E::TopicAlreadyExists))) => Err(AdminError::TopicExists(spec.name.clone())),
        Some(Err((_, code))) => Err(refused(code, &spec.name)),
    }
}

/// The names of all topics, internal ones included.
pub fn topics(client: &ReaderClient) -> Result<BTreeSet<String>, AdminError> {
    let metadata = native::metadata_unless(client.client(), Ask::All, ANSWER_TIMEOUT, || client.context().0.is_down())
        .map_err(unavailable)?;
    Ok(metadata.topics.into_keys().collect())
}

pub fn describe_topic(client: &Arc<ReaderClient>, config: &ClientConfig, name: &str) -> Result<TopicDescription, AdminError> {
    let found = find_topic(client, name)?;
    let mut partitions = Vec::with_capacity(found.leaders.len());
    for (leader, partition) in found.leaders.iter().zip(0..) {
        let (start_offset, end_offset) = match leader {
            -1 => (-1, -1),
            _ => client.fetch_watermarks(name, partition, ANSWER_TIMEOUT).map_err(|e| failed(&e))?,
        };
        partitions.push(PartitionDescription { partition, start_offset, end_offset, leader: *leader });
    }
    Ok(TopicDescription { name: name.to_owned(), partitions, config: topic_config(config, name)? })
}

/// The topic as the cluster's metadata has it.
pub fn find_topic(client: &Arc<ReaderClient>, name: &str) -> Result<TopicMetadata, AdminError> {
    check_name(name)?;
    let unknown = || AdminError::UnknownTopic(name.to_owned());
    let handle = TopicHandle::new(client, name).ok_or_else(unknown)?;
    let mut metadata =
        native::metadata_unless(client.client(), Ask::One(&handle), ANSWER_TIMEOUT, || client.context().0.is_down())
            .map_err(unavailable)?;
    let found = metadata.topics.remove(name).ok_or_else(unknown)?;
    if found.code.is(E::UnknownTopicOrPartition) {
        return Err(unknown());
    }
    if found.code.is_error() && found.leaders.is_empty() {
        return Err(AdminError::Invalid(format!("topic {name}: {}", found.code.text())));
    }
    Ok(found)
}

/// Every property of a topic that the cluster tells.
pub fn topic_config(config: &ClientConfig, name: &str) -> Result<BTreeMap<String, String>, AdminError> {
    let admin = admin(config)?;
    let topic = [ResourceSpecifier::Topic(name)];
    let answer = block_on(admin.describe_configs(&topic, &options())).map_err(|e| failed(&e))?;
    let Some(resource) = answer.into_iter().next() else {
        return Ok(BTreeMap::new());
    };
    let entries = resource.map_err(|code| refused(code, name))?.entries;
    Ok(entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect())
}

/// A client for one call: topics are created and described rarely, and its connections need not stay.
fn admin(config: &ClientConfig) -> Result<AdminClient<DefaultClientContext>, AdminError> {
    config.create().map_err(|e: KafkaError| AdminError::Invalid(e.to_string()))
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT)).operation_timeout(Some(ANSWER_TIMEOUT))
}

/// Waits on this thread, which is one for blocking.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(future)
}

fn check_name(name: &str) -> Result<(), AdminError> {
    let problem = || AdminError::Invalid(format!("{name:?} is no legal topic name: 1 to 249 of a-z A-Z 0-9 . _ -, not . or .."));
    if is_legal_topic_name(name) { Ok(()) } else { Err(problem()) }
}

fn unavailable(code: Code) -> AdminError {
    AdminError::Unavailable(code.text())
}

fn failed(error: &KafkaError) -> AdminError {
    match error.rdkafka_error_code() {
        Some(code) => AdminError::Unavailable(code.to_string()),
        None => AdminError::Invalid(error.to_string()),
    }
}

fn refused(code: E, topic: &str) -> AdminError {
    match code {
        E::UnknownTopicOrPartition => AdminError::UnknownTopic(topic.to_owned()),
        E::OperationTimedOut | E::RequestTimedOut | E::BrokerTransportFailure | E::NotController => {
            AdminError::Unavailable(code.to_string())
        }
        _ => AdminError::Invalid(format!("topic {topic}: the cluster refuses: {code}")),
    }
}
