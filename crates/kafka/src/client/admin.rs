//! Topics: created, listed, described. Every call asks the cluster and blocks a thread of the pool, not the runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use message_cache::is_legal_topic_name;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as E};
use rdkafka::{Offset, TopicPartitionList};

use super::ask::{Asking, OffsetOf, Offsets};
use super::native::{self, Ask, Code, ReaderClient, TopicHandle, TopicMetadata};
use crate::{AdminError, PartitionDescription, TopicDescription, TopicSpec};

/// How long the cluster may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the brokers may take to hear of a new topic.
const TOLD_WITHIN: Duration = Duration::from_secs(3);
const TOLD_PAUSE: Duration = Duration::from_millis(20);

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

/// Waits until the brokers tell of a topic that was created: the controller answers before they have heard of it, and a produce
/// would be refused meanwhile. Gives up after [`TOLD_WITHIN`], since the topic is there all the same.
pub fn wait_until_told(client: &Arc<ReaderClient>, name: &str) {
    let began = Instant::now();
    while began.elapsed() < TOLD_WITHIN {
        match find_topic(client, name) {
            Ok(found) if found.leaders.iter().all(|leader| *leader >= 0) => return,
            Ok(_) | Err(AdminError::UnknownTopic(_) | AdminError::Invalid(_)) => std::thread::sleep(TOLD_PAUSE),
            Err(AdminError::TopicExists(_) | AdminError::Unavailable(_)) => return,
        }
    }
}

/// The names of all topics, internal ones included.
pub fn topics(client: &ReaderClient) -> Result<BTreeSet<String>, AdminError> {
    let metadata = native::metadata_unless(client.client(), Ask::All, ANSWER_TIMEOUT, || client.context().0.is_down())
        .map_err(unavailable)?;
    Ok(metadata.topics.into_keys().collect())
}

pub fn describe_topic(client: &Arc<ReaderClient>, name: &str) -> Result<TopicDescription, AdminError> {
    let found = find_topic(client, name)?;
    let partitions: Vec<i32> = (0..).zip(&found.leaders).filter(|(_, leader)| **leader >= 0).map(|(p, _)| p).collect();
    let all = |of: OffsetOf| partitions.iter().map(|p| ((name.to_owned(), *p), of)).collect::<Vec<_>>();
    let give_up = || client.context().0.is_down();
    let asking = asking(client, &give_up);
    let firsts = asking.offsets(&all(OffsetOf::Earliest), false).map_err(unavailable)?;
    let ends = asking.offsets(&all(OffsetOf::Latest), false).map_err(unavailable)?;
    let told = |offsets: &Offsets, partition| match offsets.get(&(name.to_owned(), partition)) {
        Some(Err(code)) => Err(unavailable(*code)),
        Some(Ok(offset)) => Ok(offset.unwrap_or(-1)),
        None => Ok(-1),
    };
    let describe = |(partition, leader): (i32, &i32)| {
        let (start_offset, end_offset) = (told(&firsts, partition)?, told(&ends, partition)?);
        Ok(PartitionDescription { partition, start_offset, end_offset, leader: *leader })
    };
    let partitions = (0..).zip(&found.leaders).map(describe).collect::<Result<_, AdminError>>()?;
    Ok(TopicDescription { name: name.to_owned(), partitions, config: topic_config(client, name)? })
}

fn asking<'a>(client: &'a ReaderClient, give_up: &'a dyn Fn() -> bool) -> Asking<'a> {
    Asking { client, timeout: ANSWER_TIMEOUT, give_up }
}

