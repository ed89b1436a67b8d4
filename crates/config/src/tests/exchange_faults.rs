//! Faults of exchanges, idempotency, preconditions and signing keys.

use super::exchange::with_routes;
use super::faults::check;
use super::read;

/// Checks these routes; the first of them is in line 9.
fn check_routes(routes: &str, expected: &str) {
    check(&with_routes(routes), expected);
}

#[test]
fn records() {
    check_routes(
        r#"  - match: OPTIONS /a
    exchange: { request: { topic: orders } }
  - match: POST /b
    exchange: { reply: { topic: r } }
  - match: POST /c/{id}
    exchange:
      request: { topic: "a b", cluster: main, key: "${params.x}", copy_headers: [te, ":status", ":path"], body_bytes: 1 }
      reply: { topic: "r-${params.id}", headers: { te: x }, copy_headers: ["a b"], content_type: x, body_bytes: 0 }
      timeout: 0s
      body_bytes: 2GiB
      pending_max: 0
      wait_max: soon
  - match: POST /d
    exchange: { request: { topic: orders }, reply: { topic: order, cluster: min } }
  - match: POST /e
    exchange: { request: { topic: orders }, reply: { topic: orders } }
  - match: POST /f
    exchange: { request: { topic: items }, reply: { topic: "x y", cluster: [a] } }
  - match: POST /g
    produce: { topic: orders, copy_headers: [":path"] }
  - match: POST /h
    fetch: { topic: orders, merge: json }
    exchange: { request: { topic: orders } }
"#,
        r#"9:12 this route cannot have the method 'OPTIONS' (one of GET, POST, PUT, PATCH, DELETE)
12:5 the key 'request' is missing in routes[1].exchange (request: The request record: its value is the body of the request.)
15:25 'a b' is no name for a topic (1 to 249 of a to z, A to Z, 0 to 9, '.', '_' and '-')
15:52 the path has no parameter 'x' (its parameters: id)
15:82 the header 'te' cannot be passed on (it belongs to the connection, not to the content; leave it out)
15:86 a client could forge the record header ':status', which tells the gateway what is whose (leave it out; the gateway sets it itself where it is due)
15:86 there is no ':status' of a request (one of :method, :path, :authority, :scheme)
15:107 unknown key 'body_bytes' in routes[2].exchange.request (known keys: topic, cluster, key, partition, timestamp, headers, copy_headers)
16:23 the reply topic is looked up in the cache, so that it cannot depend on the request (write the name of one topic, without ${...})
16:52 the header 'te' cannot be passed on (it belongs to the connection, not to the content; leave it out)
16:76 'a b' is no name for an HTTP header (letters, digits and !#$%&'*+-.^_`|~)
16:98 'x' is no content type (write one such as application/json)
16:113 '0' is out of range (from 1B to 1GiB)
17:16 with no time at all, nothing would be answered (give 1ms at least)
18:19 '2GiB' is out of range (from 1B to 1GiB)
19:20 expected a whole number from 1 to 10000000, found the number 0
20:17 expected a duration such as 30s, found the text 'soon'
22:61 the topic 'order' is not cached, but one of almost the same name is (did you mean 'orders'? If both are meant, declare this one in cache.topics, too)
22:77 there is no cluster 'min' (did you mean 'main'?)
24:61 requests and replies are in the same topic, so that each request would be its own reply (let the worker write its replies to another topic)
26:60 'x y' is no name for a topic (1 to 249 of a to z, A to Z, 0 to 9, '.', '_' and '-')
26:76 expected a text, found a list
28:46 ':path' is no name for an HTTP header (letters, digits and !#$%&'*+-.^_`|~)
31:5 a route has one capability, this one has 'fetch' and 'exchange' (make it a route for each)
"#,
    );
}

#[test]
fn topics_that_must_be_known() {
    check_routes(
        r#"  - match: PUT /a/{t}
    exchange: { request: { topic: "${params.t}", cluster: main }, reply: { topic: r }, async: { location: "/r/${correlationId}" } }
  - match: PUT /b/{t}
    exchange: { request: { topic: "${params.t}", cluster: main }, idempotency: {} }
  - match: PUT /c/{t}
    produce: { topic: "${params.t}", cluster: main, key: k, idempotency: {}, require_match: true }
  - match: POST /d
    produce: { topic: orders, require_match: true }
  - match: "* /e"
    produce: { topic: orders, require_match: true }
  - match: { path: /f }
    produce: { topic: orders, require_match: true, key: [] }
"#,
        r#"10:35 the topic depends on the request, but 'async' looks requests up in the cache (write the name of one topic, without ${...})
12:35 the topic depends on the request, but 'idempotency' looks requests up in the cache (write the name of one topic, without ${...})
14:23 the topic depends on the request, but 'idempotency' looks requests up in the cache (write the name of one topic, without ${...})
14:23 the topic depends on the request, but 'require_match' looks the current record up in the cache (write the name of one topic, without ${...})
16:31 a precondition compares with the current record of a key, and there is no key (add 'key', or leave 'require_match' out)
16:31 no method of this route has preconditions (only PUT, PATCH, DELETE have; match one of them, or leave it out)
18:31 a precondition compares with the current record of a key, and there is no key (add 'key', or leave 'require_match' out)
20:57 expected a text, found a list
"#,
    );
}

#[test]
fn locations() {
    let location = |text: &str| {
        format!(
            "  - match: POST /o/{{id}}/{{*rest}}\n    exchange: {{ request: {{ topic: orders }}, reply: {{ topic: r }}, async: {{ location: \"{text}\" }} }}\n"
        )
    };
    for (text, expected) in [
        ("", "10:86 a location is an absolute path (begin it with '/', as in /orders/${correlationId})"),
        ("orders/${correlationId}", "10:86 a location is an absolute path (begin it with '/', as in /orders/${correlationId})"),
        ("http://h/${correlationId}", "10:86 a location is an absolute path (begin it with '/', as in /orders/${correlationId})"),
        ("${correlationId}", "10:86 a location is an absolute path (begin it with '/', as in /orders/${correlationId})"),
        (
            "/o?cid=${correlationId}",
            "10:85 a path pattern has neither query nor fragment (leave out what begins with '?' or '#')",
        ),
        ("/o#${correlationId}", "10:85 a path pattern has neither query nor fragment (leave out what begins with '?' or '#')"),
        ("/o", "10:86 the location has no ${correlationId} (add it, as in /orders/${correlationId})"),
        ("/${correlationId}/${correlationId}", "10:104 the location has more than one ${correlationId} (keep one of them)"),
        (
            "/${params.id}${correlationId}",
            "10:99 nothing stands between two expressions, so that a path could not be taken apart again (put some text between them, such as '/' or ';cid=')",
        ),
        ("/${params.ide}/${correlationId}", "10:87 the path has no parameter 'ide' (did you mean 'id'?)"),
        ("/${params.x}/${correlationId}", "10:87 the path has no parameter 'x' (its parameters: id, rest)"),
        (
            "/${params.rest}/${correlationId}",
            "10:87 '{*rest}' may be several segments of the path, which a location could not be told by (leave it out)",
        ),
        (
            "/${params.id}/${params.id}/${correlationId}",
            "10:85 the parameter 'id' is given twice (give each parameter a name of its own)",
        ),
        (
            "/${query.id}/${correlationId}",
            "10:87 'query.id' cannot stand in a location (a location is made of text, ${params.NAME} and one ${correlationId})",
        ),
        (
            "/${params['id']}/${correlationId}",
            "10:87 'params['id']' cannot stand in a location (a location is made of text, ${params.NAME} and one ${correlationId})",
        ),
        (
            "/${params.}/${correlationId}",
            "10:87 'params.' cannot stand in a location (a location is made of text, ${params.NAME} and one ${correlationId})",
        ),
        (
            "/${correlationid}",
            "10:87 'correlationid' cannot stand in a location (a location is made of text, ${params.NAME} and one ${correlationId})",
        ),
        ("/${correlationId", "10:87 this '${' has no '}' (a location is made of text, ${params.NAME} and one ${correlationId})"),
        (
            "/$${x}/${correlationId}",
            "10:88 'x' cannot stand in a location (a location is made of text, ${params.NAME} and one ${correlationId})",
        ),
        (
            "/{id}/${correlationId}",
            "10:87 a location has no braces but those of ${...} (a location is made of text, ${params.NAME} and one ${correlationId})",
        ),
        (
            "/ü/}/${correlationId}",
            "10:89 a location has no braces but those of ${...} (a location is made of text, ${params.NAME} and one ${correlationId})",
        ),
        ("/a b/${correlationId}", "10:85 a path pattern has no blanks or control characters (write it as in /items/{id})"),
        (
            "/a%20b/${correlationId}",
            "10:85 a path pattern is not percent-encoded (write the characters themselves; requests are decoded first)",
        ),
        ("//${correlationId}", "10:85 the path has an empty segment (write one '/' between two segments)"),
        (
            "/../${correlationId}",
            "10:85 the route can never be reached: requests with a '..' segment are refused (remove the segment)",
        ),
        (
            "/${params.id}-${correlationId}",
            "10:100 from such a segment of a path, the correlation id could not be told with certainty (let ${correlationId} be the last of its segment, behind a text such as ';cid=' or '/')",
        ),
        (
            "/${params.id}_v1.${correlationId}",
            "10:103 from such a segment of a path, the correlation id could not be told with certainty (let ${correlationId} be the last of its segment, behind a text such as ';cid=' or '/')",
        ),
        (
            "/${correlationId};of=${params.id}",
            "10:107 from such a segment of a path, the correlation id could not be told with certainty (let ${correlationId} be the last of its segment, behind a text such as ';cid=' or '/')",
        ),
        ("/${SECRET}/${hunter}", "10:85 with the given values filled in, this is no valid template"),
        ("/${SECRET}", "10:85 with the given values filled in, this is no valid template"),
        ("/${SECRET} /${correlationId}", "10:85 with the given values filled in, this is no valid path"),
    ] {
        check_routes(&location(text), &format!("{expected}\n"));
    }
}

#[test]
fn locations_that_are_taken() {
    check_routes(
        r#"  - match: GET /r/{x}
    fetch: { topic: items, merge: json }
  - match: POST /a
    exchange: { request: { topic: orders }, reply: { topic: r }, async: { location: "/r/${correlationId}" } }
  - match: GET /s/{x}
    exchange: { request: { topic: orders }, reply: { topic: r }, async: { location: "/s/${correlationId}" } }
  - match: POST /b
    exchange: { request: { topic: orders }, reply: { topic: r }, async: { location: "/b/${correlationId}" } }
  - match: { method: POST, path: /c, headers: { x: y } }
    exchange: { request: { topic: orders }, reply: { topic: r }, async: { location: "/b/${correlationId}" } }
  - match: GET /b/{y}
    fetch: { topic: items, merge: json }
  - match: POST /d/{correlationId}
    exchange: { request: { topic: orders }, reply: { topic: r }, async: { location: "/d/${correlationId}" } }
  - match: POST /e
    exchange: { request: { topic: orders }, async: { location: "/e/${correlationId}", retry_after: x } }
  - match: POST /f
    exchange: { request: { topic: orders }, async: { } }
"#,
        r#"12:85 the location can never be reached: GET on this path goes to the route in line 9 (give each a path of its own)
14:85 the location can never be reached: GET on this path goes to the route in line 13 (give each a path of its own)
18:85 the location can never be reached: GET on this path goes to the route in line 15 (give each a path of its own)
19:12 the route can never be reached: GET on this path goes to the route in line 15 (remove one of the two, or tell them apart by host or headers)
21:12 the parameter 'correlationId' is that of the location (give it another name)
24:45 without 'reply' there is nothing to fetch later (add 'reply', or leave 'async' out)
24:100 expected a duration such as 30s, found the text 'x'
26:45 the key 'location' is missing in routes[8].exchange.async (location: The path of the reply, with one `${correlationId}`: `/orders/${params.id};cid=${correlationId}`.)
"#,
    );
}

/// A reply is fetched by another request than the exchange's own, which has other parameters.
#[test]
fn what_a_location_does_not_tell() {
    check_routes(
        r#"  - match: POST /a/{user}/{id}
    exchange:
      request: { topic: orders, key: "${params.id}/${query.q}" }
      reply: { topic: r, headers: { X-User: "${params.user}", X-Id: "${message.key}/${params.id}", x: "${EXPRESSION}" } }
      async: { location: "/a/${params.user}/${correlationId}" }
      identity: "${params.id + query.user}"
  - match: POST /b/{user}/{id}
    exchange:
      request: { topic: orders }
      reply: { topic: r, headers: { x-id: "${params.id}" } }
      identity: "${params.id + query.user}"
"#,
        r#"12:69 at the location there is no parameter 'id', so that this has no value there (write ${params.id} into 'async.location')
12:103 with the given values filled in, this is no valid template
14:17 a location has no query, so that nobody could fetch a reply there (make the identity from headers or from parameters of the location)
14:17 at the location there is no parameter 'id', so that this has no value there (write ${params.id} into 'async.location')
"#,
    );
}

#[test]
fn names() {
    check_routes(
        r#"  - match: POST /a
    exchange: { request: { topic: orders }, names: zila }
  - match: POST /b
    exchange: { request: { topic: orders }, names: { correlation_id: x, reply_to: X, status: "" } }
  - match: POST /c
    exchange: { request: { topic: orders }, names: { correlation_id: ":STATUS", reply_to: Tidegate-Request-Digest, statsu: x } }
  - match: POST /d
    exchange: { request: { topic: orders }, names: { status: content-type, reply_to: tidegate-claim } }
  - match: POST /e
    exchange: { request: { topic: orders }, names: [] }
"#,
        r#"10:52 expected one of tidegate, zilla, found the text 'zila' (did you mean 'zilla'?)
12:83 'correlation_id' and 'reply_to' have the same name (give each a name of its own; case makes no difference)
12:94 '' is no name for a record header (write one such as my-correlation-id)
14:45 'correlation_id' and 'status' have the same name (give each a name of its own; case makes no difference)
14:91 the record header 'Tidegate-Request-Digest' means something else (take another name)
14:116 unknown key 'statsu' in routes[2].exchange.names (did you mean 'status'?)
16:62 the record header 'content-type' means something else (take another name)
16:86 the record header 'tidegate-claim' means something else (take another name)
18:52 expected one of tidegate, zilla, or a map, found a list
"#,
    );
}

#[test]
fn forged_headers() {
    check_routes(
        r#"  - match: POST /a
    exchange: { request: { topic: orders, headers: { Tidegate-Reply-To: x, tidegate-request-digest: x, y: z }, copy_headers: [X, TIDEGATE-CORRELATION-ID] } }
  - match: POST /b
    exchange: { request: { topic: orders, headers: { tidegate-reply-to: x, "Zilla:Reply-To": x }, copy_headers: [tidegate-claim] }, names: zilla }
  - match: POST /c
    exchange: { request: { topic: orders, copy_headers: [mine, "${SECRET}"] }, names: { correlation_id: Mine, reply_to: HUNTER2 } }
  - match: POST /d
    produce: { topic: orders, copy_headers: [tidegate-correlation-id] }
  - match: POST /e
    produce: { topic: orders, copy_headers: [tidegate-correlation-id, tidegate-request-digest], idempotency: {} }
"#,
        r#"10:54 a client could forge the record header 'Tidegate-Reply-To', which tells the gateway what is whose (leave it out; the gateway sets it itself where it is due)
10:76 a client could forge the record header 'tidegate-request-digest', which tells the gateway what is whose (leave it out; the gateway sets it itself where it is due)
10:130 a client could forge the record header 'TIDEGATE-CORRELATION-ID', which tells the gateway what is whose (leave it out; the gateway sets it itself where it is due)
12:76 a client could forge the record header 'Zilla:Reply-To', which tells the gateway what is whose (leave it out; the gateway sets it itself where it is due)
12:114 a client could forge the record header 'tidegate-claim', which tells the gateway what is whose (leave it out; the gateway sets it itself where it is due)
14:58 a client could forge the record header 'mine', which tells the gateway what is whose (leave it out; the gateway sets it itself where it is due)
14:64 a client could forge the record header the value of '${SECRET}', which tells the gateway what is whose (leave it out; the gateway sets it itself where it is due)
18:46 a client could forge the record header 'tidegate-correlation-id', which tells the gateway what is whose (leave it out; the gateway sets it itself where it is due)
18:71 a client could forge the record header 'tidegate-request-digest', which tells the gateway what is whose (leave it out; the gateway sets it itself where it is due)
"#,
    );
}

#[test]
fn idempotency() {
    check_routes(
        r#"  - match: POST /a
    produce: { topic: orders, identity: "${message.key}", idempotency: { header: a, key: "${idempotencyKey}", required: false } }
  - match: POST /b
    produce: { topic: orders, identity: "${correlationId}", idempotency: { header: "a b", compare_headers: [x, te], mode: exactlyonce } }
  - match: POST /c
    produce: { topic: orders, idempotency: { claims: c, required: maybe, key: "${params.x}" } }
  - match: POST /d
    exchange: { request: { topic: orders }, reply: { topic: r }, idempotency: { mode: exactly-once, claims: r } }
  - match: POST /e
    exchange: { request: { topic: orders }, reply: { topic: r }, idempotency: { mode: exactly-once, claims: orders } }
  - match: POST /f
    exchange: { request: { topic: orders }, idempotency: { mode: exactly-once, claims: "a b" } }
"#,
        r#"10:44 'message' is not available here (available here: params, query, headers, guard)
10:74 the key comes from 'header' or from 'key', not from both (keep one of them; a template may use headers['...'])
10:93 'idempotencyKey' is not available here (available here: params, query, headers, guard)
10:111 with 'key' there is no header to require (leave it out; a template that lacks something is refused anyway)
12:44 'correlationId' is not available here (available here: params, query, headers, guard)
12:84 'a b' is no name for an HTTP header (letters, digits and !#$%&'*+-.^_`|~)
12:112 the header 'te' cannot be passed on (it belongs to the connection, not to the content; leave it out)
12:123 expected one of local-and-log, exactly-once, found the text 'exactlyonce' (did you mean 'exactly-once'?)
14:46 only exactly-once has claims (add mode: exactly-once, or leave 'claims' out)
14:67 expected true or false, found the text 'maybe'
14:79 the path has no parameter 'x' (write {x} into the path of the match)
16:109 the claims topic 'r' has the requests or the replies already (claims need a topic of their own for each request topic; without 'claims' it has that one's name and -claims)
18:109 the claims topic 'orders' has the requests or the replies already (claims need a topic of their own for each request topic; without 'claims' it has that one's name and -claims)
20:88 the claims topic 'a b' is no name for a topic (claims: 1 to 249 of a to z, A to Z, 0 to 9, '.', '_' and '-')
"#,
    );
    let long = "x".repeat(245);
    check_routes(
        &format!("  - match: POST /a\n    produce: {{ topic: {long}, cluster: main, idempotency: {{ mode: exactly-once }} }}\n"),
        r#"10:285 the default of 'claims' is no name for a topic (claims: 1 to 249 of a to z, A to Z, 0 to 9, '.', '_' and '-')
"#,
    );
}

#[test]
fn exactly_once_reads_what_is_committed() {
    let route = "  - { match: POST /a, produce: { topic: orders, idempotency: { mode: exactly-once } } }\n";
    let given = with_routes(route)
        .replace("main: { bootstrap.servers: a:1 }", "main: { bootstrap.servers: a:1, isolation.level: read_uncommitted }");
    // The tests' own list of properties does not have this one.
    let expected = "2:45 there is no Kafka property 'isolation.level'\n9:70 the cluster 'main' has isolation.level read_uncommitted (exactly-once goes by what transactions have \
                    committed: take the property out)\n";
    check(&given, expected);
}

/// One way through the cluster for each request topic, and no other topic's.
#[test]
fn claims() {
    check_routes(
        r#"  - match: POST /a
    produce: { topic: orders, idempotency: { mode: exactly-once, claims: c } }
  - match: POST /b
    produce: { topic: orders, idempotency: { mode: exactly-once } }
  - match: POST /c
    produce: { topic: other, cluster: main, idempotency: { mode: exactly-once, claims: c } }
  - match: POST /d
    exchange: { request: { topic: orders }, names: zilla, idempotency: { mode: exactly-once, claims: c } }
  - match: POST /e
    produce: { topic: "${SECRET}", cluster: main, idempotency: { mode: exactly-once, claims: x } }
  - match: POST /f
    exchange: { request: { topic: more, cluster: main }, reply: { topic: x } }
  - match: POST /g
    produce: { topic: "${SECRET}", cluster: main, idempotency: { mode: exactly-once } }
  - match: POST /h
    produce: { topic: items, idempotency: { mode: exactly-once, claims: c } }
"#,
        r#"12:31 the claims for this request topic go elsewhere in line 10, so that neither would know of the other (write the same 'claims' in both)
14:88 the claims topic 'c' is taken for another request topic, in line 10 (claims need a topic of their own for each request topic; without 'claims' it has that one's name and -claims)
18:94 the claims topic has the records of another route (claims need a topic of their own for each request topic; without 'claims' it has that one's name and -claims)
22:51 the claims for this request topic go elsewhere in line 18, so that neither would know of the other (write the same 'claims' in both)
"#,
    );
}

#[test]
fn signing_keys() {
    for (signing, expected) in [
        ("{ keys: [] }", "2:18 the list is empty (give one element at least, or leave the key out)"),
        ("{}", "2:1 the key 'keys' is missing in signing (keys: Secrets of 16 bytes or more, such as `${TIDEGATE_SIGNING_KEY}`. The first one signs, all of them verify.)"),
        ("{ keys: [hunter2-hunter2] }", "2:19 a signing key has 16 bytes or more; this one is shorter (make one with: openssl rand -base64 32)"),
        ("{ keys: [hunter2-hunter2-hunter2, '${SECRET}', ~] }", "2:44 a signing key has 16 bytes or more; this one is shorter (make one with: openssl rand -base64 32)
2:57 expected a text, a number, true or false, found nothing"),
        ("{ keys: hunter2 }", "2:18 expected a list, found a single value"),
        ("{ keys: 12345 }", "2:18 expected a list, found a single value"),
        ("{ keys: { hunter2: 1 } }", "2:18 expected a list, found a map"),
        ("{ hunter2 }", "2:1 the key 'keys' is missing in signing (keys: Secrets of 16 bytes or more, such as `${TIDEGATE_SIGNING_KEY}`. The first one signs, all of them verify.)
2:12 unknown key in signing (known keys: keys)"),
        ("hunter2", "2:10 expected a map, found a single value"),
        ("[hunter2]", "2:10 expected a map, found a list"),
        ("{ keys: [{ a: hunter2 }] }", "2:19 expected a text, a number, true or false, found a map"),
    ] {
        let text = format!("listeners: {{ a: {{ address: 127.0.0.1:1 }} }}\nsigning: {signing}\n");
        check(&text, &format!("{expected}\n"));
        let shown = read(&text, &[]).expect_err("faults").to_string();
        assert!(!shown.contains("hunter2") && !shown.contains("12345"), "{shown}");
    }
    let below = "listeners: { a: { address: 127.0.0.1:1 } }\nsigning:\n  keys:\n    - hunter2\n    - [hunter2]\n";
    let shown = read(below, &[]).expect_err("faults").to_string();
    assert!(shown.contains("t.yaml:4:7") && shown.contains("t.yaml:5:7") && !shown.contains("hunter2"), "{shown}");
}
