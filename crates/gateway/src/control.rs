//! Topics from the command line: the same requests are answered in this process or, while a gateway runs on the
//! directory, by that gateway over the socket `control.sock` in it. Who may use it, the file system says.
//!
//! ```text
//! GET  /clusters/{cluster}/topics                    names, one per line
//! POST /clusters/{cluster}/topics                    {"name", "partitions", "replication", "config"}
//! GET  /clusters/{cluster}/topics/{topic}            JSON
//! POST /clusters/{cluster}/topics/{topic}/records    JSON lines; answers with a line per record
//! GET  /clusters/{cluster}/topics/{topic}/records    JSON lines; ?partition= &from=earliest|latest|OFFSET &follow=true
//! ```

mod consume;
mod socket;

use std::sync::Arc;

use bytes::Bytes;
use edge::Body;
use http::{Method, Response, StatusCode};
use kafka::{AdminError, Cluster, TopicDescription, TopicSpec};
use serde::Deserialize;
use serde_json::json;

pub use consume::From;
pub use socket::{ControlClient, SOCKET, listen};

use crate::clusters::Clusters;
use crate::lines::RecordLine;

/// Most bytes of one control request.
pub const CONTROL_BODY_BYTES_MAX: usize = 16 << 20;

/// Answers control requests.
#[derive(Clone)]
pub struct Control {
    pub clusters: Arc<Clusters>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTopic {
    name: String,
    #[serde(default = "one")]
    partitions: i32,
    #[serde(default = "cluster_default")]
    replication: i32,
    #[serde(default)]
    config: std::collections::BTreeMap<String, String>,
}

fn one() -> i32 {
    1
}

fn cluster_default() -> i32 {
    -1
}

impl Control {
    /// `target` is a path with an optional query.
    pub async fn handle(&self, method: &Method, target: &str, body: Bytes) -> Response<Body> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let ["clusters", cluster, "topics", rest @ ..] = segments.as_slice() else {
            return fault(StatusCode::NOT_FOUND, "no such control request");
        };
        let Some(cluster) = self.clusters.get(cluster) else {
            return fault(StatusCode::NOT_FOUND, format!("the running gateway has no cluster {cluster}"));
        };
        let answer = match (method, rest) {
            (&Method::GET, []) => list(cluster).await,
            (&Method::POST, []) => create(cluster, &body).await,
            (&Method::GET, [topic]) => describe(cluster, topic).await,
            (&Method::POST, [topic, "records"]) => return produce(cluster, topic, &body).await,
            (&Method::GET, [topic, "records"]) => consume::consume(cluster, topic, query),
            _ => return fault(StatusCode::NOT_FOUND, "no such control request"),
        };
        answer.unwrap_or_else(|e| fault(status_of(&e), e.to_string()))
    }
}

fn status_of(e: &AdminError) -> StatusCode {
    match e {
        AdminError::UnknownTopic(_) => StatusCode::NOT_FOUND,
        AdminError::TopicExists(_) => StatusCode::CONFLICT,
        AdminError::Invalid(_) => StatusCode::BAD_REQUEST,
        AdminError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn fault(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = status;
    response
}

async fn list(cluster: &Cluster) -> Result<Response<Body>, AdminError> {
    let names = cluster.topics().await?;
    Ok(Response::new(Body::from(names.into_iter().map(|n| n + "\n").collect::<String>())))
}

async fn create(cluster: &Cluster, body: &[u8]) -> Result<Response<Body>, AdminError> {
    let new: NewTopic = serde_json::from_slice(body).map_err(|e| AdminError::Invalid(e.to_string()))?;
    let spec = TopicSpec { name: new.name, partitions: new.partitions, replication: new.replication, config: new.config };
    cluster.create_topic(&spec).await?;
    Ok(Response::new(Body::Empty))
}

async fn describe(cluster: &Cluster, topic: &str) -> Result<Response<Body>, AdminError> {
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
async fn produce(cluster: &Cluster, topic: &str, body: &[u8]) -> Response<Body> {
    let lines = body.split(|&b| b == b'\n').filter(|l| !l.trim_ascii().is_empty());
    let one = async |line: &[u8]| {
        let record = RecordLine::parse(line).and_then(|l| l.into_record(topic)).map_err(|e| e.to_string())?;
        cluster.produce(record).await.map_err(|e| e.to_string())
    };
    let mut text = String::new();
    let mut failed = false;
    for result in futures_util::future::join_all(lines.map(one)).await {
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
