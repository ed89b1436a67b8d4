//! `topic.json`: what makes a directory a topic of the embedded cluster.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::PARTITIONS_MAX;

const FILE: &str = "topic.json";
/// What `topic.json` is called once the topic is deleted, until its directory is gone.
const DELETED: &str = "topic.json.deleted";
/// What directories begin with that are being removed. No topic may be called so.
const REMAINS: &str = "~deleted-";
const FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    format: u32,
    /// Tells this topic from a later one of the same name (KIP-516).
    pub id: String,
    pub partitions: i32,
    pub config: BTreeMap<String, String>,
    pub created_ms: i64,
}

impl Meta {
    pub fn new(partitions: i32, config: BTreeMap<String, String>, now_ms: i64) -> Self {
        Self { format: FORMAT, id: uuid::Uuid::new_v4().to_string(), partitions, config, created_ms: now_ms }
    }

    /// `Ok(None)` if the directory is no topic.
    pub fn read(dir: &Path) -> Result<Option<Self>, String> {
        let path = dir.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(format!("{}: {e}", path.display())),
        };
        let meta: Self = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        if meta.format != FORMAT || !(1..=PARTITIONS_MAX).contains(&meta.partitions) {
            return Err(format!(
                "{}: format {} with {} partitions is not for this build",
                path.display(),
                meta.format,
                meta.partitions
            ));
        }
        Ok(Some(meta))
    }

    /// Whether every partition still has its directory: one that was removed held records that nobody else has.
    pub fn find_partitions(&self, dir: &Path) -> Result<(), String> {
        match (0..self.partitions).find(|p| !dir.join(p.to_string()).is_dir()) {
            Some(gone) => Err(format!("{}: partition {gone} is missing; restore it, or remove the topic", dir.display())),
            None => Ok(()),
        }
    }

    /// Makes `<dir>` the directory of a deleted topic, for good also after a crash.
    pub fn delete(dir: &Path) -> Result<(), String> {
        let delete = || {
            std::fs::rename(dir.join(FILE), dir.join(DELETED))?;
            File::open(dir)?.sync_all()
        };
        delete().map_err(|e| format!("{}: {e}", dir.display()))
    }

    /// Makes `<parent>/<topic>` a topic, or another one: whole and durable, or not at all.
    pub fn write(&self, parent: &Path, topic: &str) -> Result<(), String> {
        let dir = parent.join(topic);
        let write = || -> std::io::Result<()> {
            for partition in 0..self.partitions {
                std::fs::create_dir_all(dir.join(partition.to_string()))?;
            }
            let tmp = dir.join("topic.json.tmp");
            let mut file = File::create(&tmp)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            std::fs::rename(&tmp, dir.join(FILE))?;
            File::open(&dir)?.sync_all()?;
            File::open(parent)?.sync_all()
        };
        write().map_err(|e| format!("{}: {e}", dir.display()))
    }
}

/// Removes the directory of a topic that was [deleted](Meta::delete), if there is one. It gets another name first, so that what a
/// crash leaves of it is never taken for partitions of a later topic.
pub fn bury(parent: &Path, topic: &str) -> Result<(), String> {
    let dir = parent.join(topic);
    if !dir.join(DELETED).exists() {
        return Ok(());
    }
    let bury = || {
        let aside = parent.join(format!("{REMAINS}{:016x}", fastrand::u64(..)));
        std::fs::rename(&dir, &aside)?;
        File::open(parent)?.sync_all()?;
        std::fs::remove_dir_all(aside)
    };
    bury().map_err(|e| format!("{}: {e}", dir.display()))
}

/// Removes what a crash left of deleted topics.
pub fn remove_remains(parent: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with(REMAINS) {
            std::fs::remove_dir_all(entry.path())?;
        } else if entry.path().join(DELETED).exists() {
            bury(parent, &name).map_err(std::io::Error::other)?;
        }
    }
    Ok(())
}
