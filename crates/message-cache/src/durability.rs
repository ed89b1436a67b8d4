//! What is durable of a log, and when. There is one way to the disk: [`PartitionLog::sync`], or an append to a durable log. An
//! fsync that failed is the last one.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

use crate::error::LogError;
use crate::log::PartitionLog;

/// Why a log takes no more records.
#[derive(Clone)]
pub enum Refusal {
    /// What happened.
    Poisoned(String),
    /// Its directory may be that of another log.
    Gone,
}

/// Locked in this order: housekeeping, writer, `syncing`, `refusal`.
pub struct Durability {
    /// Whether each append is fsynced before readers see it.
    always: AtomicBool,
    /// Whether the directory may hold names that are not durable.
    new_names: AtomicBool,
    /// Held while [`PartitionLog::sync`] works: whether the names of the directories above are durable.
    syncing: Mutex<bool>,
    refusal: Mutex<Option<Refusal>>,
}

impl Durability {
    pub fn new(always: bool) -> Self {
        // Of what another process left, nothing is known.
        let new_names = AtomicBool::new(true);
        Self { always: AtomicBool::new(always), new_names, syncing: Mutex::default(), refusal: Mutex::default() }
    }

    /// Says that there is a name in the directory that was not fsynced. To be called before anybody relies on it.
    pub fn note_name(&self) {
        self.new_names.store(true, Ordering::Release);
    }

    /// No [`PartitionLog::sync`] runs while this is held.
    pub fn hold(&self) -> MutexGuard<'_, bool> {
        self.syncing.lock()
    }

    pub fn set_refusal(&self, refusal: Option<Refusal>) {
        *self.refusal.lock() = refusal;
    }

    pub fn is_gone(&self) -> bool {
        matches!(*self.refusal.lock(), Some(Refusal::Gone))
    }
}

impl PartitionLog {
    /// Whether each append is fsynced before it is seen and acknowledged.
    pub fn is_durable(&self) -> bool {
        self.durability.always.load(Ordering::Acquire)
    }

    /// Whether appends are fsynced from now on, each before it is seen and acknowledged. Switched on, what is there is made
    /// durable first; appends wait only for the rest of that.
    ///
    /// # Errors
    /// As of [`PartitionLog::sync`]; the switch is then not made.
    pub fn set_durable(&self, durable: bool) -> Result<(), LogError> {
        if durable && !self.is_durable() {
            self.sync()?;
            let _writer = self.writer.lock();
            self.sync()?;
            self.durability.always.store(true, Ordering::Release);
        } else if !durable {
            self.durability.always.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Makes durable what was appended before the call: the segments as far as they are not, and the names of new ones. Appends go
    /// on meanwhile. Does nothing where nothing is to be done, and to a log that is only read.
    ///
    /// # Errors
    /// [`LogError::Poisoned`] when an fsync fails: what of the unsynced pages reached the disk is unknown, and a second one would
    /// claim success. Any other when none was tried, for want of file descriptors perhaps: try again.
    pub fn sync(&self) -> Result<(), LogError> {
        if self.options.read_only {
            return Ok(());
        }
        let mut above_is_durable = self.durability.syncing.lock();
        self.refusal()?;
        let (sealed, head) = {
            let view = self.view.read();
            (view.sealed.clone(), view.head.as_ref().map(|h| h.segment.clone()))
        };
        for segment in sealed.iter().map(|s| &s.segment).chain(&head) {
            segment.sync().map_err(|e| self.poison(&e))?;
        }
        let files = &self.options.files;
        // Behind the look at the segments: their names were noted before they were shown.
        if self.durability.new_names.swap(false, Ordering::AcqRel) {
            files.sync_dir(&self.dir).map_err(|e| self.unnamed(e))?;
        }
        if !*above_is_durable {
            // Of the partition in its topic, and of the topic.
            let topic = self.dir.parent();
            let synced = files.sync_parent(&self.dir).and_then(|()| topic.map_or(Ok(()), |topic| files.sync_parent(topic)));
            synced.map_err(|e| self.unnamed(e))?;
            *above_is_durable = true;
        }
        Ok(())
    }

    /// Of an fsync of a directory that did not go well. To do it, the directory is opened, which may fail for other reasons.
    fn unnamed(&self, error: std::io::Error) -> LogError {
        self.durability.note_name();
        match Errno::from_io_error(&error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOENT | Errno::NOTDIR | Errno::NOMEM) => LogError::io(&self.dir, error),
            _ => self.poison(&error),
        }
    }

    /// Why the log takes no records, if it takes none.
    pub(crate) fn refusal(&self) -> Result<(), LogError> {
        let path = || self.dir.clone();
        match &*self.durability.refusal.lock() {
            None => Ok(()),
            Some(Refusal::Poisoned(cause)) => Err(LogError::Poisoned { path: path(), cause: cause.clone() }),
            Some(Refusal::Gone) => Err(LogError::Gone { path: path() }),
        }
    }

    /// Takes no more records, since an fsync failed.
    pub(crate) fn poison(&self, error: &std::io::Error) -> LogError {
        let cause = format!("an fsync failed ({error})");
        self.durability.set_refusal(Some(Refusal::Poisoned(cause.clone())));
        LogError::Poisoned { path: self.dir.clone(), cause }
    }
}
