//! Whose records lie in the cache directory: the id of the cluster that they were fetched from.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use super::topic::TopicFetch;

/// Holds the id of the cluster, and nothing else.
const FILE: &str = "cluster.id";

/// Makes the directory that of the cluster `id`. What was cached from another cluster is dropped, that of topics which
/// nobody asked for yet too, so that nobody is served a record of another cluster once this one has answered.
///
/// # Errors
/// When files cannot be read or removed. The directory is then not yet the cluster's; try again.
pub fn settle(directory: &Path, id: &str, wanted: &BTreeMap<String, Arc<TopicFetch>>) -> Result<(), String> {
    let fault = |e: io::Error| format!("{}: {e}", directory.display());
    let before = match fs::read_to_string(directory.join(FILE)) {
        Ok(before) => Some(before),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(fault(e)),
    };
    if before.as_deref() == Some(id) {
        return Ok(());
    }
    if let Some(before) = before {
        tracing::warn!(directory = %directory.display(), before, now = id, "another cluster: what is cached is dropped");
        for topic in wanted.values() {
            topic.cache.mark_incomplete().map_err(|e| e.to_string())?;
            for log in topic.cache.partitions().iter() {
                log.clear().map_err(|e| e.to_string())?;
            }
        }
        for entry in fs::read_dir(directory).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let name = entry.file_name();
            let is_wanted = name.to_str().is_some_and(|name| wanted.contains_key(name));
            if !is_wanted && entry.file_type().map_err(fault)?.is_dir() {
                fs::remove_dir_all(entry.path()).map_err(fault)?;
            }
        }
    }
    // Last: a crash before this line does it all again.
    let whole = directory.join("cluster.id.tmp");
    fs::write(&whole, id).and_then(|()| fs::rename(&whole, directory.join(FILE))).map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cluster_finds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let topic = dir.path().join("items");
        fs::create_dir(&topic).unwrap();
        for (id, kept) in [("a", true), ("a", true), ("b", false)] {
            settle(dir.path(), id, &BTreeMap::new()).unwrap();
            assert_eq!(topic.exists(), kept, "{id}");
            assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), id);
        }
    }
}
