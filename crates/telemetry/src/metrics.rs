//! What is counted.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::histogram::{Durations, RouteMetrics};
use crate::names::{label, metric};
use crate::queue::LogQueue;
use crate::samples::Samples;

/// The `Content-Type` of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels<const N: usize> = [(&'static str, String); N];

/// All metrics of a process. Handles that are used per request are taken once, at start.
#[derive(Debug)]
pub struct Metrics {
    pub http: HttpMetrics,
    pub edge: EdgeMetrics,
    pub produce: ProduceMetrics,
    pub fetch: FetchMetrics,
    pub exchange: ExchangeMetrics,
    registry: Registry,
    scraped: Arc<Scraped>,
}

/// HTTP requests.
#[derive(Debug)]
pub struct HttpMetrics {
    /// Requests in progress.
    pub active_requests: Gauge,
    scraped: Arc<Scraped>,
}

/// Connections and limits.
#[derive(Debug, Default)]
pub struct EdgeMetrics {
    /// Open connections.
    pub connections: Gauge,
    limits: Family<Labels<1>, Counter>,
}

/// Records written.
#[derive(Debug, Default)]
pub struct ProduceMetrics {
    records: Family<Labels<1>, Counter>,
    errors: Family<Labels<2>, Counter>,
}

/// Records written to one topic.
#[derive(Clone, Debug)]
pub struct TopicProduce {
    /// Acknowledged records.
    pub records: Counter,
    topic: String,
    errors: Family<Labels<2>, Counter>,
}

/// Requests for records.
#[derive(Debug, Default)]
pub struct FetchMetrics {
    requests: Family<Labels<2>, Counter>,
    omitted: Family<Labels<1>, Counter>,
}

/// Requests for records of one topic.
#[derive(Clone, Debug)]
pub struct TopicFetch {
    /// Answered with a record or a collection.
    pub hit: Counter,
    /// No such record, or a tombstone.
    pub miss: Counter,
    /// Answered `304`.
    pub not_modified: Counter,
    /// The cache had not reached what the client asked for.
    pub behind: Counter,
    /// Left out of a merge: values that are not JSON, and records that cannot be read.
    pub merge_omitted: Counter,
}

/// Correlated requests.
#[derive(Debug, Default)]
pub struct ExchangeMetrics {
    requests: Family<Labels<2>, Counter>,
}

/// Correlated requests of one topic.
#[derive(Clone, Debug)]
pub struct TopicExchange {
    /// Answered with a reply.
    pub replied: Counter,
    /// Answered before there was a reply, or where none is to come.
    pub accepted: Counter,
    topic: String,
    requests: Family<Labels<2>, Counter>,
}

impl Metrics {
    /// `version` is that of the program.
    pub fn new(version: &str) -> Arc<Self> {
        let scraped = Arc::new(Scraped::default());
        let metrics = Self {
            http: HttpMetrics { active_requests: Gauge::default(), scraped: scraped.clone() },
            edge: EdgeMetrics::default(),
            produce: ProduceMetrics::default(),
            fetch: FetchMetrics::default(),
            exchange: ExchangeMetrics::default(),
            registry: Registry::default(),
            scraped,
        };
        Arc::new(metrics.registered(version))
    }

    fn registered(mut self, version: &str) -> Self {
        let Self { http, edge, produce, fetch, exchange, registry, scraped } = &mut self;
        // The encoder adds `_total` and `_info`, and registration the full stop after a help text.
        let counter = |name: &'static str| name.strip_suffix("_total").unwrap_or(name);
        let build = metric::BUILD_INFO.strip_suffix("_info").unwrap_or(metric::BUILD_INFO);
        registry.register(build, "The running program", Info::new([(label::VERSION, version.to_string())]));
        registry.register(metric::HTTP_ACTIVE_REQUESTS, "Requests in progress", http.active_requests.clone());
        registry.register(metric::CONNECTIONS, "Open connections", edge.connections.clone());
        registry.register(counter(metric::LIMIT_HITS), "Times that a limit was hit", edge.limits.clone());
        registry.register(counter(metric::PRODUCE_RECORDS), "Records acknowledged", produce.records.clone());
        registry.register(counter(metric::PRODUCE_ERRORS), "Records not acknowledged, by cause", produce.errors.clone());
        registry.register(counter(metric::FETCH_REQUESTS), "Requests for records, by result", fetch.requests.clone());
        let omitted = "Left out of merged collections: values that are not JSON, and records that cannot be read";
        registry.register(counter(metric::FETCH_MERGE_OMITTED), omitted, fetch.omitted.clone());
        registry.register(counter(metric::EXCHANGE_REQUESTS), "Correlated requests, by result", exchange.requests.clone());
        registry.register_collector(Box::new(scraped.clone()));
        self
    }

