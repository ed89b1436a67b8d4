//! What one client says about the cluster: librdkafka's errors and statistics, made into a state.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::Deserialize;
use tokio::sync::watch;

use crate::BrokerStatus;

/// The state of the cluster as one client sees it.
pub struct Health {
    cluster: String,
    role: &'static str,
    state: Mutex<State>,
    down: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    reached: bool,
    brokers: Vec<BrokerStatus>,
    fault: Option<String>,
}

impl Health {
    pub fn new(cluster: &str, role: &'static str) -> Arc<Self> {
        let (down, _) = watch::channel(false);
        Arc::new(Self { cluster: cluster.to_owned(), role, state: Mutex::default(), down })
    }

    /// True from when every broker was seen to be down until one answers.
    pub fn is_down(&self) -> bool {
        *self.down.borrow()
    }

    /// Waits until every broker is down; at once if they are.
    pub async fn until_down(&self) {
        let mut down = self.down.subscribe();
        // The sender lives in `self`, so this ends only when the value is true.
        let _ = down.wait_for(|down| *down).await;
    }

    /// Whether a broker answered since all of them were last down.
    pub fn is_reached(&self) -> bool {
        self.state.lock().reached && !self.is_down()
    }

    pub fn brokers(&self) -> Vec<BrokerStatus> {
        self.state.lock().brokers.clone()
    }

    /// The last fault, while it lasts.
    pub fn fault(&self) -> Option<String> {
        self.state.lock().fault.clone()
    }

    /// A broker answered.
    pub fn answered(&self) {
        let was_reached = std::mem::replace(&mut self.state.lock().reached, true);
        let was_down = self.down.send_replace(false);
        if was_down || !was_reached {
            self.state.lock().fault = None;
            tracing::info!(cluster = self.cluster, role = self.role, "the cluster answers");
        }
    }

    /// Nothing was answered, or an error.
    pub fn failed(&self, reason: &str) {
        self.state.lock().fault = Some(reason.to_owned());
    }

    fn error(&self, error: &KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        tracing::debug!(cluster = self.cluster, role = self.role, %error, reason, "librdkafka reports an error");
        if code != Some(RDKafkaErrorCode::AllBrokersDown) {
            return self.failed(reason);
        }
        // The fault before this one says why they are down.
        let why = {
            let mut state = self.state.lock();
            state.fault.get_or_insert_with(|| reason.to_owned()).clone()
        };
        if !self.down.send_replace(true) {
            tracing::warn!(cluster = self.cluster, role = self.role, why, "all brokers are down");
        }
    }

    fn statistics(&self, json: &[u8]) {
        let Ok(statistics) = serde_json::from_slice::<Statistics>(json) else {
            return;
        };
        let brokers = statistics.brokers.into_values().filter(|b| b.source != "internal" && b.source != "logical");
        let mut brokers: Vec<_> =
            brokers.map(|b| BrokerStatus { address: b.nodename, id: b.nodeid, state: b.state.into_owned() }).collect();
        // Bootstrap addresses (id -1) say nothing more once the cluster has told who its brokers are.
        if brokers.iter().any(|b| b.id >= 0) {
            brokers.retain(|b| b.id >= 0);
        }
        brokers.sort_by(|a, b| (a.id, &a.address).cmp(&(b.id, &b.address)));
        let is_up = |b: &BrokerStatus| b.state == "UP" || b.state == "UPDATE";
        let any_up = brokers.iter().any(is_up);
        // INIT: not needed so far.
        let all_well = any_up && brokers.iter().all(|b| is_up(b) || b.state == "INIT");
        {
            let mut state = self.state.lock();
            state.brokers = brokers;
            if all_well {
                state.fault = None;
            }
        }
        if any_up {
            self.answered();
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel as L;
        // What concerns connections is told by the state instead; of properties that only another role uses there is
        // nothing to say.
        let known = matches!(facility, "FAIL" | "ERROR" | "CONFWARN" | "REQTMOUT" | "MAXBYTES");
        match level {
            L::Emerg | L::Alert | L::Critical | L::Error | L::Warning if !known => {
                tracing::warn!(cluster = self.cluster, role = self.role, facility, "librdkafka: {message}");
            }
            _ => tracing::debug!(cluster = self.cluster, role = self.role, facility, "librdkafka: {message}"),
        }
    }
}

/// The part of librdkafka's STATISTICS.md that is used here.
#[derive(Deserialize)]
struct Statistics<'a> {
    #[serde(borrow, default)]
    brokers: HashMap<std::borrow::Cow<'a, str>, Broker<'a>>,
}

