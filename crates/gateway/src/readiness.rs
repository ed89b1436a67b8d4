//! Whether the gateway can do its work, and if not, what is missing.

use kafka::{ClusterStatus, PartitionState, PartitionStatus, TopicStatus};
use serde_json::{Value, json};

/// A cluster as it was looked at.
pub struct Look<'a> {
    pub name: &'a str,
    pub embedded: bool,
    pub status: &'a ClusterStatus,
}

/// What keeps the gateway from being ready, one sentence each.
pub fn obstacles(looks: &[Look<'_>], draining: bool) -> Vec<String> {
    let mut found = Vec::new();
    if draining {
        found.push("the gateway is shutting down".to_owned());
    }
    for look in looks {
        if !look.status.up {
            let reason = look.status.problem.as_deref().unwrap_or("no connection yet");
            found.push(format!("cluster {}: {reason}", look.name));
        }
        for topic in &look.status.topics {
            found.extend(topic_obstacle(look.name, topic));
        }
    }
    found
}

fn topic_obstacle(cluster: &str, topic: &TopicStatus) -> Option<String> {
    let name = &topic.name;
    if let Some(problem) = &topic.problem {
        return Some(format!("cluster {cluster}, topic {name}: {problem}"));
    }
    if topic.partitions.is_empty() {
        return Some(format!("cluster {cluster}, topic {name}: its partitions are not known yet"));
    }
    let failed = topic.partitions.iter().find(|p| p.state == PartitionState::Failed);
    if let Some(p) = failed {
        let reason = p.problem.as_deref().unwrap_or("failed");
        return Some(format!("cluster {cluster}, topic {name}, partition {}: {reason}", p.partition));
    }
    let at_rest = |p: &&PartitionStatus| matches!(p.state, PartitionState::Live | PartitionState::Paused);
    let waiting = topic.partitions.iter().filter(|p| !at_rest(p)).count();
    (waiting > 0).then(|| format!("cluster {cluster}, topic {name}: {waiting} partitions have not caught up"))
}

/// The state of everything, for people and tools. `problem` is of the process as a whole and no obstacle.
pub fn status(looks: &[Look<'_>], version: &str, problem: Option<String>, obstacles: &[String]) -> Value {
    let clusters: serde_json::Map<_, _> = looks.iter().map(|look| (look.name.to_owned(), cluster(look))).collect();
    let ready = obstacles.is_empty();
    json!({ "version": version, "ready": ready, "obstacles": obstacles, "problem": problem, "clusters": clusters })
}

fn cluster(look: &Look<'_>) -> Value {
    let status = look.status;
    let brokers: Vec<_> = status.brokers.iter().map(|b| json!({ "id": b.id, "address": b.address, "state": b.state })).collect();
    let topics: serde_json::Map<_, _> = status.topics.iter().map(|t| (t.name.clone(), topic(t))).collect();
    json!({
        "kind": if look.embedded { "embedded" } else { "kafka" },
        "up": status.up,
        "problem": status.problem,
        "brokers": brokers,
        "topics": topics,
    })
}

fn topic(topic: &TopicStatus) -> Value {
    let partitions: Vec<_> = topic.partitions.iter().map(partition).collect();
    json!({ "problem": topic.problem, "fetched_records": topic.fetched_records, "partitions": partitions })
}

fn partition(p: &PartitionStatus) -> Value {
    let state = match p.state {
        PartitionState::Waiting => "waiting",
        PartitionState::CatchingUp => "catching-up",
        PartitionState::Live => "live",
        PartitionState::Failed => "failed",
        PartitionState::Paused => "paused",
    };
    json!({
        "partition": p.partition,
        "state": state,
        "cached_end": p.cached_end,
        "cluster_end": p.cluster_end,
        "problem": p.problem,
        "last_fault": p.faults.last,
        "restarts": p.faults.restarts,
        "stalls": p.faults.stalls,
        "housekeeping": p.housekeeping,
    })
}