    /// All metrics as OpenMetrics text; see [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to memory does not fail; a collector of ours that did would leave a text without the final `# EOF`, which a
        // scraper refuses.
        if text::encode(&mut text, &self.registry).is_err() {
            tracing::error!("the metrics could not be encoded");
        }
        text
    }

    /// Calls `collect` at each scrape for values that others keep. It must not block.
    pub fn register_collector(&self, collect: Box<dyn Fn(&mut Samples) + Send + Sync>) {
        self.scraped.collectors.lock().unwrap_or_else(PoisonError::into_inner).push(collect);
    }

    /// Counts the lines that the log lost.
    pub fn watch_log(&self, queue: LogQueue) {
        let help = "Log lines lost because the output was too slow or gone.";
        self.register_collector(Box::new(move |samples| {
            samples.counter(metric::LOG_DROPPED, help, &[], queue.dropped() as f64);
        }));
    }
}

impl HttpMetrics {
    /// The handle of one route and method. The same names give the same handle, so that a reload goes on counting.
    pub fn route(&self, route: &str, method: &str) -> Arc<RouteMetrics> {
        self.scraped.durations.route(route, method)
    }
}

impl EdgeMetrics {
    /// Counts a limit that was hit.
    pub fn limit_hit(&self, limit: &str) {
        self.limits.get_or_create(&[(label::LIMIT, limit.into())]).inc();
    }
}

impl ProduceMetrics {
    /// The handles of one topic.
    pub fn topic(&self, topic: &str) -> TopicProduce {
        let records = self.records.get_or_create(&[(label::TOPIC, topic.into())]).clone();
        TopicProduce { records, topic: topic.into(), errors: self.errors.clone() }
    }
}

impl TopicProduce {
    /// Counts a record that was not acknowledged; `cause` is one of a few fixed words.
    pub fn error(&self, cause: &'static str) {
        self.errors.get_or_create(&[(label::TOPIC, self.topic.clone()), (label::CAUSE, cause.into())]).inc();
    }
}

impl FetchMetrics {
    /// The handles of one topic.
    pub fn topic(&self, topic: &str) -> TopicFetch {
        let result = |result: &str| {
            let labels = [(label::TOPIC, topic.to_string()), (label::RESULT, result.to_string())];
            self.requests.get_or_create(&labels).clone()
        };
        TopicFetch {
            hit: result("hit"),
            miss: result("miss"),
            not_modified: result("not_modified"),
            behind: result("behind"),
            merge_omitted: self.omitted.get_or_create(&[(label::TOPIC, topic.into())]).clone(),
        }
    }
}

impl ExchangeMetrics {
    /// The handles of one topic of requests.
    pub fn topic(&self, topic: &str) -> TopicExchange {
        let result = |result: &str| {
            let labels = [(label::TOPIC, topic.to_string()), (label::RESULT, result.to_string())];
            self.requests.get_or_create(&labels).clone()
        };
        let (replied, accepted) = (result("replied"), result("accepted"));
        TopicExchange { replied, accepted, topic: topic.into(), requests: self.requests.clone() }
    }
}

impl TopicExchange {
    /// Counts one that was answered with a problem; `cause` is one of a few fixed words.
    pub fn error(&self, cause: &'static str) {
        self.requests.get_or_create(&[(label::TOPIC, self.topic.clone()), (label::RESULT, cause.into())]).inc();
    }
}

/// What is put together at each scrape.
#[derive(Default)]
struct Scraped {
    durations: Durations,
    collectors: Mutex<Vec<CollectFn>>,
}

type CollectFn = Box<dyn Fn(&mut Samples) + Send + Sync>;

impl fmt::Debug for Scraped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scraped").field("durations", &self.durations).finish_non_exhaustive()
    }
}

