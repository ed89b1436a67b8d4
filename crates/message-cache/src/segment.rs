//! One segment file: a header, then frames. Written with `pwrite`, read through a mapping.
//!
//! The mapping of the head segment is as long as the segment may grow. Pages past the end of the file fault, so nothing
//! here reads past [`Segment::len`], which only moves after the bytes below it were written.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use crate::error::LogError;
use crate::frame::{self, Fault, Fixed};
use crate::record::Record;

const MAGIC: &[u8; 8] = b"TIDELOG\0";
pub const VERSION: u32 = 1;
/// Length of the file header, and so the position of the first frame.
pub const HEADER: u64 = 64;

/// The read-only mapping of a segment, kept alive by every record that points into it.
pub struct Mapping {
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
    file: File,
    map: Arc<Mapping>,
    capacity: u64,
    len: AtomicU64,
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

impl Segment {
    /// A new file; fails if it exists. `capacity` bounds its length and that of its mapping, in bytes.
    pub fn create(dir: &Path, base_offset: i64, generation: u32, capacity: u64, now_ms: i64) -> Result<Self, LogError> {
        let path = dir.join(file_name(base_offset, generation));
        let io = |e| LogError::io(&path, e);
        let salt = fastrand::u32(1..);
        let header = encode_header(base_offset, salt, now_ms);
        // The header is whole or the file is not there under its name.
        let tmp = path.with_extension("tmp");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&tmp).map_err(io)?;
        if let Err(e) = file.write_all_at(&header, 0) {
            let _ = std::fs::remove_file(&tmp);
            return Err(io(e));
        }
        std::fs::rename(&tmp, &path).map_err(io)?;
        Self::map(path, file, Head { base_offset, generation, salt, created_ms: now_ms }, capacity, HEADER)
    }

    /// Opens a file and maps it for at least `capacity` bytes; its frames are not looked at.
    pub fn open(path: PathBuf, capacity: u64, writable: bool) -> Result<Self, LogError> {
        let io = |e| LogError::io(&path, e);
        let file = OpenOptions::new().read(true).write(writable).open(&path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let mut header = [0u8; HEADER as usize];
        file.read_exact_at(&mut header, 0).map_err(|_| format_error(&path, "too short for a segment header"))?;
        let mut head = decode_header(&header).map_err(|what| format_error(&path, what))?;
        match path.file_name().and_then(|n| n.to_str()).and_then(parse_name) {
            Some((base, generation)) if base == head.base_offset => head.generation = generation,
            _ => return Err(format_error(&path, format!("its header says that it begins at offset {}", head.base_offset))),
        }
        Self::map(path, file, head, capacity.max(len), len)
    }

    fn map(path: PathBuf, file: File, head: Head, capacity: u64, len: u64) -> Result<Self, LogError> {
        let io = |e| LogError::io(&path, e);
        let map_len = usize::try_from(capacity).map_err(|_| format_error(&path, "too long to be mapped"))?;
        let map = MmapOptions::new().len(map_len).map_raw_read_only(&file).map_err(io)?;
        let Head { base_offset, generation, salt, created_ms } = head;
        let (map, len) = (Arc::new(Mapping { map }), AtomicU64::new(len));
        let horizon_ms = AtomicI64::new(i64::MAX);
        Ok(Self { path, base_offset, generation, salt, created_ms, horizon_ms, file, map, capacity, len })
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
        if let Err(e) = self.file.write_all_at(bytes, at) {
            // Shrinking needs no space; if even that fails, the torn bytes lie above `len` and are written over.
            let _ = self.file.set_len(at);
            return Err(LogError::io(&self.path, e));
        }
        self.len.store(at + bytes.len() as u64, Ordering::Release);
        Ok(())
    }

    /// Makes what was appended durable.
    pub fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }

    /// Cuts the file back to `len`; the caller knows that no record at or above it was ever handed out.
    pub fn truncate(&self, len: u64) -> Result<(), LogError> {
        self.file.set_len(len).map_err(|e| LogError::io(&self.path, e))?;
        self.len.store(len, Ordering::Release);
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
        LogError::Corrupt { path: self.path.clone(), at, what: fault.text() }
    }

    /// The next position after `at` that holds a valid frame of an offset above `after`: where to go on behind corruption.
    /// The salt keeps a client from planting frames inside a value.
    pub fn resync(&self, at: u64, after: i64) -> Option<u64> {
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

fn encode_header(base_offset: i64, salt: u32, now_ms: i64) -> [u8; HEADER as usize] {
    let mut h = [0u8; HEADER as usize];
    h[0..8].copy_from_slice(MAGIC);
    h[8..12].copy_from_slice(&VERSION.to_le_bytes());
    h[16..24].copy_from_slice(&base_offset.to_le_bytes());
    h[24..28].copy_from_slice(&salt.to_le_bytes());
    h[32..40].copy_from_slice(&now_ms.to_le_bytes());
    let crc = crc32c::crc32c(&h[16..]);
    h[12..16].copy_from_slice(&crc.to_le_bytes());
    h
}

/// What the file header and the file's name say.
struct Head {
    base_offset: i64,
    generation: u32,
    salt: u32,
    created_ms: i64,
}

fn decode_header(h: &[u8; HEADER as usize]) -> Result<Head, String> {
    let u32_at = |i: usize| u32::from_le_bytes([h[i], h[i + 1], h[i + 2], h[i + 3]]);
    if &h[0..8] != MAGIC {
        return Err("not a segment of a message cache".into());
    }
    if u32_at(8) != VERSION {
        return Err(format!("segment format version {}, this build reads version {VERSION}", u32_at(8)));
    }
    if u32_at(12) != crc32c::crc32c(&h[16..]) {
        return Err("the segment header is corrupt".into());
    }
    let i64_at = |i: usize| i64::from(u32_at(i)) | i64::from(u32_at(i + 4)) << 32;
    Ok(Head { base_offset: i64_at(16), generation: 0, salt: u32_at(24), created_ms: i64_at(32) })
}
