//! The transactional producer of one partition of claims. Its `transactional.id` is that of the partition, so the next owner's
//! [`Writer::open`] ends what this one had begun, and from then on it can commit nothing. (KIP-98, KIP-447)

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{BaseProducer, Producer as _};
use tokio::sync::oneshot;

use super::Stop;
use crate::client::arrivals::Arrivals;
use crate::client::config::{self, client_config};
use crate::client::delivery::{Failure, Outcome, classify};
use crate::client::health::{Health, WriterContext};
use crate::client::{KafkaCluster, producer};
use crate::properties::Scope;
use crate::{ProduceError, ProduceRecord, Produced};

/// After which the cluster ends a transaction that nobody goes on with, which until then holds back whoever reads committed records.
/// (Kafka property `transaction.timeout.ms`)
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a record of a transaction may take. (Kafka property `delivery.timeout.ms`)
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// The cluster is still ending the last transaction when the next one begins, and says so: it is asked again soon. (Kafka property
/// `retry.backoff.ms`, which doubles with each try)
const RETRY_BACKOFF_MS: &str = "2";
/// How long one call may block before it is looked whether to go on.
const SLICE: Duration = Duration::from_secs(1);
/// As [`SLICE`], where deliveries have to be served in between.
const SERVE: Duration = Duration::from_millis(100);
/// How long a call that is to be made again waits for something new to be served before that.
const AGAIN: Duration = Duration::from_millis(1);

pub struct Writer {
    arrivals: Arrivals<WriterContext>,
    producer: Arc<BaseProducer<WriterContext>>,
    stop: Arc<Stop>,
}

/// Why a transaction was not committed. Of what was sent before, librdkafka leaves a gap in its sequence numbers that the cluster
/// would stumble over in a later transaction: so this is the end of the producer in any case.
#[derive(Debug)]
pub enum Fault {
    /// It was ended.
    Aborted(String),
    /// As [`Fault::Aborted`], because the topic never takes one of the records, or not together with its neighbours: which one.
    Refused(usize, String),
    /// It is not known what became of the transaction, or somebody else owns the partition.
    Broken(String),
}

impl Writer {
    /// Ends what the former owner has begun. Blocks until that is done. `None`: stopped.
    ///
    /// # Errors
    /// Why the cluster lets us have no transactions.
    pub fn open(cluster: &KafkaCluster, id: &str, batch_bytes: Option<u64>, stop: &Arc<Stop>) -> Result<Option<Self>, String> {
        let mut properties = client_config(&cluster.options.properties, Scope::Producer)?;
        let millis = |time: Duration| time.as_millis().to_string();
        properties.set("transactional.id", id).set("enable.idempotence", "true").set("acks", "all");
        properties.set("transaction.timeout.ms", millis(TRANSACTION_TIMEOUT));
        properties.set("delivery.timeout.ms", millis(DELIVERY_TIMEOUT));
        properties.set("retry.backoff.ms", RETRY_BACKOFF_MS);
        properties.remove("max.in.flight");
        // Nobody asks how this client is.
        properties.set("statistics.interval.ms", "0");
        // The topic's limit holds for whole batches.
        if let Some(bytes) = batch_bytes {
            let own = properties.get("batch.size").and_then(|size| size.parse().ok()).unwrap_or(1_000_000);
            properties.set("batch.size", bytes.clamp(1, own).to_string());
        }
        let health = Health::new(&cluster.options.name, "claims");
        let context = WriterContext { health, broken: AtomicBool::new(false) };
        let producer: BaseProducer<_> = properties.create_with_context(context).map_err(|e| config::refusal(&e))?;
        let producer = Arc::new(producer);
        let arrivals = Arrivals::of(&producer);
        let began = Instant::now();
        loop {
            match producer.init_transactions(SLICE) {
                Ok(()) => return Ok(Some(Self { arrivals, producer, stop: Arc::clone(stop) })),
                Err(_) if stop.is_set() => return Ok(None),
                Err(error) if is_retriable(&error) && began.elapsed() < 2 * TRANSACTION_TIMEOUT => {}
                Err(error) => return Err(format!("no transactions as {id}: {error}")),
            }
            arrivals.wait(AGAIN);
        }
    }

