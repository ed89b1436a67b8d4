//! Input that nobody sane would write.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::Value;

use super::{SMALL, read};
use crate::Override;
use crate::node::{Kind, Node, Typed};
use crate::problem::Report;

/// A YAML text as an editor's schema check sees it: nothing filled in.
pub(super) fn to_json(text: &str) -> Value {
    fn convert(node: &Node) -> Value {
        match &node.kind {
            Kind::List(items) => items.iter().map(convert).collect(),
            Kind::Map(entries) => Value::Object(entries.iter().map(|e| (e.key.clone(), convert(&e.value))).collect()),
            Kind::Scalar(scalar) => match scalar.typed() {
                Typed::Null => Value::Null,
                Typed::Bool(truth) => truth.into(),
                Typed::Int(number) => number.into(),
                Typed::Number => scalar.raw.parse::<f64>().unwrap_or_default().into(),
                Typed::Text => scalar.raw.clone().into(),
            },
        }
    }
    convert(&crate::parse::parse(text, &mut Report::default()).expect("valid YAML"))
}

fn first_message(text: &str) -> String {
    read(text, &[]).expect_err("refused").0.remove(0).message
}

#[test]
fn bombs_are_refused_fast() {
    let started = Instant::now();
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let alias = format!("*a{}", level - 1);
        laughs += &format!("a{level}: &a{level} [{}]\n", [alias.as_str(); 10].join(", "));
    }
    let too_many = "more than 200000 values, those that aliases repeat included";
    assert_eq!(first_message(&laughs), too_many);
    assert_eq!(first_message(&format!("a: [{}]", "1,".repeat(300_000))), too_many);
    assert_eq!(first_message(&format!("a: {}", "&x [".repeat(100))), "nested more than 64 deep");
    assert_eq!(first_message(&"[".repeat(100_000)), "not valid YAML: recursion limit exceeded");
    assert_eq!(first_message(&"- ".repeat(100_000)), "nested more than 64 deep");
    let mut deep = "a0: &a0 [x]\n".to_owned();
    (1..80).for_each(|level| deep += &format!("a{level}: &a{level} [*a{}]\n", level - 1));
    assert_eq!(first_message(&deep), "nested more than 64 deep");
    assert_eq!(first_message("a: &a [*a]"), "this alias stands inside of what it names");
    assert!(first_message(&"x".repeat(5 << 20)).starts_with("the configuration has 5242880 bytes"));
    let many = read(&(0..5000).map(|n| format!("k{n}: 1\n")).collect::<String>(), &[]).expect_err("refused");
    assert_eq!(many.0.len(), crate::PROBLEMS_MAX);
    let listeners: String = (0..65).map(|n| format!("  l{n}: {{ address: 127.0.0.1:0 }}\n")).collect();
    assert_eq!(first_message(&format!("listeners:\n{listeners}")), "there are 65 entries here; at most 64 are allowed");
    let routes = "  - { match: GET /x, listener: a, fetch: { topic: t, merge: json } }\n".repeat(10_000);
    let many = read(&format!("listeners: {{ a: {{ address: 127.0.0.1:0 }} }}\nroutes:\n{routes}"), &[]).expect_err("refused");
    assert_eq!(many.0.len(), crate::PROBLEMS_MAX);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let problems = read("\"\\e[31mred\": 1\nlisteners: {}\n", &[]).expect_err("refused").to_string();
    assert!(!problems.contains('\x1b'), "{problems:?}");
}

const EXCHANGE: &str = r#"listeners: { a: { address: 127.0.0.1:0 } }
signing: { keys: [0123456789abcdef] }
clusters: { m: { bootstrap.servers: "a:1" } }
routes:
  - match: POST /o/{id}
    exchange:
      request: { topic: q, headers: { a: b }, copy_headers: [":path"] }
      reply: { topic: r }
      async: { location: "/o/${params.id};cid=${correlationId}" }
      names: { correlation_id: c }
      idempotency: { key: "${params.id}", mode: exactly-once, claims: c }
"#;

/// A valid text with one place changed.
fn mutated() -> impl Strategy<Value = String> {
    let big = include_str!("../../../../examples/items/tidegate.yaml");
    let bits = prop::sample::select(vec![
        "", ":", "- ", "{", "}", "[", "]", "${", "&a ", "*a", "!x ", "\"", "'", "\n", "\t", "#", "~", "%", "0", "é", "\u{0}",
        "?", "|\n", "---\n", "//", "..",
    ]);
    (
        prop::sample::select(vec![SMALL, EXCHANGE, big]),
        any::<prop::sample::Index>(),
        0..12usize,
        prop::collection::vec(bits, 0..3),
    )
        .prop_map(|(text, at, cut, bits)| {
            let chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len());
            let end = (at + cut).min(chars.len());
            chars[..at].iter().collect::<String>() + &bits.concat() + &chars[end..].iter().collect::<String>()
        })
}

/// Every problem says something, about a place that exists.
fn sound(text: &str) -> Result<(), TestCaseError> {
    if let Err(problems) = read(text, &[]) {
        prop_assert!(!problems.0.is_empty());
        let lines = text.lines().count().max(1);
        for problem in &problems.0 {
            prop_assert!((1..=lines).contains(&problem.line), "{problem:?}");
            prop_assert!(problem.column > 0 && !problem.message.is_empty(), "{problem:?}");
            prop_assert_ne!(&problem.message, "the configuration cannot be read");
        }
        prop_assert!(!problems.render(true).is_empty());
    }
    Ok(())
}

#[test]
fn what_is_mutated_is_valid() {
    for text in [SMALL, EXCHANGE] {
        assert!(read(text, &[]).is_ok(), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        sound(&text)?;
    }

    #[test]
    fn mutated_configurations_never_panic(text in mutated()) {
        sound(&text)?;
    }

    #[test]
    fn arbitrary_overrides_never_panic(path in "[a-z.0-9_]{0,30}", value in any::<String>(), of_env in any::<bool>()) {
        let one = if of_env { Override::env(&format!("TIDEGATE__{}", path.replace('.', "__")), &value) } else { Override::set(&format!("{path}={value}")).ok() };
        if let Some(one) = one {
            let _ = read(SMALL, &[one]).map_err(|problems| problems.to_string());
        }
    }
}
