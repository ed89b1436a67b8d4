//! Figures of the HTTP face: GET from the cache, POST to either kind of cluster.

use testkit::{Broker, Result, http, unique};

use super::load::{Load, bare_hyper, get as load_get, post as load_post};
use super::{Bench, Row, figure, median};

const RECORD_BYTES: usize = 1024;
const IN_FLIGHT: &str = "64";

/// One topic, produced with POST and fetched by key; the access log is off, as the baselines write none.
fn config(cluster: &str, topic: &str) -> String {
    format!(
        "listeners: {{ public: {{ address: 127.0.0.1:0 }} }}\nadmin: {{ address: 127.0.0.1:0 }}\nlog: {{ level: warn, access: false }}\n\
         clusters: {{ main: {{ {cluster} }} }}\n\
         cache:\n  directory: ./data\n  topics:\n    {topic}: {{ cluster: main, bootstrap: true, create: {{ partitions: 1 }} }}\n\
         routes:\n\
         \x20 - {{ match: 'POST /records', produce: {{ topic: {topic} }} }}\n\
         \x20 - {{ match: 'PUT /records/{{id}}', produce: {{ topic: {topic}, key: '${{params.id}}' }} }}\n\
         \x20 - {{ match: 'GET /records/{{id}}', fetch: {{ topic: {topic}, filters: [{{ key: '${{params.id}}' }}] }} }}\n"
    )
}

pub fn get(bench: &Bench) -> Result<Vec<Row>> {
    let gateway = bench.gateway(&config("bootstrap.servers: embedded", "bench"))?;
    let stored = http::put(gateway.address(), "/records/k", &[b'x'; RECORD_BYTES])?;
    let found = http::get(gateway.address(), "/records/k")?;
    if found.status != 200 || found.body.len() != RECORD_BYTES {
        return Err(testkit::Error::new(format!(
            "PUT said {}, GET said {} with {} bytes",
            stored.status,
            found.status,
            found.body.len()
        )));
    }
    let bare = bare_hyper(bench)?;
    let rounds = interleave(bench, || load_get(bench, gateway.address(), "/records/k"), || load_get(bench, bare.address, "/"))?;
    Ok(vec![row("GET of a cached 1-KiB record by key, beside bare hyper", &rounds)])
}

pub fn produce_embedded(bench: &Bench) -> Result<Vec<Row>> {
    let durable = bench.gateway(&config("bootstrap.servers: embedded, acks: all", "bench"))?;
    let disk = durable.dir().display().to_string();
    let bytes = RECORD_BYTES.to_string();
    let seconds = bench.seconds.to_string();
    let (mut ours, mut peer, mut loads) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let load = load_post(bench, durable.address(), "/records", RECORD_BYTES)?;
        ours.push(load.per_second);
        loads.push(load);
        let args = ["--dir", &disk, "--bytes", &bytes, "--group", IN_FLIGHT, "--seconds", &seconds];
        peer.push(figure(&bench.probe("fsync-probe", &args)?, "records_per_second")?);
    }
    let what = "POST of 1 KiB to the embedded log with fsync, beside 64 KiB per fsync of the same disk".into();
    let fsync = Row { what, ours, peer, unit: "records/s".into(), note: latencies(loads.iter(), None) };
    drop(durable);

    let quick = bench.gateway(&config("bootstrap.servers: embedded, acks: '1'", "bench"))?;
    let bare = bare_hyper(bench)?;
    let post = |address, path| load_post(bench, address, path, RECORD_BYTES);
    let rounds = interleave(bench, || post(quick.address(), "/records"), || post(bare.address, "/"))?;
    Ok(vec![fsync, row("POST of 1 KiB to the embedded log without fsync (acks=1), beside bare hyper", &rounds)])
}

/// Without linger each side sends what it has at once, and librdkafka alone always has all 64; with it, both send batches alike.
pub fn produce_kafka(bench: &Bench) -> Result<Vec<Row>> {
    let broker = bench.broker()?;
    ["0", "2"].into_iter().map(|linger_ms| produce_kafka_with(bench, &broker, linger_ms)).collect()
}

fn produce_kafka_with(bench: &Bench, broker: &Broker, linger_ms: &str) -> Result<Row> {
    let topic = unique("produce");
    broker.create_topic(&topic, 1, &[])?;
    let cluster = format!("bootstrap.servers: '{}', acks: all, linger.ms: {linger_ms}", broker.bootstrap());
    let gateway = bench.gateway(&config(&cluster, &topic))?;
    let (bytes, seconds, linger) = (RECORD_BYTES.to_string(), bench.seconds.to_string(), format!("linger.ms={linger_ms}"));
    let (mut ours, mut peer, mut loads) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let load = load_post(bench, gateway.address(), "/records", RECORD_BYTES)?;
        ours.push(load.per_second);
        loads.push(load);
        let args = ["--bootstrap", broker.bootstrap(), "--topic", &topic, "--bytes", &bytes, "--in-flight", IN_FLIGHT];
        let raw = bench.probe("raw-produce", &[&args[..], &["--seconds", &seconds, "--property", &linger]].concat())?;
        peer.push(figure(&raw, "records_per_second")?);
    }
    let what =
        format!("POST of 1 KiB to Kafka, acks=all, linger.ms={linger_ms}, 64 connections, beside librdkafka with 64 in flight");
    Ok(Row { what, ours, peer, unit: "records/s".into(), note: latencies(loads.iter(), None) })
}

type Rounds = Vec<(Load, Load)>;

/// Ours, theirs, ours, theirs: what changes on the machine meanwhile meets both.
fn interleave(bench: &Bench, ours: impl Fn() -> Result<Load>, theirs: impl Fn() -> Result<Load>) -> Result<Rounds> {
    (0..bench.rounds).map(|_| Ok((ours()?, theirs()?))).collect()
}

fn row(what: &str, rounds: &Rounds) -> Row {
    let note = latencies(rounds.iter().map(|(ours, _)| ours), Some(&mut rounds.iter().map(|(_, theirs)| theirs)));
    Row {
        what: what.into(),
        ours: rounds.iter().map(|(ours, _)| ours.per_second).collect(),
        peer: rounds.iter().map(|(_, theirs)| theirs.per_second).collect(),
        unit: "req/s".into(),
        note,
    }
}

fn latencies<'a>(ours: impl Iterator<Item = &'a Load>, theirs: Option<&mut dyn Iterator<Item = &'a Load>>) -> String {
    let show = |loads: Vec<&Load>| {
        let of = |pick: fn(&Load) -> f64| median(&loads.iter().map(|l| pick(l)).collect::<Vec<_>>()).unwrap_or(f64::NAN);
        format!("p50 {:.2} ms, p99 {:.2} ms", of(|l| l.p50_ms), of(|l| l.p99_ms))
    };
    let ours = show(ours.collect());
    theirs.map_or_else(|| ours.clone(), |theirs| format!("{ours} (beside: {})", show(theirs.collect())))
}
