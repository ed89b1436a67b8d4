//! What the routes of a process share to write once and to wait for replies: one of each per topic, however many routes use it.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use config::{ClaimsPlan, Plan};
use exchange::{Decide, KEY_HEADER, Once, Quota, Signer, Topic, Topics, Watch};
use kafka::{Claims, ClaimsOptions, Cluster};
use telemetry::Samples;
use telemetry::names::{label, metric};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::clusters::Clusters;

/// The file in the cache directory with the key that signs locations, where the configuration has none.
const SIGNING_KEY: &str = "signing.key";

pub struct Exchanges {
    pub signer: Arc<Signer>,
    /// Exchanges that wait, of all routes.
    pub pending: Arc<Quota>,
    patience: std::time::Duration,
    /// Once the process stops, until when who waits for a reply may wait.
    pub until: watch::Receiver<Option<Instant>>,
    reading: Vec<JoinHandle<()>>,
    /// By cluster, topic and record header.
    watches: BTreeMap<(String, String, String), Arc<Watch>>,
    /// By cluster and topic.
    once: BTreeMap<(String, String), Arc<Once>>,
    claims: Vec<(ClaimsPlan, Arc<Claims>)>,
}

impl Exchanges {
    /// Starts what decides claims; never waits for a cluster.
    ///
    /// # Errors
    /// When there is no key to sign with and none can be kept.
    pub fn start(plan: &Plan, clusters: &Clusters, until: watch::Receiver<Option<Instant>>) -> io::Result<Self> {
        let keys = match &plan.signing {
            Some(signing) => signing.keys.clone(),
            None => vec![kept_key(&plan.cache.directory)?],
        };
        let signer = Signer::new(&keys).ok_or_else(|| io::Error::other("there is no key to sign with"))?;
        let claims = plan.claims.iter().filter_map(|c| match clusters.get(&c.cluster) {
            Some(Cluster::Kafka(kafka)) => {
                let (topic, target, id_header) = (c.topic.clone(), c.target.clone(), KEY_HEADER.to_owned());
                Some((c.clone(), kafka.claims(ClaimsOptions { topic, target, id_header })))
            }
            _ => None,
        });
        Ok(Self {
            signer: Arc::new(signer),
            pending: Quota::new(plan.limits.pending_exchanges),
            patience: plan.cache.read_your_writes_timeout,
            until,
            reading: Vec::new(),
            watches: BTreeMap::new(),
            once: BTreeMap::new(),
            claims: claims.collect(),
        })
    }

    /// The watch on a topic for ids in a record header; reads from the first call on.
    pub fn watch(&mut self, cluster: &str, topic: &Arc<Topic>, header: &str) -> Arc<Watch> {
        let key = (cluster.to_owned(), topic.name().to_owned(), header.to_owned());
        let watch = self.watches.entry(key).or_insert_with(|| {
            let watch = Watch::new(Arc::clone(topic), header);
            self.reading.push(tokio::spawn(Arc::clone(&watch).run()));
            watch
        });
        Arc::clone(watch)
    }

    /// What writes once to a topic: through claims where the plan has some for it.
    pub fn once(&mut self, cluster: &str, topic: &Arc<Topic>) -> Arc<Once> {
        let key = (cluster.to_owned(), topic.name().to_owned());
        if let Some(once) = self.once.get(&key) {
            return Arc::clone(once);
        }
        let of_topic = |(plan, _): &&(ClaimsPlan, Arc<Claims>)| plan.cluster == cluster && plan.target == topic.name();
        let decide = match self.claims.iter().find(of_topic).map(|(_, claims)| Arc::clone(claims)) {
            Some(claims) => Decide::Claims(claims, self.watch(cluster, topic, KEY_HEADER)),
            None => Decide::Here,
        };
        let once = Once::new(Arc::clone(topic), decide, self.patience);
        self.once.insert(key, Arc::clone(&once));
        once
    }

    /// What keeps requests from being claimed, one sentence each.
    pub fn obstacles(&self) -> impl Iterator<Item = String> {
        self.claims.iter().filter_map(|(plan, claims)| {
            let problem = claims.problem()?;
            Some(format!("cluster {}, claims {}: {problem}", plan.cluster, plan.topic))
        })
    }

    /// Ends what nobody waits for any more, has claims that run copied, and leaves the others to other gateways.
    pub async fn close(&self) {
        self.reading.iter().for_each(JoinHandle::abort);
        for (_, claims) in &self.claims {
            claims.close().await;
        }
    }

