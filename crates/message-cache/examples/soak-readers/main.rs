//! Readers in and out while a writer appends and the housekeeper compacts and deletes: `soak-readers DIRECTORY RECORDS KEYS READERS`.
//! Exits with 1 if a record was missed, doubled, out of order or wrong, or if it took more memory than it may.
//!
//! The records are dealt to three topics of four partitions: one that keeps all, one that keeps the newest bytes, one that is compacted.

mod check;
mod topics;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use check::{Checked, Tally};
use message_cache::{Keeper, KeeperOptions, TopicCache};
use topics::{Kind, Topic};

/// Bound on memory that is not page cache.
const RSS_MAX: u64 = 512 << 20;
/// Threads that poll readers, beside the writer's and the housekeeper's.
const THREADS: usize = 2;
/// How far the writer may be ahead of those that read everything, per topic, so that there is somebody to compact under.
const AHEAD_MAX: u64 = 1_000_000;
/// How often each log is looked at.
const KEEP_INTERVAL: Duration = Duration::from_millis(200);
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// What all threads share.
struct Soak {
    topics: Vec<Topic>,
    keys: u64,
    is_written: AtomicBool,
    faults: Mutex<Vec<String>>,
    /// How far behind those are that read everything, by topic.
    lag: Vec<AtomicU64>,
}

impl Soak {
    fn fault(&self, fault: String) {
        let mut faults = self.faults.lock().expect("not poisoned");
        // The first few tell what is wrong.
        if faults.len() < 20 {
            faults.push(fault);
        }
    }
}

fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let number = |i: usize, default: u64| args.get(i).map_or(default, |a| a.parse().expect("a number"));
    let dir = args.first().map_or_else(std::env::temp_dir, Into::into);
    let (records, keys, readers) = (number(1, 10_000_000), number(2, 50_000), number(3, 2000) as usize);
    let dir = tempfile::tempdir_in(dir).expect("a directory");
    let topics: Vec<_> = Kind::ALL.map(|kind| Topic::open(dir.path(), kind, keys)).into();
    let caches: Vec<Arc<TopicCache>> = topics.iter().map(|t| Arc::clone(&t.cache)).collect();
    let lag = topics.iter().map(|_| AtomicU64::new(0)).collect();
    let soak = Soak { topics, keys, is_written: AtomicBool::new(false), faults: Mutex::default(), lag };
    let keeper =
        Keeper::start(KeeperOptions { interval: KEEP_INTERVAL, max_bytes: None }, move || caches.clone()).expect("a thread");

    let began = Instant::now();
    let (tally, rss_max) = run(&soak, records, readers);
    keeper.wait(keeper.hurry());
    report(&soak, &tally, records, rss_max, began.elapsed());
    let failed = !soak.faults.into_inner().expect("not poisoned").is_empty() || rss_max > RSS_MAX;
    drop(keeper);
    std::process::exit(i32::from(failed));
}

/// What the readers met, and the most memory that was seen.
fn run(soak: &Soak, records: u64, readers: usize) -> (Tally, u64) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let memory = scope.spawn(|| watch_memory(&is_over));
        let writer = scope.spawn(|| {
            topics::write(soak, records);
            soak.is_written.store(true, Ordering::Release);
        });
        let share = readers.div_ceil(THREADS);
        let pollers: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || poll(soak, n, share))).collect();
        let tallies: Vec<_> = pollers.into_iter().map(|p| p.join().expect("a poller")).collect();
        writer.join().expect("the writer");
        is_over.store(true, Ordering::Relaxed);
        (tallies.into_iter().fold(Tally::default(), Tally::and), memory.join().expect("the watcher"))
    })
}

/// Polls readers in turn, each for as long as it stays; whoever goes is replaced until everything is written. The first thread has
/// those that read everything, too.
fn poll(soak: &Soak, thread: usize, count: usize) -> Tally {
    let mut tally = Tally::default();
    let mut events = Vec::new();
    let full = |n| (thread == 0).then(|| Checked::whole(soak, n));
    let mut whole: Vec<_> = (0..soak.topics.len()).filter_map(full).collect();
    let mut passing: Vec<_> = (0..count).map(|n| Checked::passing(soak, n % soak.topics.len(), None)).collect();
    loop {
        let is_written = soak.is_written.load(Ordering::Acquire);
        for slot in &mut passing {
            slot.poll(soak, &mut events, &mut tally);
            if slot.is_done() && !is_written {
                tally.readers += 1;
                let next = Checked::passing(soak, slot.topic, slot.left_at());
                *slot = next;
            }
        }
        for slot in &mut whole {
            while slot.poll(soak, &mut events, &mut tally) {}
            soak.lag[slot.topic].store(slot.lag(), Ordering::Relaxed);
        }
        let is_idle = passing.iter().all(Checked::is_done);
        if is_written && is_idle && whole.iter().all(|w| w.lag() == 0) {
            break;
        }
    }
    whole.iter().for_each(|w| w.check_end(soak, &mut tally));
    tally.readers += (passing.len() + whole.len()) as u64;
    tally
}

fn watch_memory(is_over: &AtomicBool) -> u64 {
    let mut most = 0;
    while !is_over.load(Ordering::Relaxed) {
        let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
        let kib = status.lines().find_map(|l| l.strip_prefix("RssAnon:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        most = most.max(kib.expect("RssAnon") * 1024);
        std::thread::sleep(SAMPLE_INTERVAL);
    }
    most
}

fn report(soak: &Soak, tally: &Tally, records: u64, rss_max: u64, took: Duration) {
    let Tally { readers, records: read, skipped, gaps, missed } = tally;
    println!("{records} records written in {:.0} s, {} keys; {readers} readers came and went", took.as_secs_f64(), soak.keys);
    println!("{read} records read and checked, {skipped} skipped as replaced, {gaps} gaps told of with {missed} offsets");
    for topic in &soak.topics {
        let stats: Vec<_> = topic.cache.partitions().iter().map(|log| log.stats()).collect();
        let sum = |of: fn(&message_cache::LogStats) -> u64| stats.iter().map(of).sum::<u64>();
        let segments: usize = stats.iter().map(|s| s.segments).sum();
        println!(
            "{}: {} records in {segments} segments, {} compacted, {} expired, {} MB given back",
            topic.cache.name(),
            sum(|s| s.records),
            sum(|s| s.compacted),
            sum(|s| s.expired),
            sum(|s| s.reclaimed_bytes) / 1_000_000
        );
        for problem in stats.iter().filter_map(|s| s.problem.as_ref()) {
            soak.fault(format!("{}: housekeeping: {problem}", topic.cache.name()));
        }
    }
    let faults = soak.faults.lock().expect("not poisoned");
    faults.iter().for_each(|f| println!("FAULT: {f}"));
    println!("memory without page cache at most {} MiB (limit {})", rss_max >> 20, RSS_MAX >> 20);
    let verdict = if !faults.is_empty() {
        "FAILED"
    } else if rss_max > RSS_MAX {
        "FAILED: too much memory"
    } else {
        "0 missed, 0 doubled, 0 out of order, 0 wrong"
    };
    println!("verdict: {verdict}");
}
