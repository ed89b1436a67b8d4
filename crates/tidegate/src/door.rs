//! The way to a cluster: through the gateway that runs on the directory, or opened here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use config::{CachePlan, Plan};
use gateway::Clusters;
use gateway::control::{Control, ControlClient, kind_name};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;

use crate::cli::Where;
use crate::failure::{CLUSTER, DIRECTORY, Failure, OTHER, USAGE_CODE};
use crate::{load, write_out};

pub struct Door {
    way: Way,
    /// `/KIND/CLUSTER`
    base: String,
}

enum Way {
    Here(Control),
    Gateway(ControlClient),
}

/// What is asked of the directory of an embedded cluster that no gateway runs on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It is made if it is not there.
    Nothing,
    /// A topic in it is to be changed.
    ToExist,
}

impl Door {
    pub async fn open(at: &Where, need: Need) -> Result<Self, Failure> {
        let plan = load::load(&at.config)?;
        let cluster = choose_cluster(&plan, at.cluster.as_deref())?;
        let embedded = is_embedded(&plan, &cluster);
        let base = base_of(embedded, &cluster);
        // A Kafka cluster is asked itself; of an embedded one, a gateway that runs has the only copy.
        let client = if embedded { gateway_on(&plan.cache.directory).await? } else { None };
        let way = match client {
            Some(client) => Way::Gateway(client),
            None => {
                if embedded && need == Need::ToExist {
                    must_exist(&plan.cache.directory)?;
                }
                Way::Here(Control { clusters: Arc::new(open_clusters(plan, &cluster).await?) })
            }
        };
        Ok(Self { way, base })
    }

    pub fn to_clusters(clusters: Arc<Clusters>, embedded: bool, cluster: &str) -> Self {
        Self { way: Way::Here(Control { clusters }), base: base_of(embedded, cluster) }
    }

    pub fn to_gateway(client: ControlClient, embedded: bool, cluster: &str) -> Self {
        Self { way: Way::Gateway(client), base: base_of(embedded, cluster) }
    }

    /// `rest` is what follows kind and cluster in the path of a [control request](gateway::control).
    pub async fn send(&mut self, method: Method, rest: &str, body: Bytes) -> Result<Response<edge::Body>, Failure> {
        let target = format!("{}{rest}", self.base);
        match &mut self.way {
            Way::Here(control) => Ok(control.handle(&method, &target, body).await),
            Way::Gateway(client) => {
                let gone = |e: std::io::Error| Failure::new(CLUSTER, format!("the running gateway did not answer: {e}"));
                let response = client.send(method, &target, body).await.map_err(gone)?;
                Ok(response.map(|body| edge::Body::stream(body.map_err(std::io::Error::other))))
            }
        }
    }

    /// The whole answer, whatever its status.
    pub async fn ask(&mut self, method: Method, rest: &str, body: Bytes) -> Result<(StatusCode, Bytes), Failure> {
        whole(self.send(method, rest, body).await?).await
    }

    pub async fn print(&mut self, method: Method, rest: &str, body: Bytes) -> Result<(), Failure> {
        let (status, body) = self.ask(method, rest, body).await?;
        refuse(status, &body)?;
        write_out(&body)
    }
}

/// The gateway that runs on a directory.
pub async fn gateway_on(directory: &Path) -> Result<Option<ControlClient>, Failure> {
    let asked = ControlClient::connect(directory).await;
    asked.map_err(|e| Failure::new(DIRECTORY, format!("the gateway on {} cannot be asked: {e}", directory.display())))
}

/// Has the gateway that runs on the directory, if there is one, look at the topics of a Kafka cluster now: they were changed.
pub async fn nudge(at: &Where) -> Result<(), Failure> {
    let plan = load::load(&at.config)?;
    let cluster = choose_cluster(&plan, at.cluster.as_deref())?;
    if !is_embedded(&plan, &cluster)
        && let Ok(Some(client)) = gateway_on(&plan.cache.directory).await
    {
        // It would find out by itself; that it cannot be told is no fault of what was done.
        let _ = Door::to_gateway(client, false, &cluster).ask(Method::POST, "/refresh", Bytes::new()).await;
    }
    Ok(())
}

fn base_of(embedded: bool, cluster: &str) -> String {
    format!("/{}/{cluster}", kind_name(embedded))
}

pub fn is_embedded(plan: &Plan, cluster: &str) -> bool {
    plan.clusters.iter().any(|c| c.name == cluster && c.embedded)
}

pub fn must_exist(directory: &Path) -> Result<(), Failure> {
    if directory.is_dir() {
        return Ok(());
    }
    let text = format!("{} does not exist: no gateway ran with this file, or cache.directory is another", directory.display());
    Err(Failure::new(DIRECTORY, text))
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

pub fn choose_cluster(plan: &Plan, wanted: Option<&str>) -> Result<String, Failure> {
    let names: Vec<&str> = plan.clusters.iter().map(|c| c.name.as_str()).collect();
    match (wanted, names.as_slice()) {
        (Some(name), names) if names.contains(&name) => Ok(name.to_owned()),
        (Some(name), names) => Err(Failure::new(USAGE_CODE, format!("no cluster {name}; there are: {}", names.join(", ")))),
        (None, [only]) => Ok((*only).to_owned()),
        (None, names) => Err(Failure::new(USAGE_CODE, format!("choose one with --cluster: {}", names.join(", ")))),
    }
}

pub async fn whole(response: Response<edge::Body>) -> Result<(StatusCode, Bytes), Failure> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|e| Failure::new(CLUSTER, e.to_string()))?.to_bytes();
    Ok((head.status, body))
}

pub fn refuse(status: StatusCode, body: &[u8]) -> Result<(), Failure> {
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
