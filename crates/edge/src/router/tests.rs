use http::Request;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

use super::*;

/// `METHOD[,METHOD] pattern [@host] [header[=value] ..]`; `*` is any method.
fn route(text: &str) -> RouteMatch {
    let mut words = text.split(' ');
    let methods = words.next().expect("methods").split(',').filter(|method| *method != "*");
    let methods = methods.map(|method| method.parse().expect("method")).collect();
    let mut route = RouteMatch { methods, path: words.next().expect("path").into(), ..RouteMatch::default() };
    for word in words {
        match word.strip_prefix('@') {
            Some(host) => route.host = Some(host.into()),
            None => {
                let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
                let value = value.map(|value| value.parse().expect("value"));
                route.headers.push((name.parse().expect("name"), value));
            }
        }
    }
    route
}

fn table(routes: &[&str]) -> Result<Router<String>, RouteError> {
    Router::build(routes.iter().map(|text| (route(text), (*text).to_string())).collect())
}

/// `METHOD target [header=value ..]`
fn head(text: &str) -> Parts {
    let mut words = text.split(' ');
    let mut request = Request::builder().method(words.next().expect("method")).uri(words.next().expect("target"));
    for (name, value) in words.filter_map(|word| word.split_once('=')) {
        request = request.header(name, value);
    }
    request.body(()).expect("request").into_parts().0
}

fn check(routes: &[&str], request: &str, expected: &str) {
    let table = table(routes).expect("table");
    let got = match table.route(&head(request)) {
        Routed::Found { route, params } => {
            params.iter().fold(format!("-> {route}"), |text, (name, value)| format!("{text} | {name}={value}"))
        }
        Routed::NotFound => "404".into(),
        Routed::MethodNotAllowed { allow } => format!("405 {allow}"),
        Routed::Options { allow } => format!("options {allow}"),
        Routed::BadPath(fault) => format!("{} {fault:?}", fault.status().as_u16()),
    };
    assert_eq!(got, expected, "{request}");
}

const ITEMS: &[&str] = &[
    "POST /items",
    "GET /items",
    "GET /items/{id}",
    "PUT,DELETE /items/{id}",
    "POST /items/search",
    "GET /files/{*rest}",
    "* /any/{x}",
];

#[test]
fn paths_and_methods() {
    check(ITEMS, "GET /items", "-> GET /items");
    check(ITEMS, "GET /items?a=%zz", "-> GET /items");
    check(ITEMS, "HEAD /items", "-> GET /items");
    check(ITEMS, "GET /items/7", "-> GET /items/{id} | id=7");
    check(ITEMS, "GET /items/search", "-> GET /items/{id} | id=search");
    check(ITEMS, "POST /items/search", "-> POST /items/search");
    check(ITEMS, "DELETE /items/7", "-> PUT,DELETE /items/{id} | id=7");
    check(ITEMS, "PATCH /any/1", "-> * /any/{x} | x=1");
    check(ITEMS, "OPTIONS /any/1", "-> * /any/{x} | x=1");
    check(ITEMS, "BREW /any/1", "-> * /any/{x} | x=1");
    check(ITEMS, "GET /files/a/b%2Fc", "-> GET /files/{*rest} | rest=a/b/c");
    check(ITEMS, "GET /items/", "404");
    check(ITEMS, "GET //items", "404");
    check(ITEMS, "GET /files", "404");
    check(ITEMS, "GET /nothing", "404");
    check(ITEMS, "GET /Items", "404");
    check(ITEMS, "PATCH /items", "405 GET, HEAD, OPTIONS, POST");
    check(ITEMS, "PATCH /items/search", "405 DELETE, GET, HEAD, OPTIONS, POST, PUT");
    check(ITEMS, "OPTIONS /items/7", "options DELETE, GET, HEAD, OPTIONS, PUT");
    check(ITEMS, "OPTIONS /nothing", "404");
    check(ITEMS, "OPTIONS *", "options DELETE, GET, HEAD, OPTIONS, POST, PUT");
    check(ITEMS, "GET *", "404");
    check(ITEMS, "GET http://example.com/items", "-> GET /items");
    check(ITEMS, "GET http://example.com", "404");
    check(ITEMS, "CONNECT example.com:443", "404");
}

