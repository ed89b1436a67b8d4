//! One segment file: a header, then frames. Written with `pwrite`, read through a mapping.
//!
//! The mapping of the head segment is as long as the segment may grow. Pages past the end of the file fault, so nothing
//! here reads past [`Segment::len`], which only moves after the bytes below it were written.

use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memmap2::{MmapOptions, MmapRaw};
use parking_lot::Mutex;
use rustix::fs::SeekFrom;

use crate::error::LogError;
use crate::files::Files;
use crate::frame::{self, Fault, Fixed};
use crate::record::Record;
use crate::sigbus::Guard;

const MAGIC: &[u8; 8] = b"TIDELOG\0";
pub const VERSION: u32 = 1;
/// Length of the file header, and so the position of the first frame.
pub const HEADER: u64 = 64;
/// Longest time that appends go on to a file that was removed, unless each is fsynced.
const NAME_LOOK: Duration = Duration::from_millis(1);

/// The read-only mapping of a segment, kept alive by every record that points into it.
pub struct Mapping {
    // Before the map, which is unmapped after it.
    guard: Guard,
    map: MmapRaw,
}

impl Mapping {
    /// # Safety
    /// `start + len` must be within the bytes written to the segment, which never change again.
    pub unsafe fn slice(&self, start: usize, len: usize) -> &[u8] {
        debug_assert!(start + len <= self.map.len());
        // SAFETY: within the mapping by the caller's word, and immutable since append-only.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(start), len) }
    }
}

pub struct Segment {
    pub path: PathBuf,
    pub base_offset: i64,
    /// 0 as it was appended; higher as the cleaner wrote it.
    pub generation: u32,
    pub salt: u32,
    /// When the file was begun, ms since the epoch.
    pub created_ms: i64,
    /// The earliest delete horizon of the tombstones in it; `i64::MAX` without one. Known of what the cleaner wrote.
    pub horizon_ms: AtomicI64,
    pub files: Files,
    file: File,
    map: Arc<Mapping>,
    capacity: u64,
    len: AtomicU64,
    opened: Instant,
    /// When an append is to look for the name of the file again, from `opened` on.
    name_due_us: AtomicU64,
    /// A refused write could not be cut off; its bytes lie above `len`.
    has_refuse: AtomicBool,
    /// Held while the file is fsynced.
    synced: Mutex<Synced>,
}

/// How far a segment is known to be durable.
#[derive(Default)]
struct Synced {
    /// Bytes from the beginning.
    len: u64,
    /// The `errno` of an fsync that failed.
    failed: Option<i32>,
}

/// The segment that was there before this one. Where files are not synced, a power loss may take the end of a segment, or all
/// of it, and leave the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follows {
    pub base_offset: i64,
    /// Bytes that it had when it was full.
    pub len: u64,
}

pub fn file_name(base_offset: i64, generation: u32) -> String {
    if generation == 0 { format!("{base_offset:020}.log") } else { format!("{base_offset:020}-{generation:08x}.log") }
}

/// Base offset and generation of a segment by the name of its file.
pub fn parse_name(name: &str) -> Option<(i64, u32)> {
    let stem = name.strip_suffix(".log")?;
    let (base, generation) = stem.split_once('-').map_or((stem, Ok(0)), |(base, g)| (base, u32::from_str_radix(g, 16)));
    let (base, generation) = (base.parse().ok()?, generation.ok()?);
    (file_name(base, generation) == name).then_some((base, generation))
}

/// What a new segment is to be.
pub struct Birth {
    pub base_offset: i64,
    pub generation: u32,
    /// Bounds its length and that of its mapping, in bytes.
    pub capacity: u64,
    pub now_ms: i64,
    pub follows: Option<Follows>,
    /// Whether its name is fsynced, so that what is synced in it is found again.
    pub durable: bool,
}

