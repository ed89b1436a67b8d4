//! From the checked plan to what each stage takes. Here, and nowhere else, configuration meets the stages.

use std::sync::Arc;

use config::{
    CapabilityPlan, FetchPlan, FilterPlan, HistoryPlan, LimitsPlan, Plan, ProducePlan, RecordNamesPlan, RoutePlan, SelectPlan,
    TopicPlan,
};
use edge::{Limits, RouteMatch, Router};
use entrypoint::{FetchFace, FetchFaceOptions, ProduceFace, ProduceFaceOptions};
use exchange::{ClauseTemplate, Fetch, FetchOptions, History, Select, Topic, Topics};
use http::{HeaderName, HeaderValue, Method};
use tokio::sync::watch;

use crate::clusters::{Clusters, fetch_options};
use crate::exchanges::Exchanges;
use crate::pipeline::{Capability, Parts, Pipeline, Route, Shared};

mod exchange_route;

/// A plan that passed its checks and yet cannot be carried out: a fault of ours.
#[derive(Debug, thiserror::Error)]
#[error("route {route}: {reason}")]
pub struct LowerError {
    route: String,
    reason: String,
}

pub fn limits(plan: &LimitsPlan) -> Limits {
    Limits {
        header_bytes: plan.header_bytes,
        headers: plan.headers,
        uri_bytes: plan.uri_bytes,
        path_segments: plan.path_segments,
        connections: plan.connections,
        header_timeout: plan.header_timeout,
        idle_timeout: plan.idle_timeout,
        streams_per_connection: plan.streams_per_connection,
    }
}

/// The topics that the plan caches.
pub fn topics(plan: &Plan, clusters: &Clusters) -> Topics {
    let mut topics = Topics::default();
    for t in &plan.cache.topics {
        if let Some(cluster) = clusters.get(&t.cluster) {
            topics.insert(&t.cluster, Arc::new(Topic::new(cluster.clone(), &t.name, fetch_options(t)).with_history(history(t))));
        }
    }
    topics
}

/// What the plan's capabilities are made from.
pub struct Lowering<'a> {
    pub clusters: &'a Clusters,
    pub topics: Arc<Topics>,
    pub shared: Arc<Shared>,
    pub exchanges: &'a mut Exchanges,
    pub stopping: watch::Receiver<bool>,
}

