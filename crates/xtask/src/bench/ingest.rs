//! Figures of the message cache behind a real Kafka: filling it, and starting again over what it holds.

use std::time::{Duration, Instant};

use testkit::{Error, Gateway, Result, http, poll_until, unique};

use super::{Bench, Row, figure};

const INGEST_RECORDS: u64 = 5_000_000;
const INGEST_BYTES: u64 = 100;
const RESTART_RECORDS: u64 = 1_000_000;
const FILLED_WITHIN: Duration = Duration::from_secs(300);
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// The key of a record in the middle of the topic.
const SOME_KEY: &str = "k500000";

fn config(bootstrap: &str, topic: &str) -> String {
    format!(
        "listeners: {{ public: {{ address: 127.0.0.1:0 }} }}\nadmin: {{ address: 127.0.0.1:0 }}\nlog: {{ level: warn, access: false }}\n\
         clusters: {{ main: {{ bootstrap.servers: '{bootstrap}' }} }}\n\
         cache:\n  directory: ./data\n  topics:\n    {topic}: {{ cluster: main, bootstrap: true, start: earliest }}\n\
         routes:\n  - {{ match: 'GET /records/{{id}}', fetch: {{ topic: {topic}, filters: [{{ key: '${{params.id}}' }}] }} }}\n"
    )
}

pub fn ingest(bench: &Bench) -> Result<Vec<Row>> {
    let broker = bench.broker()?;
    let topic = unique("ingest");
    bench.fill(&broker, &topic, INGEST_RECORDS, INGEST_BYTES, false)?;
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let start = Instant::now();
        let gateway = bench.builder(&config(broker.bootstrap(), &topic)).without_ready().start()?;
        filled(&gateway, INGEST_RECORDS)?;
        ours.push(INGEST_RECORDS as f64 / start.elapsed().as_secs_f64());
        drop(gateway);
        let raw = bench.probe("raw-consume", &["--bootstrap", broker.bootstrap(), "--topic", &topic])?;
        peer.push(figure(&raw, "records_per_second")?);
    }
    let what = "Kafka to the cache on disk, 100-B records, 1 partition, beside a consumer that throws them away".into();
    let note = format!("{} M records, both from process start to the last one", INGEST_RECORDS / 1_000_000);
    Ok(vec![Row { what, ours, peer, unit: "records/s".into(), note }])
}

pub fn restart(bench: &Bench) -> Result<Vec<Row>> {
    let broker = bench.broker()?;
    let topic = unique("restart");
    bench.fill(&broker, &topic, RESTART_RECORDS, INGEST_BYTES, true)?;
    let mut gateway = bench.builder(&config(broker.bootstrap(), &topic)).without_ready().start()?;
    filled(&gateway, RESTART_RECORDS)?;
    let (mut first, mut fetched) = (Vec::new(), 0.0);
    for _ in 0..bench.rounds {
        gateway.terminate()?;
        let start = Instant::now();
        gateway.restart()?;
        let answered = poll_until(ANSWER_WITHIN, || {
            http::get(gateway.address(), &format!("/records/{SOME_KEY}")).is_ok_and(|answer| answer.status == 200).then_some(())
        });
        answered.ok_or_else(|| Error::new(format!("{SOME_KEY} is not served after a restart: {}", gateway.stderr())))?;
        first.push(start.elapsed().as_secs_f64());
        // Once it follows the topic again, what it fetched for that is known.
        gateway.wait_ready()?;
        fetched += gateway.metric("tidegate_cache_fetched_records_total").unwrap_or(0.0);
    }
    let what = "Restart with 1 M cached records: process start to the first answer (limit 1 s)".into();
    Ok(vec![Row {
        what,
        ours: first,
        peer: Vec::new(),
        unit: "s".into(),
        note: format!("{fetched} records fetched again (limit 0)"),
    }])
}

/// Waits until the cache holds everything up to offset `records`.
fn filled(gateway: &Gateway, records: u64) -> Result<()> {
    let end = || gateway.metric("tidegate_cache_end_offset");
    poll_until(FILLED_WITHIN, || end().filter(|end| *end >= records as f64))
        .map(drop)
        .ok_or_else(|| Error::new(format!("the cache ends at {:?}, not {records}: {}", end(), gateway.stderr())))
}
