//! Files that somebody else cuts or removes while they are mapped: an error for the one that reads them, not the end of the
//! process.

use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};

use message_cache::{
    Clock, Faults, Files, LogError, LogOptions, NewRecord, OnCorruption, Op, OpKind, PartitionLog, Policy, Shared, Verdict,
};

fn open(dir: &Path) -> Result<PartitionLog, LogError> {
    open_with(dir, Files::default())
}

fn open_with(dir: &Path, files: Files) -> Result<PartitionLog, LogError> {
    let options = LogOptions { segment_bytes: 64 << 10, on_corruption: OnCorruption::Keep, files, ..LogOptions::default() };
    PartitionLog::open(dir, options, Shared::new(Policy::default(), Clock::System))
}

/// Records of 8 KiB, one for each key from `from` on.
fn append(log: &PartitionLog, from: u8, count: u8) -> Result<(), LogError> {
    for n in from..from + count {
        let record = NewRecord { offset: i64::from(n), key: Some(&[n]), value: Some(&[n; 8192]), ..NewRecord::default() };
        log.append(&[record])?;
    }
    Ok(())
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == extension));
    paths.sort();
    paths
}

fn cut(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

fn is_cut<T>(result: &Result<T, LogError>, path: &Path) -> bool {
    matches!(result, Err(LogError::Cut { path: named }) if named == path)
}

/// A log of two full segments and a head; the path of the first segment, or of the head.
fn log_of_three(dir: &Path, head: bool) -> (PartitionLog, PathBuf) {
    let log = open(dir).unwrap();
    append(&log, 0, 17).unwrap();
    let paths = files(dir, "log");
    assert_eq!(paths.len(), 3);
    log.check_files().unwrap();
    (log, paths[if head { 2 } else { 0 }].clone())
}

#[test]
fn a_cut_segment_is_an_error() {
    // Which segment, what is left of it, and the first key that is lost with it.
    for (head, len, lost) in [(false, 0, 0u8), (false, 20_000, 2), (false, 24_700, 2), (true, 0, 14), (true, 12_000, 15)] {
        let dir = tempfile::tempdir().unwrap();
        let (log, path) = log_of_three(dir.path(), head);
        cut(&path, len);
        let what = format!("head {head}, cut to {len}");
        assert!(is_cut(&log.check_files(), &path), "{what}");
        assert!(is_cut(&log.latest(&[lost]), &path), "{what}");
        let text = log.latest(&[lost]).unwrap_err().to_string();
        assert!(text.contains(".log was cut short or removed by somebody else"), "{text}");
        let (read, faults): (Vec<_>, Vec<_>) = log.scan(0).partition(Result::is_ok);
        assert_eq!(faults.len(), 1, "{what}: told once");
        assert!(is_cut(&faults[0], &path), "{what}");
        // What is elsewhere is served as ever.
        let expected = (0..17).filter(|n| if head { *n < i64::from(lost) } else { *n < i64::from(lost) || *n >= 7 });
        assert!(read.into_iter().map(|r| r.unwrap().offset()).eq(expected), "{what}");
        // Behind the cut, an append would leave a hole.
        assert_eq!(is_cut(&append(&log, 17, 1), &path), head, "{what}");
        assert!(log.check_files().is_err(), "{what}");
    }
}

/// A record that a reader holds has no bytes any more; the reader lives.
#[test]
fn a_held_record_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let (log, path) = log_of_three(dir.path(), false);
    let held = log.latest(&[3]).unwrap().unwrap();
    cut(&path, 0);
    assert!(held.value().unwrap().iter().all(|&b| b == 0));
    assert!(is_cut(&log.latest(&[3]), &path));
}

#[test]
fn a_head_that_was_cut_takes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (log, path) = log_of_three(dir.path(), true);
    cut(&path, 100);
    // Without anybody having read or looked before.
    assert!(is_cut(&append(&log, 17, 1), &path));
    assert_eq!(log.end_offset(), 17);
    log.reset(0).unwrap();
    append(&log, 0, 17).unwrap();
    log.check_files().unwrap();
    assert_eq!(log.scan(0).map(Result::unwrap).count(), 17);
}

