//! The one who answers request records: what a user would have behind the gateway.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::process::spawn;
use crate::{Error, Gateway, Result};

/// Copied from a request record to its reply.
const COPIED: [&str; 2] = ["tidegate-correlation-id", "traceparent"];
const REPLY_TO: &str = "tidegate-reply-to";

type Bytes = Option<Vec<u8>>;

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    pub key: Bytes,
    pub value: Bytes,
    pub headers: Vec<(String, Bytes)>,
}

/// A record to be written. Its fields are open: a reply need not be as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub topic: String,
    pub partition: Option<i32>,
    pub key: Bytes,
    pub value: Bytes,
    pub headers: Vec<(String, Bytes)>,
}

/// What a worker does with a record: no reply, one, or more.
pub type Answer = Box<dyn FnMut(&Record) -> Vec<Reply> + Send>;

/// Answers the records of one topic, from the first one on, in a thread. It reads and writes with the verbs of the command line, and
/// so on any cluster that the gateway's configuration names. Ends when dropped, once what was answered is written, or with the
/// gateway.
#[derive(Debug)]
pub struct Worker {
    consumer: Child,
    thread: Option<JoinHandle<()>>,
    faults: Faults,
}

/// What could not be read, answered or written.
type Faults = Arc<Mutex<Vec<String>>>;

/// A `tidegate topic produce`.
struct Producer {
    child: Child,
    input: Option<ChildStdin>,
    output: Option<JoinHandle<()>>,
}

impl Worker {
    /// Returns when it is under way. Both topics must exist.
    pub fn start(gateway: &Gateway, topic: &str, mut answer: Answer) -> Result<Self> {
        let (faults, kit) = (Faults::default(), gateway.verbs());
        let mut command = kit("topic consume", &[topic, "--follow"])?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut consumer = spawn(command).map_err(Error::doing("cannot start a consumer"))?;
        let output = consumer.stdout.take().ok_or_else(|| Error::new("the consumer has no output"))?;
        let noted = Arc::clone(&faults);
        let work = move || {
            let mut producers = BTreeMap::new();
            for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
                let replies = Record::parse(&line).map(|record| answer(&record));
                let written =
                    replies.and_then(|replies| replies.iter().try_for_each(|reply| write(&kit, &mut producers, reply, &noted)));
                if let Err(fault) = written {
                    note(&noted, fault.to_string());
                }
            }
        };
        Ok(Self { consumer, thread: Some(thread::spawn(work)), faults })
    }

    /// What went wrong so far; a test that expects nothing of the kind asserts that it is empty.
    pub fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.consumer.kill();
        let _ = self.consumer.wait();
        // A panic of the closure has been told on standard error.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Record {
    /// The first header of that name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).and_then(|(_, value)| std::str::from_utf8(value.as_deref()?).ok())
    }

    /// A line of `tidegate topic consume`.
    fn parse(line: &str) -> Result<Self> {
        let read: Value = serde_json::from_str(line).map_err(|cause| Error::new(format!("{cause} in {line}")))?;
        let number = |name: &str| read[name].as_i64().ok_or_else(|| Error::new(format!("no {name} in {line}")));
        let header = |header: &Value| Ok((header["name"].as_str().unwrap_or_default().to_owned(), bytes(header, "value")?));
        Ok(Self {
            partition: number("partition")? as i32,
            offset: number("offset")?,
            timestamp: number("timestamp")?,
            key: bytes(&read, "key")?,
            value: bytes(&read, "value")?,
            headers: read["headers"].as_array().into_iter().flatten().map(header).collect::<Result<_>>()?,
        })
    }
}

impl Reply {
    /// A reply with no value yet and status 200: to where the request says, with what is to be copied from it. `None` for a record
    /// that wants none.
    pub fn to(request: &Record) -> Option<Self> {
        let topic = request.header(REPLY_TO)?.to_owned();
        let copied = |name: &&str| Some(((*name).to_owned(), Some(request.header(name)?.as_bytes().to_vec())));
        let headers = COPIED.iter().filter_map(copied).collect();
        Some(Self { topic, partition: None, key: request.key.clone(), value: None, headers }.header(":status", "200"))
    }

