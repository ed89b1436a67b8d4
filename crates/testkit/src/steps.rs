//! A conversation with the gateway as data: what is asked, what must come back, what is remembered for later.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use crate::http::{self, Response};

/// One request and what its answer must be. `$name` in a path, header or body stands for something an earlier step saved.
#[derive(Debug, Clone)]
pub struct Step {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    status: u16,
    checks: Vec<Check>,
}

#[derive(Debug, Clone)]
enum Check {
    Header(String, String),
    HasHeader(String),
    NoHeader(String),
    Body(Vec<u8>),
    Json(Value),
    /// Members of the answer's JSON object; others may stand beside them.
    Member(String, Value),
    Save(String, String),
}

impl Step {
    /// A step that expects status 200 until [`Step::expect`] says otherwise.
    pub fn new(method: &'static str, path: &str) -> Self {
        Self { method, path: path.to_owned(), headers: Vec::new(), body: Vec::new(), status: 200, checks: Vec::new() }
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// A `PUT` of JSON text that expects 204.
    pub fn put(path: &str, json: &str) -> Self {
        Self::new("PUT", path).header("content-type", "application/json").body(json).expect(204)
    }

    /// Expects 204.
    pub fn delete(path: &str) -> Self {
        Self::new("DELETE", path).expect(204)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    pub fn expect(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub fn says(self, name: &str, value: &str) -> Self {
        self.check(Check::Header(name.to_owned(), value.to_owned()))
    }

    pub fn has(self, name: &str) -> Self {
        self.check(Check::HasHeader(name.to_owned()))
    }

    pub fn lacks(self, name: &str) -> Self {
        self.check(Check::NoHeader(name.to_owned()))
    }

    pub fn answers(self, body: impl AsRef<[u8]>) -> Self {
        self.check(Check::Body(body.as_ref().to_vec()))
    }

    /// The answer is this JSON; a top-level array in any order, because keys of several partitions have none.
    pub fn answers_json(self, json: Value) -> Self {
        self.check(Check::Json(json))
    }

    pub fn member(self, name: &str, value: impl Into<Value>) -> Self {
        self.check(Check::Member(name.to_owned(), value.into()))
    }

    /// Remembers a header of the answer as `$name`.
    pub fn save(self, header: &str, name: &str) -> Self {
        self.check(Check::Save(header.to_owned(), name.to_owned()))
    }

    fn check(mut self, check: Check) -> Self {
        self.checks.push(check);
        self
    }
}

/// Runs the steps in order on one connection each.
///
/// # Panics
/// At the first answer that is not as said, with the step and the whole answer.
pub fn run_steps(address: SocketAddr, title: &str, steps: &[Step]) {
    let mut saved = BTreeMap::new();
    for (number, step) in steps.iter().enumerate() {
        let place = format!("{title}, step {}: {} {}", number + 1, step.method, step.path);
        let path = fill(&step.path, &saved);
        let headers: Vec<(String, String)> = step.headers.iter().map(|(n, v)| (n.clone(), fill(v, &saved))).collect();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let answer = http::request(address, step.method, &path, &headers, &step.body)
            .unwrap_or_else(|cause| panic!("{place}: no answer: {cause}"));
        let shown = format!("{place}\nanswer: {} {:#?}\n{}", answer.status, answer.headers, answer.text());
        assert_eq!(answer.status, step.status, "{shown}");
        for check in &step.checks {
            verify(check, &answer, &mut saved, &shown);
        }
    }
}

fn verify(check: &Check, answer: &Response, saved: &mut BTreeMap<String, String>, shown: &str) {
    match check {
        Check::Header(name, value) => assert_eq!(answer.header(name), Some(fill(value, saved).as_str()), "{name}; {shown}"),
        Check::HasHeader(name) => assert!(answer.header(name).is_some(), "no {name}; {shown}"),
        Check::NoHeader(name) => assert_eq!(answer.header(name), None, "{name}; {shown}"),
        Check::Body(body) => assert_eq!(&answer.body, body, "{shown}"),
        Check::Json(json) => assert_eq!(unordered(answer.json()), unordered(json.clone()), "{shown}"),
        Check::Member(name, value) => assert_eq!(answer.json().get(name), Some(value), "{name}; {shown}"),
        Check::Save(header, name) => {
            let value = answer.header(header).unwrap_or_else(|| panic!("no {header} to save; {shown}"));
            saved.insert(name.clone(), value.to_owned());
        }
    }
}

fn unordered(mut json: Value) -> Value {
    if let Value::Array(items) = &mut json {
        items.sort_by_cached_key(Value::to_string);
    }
    json
}

fn fill(text: &str, saved: &BTreeMap<String, String>) -> String {
    // Longer names first, so that `$etag2` is not `$etag` and a 2.
    saved.iter().rev().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_values_are_filled_in() {
        let saved = BTreeMap::from([("e".to_owned(), "1".to_owned()), ("e2".to_owned(), "2".to_owned())]);
        assert_eq!(fill("$e, $e2, $x", &saved), "1, 2, $x");
    }

    #[test]
    fn arrays_are_compared_without_order() {
        assert_eq!(unordered(serde_json::json!([2, 1])), unordered(serde_json::json!([1, 2])));
        assert_ne!(unordered(serde_json::json!([2, 1])), unordered(serde_json::json!([1, 1])));
    }
}
