//! Housekeeping of one log: what its topic's policy, the clock and the disk ask for, in turns of a background thread.
//!
//! What readers see changes in one step, under the lock of the view; what is on disk changes in one step, the rename of the
//! manifest. Files go only after both, and mappings of them live on in whoever still reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::LogError;
use crate::log::{PartitionLog, View};
use crate::manifest::{Listed, Manifest};
use crate::retention;
use crate::sealed::Sealed;
use crate::segment::Segment;

/// What only housekeeping touches.
#[derive(Default)]
pub struct Keeping {
    /// The manifest as it is on disk.
    pub written: Option<Manifest>,
}

impl PartitionLog {
    /// One turn: begins a segment if it is time, removes what retention lets go, compacts, and notes on disk what changed. Ends
    /// early when `go_on` says so.
    ///
    /// # Errors
    /// What the disk refused. The log is then as it was, or further by whole steps; [`crate::LogStats::problem`] tells, too.
    pub fn keep(&self, go_on: &dyn Fn() -> bool) -> Result<(), LogError> {
        if self.options.read_only || self.is_fresh() {
            return Ok(());
        }
        let _turn = self.turn.lock();
        let life = self.life.load(Ordering::Acquire);
        let go_on = || go_on() && self.life.load(Ordering::Acquire) == life;
        let steps = self
            .check_files()
            .and_then(|()| self.roll_if_due())
            .and_then(|()| self.expire(life))
            .and_then(|()| self.clean_if_due(life, &go_on))
            .and_then(|()| self.write_manifest());
        *self.counters.problem.lock() = steps.as_ref().err().map(LogError::to_string);
        if let Err(LogError::Cut { .. } | LogError::Corrupt { .. }) = &steps {
            self.counters.is_damaged.store(true, Ordering::Relaxed);
        }
        steps
    }

    fn roll_if_due(&self) -> Result<(), LogError> {
        let _writer = self.writer.lock();
        let (now_ms, end) = (self.shared.clock.now_ms(), self.end_offset());
        let due = {
            let view = self.view.read();
            view.head.as_ref().is_some_and(|h| retention::wants_roll(&self.shared.policy(), &h.facts(end), now_ms))
        };
        if due && self.refusal().is_ok() { self.begin_segment(end, 0).map(drop) } else { Ok(()) }
    }

    /// Lets go of the oldest segments as far as retention and the start of the log say.
    fn expire(&self, life: u64) -> Result<(), LogError> {
        let now_ms = self.shared.clock.now_ms();
        let (start, facts, head_bytes) = {
            let view = self.view.read();
            (view.start, view.sealed_facts(self.end_offset()), view.head.as_ref().map_or(0, |h| h.visible))
        };
        let new_start = retention::new_start(&self.shared.policy(), start, &facts, head_bytes, now_ms);
        self.drop_below(new_start, life, &self.counters.expired)
    }

    /// Begins a segment, so that what is in the head can be dropped; false if it holds nothing.
    ///
    /// # Errors
    /// When there is no room for the new one.
    pub fn seal_head(&self) -> Result<bool, LogError> {
        let _writer = self.writer.lock();
        let is_empty = self.view.read().head.as_ref().is_none_or(|h| h.tables.records == 0);
        if is_empty || self.refusal().is_err() {
            return Ok(false);
        }
        self.begin_segment(self.end_offset(), 0).map(|_| true)
    }

    /// Drops the oldest sealed segment, for want of space; says how many bytes that gave. The records in it are gone for
    /// readers, who are told of a gap.
    pub fn drop_oldest(&self) -> Result<u64, LogError> {
        let _turn = self.turn.lock();
        let life = self.life.load(Ordering::Acquire);
        let oldest = self.view.read().sealed_facts(self.end_offset()).first().copied();
        let Some(oldest) = oldest else { return Ok(0) };
        self.drop_below(oldest.next_base, life, &self.counters.evicted)?;
        Ok(oldest.bytes)
    }

    fn drop_below(&self, start: i64, life: u64, counter: &AtomicU64) -> Result<(), LogError> {
        let mut keeping = self.keeping.lock();
        if self.life.load(Ordering::Acquire) != life {
            return Ok(());
        }
        let (count, manifest) = {
            let view = self.view.read();
            let count = view.sealed_facts(self.end_offset()).iter().take_while(|f| f.next_base <= start).count();
            (count, self.manifest_of(start.max(view.start), view.clean, &view.sealed[count..], &view))
        };
        if count == 0 {
            return Ok(());
        }
        if let Err(e) = self.put_manifest(&mut keeping, manifest.clone()) {
            if !matches!(e, LogError::DiskFull { .. }) {
                return Err(e);
            }
            // Indexes can be made again; the space of one is enough for a manifest.
            let oldest = Arc::clone(&self.view.read().sealed[0]);
            let _ = self.options.files.remove(&oldest.segment.path.with_extension("index"));
            self.put_manifest(&mut keeping, manifest)?;
        }
        let gone = {
            let mut view = self.view.write();
            let kept = view.sealed[count..].to_vec();
            let gone = view.sealed[..count].to_vec();
            view.sealed = Arc::new(kept);
            view.start = view.start.max(start);
            gone
        };
        self.shared.ring();
        counter.fetch_add(gone.iter().map(|s| s.records()).sum(), Ordering::Relaxed);
        self.counters.reclaimed_bytes.fetch_add(bytes_of(&gone), Ordering::Relaxed);
        remove_files(&gone);
        Ok(())
    }

