//! What every index of a segment answers, be it in memory ([`Tables`](crate::head::Tables)) or the mapped file of a sealed
//! segment ([`DiskIndex`], `<base offset>.index`, described in `docs/format.md`).

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::{MmapOptions, MmapRaw};

use crate::bloom;
use crate::error::LogError;
use crate::files::Files;
use crate::head::{self, Last, Sparse, Tables};
use crate::keytable::{self, BadPage, PAGE};
use crate::segment::Segment;
use crate::sigbus::Guard;
use crate::terms::{self, Span};

/// The indexes of one segment. Positions are those of frames, in units of 8 bytes. An error is a damaged page of the file,
/// never a miss: a miss could bring an older record to light, or hide one.
pub trait Index {
    fn summary(&self) -> Summary;
    fn sparse(&self) -> &[Sparse];
    fn heap_bytes(&self) -> usize;

    /// Whether a key of that hash may be in the segment; false is certain.
    fn may_hold(&self, key_hash: u32) -> bool;

    /// Position in bytes of the newest record of a key. A record that has the hash but, being corrupt, no longer the key,
    /// is an error too.
    fn newest(&self, segment: &Segment, hash: u32, key: &[u8]) -> Result<Option<u64>, LogError>;

    /// Adds the newest record of each key of that hash.
    fn newest_of_hash(&self, segment: &Segment, hash: u32, out: &mut Vec<u32>) -> Result<(), LogError>;

    /// False if nothing is known of terms.
    fn has_terms(&self) -> bool;

    /// How many records may have a term, about.
    fn count(&self, segment: &Segment, term: u32) -> Result<usize, LogError>;

    /// Adds the first `max` records within a span that may have a term, in its order, each once.
    fn positions(&self, segment: &Segment, term: u32, span: Span, max: usize, out: &mut Vec<u32>) -> Result<(), LogError>;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub records: u64,
    pub last: Option<Last>,
    /// The highest timestamp.
    pub time_max: Option<i64>,
    /// No record is older than one before it.
    pub is_ordered: bool,
}

const MAGIC: &[u8; 8] = b"TIDEIDX\0";
const VERSION: u32 = 4;
const HEADER: usize = 128;
const SPARSE: usize = 24;
/// Flag: the segment has too many postings for an index of terms.
const NO_TERMS: u32 = 1;
/// Flag: a record is older than one before it.
const UNORDERED: u32 = 2;

/// An index file; all but the sparse index is read in the mapping.
pub struct DiskIndex {
    // Before the map, which is unmapped after it.
    guard: Guard,
    map: MmapRaw,
    parts: Parts,
    home_pages: u32,
    has_terms: bool,
    sparse: Vec<Sparse>,
    summary: Summary,
}

/// Where in the file what lies. Blocks and pages are aligned, so that one read touches one line or one page.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    bloom: Range<usize>,
    term_bloom: Range<usize>,
    keys: Range<usize>,
    terms: Range<usize>,
    sparse: Range<usize>,
}

impl Parts {
    /// `None` if that is more than can be.
    fn new(blooms: [usize; 2], key_pages: usize, term_pages: usize, sparse: usize) -> Option<Self> {
        let bloom_end = HEADER.checked_add(blooms[0].checked_mul(bloom::BLOCK)?)?;
        let blooms_end = bloom_end.checked_add(blooms[1].checked_mul(bloom::BLOCK)?)?;
        let keys_at = blooms_end.checked_next_multiple_of(PAGE)?;
        let terms_at = keys_at.checked_add(key_pages.checked_mul(PAGE)?)?;
        let sparse_at = terms_at.checked_add(term_pages.checked_mul(PAGE)?)?;
        let end = sparse_at.checked_add(sparse.checked_mul(SPARSE)?)?;
        let (bloom, term_bloom) = (HEADER..bloom_end, bloom_end..blooms_end);
        Some(Self { bloom, term_bloom, keys: keys_at..terms_at, terms: terms_at..sparse_at, sparse: sparse_at..end })
    }
}

