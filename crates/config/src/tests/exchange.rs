//! Exchanges, idempotency, preconditions: documents that are in order.

use std::time::Duration;

use super::read;
use crate::{
    CapabilityPlan, ExchangePlan, IdempotencyMode, IdempotencyPlan, IdempotencySource, LocationPiece, Plan, ProducePlan,
    RecordNamesPlan,
};

/// Two clusters, a few topics, and these routes.
pub(super) fn with_routes(routes: &str) -> String {
    format!(
        "\
listeners: {{ public: {{ address: 127.0.0.1:8080 }} }}
clusters: {{ main: {{ bootstrap.servers: a:1 }}, local: {{ bootstrap.servers: embedded }} }}
cache:
  topics:
    orders: {{ cluster: main }}
    declared-claims: {{ cluster: main, create: {{ partitions: 3 }} }}
    items: {{ cluster: local }}
routes:
{routes}"
    )
}

fn plan(text: &str) -> Plan {
    read(text, &[]).unwrap_or_else(|problems| panic!("{problems}"))
}

fn exchange(plan: &Plan, index: usize) -> &ExchangePlan {
    match &plan.routes[index].capability {
        CapabilityPlan::Exchange(exchange) => exchange,
        other => panic!("{other:?}"),
    }
}

fn produce(plan: &Plan, index: usize) -> &ProducePlan {
    match &plan.routes[index].capability {
        CapabilityPlan::Produce(produce) => produce,
        other => panic!("{other:?}"),
    }
}

fn idempotency(request: &ProducePlan) -> &IdempotencyPlan {
    request.idempotency.as_ref().expect("idempotency")
}

/// `cluster/topic` of all that is cached, in order; with a `+` what was added.
fn cached(plan: &Plan) -> Vec<String> {
    let shown = |t: &crate::TopicPlan| format!("{}/{}{}", t.cluster, t.name, if t.bootstrap { "+" } else { "" });
    let mut topics: Vec<String> = plan.cache.topics.iter().map(shown).collect();
    topics.sort();
    topics
}

/// What `with_routes` declares.
const DECLARED: [&str; 3] = ["local/items", "main/declared-claims", "main/orders"];

#[test]
fn what_an_exchange_leaves_out_has_a_default() {
    let plan = plan(&with_routes(
        "  - match: { path: /orders }
    exchange: { request: { topic: orders }, reply: { topic: replies } }
  - match: POST /events
    exchange: { request: { topic: '${headers.kind}', cluster: main } }
",
    ));
    assert_eq!((plan.limits.pending_exchanges, plan.signing.is_none(), plan.claims.len()), (50_000, true, 0));
    assert_eq!(plan.routes[0].methods, ["GET", "POST", "PUT", "PATCH", "DELETE"]);
    let both = exchange(&plan, 0);
    assert_eq!((both.timeout, both.wait_max, both.pending_max, both.retry_after), (None, None, None, Duration::from_secs(1)));
    assert_eq!((both.location.is_none(), &both.names), (true, &RecordNamesPlan::tidegate()));
    let request = &both.request;
    assert_eq!((request.cluster.as_str(), request.caches, request.require_match), ("main", true, false));
    assert!(request.identity.is_none() && request.idempotency.is_none() && request.body_bytes.is_none());
    let reply = both.reply.as_ref().expect("a reply");
    assert_eq!((reply.topic.as_str(), reply.cluster.as_str(), reply.body_bytes), ("replies", "main", 1 << 20));
    assert!(reply.content_type.is_none() && reply.headers.is_empty() && reply.copy_headers.is_empty());
    let one_way = exchange(&plan, 1);
    assert!(one_way.reply.is_none() && !one_way.request.caches, "nothing is looked up");
    assert_eq!(cached(&plan), ["local/items", "main/declared-claims", "main/orders", "main/replies+"]);
}

