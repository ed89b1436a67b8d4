use std::borrow::Cow;

use proptest::prelude::*;

use crate::scope::Pair;
use crate::{Blame, CompileError, Message, RENDERED_BYTES_MAX, Scope, TEXT_BYTES_MAX, Template, Variable};

struct Request;

const QUERIES: [(&str, &str); 3] = [("q", "tide"), ("n", "41"), ("q", "second")];
const HEADERS: [(&str, &str); 2] = [("x-user", "ann"), ("x-big", "")];

fn find<'a>(pairs: &[(&str, &'a str)], name: &str) -> Option<Cow<'a, str>> {
    pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| Cow::Borrowed(*v))
}

fn all<'a>(pairs: &[(&'a str, &'a str)]) -> Vec<Pair<'a>> {
    pairs.iter().map(|(n, v)| (Cow::Borrowed(*n), Cow::Borrowed(*v))).collect()
}

impl Scope for Request {
    fn param(&self, name: &str) -> Option<Cow<'_, str>> {
        find(&[("id", "7")], name)
    }
    fn params(&self) -> Vec<Pair<'_>> {
        all(&[("id", "7")])
    }
    fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        find(&QUERIES, name)
    }
    fn queries(&self) -> Vec<Pair<'_>> {
        all(&QUERIES)
    }
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        find(&HEADERS, name)
    }
    fn headers(&self) -> Vec<Pair<'_>> {
        all(&HEADERS)
    }
    fn identity(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed("ann@example.com"))
    }
    fn correlation_id(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed("c-1"))
    }
    fn message(&self) -> Option<&dyn Message> {
        Some(&Record)
    }
}

struct Record;

impl Message for Record {
    fn key(&self) -> Option<&[u8]> {
        Some(b"\xff")
    }
    fn value(&self) -> Option<&[u8]> {
        Some(br#"{"a":{"b":[1,2.5,"x"]}}"#)
    }
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().into_iter().rev().find(|(n, _)| *n == name).map(|(_, v)| v)
    }
    fn headers(&self) -> Vec<(&str, &[u8])> {
        vec![("h", b"first"), ("h", b"last"), ("raw", b"\xff")]
    }
    fn topic(&self) -> &str {
        "items"
    }
    fn partition(&self) -> i32 {
        2
    }
    fn offset(&self) -> i64 {
        99
    }
    fn timestamp_ms(&self) -> i64 {
        1_700_000_000_000
    }
}

/// A request that has nothing.
struct Nothing;
impl Scope for Nothing {}

fn compile(text: &str) -> Result<Template, CompileError> {
    Template::compile(text, &Variable::ALL)
}

fn check(text: &str, scope: &dyn Scope, expected: &str) {
    let shown = match compile(text) {
        Ok(template) => match template.render(scope) {
            Ok(rendered) => rendered.into_owned(),
            Err(e) => format!("{:?}: {}", e.blame, e.message),
        },
        Err(e) => format!("{}: {}", e.at, e.message),
    };
    assert_eq!(shown, expected, "{text}");
}

#[test]
fn renders() {
    for (text, expected) in [
        ("", ""),
        ("plain", "plain"),
        ("$${params.id}", "${params.id}"),
        ("${params.id}", "7"),
        ("${ params['id'] }", "7"),
        ("/v1/${params.id}?q=${query.q}", "/v1/7?q=tide"),
        ("${headers['X-User']}", "ann"),
        ("${headers['X-User'] + '!'}", "ann!"),
        ("${has(headers.missing) ? headers.missing : 'none'}", "none"),
        ("${guard.identity}", "ann@example.com"),
        ("${size(guard.claims)}", "0"),
        ("${correlationId}", "c-1"),
        ("${idempotencyKey == null ? 'none' : idempotencyKey}", "none"),
        ("${int(query.n) + 1}", "42"),
        ("${query.q + query.n}", "tide41"),
        ("${1.5}", "1.5"),
        ("${1u}", "1"),
        ("${'q' in query}", "true"),
        ("${b'abc'}", "abc"),
        ("${'a}b'}", "a}b"),
        ("${{'x': 'y'}['x']}", "y"),
        ("${query.exists(k, k == 'n') ? 'yes' : 'no'}", "yes"),
        ("${message.headers['h']}", "last"),
        ("${message.headers['h'] + '.'}", "last."),
        ("${message.topic}-${message.partition}@${message.offset}/${message.timestamp}", "items-2@99/1700000000000"),
        ("${message.json.a.b[0]}", "1"),
        ("${message.json['a'].b[2]}", "x"),
        ("${message.value.startsWith('{')}", "true"),
    ] {
        check(text, &Request, expected);
    }
}

