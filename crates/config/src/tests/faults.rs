//! Every fault with its problem: place, message, help.

use super::{SMALL, read};

/// `line:column message (help)` of each problem of `text`.
fn problems(text: &str) -> String {
    let Err(problems) = read(text, &[]) else {
        return String::new();
    };
    let line = |p: &crate::Problem| {
        let help = p.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        format!("{}:{} {}{help}\n", p.line, p.column, p.message)
    };
    problems.0.iter().map(line).collect()
}

pub(super) fn check(text: &str, expected: &str) {
    assert_eq!(problems(text), expected, "in:\n{text}");
}

/// Checks [`SMALL`] with other routes; the first of them is in line 9.
fn check_routes(routes: &str, expected: &str) {
    let head = SMALL.split("routes:").next().unwrap_or_default();
    check(&format!("{head}routes:\n{routes}"), expected);
}

#[test]
fn an_empty_file() {
    check(
        "",
        r#"1:1 the key 'listeners' is missing (listeners: The addresses that accept HTTP/1.1 and HTTP/2, by name.)
"#,
    );
}

#[test]
fn broken_yaml() {
    check(
        r#"a: [1
"#,
        r#"1:1 not valid YAML: while parsing a flow sequence, expected ',' or ']'
"#,
    );
}

#[test]
fn no_map() {
    check(
        r#"- a
"#,
        r#"1:1 expected a map, found a list
"#,
    );
}

#[test]
fn two_documents() {
    check(
        r#"a: 1
---
b: 2
"#,
        r#"2:1 a second document begins here; a configuration is one document
"#,
    );
}

#[test]
fn duplicate_keys() {
    check(
        r#"listeners: { a: { address: 127.0.0.1:1 }, a: { address: 127.0.0.1:2 } }
"#,
        r#"1:43 the key 'a' is given twice (the first one is in line 1; keep one of them)
"#,
    );
}

#[test]
fn top_level() {
    check(
        r#"listeners: {}
limit: {}
"#,
        r#"1:1 'listeners' is empty; it needs one entry at least
2:1 unknown key 'limit' (did you mean 'limits'?)
"#,
    );
}

#[test]
fn listener_shapes() {
    check(
        r#"listeners: { Public: { address: localhost:80 }, b: { address: 5 }, c: { address: [] }, d: }
"#,
        r#"1:33 expected an IP address with a port such as 0.0.0.0:8080, found the text 'localhost:80'
1:63 expected an IP address with a port such as 0.0.0.0:8080, found the number 5
1:82 expected an IP address with a port such as 0.0.0.0:8080, found a list
1:88 expected a map, found nothing
"#,
    );
}

#[test]
fn equal_addresses() {
    check(
        r#"listeners:
  a: { address: 127.0.0.1:8081 }
  b: { address: 127.0.0.1:8081 }
"#,
        r#"2:17 the listener 'a' has the address of the admin listener (take another port, or move the admin listener: admin: { address: ... })
3:17 the listener 'a' has this address already (give each listener a port of its own)
"#,
    );
}

#[test]
fn words() {
    check(
        r#"listeners: { a: { adress: 127.0.0.1:1 } }
admin: { address: of }
log: { level: inf, format: txt, access: yes }
"#,
        r#"1:19 unknown key 'adress' in listeners.a (did you mean 'address'?)
2:19 expected off, or an IP address with a port such as 127.0.0.1:8081, found the text 'of'
3:15 expected one of off, error, warn, info, debug, trace, found the text 'inf' (did you mean 'info'?)
3:28 expected one of text, json, auto, found the text 'txt' (did you mean 'text'?)
3:41 expected true or false, found the text 'yes'
"#,
    );
}

