//! Files that fail: what the caller is told, what readers see, and what is there after the log was opened again.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use message_cache::{
    Clock, Faults, Files, LogError, LogOptions, NewRecord, OnCorruption, Op, OpKind, PartitionLog, Policy, Shared, Verdict,
};

const EIO: i32 = libc::EIO;
const ENOSPC: i32 = libc::ENOSPC;

/// Operations of that kind on files whose name ends so.
type Rule = (OpKind, &'static str, Verdict);

/// Lets operations fail as its rules say, until they are taken away.
#[derive(Default)]
struct Script {
    rules: Mutex<Vec<Rule>>,
    /// Which of the rules were met, by kind and end of the name; for those that wait.
    met: Mutex<Vec<(OpKind, &'static str)>>,
    rang: Condvar,
}

impl Script {
    fn set(&self, rules: &[Rule]) {
        *self.rules.lock().unwrap() = rules.to_vec();
        self.met.lock().unwrap().clear();
    }

    fn times_met(&self, kind: OpKind) -> usize {
        self.met.lock().unwrap().iter().filter(|m| m.0 == kind).count()
    }

    fn wait_until_met(&self, kind: OpKind, end: &'static str) {
        let met = self.met.lock().unwrap();
        let limit = Duration::from_secs(20);
        let waited = self.rang.wait_timeout_while(met, limit, |m| !m.contains(&(kind, end))).unwrap();
        assert!(!waited.1.timed_out(), "no {kind:?} of *{end}");
    }
}

impl Faults for Script {
    fn before(&self, op: &Op<'_>) -> Verdict {
        let rules = self.rules.lock().unwrap();
        let applies = |r: &&Rule| r.0 == op.kind && op.path.to_string_lossy().ends_with(r.1);
        let Some(&(kind, end, verdict)) = rules.iter().find(applies) else { return Verdict::Go };
        self.met.lock().unwrap().push((kind, end));
        self.rang.notify_all();
        verdict
    }

    fn after(&self, _: &Op<'_>) {}
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Done,
    Full,
    Io,
    Poisoned,
}

fn answer(result: Result<(), LogError>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(LogError::DiskFull { .. }) => Answer::Full,
        Err(LogError::Io { .. }) => Answer::Io,
        Err(LogError::Poisoned { .. }) => Answer::Poisoned,
        Err(e) => panic!("{e}"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    /// Two records into the head.
    Append,
    /// Records that do not fit in: the head is sealed.
    Roll,
    Reset,
    /// What was appended is to be durable.
    Sync,
}

struct Bench {
    script: Arc<Script>,
    options: LogOptions,
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(durable: bool) -> Self {
        let script = Arc::new(Script::default());
        let dir = tempfile::tempdir().unwrap();
        let files = Files::with_faults(script.clone());
        let options =
            LogOptions { segment_bytes: 4096, durable, on_corruption: OnCorruption::Keep, files, ..LogOptions::default() };
        Self { script, options, path: dir.path().join("0"), _dir: dir }
    }

    fn open(&self) -> PartitionLog {
        open(&self.path, &self.options)
    }
}

fn open(path: &Path, options: &LogOptions) -> PartitionLog {
    PartitionLog::open(path, options.clone(), Shared::new(Policy::default(), Clock::System)).unwrap()
}

fn value(offset: i64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (offset as usize * 31 + i) as u8).collect()
}

/// Records of one key each, from the end of the log on.
fn append(log: &PartitionLog, lens: &[usize]) -> Result<(), LogError> {
    let from = log.end_offset();
    let rows: Vec<_> = lens.iter().zip(from..).map(|(&n, o)| (o, o.to_le_bytes(), value(o, n))).collect();
    let records: Vec<_> = rows
        .iter()
        .map(|(offset, key, value)| NewRecord { offset: *offset, key: Some(key), value: Some(value), ..NewRecord::default() })
        .collect();
    log.append(&records)
}

fn act(log: &PartitionLog, act: Act) -> Answer {
    answer(match act {
        Act::Append => append(log, &[100, 50]),
        Act::Roll => append(log, &[3000]),
        Act::Reset => log.reset(100),
        Act::Sync => log.sync(),
    })
}

/// Everything the log serves, each record verified by key and value; offsets.
fn served(log: &PartitionLog) -> Vec<i64> {
    let records: Vec<_> = log.scan(0).map(Result::unwrap).collect();
    for r in &records {
        let bytes = r.value().unwrap();
        assert_eq!(bytes, value(r.offset(), bytes.len()));
        assert_eq!(log.latest(&r.offset().to_le_bytes()).unwrap().unwrap().offset(), r.offset());
    }
    records.iter().map(|r| r.offset()).collect()
}

struct Case {
    durable: bool,
    rules: &'static [Rule],
    act: Act,
    /// While the fault lasts, and when it is over.
    told: Answer,
    then: Answer,
}

fn check(case: &Case) {
    let what = format!("{:?} with {:?}, durable {}", case.act, case.rules, case.durable);
    let bench = Bench::new(case.durable);
    let log = bench.open();
    append(&log, &[1000, 10, 20]).unwrap();
    let before = served(&log);
    assert_eq!(before, [0, 1, 2]);
    bench.script.set(case.rules);
    for _ in 0..2 {
        // Again and again, with the same result; and a refused record is not seen.
        let told = act(&log, case.act);
        assert_eq!(told, case.told, "{what}");
        if told != Answer::Done {
            let of_old_life = served(&log);
            assert!(of_old_life == before || (case.act == Act::Reset && of_old_life.is_empty()), "{what}");
        }
    }
    bench.script.set(&[]);
    // Smaller than what was refused, so that a rest of it would show.
    let then = if case.act == Act::Append { answer(append(&log, &[5])) } else { act(&log, case.act) };
    assert_eq!(then, case.then, "{what}: when the fault is over");
    let acknowledged = served(&log);
    let end = log.end_offset();
    drop(log);
    let log = bench.open();
    let found = served(&log);
    assert!(found.starts_with(&acknowledged), "{what}: {acknowledged:?} became {found:?}");
    // Only a write whose fsync failed may be there after all.
    let may_be_more = case.told == Answer::Poisoned;
    assert!(may_be_more || (found == acknowledged && log.end_offset() == end), "{what}: {acknowledged:?} became {found:?}");
    assert_eq!(answer(append(&log, &[7])), Answer::Done, "{what}: after reopening");
    assert_eq!(log.stats().corrupt, 0, "{what}");
}

/// Most rows hold for either.
fn check_both(rules: &'static [Rule], act: Act, told: Answer, then: Answer) {
    for durable in [true, false] {
        check(&Case { durable, rules, act, told, then });
    }
}

#[test]
fn writes() {
    use {Act::*, Answer::*, OpKind::*, Verdict::*};
    check_both(&[(Write, ".log", Fail(EIO))], Append, Io, Done);
    check_both(&[(Write, ".log", Fail(ENOSPC))], Append, Full, Done);
    check_both(&[(Write, ".log", Fail(libc::EDQUOT))], Append, Full, Done);
    check_both(&[(Write, ".log", Short(1, ENOSPC))], Append, Full, Done);
    check_both(&[(Write, ".log", Short(150, EIO))], Append, Io, Done);
    // The first of two records is whole on disk, or both are, and cannot be cut off.
    check_both(&[(Write, ".log", Short(150, EIO)), (SetLen, ".log", Fail(EIO))], Append, Io, Done);
    check_both(&[(Write, ".log", Short(9999, EIO)), (SetLen, ".log", Fail(EIO))], Append, Io, Done);
    check_both(&[(Write, ".log", Short(9999, ENOSPC))], Append, Full, Done);
    check_both(&[(Write, ".log", Short(2000, ENOSPC))], Roll, Full, Done);
}

#[test]
fn new_segments() {
    use {Act::*, Answer::*, OpKind::*, Verdict::*};
    check_both(&[(Create, ".tmp", Fail(ENOSPC))], Roll, Full, Done);
    check_both(&[(Create, ".tmp", Fail(libc::EMFILE))], Roll, Io, Done);
    check_both(&[(Write, ".tmp", Short(10, ENOSPC))], Roll, Full, Done);
    check_both(&[(SyncData, ".tmp", Fail(EIO))], Roll, Io, Done);
    check_both(&[(Rename, ".tmp", Fail(ENOSPC))], Roll, Full, Done);
    // The directory: before and after the new name.
    check_both(&[(SyncDir, "/0", Fail(EIO))], Roll, Io, Done);
    check_both(&[(SyncDir, "/0", Fail(EIO)), (Remove, ".log", Fail(EIO))], Roll, Io, Done);
}

#[test]
fn resets() {
    use {Act::*, Answer::*, OpKind::*, Verdict::*};
    check_both(&[(Rename, "/0", Fail(EIO))], Reset, Io, Done);
    check_both(&[(CreateDir, "/0", Fail(ENOSPC))], Reset, Full, Done);
    check_both(&[(SyncDir, "", Fail(EIO))], Reset, Io, Done);
    check_both(&[(Create, ".tmp", Fail(ENOSPC))], Reset, Full, Done);
    check_both(&[(RemoveTree, "", Fail(EIO))], Reset, Io, Done);
}

/// What was refused before there was a record, and could not be cut off, does not show when a larger record needs more room.
#[test]
fn a_refused_first_record_leaves_nothing() {
    let bench = Bench::new(true);
    let log = bench.open();
    log.reset(0).unwrap();
    let rules = [(OpKind::Write, ".log", Verdict::Short(9999, EIO)), (OpKind::SetLen, ".log", Verdict::Fail(EIO))];
    bench.script.set(&rules);
    assert_eq!(act(&log, Act::Append), Answer::Io);
    bench.script.set(&[]);
    append(&log, &[9000]).unwrap();
    assert_eq!(served(&log), [0]);
    drop(log);
    let log = bench.open();
    assert_eq!((served(&log), log.stats().segments), (vec![0], 1));
}

/// What would be appended to a log that is half dropped would be lost with it.
#[test]
fn a_log_takes_nothing_until_its_reset_is_done() {
    let bench = Bench::new(true);
    let log = bench.open();
    append(&log, &[10]).unwrap();
    bench.script.set(&[(OpKind::CreateDir, "/0", Verdict::Fail(ENOSPC))]);
    assert_eq!(act(&log, Act::Reset), Answer::Full);
    bench.script.set(&[]);
    let refused = append(&log, &[10]).unwrap_err().to_string();
    assert!(refused.contains("takes no more records: a reset did not finish"), "{refused}");
    log.reset(7).unwrap();
    append(&log, &[10]).unwrap();
    drop(log);
    assert_eq!(served(&bench.open()), [7]);
}

#[test]
fn a_failed_fsync_is_not_tried_again() {
    use {Act::*, Answer::*, OpKind::*, Verdict::*};
    check(&Case { durable: true, rules: &[(SyncData, ".log", Fail(EIO))], act: Append, told: Poisoned, then: Poisoned });
    check(&Case { durable: true, rules: &[(SyncData, ".log", Fail(ENOSPC))], act: Append, told: Poisoned, then: Poisoned });
    // Where nothing is promised, nothing is synced.
    check(&Case { durable: false, rules: &[(SyncData, ".log", Fail(EIO))], act: Append, told: Done, then: Done });
    let bench = Bench::new(true);
    let log = bench.open();
    bench.script.set(&[(SyncData, ".log", Fail(EIO))]);
    let told = append(&log, &[10]).unwrap_err().to_string();
    assert!(told.contains("takes no more records: an fsync failed (Input/output error"), "{told}");
    assert_eq!(act(&log, Append), Poisoned);
    assert_eq!(bench.script.times_met(SyncData), 1, "no second fsync of dirty pages");
}

#[test]
fn syncs() {
    use {Act::*, Answer::*, OpKind::*, Verdict::*};
    for rule in [&[(SyncData, ".log", Fail(EIO))], &[(SyncData, ".log", Fail(ENOSPC))]] {
        check(&Case { durable: false, rules: rule, act: Sync, told: Poisoned, then: Poisoned });
        // Each append was fsynced; there is nothing to do.
        check(&Case { durable: true, rules: rule, act: Sync, told: Done, then: Done });
    }
    check_both(&[(SyncDir, "/0", Fail(EIO))], Sync, Poisoned, Poisoned);
    check_both(&[(SyncDir, "", Fail(ENOSPC))], Sync, Poisoned, Poisoned);
    // A directory that could not be opened was not fsynced.
    check_both(&[(SyncDir, "/0", Fail(libc::EMFILE))], Sync, Io, Done);
    check_both(&[(SyncDir, "", Fail(libc::ENFILE))], Sync, Io, Done);
    let bench = Bench::new(false);
    let log = bench.open();
    append(&log, &[10]).unwrap();
    bench.script.set(&[(SyncData, ".log", Fail(EIO))]);
    assert_eq!([act(&log, Sync), act(&log, Append), act(&log, Sync)], [Poisoned; 3]);
    assert_eq!(answer(log.set_durable(true)), Poisoned);
    assert!(!log.is_durable() && served(&log) == [0]);
    assert_eq!(bench.script.times_met(SyncData), 1, "no second fsync of dirty pages");
    bench.script.set(&[]);
    log.reset(5).unwrap();
    assert_eq!([act(&log, Append), act(&log, Sync)], [Done; 2], "a new life begins without the fault of the old");
}

/// The index of a sealed segment stays in memory when it cannot be written; the next start makes it again.
#[test]
fn indexes() {
    use {OpKind::*, Verdict::*};
    let rules: [Rule; 6] = [
        (Create, ".index-tmp", Fail(ENOSPC)),
        (Write, ".index-tmp", Fail(EIO)),
        (Write, ".index-tmp", Short(100, ENOSPC)),
        (SyncData, ".index-tmp", Fail(EIO)),
        (Rename, ".index-tmp", Fail(ENOSPC)),
        (SyncData, "0.log", Fail(EIO)),
    ];
    for (i, rule) in rules.into_iter().enumerate() {
        let bench = Bench::new(false);
        let log = bench.open();
        bench.script.set(&[rule]);
        append(&log, &[1000, 10, 20]).unwrap();
        append(&log, &[3000, 1]).unwrap();
        bench.script.wait_until_met(rule.0, rule.1);
        assert_eq!(served(&log), [0, 1, 2, 3, 4], "{rule:?}");
        let index = bench.path.join("00000000000000000000.index");
        assert!(!index.exists(), "{rule:?}");
        // The records of the sealed segment are found in memory: one more segment does not change that.
        append(&log, &[3000]).unwrap();
        assert_eq!(served(&log).len(), 6, "{rule:?}");
        drop(log);
        bench.script.set(&[]);
        let log = bench.open();
        assert_eq!((served(&log).len(), log.stats().corrupt), (6, 0), "rule {i}");
    }
}

/// What recovery cannot do is said, and nothing is lost by it.
#[test]
fn opening() {
    use {OpKind::*, Verdict::*};
    for rule in [(SetLen, ".log", Fail(EIO)), (CreateDir, "/0", Fail(ENOSPC))] {
        let bench = Bench::new(true);
        if rule.0 == SetLen {
            append(&bench.open(), &[10, 20]).unwrap();
            let file = bench.path.join("00000000000000000000.log");
            let mut bytes = std::fs::read(&file).unwrap();
            bytes.extend_from_slice(b"torn");
            std::fs::write(&file, bytes).unwrap();
        }
        bench.script.set(&[rule]);
        let opened = PartitionLog::open(&bench.path, bench.options.clone(), Shared::new(Policy::default(), Clock::System));
        assert!(matches!(opened, Err(LogError::Io { .. } | LogError::DiskFull { .. })), "{rule:?}");
        bench.script.set(&[]);
        let log = bench.open();
        assert_eq!(served(&log).len(), if rule.0 == SetLen { 2 } else { 0 });
        append(&log, &[1]).unwrap();
    }
}
