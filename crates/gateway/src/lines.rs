//! Records as JSON lines: what `topic produce` reads and `topic consume` prints.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kafka::ProduceRecord;
use serde::{Deserialize, Serialize};

/// One record. Text stands as it is, other bytes as base64 under the name with `_base64`; without either, the key is null
/// or the record is a tombstone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// Told by the cluster; ignored when a record is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// Milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    #[serde(default)]
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    #[serde(default)]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderLine>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderLine {
    pub name: String,
    #[serde(default)]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("no record in JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}_base64 is not base64: {1}")]
    Base64(&'static str, base64::DecodeError),
    #[error("{0} and {0}_base64 exclude each other")]
    Both(&'static str),
}

impl RecordLine {
    /// A record that was read.
    pub fn new<'a>(
        partition: i32,
        offset: i64,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> Self {
        let (key, key_base64) = split(key);
        let (value, value_base64) = split(value);
        let headers = headers.map(|(name, value)| {
            let (value, value_base64) = split(value);
            HeaderLine { name: name.to_owned(), value, value_base64 }
        });
        Self {
            partition: Some(partition),
            offset: Some(offset),
            timestamp: Some(timestamp_ms),
            key,
            key_base64,
            value,
            value_base64,
            headers: headers.collect(),
        }
    }

    pub fn parse(line: &[u8]) -> Result<Self, LineError> {
        Ok(serde_json::from_slice(line)?)
    }

    pub fn into_record(self, topic: &str) -> Result<ProduceRecord, LineError> {
        let header = |h: HeaderLine| Ok((h.name, join("value", h.value, h.value_base64)?));
        Ok(ProduceRecord {
            topic: topic.to_owned(),
            partition: self.partition,
            key: join("key", self.key, self.key_base64)?,
            value: join("value", self.value, self.value_base64)?,
            headers: self.headers.into_iter().map(header).collect::<Result<_, LineError>>()?,
            timestamp_ms: self.timestamp,
        })
    }
}

fn split(bytes: Option<&[u8]>) -> (Option<String>, Option<String>) {
    match bytes.map(std::str::from_utf8) {
        None => (None, None),
        Some(Ok(text)) => (Some(text.to_owned()), None),
        Some(Err(_)) => (None, bytes.map(|b| STANDARD.encode(b))),
    }
}

fn join(what: &'static str, text: Option<String>, base64: Option<String>) -> Result<Option<Bytes>, LineError> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(LineError::Both(what)),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(text)) => STANDARD.decode(text).map(|b| Some(b.into())).map_err(|e| LineError::Base64(what, e)),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_written() {
        for (key, value) in
            [(Some(&b"k"[..]), Some(&b"{\"a\":1}"[..])), (None, None), (Some(b"\xff"), Some(b"")), (Some(b""), Some(b"\0\xfe"))]
        {
            let headers = [("a", Some(&b"1"[..])), ("a", None), ("b", Some(b"\xff"))];
            let line = RecordLine::new(2, 7, 1000, key, value, headers.into_iter());
            let text = serde_json::to_vec(&line).unwrap();
            let record = RecordLine::parse(&text).unwrap().into_record("t").unwrap();
            assert_eq!((record.key.as_deref(), record.value.as_deref()), (key, value));
            assert_eq!((record.partition, record.timestamp_ms), (Some(2), Some(1000)));
            let read: Vec<_> = record.headers.iter().map(|(n, v)| (n.as_str(), v.as_deref())).collect();
            assert_eq!(read, headers);
        }
    }

    #[test]
    fn faults_are_named() {
        for (line, text) in [
            ("{", "no record in JSON: EOF"),
            (r#"{"vlaue":"x"}"#, "unknown field `vlaue`"),
            (r#"{"value_base64":"!"}"#, "value_base64 is not base64"),
            (r#"{"key":"a","key_base64":"YQ=="}"#, "key and key_base64 exclude each other"),
        ] {
            let error = RecordLine::parse(line.as_bytes()).and_then(|l| l.into_record("t")).unwrap_err().to_string();
            assert!(error.contains(text), "{line}: {error}");
        }
    }
}