#[test]
fn limits() {
    check(
        r#"listeners: { a: { address: 127.0.0.1:1 } }
limits:
  header_bytes: 1
  header-timeout: 5s
  idle_timeout: 5
  request_timeout: 0s
  headers: 0
  requests: many
  uri_bytes: [1]
  body_bytes: 2TiB
"#,
        r#"3:17 '1' is out of range (from 1KiB to 16MiB)
4:3 unknown key 'header-timeout' in limits (did you mean 'header_timeout'?)
5:17 expected a duration such as 30s, found the number 5
6:20 with no time at all, nothing would be answered (give 1ms at least)
7:12 expected a whole number from 1 to 10000, found the number 0
8:13 expected a whole number from 1 to 10000000, found the text 'many'
9:14 expected a size such as 64KiB, found a list
10:15 '2TiB' is out of range (from 1B to 1GiB)
"#,
    );
}

#[test]
fn clusters() {
    check(
        r#"listeners: { a: { address: 127.0.0.1:1 } }
clusters:
  a: { boostrap.servers: x }
  b: { bootstrap.servers: x, acks: some, foo: 1, linger.ms: [1], sasl.password: }
  c: { bootstrap.servers: embedded, security.protocol: PLAINTEXT }
  "d e": { bootstrap.servers: x }
  e:
"#,
        r#"3:3 the cluster 'a' has no 'bootstrap.servers' (did you mean 'bootstrap.servers' by 'boostrap.servers'?)
3:8 there is no Kafka property 'boostrap.servers'
4:30 'some' is no value for acks (all, 0 or 1)
4:42 there is no Kafka property 'foo'
4:61 expected a text, a number, true or false, found a list
4:66 expected a text, a number, true or false, found nothing
5:37 the embedded log has no 'security.protocol'
6:3 'd e' is no name for a cluster (1 to 249 of a to z, A to Z, 0 to 9, '.', '_' and '-')
7:3 the cluster 'e' has no 'bootstrap.servers' (bootstrap.servers: HOST:PORT, or embedded for the built-in log)
"#,
    );
}

