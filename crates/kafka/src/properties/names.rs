//! The names: what librdkafka knows, what only the Java clients know, what Tidegate keeps to itself.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::sync::OnceLock;

use rdkafka::bindings as rd;

use super::PropertyProblem;

/// Turns a value of Kafka's into one of librdkafka's, or says what would be right.
type Convert = fn(&str) -> Result<String, &'static str>;

#[derive(Clone, Copy)]
pub enum Rule {
    /// librdkafka's own name for the same thing.
    Native(&'static str),
    Converted(&'static str, Convert),
    /// The type of a key or trust store.
    Pem,
    /// `sasl.jaas.config`
    Jaas,
    Refused(&'static str),
    Unknown,
}

const NO_GROUP: &str = "Tidegate reads every partition itself, in no consumer group";
const OWN_OFFSETS: &str = "Tidegate keeps the offsets in its cache; where an empty cache begins is cache.topics.NAME.start";
const BYTES_ONLY: &str = "Tidegate carries bytes and has no serializers";
const NO_CLASSES: &str = "there is no Java class to load here";
const NO_TOKENS: &str = "there is no provider of OAUTHBEARER tokens; use SCRAM, PLAIN, GSSAPI or a client certificate";
const NO_STORE_PASSWORD: &str = "a trust store in PEM has no password; remove it";
const TLS_CHOSEN: &str = "the newest TLS version that both sides know is taken";
const OWN_CALLBACKS: &str = "it is set by programs, not by configuration";
const OWN_PRODUCER: &str = "Tidegate keeps it, so that its partitions and acknowledgements are those of Kafka's own clients";

/// Names of librdkafka with another that means the same: one is kept, so that two of them cannot contradict each other.
const ALIASES: [(&str, &str); 9] = [
    ("message.timeout.ms", "delivery.timeout.ms"),
    ("request.required.acks", "acks"),
    ("queue.buffering.max.ms", "linger.ms"),
    ("sasl.mechanisms", "sasl.mechanism"),
    ("message.send.max.retries", "retries"),
    ("compression.codec", "compression.type"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("fetch.message.max.bytes", "max.partition.fetch.bytes"),
    ("metadata.broker.list", "bootstrap.servers"),
];

/// Names that librdkafka does not have, or that must not be handed to it as they are.
const SPECIAL: &[(&str, Rule)] = &[
    // Java's names with an equivalent.
    ("buffer.memory", Rule::Converted("queue.buffering.max.kbytes", kbytes)),
    ("max.request.size", Rule::Native("message.max.bytes")),
    ("send.buffer.bytes", Rule::Converted("socket.send.buffer.bytes", buffer_bytes)),
    ("receive.buffer.bytes", Rule::Converted("socket.receive.buffer.bytes", buffer_bytes)),
    ("fetch.max.wait.ms", Rule::Native("fetch.wait.max.ms")),
    ("compression.gzip.level", Rule::Native("compression.level")),
    ("compression.lz4.level", Rule::Native("compression.level")),
    ("compression.zstd.level", Rule::Native("compression.level")),
    ("ssl.truststore.type", Rule::Pem),
    ("ssl.keystore.type", Rule::Pem),
    ("ssl.truststore.location", Rule::Converted("ssl.ca.location", pem_file)),
    ("ssl.truststore.certificates", Rule::Native("ssl.ca.pem")),
    ("ssl.keystore.certificate.chain", Rule::Native("ssl.certificate.pem")),
    ("ssl.keystore.key", Rule::Native("ssl.key.pem")),
    ("ssl.keystore.location", Rule::Converted("ssl.keystore.location", not_jks)),
    ("ssl.endpoint.identification.algorithm", Rule::Converted("ssl.endpoint.identification.algorithm", empty_is_none)),
    ("sasl.jaas.config", Rule::Jaas),
    ("sasl.mechanism", Rule::Converted("sasl.mechanism", mechanism)),
    ("sasl.mechanisms", Rule::Converted("sasl.mechanism", mechanism)),
    // Java's names without one.
    ("ssl.truststore.password", Rule::Refused(NO_STORE_PASSWORD)),
    ("ssl.enabled.protocols", Rule::Refused(TLS_CHOSEN)),
    ("ssl.protocol", Rule::Refused(TLS_CHOSEN)),
    ("ssl.provider", Rule::Refused(NO_CLASSES)),
    ("ssl.engine.factory.class", Rule::Refused(NO_CLASSES)),
    ("security.providers", Rule::Refused(NO_CLASSES)),
    ("key.serializer", Rule::Refused(BYTES_ONLY)),
    ("value.serializer", Rule::Refused(BYTES_ONLY)),
    ("key.deserializer", Rule::Refused(BYTES_ONLY)),
    ("value.deserializer", Rule::Refused(BYTES_ONLY)),
    ("interceptor.classes", Rule::Refused(NO_CLASSES)),
    ("metric.reporters", Rule::Refused("Tidegate's metrics are at /metrics of its admin listener")),
    ("partitioner.class", Rule::Refused(OWN_PRODUCER)),
    ("max.block.ms", Rule::Refused("Tidegate never blocks: a full queue is answered with 429, an absent cluster with 503")),
    ("max.poll.records", Rule::Refused(NO_GROUP)),
    ("sasl.login.callback.handler.class", Rule::Refused(NO_CLASSES)),
    ("sasl.client.callback.handler.class", Rule::Refused(NO_CLASSES)),
    ("sasl.login.class", Rule::Refused(NO_CLASSES)),
    // librdkafka's names that Tidegate must own.
    ("group.id", Rule::Refused(NO_GROUP)),
    ("group.instance.id", Rule::Refused(NO_GROUP)),
    ("group.protocol", Rule::Refused(NO_GROUP)),
    ("group.protocol.type", Rule::Refused(NO_GROUP)),
    ("group.remote.assignor", Rule::Refused(NO_GROUP)),
    ("partition.assignment.strategy", Rule::Refused(NO_GROUP)),
    ("session.timeout.ms", Rule::Refused(NO_GROUP)),
    ("heartbeat.interval.ms", Rule::Refused(NO_GROUP)),
    ("max.poll.interval.ms", Rule::Refused(NO_GROUP)),
    ("coordinator.query.interval.ms", Rule::Refused(NO_GROUP)),
    ("auto.offset.reset", Rule::Refused(OWN_OFFSETS)),
    ("auto.commit.enable", Rule::Refused(OWN_OFFSETS)),
    ("auto.commit.interval.ms", Rule::Refused(OWN_OFFSETS)),
    ("enable.auto.commit", Rule::Refused(OWN_OFFSETS)),
    ("enable.auto.offset.store", Rule::Refused(OWN_OFFSETS)),
    ("offset.store.method", Rule::Refused(OWN_OFFSETS)),
    ("offset.store.path", Rule::Refused(OWN_OFFSETS)),
    ("offset.store.sync.interval.ms", Rule::Refused(OWN_OFFSETS)),
    ("enable.partition.eof", Rule::Refused("Tidegate needs it to know when its cache has caught up")),
    ("statistics.interval.ms", Rule::Refused("Tidegate reads the statistics itself, to know the state of the brokers")),
    ("partitioner", Rule::Refused(OWN_PRODUCER)),
    ("transactional.id", Rule::Refused(OWN_PRODUCER)),
    ("delivery.report.only.error", Rule::Refused(OWN_PRODUCER)),
    ("produce.offset.report", Rule::Refused(OWN_PRODUCER)),
    ("enable.gapless.guarantee", Rule::Refused(OWN_PRODUCER)),
    ("plugin.library.paths", Rule::Refused("Tidegate loads no foreign code")),
    ("default_topic_conf", Rule::Refused(OWN_CALLBACKS)),
    ("enabled_events", Rule::Refused(OWN_CALLBACKS)),
    ("interceptors", Rule::Refused(OWN_CALLBACKS)),
    ("log.queue", Rule::Refused(OWN_CALLBACKS)),
    ("log_level", Rule::Refused("the level of all logs is log.level of the configuration file")),
    ("msg_order_cmp", Rule::Refused(OWN_CALLBACKS)),
    ("opaque", Rule::Refused(OWN_CALLBACKS)),
    ("ssl_ca", Rule::Refused(OWN_CALLBACKS)),
    ("ssl_certificate", Rule::Refused(OWN_CALLBACKS)),
    ("ssl_key", Rule::Refused(OWN_CALLBACKS)),
    ("ssl_engine_callback_data", Rule::Refused(OWN_CALLBACKS)),
];

pub fn rule(name: &str) -> Rule {
    if let Some((_, rule)) = SPECIAL.iter().find(|(special, _)| *special == name) {
        return *rule;
    }
    if name.contains("oauthbearer") {
        return Rule::Refused(NO_TOKENS);
    }
    if name.ends_with("_cb") && librdkafka_names().contains(name) {
        return Rule::Refused(OWN_CALLBACKS);
    }
    if let Some((_, one)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Rule::Native(one);
    }
    librdkafka_names().get(name).map_or(Rule::Unknown, |name| Rule::Native(name))
}

/// Every name that may be meant.
pub fn all() -> impl Iterator<Item = &'static str> {
    librdkafka_names().iter().copied().chain(SPECIAL.iter().map(|(name, _)| *name))
}

/// Whether a value must not be shown.
pub fn is_secret(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    matches!(last, "password" | "secret" | "passphrase")
        || matches!(name, "sasl.jaas.config" | "ssl.key.pem" | "ssl.keystore.key")
}

/// The names that this build of librdkafka takes. Its dump leaves out aliases; those that matter are added.
pub fn librdkafka_names() -> &'static BTreeSet<&'static str> {
    static NAMES: OnceLock<BTreeSet<&'static str>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let mut names =
            BTreeSet::from(["delivery.timeout.ms", "acks", "sasl.mechanism", "retries", "compression.type", "linger.ms"]);
        names.extend(ALIASES.iter().flat_map(|(alias, one)| [*alias, *one]));
        // SAFETY: both configurations are made and destroyed here; the dumps are copied before they are freed.
        unsafe {
            let mut count = 0;
            let global = rd::rd_kafka_conf_new();
            names.extend(copy_names(rd::rd_kafka_conf_dump(global, &mut count), count));
            rd::rd_kafka_conf_destroy(global);
            let topic = rd::rd_kafka_topic_conf_new();
            names.extend(copy_names(rd::rd_kafka_topic_conf_dump(topic, &mut count), count));
            rd::rd_kafka_topic_conf_destroy(topic);
        }
        // Names without a default are not in the dump.
        names.extend(WITHOUT_DEFAULT);
        names
    })
}

/// # Safety
/// `dump` holds `count` pointers, names and values in turn, as librdkafka's dumps do; it is freed here.
unsafe fn copy_names(dump: *mut *const std::ffi::c_char, count: usize) -> Vec<&'static str> {
    let mut names = Vec::new();
    for index in (0..count).step_by(2) {
        // SAFETY: in range by the caller's word; a name is a terminated string.
        let name = unsafe { CStr::from_ptr(*dump.add(index)) };
        // Once per process, and kept for its life.
        names.push(&*Box::leak(name.to_string_lossy().into_owned().into_boxed_str()));
    }
    // SAFETY: freed once.
    unsafe { rd::rd_kafka_conf_dump_free(dump, count) };
    names
}

