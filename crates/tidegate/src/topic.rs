//! `tidegate topic`: control requests, answered by the running gateway or, if none runs, here.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use config::{CachePlan, Plan};
use gateway::control::{CONTROL_BODY_BYTES_MAX, Control, ControlClient, From as ConsumeFrom};
use gateway::{Clusters, RecordLine};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::json;

use crate::cli::{Format, TopicVerb, Where};
use crate::failure::{CLUSTER, Failure, OTHER, USAGE_CODE};
use crate::load;

/// Records sent in one control request.
const BATCH_RECORDS: usize = 1000;

pub fn topic(verb: TopicVerb) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|e| Failure::other(format!("no runtime: {e}")))?.block_on(perform(verb))
}

async fn perform(verb: TopicVerb) -> Result<(), Failure> {
    match verb {
        TopicVerb::Ls { at } => {
            let mut door = Door::open(&at).await?;
            let target = door.path("");
            door.print(Method::GET, &target, Bytes::new()).await
        }
        TopicVerb::Describe { at, topic } => {
            let mut door = Door::open(&at).await?;
            let target = door.path(&format!("/{topic}"));
            door.print(Method::GET, &target, Bytes::new()).await
        }
        TopicVerb::Create { at, topic, partitions, replication, config } => {
            let pair = |p: &String| p.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned())).ok_or_else(|| p.clone());
            let config: Result<std::collections::BTreeMap<_, _>, _> = config.iter().map(pair).collect();
            let config = config.map_err(|p| Failure::new(USAGE_CODE, format!("--config {p}: expected NAME=VALUE")))?;
            let body = json!({ "name": topic, "partitions": partitions, "replication": replication, "config": config });
            let mut door = Door::open(&at).await?;
            let target = door.path("");
            door.print(Method::POST, &target, body.to_string().into()).await
        }
        TopicVerb::Produce { at, topic, format, key } => {
            let door = Door::open(&at).await?;
            produce(door, &topic, format, key).await
        }
        TopicVerb::Consume { at, topic, format, partition, from, count, follow } => {
            from.parse::<ConsumeFrom>().map_err(|e| Failure::new(USAGE_CODE, format!("--from: {e}")))?;
            let partition = partition.map_or_else(String::new, |p| format!("&partition={p}"));
            let door = Door::open(&at).await?;
            let target = door.path(&format!("/{topic}/records?from={from}&follow={follow}{partition}"));
            consume(door, &target, format, count.unwrap_or(u64::MAX)).await
        }
    }
}

/// The way to the clusters.
struct Door {
    way: Way,
    cluster: String,
}

enum Way {
    Here(Control),
    Gateway(ControlClient),
}

impl Door {
    async fn open(at: &Where) -> Result<Self, Failure> {
        let plan = load::load(&at.config)?;
        let cluster = choose_cluster(&plan, at.cluster.as_deref())?;
        // A Kafka cluster is asked itself; of an embedded one, a gateway that runs has the only copy.
        let embedded = plan.clusters.iter().any(|c| c.name == cluster && c.embedded);
        let client = if embedded { ControlClient::connect(&plan.cache.directory).await } else { Ok(None) };
        let way = match client.map_err(|e| Failure::other(format!("the running gateway cannot be asked: {e}")))? {
            Some(client) => Way::Gateway(client),
            None => Way::Here(Control { clusters: Arc::new(open_clusters(plan, &cluster).await?) }),
        };
        Ok(Self { way, cluster })
    }

    fn path(&self, rest: &str) -> String {
        format!("/clusters/{}/topics{rest}", self.cluster)
    }

    async fn send(&mut self, method: Method, target: &str, body: Bytes) -> Result<Response<edge::Body>, Failure> {
        match &mut self.way {
            Way::Here(control) => Ok(control.handle(&method, target, body).await),
            Way::Gateway(client) => {
                let gone = |e: std::io::Error| Failure::new(CLUSTER, format!("the running gateway did not answer: {e}"));
                let response = client.send(method, target, body).await.map_err(gone)?;
                Ok(response.map(|body| edge::Body::stream(body.map_err(std::io::Error::other))))
            }
        }
    }