#[test]
fn nothing_out_of_the_environment_is_shown() {
    check(
        r#"listeners: { a: { address: "${UNSET}" } }
limits: { headers: "${SECRET}" }
log: { level: "${SECRET}" }
clusters: { a: { bootstrap.servers: x, acks: "${SECRET}" }, b: { bootstrap.servers: x } }
cache: { topics: { t: { cluster: "${SECRET}" } } }
routes:
  - match: "${SECRET} /x"
    listener: [ "${SECRET}" ]
    produce: { topic: "a/${SECRET}", cluster: "${SECRET}", key: "${EXPRESSION}", partition: "${SECRET}", copy_headers: ["${WORDS}"] }
  - match: "GET ${SECRET}"
    fetch: { topic: "${SECRET}", cluster: "${SECRET}", merge: "${SECRET}" }
"#,
        r#"1:28 the environment variable 'UNSET' is not set (set it, or give a default: ${UNSET:-...})
2:20 expected a whole number from 1 to 10000, found the value of '${SECRET}'
3:15 expected one of off, error, warn, info, debug, trace, found the value of '${SECRET}'
4:40 the Kafka property 'acks' does not take the given value
5:34 there is no cluster the value of '${SECRET}' (known clusters: a, b)
7:12 this route cannot have the method the value of '${SECRET} /x' (one of POST, PUT, PATCH, DELETE)
8:17 there is no listener the value of '${SECRET}' (known listeners: a)
9:23 the value of 'a/${SECRET}' is no name for a topic (1 to 249 of a to z, A to Z, 0 to 9, '.', '_' and '-')
9:47 there is no cluster the value of '${SECRET}' (known clusters: a, b)
9:65 with the given values filled in, this is no valid template
9:93 the value of '${SECRET}' is no partition (a whole number from 0 on)
9:121 the value of '${WORDS}' is no name for an HTTP header (letters, digits and !#$%&'*+-.^_`|~)
10:12 with the given values filled in, this is no valid path
11:21 the topic the value of '${SECRET}' is not cached (cached topics: t)
11:43 there is no cluster the value of '${SECRET}' (known clusters: a, b)
11:63 expected 'json', found the value of '${SECRET}'
"#,
    );
}

#[test]
fn no_capability() {
    check_routes(
        r#"  - match: GET /items
"#,
        r#"9:5 the route does nothing (add 'produce', 'fetch' or 'exchange')
"#,
    );
}

#[test]
fn two_capabilities() {
    check_routes(
        r#"  - match: GET /items
    produce: { topic: items }
    fetch: { topic: items, merge: json }
"#,
        r#"11:5 a route has one capability, this one has 'produce' and 'fetch' (make it a route for each)
"#,
    );
}

#[test]
fn matches() {
    check_routes(
        r#"  - produce: { topic: items }
  - match: POST
    produce: { topic: items }
  - match: { method: [], path: /x, hots: a }
    produce: { topic: items }
  - match: { method: [GET, post, HEAD], path: x/y, host: "a:80", headers: { "a b": c, X: 1, x: 2 } }
    produce: { topic: items }
  - match: HEAD /h
    fetch: { topic: items, merge: json }
  - match: DELETE /h
    fetch: { topic: items, merge: json }
"#,
        r#"9:5 the key 'match' is missing in routes[0] (match: Which requests: `POST /items`, or a map.)
10:12 'POST' is no match (a match is a method and a path, such as GET /items/{id})
12:22 the route can never be reached: its list of methods is empty (leave the key out for all)
12:36 unknown key 'hots' in routes[2].match (did you mean 'host'?)
14:22 HEAD is answered wherever GET is (write GET, or remove the route)
14:22 this route cannot have the method 'GET' (one of POST, PUT, PATCH, DELETE)
14:22 this route cannot have the method 'post' (did you mean POST?)
14:47 a path begins with '/' (write it as in /items/{id})
14:58 'a:80' is no host (write it without the port)
14:77 'a b' is no name for an HTTP header
14:93 the header 'x' is given twice, in another case (keep one of them)
16:12 HEAD is answered wherever GET is (write GET, or remove the route)
18:12 this route cannot have the method 'DELETE' (one of GET)
"#,
    );
}

#[test]
fn produce() {
    check_routes(
        r#"  - match: POST /items/{id}
    produce: { topic: itmes, key: "${params.ide}", partition: x, timestamp: -1, body_bytes: 0, timeout: 0s }
  - match: PUT /items/{id}
    produce: { topic: items, key: "${parms.id}", copy_headers: [cookie, te, "a b"], headers: { x: "${message.key}", y: "a ${1 +}" } }
  - match: PATCH /{*rest}
    produce: { topic: "${params.id}", cluster: mian, keys: x }
  - match: DELETE /items
    produce: { key: x }
"#,
        r#"10:23 the topic 'itmes' is not cached, but one of almost the same name is (did you mean 'items'? If both are meant, declare this one in cache.topics, too)
10:35 the path has no parameter 'ide' (did you mean 'id'?)
10:63 'x' is no partition (a whole number from 0 on)
10:77 '-1' is no timestamp (milliseconds since 1970-01-01T00:00:00Z)
10:93 '0' is out of range (from 1B to 1GiB)
10:105 with no time at all, nothing would be acknowledged (give 1ms at least)
12:38 unknown variable 'parms' (did you mean 'params'? available here: params, query, headers, guard, idempotencyKey, correlationId)
12:73 the header 'te' cannot be passed on (it belongs to the connection, not to the content; leave it out)
12:77 'a b' is no name for an HTTP header (letters, digits and !#$%&'*+-.^_`|~)
12:102 'message' is not available here (available here: params, query, headers, guard, idempotencyKey, correlationId)
12:128 not valid CEL: mismatched input the end
14:23 the path has no parameter 'id' (its parameters: rest)
14:48 there is no cluster 'mian' (did you mean 'main'?)
14:54 unknown key 'keys' in routes[2].produce (did you mean 'key'?)
16:5 the key 'topic' is missing in routes[3].produce (topic: The topic.)
"#,
    );
}

#[test]
fn fetch() {
    check_routes(
        r#"  - match: GET /a/{id}
    fetch: { topic: itmes, filters: [{ key: "${params.x}" }, { kye: a }, { key: "${message.key}" }] }
  - match: GET /b
    fetch: { topic: items, filters: [], merge: json }
  - match: GET /c
    fetch: { topic: items }
  - match: GET /d
    fetch: { topic: items, filters: 5 }
  - match: GET /e
    fetch: { topic: items, merge: yaml, headers: { te: a, X: "ä", x: b }, content_type: json }
  - match: GET /f
    fetch: { topic: items, merge: json, headers: { x: "${message.key}" }, copy_headers: [connection], wait_max: soon }
  - match: GET /g
    fetch: { topic: items, filters: [{}, { headers: {} }, { headers: { a: "${message.key}" } }] }
"#,
        r#"10:21 the topic 'itmes' is not cached (did you mean 'items'?)
10:45 the path has no parameter 'x' (its parameters: id)
10:64 unknown key 'kye' in routes[0].fetch.filters[1] (did you mean 'key'?)
10:84 'message' is not available here (available here: params, query, headers, guard, idempotencyKey, correlationId)
12:37 the list is empty (give one element at least, or leave the key out)
14:5 the fetch does not say which records (add filters: [{ key: ... }] for one record, or merge: json for all of them)
16:37 expected a list, found the number 5
18:35 expected 'json', found the text 'yaml'
18:52 the header 'te' cannot be passed on (it belongs to the connection, not to the content; leave it out)
18:62 an HTTP header cannot have this value (visible ASCII characters with blanks in between)
18:67 the header 'x' is given twice (keep one of them; case makes no difference)
18:89 'json' is no content type (write one such as application/json)
20:58 'message' is not available here (available here: params, query, headers, guard, idempotencyKey, correlationId)
20:75 a merged answer is made of many records, whose headers are not copied (take the key out; 'headers' can set some for the whole answer)
20:90 the header 'connection' cannot be passed on (it belongs to the connection, not to the content; leave it out)
20:113 expected a duration such as 30s, found the text 'soon'
22:38 'filters' is empty; it needs one entry at least
22:44 'headers' is empty; it needs one entry at least
22:78 'message' is not available here (available here: params, query, headers, guard, idempotencyKey, correlationId)
"#,
    );
}

#[test]
fn unreachable_routes() {
    check_routes(
        r#"  - match: GET /a/{id}
    fetch: { topic: items, merge: json }
  - match: { method: GET, path: "/a/{name}" }
    fetch: { topic: items, merge: json }
  - match: { path: /p, headers: { X-A: b, c: "*" } }
    produce: { topic: items }
  - match: { method: [GET, PUT], path: /p, headers: { c: "*", x-a: b } }
    listener: public
    produce: { topic: items }
  - match: GET /z
    listener: []
    fetch: { topic: items, merge: json }
  - match: GET /a/../b
    listener: [pubic]
    fetch: { topic: items, merge: json }
"#,
        r#"11:12 the route can never be reached: GET on this path goes to the route in line 9 (remove one of the two, or tell them apart by host or headers)
15:12 the route can never be reached: PUT on this path goes to the route in line 13 (remove one of the two, or tell them apart by host or headers)
15:22 this route cannot have the method 'GET' (one of POST, PUT, PATCH, DELETE)
19:15 the route can never be reached: its list of listeners is empty (name a listener, or leave the key out for all)
21:12 the route can never be reached: requests with a '..' segment are refused (remove the segment)
22:16 there is no listener 'pubic' (did you mean 'public'?)
"#,
    );
}
