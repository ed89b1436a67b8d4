//! What is asked of a cluster's topics.

use std::collections::BTreeMap;

use edge::Body;
use http::{Response, StatusCode};
use kafka::{AdminError, Cluster, TopicDescription, TopicSpec};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::lines::RecordLine;

type Answer = Result<Response<Body>, AdminError>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTopic {
    name: String,
    #[serde(default = "one")]
    partitions: i32,
    #[serde(default = "cluster_default")]
    replication: i32,
    #[serde(default)]
    config: BTreeMap<String, String>,
}

fn one() -> i32 {
    1
}

fn cluster_default() -> i32 {
    -1
}

/// What is to be another. A property with an empty value goes back to its default.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alteration {
    #[serde(default)]
    config: BTreeMap<String, String>,
    #[serde(default)]
    partitions: Option<i32>,
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, AdminError> {
    serde_json::from_slice(body).map_err(|e| AdminError::Invalid(e.to_string()))
}

fn done() -> Response<Body> {
    Response::new(Body::Empty)
}

pub async fn list(cluster: &Cluster) -> Answer {
    let names = cluster.topics().await?;
    Ok(Response::new(Body::from(names.into_iter().map(|n| n + "\n").collect::<String>())))
}

pub async fn create(cluster: &Cluster, body: &[u8]) -> Answer {
    let NewTopic { name, partitions, replication, config } = parse(body)?;
    cluster.create_topic(&TopicSpec { name, partitions, replication, config }).await?;
    Ok(done())
}

pub async fn alter(cluster: &Cluster, topic: &str, body: &[u8]) -> Answer {
    let Alteration { config, partitions } = parse(body)?;
    if config.is_empty() && partitions.is_none() {
        return Err(AdminError::Invalid("nothing is to be altered: give a property or a number of partitions".into()));
    }
    cluster.alter_topic(topic, config, partitions).await?;
    Ok(done())
}

pub async fn delete(cluster: &Cluster, topic: &str) -> Answer {
    cluster.delete_topic(topic).await?;
    Ok(done())
}

/// The body says which: `{"PARTITION": OFFSET}`, those below the offset; -1 stands for the end.
pub async fn delete_records(cluster: &Cluster, topic: &str, body: &[u8]) -> Answer {
    cluster.delete_records(topic, parse(body)?).await?;
    Ok(done())
}

pub async fn describe(cluster: &Cluster, topic: &str) -> Answer {
    let TopicDescription { name, partitions, config } = cluster.describe_topic(topic).await?;
    let partitions: Vec<_> = partitions
        .iter()
        .map(|p| json!({ "partition": p.partition, "leader": p.leader, "start_offset": p.start_offset, "end_offset": p.end_offset }))
        .collect();
    let text = format!("{:#}\n", json!({ "name": name, "partitions": partitions, "config": config }));
    Ok(Response::new(Body::from(text)))
}

/// Writes the records of the lines, all on their way at once, and answers with one line for each: where it is, or why it is
/// not. The status says whether all went well.
pub async fn produce(cluster: &Cluster, topic: &str, body: &[u8]) -> Response<Body> {
    let mut lines = body.split(|&b| b == b'\n').filter(|l| !l.trim_ascii().is_empty());
    let one = async |line: &[u8]| {
        let record = RecordLine::parse(line).and_then(|l| l.into_record(topic)).map_err(|e| e.to_string())?;
        cluster.produce(record).await.map_err(|e| e.to_string())
    };
    let mut text = String::new();
    let mut failed = false;
    // The first alone: once the topic is known, records are queued in the order of their lines.
    let mut results = Vec::new();
    if let Some(first) = lines.next() {
        results.push(one(first).await);
    }
    results.extend(futures_util::future::join_all(lines.map(one)).await);
    for result in results {
        let line = match result {
            Ok(p) => json!({ "partition": p.partition, "offset": p.offset, "timestamp": p.timestamp_ms }),
            Err(e) => json!({ "error": e }),
        };
        failed |= line.get("error").is_some();
        text += &format!("{line}\n");
    }
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = if failed { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    response
}