pub fn alter_topic(
    client: &Arc<ReaderClient>,
    config: &ClientConfig,
    name: &str,
    set: BTreeMap<String, String>,
    partitions: Option<i32>,
) -> Result<(), AdminError> {
    let now = find_topic(client, name)?.leaders.len();
    let wanted = partitions.map(|wanted| match usize::try_from(wanted) {
        Ok(wanted) if wanted >= now => Ok(wanted),
        _ => {
            Err(AdminError::Invalid(format!("topic {name} has {now} partitions: their number only grows, and {wanted} is less")))
        }
    });
    let wanted = wanted.transpose()?;
    if !set.is_empty() {
        let set = set.into_iter().map(|(name, value)| (name, Some(value).filter(|v| !v.is_empty()))).collect();
        let give_up = || client.context().0.is_down();
        let altered = asking(client, &give_up).alter(name, &set);
        altered.map_err(|(code, reason)| refused_by(code, name, Some(reason)))?;
    }
    // Kafka refuses a number that is the same.
    let Some(wanted) = wanted.filter(|wanted| *wanted > now) else { return Ok(()) };
    let answer = block_on(admin(config)?.create_partitions(&[NewPartitions::new(name, wanted)], &options()));
    first_refused(answer.map_err(|e| failed(&e))?, name)
}

pub fn delete_topic(config: &ClientConfig, name: &str) -> Result<(), AdminError> {
    check_name(name)?;
    let answer = block_on(admin(config)?.delete_topics(&[name], &options()));
    first_refused(answer.map_err(|e| failed(&e))?, name)
}

fn first_refused(answer: Vec<Result<String, (String, E)>>, name: &str) -> Result<(), AdminError> {
    answer.into_iter().find_map(Result::err).map_or(Ok(()), |(_, code)| Err(refused(code, name)))
}

pub fn delete_records(
    client: &Arc<ReaderClient>,
    config: &ClientConfig,
    name: &str,
    before: &BTreeMap<i32, i64>,
) -> Result<(), AdminError> {
    let count = find_topic(client, name)?.leaders.len();
    let mut list = TopicPartitionList::with_capacity(before.len());
    for (&partition, &offset) in before {
        if usize::try_from(partition).map_or(true, |p| p >= count) {
            return Err(AdminError::Invalid(format!(
                "topic {name} has no partition {partition}: it has {count}, counted from 0"
            )));
        }
        let offset = match offset {
            -1 => Offset::End,
            0.. => Offset::Offset(offset),
            _ => return Err(AdminError::Invalid(format!("{offset} is no offset: give one from 0 on, or -1 for the end"))),
        };
        list.add_partition_offset(name, partition, offset).map_err(|e| failed(&e))?;
    }
    if before.is_empty() {
        return Ok(());
    }
    let answer = block_on(admin(config)?.delete_records(&list, &options())).map_err(|e| failed(&e))?;
    for element in answer.elements() {
        let partition = element.partition();
        match element.error() {
            Ok(()) => {}
            Err(KafkaError::OffsetFetch(E::OffsetOutOfRange)) => {
                let text =
                    format!("topic {name}, partition {partition}: the offset lies outside of the log; see `topic describe`");
                return Err(AdminError::Invalid(text));
            }
            Err(KafkaError::OffsetFetch(code)) => return Err(refused(code, name)),
            Err(error) => return Err(failed(&error)),
        }
    }
    Ok(())
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
pub fn topic_config(client: &Arc<ReaderClient>, name: &str) -> Result<BTreeMap<String, String>, AdminError> {
    let give_up = || client.context().0.is_down();
    let mut configs = asking(client, &give_up).configs(&[name.to_owned()]).map_err(unavailable)?;
    configs.remove(name).unwrap_or_else(|| Ok(BTreeMap::new())).map_err(|code| refused_by(code, name, None))
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

/// As [`refused`], for a code that may be one of a newer broker; with the cluster's own reason, which names the property.
fn refused_by(code: Code, topic: &str, reason: Option<String>) -> AdminError {
    if code.is(E::UnknownTopicOrPartition) {
        return AdminError::UnknownTopic(topic.to_owned());
    }
    let transient = [E::OperationTimedOut, E::RequestTimedOut, E::BrokerTransportFailure, E::NotController];
    let reason = reason.filter(|reason| !reason.is_empty()).unwrap_or_else(|| code.text());
    if transient.iter().any(|known| code.is(*known)) {
        return AdminError::Unavailable(reason);
    }
    AdminError::Invalid(format!("topic {topic}: the cluster refuses: {reason}"))
}
