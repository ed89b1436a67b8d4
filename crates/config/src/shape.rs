//! Holds the tree against the schema, and lowers what fits to JSON for serde. What does not fit is reported and left out, so
//! that the passes after this one find the faults in the rest.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::names::{did_you_mean, nearest};
use crate::node::{At, Kind, Node, Scalar, Span, Typed};
use crate::problem::Report;
use crate::schema::{self, SCHEMA};

/// Most entries of a list or map, unless the schema has a limit of its own.
pub const ENTRIES_MAX: usize = 10_000;

pub(crate) struct Shaped {
    /// Valid by the schema.
    pub value: Value,
    /// The list elements that were left out.
    pub dropped: BTreeSet<At>,
}

pub(crate) fn shape(root: &Node, report: &mut Report) -> Shaped {
    let mut walk = Walk { report, dropped: BTreeSet::new() };
    let value = walk.value(&SCHEMA, root, &At::root(), root.span).unwrap_or_else(|| Value::Object(Map::new()));
    Shaped { value, dropped: walk.dropped }
}

struct Walk<'r> {
    report: &'r mut Report,
    dropped: BTreeSet<At>,
}

impl Walk<'_> {
    /// The JSON for `node`; `None` when a fault (which is reported) leaves nothing of it. `owner` is where a fault of the
    /// node as a whole is shown.
    fn value(&mut self, schema: &'static Value, node: &Node, at: &At, owner: Span) -> Option<Value> {
        if node.scalar().is_some_and(|scalar| scalar.spoiled) {
            return None;
        }
        if node.is_null() && schema::allows_null(schema) {
            return Some(Value::Null);
        }
        let words = schema::words(schema);
        let branches = schema::alternatives(schema);
        // A section whose lines are all commented out is an empty one.
        let section = branches.iter().find(|branch| accepts(branch, &Kind::Map(Vec::new())) && required(branch).next().is_none());
        if let (true, Some(branch)) = (node.is_null(), section) {
            return self.map(branch, node, at, owner);
        }
        match (&node.kind, branches.iter().find(|branch| accepts(branch, &node.kind))) {
            (Kind::Scalar(scalar), Some(_)) if !words.is_empty() => self.word(&words, scalar, node),
            (Kind::Scalar(scalar), Some(branch)) => self.scalar(branch, scalar, node, at),
            (Kind::List(items), Some(branch)) => self.list(branch, items, node, at),
            (Kind::Map(_), Some(branch)) => self.map(branch, node, at, owner),
            (_, None) => self.mismatch(schema, node, at),
        }
    }

    fn mismatch(&mut self, schema: &'static Value, node: &Node, at: &At) -> Option<Value> {
        let found = if at.is_secret() && !node.is_null() { node.kind().into() } else { node.describe() };
        self.report.add(node.span, format!("expected {}, found {found}", expected(schema)), None);
        None
    }

    fn word(&mut self, words: &[&'static str], scalar: &Scalar, node: &Node) -> Option<Value> {
        if words.contains(&scalar.raw.as_str()) {
            return Some(Value::String(scalar.raw.clone()));
        }
        let help = nearest(&scalar.raw, words.iter().copied()).map(|word| format!("did you mean '{word}'?"));
        self.report.add(node.span, format!("expected {}, found {}", one_of(words), node.describe()), help);
        None
    }

    fn scalar(&mut self, schema: &'static Value, scalar: &Scalar, node: &Node, at: &At) -> Option<Value> {
        let typed = scalar.typed();
        if let Some(notation) = schema::notation(schema) {
            if typed == Typed::Null || !(notation.check)(&scalar.raw) {
                return self.mismatch(schema, node, at);
            }
            let keeps_expressions = notation.format == "tidegate-template";
            return Some(Value::String(if keeps_expressions { scalar.raw.clone() } else { unescaped(scalar) }));
        }
        // In JSON, and within { }, `${VAR}` must stand in quotes: what was filled in or given may be any type that is due.
        let given = scalar.written.is_some();
        let loose = if given { Scalar::new(scalar.raw.as_str(), true).typed() } else { typed };
        for name in schema::types(schema) {
            match (name, loose) {
                ("string", _) if typed == Typed::Text || given && typed != Typed::Null => {
                    return Some(Value::String(unescaped(scalar)));
                }
                ("boolean", Typed::Bool(truth)) => return Some(Value::Bool(truth)),
                ("integer", Typed::Int(number)) if in_range(schema, number) => return Some(Value::from(number)),
                _ => {}
            }
        }
        let is_text = schema::types(schema).any(|name| name == "string");
        let help = (is_text && typed != Typed::Null).then(|| "put it in quotes".to_owned());
        self.report.add(node.span, format!("expected {}, found {}", expected(schema), node.describe()), help);
        None
    }

    fn list(&mut self, schema: &'static Value, items: &[Node], node: &Node, at: &At) -> Option<Value> {
        if schema.get("minItems").is_some() && items.is_empty() {
            self.report.add(node.span, "the list is empty", "give one element at least, or leave the key out".to_owned());
            return None;
        }
        if self.is_too_long(schema, "maxItems", items.len(), node.span) {
            return None;
        }
        let mut values = Vec::with_capacity(items.len());
        let item_schema = schema.get("items")?;
        for (index, item) in items.iter().enumerate() {
            let at = at.index(index);
            match self.value(item_schema, item, &at, item.span) {
                Some(value) => values.push(value),
                None => {
                    self.dropped.insert(at);
                }
            }
        }
        Some(Value::Array(values))
    }

    fn map(&mut self, of: &'static Value, node: &Node, at: &At, owner: Span) -> Option<Value> {
        if self.is_too_long(of, "maxProperties", node.entries().len(), owner) {
            return None;
        }
        let mut values = Map::new();
        // Keys that a misspelt one was probably meant for: they are not reported as missing, too.
        let mut meant = Vec::new();
        for entry in node.entries() {
            let Some(schema) = schema::property(of, &entry.key).or_else(|| schema::values_of(of)) else {
                let help = did_you_mean(&entry.key, "known keys", schema::property_names(of));
                meant.extend(nearest(&entry.key, schema::property_names(of)));
                let place = if at.is_root() { String::new() } else { format!(" in {at}") };
                // A secret that lacks its key looks like one.
                let shown = if at.is_secret() { String::new() } else { format!(" '{}'", entry.key) };
                self.report.add(entry.key_span, format!("unknown key{shown}{place}"), help);
                continue;
            };
            // A named key without a value asks for nothing: what is optional keeps its default.
            let is_optional = schema::property(of, &entry.key).is_some() && !required(of).any(|name| name == entry.key);
            if is_optional && entry.value.is_null() {
                continue;
            }
            if let Some(value) = self.value(schema, &entry.value, &at.key(&entry.key), entry.key_span) {
                values.insert(entry.key.clone(), value);
            }
        }
        if of.get("minProperties").is_some() && node.entries().is_empty() {
            let what = at.last_key().unwrap_or("the document");
            self.report.add(owner, format!("'{what}' is empty; it needs one entry at least"), None);
        }
        let mut complete = true;
        for name in required(of) {
            complete &= values.contains_key(name);
            if node.entry(name).is_none() && !meant.contains(&name) {
                self.missing(of, name, at, owner);
            }
        }
        (complete || at.is_root()).then_some(Value::Object(values))
    }

    fn is_too_long(&mut self, schema: &Value, limit: &str, len: usize, place: Span) -> bool {
        let most = schema.get(limit).and_then(Value::as_u64).map_or(ENTRIES_MAX, |most| most as usize);
        if len > most {
            self.report.add(place, format!("there are {len} entries here; at most {most} are allowed"), None);
        }
        len > most
    }

    fn missing(&mut self, schema: &'static Value, name: &str, at: &At, owner: Span) {
        let schema = schema::property(schema, name);
        let description = schema.and_then(|schema| schema.get("description")).and_then(Value::as_str);
        let place = if at.is_root() { String::new() } else { format!(" in {at}") };
        let help = description.map(|text| format!("{name}: {text}"));
        self.report.add(owner, format!("the key '{name}' is missing{place}"), help);
    }
}

