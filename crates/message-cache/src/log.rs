//! A partition log: sealed segments, one head, one writer at a time, any number of readers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::clock::Clock;
use crate::error::LogError;
use crate::files::Files;
use crate::frame;
use crate::head::{Entry, Last, Tables};
use crate::keytable;
use crate::record::{NewRecord, Record};
use crate::recovery::Findings;
use crate::scan::Scan;
use crate::sealed::{self, Sealed};
use crate::segment::{self, Birth, Follows, Segment};
use crate::shared::Shared;

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
    /// Whether an append returns only after an fsync.
    pub durable: bool,
    pub on_corruption: OnCorruption,
    /// Look, but change nothing on disk.
    pub read_only: bool,
    pub clock: Clock,
    /// The file system, or what a test puts in its place.
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
    dir: PathBuf,
    options: LogOptions,
    writer: Mutex<Writer>,
    view: RwLock<View>,
    end: AtomicI64,
    corrupt_reads: AtomicU64,
    findings: Findings,
    recovery: Duration,
    shared: Arc<Shared>,
}

/// What only the appender touches.
#[derive(Default)]
struct Writer {
    buffer: Vec<u8>,
    entries: Vec<Entry>,
    poison: Option<String>,
}

/// What readers see. Records get here after they were written, and made durable where that is asked for.
pub struct View {
    /// Records below are not served.
    pub start: i64,
    pub sealed: Arc<Vec<Arc<Sealed>>>,
    pub head: Option<Head>,
}

pub struct Head {
    pub segment: Arc<Segment>,
    pub tables: Tables,
    /// Bytes of the segment that readers may see.
    pub visible: u64,
}

/// One look at a log.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LogStats {
    pub start_offset: i64,
    pub end_offset: i64,
    pub records: u64,
    /// Of segment files, without indexes.
    pub bytes: u64,
    pub segments: usize,
    /// Of the indexes that are in memory.
    pub index_heap_bytes: usize,
    /// Corrupt places found by recovery, and reads that met one.
    pub corrupt: u64,
    pub truncated_bytes: u64,
    pub recovery: Duration,
}

impl PartitionLog {
    /// Opens what is in `dir`, which is created if missing. `shared` rings whenever records become visible.
    pub fn open(dir: &Path, options: LogOptions, shared: Arc<Shared>) -> Result<Self, LogError> {
        let began = Instant::now();
        if !options.read_only {
            options.files.create_dirs(dir, options.durable).map_err(|e| LogError::io(dir, e))?;
        }
        let mut findings = Findings::default();
        let view = View::open(dir, &options, &mut findings)?;
        let end = view.end_offset();
        Ok(Self {
            dir: dir.to_owned(),
            options,
            writer: Mutex::default(),
            view: RwLock::new(view),
            end: AtomicI64::new(end),
            corrupt_reads: AtomicU64::new(0),
            findings,
            recovery: began.elapsed(),
            shared,
        })
    }