#[test]
fn render_errors_name_the_fault_and_who_is_to_blame() {
    for (text, expected) in [
        ("${params.other}", "Request: the request has no path parameter 'other'"),
        ("${query.missing}", "Request: the request has no query parameter 'missing'"),
        ("${headers['X-Missing']}", "Request: the request has no header 'x-missing'"),
        ("${query.missing + 'x'}", "Request: the request has no query parameter 'missing'"),
        ("${idempotencyKey}", "Request: the request has no idempotency key"),
        ("${guard.claims.sub}", "Request: the request has no claim 'sub'"),
        ("${message.key}", "Template: the message's key is not UTF-8"),
        ("${message.key + b''}", "Template: the result is bytes that are not UTF-8"),
        ("${message.headers['raw']}", "Template: the message's header 'raw' is not UTF-8"),
        ("${message.headers['none']}", "Template: the message has no header 'none'"),
        ("${message.nonsense}", "Template: the message has no 'nonsense'"),
        ("${message.json.a.c}", "Template: the message has no 'c'"),
        ("${1 + 'a'}", "Template: 'add' takes no int with a string"),
        ("${1 > 'a'}", "Template: found no matching overload for '_>_' applied to '(int, string)'"),
        ("${9223372036854775807 + 1}", "Template: the result of 'add' is out of range"),
        ("${1 / 0}", "Template: division by zero"),
        ("${[1][3]}", "Template: the list has no such element"),
        ("${int(query.q)}", "Template: the function 'int' cannot take this value"),
        ("${null}", "Template: the result is a null; text is needed"),
        ("${query}", "Template: the result is a map; text is needed"),
        ("${[1]}", "Template: the result is a list; text is needed"),
    ] {
        check(text, &Request, expected);
    }
    check("${message.topic}", &Nothing, "Template: there is no message here");
    check("${guard.identity}", &Nothing, "Request: the request has no identity");
    check("${guard.identity == null}", &Nothing, "true");
}

#[test]
fn compile_errors_say_where() {
    for (text, expected) in [
        ("${}", "2: the expression is empty"),
        ("id ${params.id", "3: `${` is not closed"),
        ("id ${parms.id}", "5: unknown variable 'parms'"),
        ("a${1 +}", "6: not valid CEL: mismatched input the end"),
        ("${sise(query)}", "2: there is no function 'sise'"),
        ("${query.q.begins('a')}", "2: there is no function 'begins'"),
        ("${foo.bar()}", "2: unknown variable 'foo'"),
        ("${Foo{a: 1}}", "2: there is no message type 'Foo'"),
        ("${[1].map(a, [1].map(b, [1].map(c, c)))}", "2: at most 2 of all, exists, map, filter may be nested"),
    ] {
        check(text, &Request, expected);
    }
    let error = compile("${parms.id}").expect_err("misspelt");
    let names = "params, query, headers, guard, idempotencyKey, correlationId, message";
    assert_eq!(error.help, Some(format!("did you mean 'params'? available here: {names}")));
    let error = compile("${query.q.contain('a')}").expect_err("misspelt");
    assert_eq!(error.help.as_deref(), Some("did you mean 'contains'?"));
    let error = Template::compile("${message.key}", &[Variable::Params]).expect_err("not allowed");
    assert_eq!(
        (error.message.as_str(), error.help.as_deref()),
        ("'message' is not available here", Some("available here: params"))
    );
}

#[test]
fn a_template_tells_what_it_uses() {
    let template = compile("${params.b}${has(params.a) && params['c'] == query.z}").expect("valid");
    assert_eq!(template.params().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(template.uses(Variable::Query) && !template.uses(Variable::Headers));
    assert_eq!(template.literal(), None);
    assert_eq!(compile("a$${b").expect("valid").literal(), Some("a${b"));
    assert_eq!(compile("").expect("valid").literal(), Some(""));
}

#[test]
fn limits_hold() {
    assert!(compile(&"x".repeat(TEXT_BYTES_MAX + 1)).is_err());
    assert!(compile(&"${query.q}".repeat(200)).is_err());
    // The longest chains that the token limit lets through fit the stack of a small thread.
    for chain in [
        format!("${{{}1}}", "1+".repeat(127)),
        format!("${{{}true}}", "!".repeat(250)),
        format!("${{params{}}}", ".a".repeat(126)),
    ] {
        let rendered = compile(&chain).map(|template| template.render(&Request).is_ok());
        assert!(rendered.is_ok(), "{rendered:?}");
    }
    struct Long(String);
    impl Scope for Long {
        fn query(&self, _: &str) -> Option<Cow<'_, str>> {
            Some(Cow::Borrowed(&self.0))
        }
    }
    let long = Long("x".repeat(RENDERED_BYTES_MAX / 2 + 1));
    let template = compile("${query.a}${query.a}").expect("valid");
    assert_eq!(template.render(&long).expect_err("too long").blame, Blame::Request);
}

#[test]
fn a_template_is_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    shared(&compile("${query.q + 'x'}").expect("valid"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        if let Ok(template) = compile(&text) {
            let _ = template.render(&Request);
        }
    }

    #[test]
    fn arbitrary_expressions_never_panic(words in proptest::collection::vec(
        prop::sample::select(vec!["params", ".", "id", "[", "]", "'", "\"", "+", "1", "{", "}", "(", ")", "?", ":", "&&", "!", "-", "in",
            "has", "map", ",", "x", "query", "r'", "\\", "${", "$", "é", " ", "\n", "9e999", "0x", "b'", "message", "json", "..", "%", "`"]), 0..40))
    {
        let text = format!("${{{}}}", words.concat());
        match compile(&text) {
            Ok(template) => drop(template.render(&Request)),
            Err(error) => prop_assert!(text.is_char_boundary(error.at), "{error:?}"),
        }
    }
}