#[test]
fn a_removed_file_is_noticed() {
    type Harm = fn(&Path, &Path);
    let harms: [(&str, Harm); 4] = [
        ("removed", |_, path| std::fs::remove_file(path).unwrap()),
        ("moved", |dir, path| std::fs::rename(path, dir.join("elsewhere")).unwrap()),
        ("replaced", |_, path| {
            std::fs::copy(path, path.with_extension("copy")).unwrap();
            std::fs::rename(path.with_extension("copy"), path).unwrap();
        }),
        // An index may be written to it meanwhile.
        ("its directory removed", |dir, _| while dir.exists() && std::fs::remove_dir_all(dir).is_err() {}),
    ];
    for (what, harm) in harms {
        let dir = tempfile::tempdir().unwrap();
        let (log, path) = log_of_three(dir.path(), false);
        harm(dir.path(), &path);
        assert!(is_cut(&log.check_files(), &path), "{what}");
        assert_eq!(log.scan(0).map(Result::unwrap).count(), 17, "{what}: what is mapped is still read");
    }
}

/// What is appended to a file without a name ends with the process: at most for a millisecond, and not at all where each record is
/// fsynced before it is acknowledged.
#[test]
fn a_removed_head_takes_no_more() {
    for durable in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions { durable, on_corruption: OnCorruption::Keep, ..LogOptions::default() };
        let log = PartitionLog::open(dir.path(), options, Shared::new(Policy::default(), Clock::System)).unwrap();
        let append = || log.append_next(&mut [NewRecord { value: Some(b"v"), ..NewRecord::default() }]);
        append().unwrap();
        let path = files(dir.path(), "log")[0].clone();
        std::fs::remove_file(&path).unwrap();
        let removed = std::time::Instant::now();
        for n in 1.. {
            let begun = removed.elapsed();
            let appended = append();
            if is_cut(&appended, &path) {
                assert!(!durable || n == 1, "the first of a durable log is refused");
                break;
            }
            appended.unwrap();
            assert!(begun < std::time::Duration::from_millis(1), "after {begun:?}");
        }
        assert!(is_cut(&append(), &path), "and it stays so");
    }
}

/// Beside a gateway whose housekeeping removes what it needs no more.
#[test]
fn a_reader_of_files_does_not_miss_what_its_owner_removed() {
    let dir = tempfile::tempdir().unwrap();
    drop(log_of_three(dir.path(), false));
    let options = LogOptions { read_only: true, on_corruption: OnCorruption::Keep, ..LogOptions::default() };
    let log = PartitionLog::open(dir.path(), options, Shared::new(Policy::default(), Clock::System)).unwrap();
    let paths = files(dir.path(), "log");
    std::fs::remove_file(&paths[0]).unwrap();
    assert!(log.check_files().is_ok() && log.verify().is_empty());
    assert_eq!(log.scan(0).map(Result::unwrap).count(), 17);
    cut(&paths[1], 20_000);
    assert!(is_cut(&log.check_files(), &paths[1]), "but what is lost is");
    assert!(log.verify().iter().any(|fault| fault.contains("was cut short")));
}

/// Tells of each index that is written.
struct Listener(mpsc::Sender<()>);

impl Faults for Listener {
    fn before(&self, _: &Op<'_>) -> Verdict {
        Verdict::Go
    }

    fn after(&self, op: &Op<'_>) {
        if op.kind == OpKind::Rename && op.to.is_some_and(|to| to.extension().is_some_and(|e| e == "index")) {
            let _ = self.0.send(());
        }
    }
}

#[test]
fn a_cut_index_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (written, indexes) = mpsc::channel();
    let log = open_with(dir.path(), Files::with_faults(Arc::new(Listener(written)))).unwrap();
    append(&log, 0, 17).unwrap();
    indexes.iter().take(2).for_each(drop);
    drop(log);
    let log = open(dir.path()).unwrap();
    let index = files(dir.path(), "index")[0].clone();
    cut(&index, 0);
    assert!(is_cut(&log.latest(&[1]), &index));
    assert_eq!(log.scan(0).map(Result::unwrap).count(), 17, "the records need no index");
}

const CHILD: &str = "MESSAGE_CACHE_TEST_CHILD";

/// A fault that is none of ours still kills: runs itself as a child that makes one.
#[test]
fn a_genuine_fault_still_kills() {
    if let Ok(dir) = std::env::var(CHILD) {
        let dir = PathBuf::from(dir);
        let (log, path) = log_of_three(&dir, false);
        cut(&path, 0);
        assert!(log.latest(&[1]).is_err());
        println!("survived ours");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(dir.join("other")).unwrap();
        file.set_len(8192).unwrap();
        // SAFETY: none; that is what this is about.
        let map = unsafe { memmap2::Mmap::map(&file).unwrap() };
        file.set_len(0).unwrap();
        println!("{}", std::hint::black_box(&map)[4096]);
        unreachable!("read what is not there");
    }
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_genuine_fault_still_kills", "--nocapture"])
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(said.contains("survived ours") && child.status.signal() == Some(libc::SIGBUS), "{:?}: {said}", child.status);
}
