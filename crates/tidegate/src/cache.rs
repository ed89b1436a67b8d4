//! `tidegate cache`: what lies on disk, read beside a gateway that may be running.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use config::{ClusterPlan, Plan};
use gateway::RecordLine;
use http::Method;
use message_cache::{DirLock, LockError, LogError, LogOptions, OnCorruption, Policy, Record, TopicCache, is_legal_topic_name};

use crate::cli::{CacheVerb, Where};
use crate::door::{Door, choose_cluster, gateway_on, is_embedded, must_exist, refuse};
use crate::failure::{DIRECTORY, Failure, OTHER, USAGE_CODE};
use crate::verify::{Verified, verify};
use crate::{load, say};

/// What a directory is called that is being removed. No topic may be called so.
const PURGED: &str = "~purged";
/// How often a topic is tried to be opened.
const OPEN_TRIES: u32 = 3;

pub fn cache(verb: CacheVerb) -> Result<(), Failure> {
    match verb {
        CacheVerb::Ls { config } => ls(&load::load(&config)?),
        CacheVerb::Inspect { at, topic, offset, partition, key } => {
            let plan = load::load(&at.config)?;
            let found = find(&plan, &at, Some(&topic))?.swap_remove(0);
            let cache = found.open()?;
            match (key, offset, partition) {
                (Some(key), ..) => show(newest(&cache, key.as_bytes())?),
                (None, Some(offset), Some(partition)) => show(at_offset(&cache, partition, offset)?),
                _ => found.describe().and_then(|()| partitions(&cache, partition)),
            }
        }
        CacheVerb::Verify { at, topic } => verify_all(&find(&load::load(&at.config)?, &at, topic.as_deref())?),
        CacheVerb::Purge { at, topic } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|e| Failure::other(format!("no runtime: {e}")))?.block_on(purge(&at, &topic))
        }
    }
}

/// A directory that holds the logs of a topic.
struct Found<'a> {
    cluster: &'a ClusterPlan,
    /// Of the cluster.
    dir: PathBuf,
    topic: String,
}

/// All topics on disk, by cluster and name.
fn topics(plan: &Plan) -> Vec<Found<'_>> {
    let mut found = Vec::new();
    for cluster in &plan.clusters {
        let dir = gateway::directory_of(&plan.cache.directory, cluster);
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let names = entries.filter(|e| e.path().is_dir()).filter_map(|e| e.file_name().into_string().ok());
        let names: BTreeSet<_> = names.filter(|name| is_legal_topic_name(name)).collect();
        found.extend(names.into_iter().map(|topic| Found { cluster, dir: dir.clone(), topic }));
    }
    found
}

/// The topics on disk that are meant; one at least.
fn find<'a>(plan: &'a Plan, at: &Where, topic: Option<&str>) -> Result<Vec<Found<'a>>, Failure> {
    must_exist(&plan.cache.directory)?;
    if let Some(wanted) = &at.cluster {
        choose_cluster(plan, Some(wanted))?;
    }
    let is_meant = |f: &Found<'_>| at.cluster.as_ref().is_none_or(|c| *c == f.cluster.name) && topic.is_none_or(|t| t == f.topic);
    let found: Vec<_> = topics(plan).into_iter().filter(is_meant).collect();
    match topic {
        Some(topic) if found.is_empty() => {
            Err(Failure::new(OTHER, format!("nothing is cached of topic {topic} in {}", plan.cache.directory.display())))
        }
        _ => Ok(found),
    }
}

impl Found<'_> {
    fn open(&self) -> Result<TopicCache, Failure> {
        // Whatever is there is shown; what to do about corruption is for the gateway to decide.
        let options = LogOptions { read_only: true, on_corruption: OnCorruption::Keep, ..LogOptions::default() };
        let open = || TopicCache::open(&self.dir, &self.topic, &options);
        // The housekeeping of a gateway that runs may remove files between the list and the look.
        let opened = (1..OPEN_TRIES).find_map(|_| open().ok()).map_or_else(open, Ok);
        opened.map_err(|e| Failure::new(DIRECTORY, e.to_string()))
    }

    /// The properties of the topic as they were last known here.
    fn properties(&self) -> Option<BTreeMap<String, String>> {
        let read = |file: &str| {
            let json: serde_json::Value =
                serde_json::from_slice(&std::fs::read(self.dir.join(&self.topic).join(file)).ok()?).ok()?;
            Some(json)
        };
        let properties = if self.cluster.embedded { read("topic.json")?.get("config")?.clone() } else { read("topic.config")? };
        serde_json::from_value(properties).ok()
    }

    fn describe(&self) -> Result<(), Failure> {
        let kind = if self.cluster.embedded { "embedded" } else { "kafka" };
        let policy = match self.properties() {
            Some(properties) => policy_line(&Policy::from_properties(&properties)),
            None => "not known yet".to_owned(),
        };
        say(&format!("cluster {} ({kind}), topic {}\npolicy  {policy}", self.cluster.name, self.topic))
    }
}

