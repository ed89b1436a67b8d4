//! From the files of a partition to what readers see of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::LogError;
use crate::files::Files;
use crate::log::{Head, LogOptions, OnCorruption, SEGMENT_BYTES_MAX, View};
use crate::manifest::{self, Manifest};
use crate::recovery::{self, Findings, Orders};
use crate::sealed::Sealed;
use crate::segment::{self, Segment};
use crate::topic;

/// A log as it was found.
#[derive(Default)]
pub struct Opened {
    pub view: View,
    pub manifest: Option<Manifest>,
}

/// Opens sealed segments by their indexes and recovers the last segment from its records. What no manifest names is removed.
pub fn open(dir: &Path, options: &LogOptions, findings: &mut Findings) -> Result<Opened, LogError> {
    let listed = Manifest::read(dir).and_then(|m| Found::find(dir, m.as_ref(), options).map(|found| (m, found)));
    let (manifest, found) = match listed {
        Err(LogError::Format { path, what })
            if options.on_corruption == OnCorruption::Refetch && path.ends_with(manifest::FILE) =>
        {
            tracing::warn!(manifest = %path.display(), what, "what is cached cannot be told from what was replaced: all is fetched again");
            return forget_all(dir, options, findings);
        }
        read => read?,
    };
    if let Some(gone) = &found.missing {
        // Before anything is removed: this may be the only copy.
        if options.on_corruption == OnCorruption::Keep {
            let what = "a segment that the manifest names is missing: restore it, or remove the partition".into();
            return Err(LogError::Format { path: gone.clone(), what });
        }
        tracing::warn!(segment = %gone.display(), "a segment is missing: fetched again from there on");
        findings.refetch = true;
        if !options.read_only {
            topic::unmark(dir, &options.files)?;
        }
        if found.live.is_empty() {
            return forget_all(dir, options, findings);
        }
    }
    if !options.read_only {
        found.tidy(&options.files)?;
    }
    let mut view = open_segments(found.live, options, findings)?;
    view.start = view.sealed.first().map(|s| &s.segment).or(view.head.as_ref().map(|h| &h.segment)).map_or(0, |s| s.base_offset);
    if let Some(manifest) = &manifest {
        view.start = manifest.start;
        view.clean = manifest.clean;
        for s in view.sealed.iter() {
            let horizon = manifest.segments.iter().find(|l| l.base_offset == s.segment.base_offset).and_then(|l| l.horizon_ms);
            s.segment.horizon_ms.store(horizon.unwrap_or(i64::MAX), Ordering::Relaxed);
        }
    }
    Ok(Opened { view, manifest })
}

fn forget_all(dir: &Path, options: &LogOptions, findings: &mut Findings) -> Result<Opened, LogError> {
    findings.refetch = true;
    if !options.read_only {
        let files = &options.files;
        topic::unmark(dir, files)?;
        files.remove_tree(dir).and_then(|()| files.create_dirs(dir, true)).map_err(|e| LogError::io(dir, e))?;
    }
    Ok(Opened::default())
}

fn open_segments(mut paths: Vec<PathBuf>, options: &LogOptions, findings: &mut Findings) -> Result<View, LogError> {
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
                    unmark_of(&segment, options)?;
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
                if findings.refetch {
                    unmark_of(&segment, options)?;
                }
                if options.on_corruption == OnCorruption::Keep {
                    keep_cut(&segment, cut, options)?;
                }
                // From the end: a crash on the way leaves a log without a gap, whose corruption is found again.
                remove_segments(later, options)?;
                segment.truncate(cut)?;
            }
        }
        if paths.is_empty() {
            let _ = (!options.read_only).then(|| options.files.remove(&segment.path.with_extension("index")));
            let visible = cut.unwrap_or_else(|| segment.len());
            let head = Some(Head { segment: Arc::new(segment), tables, visible });
            return Ok(View { sealed: Arc::new(sealed), head, ..View::default() });
        }
        tracing::warn!(segment = %segment.path.display(), "index missing or damaged: made again from the records");
        sealed.push(Sealed::new(Arc::new(segment), tables));
    }
    Ok(View { sealed: Arc::new(sealed), ..View::default() })
}

