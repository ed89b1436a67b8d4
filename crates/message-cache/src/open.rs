//! From the files of a partition to what readers see of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::LogError;
use crate::log::{Head, LogOptions, SEGMENT_BYTES_MAX, View};
use crate::recovery::{self, Findings, Orders};
use crate::sealed::Sealed;
use crate::segment::Segment;

impl View {
    /// Opens sealed segments by their indexes and recovers the last segment from its records.
    pub fn open(dir: &Path, options: &LogOptions, findings: &mut Findings) -> Result<Self, LogError> {
        let mut paths = segment_files(dir, options.read_only)?;
        let mut sealed = Vec::new();
        while !paths.is_empty() {
            let path = paths.remove(0);
            let is_last = paths.is_empty();
            let capacity = if is_last { options.segment_bytes.min(SEGMENT_BYTES_MAX) } else { 0 };
            let segment = Segment::open(path, capacity, !options.read_only)?;
            let segment = if is_last {
                segment
            } else {
                match Sealed::open(segment)? {
                    Ok(whole) => {
                        sealed.push(Arc::new(whole));
                        continue;
                    }
                    Err(segment) => segment,
                }
            };
            let orders = Orders { on_corruption: options.on_corruption, followed: !is_last };
            let (tables, cut) = recovery::recover(&segment, orders, findings);
            if let Some(cut) = cut {
                let later = std::mem::take(&mut paths);
                if !options.read_only {
                    // From the end: a crash on the way leaves a log without a gap, whose corruption is found again.
                    remove_segments(later)?;
                    segment.truncate(cut)?;
                }
            }
            if paths.is_empty() {
                let _ = (!options.read_only).then(|| std::fs::remove_file(segment.path.with_extension("index")));
                let visible = cut.unwrap_or_else(|| segment.len());
                let head = Some(Head { segment: Arc::new(segment), tables, visible });
                return Ok(Self { start: 0, sealed: Arc::new(sealed), head });
            }
            tracing::warn!(segment = %segment.path.display(), "index missing or damaged: made again from the records");
            sealed.push(Sealed::new(Arc::new(segment), tables));
        }
        Ok(Self { start: 0, sealed: Arc::new(sealed), head: None })
    }
}

fn remove_segments(paths: Vec<PathBuf>) -> Result<(), LogError> {
    for path in paths.into_iter().rev() {
        let _ = std::fs::remove_file(path.with_extension("index"));
        std::fs::remove_file(&path).map_err(|e| LogError::io(&path, e))?;
    }
    Ok(())
}

/// In order of their base offsets, which their names sort by. What an interrupted write left is removed.
fn segment_files(dir: &Path, read_only: bool) -> Result<Vec<PathBuf>, LogError> {
    let mut paths = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(paths),
        Err(e) => return Err(LogError::io(dir, e)),
    };
    for entry in entries {
        let path = entry.map_err(|e| LogError::io(dir, e))?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("log") => paths.push(path),
            // A sealer that still runs may be faster.
            Some("tmp" | "index-tmp") if !read_only => drop(std::fs::remove_file(&path)),
            _ => {}
        }
    }
    paths.sort();
    Ok(paths)
}
