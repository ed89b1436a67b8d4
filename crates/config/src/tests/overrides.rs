use super::{SMALL, read};
use crate::{Override, Plan};

fn set(argument: &str) -> Override {
    Override::set(argument).expect("KEY=VALUE")
}

fn env(name: &str, value: &str) -> Override {
    Override::env(name, value).expect("our prefix")
}

fn check(one: Override, of: impl Fn(&Plan) -> String, expected: &str) {
    let shown = match read(SMALL, std::slice::from_ref(&one)) {
        Ok(plan) => of(&plan),
        Err(problems) => problems.to_string(),
    };
    assert_eq!(shown, expected, "{one:?}");
}

#[test]
fn overrides_find_their_place() {
    let property = |name: &'static str| move |plan: &Plan| plan.clusters[0].properties.get(name).cloned().unwrap_or_default();
    let address = |plan: &Plan| plan.listeners.iter().map(|l| format!("{}={}", l.name, l.address)).collect::<Vec<_>>().join(" ");
    let bytes = |plan: &Plan| plan.limits.body_bytes.to_string();
    check(set("limits.body_bytes=4KiB"), bytes, "4096");
    check(set("limits.body_bytes=4096"), bytes, "4096");
    check(set("limits={ body_bytes: 1KiB }"), bytes, "1024");
    check(env("TIDEGATE__LIMITS__BODY_BYTES", "2KiB"), bytes, "2048");
    check(env("TIDEGATE__limits__Body_Bytes", "2KiB"), bytes, "2048");
    check(set("listeners.public.address=127.0.0.1:1"), address, "public=127.0.0.1:1");
    check(set("listeners.other.address=127.0.0.1:2"), address, "other=127.0.0.1:2 public=127.0.0.1:8080");
    check(env("TIDEGATE__LISTENERS__PUBLIC__ADDRESS", "127.0.0.1:3"), address, "public=127.0.0.1:3");
    check(set("clusters.main.bootstrap.servers=k:9092"), property("bootstrap.servers"), "k:9092");
    check(set("clusters.main.linger.ms=5"), property("linger.ms"), "5");
    check(set("clusters.main.sasl.password=a: b #c"), property("sasl.password"), "a: b #c");
    check(set("clusters.main.client.id='x'"), property("client.id"), "x");
    check(set("clusters.main.client.id=${SECRET}"), property("client.id"), "hunter2");
    check(env("TIDEGATE__CLUSTERS__MAIN__BOOTSTRAP_SERVERS", "k:9092"), property("bootstrap.servers"), "k:9092");
    check(env("TIDEGATE__CLUSTERS__MAIN__SASL_PASSWORD", "007"), property("sasl.password"), "007");
    let topics =
        |plan: &Plan| plan.cache.topics.iter().map(|t| format!("{} {}", t.name, t.bootstrap)).collect::<Vec<_>>().join(", ");
    check(set("cache.topics.items.bootstrap=true"), topics, "items true");
    check(env("TIDEGATE__CACHE__TOPICS__ITEMS__BOOTSTRAP", "true"), topics, "items true");
    let policy = |plan: &Plan| plan.cache.topics[0].create.as_ref().map(|c| format!("{:?}", c.config)).unwrap_or_default();
    check(set("cache.topics.items.create.config.cleanup.policy=compact"), policy, r#"{"cleanup.policy": "compact"}"#);
    let path = |plan: &Plan| plan.routes[0].name.clone();
    check(set("routes.0.match=GET /things/{id}"), path, "GET /things/{id}");
    check(env("TIDEGATE__ROUTES__0__MATCH", "GET /things/{id}"), path, "GET /things/{id}");
}

#[test]
fn topics_with_dots_are_found_by_the_longest_name() {
    let text = SMALL.replace("    items: {}", "    items: {}\n    items.v1: {}");
    let plan = read(&text, &[set("cache.topics.items.v1.start=latest")]).expect("valid");
    let shown: Vec<_> = plan.cache.topics.iter().map(|t| format!("{} {:?}", t.name, t.start)).collect();
    assert_eq!(shown, ["items Earliest", "items.v1 Latest"]);
}

#[test]
fn later_ones_win() {
    let plan = read(SMALL, &[env("TIDEGATE__LIMITS__HEADERS", "5"), set("limits.headers=6")]).expect("valid");
    assert_eq!(plan.limits.headers, 6);
}

#[test]
fn overrides_that_match_nothing_name_their_origin() {
    let never = |_: &Plan| "a plan".to_owned();
    check(
        set("limits.body-bytes=1"),
        never,
        "error: there is no key 'body-bytes'\n--> --set limits.body-bytes\n = help: did you mean 'body_bytes'?\n",
    );
    check(
        env("TIDEGATE__LIMITZ__HEADERS", "1"),
        never,
        "error: there is no key 'LIMITZ'\n--> environment variable TIDEGATE__LIMITZ__HEADERS\n = help: did you mean 'limits'?\n",
    );
    check(set("routes.7.match=GET /"), never, "error: '7' is no element of this list\n--> --set routes.7.match\n");
    check(
        set("routes.0.match.path=/"),
        never,
        "error: there is the text 'GET /items/{id}' where a map is needed\n--> --set routes.0.match.path\n",
    );
    check(set("limits.headers.x=1"), never, "error: there is no key 'x'\n--> --set limits.headers.x\n");
    check(set("cache={ a"), never, "error: the value is not valid YAML\n--> --set cache\n");
    check(
        set("limits.headers=hunter2"),
        never,
        "error: expected a whole number from 1 to 10000, found the given value\n--> --set limits.headers\n",
    );
    assert!(Override::set("novalue").is_err() && Override::set("=x").is_err());
    assert_eq!(Override::env("TIDEGATE_ADDRESS", "x"), None);
}
