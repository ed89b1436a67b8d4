//! Consumes one partition from its beginning to its end with librdkafka and throws the records away. Prints one line of JSON.
//!
//! It is a limit to stand beside, so it takes librdkafka's fastest way: batches from its queue, and a short wait when that queue is
//! full. With the library's own default (`fetch.queue.backoff.ms=1000`) it would sleep for most of a run that a fast broker feeds.

use std::ptr;
use std::time::{Duration, Instant};

use clap::Parser;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, Offset, TopicPartitionList, bindings as rd};

/// Longest silence of the broker before the run counts as broken.
const SILENCE: Duration = Duration::from_secs(30);
const BATCH: usize = 1_000;
/// Librdkafka waits so long for a batch to become full, in milliseconds: the last one never does.
const BATCH_WAIT_MS: i32 = 5;

#[derive(Parser)]
struct Args {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 0)]
    partition: i32,
    /// One more property of librdkafka, NAME=VALUE.
    #[arg(long = "property")]
    properties: Vec<String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let start = Instant::now();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &args.bootstrap).set("group.id", "raw-consume").set("enable.auto.commit", "false");
    config.set("enable.partition.eof", "true").set("isolation.level", "read_committed").set("fetch.queue.backoff.ms", "5");
    for property in &args.properties {
        let (name, value) = property.split_once('=').ok_or("a property is NAME=VALUE")?;
        config.set(name, value);
    }
    let consumer: BaseConsumer = config.create()?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(&args.topic, args.partition, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    let (records, bytes) = drain(&consumer)?;
    let seconds = start.elapsed().as_secs_f64();
    let rate = records as f64 / seconds;
    println!("{}", serde_json::json!({ "records": records, "bytes": bytes, "seconds": seconds, "records_per_second": rate }));
    Ok(())
}

/// Records and bytes up to the end of the partition.
fn drain(consumer: &BaseConsumer) -> Result<(u64, usize), String> {
    // SAFETY: the pointer is valid while `consumer` lives, which is longer than this function.
    let queue = unsafe { rd::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
    let mut batch = [ptr::null_mut::<rd::rd_kafka_message_t>(); BATCH];
    let (mut records, mut bytes) = (0_u64, 0_usize);
    let mut heard = Instant::now();
    let outcome = loop {
        // SAFETY: `queue` is not destroyed before the end of the function, and `batch` has room for BATCH pointers.
        let count = unsafe { rd::rd_kafka_consume_batch_queue(queue, BATCH_WAIT_MS, batch.as_mut_ptr(), BATCH) };
        let Ok(count) = usize::try_from(count) else { break Err("the queue cannot be read".to_owned()) };
        if count > 0 {
            heard = Instant::now();
        } else if heard.elapsed() > SILENCE {
            break Err(format!("no record and no end for {SILENCE:?}"));
        }
        let mut end = None;
        for message in &batch[..count] {
            // SAFETY: librdkafka filled in this pointer and gave the message to us; it is read before it is destroyed, once.
            let (fault, length) = unsafe {
                let seen = ((**message).err, (**message).len);
                rd::rd_kafka_message_destroy(*message);
                seen
            };
            match fault {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {
                    records += 1;
                    bytes += length;
                }
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => end = Some(Ok(())),
                other => end = Some(Err(format!("the consumer failed: {other:?}"))),
            }
        }
        if let Some(outcome) = end {
            break outcome;
        }
    };
    // SAFETY: the reference taken above is given back once, and not used again.
    unsafe { rd::rd_kafka_queue_destroy(queue) };
    outcome.map(|()| (records, bytes))
}
