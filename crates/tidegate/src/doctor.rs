//! `tidegate doctor`: a line per fact, with the remedy for each that is bad.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use config::{ClusterPlan, Plan};
use gateway::Clusters;
use http::{Method, StatusCode};
use kafka::Cluster;

use crate::cli::Config;
use crate::door::{Door, gateway_on, refuse};
use crate::failure::{CLUSTER, DIRECTORY, Failure, GREEN, RED, RESET};
use crate::{load, say};

pub fn doctor(config: &Config, timeout: Duration) -> Result<(), Failure> {
    let plan = load::load(config)?;
    let mut report = Report::default();
    report.good(&format!("{}: the configuration is right", config.file.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::other(format!("no runtime: {e}")))?;
    runtime.block_on(examine(plan, timeout, &mut report))?;
    match report.worst {
        None => Ok(()),
        Some(code) => Err(Failure::new(code, format!("faults found: {}", report.faults))),
    }
}

#[derive(Default)]
struct Report {
    faults: usize,
    worst: Option<u8>,
}

impl Report {
    fn good(&mut self, fact: &str) -> Result<(), Failure> {
        say(&format!("{GREEN}ok{RESET}    {fact}"))
    }

    fn bad(&mut self, code: u8, fact: &str, remedy: &str) -> Result<(), Failure> {
        self.faults += 1;
        self.worst = self.worst.max(Some(code));
        say(&format!("{RED}fault{RESET} {fact}\n      {remedy}"))
    }
}

/// The cache as the configuration has it: cluster, topic, whether it says how to create it.
type Declared = Vec<(String, String, bool)>;

async fn examine(mut plan: Plan, timeout: Duration, report: &mut Report) -> Result<(), Failure> {
    let directory = plan.cache.directory.clone();
    let runs = gateway_on(&directory).await?.is_some();
    let all = plan.clusters.clone();
    if runs {
        report.good(&format!("{}: in use by a running gateway", directory.display()))?;
        // The running gateway has the directory, and the only copy of embedded clusters; others can be asked without it.
        plan.cache.directory = std::env::temp_dir().join(format!("tidegate-doctor-{}", std::process::id()));
        plan.clusters.retain(|c| !c.embedded);
    }
    let declared: Declared = plan.cache.topics.iter().map(|t| (t.cluster.clone(), t.name.clone(), t.create.is_some())).collect();
    plan.routes.clear();
    // Looking creates nothing.
    plan.cache.topics.clear();
    let opened = Clusters::open(&plan, "tidegate doctor").await;
    let clusters = match opened {
        Ok(clusters) => Arc::new(clusters),
        Err(e) => {
            let remedy = "make the directory writable for this user, stop the process that has it, or set cache.directory";
            return report.bad(DIRECTORY, &e.to_string(), remedy);
        }
    };
    if !runs {
        report.good(&format!("{}: can be written", directory.display()))?;
    }
    for cluster in &all {
        let name = &cluster.name;
        let mut gateway = gateway_on(&directory).await?.map(|client| Door::to_gateway(client, cluster.embedded, name));
        match (&mut gateway, clusters.get(name)) {
            (_, Some(door)) => {
                let mut own = Door::to_clusters(Arc::clone(&clusters), cluster.embedded, name);
                examine_cluster(cluster, &mut own, Some(door), timeout, &declared, report).await?;
            }
            (Some(gateway), None) => examine_cluster(cluster, gateway, None, timeout, &declared, report).await?,
            (None, None) => {
                let fact = format!("cluster {name}: the gateway has stopped meanwhile");
                report.bad(CLUSTER, &fact, "run doctor again")?;
            }
        }
        if let Some(gateway) = &mut gateway {
            ask_gateway(name, gateway, report).await?;
        }
    }
    clusters.close().await;
    if runs {
        let _ = std::fs::remove_dir_all(&plan.cache.directory);
    }
    Ok(())
}

/// What the running gateway lacks of a cluster; it looks at the topics once more.
async fn ask_gateway(cluster: &str, gateway: &mut Door, report: &mut Report) -> Result<(), Failure> {
    let (status, text) = gateway.ask(Method::GET, "", Bytes::new()).await?;
    let text = String::from_utf8_lossy(&text);
    if !status.is_success() {
        return report.bad(CLUSTER, &text, "use the file that the gateway was started with, or restart it with this one");
    }
    for obstacle in text.lines() {
        report.bad(CLUSTER, &format!("running gateway, {obstacle}"), "see /readyz of the gateway, and its log")?;
    }
    if text.is_empty() {
        report.good(&format!("running gateway, cluster {cluster}: ready"))?;
    }
    let (status, text) = gateway.ask(Method::POST, "/refresh", Bytes::new()).await?;
    refuse(status, &text)
}

/// `own` is the cluster if it is open in this process.
async fn examine_cluster(
    plan: &ClusterPlan,
    door: &mut Door,
    own: Option<&Cluster>,
    timeout: Duration,
    declared: &Declared,
    report: &mut Report,
) -> Result<(), Failure> {
    let name = &plan.name;
    let servers = plan.properties.get("bootstrap.servers").map_or("", String::as_str);
    let began = Instant::now();
    let text = match tokio::time::timeout(timeout, door.ask(Method::GET, "/topics", Bytes::new())).await {
        Ok(Ok((status, text))) if status.is_success() => text,
        Ok(Ok((_, why))) => return unreachable_cluster(name, servers, &String::from_utf8_lossy(&why), own, report),
        Ok(Err(failure)) => return unreachable_cluster(name, servers, &failure.to_string(), own, report),
        Err(_) => {
            let why = format!("no answer within {} s", timeout.as_secs());
            return unreachable_cluster(name, servers, &why, own, report);
        }
    };
    let text = String::from_utf8_lossy(&text);
    let topics: BTreeSet<&str> = text.lines().collect();
    report.good(&format!(
        "cluster {name} ({servers}): {} topics, answered in {} ms",
        topics.len(),
        began.elapsed().as_millis()
    ))?;
    for broker in brokers_of(own).await {
        report.good(&format!("cluster {name}: broker {} {} is {}", broker.id, broker.address, broker.state))?;
    }
    for (_, topic, create) in declared.iter().filter(|(c, ..)| c == name) {
        if topics.contains(topic.as_str()) {
            examine_topic(name, topic, door, report).await?;
        } else if plan.embedded && own.is_none() {
            let remedy = "create it with `tidegate topic create`, or start the gateway again";
            report.bad(CLUSTER, &format!("cluster {name}, topic {topic}: missing"), remedy)?;
        } else if *create || plan.embedded {
            report.good(&format!("cluster {name}, topic {topic}: missing; `run` will create it"))?;
        } else {
            let remedy = format!("create it, or let Tidegate do so: cache.topics.{topic}.create");
            report.bad(CLUSTER, &format!("cluster {name}, topic {topic}: missing"), &remedy)?;
        }
    }
    Ok(())
}

async fn examine_topic(cluster: &str, topic: &str, door: &mut Door, report: &mut Report) -> Result<(), Failure> {
    let (status, text) = door.ask(Method::GET, &format!("/topics/{topic}"), Bytes::new()).await?;
    let about = format!("cluster {cluster}, topic {topic}");
    let described: serde_json::Value = match serde_json::from_slice(&text) {
        Ok(described) if status.is_success() => described,
        _ => return report.bad(CLUSTER, &format!("{about}: {}", String::from_utf8_lossy(&text)), remedy_of(status)),
    };
    let partitions = described["partitions"].as_array().map_or(&[][..], Vec::as_slice);
    let number = |p: &serde_json::Value, what: &str| p[what].as_i64().unwrap_or(-1);
    let offsets: i64 = partitions.iter().map(|p| number(p, "end_offset") - number(p, "start_offset")).sum();
    let policy = described["config"]["cleanup.policy"].as_str().unwrap_or("?");
    report.good(&format!("{about}: {} partitions, {offsets} offsets, cleanup.policy={policy}", partitions.len()))?;
    for p in partitions.iter().filter(|p| number(p, "leader") < 0) {
        let fact = format!("{about}: partition {} has no leader", number(p, "partition"));
        report.bad(CLUSTER, &fact, "look at the brokers that hold its replicas")?;
    }
    Ok(())
}

/// Brokers make themselves known with the client's first statistics, a moment after the first answer.
async fn brokers_of(cluster: Option<&Cluster>) -> Vec<kafka::BrokerStatus> {
    const PATIENCE: Duration = Duration::from_secs(3);
    const POLL_INTERVAL: Duration = Duration::from_millis(50);
    let Some(cluster @ Cluster::Kafka(_)) = cluster else { return Vec::new() };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let brokers = cluster.status().brokers;
        if !brokers.is_empty() || Instant::now() >= deadline {
            return brokers;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn unreachable_cluster(name: &str, servers: &str, why: &str, own: Option<&Cluster>, report: &mut Report) -> Result<(), Failure> {
    let seen = own.and_then(|cluster| cluster.status().problem);
    let seen = seen.filter(|p| !why.contains(p.as_str())).map_or_else(String::new, |p| format!(" ({p})"));
    let remedy = "check bootstrap.servers, the network and firewalls, and security.protocol, sasl.* and ssl.* of the cluster";
    report.bad(CLUSTER, &format!("cluster {name} ({servers}): {why}{seen}"), remedy)
}

fn remedy_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "create the topic",
        StatusCode::SERVICE_UNAVAILABLE => "check that this user may describe the topic, and that its brokers are up",
        _ => "check the name of the topic",
    }
}