#[test]
fn encoded_paths() {
    check(ITEMS, "GET /%69tems", "-> GET /items");
    check(ITEMS, "GET /items/a%2Fb", "-> GET /items/{id} | id=a/b");
    check(ITEMS, "GET /items%2F7", "404");
    check(ITEMS, "GET /items/%C3%A9%20x", "-> GET /items/{id} | id=é x");
    check(ITEMS, "GET /items/%7Bid%7D", "-> GET /items/{id} | id={id}");
    check(ITEMS, "GET /items/%", "400 Encoding");
    check(ITEMS, "GET /items/%ff", "400 Utf8");
    check(ITEMS, "GET /items/%00", "400 Nul");
    check(ITEMS, "GET /items/../x", "400 DotSegment");
    check(ITEMS, "GET /items/%2e%2e", "400 DotSegment");
    check(ITEMS, &format!("GET {}", "/a".repeat(64)), "404");
    check(ITEMS, &format!("GET {}", "/a".repeat(65)), "400 TooManySegments");
    check(ITEMS, &format!("GET /items?{}", "q".repeat(8192)), "414 TooLong");
}

#[test]
fn limits_are_those_of_the_listener() {
    let limits = Limits { uri_bytes: 10, path_segments: 2, ..Limits::default() };
    let table = table(&["* /{*rest}"]).expect("table").with_limits(&limits);
    assert!(matches!(table.route(&head("GET /a/b")), Routed::Found { .. }));
    assert!(matches!(table.route(&head("GET /a/b/c")), Routed::BadPath(PathFault::TooManySegments)));
    assert!(matches!(table.route(&head("GET /0123456789")), Routed::BadPath(PathFault::TooLong)));
}

#[test]
fn the_narrower_pattern_wins() {
    let routes = &["GET /{*rest}", "GET /a/{*rest}", "GET /a/{x}", "GET /a/b", "GET /a/v-{x}", "GET /a/{x}/c", "GET /{y}/b"];
    check(routes, "GET /a/b", "-> GET /a/b");
    check(routes, "GET /a/v-1", "-> GET /a/v-{x} | x=1");
    check(routes, "GET /a/z", "-> GET /a/{x} | x=z");
    check(routes, "GET /a/z/c", "-> GET /a/{x}/c | x=z");
    check(routes, "GET /a/z/d", "-> GET /a/{*rest} | rest=z/d");
    check(routes, "GET /q/b", "-> GET /{y}/b | y=q");
    check(routes, "GET /q/r", "-> GET /{*rest} | rest=q/r");
}

