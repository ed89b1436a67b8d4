//! Start, run, stop.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use config::{CapabilityPlan, Plan, RoutePlan, SelectPlan};
use edge::{BindError, Drain, DrainHandle, Listener, ListenerOptions};
use exchange::Topics;
use message_cache::{Bounds, Keeper, KeeperOptions, TopicCache};
use telemetry::Metrics;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::{Admin, AdminState};
use crate::clusters::{Clusters, OpenClustersError};
use crate::collect;
use crate::control::{self, Control};
use crate::exchanges::{self, Exchanges};
use crate::lower::{self, LowerError, Lowering};
use crate::pipeline::Shared;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Clusters(#[from] OpenClustersError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the control socket cannot be made: {0}")]
    Control(std::io::Error),
    #[error("the key that signs locations cannot be kept: {0}")]
    SigningKey(std::io::Error),
    #[error("no thread for housekeeping: {0}")]
    Housekeeping(std::io::Error),
    #[error("the plan cannot be carried out: {0}")]
    Lower(#[from] LowerError),
}

/// A gateway that listens and answers.
pub struct Running {
    clusters: Arc<Clusters>,
    keeper: Arc<Keeper>,
    exchanges: Arc<Exchanges>,
    admin: Arc<AdminState>,
    listeners: JoinSet<usize>,
    admin_listener: JoinSet<usize>,
    drain: DrainHandle,
    admin_drain: DrainHandle,
    control: tokio::task::JoinHandle<()>,
    /// Ends the waiting of requests that hold on for a change.
    stopping: watch::Sender<bool>,
    /// By when requests that wait for a reply are to be answered.
    until: watch::Sender<Option<tokio::time::Instant>>,
    drain_timeout: Duration,
    /// By name, `admin` last.
    pub addresses: Vec<(String, SocketAddr)>,
}

struct EdgeObserver(Arc<Metrics>);

impl edge::Observer for EdgeObserver {
    fn connection_opened(&self) {
        self.0.edge.connections.inc();
    }
    fn connection_closed(&self) {
        self.0.edge.connections.dec();
    }
    fn limit_hit(&self, limit: &'static str) {
        self.0.edge.limit_hit(limit);
    }
}

impl Running {
    /// Takes the directory, opens the clusters, and listens. `version` is shown by the admin listener.
    pub async fn start(plan: Plan, version: &'static str, log: Option<&telemetry::LogGuard>) -> Result<Self, StartError> {
        // Addresses first: a port that is taken is the commonest fault and the cheapest to find.
        let public: Vec<Listener> = plan.listeners.iter().map(|l| bind(&plan, &l.name, l.address)).collect::<Result<_, _>>()?;
        let admin = plan.admin.map(|address| bind(&plan, "admin", address)).transpose()?;

        let clusters = Arc::new(Clusters::open(&plan, "tidegate run").await?);
        clusters.create_kafka_topics(&plan);
        clusters.create_claims_topics(&plan);
        let topics = Arc::new(lower::topics(&plan, &clusters));
        bootstrap(&plan, &topics);
        let keeper = Arc::new(keep(&plan, &clusters).map_err(StartError::Housekeeping)?);

        let metrics = Metrics::new(version);
        metrics.register_collector(collect::collector(Arc::clone(&clusters), Arc::clone(&topics), Arc::clone(&keeper)));
        if let Some(log) = log {
            metrics.watch_log(log.queue());
        }
        let shared = Arc::new(Shared {
            access_log: log.filter(|_| plan.log.access).map(telemetry::LogGuard::access_log),
            unrouted: metrics.http.route("", ""),
            requests: AtomicUsize::new(0),
            requests_max: plan.limits.requests,
            metrics: Arc::clone(&metrics),
        });
        let control = control::listen(&plan.cache.directory, Control { clusters: Arc::clone(&clusters) });
        let control = control.map_err(StartError::Control)?;
        let drain_timeout = plan.limits.drain_timeout;
        let (stopping, _) = watch::channel(false);
        exchanges::warn_of_lone_key(&plan, &topics);
        let (until, answered_by) = watch::channel(None);
        let mut exchanges = Exchanges::start(&plan, &clusters, answered_by).map_err(StartError::SigningKey)?;
        let stopped = stopping.subscribe();
        let pipelines =
            Lowering { clusters: &clusters, topics, shared, exchanges: &mut exchanges, stopping: stopped }.pipelines(plan)?;
        let exchanges = Arc::new(exchanges);
        let collected = Arc::clone(&exchanges);
        metrics.register_collector(Box::new(move |samples| collected.collect(samples)));

        let observer: Arc<dyn edge::Observer> = Arc::new(EdgeObserver(Arc::clone(&metrics)));
        let admin_state = Arc::new(AdminState {
            clusters: Arc::clone(&clusters),
            exchanges: Arc::clone(&exchanges),
            metrics,
            draining: AtomicBool::new(false),
            version,
        });
        let (drain, stop) = Drain::new();
        let (admin_drain, admin_stop) = Drain::new();
        let mut running = Self {
            clusters,
            keeper,
            exchanges,
            admin: Arc::clone(&admin_state),
            listeners: JoinSet::new(),
            admin_listener: JoinSet::new(),
            drain,
            admin_drain,
            control,
            stopping,
            until,
            drain_timeout,
            addresses: Vec::new(),
        };
        for (listener, pipeline) in public.into_iter().zip(pipelines) {
            running.addresses.push((listener.name().to_owned(), listener.local_addr()));
            running.listeners.spawn(listener.serve(pipeline, Arc::clone(&observer), stop.clone()));
        }
        if let Some(listener) = admin {
            running.addresses.push(("admin".to_owned(), listener.local_addr()));
            running.admin_listener.spawn(listener.serve(Admin { state: admin_state }, observer, admin_stop));
        }
        Ok(running)
    }

    /// Stops in order: no new connections, what runs is finished, then clusters, then the admin listener. A second call
    /// of `hurry` ends the waiting.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        self.admin.draining.store(true, Ordering::Release);
        tracing::info!(timeout_s = self.drain_timeout.as_secs(), "draining");
        self.drain.begin(self.drain_timeout);
        self.stopping.send_replace(true);
        // What is left of the drain is for the answers.
        let last = self.drain_timeout.mul_f32(0.8).min(self.drain_timeout.saturating_sub(Duration::from_millis(500)));
        self.until.send_replace(Some(tokio::time::Instant::now() + last));
        let listeners = std::mem::take(&mut self.listeners).join_all();
        tokio::pin!(listeners);
        let aborted: Vec<usize> = tokio::select! {
            done = &mut listeners => done,
            () = hurry => {
                self.drain.begin(Duration::ZERO);
                listeners.await
            }
        };
        let aborted: usize = aborted.iter().sum();
        if aborted > 0 {
            tracing::warn!(connections = aborted, "connections were cut at the deadline of the drain");
        }
        self.keeper.stop();
        self.exchanges.close().await;
        self.clusters.close().await;
        self.control.abort();
        self.admin_drain.begin(Duration::from_millis(100));
        while self.admin_listener.join_next().await.is_some() {}
        tracing::info!("stopped");
    }
}

