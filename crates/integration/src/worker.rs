//! Workers on both kinds of cluster, behind one door.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use testkit::{Answer, Error, Gateway, Record, Reply, Result, poll_until};

use crate::Cluster;

/// For a topic that was created to be known to the broker, and to have leaders.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);
/// For one answer of a broker.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a worker notices that it is to end.
const POLL: Duration = Duration::from_millis(100);
/// For the replies on their way when it ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers the records of one topic, from the first one on. Ends when dropped, once what was answered is written.
#[derive(Debug)]
pub enum Worker {
    /// By the verbs of the command line, through the gateway that holds the cluster.
    Embedded(testkit::Worker),
    /// By librdkafka, without the gateway. It outlives brokers and gateways.
    Kafka(KafkaWorker),
}

#[derive(Debug)]
pub struct KafkaWorker {
    stop: Arc<AtomicBool>,
    faults: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

type Replies = ThreadedProducer<DefaultProducerContext>;

impl Worker {
    /// Both topics must exist.
    pub fn start(cluster: &Cluster, gateway: &Gateway, topic: &str, answer: Answer) -> Result<Self> {
        match cluster {
            Cluster::Embedded => testkit::Worker::start(gateway, topic, answer).map(Self::Embedded),
            Cluster::Kafka(servers) => KafkaWorker::start(servers, topic, answer).map(Self::Kafka),
        }
    }

    /// What went wrong so far; a test that expects nothing of the kind asserts that it is empty.
    pub fn faults(&self) -> Vec<String> {
        match self {
            Self::Embedded(worker) => worker.faults(),
            Self::Kafka(worker) => worker.faults.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl KafkaWorker {
    pub fn start(servers: &str, topic: &str, mut answer: Answer) -> Result<Self> {
        let consumer = reader(servers, topic)?;
        let mut config = ClientConfig::new();
        // A reply is tried for ever, and no reply waits for another.
        let config = config.set("bootstrap.servers", servers).set("linger.ms", "0").set("message.timeout.ms", "0");
        let producer: Replies = config.set("enable.idempotence", "true").create().map_err(fault)?;
        let (stop, faults) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (stopping, noted) = (Arc::clone(&stop), Arc::clone(&faults));
        let work = move || {
            let note = |fault: String| noted.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
            while !stopping.load(Ordering::Acquire) {
                match consumer.poll(POLL) {
                    None => {}
                    Some(Ok(message)) => {
                        answer(&record(&message)).iter().for_each(|reply| write(&producer, reply).unwrap_or_else(note));
                    }
                    // Brokers that go away come back.
                    Some(Err(KafkaError::MessageConsumption(code))) if is_passing(code) => {}
                    Some(Err(cause)) => note(cause.to_string()),
                }
            }
            producer.flush(FLUSH_TIMEOUT).unwrap_or_else(|cause| note(cause.to_string()));
        };
        Ok(Self { stop, faults, thread: Some(thread::spawn(work)) })
    }
}

impl Drop for KafkaWorker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // A panic of the closure has been told on standard error.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A consumer of all partitions from their beginning, without a group.
fn reader(servers: &str, topic: &str) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    let config = config.set("bootstrap.servers", servers).set("group.id", "worker").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.set("fetch.wait.max.ms", "10").create().map_err(fault)?;
    let partitions = poll_until(KNOWN_WITHIN, || {
        let told = consumer.fetch_metadata(Some(topic), ANSWER_TIMEOUT).ok()?;
        let partitions = told.topics().first()?.partitions();
        let led = !partitions.is_empty() && partitions.iter().all(|partition| partition.leader() >= 0);
        led.then(|| partitions.iter().map(|partition| partition.id()).collect::<Vec<_>>())
    });
    let mut all = TopicPartitionList::new();
    for partition in partitions.ok_or_else(|| Error::new(format!("topic {topic} is not there")))? {
        all.add_partition_offset(topic, partition, Offset::Beginning).map_err(fault)?;
    }
    consumer.assign(&all).map_err(fault)?;
    Ok(consumer)
}

fn is_passing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as E;
    matches!(code, E::AllBrokersDown | E::BrokerTransportFailure | E::Resolve | E::OperationTimedOut | E::NotLeaderForPartition)
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let header = |header: Header<'_, &[u8]>| (header.key.to_owned(), owned(header.value));
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or(-1),
        key: owned(message.key()),
        value: owned(message.payload()),
        headers: message.headers().map_or_else(Vec::new, |headers| headers.iter().map(header).collect()),
    }
}

fn write(producer: &Replies, reply: &Reply) -> std::result::Result<(), String> {
    let mut headers = OwnedHeaders::new();
    for (key, value) in &reply.headers {
        headers = headers.insert(Header { key, value: value.as_ref() });
    }
    let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&reply.topic).headers(headers);
    record.key = reply.key.as_deref();
    record.payload = reply.value.as_deref();
    record.partition = reply.partition;
    producer.send(record).map_err(|(cause, _)| format!("{}: {cause}", reply.topic))
}

fn fault(cause: KafkaError) -> Error {
    Error::new(cause.to_string())
}