/// From librdkafka's CONFIGURATION.md: properties that have no default value.
const WITHOUT_DEFAULT: [&str; 24] = [
    "bootstrap.servers",
    "client.rack",
    "debug",
    "max.partition.fetch.bytes",
    "sasl.kerberos.keytab",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "socket.keepalive.enable",
    "ssl.ca.certificate.stores",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.cipher.suites",
    "ssl.crl.location",
    "ssl.curves.list",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
    "ssl.providers",
    "ssl.sigalgs.list",
    "topic.blacklist",
];

fn kbytes(bytes: &str) -> Result<String, &'static str> {
    let bytes: u64 = bytes.parse().map_err(|_| "a number of bytes is needed")?;
    Ok(bytes.div_ceil(1024).max(1).to_string())
}

/// Java's -1 is librdkafka's 0: the system's default.
fn buffer_bytes(bytes: &str) -> Result<String, &'static str> {
    Ok(if bytes == "-1" { "0" } else { bytes }.to_owned())
}

fn empty_is_none(algorithm: &str) -> Result<String, &'static str> {
    Ok(if algorithm.is_empty() { "none" } else { algorithm }.to_owned())
}

fn has_extension(file: &str, extensions: &[&str]) -> bool {
    file.rsplit_once('.').is_some_and(|(_, extension)| extensions.iter().any(|e| extension.eq_ignore_ascii_case(e)))
}