impl Segment {
    /// A new file, in place of one of that name that never held an acknowledged record. When this fails, there is none.
    pub fn create(dir: &Path, birth: &Birth, files: &Files) -> Result<Self, LogError> {
        let path = dir.join(file_name(birth.base_offset, birth.generation));
        let salt = fastrand::u32(1..);
        let header = encode_header(birth, salt);
        // The header is whole or the file is not there under its name, also after a power loss.
        let tmp = path.with_extension("tmp");
        let whole = files.create(&tmp).and_then(|file| {
            files.write_all_at(&file, &tmp, &header, 0)?;
            files.sync_data(&file, &tmp)?;
            if birth.follows.is_some() {
                // Without the names of those before it, it would look like the first.
                files.sync_dir(dir)?;
            }
            files.rename(&tmp, &path)?;
            Ok(file)
        });
        let named = whole.and_then(|file| {
            let synced = if birth.durable { files.sync_dir(dir) } else { Ok(()) };
            synced.map(|()| file).inspect_err(|_| drop(files.remove(&path)))
        });
        let file = named.map_err(|e| {
            let _ = files.remove(&tmp);
            LogError::io(&path, e)
        })?;
        let Birth { base_offset, generation, follows, now_ms: created_ms, .. } = *birth;
        let found = Header { base_offset, generation, salt, created_ms, follows };
        let segment = Self::map(path, file, found, birth.capacity, HEADER, files.clone())?;
        segment.synced.lock().len = HEADER;
        Ok(segment)
    }