    async fn print(&mut self, method: Method, target: &str, body: Bytes) -> Result<(), Failure> {
        let (status, body) = whole(self.send(method, target, body).await?).await?;
        refuse(status, &body)?;
        write_out(&body)
    }
}

/// Opens only what the verb needs: other clusters of the file may be away, other topics need not be created.
async fn open_clusters(mut plan: Plan, cluster: &str) -> Result<Clusters, Failure> {
    plan.clusters.retain(|c| c.name == cluster);
    plan.routes.clear();
    if plan.clusters.iter().all(|c| !c.embedded) {
        // A Kafka cluster is asked itself: no cache is touched, and no gateway is in the way.
        let directory = std::env::temp_dir().join(format!("tidegate-topic-{}", std::process::id()));
        plan.cache = CachePlan { directory, topics: Vec::new(), ..plan.cache };
        let guard = RemoveDir(plan.cache.directory.clone());
        let opened = Clusters::open(&plan, "tidegate topic").await;
        drop(guard);
        return Ok(opened?);
    }
    plan.cache.topics.clear();
    Ok(Clusters::open(&plan, "tidegate topic").await?)
}

/// Files that are open stay usable when their directory is gone.
struct RemoveDir(PathBuf);

impl Drop for RemoveDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn choose_cluster(plan: &Plan, wanted: Option<&str>) -> Result<String, Failure> {
    let names: Vec<&str> = plan.clusters.iter().map(|c| c.name.as_str()).collect();
    match (wanted, names.as_slice()) {
        (Some(name), names) if names.contains(&name) => Ok(name.to_owned()),
        (Some(name), names) => Err(Failure::new(USAGE_CODE, format!("no cluster {name}; there are: {}", names.join(", ")))),
        (None, [only]) => Ok((*only).to_owned()),
        (None, names) => Err(Failure::new(USAGE_CODE, format!("choose one with --cluster: {}", names.join(", ")))),
    }
}

async fn whole(response: Response<edge::Body>) -> Result<(StatusCode, Bytes), Failure> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|e| Failure::new(CLUSTER, e.to_string()))?.to_bytes();
    Ok((head.status, body))
}

fn refuse(status: StatusCode, body: &[u8]) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    let code = match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::NOT_FOUND => CLUSTER,
        StatusCode::BAD_REQUEST => USAGE_CODE,
        _ => OTHER,
    };
    Err(Failure::new(code, String::from_utf8_lossy(body)))
}

fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::new(0, "")),
        Err(e) => Err(Failure::other(format!("standard output: {e}"))),
        Ok(()) => Ok(()),
    }
}

async fn produce(mut door: Door, topic: &str, format: Format, key: Option<String>) -> Result<(), Failure> {
    let target = door.path(&format!("/{topic}/records"));
    let mut input = std::io::stdin().lock();
    let mut batch = Vec::new();
    let mut records = 0;
    let mut failed = false;
    loop {
        let mut line = Vec::new();
        let read = input.read_until(b'\n', &mut line).map_err(|e| Failure::other(format!("standard input: {e}")))?;
        let ends = read == 0;
        if !line.trim_ascii().is_empty() {
            let line = match format {
                Format::Json => line.trim_ascii().to_vec(),
                Format::Raw => raw_line(line.strip_suffix(b"\n").unwrap_or(&line), key.as_deref()),
            };
            batch.extend_from_slice(&line);
            batch.push(b'\n');
            records += 1;
        }
        // What a person types goes out line by line; what a pipe brings, in batches.
        let full = records >= BATCH_RECORDS || batch.len() >= CONTROL_BODY_BYTES_MAX / 4;
        if records > 0 && (ends || full || std::io::IsTerminal::is_terminal(&std::io::stdin())) {
            let (status, body) = whole(door.send(Method::POST, &target, std::mem::take(&mut batch).into()).await?).await?;
            if status != StatusCode::UNPROCESSABLE_ENTITY {
                refuse(status, &body)?;
            }
            failed |= !status.is_success();
            write_out(&body)?;
            records = 0;
        }
        if ends {
            return if failed {
                Err(Failure::other("some records were not written; see the lines with \"error\""))
            } else {
                Ok(())
            };
        }
    }
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