#[test]
fn all_of_an_exchange_can_be_said() {
    let text = with_routes(
        r#"  - match: POST /shops/{shop}/orders/{id}
    exchange:
      request:
        topic: commands
        cluster: main
        key: "${params.id}"
        partition: 1
        timestamp: 5
        headers: { by: "${idempotencyKey}" }
        copy_headers: [":METHOD", ":path", ":authority", ":scheme", X-Trace]
      reply:
        topic: items
        cluster: local
        copy_headers: [X-Total]
        headers: { X-Key: "${message.key}" }
        content_type: application/json
        body_bytes: 2MiB
      async: { location: "/shops/${params.shop}/o-${ params.id };cid=${correlationId}.json", retry_after: 3s }
      identity: "${headers['x-user']}"
      idempotency: { header: X-Request-Key, required: true, mode: exactly-once, compare_headers: [X-Kind], claims: declared-claims }
      names: { correlation_id: cid, reply_to: to }
      timeout: 5s
      wait_max: 0s
      body_bytes: 3MiB
      pending_max: 7
"#,
    );
    let plan = plan(&text.replace(
        "routes:",
        "signing: { keys: [\"${SECRET}-and-${SECRET}\", 0123456789abcdef] }\nlimits: { pending_exchanges: 9 }\nroutes:",
    ));
    assert_eq!(plan.limits.pending_exchanges, 9);
    let signing = plan.signing.as_ref().expect("signing");
    assert_eq!(signing.keys, [b"hunter2-and-hunter2".to_vec(), b"0123456789abcdef".to_vec()]);
    let all = exchange(&plan, 0);
    let request = &all.request;
    assert_eq!((request.topic.literal(), request.cluster.as_str(), request.caches), (Some("commands"), "main", true));
    assert_eq!(request.copy_headers, [":method", ":path", ":authority", ":scheme", "x-trace"]);
    assert_eq!(request.identity.as_ref().map(|identity| identity.source()), Some("${headers['x-user']}"));
    assert_eq!((request.body_bytes, request.timeout), (Some(3 << 20), Some(Duration::from_secs(5))));
    let same = idempotency(request);
    assert_eq!((same.mode, same.claims.as_deref()), (IdempotencyMode::ExactlyOnce, Some("declared-claims")));
    assert_eq!(same.compare_headers, ["x-kind"]);
    match &same.source {
        IdempotencySource::Header { name, required } => assert_eq!((name.as_str(), *required), ("x-request-key", true)),
        other => panic!("{other:?}"),
    }
    let reply = all.reply.as_ref().expect("a reply");
    assert_eq!((reply.topic.as_str(), reply.cluster.as_str(), reply.body_bytes), ("items", "local", 2 << 20));
    assert_eq!((reply.headers[0].0.as_str(), reply.copy_headers[0].as_str()), ("x-key", "X-Total"));
    assert_eq!(reply.content_type.as_deref(), Some("application/json"));
    let location = all.location.as_ref().expect("a location");
    assert_eq!(location.pattern, "/shops/{shop}/o-{id};cid={correlationId}.json");
    let text = |text: &str| LocationPiece::Text(text.into());
    let param = |name: &str| LocationPiece::Param(name.into());
    let (cid, json) = (LocationPiece::CorrelationId, text(".json"));
    assert_eq!(location.pieces, [text("/shops/"), param("shop"), text("/o-"), param("id"), text(";cid="), cid, json]);
    assert_eq!(all.retry_after, Duration::from_secs(3));
    assert_eq!((all.timeout, all.wait_max, all.pending_max), (request.timeout, Some(Duration::ZERO), Some(7)));
    let names = RecordNamesPlan { correlation_id: "cid".into(), reply_to: "to".into(), status: ":status".into() };
    assert_eq!(all.names, names);
    let [claims] = plan.claims.as_slice() else { panic!("{:?}", plan.claims) };
    let of = [&claims.cluster, &claims.topic, &claims.target].map(String::as_str);
    assert_eq!(of, ["main", "declared-claims", "commands"]);
    assert_eq!(claims.create.as_ref().map(|create| create.partitions), Some(3));
    assert_eq!(cached(&plan), ["local/items", "main/commands+", "main/declared-claims", "main/orders"]);
}

#[test]
fn names_have_profiles() {
    for (names, expected) in [
        ("", ["tidegate-correlation-id", "tidegate-reply-to", ":status"]),
        (", names: tidegate", ["tidegate-correlation-id", "tidegate-reply-to", ":status"]),
        (", names: zilla", ["zilla:correlation-id", "zilla:reply-to", ":status"]),
        (", names: {}", ["tidegate-correlation-id", "tidegate-reply-to", ":status"]),
        (", names: { status: code }", ["tidegate-correlation-id", "tidegate-reply-to", "code"]),
    ] {
        let route = format!("  - {{ match: POST /x, exchange: {{ request: {{ topic: orders }}{names} }} }}\n");
        let plan = plan(&with_routes(&route));
        let names = &exchange(&plan, 0).names;
        assert_eq!([names.correlation_id.as_str(), &names.reply_to, &names.status], expected, "{route}");
    }
}

