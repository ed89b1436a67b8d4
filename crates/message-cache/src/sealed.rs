//! A segment that takes no more records. Its indexes are in memory until the sealer has written them to a file, and in
//! that mapped file from then on: `<base offset>.index`, described in `docs/format.md`.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, LazyLock, OnceLock, mpsc};

use memmap2::{MmapOptions, MmapRaw};
use parking_lot::RwLock;

use crate::error::LogError;
use crate::files::Files;
use crate::head::{self, Last, Sparse, Tables};
use crate::keytable::{self, BadPage};
use crate::segment::Segment;
use crate::sigbus::Guard;

const MAGIC: &[u8; 8] = b"TIDEIDX\0";
const VERSION: u32 = 1;
const HEADER: usize = 96;
const SPARSE: usize = 24;

pub struct Sealed {
    pub segment: Arc<Segment>,
    memory: RwLock<Option<Tables>>,
    disk: OnceLock<DiskIndex>,
}

impl Sealed {
    /// Opens the index file of a segment. `Ok(None)` when it is missing, damaged or of another segment: it can be made
    /// again from the records.
    pub fn open(segment: Segment) -> Result<Result<Self, Segment>, LogError> {
        Ok(match DiskIndex::open(&segment) {
            Some(index) => {
                let disk = OnceLock::from(index);
                Ok(Self { segment: Arc::new(segment), memory: RwLock::new(None), disk })
            }
            None => Err(segment),
        })
    }

    /// Seals a segment; its index file is written in the background.
    pub fn new(segment: Arc<Segment>, tables: Tables) -> Arc<Self> {
        let sealed = Arc::new(Self { segment, memory: RwLock::new(Some(tables)), disk: OnceLock::new() });
        // A sealer that died leaves the tables in memory, which serve as well.
        let _ = SEALER.send(Arc::clone(&sealed));
        sealed
    }

    /// As [`Sealed::new`], with the index file durable when it returns.
    pub fn finish(segment: Arc<Segment>, tables: Tables) -> Result<Arc<Self>, LogError> {
        let sealed = Arc::new(Self { segment, memory: RwLock::new(Some(tables)), disk: OnceLock::new() });
        sealed.write_index()?;
        Ok(sealed)
    }

    /// Position of the newest record of a key in this segment.
    pub fn newest(&self, hash: u32, key: &[u8]) -> Result<Option<u64>, LogError> {
        if let Some(disk) = self.disk.get() {
            return disk.newest(&self.segment, hash, key);
        }
        match &*self.memory.read() {
            Some(tables) => tables.newest(&self.segment, hash, key),
            None => self.disk.get().map_or(Ok(None), |d| d.newest(&self.segment, hash, key)),
        }
    }

    fn with_sparse<T>(&self, f: impl Fn(&[Sparse]) -> T) -> T {
        if let Some(disk) = self.disk.get() {
            return f(&disk.sparse);
        }
        match &*self.memory.read() {
            Some(tables) => f(&tables.sparse),
            None => f(self.disk.get().map_or(&[], |d| &d.sparse)),
        }
    }

    /// Where to begin looking for an offset.
    pub fn before_offset(&self, offset: i64) -> u64 {
        self.with_sparse(|s| before_offset(s, offset))
    }

    /// Where to begin looking for the first record of at least that time; `None` if all are older.
    pub fn before_time(&self, timestamp_ms: i64) -> Option<u64> {
        (self.time_max()? >= timestamp_ms).then(|| self.with_sparse(|s| before_time(s, timestamp_ms)))
    }

    pub fn last(&self) -> Option<Last> {
        self.summary(|t| t.last, |d| d.last)
    }

    pub fn time_max(&self) -> Option<i64> {
        self.summary(|t| t.time_max, |d| d.time_max)
    }

    pub fn records(&self) -> u64 {
        self.summary(|t| t.records, |d| d.records)
    }

    pub fn heap_bytes(&self) -> usize {
        self.summary(Tables::heap_bytes, |d| d.sparse.capacity() * size_of::<Sparse>())
    }

    fn summary<T: Default>(&self, tables: impl Fn(&Tables) -> T, disk: impl Fn(&DiskIndex) -> T) -> T {
        if let Some(d) = self.disk.get() {
            return disk(d);
        }
        match &*self.memory.read() {
            Some(t) => tables(t),
            None => self.disk.get().map(disk).unwrap_or_default(),
        }
    }