/// The names of the keys that a map must have.
fn required(schema: &'static Value) -> impl Iterator<Item = &'static str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// A text outside of templates, where `$${` stands for `${`. What came out of the environment is taken as it is.
fn unescaped(scalar: &Scalar) -> String {
    match scalar.written {
        None => scalar.raw.replace("$${", "${"),
        Some(_) => scalar.raw.clone(),
    }
}

pub(crate) fn accepts(schema: &'static Value, kind: &Kind) -> bool {
    let wanted: &[&str] = match kind {
        Kind::List(_) => &["array"],
        Kind::Map(_) => &["object"],
        Kind::Scalar(_) => &["string", "integer", "number", "boolean"],
    };
    schema::types(schema).any(|name| wanted.contains(&name))
}

fn in_range(schema: &Value, number: i64) -> bool {
    let bound = |name: &str| schema.get(name).and_then(Value::as_i64);
    bound("minimum").is_none_or(|minimum| number >= minimum) && bound("maximum").is_none_or(|maximum| number <= maximum)
}

fn one_of(words: &[&str]) -> String {
    match words {
        [one] => format!("'{one}'"),
        _ => format!("one of {}", words.join(", ")),
    }
}

/// What a reader would call the values of a schema.
fn expected(schema: &'static Value) -> String {
    let words = schema::words(schema);
    let branches = schema::alternatives(schema);
    if !words.is_empty() {
        let maps = branches.iter().any(|branch| accepts(branch, &Kind::Map(Vec::new())));
        return one_of(&words) + if maps { ", or a map" } else { "" };
    }
    let named: Vec<String> = branches
        .into_iter()
        .map(|schema| match schema::notation(schema) {
            Some(notation) => notation.expected.to_owned(),
            None => expected_type(schema),
        })
        .collect();
    named.join(" or ")
}

fn expected_type(schema: &'static Value) -> String {
    let bound = |name: &str| schema.get(name).and_then(Value::as_i64);
    match schema::types(schema).find(|name| *name != "null") {
        Some("integer") => match (bound("minimum"), bound("maximum")) {
            (Some(minimum), Some(maximum)) => format!("a whole number from {minimum} to {maximum}"),
            _ => "a whole number".into(),
        },
        Some("boolean") => "true or false".into(),
        Some("array") => "a list".into(),
        Some("object") => "a map".into(),
        _ => "a text".into(),
    }
}
