//! The examples with exchanges, with the workers that lie beside them, on both kinds of cluster.

use std::process::Command;
use std::time::Duration;

use integration::{Cluster, example};
use serde_json::json;
use testkit::http::{self, Client, Response};
use testkit::{Gateway, Process, Step, binary, find_tool, poll_until, run_steps, unique, workspace_root};

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";
/// For a worker to be told to end and to start again, and to answer what it missed.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// An example with a worker, on topics of its own.
struct Bed {
    name: &'static str,
    cluster: Cluster,
    requests: String,
    replies: String,
    gateway: Gateway,
    worker: Process,
}

impl Bed {
    fn start(name: &'static str, stem: &str, cluster: Cluster) -> Self {
        let (requests, replies) = (format!("{stem}-requests"), format!("{stem}-replies"));
        let (own_requests, own_replies) = (unique(&requests), unique(&replies));
        let topics = [(requests.as_str(), own_requests.as_str()), (&replies, &own_replies)];
        let gateway = example(name, &cluster, &topics).start().expect("the gateway starts");
        let worker = worker(name, &cluster, &gateway, &own_requests, &own_replies);
        Self { name, cluster, requests: own_requests, replies: own_replies, gateway, worker }
    }

    fn stop_worker(&mut self) {
        self.worker.terminate();
        self.worker.wait(ANSWERS_WITHIN).expect("the worker ends");
    }

    fn start_worker(&mut self) {
        self.worker = worker(self.name, &self.cluster, &self.gateway, &self.requests, &self.replies);
    }

    fn steps(&self, title: &str, steps: &[Step]) {
        run_steps(self.gateway.address(), &format!("{title} ({})", self.cluster.name()), steps);
    }

    fn records(&self, topic: &str) -> usize {
        self.gateway.verb("topic consume", &[topic]).expect("the verb ends").stdout.lines().count()
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        http::request(self.gateway.address(), "GET", path, headers, b"").expect("an answer")
    }
}

/// The worker of the example, run as its README says.
fn worker(example: &str, cluster: &Cluster, gateway: &Gateway, requests: &str, replies: &str) -> Process {
    let mut command = Command::new(find_tool("python3").expect("python3"));
    command.arg(workspace_root().join("examples").join(example).join("worker.py"));
    command.arg("--tidegate").arg(binary().expect("the binary")).arg("--config").arg(gateway.dir().join("tidegate.yaml"));
    command.args(["--requests", requests, "--replies", replies]).env_remove("KAFKA_BOOTSTRAP_SERVERS");
    if let Cluster::Kafka(servers) = cluster {
        command.env("KAFKA_BOOTSTRAP_SERVERS", servers);
    }
    Process::start("worker.py", command).expect("the worker starts")
}

fn order(body: &str) -> Step {
    Step::new("POST", "/orders").header("content-type", JSON).body(body)
}

#[test]
fn orders_are_answered_by_the_worker() {
    for cluster in Cluster::both() {
        let mut bed = Bed::start("orders-sync", "orders", cluster);
        bed.steps(
            "orders-sync",
            &[
                order(r#"{"item":"anchor","quantity":2}"#)
                    .expect(201)
                    .says("content-type", JSON)
                    .member("item", "anchor")
                    .save("location", "order"),
                Step::get("$order").member("quantity", 2),
                order(r#"{"quantity":0}"#).expect(422).says("content-type", PROBLEM).member("title", "Not an order"),
                order("no JSON").expect(422).says("content-type", PROBLEM),
                Step::get("/orders/none").expect(404),
            ],
        );
        // Without a worker nobody answers in time; the next one answers what was missed.
        bed.stop_worker();
        bed.steps(
            "no worker",
            &[order(r#"{"quantity":3}"#).header("prefer", "wait=1").expect(504).says("content-type", PROBLEM)],
        );
        bed.start_worker();
        bed.steps("again", &[order(r#"{"quantity":4}"#).expect(201)]);
        // In another partition what was missed may come later.
        let replies = || (bed.records(&bed.replies) == 5).then_some(());
        assert!(poll_until(ANSWERS_WITHIN, replies).is_some(), "{} replies", bed.records(&bed.replies));
    }
}

#[test]
fn a_reply_that_takes_its_time_is_fetched_later() {
    for cluster in Cluster::both() {
        let bed = Bed::start("orders-async", "slow-orders", cluster);
        let put = |key: &str, prefer: &str, body: &str| {
            let headers = [("idempotency-key", key), ("prefer", prefer)];
            http::request(bed.gateway.address(), "PUT", "/orders/7", &headers, body.as_bytes()).expect("an answer")
        };
        let first = put("k", "respond-async", "{}");
        assert_eq!((first.status, first.header("preference-applied")), (202, Some("respond-async")), "{first:?}");
        let location = first.header("location").expect("a location").to_owned();
        assert!(location.starts_with("/orders/7;cid="), "{location}");
        let shipped = bed.get(&location, &[("prefer", "wait=20")]);
        assert_eq!((shipped.status, shipped.json()), (200, json!({ "id": "7", "state": "shipped" })), "{shipped:?}");
        // The same again gets the same at once; the key with something else is refused.
        let again = put("k", "wait=1", "{}");
        assert_eq!((again.status, again.body), (200, shipped.body));
        assert_eq!(put("k", "wait=1", "{\"other\":1}").status, 422);
        let keyless = Client::connect(bed.gateway.address()).and_then(|mut c| c.request("PUT", "/orders/7", &[], b"{}"));
        assert_eq!(keyless.expect("an answer").status, 400);
        assert_eq!(bed.get(&location.replace(";cid=", ";cid=A"), &[]).status, 404);
        assert_eq!(bed.records(&bed.requests), 1);
    }
}

#[test]
fn events_are_acknowledged_and_read() {
    for cluster in Cluster::both() {
        let topic = unique("events");
        let names = [("topic: events", format!("topic: {topic}")), ("    events:", format!("    {topic}:"))];
        let names: Vec<_> = names.iter().map(|(name, own)| (*name, own.as_str())).collect();
        let gateway = example("events-oneway", &cluster, &names).start().expect("the gateway starts");
        let event = |value: &str| Step::new("POST", "/events").header("x-device", "buoy").body(value).expect(204);
        run_steps(
            gateway.address(),
            &format!("events-oneway ({})", cluster.name()),
            &[
                event("1").answers(""),
                event("2"),
                Step::get("/events/buoy").answers("2"),
                Step::get("/events").answers("[2]"),
                Step::get("/events/none").expect(404),
            ],
        );
    }
}