fn pem_file(file: &str) -> Result<String, &'static str> {
    if has_extension(file, &["jks", "p12", "pfx", "keystore", "truststore"]) {
        return Err("only PEM can be read: convert it (keytool -exportcert -rfc, openssl pkcs12 -nokeys) and name that file");
    }
    Ok(file.to_owned())
}

fn not_jks(file: &str) -> Result<String, &'static str> {
    if has_extension(file, &["jks"]) {
        return Err("JKS cannot be read: convert it to PKCS#12 (keytool -importkeystore -deststoretype pkcs12)");
    }
    Ok(file.to_owned())
}

fn mechanism(name: &str) -> Result<String, &'static str> {
    if name.eq_ignore_ascii_case("OAUTHBEARER") { Err(NO_TOKENS) } else { Ok(name.to_owned()) }
}

/// User and password of Java's login module syntax: `CLASS required username="u" password="p";`. Quotes may be escaped.
pub fn jaas_login(value: &str) -> Result<(String, String), PropertyProblem> {
    let problem = |message: &str| {
        PropertyProblem::new(
            format!("sasl.jaas.config {message}"),
            "write CLASS required username=\"...\" password=\"...\"; or set sasl.username and sasl.password",
        )
    };
    let class = value.split_whitespace().next().unwrap_or_default();
    if !class.ends_with("PlainLoginModule") && !class.ends_with("ScramLoginModule") {
        return Err(problem("names a login module other than PlainLoginModule and ScramLoginModule"));
    }
    match (jaas_option(value, "username"), jaas_option(value, "password")) {
        (Some(user), Some(password)) => Ok((user, password)),
        _ => Err(problem("lacks a username or a password")),
    }
}

fn jaas_option(value: &str, name: &str) -> Option<String> {
    let mut rest = value;
    loop {
        let at = rest.find(name)?;
        let begins_word = rest[..at].ends_with(|c: char| c.is_whitespace());
        rest = &rest[at + name.len()..];
        if let Some(assigned) = rest.trim_start().strip_prefix('=').filter(|_| begins_word) {
            return Some(jaas_text(assigned.trim_start()));
        }
    }
}

/// A quoted text with escapes, or a bare word.
fn jaas_text(from: &str) -> String {
    let Some(quote) = from.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        return from.split(|c: char| c.is_whitespace() || c == ';').next().unwrap_or_default().to_owned();
    };
    let mut text = String::new();
    let mut chars = from.chars().skip(1);
    while let Some(c) = chars.next().filter(|c| *c != quote) {
        match c {
            '\\' => text.extend(chars.next()),
            c => text.push(c),
        }
    }
    text
}