    /// Opens a file and maps it for at least `capacity` bytes; its frames are not looked at.
    pub fn open(path: PathBuf, capacity: u64, writable: bool, files: &Files) -> Result<Self, LogError> {
        let io = |e| LogError::io(&path, e);
        let file = OpenOptions::new().read(true).write(writable).open(&path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let mut header = [0u8; HEADER as usize];
        file.read_exact_at(&mut header, 0).map_err(|_| format_error(&path, "too short for a segment header"))?;
        let mut header = decode_header(&header).map_err(|what| format_error(&path, what))?;
        match path.file_name().and_then(|n| n.to_str()).and_then(parse_name) {
            Some((base, generation)) if base == header.base_offset => header.generation = generation,
            _ => return Err(format_error(&path, format!("its header says that it begins at offset {}", header.base_offset))),
        }
        Self::map(path, file, header, capacity.max(len), len, files.clone())
    }

    /// The same file with more room. There is no record in it yet, nor was one acknowledged.
    pub fn enlarge(&self, capacity: u64) -> Result<Self, LogError> {
        let larger = Self::open(self.path.clone(), capacity, true, &self.files)?;
        if larger.len() > HEADER {
            larger.truncate(HEADER)?;
        }
        Ok(larger)
    }

    fn map(path: PathBuf, file: File, header: Header, capacity: u64, len: u64, files: Files) -> Result<Self, LogError> {
        let io = |e| LogError::io(&path, e);
        let map_len = usize::try_from(capacity).map_err(|_| format_error(&path, "too long to be mapped"))?;
        let map = MmapOptions::new().len(map_len).map_raw_read_only(&file).map_err(io)?;
        let guard = Guard::new(map.as_ptr(), map_len).map_err(|e| LogError::Io { path: path.clone(), source: e })?;
        let Header { base_offset, generation, salt, created_ms, .. } = header;
        Ok(Self {
            path,
            base_offset,
            generation,
            salt,
            created_ms,
            horizon_ms: AtomicI64::new(i64::MAX),
            files,
            file,
            map: Arc::new(Mapping { guard, map }),
            capacity,
            len: AtomicU64::new(len),
            opened: Instant::now(),
            name_due_us: AtomicU64::new(0),
            has_refuse: AtomicBool::new(false),
            synced: Mutex::default(),
        })
    }

    /// Whether the file is as long as it was written, and was read without a fault so far.
    pub fn is_whole(&self) -> bool {
        !self.map.guard.is_damaged() && self.is_long_enough()
    }

    /// As [`Segment::is_whole`], and under its name. For a look now and then: three calls of `stat`.
    pub fn is_intact(&self) -> bool {
        self.is_whole() && is_named(&self.file, &self.path)
    }

    fn is_long_enough(&self) -> bool {
        // In this order: a length read after the file's could count bytes that were written between.
        let len = self.len();
        self.file.metadata().is_ok_and(|m| m.len() >= len)
    }

    /// Refuses a segment of which a page could not be read, or whose file is shorter than it was written; also later, when
    /// somebody made it as long again.
    pub fn check(&self) -> Result<(), LogError> {
        let len = self.len();
        self.check_that(|file| file.len() >= len)
    }

    /// Refuses a segment whose file has no name any more: with what is written to it, it ends with the process. An append looks at
    /// most every [`NAME_LOOK`], since all that was acknowledged before is as lost.
    pub fn check_name(&self) -> Result<(), LogError> {
        self.check_that(|file| file.nlink() > 0)?;
        self.name_due_us.store((self.opened.elapsed() + NAME_LOOK).as_micros() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// One call of `stat`.
    fn check_that(&self, is_well: impl FnOnce(Metadata) -> bool) -> Result<(), LogError> {
        if !self.map.guard.is_damaged() {
            if self.file.metadata().is_ok_and(is_well) {
                return Ok(());
            }
            self.map.guard.set_damaged();
        }
        Err(LogError::Cut { path: self.path.clone() })
    }

    /// As the next segment is to remember this one.
    pub fn as_predecessor(&self) -> Follows {
        Follows { base_offset: self.base_offset, len: self.len() }
    }

    /// Bytes that may be read.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub fn has_room(&self, bytes: u64) -> bool {
        self.len() + bytes <= self.capacity
    }

    /// Writes at the end. When that fails the file is cut back, so that the segment is as it was.
    pub fn append(&self, bytes: &[u8]) -> Result<(), LogError> {
        let at = self.len();
        debug_assert!(at + bytes.len() as u64 <= self.capacity);
        // Written behind the end, the file would get a hole that reads as zeros. For its length alone `lseek` is a tenth of `stat`.
        if !rustix::fs::seek(&self.file, SeekFrom::End(0)).is_ok_and(|end| end >= at) {
            self.map.guard.set_damaged();
        }
        let name_is_due = self.opened.elapsed().as_micros() as u64 >= self.name_due_us.load(Ordering::Relaxed);
        if name_is_due || self.map.guard.is_damaged() {
            self.check_name()?;
        }
        if self.has_refuse.load(Ordering::Acquire) {
            self.cut_back(at)?;
        }
        if let Err(e) = self.files.write_all_at(&self.file, &self.path, bytes, at) {
            // Shrinking needs no space. If even that fails, no write may cover a part of what was refused: recovery would find
            // the rest.
            self.has_refuse.store(true, Ordering::Release);
            let _ = self.cut_back(at);
            return Err(LogError::io(&self.path, e));
        }
        self.len.store(at + bytes.len() as u64, Ordering::Release);
        Ok(())
    }

    fn cut_back(&self, len: u64) -> Result<(), LogError> {
        self.files.set_len(&self.file, &self.path, len).map_err(|e| LogError::io(&self.path, e))?;
        self.has_refuse.store(false, Ordering::Release);
        Ok(())
    }

    /// Makes what was appended durable, unless it is. The kernel tells of a lost page once, to whoever asks first, and whoever
    /// comes later would be told that all is well: so after one failure each further call fails, and nothing is tried.
    pub fn sync(&self) -> std::io::Result<()> {
        let mut synced = self.synced.lock();
        if let Some(errno) = synced.failed {
            return Err(std::io::Error::from_raw_os_error(errno));
        }
        let len = self.len();
        if len > synced.len {
            let tried = self.files.sync_data(&self.file, &self.path);
            tried.inspect_err(|e| synced.failed = Some(e.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error())))?;
            synced.len = len;
        }
        Ok(())
    }

    /// Says that all of it is durable, as the index says that was made after it.
    pub fn set_synced(&self) {
        self.synced.lock().len = self.len();
    }

    /// Cuts the file back to `len`; the caller knows that no record at or above it was ever handed out.
    pub fn truncate(&self, len: u64) -> Result<(), LogError> {
        self.cut_back(len)?;
        // For good: should a power loss undo it after new records were written, whole ones of before would follow them.
        self.synced.lock().len = 0;
        self.sync().map_err(|e| LogError::io(&self.path, e))?;
        self.len.store(len, Ordering::Release);
        self.set_synced();
        Ok(())
    }

    /// The bytes from `at` to the end.
    pub fn bytes_from(&self, at: u64) -> &[u8] {
        let len = self.len();
        if at >= len {
            return &[];
        }
        // SAFETY: below `len`.
        unsafe { self.map.slice(at as usize, (len - at) as usize) }
    }

    /// The fixed part of the frame at `at`, its checksum not looked at.
    pub fn peek(&self, at: u64) -> Result<Fixed, Fault> {
        frame::peek(self.bytes_from(at))
    }

    pub fn decode(&self, at: u64) -> Result<Fixed, Fault> {
        frame::decode(self.bytes_from(at), self.salt)
    }

    /// The record at `at`, its checksum verified.
    pub fn record(&self, at: u64) -> Result<Record, LogError> {
        let fixed = self.decode(at).map_err(|f| self.corrupt(at, f))?;
        Ok(Record::new(Arc::clone(&self.map), at as usize, fixed))
    }

    pub fn corrupt(&self, at: u64, fault: Fault) -> LogError {
        if let Err(cut) = self.check() {
            return cut;
        }
        LogError::Corrupt { path: self.path.clone(), at, what: fault.text() }
    }

    /// The next position after `at` that holds a valid frame of an offset above `after`: where to go on behind corruption.
    /// The salt keeps a client from planting frames inside a value.
    pub fn resync(&self, at: u64, after: i64) -> Option<u64> {
        // Each page of what was cut off would fault, to show zeros.
        self.check().ok()?;
        let mut at = (at + 1).next_multiple_of(frame::ALIGN as u64);
        while at + frame::FIXED as u64 <= self.len() {
            let bytes = self.bytes_from(at);
            if frame::peek(bytes).is_ok_and(|f| f.offset > after) && frame::decode(bytes, self.salt).is_ok() {
                return Some(at);
            }
            at += frame::ALIGN as u64;
        }
        None
    }
}

fn format_error(path: &Path, what: impl Into<String>) -> LogError {
    LogError::Format { path: path.to_owned(), what: what.into() }
}

/// Whether the open file is the one of that name.
pub fn is_named(file: &File, path: &Path) -> bool {
    let id = |m: &std::fs::Metadata| (m.dev(), m.ino());
    matches!((&file.metadata(), &std::fs::symlink_metadata(path)), (Ok(open), Ok(named)) if id(open) == id(named))
}

/// What the segment in this file says of the one before it.
pub fn follows(path: &Path) -> Result<Option<Follows>, LogError> {
    let mut header = [0u8; HEADER as usize];
    let file = File::open(path).map_err(|e| LogError::io(path, e))?;
    file.read_exact_at(&mut header, 0).map_err(|_| format_error(path, "too short for a segment header"))?;
    decode_header(&header).map(|h| h.follows).map_err(|what| format_error(path, what))
}

struct Header {
    base_offset: i64,
    generation: u32,
    salt: u32,
    created_ms: i64,
    follows: Option<Follows>,
}

fn encode_header(birth: &Birth, salt: u32) -> [u8; HEADER as usize] {
    let mut h = [0u8; HEADER as usize];
    h[0..8].copy_from_slice(MAGIC);
    h[8..12].copy_from_slice(&VERSION.to_le_bytes());
    h[16..24].copy_from_slice(&birth.base_offset.to_le_bytes());
    h[24..28].copy_from_slice(&salt.to_le_bytes());
    h[32..40].copy_from_slice(&birth.now_ms.to_le_bytes());
    if let Some(follows) = birth.follows {
        h[40..48].copy_from_slice(&follows.base_offset.to_le_bytes());
        h[48..56].copy_from_slice(&follows.len.to_le_bytes());
    }
    let crc = crc32c::crc32c(&h[16..]);
    h[12..16].copy_from_slice(&crc.to_le_bytes());
    h
}

fn decode_header(h: &[u8; HEADER as usize]) -> Result<Header, String> {
    let u32_at = |i: usize| u32::from_le_bytes([h[i], h[i + 1], h[i + 2], h[i + 3]]);
    let i64_at = |i: usize| i64::from(u32_at(i)) | i64::from(u32_at(i + 4)) << 32;
    if &h[0..8] != MAGIC {
        return Err("not a segment of a message cache".into());
    }
    if u32_at(8) != VERSION {
        return Err(format!("segment format version {}, this build reads version {VERSION}", u32_at(8)));
    }
    if u32_at(12) != crc32c::crc32c(&h[16..]) {
        return Err("the segment header is corrupt".into());
    }
    // No segment is of length 0: there is none before, or nothing was noted of it.
    let follows = Some(Follows { base_offset: i64_at(40), len: i64_at(48) as u64 }).filter(|f| f.len > 0);
    Ok(Header { base_offset: i64_at(16), generation: 0, salt: u32_at(24), created_ms: i64_at(32), follows })
}