    /// Writes the records and notes the offsets, all or nothing. Blocks.
    pub fn write(
        &self,
        records: &[&ProduceRecord],
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
    ) -> Result<Vec<Produced>, Fault> {
        let deadline = Instant::now() + TRANSACTION_TIMEOUT;
        self.producer.begin_transaction().map_err(|e| Fault::Broken(e.to_string()))?;
        let mut sent = Vec::with_capacity(records.len());
        for record in records {
            let (sender, receiver) = oneshot::channel();
            if let Err((error, _)) = self.producer.send(producer::message(record, sender)) {
                let code = error.rdkafka_error_code().unwrap_or(rdkafka::error::RDKafkaErrorCode::Unknown);
                let is_final = is_final(Failure { code, written: crate::Written::No }, record);
                let why = format!("topic {}: {error}", record.topic);
                return Err(self.abort(if is_final { Fault::Refused(sent.len(), why) } else { Fault::Aborted(why) }));
            }
            sent.push(Sent { record, receiver, outcome: None });
        }
        let noted = self.until(deadline, || self.producer.send_offsets_to_transaction(offsets, group, SLICE));
        if let Err(error) = noted {
            return Err(self.fail(&error, &mut sent));
        }
        // Behind one that failed, the others wait for the transaction to be ended.
        let has_failed = |sent: &[Sent<'_>]| sent.iter().any(|one| matches!(one.outcome, Some(Err(_))));
        while !self.serve(&mut sent, SERVE) && !has_failed(&sent) && Instant::now() < deadline && !self.stop.is_over() {}
        if sent.iter().any(|sent| !matches!(sent.outcome, Some(Ok(_)))) {
            return Err(self.abort(fault(&sent, "records were not delivered")));
        }
        match self.until(deadline + TRANSACTION_TIMEOUT, || self.producer.commit_transaction(SERVE)) {
            Ok(()) => Ok(sent.into_iter().filter_map(|sent| sent.outcome?.ok()).collect()),
            Err(error) => Err(self.fail(&error, &mut sent)),
        }
    }

    /// Takes what was delivered, and when something is missing waits for more, at most that long; true when all is there.
    fn serve(&self, sent: &mut [Sent<'_>], wait: Duration) -> bool {
        self.arrivals.serve();
        if !take(sent) {
            self.arrivals.wait(wait);
        }
        take(sent)
    }

    /// Serves what the producer has to say while there is nothing to write; it would else pile up.
    pub fn idle(&self) {
        self.arrivals.serve();
    }

    /// Calls until it is done, or fails for good: what librdkafka says is retriable goes on where it was. A call may wait for records on
    /// their way, whose deliveries are served here.
    fn until(&self, deadline: Instant, mut call: impl FnMut() -> KafkaResult<()>) -> KafkaResult<()> {
        loop {
            match call() {
                Err(error) if is_retriable(&error) && Instant::now() < deadline && !self.stop.is_over() => {
                    self.arrivals.wait(AGAIN);
                }
                result => return result,
            }
        }
    }

    /// Ends a transaction that met an error. A record that was refused is the cause, if there is one.
    fn fail(&self, error: &KafkaError, sent: &mut [Sent<'_>]) -> Fault {
        match error {
            KafkaError::Transaction(cause) if cause.txn_requires_abort() => {
                let until = Instant::now() + SERVE;
                while !self.serve(sent, SERVE) && Instant::now() < until {}
                self.abort(fault(sent, &error.to_string()))
            }
            // Not known to be over, or over for good.
            _ => Fault::Broken(error.to_string()),
        }
    }

    fn abort(&self, why: Fault) -> Fault {
        let deadline = Instant::now() + TRANSACTION_TIMEOUT;
        match self.until(deadline, || self.producer.abort_transaction(SERVE)) {
            Ok(()) => why,
            Err(error) => Fault::Broken(error.to_string()),
        }
    }
}

/// A record of a transaction on its way.
struct Sent<'r> {
    record: &'r ProduceRecord,
    receiver: oneshot::Receiver<Outcome>,
    outcome: Option<Outcome>,
}

/// Notes what was delivered; true when all was.
fn take(sent: &mut [Sent<'_>]) -> bool {
    for one in sent.iter_mut().filter(|one| one.outcome.is_none()) {
        // Its sender is dropped with the producer at the latest.
        one.outcome = one.receiver.try_recv().ok();
    }
    sent.iter().all(|one| one.outcome.is_some())
}

/// What kept records out.
fn fault(sent: &[Sent<'_>], otherwise: &str) -> Fault {
    let failed = |(at, sent): (usize, &Sent<'_>)| {
        let failure = sent.outcome.and_then(Result::err)?;
        Some((at, format!("topic {}: {}", sent.record.topic, failure.code), is_final(failure, sent.record)))
    };
    let failures: Vec<_> = sent.iter().enumerate().filter_map(failed).collect();
    match failures.iter().find(|(.., is_final)| *is_final).or(failures.first()) {
        Some((at, why, true)) => Fault::Refused(*at, why.clone()),
        Some((_, why, false)) => Fault::Aborted(why.clone()),
        None => Fault::Aborted(otherwise.to_owned()),
    }
}

/// Whether the cluster would refuse the record again.
fn is_final(failure: Failure, record: &ProduceRecord) -> bool {
    use ProduceError as P;
    let error = classify(failure, &record.topic, record.partition, None);
    matches!(error, P::TooLarge { .. } | P::Invalid { .. } | P::UnknownPartition { .. })
}

fn is_retriable(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(cause) if cause.is_retriable() && !cause.is_fatal())
        // The wrapper's own, before it calls: deliveries have not been served yet.
        || matches!(error, KafkaError::Flush(rdkafka::error::RDKafkaErrorCode::OperationTimedOut))
}
