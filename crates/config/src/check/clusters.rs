//! Clusters and the topics that are cached from them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::Checker;
use crate::document::{Document, Topic};
use crate::names::{did_you_mean, nearest};
use crate::node::At;
use crate::plan::{CachePlan, ClusterPlan, CreatePlan, HistoryPlan, TopicPlan};
use crate::units::{Size, Time, Word};

const BOOTSTRAP: &str = "bootstrap.servers";
const EMBEDDED: &str = "embedded";
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
const SEGMENT_BYTES_MAX: u64 = 32 << 30;
/// How long a topic without `bootstrap` is fetched after its last reader, unless it says so.
const LINGER: Duration = Duration::from_secs(60);
/// Least interval of looks at topics and logs: below it a process would do little else.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Kafka: `Topic.MAX_NAME_LENGTH`.
const TOPIC_NAME_MAX: usize = 249;

/// Whether Kafka takes a topic of this name.
pub(super) fn is_topic_name(name: &str) -> bool {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=TOPIC_NAME_MAX).contains(&name.len()) && name.chars().all(is_legal) && name != "." && name != ".."
}

pub(super) const TOPIC_NAME_HELP: &str = "1 to 249 of a to z, A to Z, 0 to 9, '.', '_' and '-'";

impl Checker<'_> {
    pub(super) fn clusters(&mut self, document: &Document) -> Vec<ClusterPlan> {
        let root = At::root().key("clusters");
        document.clusters.iter().map(|(name, cluster)| self.cluster(name, &cluster.0, &root.key(name))).collect()
    }

    fn cluster(&mut self, name: &str, properties: &BTreeMap<String, Word>, at: &At) -> ClusterPlan {
        // The name is part of a path on disk.
        if !is_topic_name(name) {
            self.key_fault(at, format!("'{name}' is no name for a cluster"), TOPIC_NAME_HELP.to_owned());
        }
        let embedded = properties.get(BOOTSTRAP).is_some_and(|servers| servers.0.trim().eq_ignore_ascii_case(EMBEDDED));
        if self.tree.get(at).is_none_or(|node| node.entry(BOOTSTRAP).is_none()) {
            let near = nearest(BOOTSTRAP, properties.keys().map(String::as_str));
            let help = match near {
                Some(near) => format!("did you mean '{BOOTSTRAP}' by '{near}'?"),
                None => format!("{BOOTSTRAP}: HOST:PORT, or {EMBEDDED} for the built-in log"),
            };
            self.key_fault(at, format!("the cluster '{name}' has no '{BOOTSTRAP}'"), help);
        }
        for (property, value) in properties {
            if let Err(problem) = (self.checks.kafka_property)(property, &value.0, embedded) {
                let at = at.key(property);
                // What came out of the environment may be quoted in the text, whole or in part.
                let quotes =
                    |text: &str| value.0.split([',', ' ', ';', '\'', '"']).any(|part| !part.is_empty() && text.contains(part));
                let tells = self.is_hidden(&at) && (quotes(&problem.message) || problem.help.as_deref().is_some_and(quotes));
                match tells {
                    true => self.key_fault(&at, format!("the Kafka property '{property}' does not take the given value"), None),
                    false => self.key_fault(&at, problem.message, problem.help),
                }
            }
        }
        if embedded {
            self.embedded.insert(name.to_owned());
        }
        let isolation = ["consumer.isolation.level", "isolation.level"].into_iter().find_map(|name| properties.get(name));
        if isolation.is_some_and(|level| level.0 == "read_uncommitted") {
            self.uncommitted.insert(name.to_owned());
        }
        let properties = properties.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect();
        ClusterPlan { name: name.to_owned(), embedded, properties }
    }

    pub(super) fn cache(&mut self, document: &Document, base_dir: &Path) -> Option<CachePlan> {
        let cache = &document.cache;
        let at = At::root().key("cache");
        self.bounded(&at.key("segment_bytes"), cache.segment_bytes, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        if cache.directory.is_empty() || cache.directory.contains('\0') {
            self.fault(&at.key("directory"), "this is no directory", "give a path such as ./data".to_owned());
        }
        self.fits_a_segment(cache.max_bytes, cache.segment_bytes, &at);
        self.interval(&at.key("topic_refresh"), cache.topic_refresh);
        self.interval(&at.key("housekeeping_interval"), cache.housekeeping_interval);
        let topics: Vec<_> = cache
            .topics
            .iter()
            .filter_map(|(name, topic)| self.topic(document, name, topic, &at.key("topics").key(name)))
            .collect();
        Some(CachePlan {
            directory: base_dir.join(&cache.directory),
            segment_bytes: cache.segment_bytes.0,
            read_your_writes_timeout: cache.read_your_writes_timeout.0,
            max_bytes: cache.max_bytes.map(|size| size.0),
            topic_refresh: cache.topic_refresh.0,
            housekeeping_interval: cache.housekeeping_interval.0,
            topics,
        })
    }

    /// Bytes are given back by whole segments, so that a bound below one could not be kept.
    fn fits_a_segment(&mut self, max_bytes: Option<Size>, segment_bytes: Size, at: &At) {
        let at = at.key("max_bytes");
        if max_bytes.is_some_and(|size| size.0 < segment_bytes.0) {
            let message = format!("{} does not hold one segment (cache.segment_bytes)", self.shown(&at));
            self.fault(&at, message, "give more, or make cache.segment_bytes smaller".to_owned());
        }
    }

    fn interval(&mut self, at: &At, interval: Time) {
        if interval.0 < INTERVAL_MIN {
            self.fault(at, format!("{} is out of range", self.shown(at)), "give 100ms at least".to_owned());
        }
    }

    fn topic(&mut self, document: &Document, name: &str, topic: &Topic, at: &At) -> Option<TopicPlan> {
        if !is_topic_name(name) {
            self.key_fault(at, format!("'{name}' is no name for a topic"), TOPIC_NAME_HELP.to_owned());
        }
        let create = topic.create.as_ref().map(|create| {
            if create.replication == 0 {
                let at = at.key("create").key("replication");
                self.fault(&at, "no topic has 0 replicas", "-1 takes the default of the cluster".to_owned());
            }
            let config = create.config.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect();
            CreatePlan { partitions: create.partitions, replication: create.replication, config }
        });
        let cluster = self.cluster_of(topic.cluster.as_deref(), at)?;
        let embedded = self.embedded.contains(&cluster);
        if let Some(create) = create.as_ref().filter(|_| embedded) {
            self.embedded_topic(create, &at.key("create"));
        }
        if embedded {
            self.only_of_kafka(topic, &cluster, at);
        }
        self.fits_a_segment(topic.max_bytes, document.cache.segment_bytes, at);
        if topic.bootstrap && topic.linger.is_some() {
            let help = "leave 'linger' out, or 'bootstrap'".to_owned();
            self.key_fault(&at.key("linger"), "with 'bootstrap' the topic is always fetched, so nothing lingers", help);
        }
        self.topics.insert(name.to_owned(), cluster.clone());
        Some(TopicPlan {
            name: name.to_owned(),
            cluster,
            bootstrap: topic.bootstrap,
            start: topic.start.0,
            max_bytes: topic.max_bytes.map(|size| size.0),
            linger: (!topic.bootstrap && !embedded).then(|| topic.linger.map_or(LINGER, |time| time.0)),
            history: topic.history,
            create,
        })
    }

    /// On an embedded cluster the cache is the topic: nothing is fetched, and a bound would delete the only copy.
    fn only_of_kafka(&mut self, topic: &Topic, cluster: &str, at: &At) {
        let given = [
            (
                "max_bytes",
                topic.max_bytes.is_some(),
                "bound it by its topic property: create: { config: { retention.bytes: ... } }",
            ),
            ("linger", topic.linger.is_some(), "leave it out: nothing is fetched"),
            ("history", topic.history == HistoryPlan::ReadThrough, "leave it out: there is no other copy to read"),
        ];
        for (key, _, help) in given.into_iter().filter(|(_, given, _)| *given) {
            let message = format!("the topic is of the embedded cluster '{cluster}', which has no '{key}'");
            self.key_fault(&at.key(key), message, help.to_owned());
        }
    }

    /// What the embedded cluster could not create, each fault where it is.
    fn embedded_topic(&mut self, create: &CreatePlan, at: &At) {
        let check = self.checks.embedded_topic;
        for fault in check(create.partitions, &BTreeMap::new()).err().into_iter().flatten() {
            self.fault(&at.key("partitions"), fault, None);
        }
        for (name, value) in &create.config {
            let one = BTreeMap::from([(name.clone(), value.clone())]);
            for fault in check(1, &one).err().into_iter().flatten() {
                self.fault(&at.key("config").key(name), fault, None);
            }
        }
    }

    /// The cluster that the thing at `at` names with `cluster`, or the only one there is.
    pub(super) fn cluster_of(&mut self, given: Option<&str>, at: &At) -> Option<String> {
        let root = At::root().key("clusters");
        if let Some(given) = given {
            return self.known(given, "cluster", &root, &at.key("cluster")).then(|| given.to_owned());
        }
        let names = self.written(&root)?;
        match names.as_slice() {
            // A cluster that does not fit the schema has been reported where it stands.
            _ if self.tree.get(&at.key("cluster")).is_some() => None,
            [only] => Some((*only).to_owned()),
            [] => {
                let help = format!("declare one: clusters: {{ main: {{ {BOOTSTRAP}: {EMBEDDED} }} }}");
                self.key_fault(at, "there is no cluster", help);
                None
            }
            _ => {
                let help = format!("add 'cluster' with one of: {}", names.join(", "));
                self.key_fault(at, "there are several clusters; which one is meant?", help);
                None
            }
        }
    }

    /// The cluster of the cached topic `name`, which stands at `at`.
    pub(super) fn cached_topic(&mut self, name: &str, at: &At) -> Option<String> {
        let root = At::root().key("cache").key("topics");
        let known = self.written(&root)?;
        if !known.contains(&name) {
            let help = did_you_mean(name, "cached topics", known.iter().copied());
            let help = help.unwrap_or_else(|| format!("declare it: {root}: {{ NAME: {{ bootstrap: true }} }}"));
            let shown = self.shown(at);
            self.fault(at, format!("the topic {shown} is not cached"), help);
        }
        self.topics.get(name).cloned()
    }

    /// The names of the cached topics as they were written.
    pub(super) fn cached_names(&self) -> Vec<&str> {
        self.written(&At::root().key("cache").key("topics")).unwrap_or_default()
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.write())
    }
}
