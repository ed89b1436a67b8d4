//! `tidegate topic`: control requests, answered by the running gateway or, if none runs, here.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};

use bytes::Bytes;
use gateway::RecordLine;
use gateway::control::{CONTROL_BODY_BYTES_MAX, From as ConsumeFrom};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use message_cache::{LogError, is_legal_topic_name};
use serde_json::json;
use tokio::sync::mpsc::{Receiver, channel};

use crate::cli::{Format, TopicVerb, Where};
use crate::door::{Door, Need, nudge, refuse, whole};
use crate::failure::{CLUSTER, Failure, USAGE_CODE};
use crate::write_out;

/// Lines that are taken from the input in one go, if they are there.
const GROUP_RECORDS: usize = 100;
/// Bytes of them, unless one line is longer.
const GROUP_BYTES: usize = 64 << 10;
/// Groups that wait for the cluster.
const GROUPS_MAX: usize = 16;
/// Groups sent in one control request.
const BATCH_GROUPS: usize = 10;
/// No group is added to a batch that is as long. As JSON it may become longer than it was raw.
const BATCH_BYTES: usize = CONTROL_BODY_BYTES_MAX / 8;

pub fn topic(verb: TopicVerb) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|e| Failure::other(format!("no runtime: {e}")))?.block_on(perform(verb))
}

async fn perform(verb: TopicVerb) -> Result<(), Failure> {
    match verb {
        TopicVerb::Ls { at } => Door::open(&at, Need::Nothing).await?.print(Method::GET, "/topics", Bytes::new()).await,
        TopicVerb::Describe { at, topic } => {
            let path = path_of(&topic)?;
            Door::open(&at, Need::Nothing).await?.print(Method::GET, &path, Bytes::new()).await
        }
        TopicVerb::Create { at, topic, partitions, replication, config } => {
            let config = pairs(&config)?;
            let body = json!({ "name": topic, "partitions": partitions, "replication": replication, "config": config });
            let mut door = Door::open(&at, Need::Nothing).await?;
            door.print(Method::POST, "/topics", body.to_string().into()).await?;
            nudge(&at).await
        }
        TopicVerb::Alter { at, topic, config, partitions } => {
            if config.is_empty() && partitions.is_none() {
                return Err(Failure::new(USAGE_CODE, "nothing is to be altered: give --config NAME=VALUE or --partitions N"));
            }
            let body = json!({ "config": pairs(&config)?, "partitions": partitions });
            change(&at, Method::PATCH, &path_of(&topic)?, body.to_string()).await
        }
        TopicVerb::Delete { at, topic, yes } => {
            let path = path_of(&topic)?;
            if !yes {
                let text = format!("this removes topic {topic} with all its records, for good; if that is meant, add --yes");
                return Err(Failure::new(USAGE_CODE, text));
            }
            change(&at, Method::DELETE, &path, String::new()).await
        }
        TopicVerb::DeleteRecords { at, topic, partition, before } => {
            let offset = if before == "end" { Some(-1) } else { before.parse::<i64>().ok().filter(|offset| *offset >= 0) };
            let unclear = || Failure::new(USAGE_CODE, format!("--before {before}: expected an offset, or end"));
            let body = json!({ partition.to_string(): offset.ok_or_else(unclear)? });
            change(&at, Method::DELETE, &format!("{}/records", path_of(&topic)?), body.to_string()).await
        }
        TopicVerb::Produce { at, topic, format, key } => {
            let path = path_of(&topic)?;
            produce(Door::open(&at, Need::Nothing).await?, &path, format, key).await
        }
        TopicVerb::Consume { at, topic, format, partition, from, count, follow } => {
            from.parse::<ConsumeFrom>().map_err(|e| Failure::new(USAGE_CODE, format!("--from: {e}")))?;
            let partition = partition.map_or_else(String::new, |p| format!("&partition={p}"));
            let path = path_of(&topic)?;
            let door = Door::open(&at, Need::Nothing).await?;
            consume(door, &format!("{path}/records?from={from}&follow={follow}{partition}"), format, count.unwrap_or(u64::MAX))
                .await
        }
    }
}

/// Changes a topic that is there. A gateway that caches it from Kafka hears of it.
async fn change(at: &Where, method: Method, path: &str, body: String) -> Result<(), Failure> {
    Door::open(at, Need::ToExist).await?.print(method, path, body.into()).await?;
    nudge(at).await
}

/// The topic in the path of a control request, where any other name could mean something else.
fn path_of(topic: &str) -> Result<String, Failure> {
    match is_legal_topic_name(topic) {
        true => Ok(format!("/topics/{topic}")),
        false => Err(Failure::new(USAGE_CODE, LogError::TopicName(topic.to_owned()).to_string())),
    }
}

fn pairs(config: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |p: &String| p.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned())).ok_or_else(|| p.clone());
    let pairs: Result<_, _> = config.iter().map(pair).collect();
    pairs.map_err(|p| Failure::new(USAGE_CODE, format!("--config {p}: expected NAME=VALUE")))
}

