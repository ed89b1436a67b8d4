//! The member of the consumer group: hears which partitions of claims this process owns, and keeps an owner for each of them.
//! The group only says who owns what and remembers how far each partition was copied; owners read by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;

use super::owner::Owner;
use super::{MEMBER, Shared, Stop};
use crate::client::backoff::{Backoff, RETRY_MAX};
use crate::client::config::{self, client_config};
use crate::client::health::{Health, ReaderContext};
use crate::client::native::ReaderClient;
use crate::client::{KafkaCluster, spawn, start_reader};
use crate::properties::Scope;

/// After which the partitions of a gateway that died go to others: the least that brokers take by default.
const SESSION_TIMEOUT_MS: &str = "6000";
/// How soon a member hears that another has left.
const HEARTBEAT_MS: &str = "500";
/// How long a rebalance waits for a member, which may be at the end of a transaction.
const MAX_POLL_INTERVAL_MS: &str = "60000";
/// How often a topic of claims that is missing, or its partitions, are looked for.
const METADATA_REFRESH_MS: &str = "2000";
/// How often the thread looks whether it is to stop; what the group says wakes it at once.
const POLL: Duration = Duration::from_millis(100);

/// How long owners may take to end; a transaction that is well under way has [`super::END_GRACE`].
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether they have ended.
const LOOK: Duration = Duration::from_millis(2);

pub type GroupClient = BaseConsumer<GroupContext>;

/// Takes part in the group until told to stop.
pub fn run(cluster: &Arc<KafkaCluster>, shared: &Arc<Shared>) {
    let mut backoff = Backoff::new(RETRY_MAX);
    while !shared.stop.is_set() {
        let problem = match Member::join(cluster, shared) {
            Ok(member) => member.serve(),
            Err(problem) => Some(problem),
        };
        let Some(problem) = problem else { return };
        shared.note(MEMBER, problem);
        shared.stop.wait(backoff.next(fastrand::f64()));
    }
}

struct Member {
    cluster: Arc<KafkaCluster>,
    shared: Arc<Shared>,
    group: Arc<GroupClient>,
    /// Reads claims for the owners.
    reader: Arc<ReaderClient>,
}

impl Member {
    fn join(cluster: &Arc<KafkaCluster>, shared: &Arc<Shared>) -> Result<Self, String> {
        if !cluster.committed {
            return Err("isolation.level is read_uncommitted: what is to be written once cannot be told from what never was; \
                        leave it at read_committed"
                .to_owned());
        }
        // So that it is there when a partition is.
        cluster.cached(&shared.options.target, crate::FetchStart::Earliest).map_err(|e| e.to_string())?;
        let topic = shared.options.topic.as_str();
        let mut properties = client_config(&cluster.options.properties, Scope::Consumer)?;
        // Nobody asks how these clients are.
        properties.set("statistics.interval.ms", "0");
        let reader = start_reader(&properties, &Health::new(&cluster.options.name, "claims"))?;
        let own = [
            ("group.id", format!("tidegate-claims.{topic}").as_str()),
            ("session.timeout.ms", SESSION_TIMEOUT_MS),
            ("heartbeat.interval.ms", HEARTBEAT_MS),
            ("max.poll.interval.ms", MAX_POLL_INTERVAL_MS),
            ("topic.metadata.refresh.interval.ms", METADATA_REFRESH_MS),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("auto.offset.reset", "earliest"),
            ("enable.partition.eof", "false"),
        ]
        .map(|(name, value)| (name, value.to_owned()));
        for (name, value) in own {
            properties.set(name, value);
        }
        let context = GroupContext {
            base: ReaderContext(Health::new(&cluster.options.name, "claims-group")),
            shared: Arc::clone(shared),
            state: Mutex::default(),
        };
        let group: GroupClient = properties.create_with_context(context).map_err(|e| config::refusal(&e))?;
        group.subscribe(&[topic]).map_err(|e| e.to_string())?;
        Ok(Self { cluster: Arc::clone(cluster), shared: Arc::clone(shared), group: Arc::new(group), reader })
    }

