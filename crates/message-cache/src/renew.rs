//! A log that begins elsewhere: its start moves forward, or all of it is dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::durability::Refusal;
use crate::error::LogError;
use crate::head::Tables;
use crate::log::{Head, OnCorruption, PartitionLog, View};
use crate::segment;

impl PartitionLog {
    /// Moves the start of the log forward: the records below are gone, as after `delete-records` or retention in the cluster.
    /// Never moves it back. Beyond the end it takes the end with it: the cluster no longer has what lay between.
    ///
    /// # Errors
    /// When a log that is the only copy, or a durable one, cannot note this on disk; it holds until a restart all the same.
    pub fn move_start(&self, offset: i64) -> Result<(), LogError> {
        {
            let _writer = self.writer.lock();
            let mut view = self.view.write();
            // Also one that was moved before and could not be noted.
            if offset > view.start {
                view.start = offset;
                self.end.fetch_max(offset, Ordering::AcqRel);
            }
        }
        self.shared.ring();
        // Nobody else remembers where an only copy begins, whatever is promised of its records.
        let is_noted = self.is_durable() || self.options.on_corruption == OnCorruption::Keep;
        if is_noted { self.write_manifest() } else { Ok(()) }
    }

    /// Drops everything; the log then begins, empty, at this offset.
    pub fn reset(&self, start_offset: i64) -> Result<(), LogError> {
        self.drop_all(Some(start_offset), None)
    }

    /// Drops everything; the log is then as [fresh](Self::is_fresh) as one that never held a record.
    pub fn clear(&self) -> Result<(), LogError> {
        self.drop_all(None, None)
    }

    /// Drops everything for good: from now on nothing is written to the directory, which another log may have.
    pub(crate) fn retire(&self) -> Result<(), LogError> {
        self.drop_all(None, Some(Refusal::Gone))
    }

    fn drop_all(&self, start_offset: Option<i64>, then: Option<Refusal>) -> Result<(), LogError> {
        if !self.is_fresh() {
            self.life.fetch_add(1, Ordering::AcqRel);
        }
        // What is being compacted is broken off, and its files are away, before the directory is another one's.
        let _turn = self.turn.lock();
        let mut keeping = self.keeping.lock();
        let _writer = self.writer.lock();
        // An fsync that runs is of the old life: should it fail, that must not be said of the new one.
        let _syncing = self.durability.hold();
        if self.durability.is_gone() {
            return if then.is_some() { Ok(()) } else { self.refusal() };
        }
        // What would be appended to a half dropped log would be dropped with it.
        self.durability.set_refusal(Some(Refusal::Poisoned("a reset did not finish; reset it again".into())));
        // The old life disappears in one step, so that a crash cannot leave half of it behind.
        let dead = self.dir.with_extension(format!("dead-{:08x}", fastrand::u32(..)));
        let files = &self.options.files;
        match files.rename(&self.dir, &dead) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(LogError::io(&self.dir, e)),
            _ => {}
        }
        // And for good: a power loss must not bring it back.
        let renewed = files.create_dirs(&self.dir, false).and_then(|()| files.sync_parent(&self.dir));
        renewed.map_err(|e| LogError::io(&self.dir, e))?;
        let segment = start_offset.map(|offset| self.create_segment(offset, self.segment_bytes(), None)).transpose()?;
        let start = start_offset.unwrap_or(0);
        {
            let head = segment.map(|s| Head { segment: Arc::new(s), tables: Tables::default(), visible: segment::HEADER });
            *self.view.write() = View { start, clean: start, sealed: Arc::default(), head };
            self.end.store(start, Ordering::Release);
        }
        keeping.written = None;
        self.counters.is_damaged.store(false, Ordering::Relaxed);
        self.durability.set_refusal(then);
        self.shared.ring();
        match files.remove_tree(&dead) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(LogError::io(&dead, e)),
            _ => Ok(()),
        }
    }
}
