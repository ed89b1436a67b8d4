//! Records that are written once over all gateways, against a real broker.

mod claims_support;
mod kafka_support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use claims_support::*;
use kafka::{AdminError, Claims, KafkaCluster, ProduceError, ProduceRecord};
use kafka_support::*;

/// Every record of the target by id, with its value; how many there are of each id.
fn written(cluster: &KafkaCluster, topics: &Topics) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (id, value) in read_ids(cluster, &topics.target) {
        all.entry(id).or_default().push(value);
    }
    all
}

/// The value of the first claim of each id, by offset.
fn first_claims(cluster: &KafkaCluster, topics: &Topics) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for (id, value) in read_ids(cluster, &topics.claims) {
        all.entry(id).or_insert_with(|| vec![value]);
    }
    all
}

/// Each of 16 tasks asks for its share of the ids in an order of its own, some of them again.
async fn submit_all(gateway: &'static str, claims: &Arc<Claims>, topics: &Topics, ids: usize) {
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let (claims, topics) = (Arc::clone(claims), topics.clone());
            tokio::spawn(async move {
                let mut mine: Vec<usize> = (0..ids).filter(|id| id % 16 == task).collect();
                fastrand::shuffle(&mut mine);
                for id in mine {
                    for again in 0..1 + fastrand::usize(..4) / 3 {
                        let record = topics.record(&format!("{gateway}-{id}-{again}"));
                        submit(&claims, &format!("id-{id}"), record).await;
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_write_each_id_once() {
    let Some(servers) = servers() else { return };
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    let gateways = [cluster(&servers, dirs[0].path(), &[]), cluster(&servers, dirs[1].path(), &[])];
    let topics = Topics::create(&gateways[0], 4, 3, &[]).await;
    let claims = gateways.each_ref().map(|gateway| gateway.claims(topics.options()));
    let began = Instant::now();
    tokio::join!(submit_all("a", &claims[0], &topics, 2000), submit_all("b", &claims[1], &topics, 2000));
    let submitted = began.elapsed();
    until("both own partitions", || claims.iter().all(|c| c.stats().owned == 2)).await;
    until("all claims are copied", || written(&gateways[0], &topics).len() == 2000).await;
    until_all_done(&gateways[0], &topics, &claims).await;
    println!("submitted in {submitted:?}, copied in {:?}: {:?}", began.elapsed(), claims.each_ref().map(|c| c.stats()));
    let expected = first_claims(&gateways[0], &topics);
    assert_eq!(written(&gateways[0], &topics), expected);
    // And again when all is in: no new record.
    submit_all("c", &claims[1], &topics, 200).await;
    until_all_done(&gateways[0], &topics, &claims).await;
    assert_eq!(written(&gateways[1], &topics), expected);
    // Who closes hands over at once.
    let began = Instant::now();
    claims[0].close().await;
    until("the other owns all", || claims[1].stats().owned == 4).await;
    println!("handed over by close in {:?}", began.elapsed());
    submit_all("d", &claims[1], &topics, 2200).await;
    until("all claims are copied", || written(&gateways[1], &topics).len() == 2200).await;
    assert_eq!(claims.each_ref().map(|c| c.problem()), [None, None]);
    let all = written(&gateways[1], &topics);
    assert!(all.values().all(|values| values.len() == 1), "{all:?}");
    claims[1].close().await;
    for gateway in gateways {
        gateway.close().await;
    }
}

/// The other gateway is a process of its own that is killed at the height of its work, and once more.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed_hands_over() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = cluster(&servers, dir.path(), &[]);
    let topics = Topics::create(&gateway, 4, 2, &[]).await;
    let mut other = Other::start(&servers, &topics);
    let claims = gateway.claims(topics.options());
    for round in 0..2 {
        until("both own partitions", || claims.stats().owned == 2).await;
        let asking = tokio::spawn({
            let (claims, topics) = (Arc::clone(&claims), topics.clone());
            async move { submit_all("a", &claims, &topics, 1000 * (round + 1)).await }
        });
        let before = 1000 * round;
        until("the other copies, too", || written(&gateway, &topics).len() > before + 300).await;
        other.kill();
        let began = Instant::now();
        asking.await.expect("no panic");
        until("all claims are copied", || written(&gateway, &topics).len() == 1000 * (round + 1)).await;
        println!("round {round}: all copied {:?} after the other was killed: {:?}", began.elapsed(), claims.stats());
        until("the rest is owned", || claims.stats().owned == 4).await;
        if round == 0 {
            other = Other::start(&servers, &topics);
        }
    }
    assert_eq!(written(&gateway, &topics), first_claims(&gateway, &topics));
    claims.close().await;
    gateway.close().await;
}

/// What the test above kills; does nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn the_other_gateway() {
    Other::be().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_refuses_is_skipped() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = cluster(&servers, dir.path(), &[]);
    let topics = Topics::create(&gateway, 1, 2, &[("max.message.bytes", "2000")]).await;
    let submitter = gateway.claims(topics.options());
    let refused = |error: ProduceError| matches!(error, ProduceError::Invalid { .. });
    assert!(submitter.submit("", topics.record("v")).await.is_err_and(refused));
    assert!(submitter.submit("x", ProduceRecord { topic: "other".to_owned(), ..topics.record("v") }).await.is_err_and(refused));
    until("the partition is owned", || submitter.stats().owned == 1 && submitter.problem().is_none()).await;
    let too_large = submitter.submit("x", topics.record(&"x".repeat(3000))).await;
    assert!(matches!(too_large, Err(ProduceError::TooLarge { limit_bytes: Some(2000) })), "{too_large:?}");
    let nowhere = submitter.submit("x", ProduceRecord { partition: Some(9), ..topics.record("v") }).await;
    assert!(matches!(nowhere, Err(ProduceError::UnknownPartition { partition: 9, .. })), "{nowhere:?}");
    // While nobody copies, so that they make one batch; and by another hand.
    submitter.close().await;
    for n in 0..60 {
        let value = if n % 7 == 3 { "x".repeat(3000) } else { format!("v{n}") };
        let id = format!("id-{n}");
        let mut claim = record(&topics.claims, Some(&id), Some(&value));
        // Version 1 with a partition.
        let partition = if n % 20 == 19 { 9 } else { n as u8 % 2 };
        claim.headers.push(("tidegate-claim".to_owned(), Some(vec![1, 1, 0, 0, 0, partition].into())));
        claim.headers.push((ID.to_owned(), Some(id.clone().into())));
        gateway.produce(claim).await.expect("produced");
    }
    gateway.produce(record(&topics.claims, Some("id-1"), Some("no claim"))).await.expect("produced");
    gateway.produce(record(&topics.claims, None, None)).await.expect("produced");
    let copying = gateway.claims(topics.options());
    until_all_done(&gateway, &topics, std::slice::from_ref(&copying)).await;
    let expected = (0..60).filter(|n| n % 7 != 3 && n % 20 != 19).map(|n| (format!("id-{n}"), vec![format!("v{n}")]));
    assert_eq!(written(&gateway, &topics), expected.collect());
    let stats = copying.stats();
    println!("{stats:?}");
    assert_eq!((stats.copied + stats.refused, stats.repeated, copying.problem()), (62, 0, None));
    copying.close().await;
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_is_told_and_gone_when_it_is_gone() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = cluster(&servers, dir.path(), &[]);
    let topics = Topics { claims: unique("claims"), target: unique("target") };
    let claims = gateway.claims(topics.options());
    until("the missing topic is told", || claims.problem().is_some_and(|p| p.contains(&topics.claims))).await;
    assert!(
        matches!(claims.submit("x", topics.record("v")).await, Err(ProduceError::UnknownTopic { topic }) if topic == topics.target)
    );
    assert!(matches!(gateway.ends(&topics.target).await, Err(AdminError::UnknownTopic(_))));
    create_named(&gateway, &topics.claims, 1, &[]).await;
    until("the missing target is told", || claims.problem().is_some_and(|p| p.contains(&topics.target))).await;
    create_named(&gateway, &topics.target, 1, &[]).await;
    claims.submit("x", topics.record("v")).await.expect("the claim is acknowledged");
    until("the claim is copied", || written(&gateway, &topics).len() == 1).await;
    until("no problem is left", || claims.problem().is_none()).await;
    claims.close().await;
    gateway.close().await;
    let reading = tempfile::tempdir().expect("a directory");
    let gateway = cluster(&servers, reading.path(), &[("consumer.isolation.level", "read_uncommitted")]);
    let claims = gateway.claims(topics.options());
    until("the isolation level is told", || claims.problem().is_some_and(|p| p.contains("isolation.level"))).await;
    claims.close().await;
    gateway.close().await;
}

/// How long it takes from a claim's submission until the target's cache shows the record, one at a time and 500 a second.
#[tokio::test(flavor = "multi_thread")]
async fn claims_are_copied_quickly() {
    let Some(servers) = servers() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = cluster(&servers, dir.path(), &[]);
    let topics = Topics::create(&gateway, 4, 2, &[]).await;
    let claims = gateway.claims(topics.options());
    until("all is owned", || claims.stats().owned == 4).await;
    let seen = Seen::watch(&gateway, &topics);
    for warm in 0..40 {
        seen.copied(&claims, &topics, &format!("warm-{warm}")).await;
    }
    let mut alone = Vec::new();
    for n in 0..60 {
        alone.push(seen.copied(&claims, &topics, &format!("alone-{n}")).await);
    }
    figures("one at a time", alone);
    let (before, began) = (claims.stats(), Instant::now());
    let mut tasks = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    for n in 0..2000 {
        tick.tick().await;
        let (claims, topics, seen) = (Arc::clone(&claims), topics.clone(), seen.clone());
        tasks.push(tokio::spawn(async move { seen.copied(&claims, &topics, &format!("busy-{n}")).await }));
    }
    let mut busy = Vec::new();
    for task in tasks {
        busy.push(task.await.expect("no panic"));
    }
    let transactions = claims.stats().transactions - before.transactions;
    println!("{:.0} transactions a second", transactions as f64 / began.elapsed().as_secs_f64());
    figures("500 a second", busy);
    assert_eq!(written(&gateway, &topics).len(), 2100);
    claims.close().await;
    gateway.close().await;
}