    /// Replaces the oldest sealed segments, which must still be these, by others that hold what remained of them. The new ones
    /// are durable. Says whether that was done: not if the log was dropped meanwhile.
    pub(crate) fn replace(&self, old: &[Arc<Sealed>], new: &[Arc<Sealed>], clean: i64, life: u64) -> Result<bool, LogError> {
        let mut keeping = self.keeping.lock();
        let (sealed, manifest) = {
            let view = self.view.read();
            let first = view.sealed.iter().position(|s| Arc::ptr_eq(s, &old[0])).unwrap_or(usize::MAX);
            let range = first..first.saturating_add(old.len());
            let same = |found: &[Arc<Sealed>]| found.iter().zip(old).all(|(a, b)| Arc::ptr_eq(a, b));
            if self.life.load(Ordering::Acquire) != life || !view.sealed.get(range.clone()).is_some_and(same) {
                return Ok(false);
            }
            let (before, after) = (&view.sealed[..first], &view.sealed[range.end..]);
            let sealed: Vec<_> = before.iter().chain(new).chain(after).cloned().collect();
            let manifest = self.manifest_of(view.start, clean, &sealed, &view);
            (sealed, manifest)
        };
        self.put_manifest(&mut keeping, manifest)?;
        {
            let mut view = self.view.write();
            // Segments sealed since are behind those.
            let sealed_since = view.sealed.len() - (sealed.len() - new.len() + old.len());
            let since = view.sealed[view.sealed.len() - sealed_since..].to_vec();
            view.sealed = Arc::new(sealed.into_iter().chain(since).collect());
            view.clean = clean;
        }
        remove_files(old);
        self.counters.reclaimed_bytes.fetch_add(bytes_of(old).saturating_sub(bytes_of(new)), Ordering::Relaxed);
        Ok(true)
    }

    /// Writes the manifest if it would tell something new.
    pub(crate) fn write_manifest(&self) -> Result<(), LogError> {
        let mut keeping = self.keeping.lock();
        let manifest = {
            let view = self.view.read();
            self.manifest_of(view.start, view.clean, &view.sealed, &view)
        };
        self.put_manifest(&mut keeping, manifest)
    }

    fn put_manifest(&self, keeping: &mut Keeping, manifest: Manifest) -> Result<(), LogError> {
        if keeping.written.as_ref() != Some(&manifest) {
            if keeping.written.as_ref().is_none_or(|written| manifest.lists_more_than(written)) {
                // The names come first: a power loss must not leave a manifest without what it lists.
                self.options.files.sync_dir(&self.dir).map_err(|e| LogError::io(&self.dir, e))?;
            }
            manifest.write(&self.dir, &self.options.files)?;
            keeping.written = Some(manifest);
        }
        Ok(())
    }

    fn manifest_of(&self, start: i64, clean: i64, sealed: &[Arc<Sealed>], view: &View) -> Manifest {
        let segments = sealed.iter().map(|s| s.segment.as_ref()).chain(view.head.as_ref().map(|h| h.segment.as_ref()));
        let list = |s: &Segment| {
            let horizon = s.horizon_ms.load(Ordering::Relaxed);
            Listed { base_offset: s.base_offset, generation: s.generation, horizon_ms: (horizon != i64::MAX).then_some(horizon) }
        };
        let segments: Vec<_> = segments.map(list).collect();
        let end = self.end_offset();
        let last = view.last().map_or(-1, |l| l.offset);
        let skipped = (last + 1 < end).then_some((last, end));
        let through = segments.last().map_or(-1, |s| s.base_offset);
        Manifest { start, end: skipped, clean, through, segments }
    }
}

fn bytes_of(segments: &[Arc<Sealed>]) -> u64 {
    segments.iter().map(|s| s.segment.len()).sum()
}

/// Removes files that no manifest names any more. One that cannot be removed now is at the next start.
fn remove_files(gone: &[Arc<Sealed>]) {
    for s in gone {
        for path in [s.segment.path.with_extension("index"), s.segment.path.clone()] {
            match s.segment.files.remove(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "cannot be removed; it is at the next start");
                }
                _ => {}
            }
        }
    }
}
