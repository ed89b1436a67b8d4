//! `tidegate doctor`: a line per fact, with the remedy for each that is bad.

use std::time::{Duration, Instant};

use config::{ClusterPlan, Plan};
use gateway::Clusters;
use kafka::{AdminError, Cluster};

use crate::cli::Config;
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

async fn examine(mut plan: Plan, timeout: Duration, report: &mut Report) -> Result<(), Failure> {
    let directory = plan.cache.directory.clone();
    let gateway = gateway::control::ControlClient::connect(&directory).await.ok().flatten().is_some();
    if gateway {
        report.good(&format!("{}: in use by a running gateway", directory.display()))?;
        // The running gateway has the directory; the clusters can be asked without it.
        plan.cache.directory = std::env::temp_dir().join(format!("tidegate-doctor-{}", std::process::id()));
        plan.clusters.retain(|c| !c.embedded);
    }
    let declared: Vec<_> = plan.cache.topics.iter().map(|t| (t.cluster.clone(), t.name.clone(), t.create.is_some())).collect();
    plan.routes.clear();
    // Looking creates nothing.
    plan.cache.topics.clear();
    let opened = Clusters::open(&plan, "tidegate doctor").await;
    let clusters = match opened {
        Ok(clusters) => clusters,
        Err(e) => {
            let remedy = "make the directory writable for this user, stop the process that has it, or set cache.directory";
            return report.bad(DIRECTORY, &e.to_string(), remedy);
        }
    };
    if !gateway {
        report.good(&format!("{}: can be written", directory.display()))?;
    }
    for cluster in &plan.clusters {
        let Some(door) = clusters.get(&cluster.name) else { continue };
        examine_cluster(cluster, door, timeout, &declared, report).await?;
    }
    clusters.close().await;
    if gateway {
        let _ = std::fs::remove_dir_all(&plan.cache.directory);
    }
    Ok(())
}

async fn examine_cluster(
    plan: &ClusterPlan,
    cluster: &Cluster,
    timeout: Duration,
    declared: &[(String, String, bool)],
    report: &mut Report,
) -> Result<(), Failure> {
    let name = &plan.name;
    let servers = plan.properties.get("bootstrap.servers").map_or("", String::as_str);
    let began = Instant::now();
    let topics = match tokio::time::timeout(timeout, cluster.topics()).await {
        Ok(Ok(topics)) => topics,
        Ok(Err(e)) => return unreachable_cluster(name, servers, &e.to_string(), cluster, report),
        Err(_) => {
            let why = format!("no answer within {} s", timeout.as_secs());
            return unreachable_cluster(name, servers, &why, cluster, report);
        }
    };
    report.good(&format!(
        "cluster {name} ({servers}): {} topics, answered in {} ms",
        topics.len(),
        began.elapsed().as_millis()
    ))?;
    for broker in brokers_of(cluster).await {
        report.good(&format!("cluster {name}: broker {} {} is {}", broker.id, broker.address, broker.state))?;
    }
    for (_, topic, create) in declared.iter().filter(|(c, ..)| c == name) {
        if !topics.contains(topic) {
            if *create || plan.embedded {
                report.good(&format!("cluster {name}, topic {topic}: missing; `run` will create it"))?;
            } else {
                let remedy = format!("create it, or let Tidegate do so: cache.topics.{topic}.create");
                report.bad(CLUSTER, &format!("cluster {name}, topic {topic}: missing"), &remedy)?;
            }
            continue;
        }
        match cluster.describe_topic(topic).await {
            Ok(d) => {
                let records: i64 = d.partitions.iter().map(|p| p.end_offset - p.start_offset).sum();
                let policy = d.config.get("cleanup.policy").map_or("?", String::as_str);
                let count = d.partitions.len();
                report.good(&format!(
                    "cluster {name}, topic {topic}: {count} partitions, {records} offsets, cleanup.policy={policy}"
                ))?;
                for p in d.partitions.iter().filter(|p| p.leader < 0) {
                    let fact = format!("cluster {name}, topic {topic}: partition {} has no leader", p.partition);
                    report.bad(CLUSTER, &fact, "look at the brokers that hold its replicas")?;
                }
            }
            Err(e) => report.bad(CLUSTER, &format!("cluster {name}, topic {topic}: {e}"), remedy_of(&e))?,
        }
    }
    Ok(())
}

/// Brokers make themselves known with the client's first statistics, a moment after the first answer.
async fn brokers_of(cluster: &Cluster) -> Vec<kafka::BrokerStatus> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let brokers = cluster.status().brokers;
        if !brokers.is_empty() || matches!(cluster, Cluster::Embedded(_)) || Instant::now() >= deadline {
            return brokers;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn unreachable_cluster(name: &str, servers: &str, why: &str, cluster: &Cluster, report: &mut Report) -> Result<(), Failure> {
    let seen = cluster.status().problem.filter(|p| !why.contains(p.as_str())).map_or_else(String::new, |p| format!(" ({p})"));
    let remedy = "check bootstrap.servers, the network and firewalls, and security.protocol, sasl.* and ssl.* of the cluster";
    report.bad(CLUSTER, &format!("cluster {name} ({servers}): {why}{seen}"), remedy)
}

fn remedy_of(e: &AdminError) -> &'static str {
    match e {
        AdminError::UnknownTopic(_) => "create the topic",
        AdminError::Unavailable(_) => "check that this user may describe the topic, and that its brokers are up",
        AdminError::TopicExists(_) | AdminError::Invalid(_) => "check the name of the topic",
    }
}
