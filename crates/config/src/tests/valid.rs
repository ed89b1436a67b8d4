use std::time::Duration;

use super::{SMALL, read};
use crate::{CapabilityPlan, FetchPlan, HistoryPlan, LogFormat, LogLevel, Plan, ProducePlan, SelectPlan, StartPlan};

fn plan(text: &str) -> Plan {
    read(text, &[]).unwrap_or_else(|problems| panic!("{problems}"))
}

fn produce(plan: &Plan, index: usize) -> &ProducePlan {
    match &plan.routes[index].capability {
        CapabilityPlan::Produce(produce) => produce,
        other => panic!("{other:?}"),
    }
}

fn fetch(plan: &Plan, index: usize) -> &FetchPlan {
    match &plan.routes[index].capability {
        CapabilityPlan::Fetch(fetch) => fetch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_left_out_has_a_default() {
    let plan = plan(SMALL);
    assert_eq!(plan.listeners[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(plan.admin.map(|admin| admin.to_string()).as_deref(), Some("127.0.0.1:8081"));
    assert_eq!((plan.log.level, plan.log.format, plan.log.access), (LogLevel::Info, LogFormat::Auto, true));
    let limits = &plan.limits;
    assert_eq!((limits.header_bytes, limits.headers, limits.uri_bytes), (16 << 10, 100, 8 << 10));
    assert_eq!((limits.body_bytes, limits.connections, limits.requests), (1 << 20, 10_000, 10_000));
    assert_eq!((limits.path_segments, limits.streams_per_connection), (64, 128));
    let times = [limits.header_timeout, limits.idle_timeout, limits.request_timeout, limits.wait_max, limits.drain_timeout];
    assert_eq!(times.map(|time| time.as_secs()), [10, 75, 30, 60, 30]);
    assert!(plan.clusters[0].embedded);
    let cache = &plan.cache;
    assert_eq!(cache.directory, std::path::Path::new("/base/./data"));
    assert_eq!((cache.segment_bytes, cache.read_your_writes_timeout), (256 << 20, Duration::from_secs(5)));
    let topic = &cache.topics[0];
    assert_eq!(
        (topic.name.as_str(), topic.cluster.as_str(), topic.bootstrap, topic.start),
        ("items", "main", false, StartPlan::Earliest)
    );
    assert!(topic.create.is_none());
    assert_eq!((cache.max_bytes, cache.topic_refresh.as_secs(), cache.housekeeping_interval.as_secs()), (None, 10, 15));
    assert_eq!((topic.max_bytes, topic.linger, topic.history), (None, None, HistoryPlan::Gap));
    let route = &plan.routes[0];
    assert_eq!((route.name.as_str(), route.line, route.path.as_str()), ("GET /items/{id}", 9, "/items/{id}"));
    assert_eq!((route.listeners.as_slice(), route.methods.as_slice()), (&["public".to_owned()][..], &["GET".to_owned()][..]));
    match &fetch(&plan, 0).select {
        SelectPlan::Newest(filters) => assert_eq!(filters[0].key.as_ref().unwrap().source(), "${params.id}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn everything_can_be_said() {
    let plan = plan(
        r#"
listeners:
  public: { address: "[::1]:${PORT}" }
  internal: { address: 127.0.0.1:0 }
admin: { address: off }
log: { level: debug, format: json, access: false }
limits: { header_bytes: 32KiB, body_bytes: 4194304, wait_max: 2m, requests: "${NUMBER}0" }
clusters:
  main: { bootstrap.servers: "a:1,b:2", sasl.password: 007, linger.ms: 5, acks: all }
  local: { bootstrap.servers: embedded }
cache:
  directory: /var/lib/tidegate
  segment_bytes: 1MiB
  topics:
    items.v1:
      cluster: local
      bootstrap: true
      start: latest
      create: { partitions: 3, replication: 2, config: { cleanup.policy: compact, retention.ms: 1000 } }
    # A section without lines.
routes:
  - match: { method: [POST, PUT], path: "/files/{*rest}", host: API.example.com, headers: { X-Kind: a, X-Any: "*" } }
    listener: internal
    produce:
      topic: "logs-${params.rest}"
      cluster: main
      key: "${headers['x-user']}"
      partition: 0
      timestamp: 1700000000000
      headers: { source: "$${literal}", n: 5 }
      copy_headers: [Authorization, Content-Type]
      body_bytes: 2MiB
      timeout: 5s
  - match: { path: /all }
    listener: [public, internal]
    fetch: { topic: items.v1, cluster: local, merge: json, headers: { X-Id: "${query.id}" }, content_type: application/json, wait_max: 1s }
  - match: { method: "*", path: /items }
    produce: { topic: items.v1 }
  - match: GET /one/{id}
    fetch: { topic: items.v1, filters: [{ key: "${params.id}" }, { key: x }], headers: { X-Offset: "${message.offset}" }, copy_headers: [Trace] }
"#,
    );
    let addresses: Vec<_> = plan.listeners.iter().map(|l| format!("{} {}", l.name, l.address)).collect();
    assert_eq!(addresses, ["internal 127.0.0.1:0", "public [::1]:9090"]);
    assert_eq!(plan.admin, None);
    assert_eq!((plan.limits.header_bytes, plan.limits.body_bytes, plan.limits.requests), (32 << 10, 4 << 20, 70));
    let main = &plan.clusters[1];
    assert_eq!((main.name.as_str(), main.embedded), ("main", false));
    assert_eq!(main.properties["sasl.password"], "007", "a password is not a number");
    assert_eq!(main.properties["linger.ms"], "5");
    let topic = &plan.cache.topics[0];
    let create = topic.create.as_ref().expect("create");
    assert_eq!((create.partitions, create.replication, create.config["retention.ms"].as_str()), (3, 2, "1000"));
    let route = &plan.routes[0];
    assert_eq!(route.name, "POST,PUT /files/{*rest}");
    assert_eq!(route.host.as_deref(), Some("api.example.com"));
    assert_eq!(route.headers, [("x-any".to_owned(), None), ("x-kind".to_owned(), Some("a".to_owned()))]);
    let produced = produce(&plan, 0);
    assert_eq!((produced.topic.source(), produced.cluster.as_str()), ("logs-${params.rest}", "main"));
    assert_eq!(produced.partition.as_ref().and_then(|p| p.literal()), Some("0"));
    assert_eq!(produced.headers[1].1.literal(), Some("${literal}"));
    assert_eq!(produced.copy_headers, ["authorization", "content-type"]);
    assert_eq!((produced.body_bytes, produced.timeout), (Some(2 << 20), Some(Duration::from_secs(5))));
    assert!(matches!(fetch(&plan, 1).select, SelectPlan::MergeJson(_)));
    assert_eq!(plan.routes[1].methods, ["GET"]);
    assert_eq!(plan.routes[2].methods, ["POST", "PUT", "PATCH", "DELETE"]);
    assert_eq!(produce(&plan, 2).cluster, "local", "the cluster of the cached topic");
    assert_eq!(fetch(&plan, 3).headers[0].0, "x-offset");
}

#[test]
fn how_a_topic_of_kafka_is_kept() {
    let head = SMALL.replace("embedded", "a:1").replace("cache:\n", "cache:\n  max_bytes: 1GiB\n  topic_refresh: 1m\n");
    let hour = Duration::from_secs(3600);
    let minute = Some(Duration::from_secs(60));
    let gap = HistoryPlan::Gap;
    for (keys, expected) in [
        ("", (StartPlan::Earliest, None, minute, gap)),
        ("bootstrap: true", (StartPlan::Earliest, None, None, gap)),
        ("start: 1h, linger: 5s", (StartPlan::Back(hour), None, Some(Duration::from_secs(5)), gap)),
        ("start: 0s, max_bytes: 256MiB", (StartPlan::Back(Duration::ZERO), Some(256 << 20), minute, gap)),
        ("start: latest, history: read-through", (StartPlan::Latest, None, minute, HistoryPlan::ReadThrough)),
    ] {
        let plan = plan(&head.replace("items: {}", &format!("items: {{ {keys} }}")));
        assert_eq!((plan.cache.max_bytes, plan.cache.topic_refresh), (Some(1 << 30), Duration::from_secs(60)));
        let topic = &plan.cache.topics[0];
        assert_eq!((topic.start, topic.max_bytes, topic.linger, topic.history), expected, "{keys}");
    }
}

#[test]
fn json_is_yaml() {
    let plan = plan(r#"{"listeners": {"a": {"address": "127.0.0.1:1"}}, "log": {"access": false}, "limits": {"headers": 5}}"#);
    assert_eq!((plan.limits.headers, plan.log.access), (5, false));
}

#[test]
fn aliases_are_followed() {
    let text = "listeners:\n  a: &l { address: 127.0.0.1:0 }\n  b: *l\n";
    assert_eq!(plan(text).listeners.len(), 2);
}

#[test]
fn routes_that_differ_in_something_stand_beside_each_other() {
    let plan = plan(
        "listeners: { a: { address: 127.0.0.1:1 }, b: { address: 127.0.0.1:2 } }
clusters: { main: { bootstrap.servers: embedded } }
routes:
  - { match: POST /x, produce: { topic: t } }
  - { match: PUT /x, produce: { topic: t } }
  - { match: POST /x/, produce: { topic: t } }
  - { match: { method: POST, path: /x, host: h }, produce: { topic: t } }
  - { match: { method: POST, path: /x, headers: { k: v } }, produce: { topic: t } }
  - { match: { method: POST, path: /x, headers: { k: '*' } }, produce: { topic: t } }
  - { match: POST /y, listener: a, produce: { topic: t } }
  - { match: POST /y, listener: b, produce: { topic: t } }
",
    );
    assert_eq!(plan.routes.len(), 8);
}

#[test]
fn a_printed_plan_shows_no_secret() {
    let text = SMALL.replace("embedded }", "embedded, sasl.password: '${SECRET}', client.id: me }");
    let plan = plan(&text);
    assert_eq!(plan.clusters[0].properties["sasl.password"], "hunter2");
    let shown = format!("{plan:?}");
    assert!(!shown.contains("hunter2") && shown.contains("me"), "{shown}");
}