impl DiskIndex {
    /// `None` when the file is missing, damaged, of another version or of another segment: it can be made again.
    pub fn open(segment: &Segment) -> Option<Self> {
        let file = File::open(segment.path.with_extension("index")).ok()?;
        let len = usize::try_from(file.metadata().ok()?.len()).ok()?;
        let map = (len >= HEADER).then(|| MmapOptions::new().len(len).map_raw_read_only(&file).ok())??;
        let guard = Guard::new(map.as_ptr(), len).ok()?;
        // SAFETY: the whole file is mapped and nothing writes to an index file once it has this name.
        let bytes = unsafe { std::slice::from_raw_parts(map.as_ptr(), len) };
        let head = decode_header(bytes.first_chunk::<HEADER>()?)?;
        let parts = Parts::new([head.bloom_blocks, head.term_bloom_blocks], head.key_pages, head.term_pages, head.sparse_len)?;
        let of_segment = head.salt == segment.salt && head.base_offset == segment.base_offset && head.log_len == segment.len();
        if !of_segment || parts.sparse.end != len || (head.home_pages as usize) > head.key_pages {
            return None;
        }
        let sparse_bytes = &bytes[parts.sparse.clone()];
        if crc32c::crc32c(sparse_bytes) != head.sparse_crc {
            return None;
        }
        let sparse = sparse_bytes
            .chunks_exact(SPARSE)
            .map(|e| Sparse { offset: i64_at(e, 0), time_before: i64_at(e, 8), at: i64_at(e, 16) as u64 })
            .collect();
        Some(Self { guard, parts, home_pages: head.home_pages, has_terms: head.has_terms, sparse, summary: head.summary, map })
    }

    fn part(&self, part: &Range<usize>) -> &[u8] {
        // SAFETY: as in `open`; the parts lie within the length that the file had then.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(part.start), part.len()) }
    }

    fn bad_page(&self, segment: &Segment, part: &Range<usize>, BadPage(page): BadPage) -> LogError {
        let path = segment.path.with_extension("index");
        if self.guard.is_damaged() {
            return LogError::Cut { path };
        }
        let at = (part.start + page * PAGE) as u64;
        LogError::Corrupt { path, at, what: "wrong checksum of an index page" }
    }

    fn find(&self, segment: &Segment, hash: u32, is_it: impl FnMut(u32) -> Result<bool, Miss>) -> Result<Option<u32>, LogError> {
        if !bloom::may_hold(self.part(&self.parts.bloom), hash) {
            return Ok(None);
        }
        keytable::find(self.part(&self.parts.keys), self.home_pages, hash, is_it).map_err(|miss| match miss {
            Miss::Log(e) => e,
            Miss::Page(page) => self.bad_page(segment, &self.parts.keys, page),
        })
    }
}

impl Index for DiskIndex {
    fn summary(&self) -> Summary {
        self.summary
    }

    fn sparse(&self) -> &[Sparse] {
        &self.sparse
    }

    fn heap_bytes(&self) -> usize {
        self.sparse.capacity() * size_of::<Sparse>()
    }

    fn may_hold(&self, key_hash: u32) -> bool {
        bloom::may_hold(self.part(&self.parts.bloom), key_hash)
    }

    fn newest(&self, segment: &Segment, hash: u32, key: &[u8]) -> Result<Option<u64>, LogError> {
        let found = self.find(segment, hash, |at8| head::is_of_key(segment, at8, key).map_err(Miss::Log))?;
        Ok(found.map(|at8| u64::from(at8) * 8))
    }

    fn newest_of_hash(&self, segment: &Segment, hash: u32, out: &mut Vec<u32>) -> Result<(), LogError> {
        let all = |at8| {
            out.push(at8);
            Ok(false)
        };
        self.find(segment, hash, all).map(drop)
    }

    fn has_terms(&self) -> bool {
        self.has_terms
    }

    fn count(&self, segment: &Segment, term: u32) -> Result<usize, LogError> {
        if !bloom::may_hold(self.part(&self.parts.term_bloom), term) {
            return Ok(0);
        }
        let count = terms::count_in(self.part(&self.parts.terms), term);
        count.map_err(|page| self.bad_page(segment, &self.parts.terms, page))
    }