#[derive(Deserialize)]
struct Broker<'a> {
    nodeid: i32,
    nodename: String,
    #[serde(borrow)]
    source: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    state: std::borrow::Cow<'a, str>,
}

/// Callbacks of the client that reads.
pub struct ReaderContext(pub Arc<Health>);

impl ClientContext for ReaderContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn stats_raw(&self, json: &[u8]) {
        self.0.statistics(json);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(&error, reason);
    }
}

impl ConsumerContext for ReaderContext {}

/// Callbacks of the client that writes, but for deliveries.
pub struct WriterContext {
    pub health: Arc<Health>,
    /// An idempotent producer met an error after which it can keep no order: it must be replaced.
    pub broken: AtomicBool,
}

impl ClientContext for WriterContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.health.log(level, facility, message);
    }

    fn stats_raw(&self, json: &[u8]) {
        self.health.statistics(json);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            tracing::warn!(reason, "the producer can go on no longer and is replaced");
            self.broken.store(true, Ordering::Release);
        }
        self.health.error(&error, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down() -> KafkaError {
        KafkaError::Global(RDKafkaErrorCode::AllBrokersDown)
    }

    fn statistics(brokers: &[(i32, &str)]) -> String {
        let each = brokers.iter().map(|(id, state)| {
            format!(r#""b{id}":{{"nodeid":{id},"nodename":"h:{}","source":"learned","state":"{state}"}}"#, 9000 + id)
        });
        format!(r#"{{"name":"x","brokers":{{{}}}}}"#, each.collect::<Vec<_>>().join(","))
    }

    #[test]
    fn a_cluster_is_down_when_all_brokers_are_until_one_is_up() {
        let health = Health::new("main", "reader");
        assert!(!health.is_reached() && !health.is_down());
        health.error(&KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), "h:9: refused");
        assert!(!health.is_down(), "one broker is not all");
        health.error(&down(), "1/1 brokers are down");
        assert_eq!((health.is_down(), health.fault().as_deref()), (true, Some("h:9: refused")));
        health.statistics(statistics(&[(-1, "DOWN"), (1, "CONNECT")]).as_bytes());
        assert!(health.is_down());
        health.statistics(statistics(&[(-1, "DOWN"), (1, "UP"), (2, "INIT")]).as_bytes());
        assert!(health.is_reached() && health.fault().is_none());
        let shown: Vec<_> = health.brokers().iter().map(|b| format!("{} {} {}", b.id, b.address, b.state)).collect();
        assert_eq!(shown, ["1 h:9001 UP", "2 h:9002 INIT"]);
    }

    #[test]
    fn the_fault_of_one_broker_lasts_as_long_as_it_is_away() {
        let health = Health::new("main", "reader");
        health.statistics(statistics(&[(1, "UP"), (2, "UP")]).as_bytes());
        health.error(&KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), "h:9002: refused");
        health.statistics(statistics(&[(1, "UP"), (2, "DOWN")]).as_bytes());
        assert_eq!((health.is_reached(), health.fault().as_deref()), (true, Some("h:9002: refused")));
        health.statistics(statistics(&[(1, "UP"), (2, "UP")]).as_bytes());
        assert_eq!(health.fault(), None);
    }

    #[test]
    fn statistics_that_cannot_be_read_change_nothing() {
        let health = Health::new("main", "reader");
        for json in ["", "{", "[]", r#"{"brokers":{"a":{}}}"#, "{}"] {
            health.statistics(json.as_bytes());
            assert!(!health.is_reached() && health.brokers().is_empty(), "{json}");
        }
    }
}
