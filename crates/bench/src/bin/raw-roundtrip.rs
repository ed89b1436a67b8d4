//! What an exchange costs without a gateway: librdkafka writes a request record, a worker answers it, librdkafka reads the reply.
//! The worker is this program, too, and serves the gateway as well.

use std::error::Error;
use std::io::{BufRead, Write, stdin, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bench::{Latencies, Pace, WARM_UP};
use clap::{Args, Parser, Subcommand};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::{Value, json};

const ID: &str = "tidegate-correlation-id";
const REPLY_TO: &str = "tidegate-reply-to";
/// For one answer of the broker.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest silence before a run counts as broken.
const SILENCE: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Sends requests and times their replies. Prints one line of JSON.
    Measure(Measure),
    /// Answers requests until it is killed: the value as it came, to the topic that the request names.
    Echo {
        #[arg(long)]
        bootstrap: String,
        #[arg(long, required = true)]
        topic: Vec<String>,
    },
    /// The same between `tidegate topic consume --follow` and `tidegate topic produce`.
    EchoLines,
    /// Writes replies that nobody waits for.
    Fill {
        #[arg(long)]
        bootstrap: String,
        #[arg(long)]
        topic: String,
        #[arg(long)]
        records: u64,
    },
}

#[derive(Args)]
struct Measure {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    requests: String,
    #[arg(long)]
    replies: String,
    #[arg(long, default_value_t = 256)]
    bytes: usize,
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Requests per second, whatever becomes of them.
    #[arg(long, conflicts_with = "in_flight", required_unless_present = "in_flight")]
    rate: Option<u32>,
    /// As many as can be, with so many at a time.
    #[arg(long)]
    in_flight: Option<u64>,
}

type Replies = ThreadedProducer<DefaultProducerContext>;

fn main() -> Result<(), Box<dyn Error>> {
    match Cli::parse().verb {
        Verb::Measure(args) => println!("{}", measure(&args)?),
        Verb::Echo { bootstrap, topic } => echo(&bootstrap, &topic)?,
        Verb::EchoLines => echo_lines()?,
        Verb::Fill { bootstrap, topic, records } => fill(&bootstrap, &topic, records)?,
    }
    Ok(())
}

/// The id of a request is when it was due, in nanoseconds since the start: so nothing has to be remembered.
fn measure(args: &Measure) -> Result<Value, Box<dyn Error>> {
    let consumer = consumer(&args.bootstrap, std::slice::from_ref(&args.replies))?;
    let producer = producer(&args.bootstrap)?;
    producer.client().fetch_metadata(Some(&args.requests), ANSWER_TIMEOUT)?;
    let (start, seen) = (Instant::now(), Arc::<AtomicU64>::default());
    let pace = Pace::new(args.rate.unwrap_or(0), args.seconds);
    let until = WARM_UP + Duration::from_secs(args.seconds.into());
    let total = args.rate.map(|_| pace.total());
    let heard = Arc::clone(&seen);
    let listener = thread::spawn(move || listen(&consumer, start, total, until, &heard));
    let value = vec![b'v'; args.bytes];
    let send = |due: Instant| {
        let id = format!("{:022}", due.saturating_duration_since(start).as_nanos());
        let headers = [(ID, id.as_bytes()), (REPLY_TO, args.replies.as_bytes())];
        write(&producer, &args.requests, &headers, &value)
    };
    if let Some(in_flight) = args.in_flight {
        let mut sent = 0;
        while start.elapsed() < until {
            if sent - seen.load(Ordering::Relaxed) < in_flight {
                send(Instant::now())?;
                sent += 1;
            } else {
                thread::park_timeout(Duration::from_micros(50));
            }
        }
    } else {
        let mut fault = None;
        pace.run(|due| fault = fault.take().or(send(due).err()));
        fault.map_or(Ok(()), Err)?;
    }
    let latencies = listener.join().map_err(|_| "the listener failed")??;
    let per_second = latencies.len() as f64 / f64::from(args.seconds);
    let mut report = latencies.report();
    report["per_second"] = per_second.into();
    Ok(report)
}

