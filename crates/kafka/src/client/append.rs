//! From librdkafka's messages to a log's records, without copying their bytes.

use std::borrow::Cow;

use message_cache::{Header, NewRecord, PartitionLog, TimestampType};

use super::native::Message;
use super::resume::Reason;

/// What came of an append.
pub struct Appended {
    /// How many records the log took.
    pub records: u64,
    /// Why it took no more.
    pub problem: Option<(Reason, String)>,
}

/// Appends records of one partition that are new to its log.
pub fn append(log: &PartitionLog, messages: &[Message<'_>]) -> Appended {
    let before = log.end_offset();
    // After a restart the first batch may begin below the offset that was asked for.
    let known = messages.iter().take_while(|m| m.offset() < before).count();
    if let Some(problem) = diverged(log, &messages[..known]) {
        return Appended { records: 0, problem: Some((Reason::Diverged, problem)) };
    }
    let messages = &messages[known..];
    let Some(last) = messages.last() else {
        return Appended { records: 0, problem: None };
    };
    let names = collect_headers(messages);
    let headers: Vec<Header<'_>> = names.headers.iter().map(|(name, value)| Header { name, value: *value }).collect();
    let mut from = 0;
    let records = messages.iter().zip(&names.ends).map(|(message, to)| {
        let (timestamp_ms, appended) = message.timestamp();
        let record = NewRecord {
            offset: message.offset(),
            timestamp_ms,
            timestamp_type: if appended { TimestampType::LogAppend } else { TimestampType::Create },
            key: message.key(),
            value: message.value(),
            headers: &headers[from..*to],
        };
        from = *to;
        record
    });
    let records: Vec<NewRecord<'_>> = records.collect();
    match log.append(&records) {
        Ok(()) => Appended { records: records.len() as u64, problem: None },
        Err(error) => {
            let end = log.end_offset();
            let taken = records.iter().take_while(|r| r.offset < end).count() as u64;
            tracing::warn!(%error, offset = last.offset(), "fetched records cannot be cached");
            Appended { records: taken, problem: Some((Reason::Started, error.to_string())) }
        }
    }
}

/// Whether the last record of the log is another one in the cluster.
fn diverged(log: &PartitionLog, known: &[Message<'_>]) -> Option<String> {
    let (offset, _) = log.last().filter(|_| !known.is_empty())?;
    let told = known.iter().find(|m| m.offset() == offset)?;
    // One that has expired, or cannot be read, tells nothing.
    let cached = log.scan(offset).next()?.ok().filter(|r| r.offset() == offset)?;
    let same = (cached.timestamp_ms(), cached.key(), cached.value()) == (told.timestamp().0, told.key(), told.value());
    (!same).then(|| format!("offset {offset} holds another record than was cached: the cluster has lost records"))
}

#[derive(Default)]
struct Headers<'b> {
    headers: Vec<(Cow<'b, str>, Option<&'b [u8]>)>,
    /// Where the headers of each message end.
    ends: Vec<usize>,
}

fn collect_headers<'b>(messages: &[Message<'b>]) -> Headers<'b> {
    let mut found = Headers { headers: Vec::new(), ends: Vec::with_capacity(messages.len()) };
    for message in messages {
        // Kafka's protocol says that a name is UTF-8, but no broker checks it.
        message.each_header(|name, value| found.headers.push((name.to_string_lossy(), value)));
        found.ends.push(found.headers.len());
    }
    found
}