#[test]
fn several_parameters_in_a_segment() {
    let routes = &[
        "GET /a/{id}",
        "GET /a/{id};cid={c}",
        "GET /b/{x}-{y}.{z}",
        "GET /b/v{x}-{y}.png",
        "GET /b/{*rest}",
        "GET /c/{x}--{y}/d/{z}",
        "* /d/{x}:{y}",
        "GET /d/{x}:{y} kind",
        "PUT /d/{x}",
    ];
    check(routes, "GET /a/7;cid=Xy", "-> GET /a/{id};cid={c} | id=7 | c=Xy");
    check(routes, "HEAD /a/7;cid=Xy", "-> GET /a/{id};cid={c} | id=7 | c=Xy");
    check(routes, "GET /a/1;cid=2;cid=3", "-> GET /a/{id};cid={c} | id=1;cid=2 | c=3");
    check(routes, "GET /a/%2F%3Bcid%3D%C3%A9%2F", "-> GET /a/{id};cid={c} | id=/ | c=é/");
    check(routes, "GET /a/1;cid=%C3%A9", "-> GET /a/{id};cid={c} | id=1 | c=é");
    // Every parameter has a value.
    check(routes, "GET /a/;cid=3", "-> GET /a/{id} | id=;cid=3");
    check(routes, "GET /a/3;cid=", "-> GET /a/{id} | id=3;cid=");
    check(routes, "GET /a/1;cid=;cid=", "-> GET /a/{id};cid={c} | id=1 | c=;cid=");
    check(routes, "GET /a/;cid=/x", "404");
    check(routes, "GET /b/1-2.3", "-> GET /b/{x}-{y}.{z} | x=1 | y=2 | z=3");
    check(routes, "GET /b/1-2-3.4.5", "-> GET /b/{x}-{y}.{z} | x=1-2 | y=3.4 | z=5");
    check(routes, "GET /b/v1-2.png", "-> GET /b/v{x}-{y}.png | x=1 | y=2");
    check(routes, "GET /b/v-2.png", "-> GET /b/{x}-{y}.{z} | x=v | y=2 | z=png");
    check(routes, "GET /b/1.2-3", "-> GET /b/{*rest} | rest=1.2-3");
    check(routes, "GET /c/1---2/d/3", "-> GET /c/{x}--{y}/d/{z} | x=1- | y=2 | z=3");
    check(routes, "GET /c/1-2/d/3", "404");
    check(routes, "GET /d/1:2 kind=1", "-> GET /d/{x}:{y} kind | x=1 | y=2");
    check(routes, "GET /d/1:2", "-> * /d/{x}:{y} | x=1 | y=2");
    check(routes, "POST /d/1:2", "-> * /d/{x}:{y} | x=1 | y=2");
    check(routes, "PUT /d/1:2", "-> * /d/{x}:{y} | x=1 | y=2");
    check(routes, "PUT /d/1", "-> PUT /d/{x} | x=1");
    check(routes, "PATCH /a/7;cid=Xy", "405 GET, HEAD, OPTIONS");
    check(routes, "OPTIONS /c/1--2/d/3", "options GET, HEAD, OPTIONS");
    check(routes, "OPTIONS /c/1-2/d/3", "404");
}

#[test]
fn the_more_direct_method_wins() {
    let routes = &["* /x/{a}", "GET /x/{b}", "HEAD /x/{c}"];
    check(routes, "GET /x/1", "-> GET /x/{b} | b=1");
    check(routes, "HEAD /x/1", "-> HEAD /x/{c} | c=1");
    check(routes, "POST /x/1", "-> * /x/{a} | a=1");
    check(&["* /x", "GET /x"], "HEAD /x", "-> GET /x");
}

#[test]
fn headers() {
    let routes = &["GET /x", "GET /x accept=a", "GET /x accept=a kind", "GET /x/s kind", "GET /x/{id}", "GET /y kind"];
    check(routes, "GET /x", "-> GET /x");
    check(routes, "GET /x accept=b", "-> GET /x");
    check(routes, "GET /x accept=a", "-> GET /x accept=a");
    check(routes, "GET /x accept=b accept=a", "-> GET /x accept=a");
    check(routes, "GET /x accept=a kind=1", "-> GET /x accept=a kind");
    check(routes, "GET /x/s kind=1", "-> GET /x/s kind");
    check(routes, "GET /x/s", "-> GET /x/{id} | id=s");
    check(routes, "GET /y", "404");
    check(routes, "POST /y", "404");
    check(routes, "POST /y kind=1", "405 GET, HEAD, OPTIONS");
}

#[test]
fn hosts() {
    let routes = &["GET /x", "GET /only-general", "GET /x @api.example.com", "POST /y @API.example.com:8080", "GET /x @[::1]"];
    check(routes, "GET /x host=api.example.com", "-> GET /x @api.example.com");
    check(routes, "GET /x host=API.Example.com:8443", "-> GET /x @api.example.com");
    check(routes, "GET /x host=api.example.com.", "-> GET /x @api.example.com");
    check(routes, "GET /x host=other.example.com", "-> GET /x");
    check(routes, "GET /x", "-> GET /x");
    check(routes, "GET http://api.example.com/x host=other", "-> GET /x @api.example.com");
    check(routes, "GET http://other/x host=api.example.com", "-> GET /x");
    check(routes, "GET /x host=[::1]:80", "-> GET /x @[::1]");
    check(routes, "GET /only-general host=api.example.com", "-> GET /only-general");
    check(routes, "GET /y host=api.example.com", "405 OPTIONS, POST");
    check(routes, "POST /y", "404");
    check(routes, "PUT /x host=api.example.com", "405 GET, HEAD, OPTIONS");
}

