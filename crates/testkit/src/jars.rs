//! The jars of Apache Kafka, fetched once by Maven and kept in `target/kafka/`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::find_tool;
use crate::{Error, Result, workspace_root};

/// The Kafka release that the tests run against.
pub const KAFKA_VERSION: &str = "4.1.1";
const LOG4J_VERSION: &str = "2.25.1";

/// The folder with all jars; fetches them when it is not there. Safe to call from several processes at once.
pub(crate) fn libs() -> Result<PathBuf> {
    let cache = cache_dir();
    let libs = cache.join("libs");
    if libs.is_dir() {
        return Ok(libs);
    }
    fs::create_dir_all(&cache).map_err(Error::doing(format!("cannot create {}", cache.display())))?;
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    // Another process may have fetched them while this one waited for the lock.
    if !libs.is_dir() {
        fetch(&cache, &libs)?;
    }
    Ok(libs)
}

/// Below Cargo's target directory where that can be told, so that `cargo clean` removes it and no other folder appears.
fn cache_dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace_root().join("target"), PathBuf::from);
    target.join("kafka").join(KAFKA_VERSION)
}

fn fetch(cache: &Path, libs: &Path) -> Result<()> {
    let maven = find_tool("mvn")?;
    let pom = include_str!("../templates/pom.xml").replace("@KAFKA@", KAFKA_VERSION).replace("@LOG4J@", LOG4J_VERSION);
    fs::write(cache.join("pom.xml"), pom)?;
    // Into a folder of another name first: `libs` exists only when it is complete.
    let partial = cache.join("partial");
    let _ = fs::remove_dir_all(&partial);
    let mut command = Command::new(maven);
    command.args(["-q", "-B", "-f", "pom.xml", "dependency:copy-dependencies", "-DincludeScope=runtime"]);
    let output = command.arg(format!("-DoutputDirectory={}", partial.display())).current_dir(cache).output()?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        return Err(Error::new(format!("mvn could not fetch Kafka {KAFKA_VERSION}:\n{}", String::from_utf8_lossy(&said))));
    }
    fs::rename(&partial, libs).map_err(Error::doing(format!("cannot move the jars to {}", libs.display())))
}
