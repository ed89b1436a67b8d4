//! Logs that earlier builds wrote, frozen in `tests/fixtures`: each is read as it was written, or refused by name.

use std::path::{Path, PathBuf};

use message_cache::{Clock, LogOptions, OnCorruption, PartitionLog, Policy, Shared};

fn copy_of(name: &str) -> tempfile::TempDir {
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

fn open(dir: &Path, on_corruption: OnCorruption) -> Result<PartitionLog, message_cache::LogError> {
    let options = LogOptions { on_corruption, ..LogOptions::default() };
    PartitionLog::open(dir, options, Shared::new(Policy::default(), Clock::System))
}

/// Start, end, and the records as `offset key value headers`.
fn content(log: &PartitionLog) -> (i64, i64, Vec<String>) {
    let text = |b: Option<&[u8]>| b.map_or("-".to_owned(), |b| String::from_utf8_lossy(b).into_owned());
    let rows = log.scan(0).filter_map(Result::ok).map(|r| {
        let headers: Vec<_> = r.headers().map(|h| format!("{}={}", h.name, text(h.value))).collect();
        format!("{} {} {} {}", r.offset(), text(r.key()), r.value().map_or(0, <[u8]>::len), headers.join(","))
    });
    (log.start_offset(), log.end_offset(), rows.collect())
}

/// What is expected of a fixture: the refusal, or start, end, records, corrupt places and bytes cut off.
fn check(name: &str, on_corruption: OnCorruption, expected: Result<(i64, i64, usize, u64, bool), &str>) {
    let dir = copy_of(name);
    match (open(dir.path(), on_corruption), expected) {
        (Err(e), Err(words)) => assert!(e.to_string().contains(words), "{name}: {e}"),
        (Ok(log), Ok((start, end, records, corrupt, is_cut))) => {
            let found = content(&log);
            assert_eq!((found.0, found.1, found.2.len()), (start, end, records), "{name}");
            assert_eq!((log.stats().corrupt, log.stats().truncated_bytes > 0), (corrupt, is_cut), "{name}");
        }
        (opened, expected) => {
            panic!("{name}: {:?}, expected {expected:?}", opened.map(|l| content(&l)).map_err(|e| e.to_string()))
        }
    }
}

#[test]
fn version_1_is_read() {
    let dir = copy_of("v1/whole");
    let log = open(dir.path(), OnCorruption::Keep).unwrap();
    let expected = include_str!("fixtures/v1/expected.txt").lines().map(str::to_owned).collect::<Vec<_>>();
    let (start, end, rows) = content(&log);
    assert_eq!((start, end), (3, 47));
    assert_eq!(rows, expected);
    assert_eq!(log.verify(), Vec::<String>::new());
    assert!(log.latest(b"key-1").unwrap().is_some_and(|r| r.offset() == 40));
}

#[test]
fn damage_is_refused_or_cut_off_by_name() {
    use OnCorruption::{Keep, Refetch};
    let whole = include_str!("fixtures/v1/expected.txt").lines().count();
    check("v1/manifest-damaged", Keep, Err("the manifest is damaged"));
    check("v1/manifest-damaged", Refetch, Ok((0, 0, 0, 0, false)));
    check("v1/manifest-missing", Keep, Err("the manifest is missing"));
    check("v1/manifest-missing", Refetch, Ok((0, 0, 0, 0, false)));
    check("v1/segment-of-a-later-version", Keep, Err("segment format version 99, this build reads version 1"));
    check("v1/segment-of-a-later-version", Refetch, Err("segment format version 99, this build reads version 1"));
    check("v1/segment-missing", Keep, Err("a segment that the manifest names is missing"));
    check("v1/segment-missing", Refetch, Ok((0, 0, 0, 0, false)));
    check("v1/index-of-a-later-version", Keep, Ok((3, 47, whole, 0, false)));
    check("v1/torn-tail", Keep, Ok((3, 41, whole - 1, 0, true)));
    check("v1/torn-tail", Refetch, Ok((3, 41, whole - 1, 0, true)));
    check("v1/record-damaged", Keep, Ok((3, 47, whole - 1, 1, false)));
}
