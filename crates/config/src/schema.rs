//! The JSON Schema of the document, and how the passes look into it.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::document::Document;
use crate::units::{NOTATIONS, Notation};

/// The schema as the passes use it.
pub(crate) static SCHEMA: LazyLock<Value> = LazyLock::new(|| schemars::schema_for!(Document).to_value());

/// The JSON Schema (draft 2020-12) of `tidegate.yaml`, for editors. Where a number, a boolean or a text of a certain form is
/// due, a text with `${VAR}` is valid, too.
pub fn schema() -> Value {
    let mut schema = SCHEMA.clone();
    allow_environment(&mut schema);
    schema
}

fn allow_environment(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for (key, value) in map.iter_mut() {
        match (key.as_str(), value) {
            ("properties" | "$defs", Value::Object(schemas)) => schemas.values_mut().for_each(allow_environment),
            ("anyOf" | "oneOf", Value::Array(schemas)) => schemas.iter_mut().for_each(allow_environment),
            ("items" | "additionalProperties", schema) => allow_environment(schema),
            _ => {}
        }
    }
    let types = types(&Value::Object(map.clone())).map(str::to_owned).collect::<Vec<_>>();
    let is_plain_text = types == ["string"] && !map.contains_key("pattern") && !map.contains_key("enum");
    let is_scalar = types.iter().any(|t| matches!(t.as_str(), "string" | "integer" | "number" | "boolean"));
    if !is_scalar || is_plain_text || map.contains_key("const") {
        return;
    }
    let mut outer = serde_json::Map::new();
    for key in ["title", "description", "default", "examples"] {
        outer.extend(map.remove(key).map(|value| (key.to_owned(), value)));
    }
    let inner = Value::Object(std::mem::take(map));
    outer.insert("anyOf".into(), json!([inner, { "type": "string", "pattern": "\\$\\{[A-Z_][A-Z0-9_]*(:-[^}]*)?\\}" }]));
    *map = outer;
}

/// `schema` itself, or what its `$ref` names.
pub(crate) fn resolve(mut schema: &'static Value) -> &'static Value {
    // Our references never form a chain longer than this.
    for _ in 0..8 {
        match schema.get("$ref").and_then(Value::as_str).and_then(|name| SCHEMA.pointer(name.trim_start_matches('#'))) {
            Some(next) => schema = next,
            None => break,
        }
    }
    schema
}

/// The alternatives of a schema without those for null, nested ones included; the schema itself when it has none.
pub(crate) fn alternatives(schema: &'static Value) -> Vec<&'static Value> {
    let schema = resolve(schema);
    match branches(schema) {
        Some(schemas) => schemas.iter().flat_map(alternatives).filter(|schema| !types(schema).eq(["null"])).collect(),
        None => vec![schema],
    }
}

fn branches(schema: &Value) -> Option<&Vec<Value>> {
    schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array)
}

/// The names in `type`.
pub(crate) fn types(schema: &Value) -> impl Iterator<Item = &str> {
    let (one, many) = match schema.get("type") {
        Some(Value::String(one)) => (Some(one.as_str()), None),
        Some(Value::Array(many)) => (None, Some(many)),
        _ => (None, None),
    };
    one.into_iter().chain(many.into_iter().flatten().filter_map(Value::as_str))
}

pub(crate) fn allows_null(schema: &'static Value) -> bool {
    let schema = resolve(schema);
    types(schema).any(|name| name == "null") || branches(schema).is_some_and(|b| b.iter().any(allows_null))
}

/// The words that a schema allows, when it allows certain words only.
pub(crate) fn words(schema: &'static Value) -> Vec<&'static str> {
    let mut words = Vec::new();
    for schema in alternatives(schema) {
        let listed = schema.get("enum").and_then(Value::as_array);
        words.extend(listed.into_iter().flatten().filter_map(Value::as_str));
        words.extend(schema.get("const").and_then(Value::as_str));
    }
    words
}

pub(crate) fn notation(schema: &Value) -> Option<&'static Notation> {
    let format = schema.get("format").and_then(Value::as_str)?;
    NOTATIONS.iter().find(|notation| notation.format == format)
}

/// The schema of the values of a map whose keys are free.
pub(crate) fn values_of(schema: &'static Value) -> Option<&'static Value> {
    schema.get("additionalProperties").filter(|values| values.is_object())
}

/// The schema of a named property, if the schema has named ones.
pub(crate) fn property(schema: &'static Value, name: &str) -> Option<&'static Value> {
    schema.get("properties")?.get(name)
}

pub(crate) fn property_names(schema: &'static Value) -> impl Iterator<Item = &'static str> {
    schema.get("properties").and_then(Value::as_object).into_iter().flat_map(|map| map.keys().map(String::as_str))
}
