//! Problems as they are printed.

use super::read;

/// Ten faults in every pass: ten problems, sorted, with their lines.
#[test]
fn ten_faults_are_ten_problems() {
    let text = r#"listeners:
  public: { address: 0.0.0.0 }
limitz: {}
limits: { headers: lots }
clusters:
  main:
    bootstrap.servers: ${BROKERS}
    sasl.password: [hunter2]
cache:
  topics:
    items: { cluster: mein }
routes:
  - match: GET /items/{id}
    fetch: { topic: items, filters: [{ key: "${params.ident}" }] }
  - match: GET /items/{name}
    fetch: { topic: items, merge: json }
  - match: PUT items
    produce: { topic: items, key: "${parms.id}" }
"#;
    let problems = read(text, &[]).expect_err("ten faults");
    assert_eq!(problems.0.len(), 10, "{problems}");
    assert_eq!(problems.to_string(), TEN);
    assert_eq!(plain(&problems.render(true)), TEN, "colours change nothing else");
}

/// `text` without the escape sequences of colours.
fn plain(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or(part, |(_, rest)| rest))
}

const TEN: &str = r#"error: expected an IP address with a port such as 0.0.0.0:8080, found the text '0.0.0.0'
 --> t.yaml:2:22
  |
2 |   public: { address: 0.0.0.0 }
  |                      ^^^^^^^

error: unknown key 'limitz'
 --> t.yaml:3:1
  |
3 | limitz: {}
  | ^^^^^^
  = help: did you mean 'limits'?

error: expected a whole number from 1 to 10000, found the text 'lots'
 --> t.yaml:4:20
  |
4 | limits: { headers: lots }
  |                    ^^^^

error: the environment variable 'BROKERS' is not set
 --> t.yaml:7:24
  |
7 |     bootstrap.servers: ${BROKERS}
  |                        ^^^^^^^^^^
  = help: set it, or give a default: ${BROKERS:-...}

error: expected a text, a number, true or false, found a list
 --> t.yaml:8:20
  |
8 |     sasl.password: ***
  |                    ^

error: there is no cluster 'mein'
  --> t.yaml:11:23
   |
11 |     items: { cluster: mein }
   |                       ^^^^
   = help: did you mean 'main'?

error: the path has no parameter 'ident'
  --> t.yaml:14:45
   |
14 |     fetch: { topic: items, filters: [{ key: "${params.ident}" }] }
   |                                             ^^^^^^^^^^^^^^^^^
   = help: its parameters: id

error: the route can never be reached: GET on this path goes to the route in line 13
  --> t.yaml:15:12
   |
15 |   - match: GET /items/{name}
   |            ^^^^^^^^^^^^^^^^^
   = help: remove one of the two, or tell them apart by host or headers

error: a path begins with '/'
  --> t.yaml:17:12
   |
17 |   - match: PUT items
   |            ^^^^^^^^^
   = help: write it as in /items/{id}

error: unknown variable 'parms'
  --> t.yaml:18:38
   |
18 |     produce: { topic: items, key: "${parms.id}" }
   |                                      ^
   = help: did you mean 'params'? available here: params, query, headers, guard, idempotencyKey, correlationId
"#;
