//! Clusters and their topics from the command line: the same requests are answered in this process or, while a gateway runs on
//! the directory, by that gateway over the socket `control.sock` in it. Who may use it, the file system says.
//!
//! `{kind}` is `kafka` or `embedded`: whoever asks says what it takes the cluster for, so that no command meant for one reaches the
//! other.
//!
//! ```text
//! GET    /{kind}/{cluster}                           what keeps it from being ready, a line each
//! POST   /{kind}/{cluster}/refresh                   looks at the topics at once
//! GET    /{kind}/{cluster}/topics                    names, one per line
//! POST   /{kind}/{cluster}/topics                    {"name", "partitions", "replication", "config"}
//! GET    /{kind}/{cluster}/topics/{topic}            JSON
//! PATCH  /{kind}/{cluster}/topics/{topic}            {"config", "partitions"}
//! DELETE /{kind}/{cluster}/topics/{topic}
//! POST   /{kind}/{cluster}/topics/{topic}/records    JSON lines; answers with a line per record
//! GET    /{kind}/{cluster}/topics/{topic}/records    JSON lines; ?partition= &from=earliest|latest|OFFSET &follow=true
//! DELETE /{kind}/{cluster}/topics/{topic}/records    {"PARTITION": OFFSET}; -1: the end
//! DELETE /{kind}/{cluster}/caches/{topic}            drops what is cached; it is fetched again
//! ```

mod consume;
mod socket;
mod topics;

use std::sync::Arc;

use bytes::Bytes;
use edge::Body;
use http::{Method, Response, StatusCode};
use kafka::{AdminError, Cluster};

pub use consume::From;
pub use socket::{ControlClient, SOCKET, listen};

use crate::clusters::Clusters;
use crate::readiness::{self, Look};

/// Most bytes of one control request.
pub const CONTROL_BODY_BYTES_MAX: usize = 16 << 20;

/// The name of a kind of cluster in the path of a control request.
pub fn kind_name(embedded: bool) -> &'static str {
    if embedded { "embedded" } else { "kafka" }
}

/// Answers control requests.
#[derive(Clone)]
pub struct Control {
    pub clusters: Arc<Clusters>,
}

impl Control {
    /// `target` is a path with an optional query.
    pub async fn handle(&self, method: &Method, target: &str, body: Bytes) -> Response<Body> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let [kind @ ("kafka" | "embedded"), name, rest @ ..] = segments.as_slice() else {
            return unknown_request();
        };
        let Some(cluster) = self.clusters.get(name) else {
            let others = "it was started with another configuration";
            return fault(StatusCode::NOT_FOUND, format!("the running gateway has no cluster {name}: {others}"));
        };
        let is = kind_name(matches!(cluster, Cluster::Embedded(_)));
        if is != *kind {
            let text =
                format!("cluster {name} of the running gateway is of the kind {is}, and here {kind}: use its configuration");
            return fault(StatusCode::CONFLICT, text);
        }
        let answer = match (method, rest) {
            (&Method::GET, []) => Ok(Response::new(Body::from(obstacles(name, cluster)))),
            (&Method::POST, ["refresh"]) => Ok(refresh(cluster)),
            (&Method::GET, ["topics"]) => topics::list(cluster).await,
            (&Method::POST, ["topics"]) => topics::create(cluster, &body).await,
            (&Method::GET, ["topics", topic]) => topics::describe(cluster, topic).await,
            (&Method::PATCH, ["topics", topic]) => topics::alter(cluster, topic, &body).await,
            (&Method::DELETE, ["topics", topic]) => topics::delete(cluster, topic).await,
            (&Method::POST, ["topics", topic, "records"]) => return topics::produce(cluster, topic, &body).await,
            (&Method::GET, ["topics", topic, "records"]) => consume::consume(cluster, topic, query),
            (&Method::DELETE, ["topics", topic, "records"]) => topics::delete_records(cluster, topic, &body).await,
            (&Method::DELETE, ["caches", topic]) => purge(cluster, topic).await,
            _ => return unknown_request(),
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

/// The gateway may be of another version than the command line.
fn unknown_request() -> Response<Body> {
    fault(StatusCode::NOT_FOUND, "the running gateway has no such control request: is it of the same version?")
}

fn fault(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = status;
    response
}

fn obstacles(name: &str, cluster: &Cluster) -> String {
    let look = Look { name, embedded: matches!(cluster, Cluster::Embedded(_)), status: &cluster.status() };
    readiness::obstacles(&[look], false).into_iter().map(|line| line + "\n").collect()
}

fn refresh(cluster: &Cluster) -> Response<Body> {
    match cluster {
        Cluster::Kafka(kafka) => kafka.refresh(),
        Cluster::Embedded(_) => {} // it is the truth itself
    }
    Response::new(Body::Empty)
}

async fn purge(cluster: &Cluster, topic: &str) -> Result<Response<Body>, AdminError> {
    match cluster {
        Cluster::Kafka(kafka) => kafka.purge(topic).await?,
        Cluster::Embedded(_) => {
            let remedy = "to remove it, use `topic delete` or `topic delete-records`";
            return Err(AdminError::Invalid(format!("topic {topic} is embedded: its log is the only copy; {remedy}")));
        }
    }
    Ok(Response::new(Body::Empty))
}
