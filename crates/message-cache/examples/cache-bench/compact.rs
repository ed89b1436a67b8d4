//! One cleaning of a log, and what somebody who looks up records meanwhile feels of it.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use message_cache::{PartitionLog, Policy};

use crate::{Bench, Row, data};

const KEYS: u64 = 1_100_000;
const SEGMENT_BYTES: u64 = 64 << 20;
/// For look-ups without a cleaner beside them.
const QUIET: Duration = Duration::from_secs(1);

pub fn compact(bench: &Bench) -> Vec<Row> {
    let keys = bench.records(KEYS);
    let (mut alone, mut busy_only, mut with, mut without) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut worst, mut kept) = (0.0f64, Vec::new());
    for _ in 0..bench.rounds {
        let cleaned = round(bench, keys, |log| log.keep(&|| true).expect("cleaned"));
        alone.push(cleaned.rate);
        busy_only.push(cleaned.cpu_rate);
        kept.push(cleaned.share);
        round(bench, keys, |log| {
            let stop = AtomicBool::new(false);
            let quiet = look_until(log, keys, |began| began.elapsed() > QUIET);
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| look_until(log, keys, |_| stop.load(Ordering::Relaxed)));
                log.keep(&|| true).expect("cleaned");
                stop.store(true, Ordering::Relaxed);
                let busy = reader.join().expect("every key was there");
                without.push(quantile(&quiet, 0.99));
                with.push(quantile(&busy, 0.99));
                worst = worst.max(quantile(&busy, 1.0));
            });
        });
    }
    let share = kept.iter().sum::<f64>() / kept.len() as f64;
    let note =
        format!("half of the records replaced; {:.0} % of the bytes stay; fsync of the new segments included", share * 100.0);
    let row = |what: &str, ours| Row { what: what.into(), ours, peer: Vec::new(), unit: "MB/s", note: note.clone() };
    let rate = row("Compaction of 8 segments of 64 MiB, bytes read", alone);
    let cpu_rate = row("The same per second of the cleaner's processor time", busy_only);
    let what = "p99 of a look-up by key while the log is compacted, beside that without".into();
    let note = format!("one thread that looks up without a pause; its worst {:.1} ms", worst / 1e3);
    vec![rate, cpu_rate, Row { what, ours: with, peer: without, unit: "us", note }]
}

struct Cleaned {
    /// MB/s of input.
    rate: f64,
    /// The same per second of processor time.
    cpu_rate: f64,
    /// Of the bytes, what stays.
    share: f64,
}

fn round(bench: &Bench, keys: u64, clean: impl FnOnce(&PartitionLog)) -> Cleaned {
    let dir = bench.tempdir();
    let log = data::open(dir.path(), SEGMENT_BYTES, Policy { compact: true, ..Policy::default() });
    // Each key twice, anywhere.
    let mut order: Vec<u64> = (0..keys).chain(0..keys).collect();
    fastrand::shuffle(&mut order);
    data::fill(&log, order.into_iter(), &[]);
    data::settle(&log, dir.path());
    let sealed = || data::files(dir.path(), "log").iter().rev().skip(1).map(|f| f.0).sum::<u64>() as f64;
    let before = sealed();
    let (began, cpu) = (Instant::now(), data::cpu());
    clean(&log);
    let rate = |took: Duration| before / took.as_secs_f64() / 1e6;
    Cleaned { rate: rate(began.elapsed()), cpu_rate: rate(data::cpu() - cpu), share: sealed() / before }
}

/// Microseconds of each look-up, in order of length.
fn look_until(log: &PartitionLog, keys: u64, is_done: impl Fn(Instant) -> bool) -> Vec<f32> {
    let mut micros = Vec::with_capacity(1 << 22);
    let began = Instant::now();
    while !is_done(began) {
        let key = data::key(fastrand::u64(..keys));
        let one = Instant::now();
        black_box(log.latest(&key).expect("readable").expect("every key is there"));
        micros.push(one.elapsed().as_nanos() as f32 / 1e3);
    }
    micros.sort_unstable_by(f32::total_cmp);
    micros
}

fn quantile(sorted: &[f32], q: f64) -> f64 {
    let i = ((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(i).map_or(f64::NAN, |v| f64::from(*v))
}