/// Under Kafka's own names.
fn policy_line(p: &Policy) -> String {
    let cleanup = match (p.compact, p.delete) {
        (true, true) => "compact,delete",
        (true, false) => "compact",
        (false, true) => "delete",
        (false, false) => "none",
    };
    let bytes = |n: Option<u64>| n.map_or_else(|| "-1".to_owned(), |n| n.to_string());
    let ms = |n: Option<i64>| n.map_or_else(|| "-1".to_owned(), |n| n.to_string());
    let mut line = format!("cleanup.policy={cleanup}");
    if p.delete {
        line += &format!(" retention.ms={} retention.bytes={}", ms(p.retention_ms), bytes(p.retention_bytes));
    }
    if p.compact {
        line += &format!(
            " delete.retention.ms={} min.compaction.lag.ms={} min.cleanable.dirty.ratio={}",
            p.delete_retention_ms, p.min_compaction_lag_ms, p.min_cleanable_dirty_ratio
        );
        line += &p.max_compaction_lag_ms.map_or_else(String::new, |ms| format!(" max.compaction.lag.ms={ms}"));
    }
    line
}

fn ls(plan: &Plan) -> Result<(), Failure> {
    say(&format!("{:<16} {:<40} {:>10} {:>12} {:>14} {:>8}", "CLUSTER", "TOPIC", "PARTITIONS", "RECORDS", "BYTES", "SEGMENTS"))?;
    let mut unreadable = 0;
    for found in topics(plan) {
        let (cluster, topic) = (&found.cluster.name, &found.topic);
        let cache = match found.open() {
            Ok(cache) => cache,
            Err(failure) => {
                say(&format!("{cluster:<16} {topic:<40} {failure}"))?;
                unreadable += 1;
                continue;
            }
        };
        let stats: Vec<_> = cache.partitions().iter().map(|log| log.stats()).collect();
        let records: u64 = stats.iter().map(|s| s.records).sum();
        let bytes: u64 = stats.iter().map(|s| s.bytes).sum();
        let segments: usize = stats.iter().map(|s| s.segments).sum();
        say(&format!("{cluster:<16} {topic:<40} {:>10} {records:>12} {bytes:>14} {segments:>8}", stats.len()))?;
    }
    if unreadable > 0 { Err(Failure::new(DIRECTORY, format!("topics that cannot be read: {unreadable}"))) } else { Ok(()) }
}

fn partitions(cache: &TopicCache, only: Option<i32>) -> Result<(), Failure> {
    say(&format!(
        "{:>9} {:>12} {:>12} {:>14} {:>14} {:>12} {:>14} {:>8} {:>8}",
        "PARTITION", "START", "END", "FIRST MS", "LAST MS", "RECORDS", "BYTES", "SEGMENTS", "CORRUPT"
    ))?;
    if let Some(partition) = only {
        exists(cache, partition)?;
    }
    for (n, log) in cache.partitions().iter().enumerate() {
        if only.is_some_and(|p| p as usize != n) {
            continue;
        }
        let s = log.stats();
        let first = log.scan(s.start_offset).find_map(Result::ok).map(|record| record.timestamp_ms());
        let last = log.last().map(|(_, timestamp_ms)| timestamp_ms);
        let time = |ms: Option<i64>| ms.map_or_else(|| "-".to_owned(), |ms| ms.to_string());
        say(&format!(
            "{n:>9} {:>12} {:>12} {:>14} {:>14} {:>12} {:>14} {:>8} {:>8}",
            s.start_offset,
            s.end_offset,
            time(first),
            time(last),
            s.records,
            s.bytes,
            s.segments,
            s.corrupt
        ))?;
    }
    Ok(())
}

