//! A full disk: refused in words, nothing lost, and all well again when there is space.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use integration::Records;
use testkit::{http, left_out, poll_until};

const SIZE: &str = "size=24m";
const BALLAST_BYTES: usize = 6 << 20;
const VALUE_BYTES: usize = 64 << 10;
/// More than fits on the disk, whatever its overhead.
const PUTS_MAX: usize = 1_500;
const RECOVERS_WITHIN: Duration = Duration::from_secs(30);

/// A small file system: one that the environment names, or a tmpfs that is unmounted when dropped.
enum SmallDisk {
    Given(PathBuf),
    Mounted(tempfile::TempDir),
}

impl SmallDisk {
    fn find() -> Option<Self> {
        if let Some(path) = std::env::var_os("TIDEGATE_SMALL_DISK") {
            return Some(Self::Given(path.into()));
        }
        let dir = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(dir.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self::Mounted(dir));
        }
        left_out("the full disk (needs root to mount a small tmpfs, or TIDEGATE_SMALL_DISK=/path)");
        None
    }

    fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Mounted(dir) => dir.path(),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Self::Mounted(dir) = self {
            // Lazily: a failed test may have left a gateway that is still being killed.
            let _ = Command::new("umount").arg("-l").arg(dir.path()).status();
        }
    }
}

#[test]
fn a_full_disk_refuses_serves_and_recovers() {
    let Some(disk) = SmallDisk::find() else { return };
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; BALLAST_BYTES]).expect("room for the ballast");
    let directory = disk.path().join("data").display().to_string();
    let cache = "segment_bytes: 2MiB".to_owned();
    let mut gateway = Records { directory, cache, ..Records::embedded() }.builder().start().expect("the gateway starts");
    let value = |n: usize| n.to_string().repeat(VALUE_BYTES).into_bytes()[..VALUE_BYTES].to_vec();
    let put = |address, n: usize| http::put(address, &format!("/records/{n}"), &value(n)).expect("an answer");

    let address = gateway.address();
    let full = (0..PUTS_MAX).map(|n| (n, put(address, n))).find(|(_, answer)| answer.status != 204);
    let (count, refused) = full.expect("the disk is full some time");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    let problem = refused.json();
    assert!(problem["detail"].as_str().is_some_and(|d| d.contains("space")), "says so: {problem}");
    assert_eq!(problem["written"], "no", "{problem}");
    assert!(count > 10, "full after {count} records");

    let serves = |address, upto: usize| {
        for n in 0..upto {
            let answer = http::get(address, &format!("/records/{n}")).expect("an answer");
            assert!(answer.status == 200 && answer.body == value(n), "record {n} of {upto}: {}", answer.status);
        }
    };
    serves(address, count);
    assert_eq!(http::get(address, &format!("/records/{count}")).expect("an answer").status, 404, "refused, and yet there");

    fs::remove_file(&ballast).expect("removed");
    let recovered = poll_until(RECOVERS_WITHIN, || (put(address, count).status == 204).then_some(()));
    assert!(recovered.is_some(), "does not recover: {:?}\n{}", put(address, count), gateway.stderr());
    serves(address, count + 1);
    gateway.restart().expect("starts again");
    serves(gateway.address(), count + 1);
}
