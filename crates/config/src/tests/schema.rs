use std::path::Path;

use crate::{Checks, Source, load, schema};

/// Every example of the repository is valid by the schema that editors use, and by the passes.
#[test]
fn the_examples_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let validator = jsonschema::draft202012::new(&schema()).expect("the schema is valid itself");
    let mut seen = 0;
    let mut directories = vec![root];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("readable").map(|entry| entry.expect("readable").path()) {
            if entry.is_dir() {
                directories.push(entry);
            } else if entry.file_name().is_some_and(|name| name == "tidegate.yaml") {
                seen += 1;
                let text = std::fs::read_to_string(&entry).expect("readable");
                let errors: Vec<String> = validator
                    .iter_errors(&super::hostile::to_json(&text))
                    .map(|e| format!("{} at {}", e, e.instance_path()))
                    .collect();
                assert!(errors.is_empty(), "{}: {errors:#?}", entry.display());
                let source = Source { name: entry.display().to_string(), text };
                let checks = Checks { kafka_property: &|_, _, _| Ok(()), embedded_topic: &|_, _| Ok(()), env: &|_| None };
                let plan = load(&source, Path::new("."), &[], &checks).unwrap_or_else(|problems| panic!("{problems}"));
                assert!(!plan.routes.is_empty());
            }
        }
    }
    assert!(seen > 0, "there are examples");
}

#[test]
fn the_schema_is_fit_for_editors() {
    let schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["title"], "tidegate.yaml");
    assert_eq!(schema["required"], serde_json::json!(["listeners"]));
    assert_eq!(schema["$defs"]["Limits"]["properties"]["header_timeout"]["default"], "10s");
    assert_eq!(schema["$defs"]["Limits"]["properties"]["headers"]["default"], 100);
    // Every key is explained.
    let types = schema["$defs"].as_object().expect("types").values().chain([&schema]);
    for (name, property) in types.filter_map(|t| t["properties"].as_object()).flatten() {
        assert!(property["description"].is_string(), "{name} has no description: {property}");
    }
}

#[test]
fn the_schema_refuses_what_the_passes_refuse() {
    let validator = jsonschema::draft202012::new(&schema()).expect("valid");
    let listeners = r#""listeners": {"a": {"address": "127.0.0.1:1"}}"#;
    let exchange = |more: &str| {
        format!(
            r#"{{{listeners}, "clusters": {{"m": {{"bootstrap.servers": "a:1"}}}}, "routes": [{{"match": "POST /x", "exchange":
            {{"request": {{"topic": "q"}}, "reply": {{"topic": "r"}}, {more}}}}}]}}"#
        )
    };
    for (text, valid) in [
        (format!("{{{listeners}}}"), true),
        ("{}".into(), false),
        (r#"{"listeners": {}}"#.into(), false),
        (format!(r#"{{{listeners}, "limit": {{}}}}"#), false),
        (format!(r#"{{{listeners}, "limits": {{"headers": "${{N:-5}}"}}}}"#), true),
        (format!(r#"{{{listeners}, "limits": {{"headers": 0}}}}"#), false),
        (format!(r#"{{{listeners}, "limits": {{"header_timeout": "5"}}}}"#), false),
        (format!(r#"{{{listeners}, "limits": {{"header_timeout": "5s"}}}}"#), true),
        (format!(r#"{{{listeners}, "limits": {{"body_bytes": 5}}}}"#), true),
        (format!(r#"{{{listeners}, "log": {{"level": "loud"}}}}"#), false),
        (format!(r#"{{{listeners}, "signing": {{"keys": ["${{K:-0123456789abcdef}}"]}}}}"#), true),
        (format!(r#"{{{listeners}, "signing": {{"keys": []}}}}"#), false),
        (exchange(r#""names": "zilla", "async": {"location": "/r/${correlationId}"}, "idempotency": {}"#), true),
        (exchange(r#""names": {"status": "s"}, "idempotency": {"mode": "exactly-once"}, "pending_max": 1"#), true),
        (exchange(r#""names": "kafka""#), false),
        (exchange(r#""names": {"id": "s"}"#), false),
        (exchange(r#""async": {"retry_after": "1s"}"#), false),
        (exchange(r#""idempotency": {"mode": "once"}"#), false),
        (exchange(r#""pending_max": 0"#), false),
        (format!(r#"{{{listeners}, "clusters": {{"a": {{"b.c": true}}}}}}"#), true),
        (format!(r#"{{{listeners}, "clusters": {{"a": {{"b.c": []}}}}}}"#), false),
    ] {
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(validator.is_valid(&value), valid, "{text}");
        let text = text.replace("\"b.c\": true", "\"bootstrap.servers\": embedded");
        let ours = super::read(&text, &[]);
        assert_eq!(ours.is_ok(), valid, "{text}: {ours:?}");
    }
}
