//! The broker runner itself: what the fault tests rely on.

use testkit::{Broker, BrokerOptions, kcat, without_kafka};

#[test]
fn a_broker_keeps_its_topics_over_stop_kill_and_restart() {
    if without_kafka("the broker runner's own test") {
        return;
    }
    let options = BrokerOptions { properties: vec![("log.cleaner.backoff.ms".into(), "100".into())], ..BrokerOptions::default() };
    let mut broker = Broker::start(options).expect("a broker");
    broker.create_topic("kept", 3, &["cleanup.policy=compact"]).expect("a topic");
    let described =
        broker.tool("org.apache.kafka.tools.TopicCommand", &["--describe", "--topic", "kept"]).expect("a description");
    assert!(described.contains("cleanup.policy=compact"), "{described}");

    let at = broker.bootstrap().to_owned();
    kcat(&["-b", &at, "-P", "-t", "kept", "-k", "k"], b"before").expect("a record");
    broker.stop().expect("stops in order");
    kcat(&["-b", &at, "-L", "-m", "1"], b"").expect_err("nobody listens");
    broker.restart().expect("starts again");
    kcat(&["-b", &at, "-P", "-t", "kept", "-k", "k"], b"between").expect("a record");
    broker.kill9();
    broker.restart().expect("starts after SIGKILL");
    assert_eq!(broker.bootstrap(), at);

    let mut values = kcat(&["-b", &at, "-C", "-t", "kept", "-o", "beginning", "-e", "-q"], b"").expect("records");
    values.sort_unstable();
    let mut expected = b"before\nbetween\n".to_vec();
    expected.sort_unstable();
    assert_eq!(values, expected);
}
