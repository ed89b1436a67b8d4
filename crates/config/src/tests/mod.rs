//! The passes together: text in, plan or problems out.

mod exchange;
mod exchange_faults;
mod faults;
mod hostile;
mod overrides;
mod rendering;
mod schema;
mod topics;
mod valid;

use std::path::Path;

use crate::{Checks, Override, Plan, Problems, PropertyProblem, Source, load};

/// The smallest configuration that does something.
pub(super) const SMALL: &str = "\
listeners:
  public: { address: 127.0.0.1:8080 }
clusters:
  main: { bootstrap.servers: embedded }
cache:
  topics:
    items: {}
routes:
  - match: GET /items/{id}
    fetch: { topic: items, filters: [{ key: '${params.id}' }] }
";

/// Stands in for the Kafka client: knows a few properties, and quotes what it refuses.
fn kafka_property(name: &str, value: &str, embedded: bool) -> Result<(), PropertyProblem> {
    let refuse = |message: String, help: Option<&str>| Err(PropertyProblem { message, help: help.map(str::to_owned) });
    match name {
        "acks" if !matches!(value, "all" | "0" | "1") => refuse(format!("'{value}' is no value for acks"), Some("all, 0 or 1")),
        "security.protocol" if embedded => refuse("the embedded log has no 'security.protocol'".into(), None),
        "acks" | "bootstrap.servers" | "linger.ms" | "sasl.password" | "security.protocol" | "client.id" => Ok(()),
        _ => refuse(format!("there is no Kafka property '{name}'"), None),
    }
}

fn environment(name: &str) -> Option<String> {
    let value = match name {
        "PORT" => "9090",
        "SECRET" => "hunter2",
        "NUMBER" => "7",
        "WORDS" => "one, two",
        "EXPRESSION" => "${hunter2}",
        _ => return None,
    };
    Some(value.to_owned())
}

pub(super) fn read(text: &str, overrides: &[Override]) -> Result<Plan, Problems> {
    let source = Source { name: "t.yaml".into(), text: text.into() };
    load(
        &source,
        Path::new("/base"),
        overrides,
        &Checks { kafka_property: &kafka_property, embedded_topic: &|_, _| Ok(()), env: &environment },
    )
}
