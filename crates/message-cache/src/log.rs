//! A partition log: sealed segments, one head, one writer at a time, any number of readers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::clock::Clock;
use crate::durability::Durability;
use crate::error::LogError;
use crate::files::Files;
use crate::frame;
use crate::head::{Entry, Last, Tables};
use crate::keep::Keeping;
use crate::keytable;
use crate::open::{self, Opened};
use crate::record::NewRecord;
use crate::recovery::Findings;
use crate::sealed::Sealed;
use crate::segment::{self, Birth, Follows, Segment};
use crate::shared::Shared;
use crate::stats::Counters;

/// What recovery does with a corrupt record that whole records follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnCorruption {
    /// Cut it off with all that follows: the cluster has the records and will be asked again.
    Refetch,
    /// Keep what follows: this log is the only copy. The corrupt record is reported and never served.
    Keep,
}

#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Most bytes of one segment file; a larger record has a segment of its own.
    pub segment_bytes: u64,
    /// Whether an append returns, and is seen, only after an fsync: at first, see [`PartitionLog::set_durable`].
    pub durable: bool,
    pub on_corruption: OnCorruption,
    /// Look, but change nothing on disk.
    pub read_only: bool,
    pub clock: Clock,
    pub files: Files,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 256 << 20,
            durable: false,
            on_corruption: OnCorruption::Refetch,
            read_only: false,
            clock: Clock::System,
            files: Files::default(),
        }
    }
}

/// Positions in a segment are kept in 32 bits, in units of 8 bytes.
pub const SEGMENT_BYTES_MAX: u64 = 32 << 30;
/// Bytes encoded before they are written; bounds the writer's buffer.
const WRITE_BYTES: usize = 4 << 20;

/// The log of one partition. See `docs/format.md` for what is on disk.
pub struct PartitionLog {
    pub(crate) dir: PathBuf,
    pub(crate) options: LogOptions,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) view: RwLock<View>,
    pub(crate) end: AtomicI64,
    /// Counts how often everything was dropped: what was begun before does not count afterwards.
    pub(crate) life: AtomicU64,
    /// Held for a whole turn of housekeeping: two that compact the same segments would take each other's files away.
    pub(crate) turn: Mutex<()>,
    pub(crate) keeping: Mutex<Keeping>,
    pub(crate) durability: Durability,
    pub(crate) counters: Counters,
    pub(crate) findings: Findings,
    pub(crate) recovery: Duration,
    pub(crate) shared: Arc<Shared>,
}

/// What only the appender touches.
#[derive(Default)]
pub struct Writer {
    buffer: Vec<u8>,
    entries: Vec<Entry>,
}

/// What readers see. Records get here after they were written, and made durable where that is asked for.
#[derive(Default)]
pub struct View {
    /// Records below are not served.
    pub start: i64,
    /// Records below have been compacted.
    pub clean: i64,
    pub sealed: Arc<Vec<Arc<Sealed>>>,
    pub head: Option<Head>,
}

pub struct Head {
    pub segment: Arc<Segment>,
    pub tables: Tables,
    /// Bytes of the segment that readers may see.
    pub visible: u64,
}

impl PartitionLog {
    /// Opens what is in `dir`, which is created if missing. `shared` rings whenever records become visible.
    pub fn open(dir: &Path, options: LogOptions, shared: Arc<Shared>) -> Result<Self, LogError> {
        let began = Instant::now();
        if !options.read_only {
            options.files.create_dirs(dir, options.durable).map_err(|e| LogError::io(dir, e))?;
        }
        let mut findings = Findings::default();
        let Opened { view, manifest } = open::open(dir, &options, &mut findings)?;
        let last = view.last().map_or(-1, |l| l.offset);
        // Only if nothing was cut off behind the last record then: else the gap it stands for would hide what was.
        let skipped = manifest.as_ref().and_then(|m| m.end).filter(|(after, _)| last == *after).map_or(0, |(_, end)| end);
        let end = view.end_offset().max(skipped).max(view.start);
        let log = Self {
            dir: dir.to_owned(),
            durability: Durability::new(options.durable),
            options,
            writer: Mutex::default(),
            view: RwLock::new(view),
            end: AtomicI64::new(end),
            life: AtomicU64::new(0),
            turn: Mutex::default(),
            keeping: Mutex::new(Keeping { written: manifest }),
            counters: Counters::default(),
            findings,
            recovery: began.elapsed(),
            shared,
        };
        // What recovery cut off must not be missed next time, nor what is appended in its place be taken for remains.
        if !log.options.read_only && log.keeping.lock().written.is_some() {
            match log.write_manifest() {
                // It tells nothing that must be known next time; there will be space again.
                Err(LogError::DiskFull { .. }) if !log.findings.refetch => {}
                written => written?,
            }
        }
        Ok(log)
    }