    fn positions(&self, segment: &Segment, term: u32, span: Span, max: usize, out: &mut Vec<u32>) -> Result<(), LogError> {
        if !bloom::may_hold(self.part(&self.parts.term_bloom), term) {
            return Ok(());
        }
        let read = terms::positions_in(self.part(&self.parts.terms), term, span, max, out);
        read.map_err(|page| self.bad_page(segment, &self.parts.terms, page))
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
    summary: Summary,
    sparse_len: usize,
    sparse_crc: u32,
    key_pages: usize,
    home_pages: u32,
    bloom_blocks: usize,
    term_pages: usize,
    term_bloom_blocks: usize,
    has_terms: bool,
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
    let records = i64_at(h, 40) as u64;
    let some = records > 0;
    Some(IndexHeader {
        salt: u32_at(h, 16),
        has_terms: u32_at(h, 20) & NO_TERMS == 0,
        base_offset: i64_at(h, 24),
        log_len: i64_at(h, 32) as u64,
        summary: Summary {
            records,
            last: some.then(|| Last { offset: i64_at(h, 48), timestamp_ms: i64_at(h, 56) }),
            time_max: some.then(|| i64_at(h, 64)),
            is_ordered: u32_at(h, 20) & UNORDERED == 0,
        },
        sparse_len: u32_at(h, 72) as usize,
        sparse_crc: u32_at(h, 76),
        key_pages: u32_at(h, 80) as usize,
        home_pages: u32_at(h, 84),
        bloom_blocks: u32_at(h, 88) as usize,
        term_pages: u32_at(h, 92) as usize,
        term_bloom_blocks: u32_at(h, 96) as usize,
    })
}

/// Writes the index file of a segment; it is there whole or not at all, also after a crash.
pub fn write(segment: &Segment, tables: &Tables) -> Result<(), LogError> {
    let mut sparse = Vec::with_capacity(tables.sparse.len() * SPARSE);
    for s in &tables.sparse {
        sparse.extend_from_slice(&s.offset.to_le_bytes());
        sparse.extend_from_slice(&s.time_before.to_le_bytes());
        sparse.extend_from_slice(&s.at.to_le_bytes());
    }
    let slots = tables.slots();
    let home_pages = keytable::home_pages(slots.len());
    let bloom = bloom::build(slots.iter().map(|s| s.hash));
    let keys = keytable::build(slots);
    let (term_bloom, terms) = tables.term_parts();
    let Summary { records, last, time_max, is_ordered } = tables.summary();
    let last = last.unwrap_or(Last { offset: -1, timestamp_ms: -1 });
    let mut h = [0u8; HEADER];
    h[..8].copy_from_slice(MAGIC);
    h[8..12].copy_from_slice(&VERSION.to_le_bytes());
    h[16..20].copy_from_slice(&segment.salt.to_le_bytes());
    let flags = if tables.has_terms() { 0 } else { NO_TERMS } | if is_ordered { 0 } else { UNORDERED };
    h[20..24].copy_from_slice(&flags.to_le_bytes());
    let wide =
        [segment.base_offset, segment.len() as i64, records as i64, last.offset, last.timestamp_ms, time_max.unwrap_or(i64::MIN)];
    for (field, at) in wide.iter().zip((24..).step_by(8)) {
        h[at..at + 8].copy_from_slice(&field.to_le_bytes());
    }
    let blocks = |filter: &[u8]| (filter.len() / bloom::BLOCK) as u32;
    let counts = [blocks(&bloom), (terms.len() / PAGE) as u32, blocks(&term_bloom)];
    let narrow = [tables.sparse.len() as u32, crc32c::crc32c(&sparse), (keys.len() / PAGE) as u32, home_pages];
    for (field, at) in narrow.iter().chain(&counts).zip((72..).step_by(4)) {
        h[at..at + 4].copy_from_slice(&field.to_le_bytes());
    }
    let crc = crc32c::crc32c(&h[16..]);
    h[12..16].copy_from_slice(&crc.to_le_bytes());
    let blooms_end = HEADER + bloom.len() + term_bloom.len();
    let gap = vec![0; blooms_end.next_multiple_of(PAGE) - blooms_end];
    write_whole(&segment.files, &segment.path.with_extension("index"), &[&h, &bloom, &term_bloom, &gap, &keys, &terms, &sparse])
}

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