    /// Until told to stop, or until the member can go on no longer: then this says why.
    fn serve(self) -> Option<String> {
        let mut broken = None;
        while broken.is_none() && !self.shared.stop.is_set() {
            match self.group.poll(POLL) {
                // Nothing is read through the group.
                None | Some(Ok(_)) => {}
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => broken = Some(error.to_string()),
                // Owners tell what stops them; before there are any, this is all there is to tell.
                Some(Err(error)) if !self.group.context().state.lock().has_joined => {
                    let (topic, problem) = (&self.shared.options.topic, error.to_string());
                    self.shared.note(MEMBER, format!("no part in copying the claims of topic {topic}: {problem}"));
                }
                Some(Err(_)) => {}
            }
            crate::client::native::serve_events(&self.reader);
            self.begin_owning();
        }
        // Before the group is left, so that others take over what is finished.
        self.group.context().give_up(|_| true);
        broken
    }

    /// An owner for each partition that is ours and has none.
    fn begin_owning(&self) {
        let context = self.group.context();
        let mut state = context.state.lock();
        let State { assigned, owners, .. } = &mut *state;
        for partition in assigned.iter() {
            match owners.get(partition) {
                Some(owner) if !owner.thread.is_finished() => continue,
                Some(_) => tracing::error!(partition, "the thread that copies claims has failed and is begun again"),
                None => {}
            }
            let stop = Arc::new(Stop::default());
            let owner = Owner {
                cluster: Arc::clone(&self.cluster),
                shared: Arc::clone(&self.shared),
                group: Arc::clone(&self.group),
                reader: Arc::clone(&self.reader),
                partition: *partition,
                stop: Arc::clone(&stop),
            };
            match spawn("kafka-claims", move || owner.run()) {
                Ok(thread) => drop(owners.insert(*partition, Owning { stop, thread })),
                Err(problem) => self.shared.note(*partition, problem),
            }
        }
    }
}

/// Callbacks of the group.
pub struct GroupContext {
    base: ReaderContext,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    has_joined: bool,
    assigned: BTreeSet<i32>,
    owners: BTreeMap<i32, Owning>,
}

struct Owning {
    stop: Arc<Stop>,
    thread: JoinHandle<()>,
}

impl GroupContext {
    /// Ends the owners of these partitions, each behind the transaction that it is at. Blocks, but for an owner whose call to a cluster
    /// that is away does not return no longer than [`LEAVE_TIMEOUT`]: that one ends later, and can commit nothing by then.
    fn give_up(&self, is_lost: impl Fn(i32) -> bool) {
        let ending = {
            let mut state = self.state.lock();
            state.assigned.retain(|partition| !is_lost(*partition));
            let owners = std::mem::take(&mut state.owners);
            let (ending, staying): (BTreeMap<_, _>, BTreeMap<_, _>) = owners.into_iter().partition(|(p, _)| is_lost(*p));
            state.owners = staying;
            ending
        };
        ending.values().for_each(|owner| owner.stop.set());
        let until = Instant::now() + LEAVE_TIMEOUT;
        for (partition, owner) in ending {
            while !owner.thread.is_finished() && Instant::now() < until {
                std::thread::sleep(LOOK);
            }
            if owner.thread.is_finished() && owner.thread.join().is_err() {
                tracing::error!(topic = self.shared.options.topic, partition, "the thread that copies claims has failed");
            }
            self.shared.problems.lock().remove(&partition);
        }
    }

    fn owned(&self) {
        let count = self.state.lock().assigned.len() as u64;
        self.shared.counters.owned.store(count, Ordering::Relaxed);
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.base.log(level, facility, message);
    }

    fn stats_raw(&self, json: &[u8]) {
        self.base.stats_raw(json);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.base.error(error, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(lost) = rebalance {
            let lost = partitions(lost);
            self.give_up(|partition| lost.contains(&partition));
            self.owned();
        }
    }

    fn post_rebalance(&self, group: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(given) = rebalance {
            // Owners read by themselves.
            if let Err(error) = group.pause(given) {
                tracing::debug!(%error, "partitions of claims are read in vain");
            }
            {
                let mut state = self.state.lock();
                state.has_joined = true;
                state.assigned.extend(partitions(given));
            }
            self.shared.clear(MEMBER);
            self.owned();
        }
    }
}

fn partitions(list: &TopicPartitionList) -> BTreeSet<i32> {
    list.elements().iter().map(|element| element.partition()).collect()
}