/// Whether a power loss took the end of a segment, or all of one, and left the next. What the cleaner wrote was made durable,
/// and is not what the next one remembers.
fn is_gap_between(segment: &Segment, next: &Path) -> Result<bool, LogError> {
    let whole = |f: segment::Follows| f.base_offset == segment.base_offset && f.len <= segment.len();
    let gap = segment.generation == 0 && segment::follows(next)?.is_some_and(|f| !whole(f));
    if gap {
        tracing::error!(segment = %segment.path.display(), next = %next.display(), "records are missing between two segments");
    }
    Ok(gap)
}

/// Before records go that the mark of the topic speaks of.
fn unmark_of(segment: &Segment, options: &LogOptions) -> Result<(), LogError> {
    match segment.path.parent() {
        Some(partition) if !options.read_only => topic::unmark(partition, &options.files),
        _ => Ok(()),
    }
}

/// Keeps what is cut off a log that is the only copy, beside it: a damaged record in the last write looks like a torn one.
fn keep_cut(segment: &Segment, cut: u64, options: &LogOptions) -> Result<(), LogError> {
    let path = segment.path.with_extension("torn");
    let io = |e| LogError::io(&path, e);
    let file = options.files.create(&path).map_err(io)?;
    options.files.write_all_at(&file, &path, segment.bytes_from(cut), 0).map_err(io)
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

/// The files of a partition, sorted by what they are.
struct Found {
    /// In order of their base offsets, up to a missing one.
    live: Vec<PathBuf>,
    /// The first segment that the manifest names and that is not there.
    missing: Option<PathBuf>,
    /// What is not live.
    remains: Vec<PathBuf>,
}

impl Found {
    fn find(dir: &Path, manifest: Option<&Manifest>, options: &LogOptions) -> Result<Self, LogError> {
        let mut live = Vec::new();
        let mut remains = Vec::new();
        let mut indexes = Vec::new();
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self { live, missing: None, remains }),
            Err(e) => return Err(LogError::io(dir, e)),
        };
        for entry in entries {
            let path = entry.map_err(|e| LogError::io(dir, e))?.path();
            let extension = path.extension().and_then(|e| e.to_str());
            match extension {
                Some("log") => match path.file_name().and_then(|n| n.to_str()).and_then(segment::parse_name) {
                    Some((base, generation)) if manifest.map_or(generation == 0, |m| m.names(base, generation)) => {
                        live.push(path)
                    }
                    // What the cleaner replaced, or wrote and did not come to publish.
                    Some(_) if manifest.is_some() => remains.push(path),
                    // It wrote none before there was a manifest.
                    Some(_) => {
                        return Err(LogError::Format { path: dir.join(manifest::FILE), what: "the manifest is missing".into() });
                    }
                    None => {
                        let what = "its name is not that of a segment: remove it, or give it its name back".into();
                        return Err(LogError::Format { path, what });
                    }
                },
                Some("index") => indexes.push(path),
                // A sealer that still runs may be faster.
                Some("tmp" | "index-tmp") if !options.read_only => drop(options.files.remove(&path)),
                _ => {}
            }
        }
        live.sort();
        let missing = manifest.and_then(|m| {
            let names = m.segments.iter().map(|s| dir.join(segment::file_name(s.base_offset, s.generation)));
            names.into_iter().find(|path| live.binary_search(path).is_err())
        });
        if let Some(missing) = &missing {
            remains.extend(live.drain(live.partition_point(|path| path < missing)..));
        }
        let is_stray = |index: &PathBuf| live.binary_search(&index.with_extension("log")).is_err();
        remains.extend(indexes.into_iter().filter(is_stray));
        Ok(Self { live, missing, remains })
    }

    /// Removes what is not live, the newest first: a crash leaves a log without a gap.
    fn tidy(&self, files: &Files) -> Result<(), LogError> {
        let mut remains: Vec<_> = self.remains.iter().collect();
        remains.sort();
        remains.iter().rev().try_for_each(|path| files.remove(path).map_err(|e| LogError::io(*path, e)))?;
        // For good, before the log grows beyond them once more.
        remains.first().map_or(Ok(()), |path| files.sync_parent(path).map_err(|e| LogError::io(*path, e)))
    }
}