fn bind(plan: &Plan, name: &str, address: SocketAddr) -> Result<Listener, BindError> {
    Listener::bind(ListenerOptions { name: name.to_owned(), address, limits: lower::limits(&plan.limits) })
}

/// Starts the fetchers of topics that are to be filled before anybody asks; a topic of the embedded log is always there.
fn bootstrap(plan: &Plan, topics: &Topics) {
    for t in plan.cache.topics.iter().filter(|t| t.bootstrap) {
        if let Some(Err(error)) = topics.get(&t.cluster, &t.name).map(|topic| topic.cache().map(drop)) {
            tracing::error!(cluster = t.cluster, topic = t.name, %error, "topic cannot be cached");
        }
    }
}

/// Starts the housekeeper over all topics that are cached, each with the bounds that the plan gives it.
fn keep(plan: &Plan, clusters: &Arc<Clusters>) -> std::io::Result<Keeper> {
    let options = KeeperOptions { interval: plan.cache.housekeeping_interval, max_bytes: plan.cache.max_bytes };
    let declared = plan.cache.topics.iter().map(|t| {
        let bounds = Bounds { max_bytes: t.max_bytes, on_demand: !t.bootstrap };
        ((t.cluster.clone(), t.name.clone()), bounds)
    });
    let declared: BTreeMap<(String, String), Bounds> = declared.collect();
    let clusters = Arc::clone(clusters);
    Keeper::start(options, move || {
        // Each second is often enough; what is wrong is for the log here.
        let _ = clusters.lock_problem();
        let caches = clusters.iter().flat_map(|(name, cluster)| cluster.caches().into_iter().map(move |cache| (name, cache)));
        let bound = |(cluster, cache): (&str, Arc<TopicCache>)| {
            let undeclared = Bounds { max_bytes: None, on_demand: true };
            let key = (cluster.to_owned(), cache.name().to_owned());
            cache.set_bounds(declared.get(&key).copied().unwrap_or(undeclared));
            cache
        };
        caches.map(bound).collect()
    })
}