    /// Makes the segment durable, then its index, then lets go of the memory.
    fn write_index(&self) -> Result<(), LogError> {
        let io = |e| LogError::io(&self.segment.path, e);
        self.segment.sync().map_err(io)?;
        {
            let memory = self.memory.read();
            let Some(tables) = &*memory else { return Ok(()) };
            write(&self.segment, tables)?;
        }
        let index = DiskIndex::open(&self.segment)
            .ok_or_else(|| LogError::Format { path: self.segment.path.clone(), what: "its index cannot be read back".into() })?;
        // In this order, so that a reader always finds one of the two.
        let _ = self.disk.set(index);
        *self.memory.write() = None;
        Ok(())
    }
}

static SEALER: LazyLock<mpsc::Sender<Arc<Sealed>>> = LazyLock::new(|| {
    let (tx, rx) = mpsc::channel::<Arc<Sealed>>();
    let run = move || {
        for sealed in rx {
            // Nobody else holds it: its log was closed or dropped.
            if Arc::strong_count(&sealed) == 1 {
                continue;
            }
            if let Err(error) = sealed.write_index() {
                tracing::warn!(%error, "the index of a sealed segment was not written; it stays in memory");
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("sealer".into()).spawn(run) {
        tracing::warn!(%error, "no thread for the sealer; indexes stay in memory");
    }
    tx
});

pub fn before_offset(sparse: &[Sparse], offset: i64) -> u64 {
    let i = sparse.partition_point(|s| s.offset <= offset);
    sparse[..i].last().map_or(crate::segment::HEADER, |s| s.at)
}

pub fn before_time(sparse: &[Sparse], timestamp_ms: i64) -> u64 {
    let i = sparse.partition_point(|s| s.time_before < timestamp_ms);
    sparse[..i].last().map_or(crate::segment::HEADER, |s| s.at)
}

/// An index file, its key table mapped.
struct DiskIndex {
    // Before the map, which is unmapped after it.
    guard: Guard,
    map: MmapRaw,
    /// Where the key table begins in the file, and its home pages.
    keys_at: usize,
    home_pages: u32,
    sparse: Vec<Sparse>,
    records: u64,
    last: Option<Last>,
    time_max: Option<i64>,
}

impl DiskIndex {
    fn open(segment: &Segment) -> Option<Self> {
        let file = File::open(segment.path.with_extension("index")).ok()?;
        let len = usize::try_from(file.metadata().ok()?.len()).ok()?;
        let map = (len >= HEADER).then(|| MmapOptions::new().len(len).map_raw_read_only(&file).ok())??;
        let guard = Guard::new(map.as_ptr(), len).ok()?;
        // SAFETY: the whole file is mapped and nothing writes to an index file once it has this name.
        let bytes = unsafe { std::slice::from_raw_parts(map.as_ptr(), len) };
        let head = decode_header(bytes.first_chunk::<HEADER>()?)?;
        let sparse_end = HEADER.checked_add(head.sparse_len.checked_mul(SPARSE)?)?;
        let keys_len = head.key_pages.checked_mul(keytable::PAGE)?;
        let of_segment = head.salt == segment.salt && head.base_offset == segment.base_offset && head.log_len == segment.len();
        if !of_segment || sparse_end.checked_add(keys_len)? != len {
            return None;
        }
        let sparse_bytes = &bytes[HEADER..sparse_end];
        if crc32c::crc32c(sparse_bytes) != head.sparse_crc || (head.home_pages as usize) > head.key_pages {
            return None;
        }
        let sparse = sparse_bytes
            .chunks_exact(SPARSE)
            .map(|e| Sparse { offset: i64_at(e, 0), time_before: i64_at(e, 8), at: i64_at(e, 16) as u64 })
            .collect();
        Some(Self {
            keys_at: sparse_end,
            home_pages: head.home_pages,
            sparse,
            records: head.records,
            last: (head.records > 0).then_some(Last { offset: head.last_offset, timestamp_ms: head.last_timestamp }),
            time_max: (head.records > 0).then_some(head.time_max),
            guard,
            map,
        })
    }

    fn newest(&self, segment: &Segment, hash: u32, key: &[u8]) -> Result<Option<u64>, LogError> {
        // SAFETY: as in `open`; the file was at least this long then.
        let table = unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.keys_at), self.map.len() - self.keys_at) };
        let found = keytable::find(table, self.home_pages, hash, |at8| head::is_of_key(segment, at8, key).map_err(Miss::Log));
        match found {
            Ok(at8) => Ok(at8.map(|n| u64::from(n) * 8)),
            Err(Miss::Log(e)) => Err(e),
            Err(Miss::Page(_)) if self.guard.is_damaged() => Err(LogError::Cut { path: segment.path.with_extension("index") }),
            Err(Miss::Page(BadPage(page))) => Err(LogError::Corrupt {
                path: segment.path.with_extension("index"),
                at: (self.keys_at + page * keytable::PAGE) as u64,
                what: "wrong checksum of an index page",
            }),
        }
    }
}