    /// What clusters and caches do not show.
    pub fn collect(&self, out: &mut Samples) {
        const KINDS: [&str; 6] = ["", "awaited", "repeated", "late", "unasked", "malformed"];
        let watched = by_topic(&self.watches, |watch| {
            let s = watch.stats();
            [s.waiting as u64, s.awaited, s.repeated, s.late, s.unasked, s.malformed]
        });
        for ((cluster, topic), counts) in watched {
            let labels = [(label::CLUSTER, cluster), (label::TOPIC, topic)];
            out.gauge(metric::EXCHANGE_PENDING, "Who waits for a record of an exchange.", &labels, counts[0] as f64);
            for (kind, count) in KINDS.into_iter().zip(counts).skip(1) {
                let labels = [labels[0], labels[1], (label::KIND, kind)];
                let help = "Records of exchanges that came, by what they were here.";
                out.counter(metric::EXCHANGE_REPLIES, help, &labels, count as f64);
            }
        }
        const RESULTS: [&str; 4] = ["written", "repeated", "conflict", "failed"];
        for ((cluster, topic), once) in &self.once {
            let s = once.stats();
            let counts = [s.written, s.repeated, s.conflicts, s.failed];
            for (result, count) in RESULTS.into_iter().zip(counts) {
                let labels = [(label::CLUSTER, cluster.as_str()), (label::TOPIC, topic.as_str()), (label::RESULT, result)];
                let help = "Requests with an idempotency key, by result.";
                out.counter(metric::IDEMPOTENT_REQUESTS, help, &labels, count as f64);
            }
        }
        for (plan, claims) in &self.claims {
            let stats = claims.stats();
            let labels = [(label::CLUSTER, plan.cluster.as_str()), (label::TOPIC, plan.target.as_str())];
            out.gauge(metric::CLAIMS_OWNED, "Partitions of claims that this gateway decides.", &labels, stats.owned as f64);
            for (result, count) in [("copied", stats.copied), ("repeated", stats.repeated), ("refused", stats.refused)] {
                let labels = [labels[0], labels[1], (label::RESULT, result)];
                out.counter(metric::CLAIMS, "Claims that this gateway decided, by result.", &labels, count as f64);
            }
        }
    }
}

/// Adds up what there is of each topic, under any record header.
fn by_topic<T, const N: usize>(
    all: &BTreeMap<(String, String, String), T>,
    counts: impl Fn(&T) -> [u64; N],
) -> BTreeMap<(&str, &str), [u64; N]> {
    let mut sums = BTreeMap::new();
    for ((cluster, topic, _), one) in all {
        let sum = sums.entry((cluster.as_str(), topic.as_str())).or_insert([0; N]);
        sum.iter_mut().zip(counts(one)).for_each(|(sum, count)| *sum += count);
    }
    sums
}

/// Where exchanges can be asked about later, gateways must verify each other's locations.
pub fn warn_of_lone_key(plan: &Plan, topics: &Topics) {
    let locations =
        plan.routes.iter().filter(|r| matches!(&r.capability, config::CapabilityPlan::Exchange(e) if e.location.is_some()));
    let lone = locations.clone().count() > 0 && plan.signing.is_none() && topics.iter().any(|t| t.is_of_kafka());
    if lone {
        tracing::warn!(
            "locations are signed with a key of this gateway alone: other gateways will not know them; set signing.keys"
        );
    }
}

/// The key of this directory; made when there is none.
fn kept_key(directory: &Path) -> io::Result<Vec<u8>> {
    let path = directory.join(SIGNING_KEY);
    let told = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let mut key = Vec::new();
    match OpenOptions::new().read(true).open(&path) {
        Ok(file) => {
            file.take(4096).read_to_end(&mut key).map_err(told)?;
            if key.len() >= Signer::KEY_BYTES_MIN {
                return Ok(key);
            }
            return Err(told(io::Error::other("it holds no key: remove it, so that a new one is made")));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(told(e)),
    }
    // Whole or not at all, and for nobody else to read.
    let key = Signer::random_key();
    let half = path.with_extension("key.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half).map_err(told)?;
    file.write_all(&key).and_then(|()| file.sync_all()).map_err(told)?;
    std::fs::rename(&half, &path).map_err(told)?;
    std::fs::File::open(directory).and_then(|dir| dir.sync_all()).map_err(told)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let key = kept_key(dir.path()).unwrap();
        assert!(key.len() >= Signer::KEY_BYTES_MIN);
        assert_eq!(kept_key(dir.path()).unwrap(), key);
        let path = dir.path().join(SIGNING_KEY);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "short").unwrap();
        let refused = kept_key(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("signing.key") && refused.contains("remove it"), "{refused}");
    }
}
