//! What the whole-system tests in `tests/` share: the two kinds of cluster, and the configurations they run.

mod exchanges;
mod worker;

use testkit::{Gateway, GatewayBuilder, shared_kafka, unique, workspace_root};

pub use exchanges::{Bed, CORRELATION_ID, DO, Exchanges, SOON};
pub use worker::{KafkaWorker, Worker};

/// What is behind the gateway.
#[derive(Debug, Clone)]
pub enum Cluster {
    Embedded,
    /// By `bootstrap.servers`.
    Kafka(String),
}

impl Cluster {
    /// Both kinds; only the first in a run without Kafka.
    pub fn both() -> Vec<Self> {
        std::iter::once(Self::Embedded).chain(shared_kafka().map(Self::Kafka)).collect()
    }

    pub fn bootstrap(&self) -> &str {
        match self {
            Self::Embedded => "embedded",
            Self::Kafka(servers) => servers,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Kafka(_) => "kafka",
        }
    }
}

/// `examples/items` as it is in the repository, on free ports and on a topic of its own, because tests share a Kafka.
///
/// # Panics
/// When the example is not there.
pub fn items(cluster: &Cluster) -> GatewayBuilder {
    items_on(cluster, &unique("items-snapshots"))
}

/// The same on a named topic: a second replica.
///
/// # Panics
/// When the example is not there.
pub fn items_on(cluster: &Cluster, topic: &str) -> GatewayBuilder {
    example("items", cluster, &[("items-snapshots", topic)])
}

/// An example as it is in the repository, on free ports and with other names for its topics, because tests share a Kafka.
///
/// # Panics
/// When the example is not there, or does not name these topics.
pub fn example(name: &str, cluster: &Cluster, topics: &[(&str, &str)]) -> GatewayBuilder {
    let file = workspace_root().join("examples").join(name).join("tidegate.yaml");
    let mut yaml = std::fs::read_to_string(&file).unwrap_or_else(|cause| panic!("{}: {cause}", file.display()));
    for (topic, other) in topics {
        assert!(yaml.contains(topic), "{} does not name {topic}", file.display());
        yaml = yaml.replace(topic, other);
    }
    let builder = Gateway::builder().config(yaml);
    let builder = builder.arg("--set=listeners.public.address=127.0.0.1:0").arg("--set=admin.address=127.0.0.1:0");
    match cluster {
        Cluster::Embedded => builder,
        Cluster::Kafka(servers) => builder.env("KAFKA_BOOTSTRAP_SERVERS", servers),
    }
}

/// A configuration with one topic behind `/records`: `POST` without a key, `PUT`, `DELETE` and `GET` by key, `GET` of all.
#[derive(Debug, Clone)]
pub struct Records {
    pub bootstrap: String,
    pub topic: String,
    /// Members of `cache.topics.NAME` besides `bootstrap`, as flow YAML.
    pub cached: String,
    /// Members of `limits`, as flow YAML.
    pub limits: String,
    /// Members of `cache` besides `directory` and `topics`, one per line.
    pub cache: String,
    /// Record headers that become response headers and request headers that become record headers.
    pub copy_headers: String,
    pub directory: String,
    pub address: String,
}

impl Records {
    /// On the embedded log.
    pub fn embedded() -> Self {
        Self::on(&Cluster::Embedded)
    }

    /// A topic with three partitions that the gateway creates.
    pub fn on(cluster: &Cluster) -> Self {
        Self {
            bootstrap: cluster.bootstrap().to_owned(),
            topic: unique("records"),
            cached: "create: { partitions: 3 }".to_owned(),
            limits: String::new(),
            cache: String::new(),
            copy_headers: "[x-tag]".to_owned(),
            directory: "./data".to_owned(),
            address: "127.0.0.1:0".to_owned(),
        }
    }

    pub fn yaml(&self) -> String {
        let Self { bootstrap, topic, cached, limits, cache, copy_headers, directory, address } = self;
        let cached = if cached.is_empty() { String::new() } else { format!(", {cached}") };
        let key = "'${params.id}'";
        format!(
            "listeners: {{ public: {{ address: '{address}' }} }}
admin: {{ address: '127.0.0.1:0' }}
limits: {{ {limits} }}
clusters: {{ main: {{ bootstrap.servers: '{bootstrap}' }} }}
cache:
  directory: '{directory}'
  {cache}
  topics:
    {topic}: {{ cluster: main, bootstrap: true{cached} }}
routes:
  - {{ match: POST /records, produce: {{ topic: {topic}, copy_headers: {copy_headers} }} }}
  - {{ match: 'PUT /records/{{id}}', produce: {{ topic: {topic}, key: {key}, copy_headers: {copy_headers} }} }}
  - {{ match: 'DELETE /records/{{id}}', produce: {{ topic: {topic}, key: {key} }} }}
  - {{ match: GET /records, fetch: {{ topic: {topic}, merge: json }} }}
  - {{ match: 'GET /records/{{id}}', fetch: {{ topic: {topic}, filters: [{{ key: {key} }}], copy_headers: {copy_headers} }} }}
"
        )
    }

    pub fn builder(&self) -> GatewayBuilder {
        Gateway::builder().config(self.yaml())
    }
}