/// Times replies until `total` have come, or, without that, until the time is over.
fn listen(
    consumer: &BaseConsumer,
    start: Instant,
    total: Option<u64>,
    until: Duration,
    seen: &AtomicU64,
) -> Result<Latencies, String> {
    let (mut latencies, mut last) = (Latencies::default(), Instant::now());
    while total.map_or(start.elapsed() < until, |total| seen.load(Ordering::Relaxed) < total) {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else {
            if last.elapsed() > SILENCE {
                return Err(format!("no reply for {SILENCE:?}, after {}", seen.load(Ordering::Relaxed)));
            }
            continue;
        };
        last = Instant::now();
        let message = message.map_err(|cause| cause.to_string())?;
        let headers = message.headers().ok_or("a reply without headers")?;
        let id = headers.iter().find(|header| header.key == ID).and_then(|header| header.value);
        let due = id.and_then(|id| std::str::from_utf8(id).ok()?.parse().ok()).map(Duration::from_nanos);
        let due = due.ok_or("a reply without an id")?;
        seen.fetch_add(1, Ordering::Relaxed);
        if due >= WARM_UP {
            latencies.add(start.elapsed().saturating_sub(due));
        }
    }
    Ok(latencies)
}

fn echo(bootstrap: &str, topics: &[String]) -> Result<(), Box<dyn Error>> {
    let (consumer, producer) = (consumer(bootstrap, topics)?, producer(bootstrap)?);
    println!("echoing");
    loop {
        let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
        let message = message?;
        let Some(headers) = message.headers() else { continue };
        let header = |name| headers.iter().find(|header| header.key == name).and_then(|header| header.value);
        let (Some(id), Some(to)) = (header(ID), header(REPLY_TO)) else { continue };
        let to = std::str::from_utf8(to)?;
        write(&producer, to, &[(ID, id), (":status", b"200")], message.payload().unwrap_or_default())?;
    }
}

fn echo_lines() -> Result<(), Box<dyn Error>> {
    let mut out = stdout().lock();
    for line in stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let header = request["headers"].as_array().into_iter().flatten().find(|header| header["name"] == ID);
        let Some(id) = header.map(|header| &header["value"]) else { continue };
        let headers = json!([{ "name": ID, "value": id }, { "name": ":status", "value": "200" }]);
        writeln!(out, "{}", json!({ "value": request["value"], "headers": headers }))?;
        out.flush()?;
    }
    Ok(())
}

fn fill(bootstrap: &str, topic: &str, records: u64) -> Result<(), Box<dyn Error>> {
    let producer = producer(bootstrap)?;
    for n in 0..records {
        // 22 characters of base64url, the last of which has two bits only.
        let id = format!("old{n:018}A");
        write(&producer, topic, &[(ID, id.as_bytes()), (":status", b"200")], b"an old reply")?;
    }
    producer.flush(ANSWER_TIMEOUT)?;
    Ok(())
}

fn write(producer: &Replies, topic: &str, headers: &[(&str, &[u8])], value: &[u8]) -> Result<(), KafkaError> {
    let owned = headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |all, (key, value)| {
        all.insert(Header { key, value: Some(*value) })
    });
    let mut record = BaseRecord::<(), [u8]>::to(topic).payload(value).headers(owned);
    loop {
        match producer.send(record) {
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                producer.poll(Duration::from_millis(1));
            }
            other => return other.map_err(|(cause, _)| cause),
        }
    }
}

/// As the gateway's: acknowledged by all, without linger.
fn producer(bootstrap: &str) -> Result<Replies, KafkaError> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("acks", "all").set("enable.idempotence", "true").set("linger.ms", "0");
    config.set("partitioner", "murmur2_random").create()
}

/// Reads all partitions from their present ends on, without a group.
fn consumer(bootstrap: &str, topics: &[String]) -> Result<BaseConsumer, Box<dyn Error>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("group.id", "raw-roundtrip").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.set("fetch.queue.backoff.ms", "5").create()?;
    let mut assignment = TopicPartitionList::new();
    let mut partitions = Vec::new();
    for topic in topics {
        let told = consumer.fetch_metadata(Some(topic), ANSWER_TIMEOUT)?;
        let known = told.topics().first().filter(|topic| !topic.partitions().is_empty()).ok_or("no such topic")?;
        partitions.extend(known.partitions().iter().map(|partition| (topic, partition.id())));
    }
    for (topic, partition) in partitions {
        let (_, end) = consumer.fetch_watermarks(topic, partition, ANSWER_TIMEOUT)?;
        assignment.add_partition_offset(topic, partition, Offset::Offset(end))?;
    }
    consumer.assign(&assignment)?;
    Ok(consumer)
}
