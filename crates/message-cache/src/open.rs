//! From the files of a partition to what readers see of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::LogError;
use crate::files::Files;
use crate::log::{Head, LogOptions, OnCorruption, SEGMENT_BYTES_MAX, View};
use crate::recovery::{self, Findings, Orders};
use crate::sealed::Sealed;
use crate::segment::{self, Segment};

impl View {
    /// Opens sealed segments by their indexes and recovers the last segment from its records.
    pub fn open(dir: &Path, options: &LogOptions, findings: &mut Findings) -> Result<Self, LogError> {
        let mut paths = segment_files(dir, options.read_only, &options.files)?;
        let mut sealed = Vec::new();
        while !paths.is_empty() {
            let path = paths.remove(0);
            let mut is_last = paths.is_empty();
            let capacity = if is_last { options.segment_bytes.min(SEGMENT_BYTES_MAX) } else { 0 };
            let segment = Segment::open(path, capacity, !options.read_only, &options.files)?;
            if let Some(next) = paths.first()
                && is_gap_between(&segment, next)?
            {
                match options.on_corruption {
                    OnCorruption::Keep => findings.corrupt.push((segment.path.clone(), segment.len())),
                    OnCorruption::Refetch => {
                        is_last = true;
                        findings.refetch = true;
                        remove_segments(std::mem::take(&mut paths), options)?;
                    }
                }
            }
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
            // What cannot be read is not to be cut off: it may be there.
            segment.check()?;
            if let Some(cut) = cut {
                let later = std::mem::take(&mut paths);
                if !options.read_only {
                    // From the end: a crash on the way leaves a log without a gap, whose corruption is found again.
                    remove_segments(later, options)?;
                    segment.truncate(cut)?;
                }
            }
            if paths.is_empty() {
                let _ = (!options.read_only).then(|| options.files.remove(&segment.path.with_extension("index")));
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

/// Whether a power loss took the end of a segment, or all of one, and left the next.
fn is_gap_between(segment: &Segment, next: &Path) -> Result<bool, LogError> {
    let whole = |f: segment::Follows| f.base_offset == segment.base_offset && f.len <= segment.len();
    let gap = segment::follows(next)?.is_some_and(|f| !whole(f));
    if gap {
        tracing::error!(segment = %segment.path.display(), next = %next.display(), "records are missing between two segments");
    }
    Ok(gap)
}

fn remove_segments(paths: Vec<PathBuf>, options: &LogOptions) -> Result<(), LogError> {
    if options.read_only {
        return Ok(());
    }
    let files = &options.files;
    for path in paths.iter().rev() {
        let _ = files.remove(&path.with_extension("index"));
        files.remove(path).map_err(|e| LogError::io(path, e))?;
    }
    // For good, before the log grows beyond them once more.
    paths.first().map_or(Ok(()), |path| files.sync_parent(path).map_err(|e| LogError::io(path, e)))
}

/// In order of their base offsets, which their names sort by. What an interrupted write left is removed.
fn segment_files(dir: &Path, read_only: bool, files: &Files) -> Result<Vec<PathBuf>, LogError> {
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
            Some("tmp" | "index-tmp") if !read_only => drop(files.remove(&path)),
            _ => {}
        }
    }
    paths.sort();
    Ok(paths)
}