/// What a newcomer needs to see: where the gateway listens, what it offers, and what to try.
pub fn introduce(addresses: &[(String, SocketAddr)], routes: &[RouteLine], out: &mut dyn Write) -> std::io::Result<()> {
    for (name, address) in addresses {
        writeln!(out, "listening {name} http://{address}")?;
    }
    writeln!(out)?;
    let width = routes.iter().map(|r| r.name.len()).max().unwrap_or(0);
    for route in routes {
        writeln!(out, "  {:<width$}  {}", route.name, route.what)?;
    }
    let Some((_, public)) = addresses.first() else { return Ok(()) };
    writeln!(out, "\ntry:")?;
    for route in routes {
        writeln!(out, "  {}", route.curl.replace("{base}", &format!("http://{public}")))?;
    }
    out.flush()
}

/// A route as it is introduced.
pub struct RouteLine {
    name: String,
    what: String,
    /// With `{base}` for the address.
    curl: String,
}

impl RouteLine {
    pub fn of(route: &RoutePlan) -> Self {
        let path = example_path(&route.path);
        let method = route.methods.first().map_or("GET", String::as_str);
        let (what, curl) = match &route.capability {
            CapabilityPlan::Produce(p) if method == "DELETE" => {
                (format!("produce to {}", p.topic.source()), format!("curl -i -X DELETE {{base}}{path}"))
            }
            CapabilityPlan::Produce(p) => (
                format!("produce to {}", p.topic.source()),
                format!("curl -i -X {method} {{base}}{path} -H 'content-type: application/json' -d '{{\"name\":\"tide\"}}'"),
            ),
            CapabilityPlan::Exchange(e) => {
                let what = match &e.reply {
                    Some(reply) => format!("ask by {}, reply by {}", e.request.topic.source(), reply.topic),
                    None => format!("send to {}", e.request.topic.source()),
                };
                (
                    what,
                    format!("curl -i -X {method} {{base}}{path} -H 'content-type: application/json' -d '{{\"name\":\"tide\"}}'"),
                )
            }
            CapabilityPlan::Fetch(f) => {
                let what = match &f.select {
                    SelectPlan::MergeJson(_) => "collection of",
                    SelectPlan::Newest(filters) if filters.iter().all(|f| f.headers.is_empty()) => "latest by key of",
                    SelectPlan::Newest(_) => "latest by filter of",
                };
                (format!("{what} {}", f.topic), format!("curl -i {{base}}{path}"))
            }
        };
        Self { name: route.name.clone(), what, curl }
    }
}

/// A path that the pattern takes: each parameter is `1`.
fn example_path(pattern: &str) -> String {
    let part = |segment: &str| match (segment.find('{'), segment.rfind('}')) {
        (Some(a), Some(b)) if a < b => format!("{}1{}", &segment[..a], &segment[b + 1..]),
        _ => segment.to_owned(),
    };
    pattern.split('/').map(part).collect::<Vec<_>>().join("/")
}
