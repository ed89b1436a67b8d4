//! Reading a topic without a cache, for the command line.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode as E;

use super::admin;
use super::native::{self, Message, ReaderClient, RecordQueue, TopicHandle};
use crate::{AdminError, ConsumeFrom, ConsumedRecord};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_millis(100);
const BATCH_RECORDS_MAX: usize = 500;

/// Gives each record of a topic, in order within each partition, to `each`, until that breaks off. Unless `follow`, ends
/// where the partitions ended at the start. Blocks. The client must read nothing else.
///
/// # Errors
/// When the topic or the partition does not exist, or reading cannot go on.
pub fn consume(
    client: &Arc<ReaderClient>,
    name: &str,
    partition: Option<i32>,
    from: ConsumeFrom,
    follow: bool,
    each: &mut dyn FnMut(ConsumedRecord) -> ControlFlow<()>,
) -> Result<(), AdminError> {
    let found = admin::find_topic(client, name)?;
    let count = i32::try_from(found.leaders.len()).unwrap_or(i32::MAX);
    if let Some(wrong) = partition.filter(|p| !(0..count).contains(p)) {
        return Err(AdminError::Invalid(format!("topic {name} has no partition {wrong}: it has {count}, counted from 0")));
    }
    let handle = TopicHandle::new(client, name).ok_or_else(|| AdminError::UnknownTopic(name.to_owned()))?;
    let mut queue = RecordQueue::new(client, BATCH_RECORDS_MAX);
    // The end of each partition that is still read.
    let mut open = HashMap::new();
    for partition in partition.map_or(0..count, |p| p..p + 1) {
        let asked = client.fetch_watermarks(name, partition, ANSWER_TIMEOUT);
        let (low, high) = asked.map_err(|e| AdminError::Unavailable(e.to_string()))?;
        let offset = match from {
            ConsumeFrom::Earliest => low,
            ConsumeFrom::Latest => high,
            ConsumeFrom::Offset(offset) => offset.clamp(low, high),
        };
        if follow || offset < high {
            queue.start(&handle, partition, offset).map_err(AdminError::Unavailable)?;
            open.insert(partition, if follow { i64::MAX } else { high });
        }
    }
    let started: Vec<i32> = open.keys().copied().collect();
    let result = read(client, &mut queue, &mut open, each);
    for partition in started {
        queue.stop(&handle, partition);
    }
    result
}

/// Gives the records of one partition whose offsets lie in a range, as far as the cluster has them. Blocks. The client must read
/// nothing else, and can be used for another range when this one ended well.
///
/// # Errors
/// As for [`consume`].
pub fn range(
    client: &Arc<ReaderClient>,
    name: &str,
    partition: i32,
    range: Range<i64>,
    each: &mut dyn FnMut(ConsumedRecord) -> ControlFlow<()>,
) -> Result<(), AdminError> {
    let found = admin::find_topic(client, name)?;
    let count = found.leaders.len();
    if usize::try_from(partition).map_or(true, |p| p >= count) {
        return Err(AdminError::Invalid(format!("topic {name} has no partition {partition}: it has {count}, counted from 0")));
    }
    let handle = TopicHandle::new(client, name).ok_or_else(|| AdminError::UnknownTopic(name.to_owned()))?;
    let asked = client.fetch_watermarks(name, partition, ANSWER_TIMEOUT);
    let (low, high) = asked.map_err(|e| AdminError::Unavailable(e.to_string()))?;
    let (from, to) = (range.start.max(low), range.end.min(high));
    if from >= to {
        return Ok(());
    }
    let mut queue = RecordQueue::new(client, BATCH_RECORDS_MAX);
    queue.start(&handle, partition, from).map_err(AdminError::Unavailable)?;
    let result = read(client, &mut queue, &mut HashMap::from([(partition, to)]), each);
    queue.stop(&handle, partition);
    result
}

fn read(
    client: &ReaderClient,
    queue: &mut RecordQueue,
    open: &mut HashMap<i32, i64>,
    each: &mut dyn FnMut(ConsumedRecord) -> ControlFlow<()>,
) -> Result<(), AdminError> {
    while !open.is_empty() {
        native::serve_events(client);
        for message in queue.take(WAIT).iter() {
            let partition = message.partition();
            let Some(end) = open.get(&partition).copied() else { continue };
            let at_end = message.code().is(E::PartitionEOF);
            if message.code().is_error() && !at_end {
                return Err(AdminError::Unavailable(message.error_text()));
            }
            if !at_end && message.offset() < end && each(record(message)).is_break() {
                return Ok(());
            }
            // Without the marks of transactions the end may lie behind the last record.
            if end != i64::MAX && (at_end || message.offset() + 1 >= end) {
                open.remove(&partition);
            }
        }
    }
    Ok(())
}

fn record(message: Message<'_>) -> ConsumedRecord {
    let mut headers = Vec::new();
    message.each_header(|name, value| headers.push((name.to_string_lossy().into_owned(), value.map(Bytes::copy_from_slice))));
    ConsumedRecord {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().0,
        key: message.key().map(Bytes::copy_from_slice),
        value: message.value().map(Bytes::copy_from_slice),
        headers,
    }
}
