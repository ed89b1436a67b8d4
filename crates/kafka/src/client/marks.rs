//! What lies beside a topic's cache: the id of the topic that was cached (`topic.id`), its configuration as last told
//! (`topic.config`), by which the cache is kept while the cluster is away, and when it was last current (`topic.live`).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use message_cache::Policy;

/// Holds the id as 32 hex digits, and nothing else.
const ID: &str = "topic.id";
/// Holds the properties as a JSON object.
const CONFIG: &str = "topic.config";

/// Holds a time, ms since the epoch.
const LIVE: &str = "topic.live";
/// How far the time on disk may lie behind, at most.
const LIVE_NOTED_MS: i64 = 60_000;

/// No topic has this id. (KIP-516)
const NO_ID: u128 = 0;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    pub id: Option<u128>,
    /// `None` until the cluster has told it, in this process or one before.
    pub config: Option<BTreeMap<String, String>>,
    /// When every partition was last known to be at the cluster's end, or was begun, ms since the epoch.
    pub live_ms: Option<i64>,
    /// What the file says of it.
    live_noted_ms: Option<i64>,
}

/// What the id that the cluster tells says of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The cache is of this topic, as far as can be told.
    Same,
    /// Nothing was known of it yet: it is taken for this topic's, and the id is to be noted.
    Adopted(u128),
    /// The cache is of a topic that had the same name.
    Another(u128),
}

impl Marks {
    /// A configuration that cannot be read counts as missing, and is asked for. An id that cannot be read is no topic's: what is
    /// cached is fetched again.
    pub fn read(dir: &Path) -> Self {
        let id = match fs::read_to_string(dir.join(ID)) {
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            read => Some(read.ok().and_then(|text| u128::from_str_radix(text.trim(), 16).ok()).unwrap_or(NO_ID)),
        };
        let config = fs::read(dir.join(CONFIG)).ok().and_then(|json| serde_json::from_slice(&json).ok());
        let live_ms = fs::read_to_string(dir.join(LIVE)).ok().and_then(|text| text.trim().parse().ok());
        Self { id, config, live_ms, live_noted_ms: live_ms }
    }

    /// `told`: by the cluster now; `None` from one that knows no ids.
    pub fn life(&self, told: Option<u128>) -> Life {
        match (self.id, told) {
            (None, Some(told)) => Life::Adopted(told),
            (Some(known), Some(told)) if known != told => Life::Another(told),
            _ => Life::Same,
        }
    }

    /// # Errors
    /// When the file cannot be written; the id is then not noted in memory either, so that it is tried again.
    pub fn set_id(&mut self, dir: &Path, id: u128) -> Result<(), String> {
        write(dir, ID, format!("{id:032x}").as_bytes())?;
        self.id = Some(id);
        Ok(())
    }

    /// The cache is current now. `within_ms`: how far the note on disk may lie behind.
    pub fn set_live(&mut self, dir: &Path, now_ms: i64, within_ms: i64) {
        self.live_ms = Some(now_ms);
        let within_ms = within_ms.min(LIVE_NOTED_MS);
        if self.live_noted_ms.is_none_or(|noted| (now_ms - noted).abs() >= within_ms) {
            match write(dir, LIVE, now_ms.to_string().as_bytes()) {
                Ok(()) => self.live_noted_ms = Some(now_ms),
                // Then more is fetched again after a restart than need be.
                Err(error) => tracing::debug!(error, "that the cache is current was not noted"),
            }
        }
    }

    /// Whether tombstones may have come and gone since the cache was current.
    /// `begun_ms`: when the partition was begun anew, if that was later.
    pub fn is_stale(&self, policy: &Policy, begun_ms: i64, now_ms: i64) -> bool {
        let since_ms = self.live_ms.unwrap_or(0).max(begun_ms);
        policy.compact && now_ms.saturating_sub(since_ms) > policy.delete_retention_ms
    }

    /// # Errors
    /// As for [`Marks::set_id`].
    pub fn set_config(&mut self, dir: &Path, told: &BTreeMap<String, String>) -> Result<(), String> {
        let json = serde_json::to_vec(told).map_err(|e| e.to_string())?;
        write(dir, CONFIG, &json)?;
        self.config = Some(told.clone());
        Ok(())
    }
}

/// How a topic of this configuration keeps its records.
///
/// `retention.bytes` is left to the cluster: it counts compressed bytes there, ours are not compressed. What it removes shows in the
/// cluster's log start, which the cache follows.
pub fn policy(config: &BTreeMap<String, String>) -> Policy {
    Policy { retention_bytes: None, ..Policy::from_properties(config) }
}

/// Written aside and renamed, so that a crash leaves the old file or the new one.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), String> {
    let fault = |e: io::Error| format!("{}: {e}", dir.join(name).display());
    let aside = dir.join(format!("{name}.tmp"));
    let written = || fs::write(&aside, bytes).and_then(|()| fs::rename(&aside, dir.join(name)));
    match written() {
        // The directory of a topic whose partitions are not known yet.
        Err(e) if e.kind() == ErrorKind::NotFound => fs::create_dir_all(dir).and_then(|()| written()).map_err(fault),
        result => result.map_err(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_lives_apart() {
        for (known, told, expected) in [
            (None, None, Life::Same),
            (None, Some(1), Life::Adopted(1)),
            (Some(1), Some(1), Life::Same),
            (Some(1), Some(2), Life::Another(2)),
            (Some(1), None, Life::Same),
        ] {
            let marks = Marks { id: known, ..Marks::default() };
            assert_eq!(marks.life(told), expected, "{known:?} {told:?}");
        }
    }

    #[test]
    fn marks_are_found_again_and_damaged_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let topic = dir.path().join("t");
        let config =
            BTreeMap::from([("retention.ms".to_owned(), "5".to_owned()), ("retention.bytes".to_owned(), "9".to_owned())]);
        let mut marks = Marks::read(&topic);
        assert_eq!(marks, Marks::default());
        marks.set_id(&topic, 7 << 100).unwrap();
        marks.set_config(&topic, &config).unwrap();
        assert_eq!((policy(&config).retention_ms, policy(&config).retention_bytes), (Some(5), None));
        assert_eq!(Marks::read(&topic), marks);
        for damaged in [&b"{\"retention.ms\":"[..], b"[]", b"", &[0xff]] {
            fs::write(topic.join(CONFIG), damaged).unwrap();
            fs::write(topic.join(ID), damaged).unwrap();
            assert_eq!(Marks::read(&topic), Marks { id: Some(NO_ID), ..Marks::default() }, "{damaged:?}");
            assert_eq!(Marks::read(&topic).life(Some(7)), Life::Another(7));
        }
    }
}
