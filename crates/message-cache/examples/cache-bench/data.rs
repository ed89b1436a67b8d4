//! What is measured with: records of 200 bytes, 16 of key and 184 of value.

use std::path::Path;
use std::time::Duration;

use message_cache::{Clock, Header, LogOptions, NewRecord, PartitionLog, Policy, Shared};

pub const KEY: usize = 16;
pub const VALUE: usize = 184;
/// Bytes of a frame around key and value (`docs/format.md`).
pub const FRAME: usize = 40;
/// Records of one append: what a fetch of a few MiB brings.
pub const BATCH: usize = 10_000;

/// The key of a number: 16 digits.
pub fn key(mut n: u64) -> [u8; KEY] {
    let mut key = [b'0'; KEY];
    for digit in key.iter_mut().rev() {
        *digit += (n % 10) as u8;
        n /= 10;
    }
    key
}

pub fn open(dir: &Path, segment_bytes: u64, policy: Policy) -> PartitionLog {
    let options = LogOptions { segment_bytes, ..LogOptions::default() };
    PartitionLog::open(dir, options, Shared::new(policy, Clock::System)).expect("the log opens")
}

/// Appends a record of each key; the time is the processor's for the appends alone.
pub fn fill(log: &PartitionLog, keys: impl Iterator<Item = u64>, headers: &[Header<'_>]) -> Duration {
    let mut keys = keys.map(key).peekable();
    let value = [b'v'; VALUE];
    // Now, so that no retention takes them.
    let timestamp_ms = Clock::System.now_ms();
    let mut took = Duration::ZERO;
    while keys.peek().is_some() {
        let some: Vec<_> = keys.by_ref().take(BATCH).collect();
        let record = |(offset, key)| {
            let value = Some(&value[..]);
            NewRecord { offset, timestamp_ms, key: Some(key), value, headers, ..NewRecord::default() }
        };
        let batch: Vec<_> = (log.end_offset()..).zip(some.iter().map(|k| &k[..])).map(record).collect();
        let began = cpu();
        log.append(&batch).expect("an append");
        took += cpu() - began;
    }
    took
}

/// Waits until every sealed segment has its index on disk.
pub fn settle(log: &PartitionLog, dir: &Path) {
    while files(dir, "index").len() + 1 < log.stats().segments {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Length and bytes on disk of the files of a log with this ending, in the order of their names.
pub fn files(dir: &Path, ending: &str) -> Vec<(u64, u64)> {
    let entries = std::fs::read_dir(dir).expect("a directory").map(|e| e.expect("an entry").path());
    let mut paths: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == ending)).collect();
    paths.sort();
    let sizes = |p| std::fs::metadata(p).map(|m| (m.len(), std::os::unix::fs::MetadataExt::blocks(&m) * 512));
    paths.into_iter().map(|p| sizes(p).expect("a file")).collect()
}

/// Processor time of this thread so far. Where others use the machine, this is what a measurement without waiting costs; the clock on the
/// wall would count their turns, too.
pub fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that may be written to.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0, "every thread has this clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Resident memory without mapped files, in bytes (`RssAnon` of /proc/self/status).
pub fn rss_anon() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let kib = status.lines().find_map(|l| l.strip_prefix("RssAnon:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.expect("RssAnon") * 1024
}
