//! Values from the command line and the environment that replace those of the file.

use serde_json::Value;

use crate::names::did_you_mean;
use crate::node::{Entry, Kind, Node, Scalar, Span};
use crate::parse;
use crate::problem::Report;
use crate::schema::{self, SCHEMA};
use crate::shape::accepts;

/// The prefix of environment variables that override a value.
pub const ENV_PREFIX: &str = "TIDEGATE__";

/// One value that replaces the file's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    path: Path,
    value: String,
    origin: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Path {
    /// `a.b.c`; names may contain dots themselves.
    Dotted(String),
    /// `A__B__C`, split; names in any case, `_` for any of `.`, `-`, `_`.
    Env(Vec<String>),
}

impl Override {
    /// From the argument of `--set`: `a.b=c`, the value in YAML. `Err` says what is wrong with it.
    pub fn set(argument: &str) -> Result<Override, String> {
        match argument.split_once('=') {
            Some((path, value)) if !path.trim().is_empty() => {
                let path = path.trim().to_owned();
                Ok(Override { origin: format!("--set {path}"), path: Path::Dotted(path), value: value.to_owned() })
            }
            _ => Err("expected KEY=VALUE, such as limits.body_bytes=4MiB".into()),
        }
    }

    /// From an environment variable: `TIDEGATE__LIMITS__BODY_BYTES`; `None` when it has another prefix.
    pub fn env(name: &str, value: &str) -> Option<Override> {
        let path = name.strip_prefix(ENV_PREFIX)?;
        let path = Path::Env(path.split("__").map(str::to_owned).collect());
        Some(Override { path, value: value.to_owned(), origin: format!("environment variable {name}") })
    }

    /// How problems call it; never shows the value.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

/// Puts the overrides into the tree, in order; faults are reported.
pub(crate) fn apply(root: &mut Node, overrides: &[Override], report: &mut Report) {
    for (index, one) in overrides.iter().enumerate() {
        let span = Span::of_override(index);
        let mut walk = Walk { one, span };
        if let Err((message, help)) = walk.set(&SCHEMA, root, one.path.clone()) {
            report.add(span, message, help);
        }
    }
}

type Fault = (String, Option<String>);

struct Walk<'o> {
    one: &'o Override,
    span: Span,
}

