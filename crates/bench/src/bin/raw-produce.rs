//! Produces with librdkafka and nothing around it: a fixed number of records in flight, the next one when one is acknowledged. With 64 in
//! flight it batches as 64 HTTP connections let a gateway batch; with many it fills a topic. Prints one line of JSON.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use clap::Parser;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

#[derive(Parser)]
struct Args {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    /// Bytes of each value.
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Stop after so many seconds.
    #[arg(long, conflicts_with = "records")]
    seconds: Option<u64>,
    /// Stop after so many records.
    #[arg(long, required_unless_present = "seconds")]
    records: Option<u64>,
    /// Give record N the key `kN`.
    #[arg(long)]
    keys: bool,
    /// One more property of librdkafka, NAME=VALUE.
    #[arg(long = "property")]
    properties: Vec<String>,
}

/// Tells the sender's loop of every acknowledgement.
struct Acks(Sender<Option<KafkaError>>);

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        // The loop has gone: nobody counts any more.
        let _ = self.0.send(result.as_ref().err().map(|(cause, message)| {
            eprintln!("not written: {cause} ({} bytes)", message.payload_len());
            cause.clone()
        }));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &args.bootstrap).set("acks", "all").set("enable.idempotence", "true").set("linger.ms", "0");
    for property in &args.properties {
        let (name, value) = property.split_once('=').ok_or("a property is NAME=VALUE")?;
        config.set(name, value);
    }
    let (acks, acknowledged) = channel();
    let producer: ThreadedProducer<Acks> = config.create_with_context(Acks(acks))?;
    // Connections and metadata first: what is measured is producing.
    producer.client().fetch_metadata(Some(&args.topic), Duration::from_secs(30))?;
    let (records, seconds) = produce(&producer, &acknowledged, &args)?;
    let line = serde_json::json!({ "records": records, "seconds": seconds, "records_per_second": records as f64 / seconds });
    println!("{line}");
    Ok(())
}

/// Acknowledged records and the time they took.
fn produce(
    producer: &ThreadedProducer<Acks>,
    acknowledged: &Receiver<Option<KafkaError>>,
    args: &Args,
) -> Result<(u64, f64), Box<dyn std::error::Error>> {
    let value = vec![b'v'; args.bytes];
    let wanted = args.records.unwrap_or(u64::MAX);
    let start = Instant::now();
    let deadline = args.seconds.map(|s| start + Duration::from_secs(s));
    let (mut sent, mut done) = (0_u64, 0_u64);
    loop {
        let over = sent >= wanted || deadline.is_some_and(|d| Instant::now() >= d);
        if over && done == sent {
            return Ok((done, start.elapsed().as_secs_f64()));
        }
        if !over && sent - done < args.in_flight as u64 {
            send(producer, &args.topic, args.keys.then(|| format!("k{sent}")), &value)?;
            sent += 1;
            continue;
        }
        if let Some(cause) = acknowledged.recv()? {
            return Err(cause.into());
        }
        done += 1;
    }
}

fn send(producer: &ThreadedProducer<Acks>, topic: &str, key: Option<String>, value: &[u8]) -> Result<(), KafkaError> {
    loop {
        let mut record = BaseRecord::<str, [u8]>::to(topic).payload(value);
        record.key = key.as_deref();
        match producer.send(record) {
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => producer.poll(Duration::from_millis(1)),
            other => return other.map_err(|(cause, _)| cause),
        }
    }
}
