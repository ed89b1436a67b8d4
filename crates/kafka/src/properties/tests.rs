use super::*;

/// `problem`: a part of what is said, or "" when the property is fine.
fn check(name: &str, value: &str, problem: &str) {
    let result = check_property(name, value, false);
    match (&result, problem) {
        (Ok(()), "") => {}
        (Err(p), part) if !part.is_empty() && p.to_string().contains(part) => {}
        _ => panic!("{name}={value}: expected {problem:?}, got {result:?}"),
    }
}

#[test]
fn kafkas_names_are_taken_or_refused_with_a_reason() {
    for (name, value, problem) in [
        ("bootstrap.servers", "kafka:9092, other:9093", ""),
        ("bootstrap.servers", "SSL://kafka:9092", ""),
        ("bootstrap.servers", "kafka:9092,,", "no broker address"),
        ("bootstrap.servers", "kafka:port", "no broker address"),
        ("acks", "all", ""),
        ("acks", "some", "acks does not take \"some\""),
        ("acks", "7", ""),
        ("linger.ms", "5", ""),
        ("producer.linger.ms", "5", ""),
        ("consumer.fetch.min.bytes", "1", ""),
        ("admin.socket.timeout.ms", "1000", ""),
        ("client.id", "gateway", ""),
        ("client.client.id", "gateway", ""),
        ("client.security.protocol", "SSL", ""),
        ("delivery.timeout.ms", "20000", ""),
        ("security.protocol", "SASL_SSL", ""),
        ("security.protocol", "sasl_ssl", ""),
        ("security.protocol", "TLS", "security.protocol does not take"),
        ("sasl.mechanism", "SCRAM-SHA-512", ""),
        ("sasl.mechanism", "OAUTHBEARER", "OAUTHBEARER tokens"),
        ("sasl.oauthbearer.token.endpoint.url", "https://a/", "OAUTHBEARER tokens"),
        ("sasl.username", "u", ""),
        ("isolation.level", "read_uncommitted", ""),
        ("compression.type", "zstd", ""),
        ("compression.type", "brotli", "does not take"),
        ("buffer.memory", "33554432", ""),
        ("buffer.memory", "lots", "number of bytes"),
        ("max.request.size", "2000000", ""),
        ("ssl.truststore.type", "PEM", ""),
        ("ssl.truststore.type", "JKS", "convert the store"),
        ("ssl.truststore.location", "/etc/ca.pem", ""),
        ("ssl.truststore.location", "/etc/ca.jks", "only PEM"),
        ("ssl.keystore.location", "/etc/key.p12", ""),
        ("ssl.keystore.location", "/etc/key.jks", "JKS cannot be read"),
        ("ssl.endpoint.identification.algorithm", "", ""),
        ("ssl.enabled.protocols", "TLSv1.3", "newest TLS version"),
        ("key.serializer", "a.B", "no serializers"),
        ("interceptor.classes", "a.B", "no Java class"),
        ("group.id", "g", "no consumer group"),
        ("enable.auto.commit", "true", "keeps the offsets"),
        ("auto.offset.reset", "earliest", "cache.topics.NAME.start"),
        ("enable.partition.eof", "false", "caught up"),
        ("plugin.library.paths", "/tmp/x.so", "no foreign code"),
        ("log_cb", "x", "set by programs"),
        ("lingr.ms", "5", "did you mean linger.ms?"),
        ("producer.lingr.ms", "5", "did you mean linger.ms?"),
        ("bootstrap.server", "a:1", "did you mean bootstrap.servers?"),
        ("qqqqqq", "5", "is no client property"),
        ("linger.ms\0", "5", "is no client property"),
        ("client.id", "a\0b", "does not take"),
        ("", "", "is no client property"),
    ] {
        check(name, value, problem);
    }
    check(&"x".repeat(100_000), "", "is no client property");
}

#[test]
fn every_name_of_the_build_is_known_and_none_panics() {
    for name in names::librdkafka_names() {
        let result = check_property(name, "1", false);
        assert!(!result.as_ref().is_err_and(|p| p.message.contains("is no client property")), "{name}: {result:?}");
    }
}

#[test]
fn the_embedded_cluster_takes_only_what_it_uses() {
    assert!(is_embedded(" Embedded ") && !is_embedded("embedded:9092"));
    for (name, value, fine) in [
        ("bootstrap.servers", "embedded", true),
        ("acks", "1", true),
        ("acks", "x", false),
        ("message.max.bytes", "2000000", true),
        ("queue.buffering.max.kbytes", "1024", true),
        ("linger.ms", "5", false),
        ("producer.acks", "1", false),
        ("nonsense", "5", false),
    ] {
        assert_eq!(check_property(name, value, true).is_ok(), fine, "{name}={value}");
    }
}

#[test]
fn a_secret_is_not_repeated() {
    for (name, secret) in [
        ("sasl.jaas.config", "org.example.HunterModule required password=hunter2;"),
        ("sasl.jaas.config", "a.PlainLoginModule required password=\"hunter2\";"),
        ("sasl.password", "hunter2\0"),
        ("ssl.key.password", "hunter2\0"),
    ] {
        let problem = check_property(name, secret, false).expect_err(name);
        assert!(!problem.to_string().contains("hunter2"), "{problem}");
    }
}

#[test]
fn a_login_module_becomes_user_and_password() {
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule";
    for (options, login) in [
        (r#"required username="u" password="p";"#, Some(("u", "p"))),
        (r#"required password='a b' username=u;"#, Some(("u", "a b"))),
        (r#"required username = "u\"x" password="\\p" ;"#, Some(("u\"x", "\\p"))),
        (r#"required superusername="no" username="u" password="";"#, Some(("u", ""))),
        (r#"required username="u";"#, None),
        (r#"required username="u" password="open"#, Some(("u", "open"))),
        ("", None),
    ] {
        let found = names::jaas_login(&format!("{scram} {options}")).ok();
        assert_eq!(found, login.map(|(u, p)| (u.to_owned(), p.to_owned())), "{options}");
    }
}

#[test]
fn scopes_lie_over_what_is_for_all() {
    let properties = [
        ("bootstrap.servers", "a:1"),
        ("linger.ms", "1"),
        ("producer.linger.ms", "9"),
        ("message.timeout.ms", "5"),
        ("buffer.memory", "4097"),
        ("ssl.keystore.type", "PEM"),
        ("ssl.keystore.location", "/k"),
        ("ssl.keystore.password", "x"),
    ];
    let properties = properties.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    let check = |scope, expected: &str| {
        let lowered = for_client(&properties, scope).expect("all fine");
        let shown: Vec<String> = lowered.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(shown.join(" "), expected);
    };
    let shared = "queue.buffering.max.kbytes=5 ssl.certificate.location=/k ssl.key.location=/k ssl.key.password=x";
    check(Scope::Producer, &format!("bootstrap.servers=a:1 delivery.timeout.ms=5 linger.ms=9 {shared}"));
    check(Scope::Consumer, &format!("bootstrap.servers=a:1 delivery.timeout.ms=5 linger.ms=1 {shared}"));
}