    /// Sets a header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), Some(value.as_ref().to_vec())));
        self
    }

    pub fn value(mut self, value: impl AsRef<[u8]>) -> Self {
        self.value = Some(value.as_ref().to_vec());
        self
    }

    /// A value with its content type.
    pub fn json(self, value: &Value) -> Self {
        self.header("content-type", "application/json").value(value.to_string())
    }

    /// A line for `tidegate topic produce`.
    fn line(&self) -> String {
        let mut line = Map::new();
        put(&mut line, "key", self.key.as_deref());
        put(&mut line, "value", self.value.as_deref());
        if let Some(partition) = self.partition {
            line.insert("partition".into(), partition.into());
        }
        let header = |(name, value): &(String, Bytes)| {
            let mut header = Map::from_iter([("name".to_owned(), json!(name))]);
            put(&mut header, "value", value.as_deref());
            Value::Object(header)
        };
        line.insert("headers".into(), self.headers.iter().map(header).collect());
        format!("{}\n", Value::Object(line))
    }
}

/// A member that is text, or base64 under another name, or absent.
fn bytes(of: &Value, name: &str) -> Result<Bytes> {
    match (of[name].as_str(), of[format!("{name}_base64")].as_str()) {
        (Some(text), _) => Ok(Some(text.as_bytes().to_vec())),
        (None, Some(text)) => STANDARD.decode(text).map(Some).map_err(|cause| Error::new(format!("{name}: {cause}"))),
        (None, None) => Ok(None),
    }
}

fn put(line: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(std::str::from_utf8) {
        None => None,
        Some(Ok(text)) => line.insert(name.to_owned(), text.into()),
        Some(Err(_)) => line.insert(format!("{name}_base64"), bytes.map(|b| STANDARD.encode(b)).into()),
    };
}

fn note(faults: &Faults, fault: String) {
    faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
}

/// Through the producer of the topic; the first reply starts it.
fn write(
    kit: &impl Fn(&str, &[&str]) -> Result<Command>,
    producers: &mut BTreeMap<String, Producer>,
    reply: &Reply,
    faults: &Faults,
) -> Result<()> {
    if !producers.contains_key(&reply.topic) {
        producers.insert(reply.topic.clone(), Producer::start(kit("topic produce", &[&reply.topic])?, faults)?);
    }
    let input = producers.get_mut(&reply.topic).and_then(|producer| producer.input.as_mut());
    let input = input.ok_or_else(|| Error::new("the producer has no input"))?;
    input.write_all(reply.line().as_bytes()).map_err(Error::doing(format!("cannot write to {}", reply.topic)))
}

impl Producer {
    fn start(mut command: Command, faults: &Faults) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(command).map_err(Error::doing("cannot start a producer"))?;
        let (input, faults) = (child.stdin.take(), Arc::clone(faults));
        let told = child.stdout.take().map(|output| {
            thread::spawn(move || {
                let lines = BufReader::new(output).lines().map_while(std::io::Result::ok);
                lines.filter(|line| line.contains("\"error\"")).for_each(|line| note(&faults, line));
            })
        });
        Ok(Self { child, input, output: told })
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // The end of its input: it writes what it has, and ends. Its exit code is that of errors which its output tells.
        drop(self.input.take());
        let _ = self.child.wait();
        let _ = self.output.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let line = r#"{"partition":1,"offset":2,"timestamp":3,"key":"k","value_base64":"/w==",
            "headers":[{"name":"tidegate-reply-to","value":"r"},{"name":"tidegate-correlation-id","value":"c"},{"name":"n","value":null}]}"#;
        let headers = [("tidegate-reply-to", Some("r")), ("tidegate-correlation-id", Some("c")), ("n", None)];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.map(|v| v.as_bytes().to_vec()))).to_vec();
        let read = Record::parse(line).expect("a record");
        let key = Some(b"k".to_vec());
        assert_eq!(read, Record { partition: 1, offset: 2, timestamp: 3, key, value: Some(vec![0xff]), headers });
        assert!(Record::parse(r#"{"partition":1,"error":"damaged"}"#).is_err());
    }

    #[test]
    fn replies_are_lines() {
        let mut request = Record { partition: 0, offset: 0, timestamp: 0, key: None, value: None, headers: Vec::new() };
        assert_eq!(Reply::to(&request), None);
        let headers = [("x", "y"), (REPLY_TO, "r"), ("tidegate-correlation-id", "c")];
        request.headers = headers.map(|(name, value)| (name.to_owned(), Some(value.as_bytes().to_vec()))).to_vec();
        let reply = Reply::to(&request).expect("a reply").header(":status", "201").value([0xff]);
        assert_eq!(reply.topic, "r");
        let headers = json!([{ "name": "tidegate-correlation-id", "value": "c" }, { "name": ":status", "value": "201" }]);
        let line: Value = serde_json::from_str(&reply.line()).expect("JSON");
        assert_eq!(line, json!({ "value_base64": "/w==", "headers": headers }));
    }
}
