//! `PartitionLog::sync` and `set_durable`: what is fsynced, how often, and what goes on meanwhile.

use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::time::Duration;

use message_cache::{
    Clock, Faults, Files, LogError, LogOptions, NewRecord, Op, OpKind, PartitionLog, Policy, Shared, TopicCache, Verdict,
};

/// Counts fsyncs of segments, and notes how far readers saw at each; may hold them up.
#[derive(Default)]
struct Watch {
    state: Mutex<State>,
    changed: Condvar,
    log: OnceLock<Weak<PartitionLog>>,
}

#[derive(Default)]
struct State {
    /// The end of the log at each fsync of a segment.
    ends: Vec<i64>,
    fail: bool,
    hold: bool,
    held: bool,
}

impl Watch {
    fn wait(&self, until: impl Fn(&State) -> bool) {
        let limit = Duration::from_secs(20);
        let waited = self.changed.wait_timeout_while(self.state.lock().unwrap(), limit, |s| !until(s)).unwrap();
        assert!(!waited.1.timed_out());
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    /// Fsyncs of segments since the last call.
    fn ends(&self) -> Vec<i64> {
        std::mem::take(&mut self.state.lock().unwrap().ends)
    }
}

impl Faults for Watch {
    fn before(&self, op: &Op<'_>) -> Verdict {
        if op.kind != OpKind::SyncData || op.path.extension().is_none_or(|e| e != "log") {
            return Verdict::Go;
        }
        let end = self.log.get().and_then(Weak::upgrade).map_or(-1, |log| log.end_offset());
        let mut fail = false;
        self.set(|s| {
            s.ends.push(end);
            s.held = s.hold;
            fail = s.fail;
        });
        self.wait(|s| !s.hold);
        if fail { Verdict::Fail(libc::EIO) } else { Verdict::Go }
    }

    fn after(&self, _: &Op<'_>) {}
}

struct Bench {
    watch: Arc<Watch>,
    log: Arc<PartitionLog>,
    _dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let watch = Arc::new(Watch::default());
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_bytes: 4096, files: Files::with_faults(watch.clone()), ..LogOptions::default() };
    let shared = Shared::new(Policy::default(), Clock::System);
    let log = Arc::new(PartitionLog::open(&dir.path().join("t/0"), options, shared).unwrap());
    watch.log.set(Arc::downgrade(&log)).unwrap();
    Bench { watch, log, _dir: dir }
}

fn append(log: &PartitionLog, bytes: usize) -> Result<i64, LogError> {
    log.append_next(&mut [NewRecord { value: Some(&vec![7; bytes]), ..NewRecord::default() }])
}

#[test]
fn each_byte_is_fsynced_once() {
    let Bench { watch, log, _dir } = bench();
    // Three segments. The sealer may be faster, with two of them.
    assert_eq!([(); 3].map(|()| append(&log, 3000).unwrap()), [0, 1, 2]);
    log.sync().unwrap();
    assert_eq!(watch.ends().len(), 3);
    log.sync().unwrap();
    assert_eq!(watch.ends(), [0; 0], "there is nothing to do");
    append(&log, 10).unwrap();
    log.sync().unwrap();
    assert_eq!(watch.ends(), [4]);
}

#[test]
fn the_switch_is_in_force_at_once() {
    let Bench { watch, log, _dir } = bench();
    append(&log, 10).unwrap();
    assert_eq!(watch.ends(), [0; 0]);
    log.set_durable(true).unwrap();
    assert_eq!(watch.ends(), [1], "what is there is made durable first");
    for _ in 0..2 {
        append(&log, 10).unwrap();
        log.set_durable(true).unwrap();
    }
    assert_eq!(watch.ends(), [1, 2], "fsynced before it is seen");
    log.set_durable(false).unwrap();
    append(&log, 10).unwrap();
    assert_eq!(watch.ends(), [0; 0]);
    assert!(!log.is_durable());
}

#[test]
fn appends_go_on_while_the_disk_works() {
    let Bench { watch, log, _dir } = bench();
    append(&log, 10).unwrap();
    watch.set(|s| s.hold = true);
    let syncing = std::thread::spawn({
        let log = Arc::clone(&log);
        move || log.sync()
    });
    watch.wait(|s| s.held);
    append(&log, 10).unwrap();
    assert_eq!(log.scan(0).map(Result::unwrap).count(), 2);
    watch.set(|s| s.hold = false);
    syncing.join().unwrap().unwrap();
    watch.ends();
    log.sync().unwrap();
    assert_eq!(watch.ends(), [2], "what came meanwhile is not taken for durable");
}

/// The kernel tells of lost pages once. Here it is the sealer, which has no use for it, that is told.
#[test]
fn nobody_believes_the_next_fsync() {
    let Bench { watch, log, _dir } = bench();
    watch.set(|s| s.fail = true);
    append(&log, 3000).unwrap();
    append(&log, 3000).unwrap();
    watch.wait(|s| !s.ends.is_empty());
    watch.set(|s| s.fail = false);
    for told in [log.sync(), append(&log, 1).map(drop), log.set_durable(true)] {
        let text = told.unwrap_err().to_string();
        assert!(text.contains("takes no more records: an fsync failed (Input/output error"), "{text}");
    }
}

#[test]
fn a_topic_and_the_partitions_to_come() {
    let watch = Arc::new(Watch::default());
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { files: Files::with_faults(watch.clone()), ..LogOptions::default() };
    let cache = TopicCache::open_exactly(dir.path(), "t", &options, 1).unwrap();
    for (durable, count) in [(true, 2), (false, 3), (true, 4)] {
        cache.set_durable(durable).unwrap();
        cache.ensure_partitions(count).unwrap();
        assert!(cache.partitions().iter().all(|log| log.is_durable() == durable));
        for log in cache.partitions().iter() {
            watch.ends();
            append(log, 10).unwrap();
            assert_eq!(watch.ends().len(), usize::from(durable));
        }
    }
}

/// The directory of a partition that was dropped for good may be that of another log.
#[test]
fn a_log_that_is_gone_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = TopicCache::open_exactly(dir.path(), "t", &LogOptions::default(), 2).unwrap();
    let old = cache.partition(1).unwrap();
    append(&old, 10).unwrap();
    for _ in 0..2 {
        cache.drop_all(1).unwrap();
    }
    cache.ensure_partitions(2).unwrap();
    append(&cache.partition(1).unwrap(), 10).unwrap();
    for told in [append(&old, 10).map(drop), old.sync(), old.reset(7), old.clear()] {
        assert!(matches!(told, Err(LogError::Gone { .. })), "{told:?}");
    }
    append(&cache.partition(0).unwrap(), 10).unwrap();
    assert_eq!(cache.partition(1).unwrap().scan(0).map(Result::unwrap).count(), 1);
}
