//! Consumes one partition from its beginning to its end with librdkafka and throws the records away. Prints one line of JSON.

use std::time::{Duration, Instant};

use clap::Parser;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// Longest silence of the broker before the run counts as broken.
const SILENCE: Duration = Duration::from_secs(30);

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
    config.set("enable.partition.eof", "true").set("isolation.level", "read_committed");
    for property in &args.properties {
        let (name, value) = property.split_once('=').ok_or("a property is NAME=VALUE")?;
        config.set(name, value);
    }
    let consumer: BaseConsumer = config.create()?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(&args.topic, args.partition, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    let (mut records, mut bytes) = (0_u64, 0_usize);
    loop {
        match consumer.poll(SILENCE) {
            Some(Ok(message)) => {
                records += 1;
                bytes += message.payload_len();
            }
            Some(Err(KafkaError::PartitionEOF(_))) => break,
            Some(Err(cause)) => return Err(cause.into()),
            None => return Err(format!("no record and no end for {SILENCE:?}").into()),
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = records as f64 / seconds;
    println!("{}", serde_json::json!({ "records": records, "bytes": bytes, "seconds": seconds, "records_per_second": rate }));
    Ok(())
}
