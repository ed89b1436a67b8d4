//! When what was appended is fsynced (Kafka properties `flush.messages`, `flush.ms`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::Acks;

/// How far acknowledgement may run ahead of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush {
    /// Records after which a partition is fsynced; 1: each group before it is acknowledged.
    pub messages: u64,
    /// Longest time from the first record that is not fsynced until it is; `None`: no bound.
    pub after: Option<Duration>,
}

impl Flush {
    /// From what was said of a topic. Unless it says anything, a group is fsynced before it is acknowledged; or never by us, with
    /// `acks` that ask for no more than the kernel.
    pub fn of(config: &BTreeMap<String, String>, acks: Acks) -> Self {
        let number = |name: &str| config.get(name).and_then(|v| v.trim().parse::<u64>().ok());
        let after = number("flush.ms").filter(|ms| *ms < i64::MAX as u64).map(Duration::from_millis);
        let lazy = after.is_some() || acks == Acks::Written;
        Self { messages: number("flush.messages").unwrap_or(if lazy { u64::MAX } else { 1 }).max(1), after }
    }

    /// Whether a record is on disk before it is acknowledged.
    pub fn is_strict(self, acks: Acks) -> bool {
        self.messages == 1 && acks == Acks::Durable
    }
}

/// What became of an fsync.
#[derive(Debug)]
pub enum SyncError {
    /// Nothing was tried: try again.
    NotTried(io::Error),
    /// What of the unsynced bytes is on disk cannot be known, and a second fsync would claim success.
    Failed(io::Error),
}

/// Fsyncs the segments of a log from the one called `from` on, and the directory where there are new ones. Answers with the name of
/// the last segment, from which the next call may go on. Errors of the kernel's own writing are told here, too: the log holds the
/// files open, so none is forgotten before it was reported.
pub fn sync_segments(dir: &Path, from: Option<&str>) -> Result<Option<String>, SyncError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None), // the topic was deleted
        Err(e) => return Err(SyncError::NotTried(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(SyncError::NotTried)?.file_name();
        names.extend(
            name.into_string().ok().filter(|name| name.ends_with(".log") && from.is_none_or(|from| name.as_str() >= from)),
        );
    }
    names.sort();
    for name in &names {
        match File::open(dir.join(name)) {
            Ok(file) => file.sync_data().map_err(SyncError::Failed)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {} // deleted in the meantime
            Err(e) => return Err(SyncError::NotTried(e)),
        }
    }
    let last = names.pop();
    if last.as_deref() != from {
        File::open(dir).map_err(SyncError::NotTried)?.sync_all().map_err(SyncError::Failed)?;
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties() {
        let check = |config: &[(&str, &str)], acks, messages, after: Option<u64>, strict| {
            let map = config.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let flush = Flush::of(&map, acks);
            assert_eq!(flush, Flush { messages, after: after.map(Duration::from_millis) }, "{config:?}");
            assert_eq!(flush.is_strict(acks), strict, "{config:?}");
        };
        check(&[], Acks::Durable, 1, None, true);
        check(&[("flush.messages", "1"), ("flush.ms", "5")], Acks::Durable, 1, Some(5), true);
        check(&[("flush.messages", "10")], Acks::Durable, 10, None, false);
        check(&[("flush.ms", "5")], Acks::Durable, u64::MAX, Some(5), false);
        check(&[("flush.ms", "9223372036854775807")], Acks::Durable, 1, None, true);
        check(&[], Acks::Written, u64::MAX, None, false);
        check(&[("flush.messages", "1")], Acks::Written, 1, None, false);
    }

    #[test]
    fn segments_are_synced_from_the_last_one_on() {
        let dir = tempfile::tempdir().unwrap();
        let sync = |from| sync_segments(dir.path(), from).unwrap();
        assert_eq!(sync(None), None);
        for name in ["00000000000000000000.log", "00000000000000000007.log", "00000000000000000009.index"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let last = sync(None);
        assert_eq!(last.as_deref(), Some("00000000000000000007.log"));
        assert_eq!(sync(last.as_deref()), last);
        assert!(sync_segments(&dir.path().join("gone"), None).unwrap().is_none());
    }
}
