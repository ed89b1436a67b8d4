//! Metrics that are read when they are scraped: the state of clusters and caches.

use std::sync::Arc;

use kafka::ClusterStatus;
use message_cache::{Keeper, LogStats};
use telemetry::Samples;
use telemetry::names::{label, metric};

use crate::clusters::Clusters;
use exchange::Topics;

pub fn collector(clusters: Arc<Clusters>, topics: Arc<Topics>, keeper: Arc<Keeper>) -> Box<dyn Fn(&mut Samples) + Send + Sync> {
    Box::new(move |samples| {
        let kept = keeper.status();
        samples.counter(metric::CACHE_HOUSEKEEPING_TURNS, "Turns of the housekeeper.", &[], kept.turns as f64);
        let help = "Bytes of records dropped because cache.max_bytes or a topic's max_bytes was reached.";
        samples.counter(metric::CACHE_EVICTED_BYTES, help, &[], kept.evicted_bytes as f64);
        for (name, cluster) in clusters.iter() {
            cluster_samples(name, &cluster.status(), samples);
            for topic in topics.iter().filter(|t| t.is_of(cluster)) {
                let Some(cache) = topic.opened() else { continue };
                let labels = [(label::CLUSTER, name), (label::TOPIC, topic.name())];
                let help = "Whether a bound on bytes keeps the topic from taking records.";
                samples.gauge(metric::CACHE_FULL, help, &labels, f64::from(u8::from(cache.is_full())));
                for (n, log) in cache.partitions().iter().enumerate() {
                    log_samples(name, topic.name(), n, &log.stats(), samples);
                }
            }
        }
    })
}

fn cluster_samples(name: &str, status: &ClusterStatus, out: &mut Samples) {
    let bit = |b: bool| f64::from(u8::from(b));
    out.gauge(metric::CLUSTER_UP, "Whether the cluster can be used.", &[(label::CLUSTER, name)], bit(status.up));
    for b in &status.brokers {
        let labels = [(label::CLUSTER, name), (label::BROKER, b.address.as_str())];
        out.gauge(metric::BROKER_UP, "Whether the broker is connected.", &labels, bit(b.state == "UP"));
    }
    for topic in &status.topics {
        let labels = [(label::CLUSTER, name), (label::TOPIC, topic.name.as_str())];
        let help = "Records fetched from the cluster since the start.";
        out.counter(metric::CACHE_FETCHED_RECORDS, help, &labels, topic.fetched_records as f64);
        for p in &topic.partitions {
            let number = p.partition.to_string();
            let labels = [labels[0], labels[1], (label::PARTITION, number.as_str())];
            let help = "Times that reading the partition was begun again after a fault.";
            out.counter(metric::CACHE_FETCH_RESTARTS, help, &labels, p.faults.restarts as f64);
            let help = "Times that the watchdog found no progress although the cluster had more.";
            out.counter(metric::CACHE_FETCH_STALLS, help, &labels, p.faults.stalls as f64);
            let Some(end) = p.cluster_end else { continue };
            let help = "Offsets between the cached end and the cluster's.";
            out.gauge(metric::CACHE_LAG_RECORDS, help, &labels, (end - p.cached_end).max(0) as f64);
        }
    }
}

fn log_samples(cluster: &str, topic: &str, partition: usize, stats: &LogStats, out: &mut Samples) {
    let number = partition.to_string();
    let labels = [(label::CLUSTER, cluster), (label::TOPIC, topic), (label::PARTITION, number.as_str())];
    for (name, help, value) in [
        (metric::CACHE_START_OFFSET, "The first offset that the cache may hold.", stats.start_offset as f64),
        (metric::CACHE_END_OFFSET, "The next offset that the cache will hold.", stats.end_offset as f64),
        (metric::CACHE_BYTES, "Bytes of segment files.", stats.bytes as f64),
        (metric::CACHE_SEGMENTS, "Segment files.", stats.segments as f64),
        (metric::CACHE_INDEX_BYTES, "Heap bytes of indexes.", stats.index_heap_bytes as f64),
        (
            metric::CACHE_PROBLEM,
            "Whether housekeeping of the partition fails; the log and the JSON of / say why.",
            f64::from(u8::from(stats.problem.is_some())),
        ),
        (metric::CACHE_RECOVERY_SECONDS, "Time that opening the log took.", stats.recovery.as_secs_f64()),
    ] {
        out.gauge(name, help, &labels, value);
    }
    for (name, help, value) in [
        (metric::CACHE_CORRUPT, "Corrupt places met, never served.", stats.corrupt),
        (metric::CACHE_HITS, "Look-ups by key that found a record.", stats.hits),
        (metric::CACHE_MISSES, "Look-ups by key that found none.", stats.misses),
        (metric::CACHE_CONFLATED, "Records that readers skipped because a newer one of their key had come.", stats.conflated),
        (metric::CACHE_EXPIRED, "Records that retention removed.", stats.expired),
        (metric::CACHE_COMPACTED, "Records that compaction removed.", stats.compacted),
        (metric::CACHE_TOMBSTONES, "Tombstones that compaction removed.", stats.tombstones),
        (metric::CACHE_RECLAIMED_BYTES, "Bytes that housekeeping gave back to the disk.", stats.reclaimed_bytes),
    ] {
        out.counter(name, help, &labels, value as f64);
    }
}