    /// Appends records at their own offsets and makes them visible. On an error the records before the one at fault may
    /// be in the log: [`PartitionLog::end_offset`] tells.
    pub fn append(&self, records: &[NewRecord<'_>]) -> Result<(), LogError> {
        let mut writer = self.writer.lock();
        self.append_locked(&mut writer, records)
    }

    /// Appends records at the next offsets, which they are given; returns the first.
    pub fn append_next(&self, records: &mut [NewRecord<'_>]) -> Result<i64, LogError> {
        let mut writer = self.writer.lock();
        let first = self.end_offset();
        for (record, offset) in records.iter_mut().zip(first..) {
            record.offset = offset;
        }
        self.append_locked(&mut writer, records)?;
        Ok(first)
    }

    fn append_locked(&self, writer: &mut Writer, mut records: &[NewRecord<'_>]) -> Result<(), LogError> {
        if let Some(cause) = &writer.poison {
            return Err(LogError::Poisoned { path: self.dir.clone(), cause: cause.clone() });
        }
        while let Some(first) = records.first() {
            let length = length_of(first)?;
            let segment = self.head_for(first.offset, frame::padded(length) as u64)?;
            let taken = self.encode(writer, &segment, records)?;
            segment.append(&writer.buffer)?;
            if self.options.durable
                && let Err(e) = segment.sync()
            {
                // What of the unsynced pages reached the disk is unknown, and a second fsync would claim success.
                let cause = format!("an fsync failed ({e})");
                writer.poison = Some(cause.clone());
                return Err(LogError::Poisoned { path: self.dir.clone(), cause });
            }
            self.publish(&segment, &writer.entries);
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
            let key_hash = record.key.map(keytable::hash);
            writer.entries.push(Entry { at, offset: record.offset, timestamp_ms: record.timestamp_ms, key_hash });
        }
        Ok(writer.entries.len())
    }

    /// The head segment if it has room, else a new one, the old being sealed.
    fn head_for(&self, offset: i64, bytes: u64) -> Result<Arc<Segment>, LogError> {
        let full = {
            let view = self.view.read();
            match &view.head {
                Some(head) if head.segment.has_room(bytes) => return Ok(Arc::clone(&head.segment)),
                head => head.as_ref().map(|h| Arc::clone(&h.segment)),
            }
        };
        let capacity = self.options.segment_bytes.clamp(segment::HEADER, SEGMENT_BYTES_MAX).max(segment::HEADER + bytes);
        let end = self.end_offset();
        let segment = match &full {
            None => self.create_segment(offset, capacity, None)?,
            // Without a record yet: the next one would have its name.
            Some(small) if small.base_offset == end => small.enlarge(capacity)?,
            Some(full) => self.create_segment(end, capacity, Some(full.as_predecessor()))?,
        };
        let segment = Arc::new(segment);
        let mut view = self.view.write();
        if let Some(full) = view.head.take()
            && full.segment.base_offset != segment.base_offset
        {
            let mut sealed = Vec::clone(&view.sealed);
            sealed.push(Sealed::new(full.segment, full.tables));
            view.sealed = Arc::new(sealed);
        }
        view.head = Some(Head { segment: Arc::clone(&segment), tables: Tables::default(), visible: segment::HEADER });
        Ok(segment)
    }

    fn create_segment(&self, base_offset: i64, capacity: u64, follows: Option<Follows>) -> Result<Segment, LogError> {
        let birth = Birth { base_offset, capacity, now_ms: self.shared.clock.now_ms(), follows, durable: self.options.durable };
        Segment::create(&self.dir, &birth, &self.options.files)
    }

    fn publish(&self, segment: &Arc<Segment>, entries: &[Entry]) {
        let Some(last) = entries.last() else { return };
        {
            let mut view = self.view.write();
            if let Some(head) = &mut view.head {
                for entry in entries {
                    head.tables.add(segment, *entry);
                }
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

    /// Moves the start of the log forward: the records below are gone, as after `delete-records` or retention in the cluster.
    /// Never moves it back, and never beyond the end.
    pub fn move_start(&self, offset: i64) -> Result<(), LogError> {
        let _writer = self.writer.lock();
        let offset = offset.min(self.end_offset());
        let mut view = self.view.write();
        if offset > view.start {
            view.start = offset;
            drop(view);
            self.shared.ring();
        }
        Ok(())
    }

    /// Drops everything; the log then begins, empty, at this offset.
    pub fn reset(&self, start_offset: i64) -> Result<(), LogError> {
        self.drop_all(Some(start_offset))
    }

    /// Drops everything; the log is then as [fresh](Self::is_fresh) as one that never held a record.
    pub fn clear(&self) -> Result<(), LogError> {
        self.drop_all(None)
    }

    fn drop_all(&self, start_offset: Option<i64>) -> Result<(), LogError> {
        let mut writer = self.writer.lock();
        // What would be appended to a half dropped log would be dropped with it.
        writer.poison = Some("a reset did not finish; reset it again".into());
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
        let capacity = self.options.segment_bytes.clamp(segment::HEADER, SEGMENT_BYTES_MAX);
        let segment = start_offset.map(|offset| self.create_segment(offset, capacity, None)).transpose()?;
        {
            let mut view = self.view.write();
            view.sealed = Arc::default();
            view.start = start_offset.unwrap_or(0);
            view.head = segment.map(|s| Head { segment: Arc::new(s), tables: Tables::default(), visible: segment::HEADER });
            self.end.store(start_offset.unwrap_or(0), Ordering::Release);
        }
        writer.poison = None;
        self.shared.ring();
        match files.remove_tree(&dead) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(LogError::io(&dead, e)),
            _ => Ok(()),
        }
    }

    /// The newest record of a key, tombstones included; `None` if there is none.
    pub fn latest(&self, key: &[u8]) -> Result<Option<Record>, LogError> {
        let hash = keytable::hash(key);
        let found = self.find_newest(hash, key);
        let record = found.and_then(|place| place.map(|(segment, at)| segment.record(at)).transpose());
        record.inspect_err(|e| self.count_corrupt(e))
    }

    fn find_newest(&self, hash: u32, key: &[u8]) -> Result<Option<(Arc<Segment>, u64)>, LogError> {
        let sealed = {
            let view = self.view.read();
            if let Some(head) = &view.head
                && let Some(at) = head.tables.newest(&head.segment, hash, key)?
            {
                return Ok(Some((Arc::clone(&head.segment), at)));
            }
            Arc::clone(&view.sealed)
        };
        for s in sealed.iter().rev() {
            if let Some(at) = s.newest(hash, key)? {
                return Ok(Some((Arc::clone(&s.segment), at)));
            }
        }
        Ok(None)
    }

    /// Whether this record is the newest of its key; false for a null key.
    pub fn is_latest(&self, record: &Record) -> Result<bool, LogError> {
        let Some(key) = record.key() else { return Ok(false) };
        let found = self.find_newest(keytable::hash(key), key)?;
        Ok(found.is_some_and(|(segment, at)| record.is_at(&segment, at)))
    }

    /// The records from an offset to the end as it is now.
    pub fn scan(&self, from: i64) -> Scan {
        self.scan_at(from, |sealed| Some(sealed.before_offset(from)), |sparse| sealed::before_offset(sparse, from))
    }

    fn scan_at(
        &self,
        from: i64,
        in_sealed: impl Fn(&Sealed) -> Option<u64>,
        in_head: impl Fn(&[crate::head::Sparse]) -> u64,
    ) -> Scan {
        let view = self.view.read();
        let mut segments = Vec::new();
        let mut start = None;
        for s in view.sealed.iter() {
            if start.is_none() {
                let ends_before = s.last().is_none_or(|l| l.offset < from);
                start = if ends_before { None } else { in_sealed(s) };
            }
            if start.is_some() {
                segments.push((Arc::clone(&s.segment), s.segment.len()));
            }
        }
        if let Some(head) = &view.head {
            start = start.or_else(|| Some(in_head(&head.tables.sparse)));
            segments.push((Arc::clone(&head.segment), head.visible));
        }
        Scan::new(segments, start.unwrap_or(segment::HEADER), from)
    }

    /// Offset of the first record of at least that time; the end if there is none. (KIP-79)
    pub fn offset_for_time(&self, timestamp_ms: i64) -> i64 {
        let scan = self.scan_at(i64::MIN, |s| s.before_time(timestamp_ms), |sparse| sealed::before_time(sparse, timestamp_ms));
        let found = scan.filter_map(Result::ok).find(|r| r.timestamp_ms() >= timestamp_ms);
        found.map_or_else(|| self.end_offset(), |r| r.offset())
    }

    /// Where the log begins; 0 before anything is in it.
    pub fn start_offset(&self) -> i64 {
        self.view.read().start_offset()
    }

    /// The next offset that the log will hold.
    pub fn end_offset(&self) -> i64 {
        self.end.load(Ordering::Acquire)
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

    /// Offset and timestamp of the last record.
    pub fn last(&self) -> Option<(i64, i64)> {
        let view = self.view.read();
        let head = view.head.as_ref().and_then(|h| h.tables.last);
        let last = head.or_else(|| view.sealed.iter().rev().find_map(|s| s.last()));
        last.map(|Last { offset, timestamp_ms }| (offset, timestamp_ms))
    }

    pub fn stats(&self) -> LogStats {
        let view = self.view.read();
        let head = view.head.as_ref();
        LogStats {
            start_offset: view.start_offset(),
            end_offset: self.end_offset(),
            records: view.sealed.iter().map(|s| s.records()).sum::<u64>() + head.map_or(0, |h| h.tables.records),
            bytes: view.sealed.iter().map(|s| s.segment.len()).sum::<u64>() + head.map_or(0, |h| h.visible),
            segments: view.sealed.len() + usize::from(head.is_some()),
            index_heap_bytes: view.sealed.iter().map(|s| s.heap_bytes()).sum::<usize>()
                + head.map_or(0, |h| h.tables.heap_bytes()),
            corrupt: self.findings.corrupt.len() as u64 + self.corrupt_reads.load(Ordering::Relaxed),
            truncated_bytes: self.findings.truncated_bytes,
            recovery: self.recovery,
        }
    }

    /// Whether every segment file is as it was written and where it was written; else [`LogError::Cut`] names one. Costs a
    /// few calls of `stat` per segment: for housekeeping.
    pub fn check_files(&self) -> Result<(), LogError> {
        let segments = |view: &View| -> Vec<Arc<Segment>> {
            view.sealed.iter().map(|s| &s.segment).chain(view.head.as_ref().map(|h| &h.segment)).cloned().collect()
        };
        let seen = segments(&self.view.read());
        let Some(cut) = seen.into_iter().find(|s| !s.is_intact()) else { return Ok(()) };
        // Unless we took it away meanwhile.
        let is_ours = segments(&self.view.read()).iter().any(|s| Arc::ptr_eq(s, &cut));
        if is_ours { Err(LogError::Cut { path: cut.path.clone() }) } else { Ok(()) }
    }

    fn count_corrupt(&self, error: &LogError) {
        self.corrupt_reads.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%error, "a record cannot be read");
    }
}

impl View {
    fn start_offset(&self) -> i64 {
        let head = self.head.as_ref().map(|h| h.segment.base_offset);
        self.start.max(self.sealed.first().map(|s| s.segment.base_offset).or(head).unwrap_or(0))
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