fn refused(routes: &[&str], part: &str) {
    let error = table(routes).expect_err("an error").to_string();
    assert!(error.contains(part), "{error}");
}

#[test]
fn tables_that_cannot_be() {
    refused(&["GET /x/{a}", "GET /x/{b}"], "`GET /x/{b}` is routed twice");
    refused(&["GET /x", "PUT,GET /x"], "`GET /x` is routed twice");
    refused(&["* /x", "* /x"], "`* /x` is routed twice");
    refused(&["GET /x @a", "GET /x @A:80"], "routed twice");
    refused(&["GET /x a=1 b", "GET /x b a=1"], "routed twice");
    refused(&["GET /x/{a}-{b}", "GET /x/{c}-{d}"], "`GET /x/{c}-{d}` is routed twice");
    refused(&["GET x"], "begin with `/`");
    table(&["GET /x", "GET /x a", "GET /x a=1", "HEAD /x", "* /x", "GET /x @b", "GET /{a}-{b}", "GET /{a}.{b}", "GET /{a}"])
        .expect("all different");
}

proptest! {
    #[test]
    fn any_target_is_answered(method in "GET|HEAD|OPTIONS|PUT|BREW", target in "[/a-z.%0-9{}*é:?#-]{0,40}") {
        let table = table(&[ITEMS, &["GET /{a}.{b}é{c}", "* /{a}/{b}:{c}"]].concat()).expect("table");
        if let Ok(request) = Request::builder().method(method.as_str()).uri(format!("/{target}")).body(()) {
            let uri = request.uri().clone();
            if let Routed::Found { params, .. } = table.route(&request.into_parts().0) {
                prop_assert!(params.iter().all(|(_, value)| !value.is_empty()), "{}", uri);
            }
        }
    }

    #[test]
    fn decoding_any_bytes_never_panics(path in "\\PC{0,60}|[%0-9a-fA-F/.]{0,60}") {
        if let Ok(decoded) = path::decode(&path, 16) {
            prop_assert!(decoded.len() <= path.len());
            prop_assert!(decoded.split('/').all(|segment| segment != ".."));
        }
    }

    #[test]
    fn what_was_encoded_is_decoded(first in "[^\\pC]{1,20}", second in "[^\\pC]{1,20}") {
        let dotted = |text: &str| text.split('/').any(|part| part == "." || part == "..");
        prop_assume!(!dotted(&first) && !dotted(&second));
        let table = Router::build(vec![(route("GET /x/{a}/y/{b}"), ())]).expect("table");
        let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let request = head(&format!("GET /x/{}/y/{}", encode(&first), encode(&second)));
        let Routed::Found { params, .. } = table.route(&request) else { panic!("not found") };
        prop_assert_eq!(params.get("a"), Some(first.as_str()));
        prop_assert_eq!(params.get("b"), Some(second.as_str()));
        prop_assert_eq!(params.len(), 2);
    }

    #[test]
    fn what_was_joined_in_a_segment_is_split(
        values in prop::collection::vec("[^\\pC/;=.é-]{1,8}", 4),
        separators in prop::collection::vec("[;=.é-]{1,4}", 3),
    ) {
        let [a, b, c] = [0, 1, 2].map(|at| separators[at].as_str());
        let table = Router::build(vec![(route(&format!("GET /{{a}}{a}{{b}}{b}{{c}}/{c}{{d}}")), ())]).expect("table");
        let encode = |at: usize| utf8_percent_encode(&values[at], NON_ALPHANUMERIC).to_string();
        let [a, b, c] = [a, b, c].map(|text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string());
        let request = head(&format!("GET /{}{a}{}{b}{}/{c}{}", encode(0), encode(1), encode(2), encode(3)));
        let Routed::Found { params, .. } = table.route(&request) else { panic!("{} is not found", request.uri) };
        prop_assert_eq!(params.iter().map(|(_, value)| value).collect::<Vec<_>>(), values);
    }
}
