//! librdkafka's configuration of each client: the user's properties over our defaults, and what must be as it is.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

use crate::properties::{self, Scope};

/// For every client. A gateway that is to be back within seconds must not wait longer for a broker.
const SHARED: [(&str, &str); 7] = [
    ("client.id", "tidegate"),
    ("reconnect.backoff.ms", "100"),
    ("reconnect.backoff.max.ms", "1000"),
    ("socket.connection.setup.timeout.ms", "10000"),
    ("socket.keepalive.enable", "true"),
    ("topic.metadata.refresh.interval.ms", "10000"),
    ("log.connection.close", "false"),
];

/// `linger.ms=0`: a client waits for its answer, and what arrives while a batch is under way forms the next one.
/// `message.max.bytes`: the topic's own limit is to decide; batches stay within `batch.size` (1 MB).
const PRODUCER: [(&str, &str); 6] = [
    ("linger.ms", "0"),
    ("delivery.timeout.ms", "30000"),
    ("message.max.bytes", "16777216"),
    ("queue.buffering.max.kbytes", "131072"),
    ("topic.metadata.propagation.max.ms", "5000"),
    ("allow.auto.create.topics", "false"),
];

/// Records that were fetched and wait to be appended: at most 16 MiB, and the fetch that is under way. When that is
/// full, librdkafka looks again after `fetch.queue.backoff.ms`, during which a fast reader must not run dry. Where a topic ends with
/// the mark of a transaction, only an empty fetch tells, which takes `fetch.wait.max.ms`.
const CONSUMER: [(&str, &str); 6] = [
    ("isolation.level", "read_committed"),
    ("queued.max.messages.kbytes", "16384"),
    ("queued.min.messages", "200000"),
    ("fetch.queue.backoff.ms", "5"),
    ("fetch.wait.max.ms", "100"),
    ("topic.metadata.propagation.max.ms", "0"),
];

/// What the reader's code relies on.
const CONSUMER_FIXED: [(&str, &str); 4] = [
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "true"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
];

/// librdkafka's configuration of one of the clients.
///
/// # Errors
/// Why a property is refused.
pub fn client_config(properties: &BTreeMap<String, String>, scope: Scope) -> Result<ClientConfig, String> {
    let given = properties::for_client(properties, scope)?;
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Info);
    let (defaults, fixed): (&[_], &[_]) = match scope {
        Scope::Producer => (&PRODUCER, &[("partitioner", "murmur2_random")]),
        Scope::Consumer => (&CONSUMER, &CONSUMER_FIXED),
        Scope::All | Scope::Admin => (&[], &[]),
    };
    for (name, value) in SHARED.iter().chain(defaults) {
        config.set(*name, *value);
    }
    if scope == Scope::Producer && !given.contains_key("enable.idempotence") {
        config.set("enable.idempotence", if allows_idempotence(&given) { "true" } else { "false" });
    }
    for (name, value) in &given {
        config.set(*name, value.as_str());
    }
    for (name, value) in fixed {
        config.set(*name, *value);
    }
    if scope == Scope::Producer || scope == Scope::Consumer {
        config.set("statistics.interval.ms", "1000");
    }
    config.create_native_config().map_err(|e| refusal(&e))?;
    Ok(config)
}

/// librdkafka's reason, without the value, which may be a secret.
pub fn refusal(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, reason, name, _) => format!("{name}: {reason}"),
        KafkaError::ClientCreation(reason) => reason.clone(),
        other => other.to_string(),
    }
}

/// As in Kafka's own producer, idempotence is the default unless another property excludes it.
fn allows_idempotence(given: &BTreeMap<&'static str, String>) -> bool {
    let number = |name: &str| given.get(name).and_then(|v| v.parse::<u64>().ok());
    given.get("acks").is_none_or(|acks| matches!(acks.as_str(), "all" | "-1"))
        && number("retries") != Some(0)
        && number("max.in.flight.requests.per.connection").is_none_or(|n| n <= 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(scope: Scope, given: &[(&str, &str)], expected: &[(&str, Option<&str>)]) {
        let given = given.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let config = client_config(&given, scope).expect("taken");
        for (name, value) in expected {
            assert_eq!(config.get(name), *value, "{name} of {scope:?} with {given:?}");
        }
    }

    #[test]
    fn defaults_give_way_and_fixed_ones_do_not() {
        check(
            Scope::Producer,
            &[],
            &[("enable.idempotence", Some("true")), ("linger.ms", Some("0")), ("auto.offset.reset", None)],
        );
        check(Scope::Producer, &[("acks", "1")], &[("enable.idempotence", Some("false")), ("acks", Some("1"))]);
        check(Scope::Producer, &[("max.in.flight", "6")], &[("enable.idempotence", Some("false"))]);
        check(Scope::Producer, &[("acks", "1"), ("enable.idempotence", "true")], &[("enable.idempotence", Some("true"))]);
        check(
            Scope::Producer,
            &[("message.timeout.ms", "9"), ("linger.ms", "3")],
            &[("delivery.timeout.ms", Some("9")), ("linger.ms", Some("3")), ("message.timeout.ms", None)],
        );
        check(
            Scope::Consumer,
            &[("isolation.level", "read_uncommitted")],
            &[("isolation.level", Some("read_uncommitted")), ("enable.partition.eof", Some("true")), ("group.id", None)],
        );
        check(
            Scope::Admin,
            &[("admin.socket.timeout.ms", "1000"), ("consumer.fetch.min.bytes", "2")],
            &[("socket.timeout.ms", Some("1000")), ("fetch.min.bytes", None)],
        );
    }

    #[test]
    fn what_cannot_be_set_is_told() {
        let given = [("group.id".to_owned(), "g".to_owned())].into();
        let refusal = client_config(&given, Scope::Consumer).map(|_| ()).expect_err("refused");
        assert!(refusal.contains("group.id cannot be set"), "{refusal}");
    }
}
