//! Where things are and how long to wait for them.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::{Error, Result};

/// Pause between two looks of [`poll_until`]: short beside what is waited for, long beside the cost of a look.
const POLL_PAUSE: Duration = Duration::from_millis(5);

/// Looks until `look` yields a value; `None` when `within` has passed without one. The last look comes after the deadline, so that a
/// machine that stalls does not make a condition look false that has become true.
pub fn poll_until<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        let last = Instant::now() >= deadline;
        let found = look();
        if found.is_some() || last {
            return found;
        }
        std::thread::sleep(POLL_PAUSE);
    }
}

/// The root of the repository.
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Cargo's output directory of the running profile (`target/debug`), found from the running test or chore itself, so that
/// `CARGO_TARGET_DIR` and profiles need no guessing.
pub fn target_dir() -> Result<PathBuf> {
    let program = std::env::current_exe().map_err(Error::doing("cannot find the running program"))?;
    let dir = program.parent().filter(|d| !d.ends_with("deps")).or_else(|| program.parent().and_then(Path::parent));
    dir.map(Path::to_path_buf).ok_or_else(|| Error::new(format!("{} is in no target directory", program.display())))
}

/// `count` different ports that were free a moment ago.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    // All are held until all are known: otherwise the kernel may hand out the same one twice.
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<std::io::Result<_>>()?;
    Ok(held.iter().map(TcpListener::local_addr).collect::<std::io::Result<Vec<_>>>()?.iter().map(|a| a.port()).collect())
}

/// A name that no other test, test process or earlier run uses: tests share clusters.
pub fn unique(stem: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    format!("{stem}-{:x}-{:x}-{}", std::process::id(), nanos & 0xff_ffff_ffff, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The Kafka that `cargo xtask test` provides. `None` only when the run was told to do without (`TIDEGATE_NO_KAFKA=1`).
///
/// # Panics
/// When neither was said: a test that needs Kafka must not pass because nobody gave it one.
pub fn shared_kafka() -> Option<String> {
    if without_kafka("tests on a real Kafka") {
        return None;
    }
    match std::env::var("KAFKA_BOOTSTRAP_SERVERS") {
        Ok(servers) if !servers.is_empty() => Some(servers),
        _ => panic!("this test needs a Kafka: run `cargo xtask test`, or set KAFKA_BOOTSTRAP_SERVERS, or TIDEGATE_NO_KAFKA=1"),
    }
}

/// Whether the run was told to do without Kafka (`TIDEGATE_NO_KAFKA=1`); then `what` is reported as left out.
pub fn without_kafka(what: &str) -> bool {
    let without = std::env::var_os("TIDEGATE_NO_KAFKA").is_some_and(|v| v == "1");
    if without {
        left_out(&format!("{what} (TIDEGATE_NO_KAFKA=1)"));
    }
    without
}

/// Reports a test that did not run, on its own output and in the summary of `cargo xtask test` (through the file that
/// `TIDEGATE_LEFT_OUT` names).
pub fn left_out(what: &str) {
    eprintln!("left out: {what}");
    if let Some(path) = std::env::var_os("TIDEGATE_LEFT_OUT") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
        if let Err(cause) = file.and_then(|mut f| f.write_all(format!("{what}\n").as_bytes())) {
            eprintln!("cannot note that in {}: {cause}", Path::new(&path).display());
        }
    }
}
