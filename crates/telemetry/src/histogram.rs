//! Request durations per route: found once at start, then a few atomic additions per request.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::names::{label, metric};

/// Upper bounds of the buckets, in microseconds.
const BOUNDS_US: [u64; 17] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000,
];
const CLASSES: usize = 5;
const CODES: usize = 100;

/// Counts the requests of one route and method.
pub struct RouteMetrics {
    route: String,
    method: String,
    /// By status class, then by status, each made when it first occurs.
    classes: [OnceLock<Box<Class>>; CLASSES],
}

type Class = [OnceLock<Box<Histogram>>; CODES];

#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl RouteMetrics {
    fn new(route: &str, method: &str) -> Self {
        Self { route: route.into(), method: method.into(), classes: [const { OnceLock::new() }; CLASSES] }
    }

    /// Counts one finished request. A status outside of 100 to 599 counts as the nearest one.
    pub fn observe(&self, status: u16, duration: Duration) {
        let code = usize::from(status.clamp(100, 599)) - 100;
        let class = self.classes[code / CODES].get_or_init(|| Box::new([const { OnceLock::new() }; CODES]));
        let histogram = class[code % CODES].get_or_init(Box::default);
        let micros = duration.as_nanos().div_ceil(1000);
        let bucket = BOUNDS_US.partition_point(|bound| u128::from(*bound) < micros);
        histogram.buckets[bucket].fetch_add(1, Relaxed);
        histogram.sum_ns.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    fn occurred(&self) -> impl Iterator<Item = (usize, &Histogram)> {
        let classes = self.classes.iter().enumerate().filter_map(|(at, class)| Some((at, class.get()?)));
        classes.flat_map(|(class, codes)| {
            let codes = codes.iter().enumerate();
            codes.filter_map(move |(at, code)| Some((100 + class * CODES + at, &**code.get()?)))
        })
    }
}

impl fmt::Debug for RouteMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteMetrics").field("route", &self.route).field("method", &self.method).finish_non_exhaustive()
    }
}

/// All routes, as one metric family.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    routes: Mutex<Vec<Arc<RouteMetrics>>>,
}

impl Durations {
    pub(crate) fn route(&self, route: &str, method: &str) -> Arc<RouteMetrics> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = routes.iter().find(|known| known.route == route && known.method == method) {
            return known.clone();
        }
        let new = Arc::new(RouteMetrics::new(route, method));
        routes.push(new.clone());
        new
    }

    pub(crate) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Time from a complete request head until the response begins, in seconds.";
        let mut family = encoder.encode_descriptor(metric::HTTP_REQUEST_DURATION, help, None, MetricType::Histogram)?;
        for route in self.routes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for (status, histogram) in route.occurred() {
                let status = status.to_string();
                let labels = [(label::ROUTE, route.route.as_str()), (label::METHOD, &route.method), (label::STATUS, &status)];
                let bounds = BOUNDS_US.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
                let counts = histogram.buckets.iter().map(|count| count.load(Relaxed));
                let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
                // The count is that of the buckets, so that a scrape amid an observation is consistent in itself.
                let count = buckets.iter().map(|(_, count)| count).sum();
                let sum = histogram.sum_ns.load(Relaxed) as f64 / 1e9;
                family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}