fn verify_all(found: &[Found<'_>]) -> Result<(), Failure> {
    let mut all = Verified::default();
    for topic in found {
        let verified = verify(&topic.topic, || topic.open());
        verified.faults.iter().try_for_each(|fault| say(&format!("fault {} {fault}", topic.cluster.name)))?;
        all.add(verified);
    }
    say(&all.summary())?;
    match all.faults.len() {
        0 => Ok(()),
        faults => Err(Failure::other(format!("faults found: {faults}"))),
    }
}

/// Through the running gateway, which fetches the topic again; or else on the files.
async fn purge(at: &Where, topic: &str) -> Result<(), Failure> {
    let plan = load::load(&at.config)?;
    if !is_legal_topic_name(topic) {
        return Err(Failure::new(USAGE_CODE, LogError::TopicName(topic.to_owned()).to_string()));
    }
    let declared = plan.cache.topics.iter().find(|t| t.name == topic).map(|t| t.cluster.as_str());
    let cluster = choose_cluster(&plan, at.cluster.as_deref().or(declared))?;
    if is_embedded(&plan, &cluster) {
        let remedy = "to remove it, use `tidegate topic delete`, or `tidegate topic delete-records`";
        let text = format!("topic {topic} is of the embedded cluster {cluster}: its log is the only copy; {remedy}");
        return Err(Failure::new(USAGE_CODE, text));
    }
    must_exist(&plan.cache.directory)?;
    if let Some(client) = gateway_on(&plan.cache.directory).await? {
        let mut door = Door::to_gateway(client, false, &cluster);
        let (status, text) = door.ask(Method::DELETE, &format!("/caches/{topic}"), Bytes::new()).await?;
        return refuse(status, &text);
    }
    let meant = Where { cluster: Some(cluster), ..at.clone() };
    let found = find(&plan, &meant, Some(topic))?.swap_remove(0);
    let lock = DirLock::acquire(&plan.cache.directory, "tidegate cache purge");
    let _lock = lock.map_err(|e: LockError| Failure::new(DIRECTORY, e.to_string()))?;
    remove(&found.dir, topic).map_err(|e| Failure::new(DIRECTORY, format!("{}: {e}", found.dir.join(topic).display())))
}

/// Under another name first: a crash must not leave half a cache that looks like a whole one.
fn remove(parent: &Path, topic: &str) -> std::io::Result<()> {
    let aside = parent.join(PURGED);
    match std::fs::remove_dir_all(&aside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::fs::rename(parent.join(topic), &aside)?;
    std::fs::remove_dir_all(aside)
}

type Placed = Option<(i32, Record)>;

fn unreadable(e: LogError) -> Failure {
    Failure::new(OTHER, e.to_string())
}

fn exists(cache: &TopicCache, partition: i32) -> Result<std::sync::Arc<message_cache::PartitionLog>, Failure> {
    cache.partition(partition).ok_or_else(|| Failure::new(OTHER, format!("there is no partition {partition}")))
}

fn newest(cache: &TopicCache, key: &[u8]) -> Result<Placed, Failure> {
    let mut found: Placed = None;
    for (n, log) in cache.partitions().iter().enumerate() {
        if let Some(record) = log.latest(key).map_err(unreadable)?
            && found.as_ref().is_none_or(|(_, r)| record.timestamp_ms() >= r.timestamp_ms())
        {
            found = Some((n as i32, record));
        }
    }
    Ok(found)
}

fn at_offset(cache: &TopicCache, partition: i32, offset: i64) -> Result<Placed, Failure> {
    let record = exists(cache, partition)?.scan(offset).next().transpose().map_err(unreadable)?;
    Ok(record.filter(|r| r.offset() == offset).map(|r| (partition, r)))
}

fn show(found: Placed) -> Result<(), Failure> {
    let (partition, r) = found.ok_or_else(|| Failure::new(OTHER, "no such record is cached"))?;
    let headers = r.headers().map(|h| (h.name, h.value));
    let line = RecordLine::new(partition, r.offset(), r.timestamp_ms(), r.key(), r.value(), headers);
    say(&serde_json::to_string_pretty(&line).unwrap_or_default())
}
