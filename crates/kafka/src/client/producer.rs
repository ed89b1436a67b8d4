//! The client that writes: one librdkafka producer, replaced when it breaks, and the thread that serves its deliveries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};
use tokio::sync::oneshot;

use super::config::refusal;
use super::delivery::{Failure, Outcome};
use super::health::{Health, WriterContext};
use super::native::{self, Ask};
use crate::{ProduceError, ProduceRecord, Written};

/// How often the thread looks whether it is to stop; deliveries wake it at once.
const POLL: Duration = Duration::from_millis(100);
/// How long records on their way may take when the producer is closed.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Producer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    config: ClientConfig,
    health: Arc<Health>,
    current: RwLock<Arc<BaseProducer<WriterContext>>>,
    closed: AtomicBool,
    stop: AtomicBool,
}

impl Producer {
    /// # Errors
    /// Why librdkafka takes the properties not.
    pub fn start(config: ClientConfig, health: Arc<Health>) -> Result<Self, String> {
        let first = create(&config, &health)?;
        let (closed, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Shared { config, health, current: RwLock::new(first), closed, stop });
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("kafka-producer".to_owned()).spawn(move || serving.serve());
        let thread = Mutex::new(Some(thread.map_err(|e| format!("no thread for the producer: {e}"))?));
        Ok(Self { shared, thread })
    }

    /// Hands a record to librdkafka, which sends it with all that waits. The receiver tells what became of it.
    pub fn send(&self, record: &ProduceRecord) -> Result<oneshot::Receiver<Outcome>, Failed> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(Failed::Error(unavailable("this gateway is stopping")));
        }
        if self.shared.health.is_down() {
            let why = self.shared.health.fault().unwrap_or_else(|| "all brokers are down".to_owned());
            return Err(Failed::Error(unavailable(&why)));
        }
        // librdkafka takes 0 for "now", and so could not keep its word.
        if record.timestamp_ms.is_some_and(|at| at <= 0) {
            return Err(Failed::Error(ProduceError::Invalid { reason: "the timestamp must be after the Unix epoch".to_owned() }));
        }
        let (sender, receiver) = oneshot::channel();
        let producer = Arc::clone(&self.shared.current.read());
        match producer.send(message(record, sender)) {
            Ok(()) => Ok(receiver),
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::InvalidArgument);
                if code == RDKafkaErrorCode::Fatal {
                    producer.context().broken.store(true, Ordering::Release);
                }
                Err(Failed::Local(Failure { code, written: Written::No }))
            }
        }
    }

    /// Asks the cluster for a sign of life. Blocks up to `timeout`.
    pub fn probe(&self, timeout: Duration) {
        let producer = Arc::clone(&self.shared.current.read());
        if native::metadata(producer.client(), Ask::Known, timeout).is_ok() {
            self.shared.health.answered();
        }
    }

    /// Waits for the records on their way, up to [`FLUSH_TIMEOUT`]; what is left then fails. Blocks.
    pub fn close(&self) {
        if self.shared.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let producer = Arc::clone(&self.shared.current.read());
        if let Err(error) = producer.flush(FLUSH_TIMEOUT) {
            tracing::warn!(left = producer.in_flight_count(), %error, "records were not acknowledged before the end");
            producer.purge(PurgeConfig::default().queue().inflight());
            let _ = producer.flush(POLL);
        }
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }

    #[cfg(test)]
    pub fn current(&self) -> Arc<BaseProducer<WriterContext>> {
        Arc::clone(&self.shared.current.read())
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
    }
}

/// Why a record did not get into the queue.
#[derive(Debug)]
pub enum Failed {
    Error(ProduceError),
    Local(Failure),
}