/// Which topics come into the cache, whether the route has its topic there, and the claims topic.
#[test]
fn what_is_looked_up_is_cached() {
    let on = |cluster: &str, topic: &str, more: &str| format!("{{ topic: {topic}, cluster: {cluster}{more} }}");
    let exactly = ", idempotency: { mode: exactly-once }";
    let later = ", async: { location: '/r/${correlationId}' }";
    let exchange =
        |cluster, more: &str| format!("exchange: {{ request: {}, reply: {{ topic: r }}{more} }}", on(cluster, "q", ""));
    let produce = |cluster, topic, more: &str| format!("produce: {}", on(cluster, topic, more));
    for (capability, added, caches, claims) in [
        (exchange("main", ""), vec!["main/r+"], false, None),
        (exchange("main", later), vec!["main/q+", "main/r+"], true, None),
        (exchange("main", ", idempotency: {}"), vec!["main/q+", "main/r+"], true, None),
        (exchange("main", exactly), vec!["main/q+", "main/r+"], true, Some("main/q-claims")),
        (exchange("local", exactly), vec!["local/q+", "local/r+"], true, None),
        (produce("main", "q", ", key: k"), vec![], false, None),
        (produce("main", "orders", ", key: k"), vec![], true, None),
        (produce("local", "orders", ", key: k"), vec![], false, None),
        (produce("main", "q", ", key: k, require_match: true"), vec!["main/q+"], true, None),
        (produce("local", "orders", ", key: k, require_match: true"), vec!["local/orders+"], true, None),
        (produce("main", "q", ", idempotency: { key: '${query.k}' }"), vec!["main/q+"], true, None),
        (produce("main", "orders", exactly), vec![], true, Some("main/orders-claims")),
    ] {
        let plan = plan(&with_routes(&format!("  - match: PUT /x\n    {capability}\n")));
        let mut expected: Vec<&str> = DECLARED.into_iter().chain(added).collect();
        expected.sort_unstable();
        assert_eq!(cached(&plan), expected, "{capability}");
        let request = match &plan.routes[0].capability {
            CapabilityPlan::Exchange(exchange) => &exchange.request,
            _ => self::produce(&plan, 0),
        };
        let told = plan.claims.first().map(|one| format!("{}/{}", one.cluster, one.topic));
        assert_eq!((request.caches, told.as_deref()), (caches, claims), "{capability}");
        let own = request.idempotency.as_ref().and_then(|same| same.claims.as_deref());
        assert_eq!(own, claims.and_then(|claims| claims.split_once('/')).map(|(_, topic)| topic), "{capability}");
    }
}

/// Every topic once, and a route knows of topics that a later one brings.
#[test]
fn routes_share_topics() {
    let plan = plan(&with_routes(
        "  - { match: PUT /a, produce: { topic: q, cluster: main, key: k } }
  - { match: POST /b, exchange: { request: { topic: q, cluster: main }, reply: { topic: r }, idempotency: { mode: exactly-once } } }
  - { match: POST /c, exchange: { request: { topic: q, cluster: main }, reply: { topic: r }, idempotency: { mode: exactly-once } } }
",
    ));
    assert_eq!(cached(&plan), ["local/items", "main/declared-claims", "main/orders", "main/q+", "main/r+"]);
    assert!(produce(&plan, 0).caches);
    assert_eq!(plan.claims.len(), 1);
    assert_eq!(idempotency(&exchange(&plan, 2).request).claims.as_deref(), Some("q-claims"));
}

#[test]
fn a_key_may_be_made_by_a_template() {
    let plan = plan(&with_routes(
        "  - { match: 'POST /a/{id}', produce: { topic: orders, identity: me, idempotency: { key: '${params.id}' } } }\n",
    ));
    let request = produce(&plan, 0);
    assert_eq!(request.identity.as_ref().and_then(|identity| identity.literal()), Some("me"));
    let same = idempotency(request);
    assert_eq!((same.mode, same.compare_headers.len()), (IdempotencyMode::LocalAndLog, 0));
    assert!(matches!(&same.source, IdempotencySource::Key(key) if key.source() == "${params.id}"), "{same:?}");
}

#[test]
fn locations_stand_beside_other_routes() {
    let later = "exchange: { request: { topic: orders }, reply: { topic: r }, async: { location";
    let plan = plan(&with_routes(&format!(
        "  - {{ match: 'POST /orders/{{id}}', {later}: '/orders/${{params.id}};cid=${{correlationId}}' }} }} }}
  - {{ match: 'GET /orders/{{id}}', {later}: '/replies/${{correlationId}}' }} }} }}
  - {{ match: {{ method: PUT, path: /x, host: h }}, {later}: '/replies/${{correlationId}}' }} }} }}
  - {{ match: 'POST /replies/{{id}}', {later}: '/${{params.id}}/${{correlationId}}/' }} }} }}
  - {{ match: 'POST /a/{{id}}.{{kind}}', {later}: '/a/${{params.id}}.${{params.kind}}~${{correlationId}}' }} }} }}
"
    )));
    assert_eq!(plan.routes.len(), 5);
}

#[test]
fn a_printed_plan_shows_no_signing_key() {
    let text = with_routes("  []").replace("routes:", "signing: { keys: [hunter2-hunter2-hunter2] }\nroutes:");
    let plan = plan(&text);
    assert_eq!(plan.signing.as_ref().map(|signing| signing.keys.len()), Some(1));
    let shown = format!("{plan:?}");
    let bytes = format!("{:?}", b"hunter2").trim_matches(['[', ']']).to_owned();
    assert!(!shown.contains("hunter2") && !shown.contains(&bytes) && shown.contains("SigningPlan"), "{shown}");
}
