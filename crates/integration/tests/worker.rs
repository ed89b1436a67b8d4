//! The workers of the test bed, and with them what a program behind the gateway is promised: `topic consume --follow` tells a record
//! when it is written, `topic produce` writes a line when it comes.

use std::collections::BTreeSet;
use std::time::Duration;

use integration::{Cluster, Records, Worker};
use testkit::{Gateway, Reply, Step, poll_until, run_steps, unique};

/// For a record to go to the worker and back; processes start within it.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// A topic of requests and one of replies, each behind a route.
fn gateway(cluster: &Cluster) -> (Gateway, String) {
    let replies = unique("replies");
    let records =
        Records { copy_headers: "[tidegate-reply-to, tidegate-correlation-id, x-times]".into(), ..Records::on(cluster) };
    let cached = format!("  topics:\n    {replies}: {{ cluster: main, bootstrap: true, create: {{ partitions: 2 }} }}");
    let route =
        format!("{{ match: 'GET /replies/{{id}}', fetch: {{ topic: {replies}, filters: [{{ key: '${{params.id}}' }}] }} }}");
    let yaml = records.yaml().replace("  topics:", &cached) + "  - " + &route + "\n";
    let yaml = yaml.replace("x-times]", &format!("x-times], headers: {{ tidegate-reply-to: {replies} }}"));
    (Gateway::builder().config(yaml).start().expect("the gateway starts"), records.topic)
}

#[test]
fn a_worker_answers_each_record_as_it_comes() {
    for cluster in Cluster::both() {
        let (gateway, topic) = gateway(&cluster);
        let mut seen = BTreeSet::new();
        let answer = move |request: &testkit::Record| {
            assert!(seen.insert((request.partition, request.offset)), "{request:?} came twice");
            let times = request.header("x-times").and_then(|times| times.parse().ok()).unwrap_or(1);
            let reply = Reply::to(request).map(|reply| reply.header("x", "y").value(format!("{times}")));
            reply.into_iter().cycle().take(times).collect()
        };
        let worker = Worker::start(&cluster, &gateway, &topic, Box::new(answer)).expect("a worker");
        for (key, times) in [("a", 1), ("b", 2), ("c", 0), ("d", 1)] {
            let times = times.to_string();
            let step = Step::put(&format!("/records/{key}"), "{}").header("x-times", &times);
            run_steps(gateway.address(), "a request", &[step.header("tidegate-correlation-id", key)]);
            // The next request goes out when this one has been answered.
            let path = format!("/replies/{key}");
            let answered = || testkit::http::get(gateway.address(), &path).expect("an answer").text() == times;
            let came = times == "0" || poll_until(ANSWERS_WITHIN, || answered().then_some(())).is_some();
            assert!(came, "{key}: no reply ({}): {:?}", cluster.name(), worker.faults());
        }
        let nothing = testkit::http::get(gateway.address(), "/replies/c").expect("an answer");
        assert_eq!((nothing.status, worker.faults()), (404, Vec::new()));
    }
}
