//! Client properties under Kafka's own names: which are taken, what they become in librdkafka, and why others are refused.

mod names;

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use self::names::{Rule, rule};

/// Longest file names and such that a suggestion is looked for; a longer name is no slip of the pen.
const SUGGEST_BYTES_MAX: usize = 100;
/// The worst likeness (Jaro-Winkler, 0..1) that is still a suggestion.
const SUGGEST_LIKENESS_MIN: f64 = 0.85;
/// What the embedded cluster has a use for.
const EMBEDDED: [&str; 4] = ["bootstrap.servers", "acks", "message.max.bytes", "queue.buffering.max.kbytes"];

/// What is wrong with a property, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", help.as_deref().map(|h| format!(": {h}")).unwrap_or_default())]
pub struct PropertyProblem {
    pub message: String,
    pub help: Option<String>,
}

impl PropertyProblem {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: Some(help.into()) }
    }
}

/// Which of the clients of a cluster a property is for, by its prefix: `producer.`, `consumer.`, `admin.`; none (or
/// `client.`) is for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    All,
    Producer,
    Consumer,
    Admin,
}

/// Whether this value of `bootstrap.servers` names the built-in log rather than a Kafka cluster.
pub fn is_embedded(bootstrap: &str) -> bool {
    bootstrap.trim().eq_ignore_ascii_case("embedded")
}

/// Checks one property as it stands in a configuration; `embedded` by the cluster's [`is_embedded`]. The value of a
/// secret is never part of a problem.
pub fn check_property(name: &str, value: &str, embedded: bool) -> Result<(), PropertyProblem> {
    let (scope, bare) = split_scope(name);
    let lowered = lower(bare, value)?;
    for (name, value) in &lowered {
        try_on_librdkafka(name, value, bare)?;
    }
    if embedded {
        return check_embedded(scope, bare);
    }
    if bare == "bootstrap.servers" { check_servers(value) } else { Ok(()) }
}

fn check_embedded(scope: Scope, bare: &str) -> Result<(), PropertyProblem> {
    if scope == Scope::All && EMBEDDED.contains(&bare) {
        return Ok(());
    }
    Err(PropertyProblem::new(
        format!("{bare} has no meaning on the embedded cluster"),
        format!("remove it, or name a Kafka cluster in bootstrap.servers; embedded clusters know {}", EMBEDDED.join(", ")),
    ))
}

fn check_servers(value: &str) -> Result<(), PropertyProblem> {
    let legal = |server: &str| {
        let address = server.rsplit_once("://").map_or(server, |(_, address)| address);
        match address.rsplit_once(':') {
            Some((host, port)) => !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0),
            None => !address.is_empty() && !address.contains(char::is_whitespace),
        }
    };
    match value.split(',').map(str::trim).find(|server| !legal(server)) {
        None => Ok(()),
        Some(server) => {
            Err(PropertyProblem::new(format!("{server:?} is no broker address"), "write host:port, separated by commas"))
        }
    }
}

/// `producer.linger.ms` -> (Producer, `linger.ms`). A name that has such a prefix by itself (`client.id`) stays whole.
fn split_scope(name: &str) -> (Scope, &str) {
    let scopes =
        [("producer.", Scope::Producer), ("consumer.", Scope::Consumer), ("admin.", Scope::Admin), ("client.", Scope::All)];
    for (prefix, scope) in scopes {
        if let Some(rest) = name.strip_prefix(prefix)
            && !names::librdkafka_names().contains(name)
        {
            return (scope, rest);
        }
    }
    (Scope::All, name)
}

/// librdkafka's properties for one of Kafka's. Empty: accepted, and nothing to set.
fn lower(bare: &str, value: &str) -> Result<Vec<(&'static str, String)>, PropertyProblem> {
    match rule(bare) {
        Rule::Native(name) => Ok(vec![(name, value.trim().to_owned())]),
        Rule::Converted(name, convert) => match convert(value.trim()) {
            Ok(value) => Ok(vec![(name, value)]),
            Err(help) => Err(PropertyProblem::new(format!("{bare} has a bad value"), help)),
        },
        Rule::Pem => match value.trim() {
            "PEM" => Ok(Vec::new()),
            // librdkafka's own key store is PKCS#12.
            "PKCS12" if bare == "ssl.keystore.type" => Ok(Vec::new()),
            other => Err(PropertyProblem::new(
                format!("{bare} {other:?} cannot be read"),
                "convert the store to PEM (keytool -exportcert -rfc, openssl pkcs12) and write PEM here",
            )),
        },
        Rule::Jaas => names::jaas_login(value).map(|(user, password)| vec![("sasl.username", user), ("sasl.password", password)]),
        Rule::Refused(reason) => Err(PropertyProblem::new(format!("{bare} cannot be set"), reason)),
        Rule::Unknown => Err(unknown(bare)),
    }
}

fn unknown(bare: &str) -> PropertyProblem {
    let message = format!("{bare:?} is no client property of Kafka");
    let near = (bare.len() <= SUGGEST_BYTES_MAX).then(|| {
        let likeness = |name: &&str| strsim::jaro_winkler(bare, name);
        names::all().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|name| likeness(name) >= SUGGEST_LIKENESS_MIN)
    });
    PropertyProblem { message, help: near.flatten().map(|name| format!("did you mean {name}?")) }
}

/// `asked`: the name as the user knows it.
fn try_on_librdkafka(name: &str, value: &str, asked: &str) -> Result<(), PropertyProblem> {
    let mut config = ClientConfig::new();
    config.set(name, value);
    let refusal = match config.create_native_config() {
        Ok(_) => return Ok(()),
        Err(refusal) => refusal,
    };
    let shown = if names::is_secret(asked) { "the value given".to_owned() } else { format!("{value:?}") };
    Err(match refusal {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..) => unknown(asked),
        KafkaError::ClientConfig(_, text, ..) if !names::is_secret(asked) => {
            PropertyProblem::new(format!("{asked} does not take {shown}"), text)
        }
        _ => PropertyProblem { message: format!("{asked} does not take {shown}"), help: None },
    })
}

/// What librdkafka is to be told for one of the clients: unscoped properties, then those of the client's scope over them.
/// The first problem is returned as text.
pub(crate) fn for_client(properties: &BTreeMap<String, String>, scope: Scope) -> Result<BTreeMap<&'static str, String>, String> {
    let mut lowered = BTreeMap::new();
    for wanted in [Scope::All, scope] {
        for (name, value) in properties {
            let (of, bare) = split_scope(name);
            if of == wanted {
                lowered.extend(lower(bare, value).map_err(|problem| problem.to_string())?);
            }
        }
    }
    // Java's key store in PEM is one file with the key and the chain; librdkafka reads it under two names.
    let is_pem = |(name, value): (&String, &String)| split_scope(name).1 == "ssl.keystore.type" && value.trim() == "PEM";
    if properties.iter().any(is_pem)
        && let Some(file) = lowered.remove("ssl.keystore.location")
    {
        lowered.insert("ssl.certificate.location", file.clone());
        lowered.insert("ssl.key.location", file);
        if let Some(password) = lowered.remove("ssl.keystore.password") {
            lowered.entry("ssl.key.password").or_insert(password);
        }
    }
    Ok(lowered)
}

#[cfg(test)]
mod tests;