async fn produce(mut door: Door, topic: &str, format: Format, key: Option<String>) -> Result<(), Failure> {
    let target = format!("{topic}/records");
    let mut groups = standard_input()?;
    let mut failed = false;
    while let Some(lines) = batch(&mut groups).await? {
        let mut body = Vec::with_capacity(lines.len());
        for line in lines.split_inclusive(|&b| b == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            match format {
                Format::Json => body.extend_from_slice(line.trim_ascii()),
                Format::Raw => body.extend_from_slice(&raw_line(line.strip_suffix(b"\n").unwrap_or(line), key.as_deref())),
            }
            body.push(b'\n');
        }
        if body.is_empty() {
            continue;
        }
        let (status, answer) = whole(door.send(Method::POST, &target, body.into()).await?).await?;
        if status != StatusCode::UNPROCESSABLE_ENTITY {
            refuse(status, &answer)?;
        }
        failed |= !status.is_success();
        write_out(&answer)?;
    }
    match failed {
        true => Err(Failure::other("some records were not written; see the lines with \"error\"")),
        false => Ok(()),
    }
}

/// Lines that came together.
type Group = std::io::Result<Vec<u8>>;

/// Standard input as it comes, read beside what is sent. On a thread of its own, which nothing waits for at the end: it may be
/// blocked for good.
fn standard_input() -> Result<Receiver<Group>, Failure> {
    let (groups, taken) = channel(GROUPS_MAX);
    let read = move || {
        let mut input = BufReader::with_capacity(GROUP_BYTES, std::io::stdin());
        let mut ends = false;
        while !ends {
            let mut lines = Vec::new();
            let mut more = || -> std::io::Result<bool> {
                for _ in 0..GROUP_RECORDS {
                    if input.read_until(b'\n', &mut lines)? == 0 {
                        return Ok(false);
                    }
                    // Only what is here already.
                    if !input.buffer().contains(&b'\n') {
                        break;
                    }
                }
                Ok(true)
            };
            let group = more();
            ends = !matches!(group, Ok(true));
            if groups.blocking_send(group.map(|_| lines)).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("stdin".into()).spawn(read);
    thread.map(|_| taken).map_err(|e| Failure::other(format!("no thread: {e}")))
}

/// The next lines and what has come behind them: nothing waits for a batch to be full, and batches grow while the cluster is slower
/// than the input. `None` at the end.
async fn batch(groups: &mut Receiver<Group>) -> Result<Option<Vec<u8>>, Failure> {
    let unreadable = |e: std::io::Error| Failure::other(format!("standard input: {e}"));
    let Some(first) = groups.recv().await else { return Ok(None) };
    let mut lines = first.map_err(unreadable)?;
    for _ in 1..BATCH_GROUPS {
        if lines.len() >= BATCH_BYTES {
            break;
        }
        let Ok(group) = groups.try_recv() else { break };
        lines.extend_from_slice(&group.map_err(unreadable)?);
    }
    Ok(Some(lines))
}

fn raw_line(value: &[u8], key: Option<&str>) -> Vec<u8> {
    let mut line = RecordLine::new(0, 0, 0, key.map(str::as_bytes), Some(value), std::iter::empty());
    (line.partition, line.offset, line.timestamp) = (None, None, None);
    serde_json::to_vec(&line).unwrap_or_default()
}

async fn consume(mut door: Door, target: &str, format: Format, count: u64) -> Result<(), Failure> {
    let response = door.send(Method::GET, target, Bytes::new()).await?;
    if !response.status().is_success() {
        let (status, body) = whole(response).await?;
        return refuse(status, &body);
    }
    let mut body = response.into_body();
    let mut pending = Vec::new();
    let mut left = count;
    while left > 0
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|e| Failure::new(CLUSTER, e.to_string()))?;
        pending.extend_from_slice(frame.data_ref().map_or(&[], |d| d.as_ref()));
        let mut out = Vec::new();
        while left > 0
            && let Some(end) = pending.iter().position(|&b| b == b'\n')
        {
            let line: Vec<u8> = pending.drain(..=end).collect();
            print_line(&line, format, &mut out)?;
            left -= 1;
        }
        write_out(&out)?;
    }
    Ok(())
}

fn print_line(line: &[u8], format: Format, out: &mut Vec<u8>) -> Result<(), Failure> {
    if format == Format::Json {
        out.extend_from_slice(line);
        return Ok(());
    }
    let unreadable = |e: String| Failure::other(format!("{e}: {}", String::from_utf8_lossy(line).trim_end()));
    let line = RecordLine::parse(line).map_err(|e| unreadable(e.to_string()))?;
    let record = line.into_record("").map_err(|e| unreadable(e.to_string()))?;
    out.extend_from_slice(&record.value.unwrap_or_default());
    out.push(b'\n');
    Ok(())
}