    /// Appends records at their own offsets and makes them visible. On an error the records before the one at fault may
    /// be in the log: [`PartitionLog::end_offset`] tells.
    pub fn append(&self, records: &[NewRecord<'_>]) -> Result<(), LogError> {
        let mut writer = self.writer.lock();
        self.append_locked(&mut writer, records)
    }

    /// As [`Appending::append_next`].
    pub fn append_next(&self, records: &mut [NewRecord<'_>]) -> Result<i64, LogError> {
        self.begin_append()?.append_next(records)
    }

    /// Keeps others from appending, for who looks at the log first: see [`Appending`].
    ///
    /// # Errors
    /// Why the log takes no records, if it takes none.
    pub fn begin_append(&self) -> Result<Appending<'_>, LogError> {
        let writer = self.writer.lock();
        self.refusal()?;
        Ok(Appending { log: self, writer })
    }

    fn append_locked(&self, writer: &mut Writer, mut records: &[NewRecord<'_>]) -> Result<(), LogError> {
        self.refusal()?;
        // Tombstones are how room is made.
        if self.shared.is_full.load(Ordering::Relaxed) && records.iter().any(|r| r.value.is_some()) {
            return Err(LogError::Full { path: self.dir.clone() });
        }
        while let Some(first) = records.first() {
            let length = length_of(first)?;
            let segment = self.head_for(first.offset, frame::padded(length) as u64)?;
            let taken = self.encode(writer, &segment, records)?;
            let is_durable = self.is_durable();
            if is_durable {
                segment.check_name()?;
            }
            segment.append(&writer.buffer)?;
            if is_durable {
                segment.sync().map_err(|e| self.poison(&e))?;
            }
            self.publish(&segment, writer);
            records = &records[taken..];
        }
        Ok(())
    }

    /// Encodes as many of the records as the segment and the buffer take; at least the first, for which there is room.
    fn encode(&self, writer: &mut Writer, segment: &Segment, records: &[NewRecord<'_>]) -> Result<usize, LogError> {
        writer.buffer.clear();
        writer.entries.clear();
        let start = segment.len();
        let mut end = self.end_offset();
        for record in records {
            if record.offset < end {
                return Err(LogError::OutOfOrder { offset: record.offset, end });
            }
            end = record.offset + 1;
            let at = start + writer.buffer.len() as u64;
            let length = length_of(record)?;
            let used = (writer.buffer.len() + frame::padded(length)) as u64;
            if !writer.entries.is_empty() && (!segment.has_room(used) || used > WRITE_BYTES as u64) {
                break;
            }
            frame::encode(record, length, segment.salt, &mut writer.buffer);
            let key_hash = record.key.map(|key| keytable::hash(key, segment.salt));
            let (offset, timestamp_ms, has_headers) = (record.offset, record.timestamp_ms, !record.headers.is_empty());
            writer.entries.push(Entry { at, offset, timestamp_ms, key_hash, has_headers });
        }
        Ok(writer.entries.len())
    }

    /// The head segment if it has room, else a new one, the old being sealed.
    fn head_for(&self, offset: i64, bytes: u64) -> Result<Arc<Segment>, LogError> {
        // It may have been begun when segments were longer.
        let max = self.segment_bytes();
        let base = {
            let view = self.view.read();
            let fits = |s: &Segment| s.has_room(bytes) && (s.len() == segment::HEADER || s.len() + bytes <= max);
            match &view.head {
                Some(head) if fits(&head.segment) => return Ok(Arc::clone(&head.segment)),
                Some(_) => self.end_offset(),
                None => offset,
            }
        };
        self.begin_segment(base, bytes)
    }

    /// Seals the head, if there is one, and begins another with room for a frame of so many bytes. The caller holds the writer.
    pub(crate) fn begin_segment(&self, base: i64, bytes: u64) -> Result<Arc<Segment>, LogError> {
        let capacity = self.segment_bytes().max(segment::HEADER + bytes);
        let empty_head = {
            let view = self.view.read();
            view.head.as_ref().filter(|h| h.visible == segment::HEADER).map(|h| Arc::clone(&h.segment))
        };
        let segment = Arc::new(match empty_head {
            // Too small for its first record; another would have its name.
            Some(small) if small.base_offset == base => small.enlarge(capacity)?,
            _ => self.create_segment(base, capacity, self.predecessor())?,
        });
        let mut view = self.view.write();
        match view.head.take() {
            Some(empty) if empty.visible == segment::HEADER => {
                if empty.segment.base_offset != base {
                    let _ = self.options.files.remove(&empty.segment.path);
                }
            }
            Some(full) => {
                let mut sealed = Vec::clone(&view.sealed);
                sealed.push(Sealed::new(full.segment, full.tables));
                view.sealed = Arc::new(sealed);
            }
            None => view.start = view.start.max(base),
        }
        view.head = Some(Head { segment: Arc::clone(&segment), tables: Tables::default(), visible: segment::HEADER });
        Ok(segment)
    }

    /// Most bytes of a segment: the topic's, and no more than the cache's.
    pub(crate) fn segment_bytes(&self) -> u64 {
        let topic = self.shared.policy().segment_bytes.unwrap_or(u64::MAX);
        self.options.segment_bytes.min(topic).clamp(segment::HEADER, SEGMENT_BYTES_MAX)
    }

    /// The segment that another would follow: the last that holds anything.
    fn predecessor(&self) -> Option<Follows> {
        let view = self.view.read();
        match &view.head {
            Some(head) if head.visible > segment::HEADER => Some(head.segment.as_predecessor()),
            _ => view.sealed.last().filter(|s| s.segment.generation == 0).map(|s| s.segment.as_predecessor()),
        }
    }

    pub(crate) fn create_segment(&self, base_offset: i64, capacity: u64, follows: Option<Follows>) -> Result<Segment, LogError> {
        let (now_ms, durable) = (self.shared.clock.now_ms(), self.is_durable());
        let birth = Birth { base_offset, generation: 0, capacity, now_ms, follows, durable };
        let segment = Segment::create(&self.dir, &birth, &self.options.files)?;
        if !durable {
            self.durability.note_name();
        }
        Ok(segment)
    }

    fn publish(&self, segment: &Arc<Segment>, Writer { buffer, entries }: &Writer) {
        let Some(last) = entries.last() else { return };
        {
            let mut view = self.view.write();
            if let Some(head) = &mut view.head {
                head.tables.add_all(segment, entries, buffer);
                head.visible = segment.len();
            }
        }
        self.move_end(last.offset + 1);
    }

    fn move_end(&self, end: i64) {
        if self.end.fetch_max(end, Ordering::AcqRel) < end {
            self.shared.ring();
        }
    }

    /// Moves the end over offsets that hold no record: control records of transactions, or what the cluster compacted.
    pub fn skip_to(&self, next_offset: i64) {
        let _writer = self.writer.lock();
        self.move_end(next_offset);
    }

    /// Where the log begins; 0 before anything is in it.
    pub fn start_offset(&self) -> i64 {
        self.view.read().start
    }

    /// The next offset that the log will hold.
    pub fn end_offset(&self) -> i64 {
        self.end.load(Ordering::Acquire)
    }

    /// Counts how often what was in the log was dropped since it was opened.
    pub fn life(&self) -> u64 {
        self.life.load(Ordering::Acquire)
    }

    /// True until something was appended or the log was [reset](Self::reset) to a start: on disk there is no segment.
    pub fn is_fresh(&self) -> bool {
        let view = self.view.read();
        view.head.is_none() && view.sealed.is_empty()
    }

    /// Whether recovery cut whole records off behind a corrupt one, for the cluster to give again.
    pub fn has_lost_records(&self) -> bool {
        self.findings.refetch
    }

    /// Whether every segment file is as it was written and where it was written; else [`LogError::Cut`] names one. Of a log that
    /// is only read, the files may be gone: their owner removes what it needs no more. Costs a few calls of `stat` per segment:
    /// for housekeeping.
    pub fn check_files(&self) -> Result<(), LogError> {
        let segments = |view: &View| -> Vec<Arc<Segment>> {
            view.sealed.iter().map(|s| &s.segment).chain(view.head.as_ref().map(|h| &h.segment)).cloned().collect()
        };
        let seen = segments(&self.view.read());
        let is_well = |s: &Segment| if self.options.read_only { s.is_whole() } else { s.is_intact() };
        let Some(cut) = seen.into_iter().find(|s| !is_well(s)) else { return Ok(()) };
        // Unless we took it away meanwhile.
        let is_ours = segments(&self.view.read()).iter().any(|s| Arc::ptr_eq(s, &cut));
        if is_ours { Err(LogError::Cut { path: cut.path.clone() }) } else { Ok(()) }
    }

    /// Offset and timestamp of the last record.
    pub fn last(&self) -> Option<(i64, i64)> {
        self.view.read().last().map(|Last { offset, timestamp_ms }| (offset, timestamp_ms))
    }
}

/// Whose turn it is to append. Until this is dropped nobody else does, nor is the log reset: what is read of it meanwhile, in any
/// way that writes nothing, is all that was appended before, and holds for the append that follows.
pub struct Appending<'a> {
    log: &'a PartitionLog,
    writer: MutexGuard<'a, Writer>,
}

impl Appending<'_> {
    /// Appends records at the next offsets, which they are given; returns the first.
    ///
    /// # Errors
    /// As of [`PartitionLog::append`].
    pub fn append_next(&mut self, records: &mut [NewRecord<'_>]) -> Result<i64, LogError> {
        let first = self.log.end_offset();
        for (record, offset) in records.iter_mut().zip(first..) {
            record.offset = offset;
        }
        self.log.append_locked(&mut self.writer, records)?;
        Ok(first)
    }
}

impl View {
    pub fn last(&self) -> Option<Last> {
        let head = self.head.as_ref().and_then(|h| h.tables.last);
        head.or_else(|| self.sealed.iter().rev().find_map(|s| s.last()))
    }

    fn end_offset(&self) -> i64 {
        let Some(head) = &self.head else { return 0 };
        // A head without records may follow sealed segments whose tail was cut off.
        head.tables.last.map_or(head.segment.base_offset, |l| l.offset + 1)
    }
}

fn length_of(record: &NewRecord<'_>) -> Result<usize, LogError> {
    frame::length_of(record).ok_or_else(|| {
        let bytes = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        LogError::TooLarge { bytes: bytes as u64, max: frame::MAX_FRAME as u64 }
    })
}