impl Walk<'_> {
    fn set(&mut self, schema: &'static Value, node: &mut Node, path: Path) -> Result<(), Fault> {
        if path.is_empty() {
            *node = self.value(schema)?;
            return Ok(());
        }
        let branches = schema::alternatives(schema);
        if let Kind::List(items) = &mut node.kind {
            let items_schema = branches.iter().find_map(|branch| branch.get("items"));
            let (first, rest) = path.first();
            return match (items_schema, first.parse::<usize>().ok().and_then(|index| items.get_mut(index))) {
                (Some(schema), Some(item)) => self.set(schema, item, rest),
                _ => Err((format!("'{first}' is no element of this list"), None)),
            };
        }
        let Some(map) = branches.into_iter().find(|branch| accepts(branch, &Kind::Map(Vec::new()))) else {
            return Err(self.no_such(path.first().0, None));
        };
        match &node.kind {
            Kind::Map(_) => {}
            Kind::Scalar(_) if node.is_null() => node.kind = Kind::Map(Vec::new()),
            _ => return Err((format!("there is {} where a map is needed", node.describe()), None)),
        }
        let (key, schema, rest) = self.step(map, node, path)?;
        let Kind::Map(entries) = &mut node.kind else { return Ok(()) };
        let index = match entries.iter().position(|entry| entry.key == key) {
            Some(index) => index,
            None => {
                let value = Node { span: self.span, kind: Kind::Scalar(Scalar::new("", true)) };
                entries.push(Entry { key, key_span: self.span, value });
                entries.len() - 1
            }
        };
        self.set(schema, &mut entries[index].value, rest)
    }

    /// The key of `node` that the path goes on with, what the schema says of it, and the rest of the path.
    fn step(&self, map: &'static Value, node: &Node, path: Path) -> Result<(String, &'static Value, Path), Fault> {
        let (first, rest) = path.first();
        if let Some(values) = schema::values_of(map) {
            let holds_scalars = !schema::alternatives(values).iter().any(|branch| accepts(branch, &Kind::Map(Vec::new())));
            let (key, rest) = if holds_scalars { path.whole(node) } else { path.longest(node) };
            return Ok((key, values, rest));
        }
        let same = |name: &&str| match path {
            Path::Dotted(_) => *name == first,
            Path::Env(_) => folded(name) == folded(&first),
        };
        let name = schema::property_names(map).find(same);
        match name.and_then(|name| Some((name, schema::property(map, name)?))) {
            Some((name, schema)) => Ok((name.to_owned(), schema, rest)),
            None => Err(self.no_such(first.clone(), did_you_mean(&first, "known keys", schema::property_names(map)))),
        }
    }

    fn no_such(&self, name: String, help: Option<String>) -> Fault {
        (format!("there is no key '{name}'"), help)
    }

    /// The value: YAML, unless only a scalar can stand here. A password is never parsed.
    fn value(&self, schema: &'static Value) -> Result<Node, Fault> {
        let text = &self.one.value;
        let branches = schema::alternatives(schema);
        let only_scalar = !branches.iter().any(|b| accepts(b, &Kind::Map(Vec::new())) || accepts(b, &Kind::List(Vec::new())));
        let quoted =
            text.len() >= 2 && (text.starts_with('"') && text.ends_with('"') || text.starts_with('\'') && text.ends_with('\''));
        let mut node = if only_scalar && !quoted || text.is_empty() {
            Node { span: self.span, kind: Kind::Scalar(Scalar::new(text.as_str(), true)) }
        } else {
            let mut report = Report::default();
            match parse::parse(text, &mut report) {
                Some(node) if report.is_empty() => node,
                _ => return Err(("the value is not valid YAML".into(), None)),
            }
        };
        self.adopt(&mut node);
        Ok(node)
    }

    /// Makes the place of every node the override, and hides its value.
    fn adopt(&self, node: &mut Node) {
        node.span = self.span;
        match &mut node.kind {
            Kind::Scalar(scalar) => scalar.written = Some("the given value".into()),
            Kind::List(items) => items.iter_mut().for_each(|item| self.adopt(item)),
            Kind::Map(entries) => entries.iter_mut().for_each(|entry| {
                entry.key_span = self.span;
                self.adopt(&mut entry.value);
            }),
        }
    }
}

/// A name with all that an environment variable cannot tell apart made equal.
fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace(['.', '-'], "_")
}

impl Path {
    fn is_empty(&self) -> bool {
        match self {
            Path::Dotted(path) => path.is_empty(),
            Path::Env(parts) => parts.is_empty(),
        }
    }

    /// The first segment and the rest.
    fn first(&self) -> (String, Path) {
        match self {
            Path::Dotted(path) => {
                let (first, rest) = path.split_once('.').unwrap_or((path, ""));
                (first.to_owned(), Path::Dotted(rest.to_owned()))
            }
            Path::Env(parts) => {
                (parts.first().cloned().unwrap_or_default(), Path::Env(parts.get(1..).unwrap_or_default().to_vec()))
            }
        }
    }

    /// The whole path as one key: that of `node` it means, or a new one.
    fn whole(&self, node: &Node) -> (String, Path) {
        match self {
            Path::Dotted(path) => (path.clone(), Path::Dotted(String::new())),
            Path::Env(parts) => {
                let joined = folded(&parts.join("_"));
                let existing = node.keys().find(|key| folded(key) == joined).map(str::to_owned);
                // Kafka's names have dots.
                (existing.unwrap_or_else(|| joined.replace('_', ".")), Path::Env(Vec::new()))
            }
        }
    }

    /// The longest key of `node` that the path begins with, or else its first segment as a new one.
    fn longest(&self, node: &Node) -> (String, Path) {
        match self {
            Path::Dotted(path) => {
                let begins = |key: &&str| path.strip_prefix(*key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
                match node.keys().filter(begins).max_by_key(|key| key.len()) {
                    Some(key) => (key.to_owned(), Path::Dotted(path[key.len()..].trim_start_matches('.').to_owned())),
                    None => self.first(),
                }
            }
            Path::Env(_) => {
                let (first, rest) = self.first();
                let existing = node.keys().find(|key| folded(key) == folded(&first)).map(str::to_owned);
                (existing.unwrap_or_else(|| first.to_ascii_lowercase().replace('_', "-")), rest)
            }
        }
    }
}