impl Shared {
    /// Serves deliveries until stopped; puts a new producer in the place of one that broke, and lets the old one end.
    fn serve(&self) {
        let mut serving = Arc::clone(&self.current.read());
        let mut retired: Vec<(Arc<BaseProducer<WriterContext>>, Instant)> = Vec::new();
        while !self.stop.load(Ordering::Acquire) {
            serving.poll(POLL);
            for (old, _) in &retired {
                old.poll(Duration::ZERO);
            }
            retired.retain(|(old, end)| old.in_flight_count() > 0 && Instant::now() < *end);
            if serving.context().broken.load(Ordering::Acquire) {
                match create(&self.config, &self.health) {
                    Ok(next) => {
                        let old = std::mem::replace(&mut serving, next);
                        *self.current.write() = Arc::clone(&serving);
                        retired.push((old, Instant::now() + FLUSH_TIMEOUT));
                    }
                    Err(error) => tracing::error!(error, "no producer to replace the broken one"),
                }
            }
        }
    }
}

fn create(config: &ClientConfig, health: &Arc<Health>) -> Result<Arc<BaseProducer<WriterContext>>, String> {
    let context = WriterContext { health: Arc::clone(health), broken: AtomicBool::new(false) };
    config.create_with_context(context).map(Arc::new).map_err(|e| refusal(&e))
}

/// The record in librdkafka's words; the sender tells what became of it.
pub fn message(record: &ProduceRecord, sender: oneshot::Sender<Outcome>) -> Message<'_> {
    let mut message = Message::with_opaque_to(&record.topic, Box::new(sender));
    message.partition = record.partition;
    message.key = record.key.as_deref();
    message.payload = record.value.as_deref();
    message.timestamp = record.timestamp_ms;
    message.headers = headers(record);
    message
}

type Message<'a> = BaseRecord<'a, [u8], [u8], Box<oneshot::Sender<Outcome>>>;

fn headers(record: &ProduceRecord) -> Option<OwnedHeaders> {
    let first = OwnedHeaders::new_with_capacity(record.headers.len());
    let add = |headers: OwnedHeaders, (name, value): &(String, Option<bytes::Bytes>)| {
        headers.insert(Header { key: name, value: value.as_deref() })
    };
    (!record.headers.is_empty()).then(|| record.headers.iter().fold(first, add))
}

pub fn unavailable(reason: &str) -> ProduceError {
    ProduceError::Unavailable { reason: reason.to_owned(), written: Written::No }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rdkafka::bindings as rd;
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::client::config::client_config;
    use crate::properties::Scope;

    fn send(producer: &Producer) -> Option<Outcome> {
        let record = ProduceRecord { topic: "t".to_owned(), value: Some("v".into()), ..ProduceRecord::default() };
        producer.send(&record).ok().and_then(|receiver| receiver.blocking_recv().ok())
    }

    #[test]
    fn a_producer_that_breaks_is_replaced() {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic("t", 1, 1).expect("a topic");
        let properties = BTreeMap::from([("bootstrap.servers".to_owned(), cluster.bootstrap_servers())]);
        let config = client_config(&properties, Scope::Producer).expect("fine");
        let producer = Producer::start(config, Health::new("main", "producer")).expect("started");
        assert_eq!(send(&producer).and_then(Result::ok).and_then(|p| p.offset), Some(0));
        let broken = producer.current();
        // SAFETY: the client is alive; the reason is a terminated string.
        unsafe {
            let why = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
            rd::rd_kafka_test_fatal_error(broken.client().native_ptr(), why, c"as a test".as_ptr());
        }
        // Until the new producer is in place, records are refused; none is acknowledged by the broken one.
        let began = Instant::now();
        let offset = loop {
            if let Some(Ok(produced)) = send(&producer) {
                break produced.offset;
            }
            assert!(began.elapsed() < FLUSH_TIMEOUT, "the producer is not replaced");
        };
        assert_eq!(offset, Some(1));
        assert!(!Arc::ptr_eq(&broken, &producer.current()));
        drop(broken);
        producer.close();
        assert!(send(&producer).is_none());
    }
}