enum Miss {
    Page(BadPage),
    Log(LogError),
}

impl From<BadPage> for Miss {
    fn from(page: BadPage) -> Self {
        Self::Page(page)
    }
}

struct IndexHeader {
    salt: u32,
    base_offset: i64,
    log_len: u64,
    records: u64,
    last_offset: i64,
    last_timestamp: i64,
    time_max: i64,
    sparse_len: usize,
    sparse_crc: u32,
    key_pages: usize,
    home_pages: u32,
}

fn i64_at(b: &[u8], i: usize) -> i64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&b[i..i + 8]);
    i64::from_le_bytes(bytes)
}

fn u32_at(b: &[u8], i: usize) -> u32 {
    u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]])
}

fn decode_header(h: &[u8; HEADER]) -> Option<IndexHeader> {
    if &h[..8] != MAGIC || u32_at(h, 8) != VERSION || u32_at(h, 12) != crc32c::crc32c(&h[16..]) {
        return None;
    }
    Some(IndexHeader {
        salt: u32_at(h, 16),
        base_offset: i64_at(h, 24),
        log_len: i64_at(h, 32) as u64,
        records: i64_at(h, 40) as u64,
        last_offset: i64_at(h, 48),
        last_timestamp: i64_at(h, 56),
        time_max: i64_at(h, 64),
        sparse_len: u32_at(h, 72) as usize,
        sparse_crc: u32_at(h, 76),
        key_pages: u32_at(h, 80) as usize,
        home_pages: u32_at(h, 84),
    })
}

fn write(segment: &Segment, tables: &Tables) -> Result<(), LogError> {
    let mut sparse = Vec::with_capacity(tables.sparse.len() * SPARSE);
    for s in &tables.sparse {
        sparse.extend_from_slice(&s.offset.to_le_bytes());
        sparse.extend_from_slice(&s.time_before.to_le_bytes());
        sparse.extend_from_slice(&s.at.to_le_bytes());
    }
    let keys = keytable::build(tables.slots());
    let last = tables.last.unwrap_or(Last { offset: -1, timestamp_ms: -1 });
    let mut h = [0u8; HEADER];
    h[..8].copy_from_slice(MAGIC);
    h[8..12].copy_from_slice(&VERSION.to_le_bytes());
    h[16..20].copy_from_slice(&segment.salt.to_le_bytes());
    let wide = [
        segment.base_offset,
        segment.len() as i64,
        tables.records as i64,
        last.offset,
        last.timestamp_ms,
        tables.time_max.unwrap_or(i64::MIN),
    ];
    for (field, at) in wide.iter().zip((24..).step_by(8)) {
        h[at..at + 8].copy_from_slice(&field.to_le_bytes());
    }
    let narrow = [
        tables.sparse.len() as u32,
        crc32c::crc32c(&sparse),
        (keys.len() / keytable::PAGE) as u32,
        keytable::home_pages(tables.keys()),
    ];
    for (field, at) in narrow.iter().zip((72..).step_by(4)) {
        h[at..at + 4].copy_from_slice(&field.to_le_bytes());
    }
    let crc = crc32c::crc32c(&h[16..]);
    h[12..16].copy_from_slice(&crc.to_le_bytes());
    write_whole(&segment.files, &segment.path.with_extension("index"), &[&h, &sparse, &keys])
}

/// The file is there whole or not at all, also after a crash.
fn write_whole(files: &Files, path: &Path, parts: &[&[u8]]) -> Result<(), LogError> {
    let tmp = path.with_extension("index-tmp");
    let write = || {
        let file = files.create(&tmp)?;
        let mut at = 0;
        for part in parts {
            files.write_all_at(&file, &tmp, part, at)?;
            at += part.len() as u64;
        }
        files.sync_data(&file, &tmp)?;
        files.rename(&tmp, path)
    };
    write().map_err(|e| {
        let _ = files.remove(&tmp);
        LogError::io(path, e)
    })
}
