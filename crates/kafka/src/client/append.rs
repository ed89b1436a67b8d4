//! From librdkafka's messages to a log's records, without copying their bytes.

use std::borrow::Cow;

use message_cache::{Header, NewRecord, PartitionLog, TimestampType};

use super::native::Message;

/// What came of an append.
pub struct Appended {
    /// How many records the log took.
    pub records: u64,
    /// Why it took no more.
    pub problem: Option<String>,
}

/// Appends records of one partition that are new to its log.
pub fn append(log: &PartitionLog, messages: &[Message<'_>]) -> Appended {
    let before = log.end_offset();
    // After a restart the first batch may begin below the offset that was asked for.
    let known = messages.iter().take_while(|m| m.offset() < before).count();
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
            Appended { records: taken, problem: Some(error.to_string()) }
        }
    }
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