impl Lowering<'_> {
    /// One pipeline per listener, in the plan's order.
    pub fn pipelines(&mut self, mut plan: Plan) -> Result<Vec<Pipeline>, LowerError> {
        let limits = limits(&plan.limits);
        let mut tables: Vec<_> = plan.listeners.iter().map(|_| Vec::new()).collect();
        for route in std::mem::take(&mut plan.routes) {
            let condition = route_match(&route)?;
            let at: Vec<usize> =
                (0..plan.listeners.len()).filter(|&i| route.listeners.contains(&plan.listeners[i].name)).collect();
            for (condition, built) in self.route(&plan, condition, route)? {
                let built = Arc::new(built);
                for &i in &at {
                    tables[i].push((condition.clone(), Arc::clone(&built)));
                }
            }
        }
        let pipeline = |routes: Vec<(RouteMatch, Arc<Route>)>| {
            let router = Router::build(routes).map_err(|e| LowerError { route: "table".into(), reason: e.to_string() })?;
            Ok(Pipeline { parts: Arc::new(Parts { router: router.with_limits(&limits), shared: Arc::clone(&self.shared) }) })
        };
        tables.into_iter().map(pipeline).collect()
    }

    /// A route, and the one at the location of its exchanges if it has any.
    fn route(&mut self, plan: &Plan, condition: RouteMatch, route: RoutePlan) -> Result<Vec<(RouteMatch, Route)>, LowerError> {
        let name = route.name;
        let fault = |reason: String| LowerError { route: name.clone(), reason };
        let method = route.methods.first().map_or("", String::as_str);
        let metrics = self.shared.metrics.http.route(&route.path, method);
        let capability = match route.capability {
            CapabilityPlan::Produce(p) => self.produce(plan, p).map_err(fault)?,
            CapabilityPlan::Fetch(f) => self.fetch(plan, f).map_err(fault)?,
            CapabilityPlan::Exchange(e) => {
                let location = e.location.as_ref().map(|l| l.pattern.clone());
                let (asks, follows_up) = self.exchange(plan, e).map_err(fault)?;
                let follow_up = location.map(|pattern| self.follow_up(&condition, pattern, follows_up));
                return Ok([(condition, Route { metrics, capability: asks, name })].into_iter().chain(follow_up).collect());
            }
        };
        Ok(vec![(condition, Route { metrics, capability, name })])
    }

    fn produce(&mut self, plan: &Plan, p: ProducePlan) -> Result<Capability, String> {
        let body_bytes_max = p.body_bytes.unwrap_or(plan.limits.body_bytes) as u64;
        let timeout = p.timeout.unwrap_or(plan.limits.request_timeout);
        let copy_headers = p.copy_headers.iter().map(|n| header_name(n)).collect::<Result<_, _>>()?;
        let require_match = p.require_match;
        let (produce, identify) = self.writer(plan, p, &RecordNamesPlan::tidegate(), None)?;
        let face = ProduceFaceOptions { body_bytes_max, timeout, copy_headers, identify, require_match };
        let metrics = self.shared.metrics.produce.topic(produce.topic_label());
        Ok(Capability::Produce(Box::new(ProduceFace::new(produce, face)), metrics))
    }

    fn fetch(&self, plan: &Plan, f: FetchPlan) -> Result<Capability, String> {
        let topic = self.topics.get(&f.cluster, &f.topic).ok_or_else(|| format!("no topic {} in the cache", f.topic))?;
        let options = FetchOptions {
            topic: Arc::clone(topic),
            select: match f.select {
                SelectPlan::Newest(filters) => Select::Newest(clauses(filters)),
                SelectPlan::MergeJson(filters) => Select::MergeJson(clauses(filters)),
            },
            patience: plan.cache.read_your_writes_timeout,
            stopping: self.stopping.clone(),
        };
        let metrics = self.shared.metrics.fetch.topic(&f.topic);
        let (omitted_count, topic_name) = (metrics.merge_omitted.clone(), f.topic);
        let content_type =
            f.content_type.map(|text| HeaderValue::from_str(&text).map_err(|e| format!("content_type {text:?}: {e}")));
        let headers = f.headers.into_iter().map(|(name, template)| Ok::<_, String>((header_name(&name)?, template)));
        let face = FetchFaceOptions {
            copy_headers: f.copy_headers.into_iter().map(|n| header_name(&n).map(|name| (n, name))).collect::<Result<_, _>>()?,
            headers: headers.collect::<Result<_, _>>()?,
            content_type: content_type.transpose()?,
            wait_max: f.wait_max.unwrap_or(plan.limits.wait_max),
            omitted: Box::new(move |omitted| {
                omitted_count.inc_by(omitted.total());
                tracing::warn!(
                    topic = topic_name,
                    not_json = omitted.not_json,
                    unreadable = omitted.unreadable,
                    "left out of a collection"
                );
            }),
        };
        Ok(Capability::Fetch(FetchFace::new(Fetch::new(options), face), metrics))
    }
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|e| format!("header {name:?}: {e}"))
}

fn route_match(route: &RoutePlan) -> Result<RouteMatch, LowerError> {
    let fault = |reason: String| LowerError { route: route.name.clone(), reason };
    let method = |m: &String| Method::from_bytes(m.as_bytes()).map_err(|e| fault(e.to_string()));
    let header = |(name, value): &(String, Option<String>)| {
        let value = value.as_deref().map(HeaderValue::from_str).transpose().map_err(|e| fault(e.to_string()))?;
        Ok((header_name(name).map_err(fault)?, value))
    };
    Ok(RouteMatch {
        methods: route.methods.iter().map(method).collect::<Result<_, _>>()?,
        path: route.path.clone(),
        host: route.host.clone(),
        headers: route.headers.iter().map(header).collect::<Result<_, _>>()?,
    })
}

fn history(topic: &TopicPlan) -> History {
    match topic.history {
        HistoryPlan::Gap => History::Gap,
        HistoryPlan::ReadThrough => History::ReadThrough,
    }
}

fn clauses(filters: Vec<FilterPlan>) -> Vec<ClauseTemplate> {
    filters.into_iter().map(|f| ClauseTemplate { key: f.key, headers: f.headers }).collect()
}
