//! `tidegate cache`: what lies on disk, read beside a gateway that may be running.

use std::path::PathBuf;

use config::Plan;
use gateway::RecordLine;
use message_cache::{LogOptions, OnCorruption, Record, TopicCache};

use crate::cli::{CacheVerb, Where};
use crate::failure::{DIRECTORY, Failure, OTHER};
use crate::{load, say};

pub fn cache(verb: CacheVerb) -> Result<(), Failure> {
    match verb {
        CacheVerb::Ls { config } => ls(&load::load(&config)?),
        CacheVerb::Inspect { at, topic, offset, partition, key } => {
            let plan = load::load(&at.config)?;
            let cache = open(&plan, &at, &topic)?;
            match (key, offset, partition) {
                (Some(key), ..) => show(newest(&cache, key.as_bytes())?),
                (None, Some(offset), Some(partition)) => show(at_offset(&cache, partition, offset)?),
                _ => partitions(&cache, partition),
            }
        }
    }
}

/// Cluster and topic of every directory that holds logs.
fn topics(plan: &Plan) -> Vec<(String, PathBuf, String)> {
    let mut found = Vec::new();
    for cluster in &plan.clusters {
        let dir = gateway::directory_of(&plan.cache.directory, cluster);
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let names = entries.filter(|e| e.path().is_dir()).filter_map(|e| e.file_name().into_string().ok());
        found.extend(names.map(|name| (cluster.name.clone(), dir.clone(), name)));
    }
    found.sort();
    found
}

fn open_at(dir: &std::path::Path, topic: &str) -> Result<TopicCache, Failure> {
    // Whatever is there is shown; what to do about corruption is for the gateway to decide.
    let options = LogOptions { read_only: true, on_corruption: OnCorruption::Keep, ..LogOptions::default() };
    TopicCache::open(dir, topic, &options).map_err(|e| Failure::new(DIRECTORY, e.to_string()))
}

fn open(plan: &Plan, at: &Where, topic: &str) -> Result<TopicCache, Failure> {
    let found = topics(plan).into_iter().find(|(c, _, t)| t == topic && at.cluster.as_ref().is_none_or(|wanted| wanted == c));
    let (_, dir, _) = found.ok_or_else(|| Failure::new(OTHER, format!("nothing is cached of topic {topic}")))?;
    open_at(&dir, topic)
}

fn ls(plan: &Plan) -> Result<(), Failure> {
    say(&format!("{:<16} {:<40} {:>10} {:>12} {:>14} {:>8}", "CLUSTER", "TOPIC", "PARTITIONS", "RECORDS", "BYTES", "SEGMENTS"))?;
    let mut unreadable = 0;
    for (cluster, dir, topic) in topics(plan) {
        let cache = match open_at(&dir, &topic) {
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
        "{:>9} {:>12} {:>12} {:>12} {:>14} {:>8} {:>8}",
        "PARTITION", "START", "END", "RECORDS", "BYTES", "SEGMENTS", "CORRUPT"
    ))?;
    for (n, log) in cache.partitions().iter().enumerate() {
        if only.is_some_and(|p| p as usize != n) {
            continue;
        }
        let s = log.stats();
        say(&format!(
            "{n:>9} {:>12} {:>12} {:>12} {:>14} {:>8} {:>8}",
            s.start_offset, s.end_offset, s.records, s.bytes, s.segments, s.corrupt
        ))?;
    }
    Ok(())
}

type Found = Option<(i32, Record)>;

fn unreadable(e: message_cache::LogError) -> Failure {
    Failure::new(OTHER, e.to_string())
}

fn newest(cache: &TopicCache, key: &[u8]) -> Result<Found, Failure> {
    let mut found: Found = None;
    for (n, log) in cache.partitions().iter().enumerate() {
        if let Some(record) = log.latest(key).map_err(unreadable)?
            && found.as_ref().is_none_or(|(_, r)| record.timestamp_ms() >= r.timestamp_ms())
        {
            found = Some((n as i32, record));
        }
    }
    Ok(found)
}

fn at_offset(cache: &TopicCache, partition: i32, offset: i64) -> Result<Found, Failure> {
    let log = cache.partition(partition).ok_or_else(|| Failure::new(OTHER, format!("there is no partition {partition}")))?;
    let record = log.scan(offset).next().transpose().map_err(unreadable)?;
    Ok(record.filter(|r| r.offset() == offset).map(|r| (partition, r)))
}

fn show(found: Found) -> Result<(), Failure> {
    let (partition, r) = found.ok_or_else(|| Failure::new(OTHER, "no such record is cached"))?;
    let headers = r.headers().map(|h| (h.name, h.value));
    let line = RecordLine::new(partition, r.offset(), r.timestamp_ms(), r.key(), r.value(), headers);
    say(&serde_json::to_string_pretty(&line).unwrap_or_default())
}
