//! `tidegate.yaml`: from text to a checked [`Plan`].
//!
//! The passes, each of which knows only what the one before it made:
//!
//! ```text
//! text -> tree with places -> overrides -> environment -> shape (our own JSON Schema) -> typed document -> checks -> plan
//! ```
//!
//! Every pass reports what is wrong and goes on with the rest, so that one run shows all problems. This crate knows neither
//! the Kafka client nor the HTTP front: what a Kafka property may be, it asks the caller.

mod check;
mod document;
mod env;
mod names;
mod node;
mod overrides;
mod parse;
mod plan;
mod problem;
mod schema;
mod secret;
mod shape;
mod units;

use std::collections::BTreeMap;
use std::path::Path;

pub use check::{HOP_BY_HOP, PropertyProblem};
pub use env::EXPANDED_BYTES_MAX;
pub use overrides::{ENV_PREFIX, Override};
pub use parse::{DEPTH_MAX, NODES_MAX, TEXT_BYTES_MAX};
pub use plan::*;
pub use problem::{PROBLEMS_MAX, Problem, Problems};
pub use schema::schema;
pub use secret::looks_secret;
pub use shape::ENTRIES_MAX;
pub use template;

use crate::document::Document;
use crate::problem::Report;

/// A configuration text and the name that problems give it.
pub struct Source {
    pub name: String,
    pub text: String,
}

/// Whether a topic with so many partitions and these properties can be created; all that is wrong.
pub type TopicCheck = dyn Fn(i32, &BTreeMap<String, String>) -> Result<(), Vec<String>>;

/// What only the caller knows.
pub struct Checks<'a> {
    /// Whether a Kafka property may have this value: name, value, whether the cluster is the embedded one.
    pub kafka_property: &'a dyn Fn(&str, &str, bool) -> Result<(), PropertyProblem>,
    /// Of the embedded cluster.
    pub embedded_topic: &'a TopicCheck,
    /// The environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

/// Reads a configuration. Relative paths in it start at `base_dir`. The error has all problems, sorted by place.
pub fn load(source: &Source, base_dir: &Path, overrides: &[Override], checks: &Checks<'_>) -> Result<Plan, Problems> {
    let mut report = Report::default();
    let mut hidden = Vec::new();
    let plan = read(&source.text, base_dir, overrides, checks, &mut report, &mut hidden);
    match plan {
        Some(plan) if report.is_empty() => Ok(plan),
        _ => {
            let origins: Vec<String> = overrides.iter().map(|one| one.origin().to_owned()).collect();
            Err(report.into_problems(&source.name, &source.text, &origins, &hidden))
        }
    }
}

fn read(
    text: &str,
    base_dir: &Path,
    overrides: &[Override],
    checks: &Checks<'_>,
    report: &mut Report,
    hidden: &mut Vec<(usize, usize)>,
) -> Option<Plan> {
    let mut tree = parse::parse(text, report)?;
    secret::hidden_lines(&tree, hidden);
    overrides::apply(&mut tree, overrides, report);
    env::expand(&mut tree, checks.env, report);
    let shaped = shape::shape(&tree, report);
    let document: Document = match serde_json::from_value(shaped.value) {
        Ok(document) => document,
        // The shape check lets through only what serde takes; should they ever disagree, that is no reason to panic.
        // Nor for showing serde's text, which quotes values.
        Err(_) => {
            report.add(tree.span, "the configuration cannot be read", None);
            return None;
        }
    };
    check::check(&document, &tree, &shaped.dropped, base_dir, checks, report)
}

#[cfg(test)]
mod tests;