impl Collector for Scraped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.durations.encode(&mut encoder)?;
        let mut samples = Samples::default();
        for collect in self.collectors.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            collect(&mut samples);
        }
        samples.encode(&mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn check(metrics: &Metrics, lines: &[&str]) {
        let text = metrics.encode();
        for line in lines {
            assert!(text.lines().any(|got| got == *line), "no line {line:?} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::new("1.2.3");
        metrics.http.active_requests.inc();
        metrics.edge.connections.set(7);
        metrics.edge.limit_hit("connections");
        let produce = metrics.produce.topic("items");
        produce.records.inc_by(3);
        produce.error("timeout");
        let fetch = metrics.fetch.topic("it\"ems");
        fetch.hit.inc();
        fetch.merge_omitted.inc();
        let exchange = metrics.exchange.topic("orders");
        exchange.replied.inc();
        exchange.error("no-reply");
        check(
            &metrics,
            &[
                "# TYPE tidegate_build info",
                "tidegate_build_info{version=\"1.2.3\"} 1",
                "http_server_active_requests 1",
                "tidegate_connections 7",
                "# TYPE tidegate_limit_hits counter",
                "tidegate_limit_hits_total{limit=\"connections\"} 1",
                "tidegate_produce_records_total{topic=\"items\"} 3",
                "tidegate_produce_errors_total{topic=\"items\",cause=\"timeout\"} 1",
                "tidegate_fetch_requests_total{topic=\"it\\\"ems\",result=\"hit\"} 1",
                "tidegate_fetch_requests_total{topic=\"it\\\"ems\",result=\"behind\"} 0",
                "tidegate_fetch_merge_omitted_total{topic=\"it\\\"ems\"} 1",
                "tidegate_exchange_requests_total{topic=\"orders\",result=\"replied\"} 1",
                "tidegate_exchange_requests_total{topic=\"orders\",result=\"accepted\"} 0",
                "tidegate_exchange_requests_total{topic=\"orders\",result=\"no-reply\"} 1",
            ],
        );
    }

    #[test]
    fn durations_fall_into_buckets() {
        let metrics = Metrics::new("1");
        let route = metrics.http.route("/items/{id}", "GET");
        for micros in [1, 100, 101, 60_000_000] {
            route.observe(200, Duration::from_micros(micros));
        }
        metrics.http.route("/items/{id}", "GET").observe(200, Duration::from_nanos(100_001));
        route.observe(7, Duration::ZERO);
        route.observe(999, Duration::MAX);
        let labels = "route=\"/items/{id}\",method=\"GET\"";
        let name = metric::HTTP_REQUEST_DURATION;
        check(
            &metrics,
            &[
                &format!("# TYPE {name} histogram"),
                &format!("{name}_bucket{{le=\"0.0001\",{labels},status=\"200\"}} 2"),
                &format!("{name}_bucket{{le=\"0.00025\",{labels},status=\"200\"}} 4"),
                &format!("{name}_bucket{{le=\"30.0\",{labels},status=\"200\"}} 4"),
                &format!("{name}_bucket{{le=\"+Inf\",{labels},status=\"200\"}} 5"),
                &format!("{name}_count{{{labels},status=\"200\"}} 5"),
                &format!("{name}_count{{{labels},status=\"100\"}} 1"),
                &format!("{name}_count{{{labels},status=\"599\"}} 1"),
                &format!("{name}_sum{{{labels},status=\"100\"}} 0.0"),
            ],
        );
    }

    #[test]
    fn collectors_share_families() {
        let metrics = Metrics::new("1");
        for partition in ["0", "1"] {
            metrics.register_collector(Box::new(move |samples| {
                let labels = [(label::TOPIC, "items"), (label::PARTITION, partition)];
                samples.gauge(metric::CACHE_END_OFFSET, "The cached end.", &labels, 42.0);
                samples.counter(metric::CACHE_CORRUPT, "Corrupt records.", &labels, 1.0);
            }));
        }
        check(
            &metrics,
            &[
                "tidegate_cache_end_offset{topic=\"items\",partition=\"0\"} 42.0",
                "tidegate_cache_end_offset{topic=\"items\",partition=\"1\"} 42.0",
                "tidegate_cache_corrupt_total{topic=\"items\",partition=\"1\"} 1.0",
            ],
        );
        assert_eq!(metrics.encode().matches("# TYPE tidegate_cache_end_offset gauge").count(), 1);
    }
}
