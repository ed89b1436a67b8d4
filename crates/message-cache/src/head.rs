//! What is known of a segment while it is in memory: the head, and a sealed segment until its index file is written.

use crate::error::LogError;
use crate::filter::{self, At, Filter};
use crate::frame::{self, FIXED, Fixed};
use crate::index::{Index, Summary};
use crate::keymap::KeyMap;
use crate::keytable::{self, Slot};
use crate::segment::Segment;
use crate::terms::{self, Span, Terms};

/// Bytes of records between two entries of the sparse index: a search reads at most this many headers of frames.
const SPARSE_BYTES: u64 = 16 * 1024;
/// Entries whose places are read ahead of their turn; as many lines as a processor fetches at once, and some.
const AHEAD: usize = 32;

/// An entry of the sparse index over offset and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sparse {
    pub offset: i64,
    /// The highest timestamp of any record before this one in the segment.
    pub time_before: i64,
    pub at: u64,
}

/// The last record of a log, as far as others need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    pub offset: i64,
    pub timestamp_ms: i64,
}

/// Where a record lies and what the indexes want to know of it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub at: u64,
    pub offset: i64,
    pub timestamp_ms: i64,
    /// `None` for a null key, which no index holds.
    pub key_hash: Option<u32>,
    pub has_headers: bool,
}

impl Entry {
    pub fn of(segment: &Segment, at: u64, fixed: &Fixed) -> Self {
        let key_hash = fixed.key_range().map(|r| keytable::hash(&segment.bytes_from(at)[r], segment.salt));
        let has_headers = fixed.headers_len > 0;
        Self { at, offset: fixed.offset, timestamp_ms: fixed.timestamp_ms, key_hash, has_headers }
    }
}

/// The indexes of one segment in memory.
#[derive(Default)]
pub struct Tables {
    keys: KeyMap,
    terms: Terms,
    pub sparse: Vec<Sparse>,
    pub records: u64,
    pub last: Option<Last>,
    pub time_max: Option<i64>,
    is_unordered: bool,
}

impl Tables {
    /// Adds the records of one write, in order, `written` being its bytes. As [`Tables::add`] for each, but waits for memory once
    /// for many, and for the mapping of what was just written not at all.
    pub fn add_all(&mut self, segment: &Segment, entries: &[Entry], written: &[u8]) {
        let Some(begin) = entries.first().map(|e| e.at) else { return };
        for some in entries.chunks(AHEAD) {
            let older = some.iter().filter_map(|e| self.keys.glance(e.key_hash?));
            let byte = |at: u64| segment.bytes_from(at).first().map_or(0, |b| u32::from(*b));
            // Nothing is made of what is read here: it is to be near when it is needed below.
            let touched = older.map(|at8| u64::from(at8) * 8).map(|at| byte(at) ^ byte(at + FIXED as u64));
            std::hint::black_box(touched.sum::<u32>());
            some.iter().for_each(|entry| self.add_frame(segment, *entry, &written[(entry.at - begin) as usize..]));
        }
    }

    pub fn add(&mut self, segment: &Segment, entry: Entry) {
        self.add_frame(segment, entry, segment.bytes_from(entry.at));
    }

    fn add_frame(&mut self, segment: &Segment, entry: Entry, frame: &[u8]) {
        if self.sparse.last().is_none_or(|s| entry.at - s.at >= SPARSE_BYTES) {
            let time_before = self.time_max.unwrap_or(i64::MIN);
            self.sparse.push(Sparse { offset: entry.offset, time_before, at: entry.at });
        }
        self.records += 1;
        self.last = Some(Last { offset: entry.offset, timestamp_ms: entry.timestamp_ms });
        self.is_unordered |= self.time_max.is_some_and(|max| entry.timestamp_ms < max);
        self.time_max = self.time_max.max(Some(entry.timestamp_ms));
        let at8 = (entry.at / 8) as u32;
        if let Some(hash) = entry.key_hash {
            let key = || Some(&frame[frame::peek(frame).ok()?.key_range()?]);
            let is_same_key = |older| key_at(segment, older) == key();
            if let Some(replaced) = self.keys.replace(hash, at8, is_same_key) {
                self.terms.post(terms::of_key(hash), replaced);
            }
        }
        if entry.has_headers
            && let Ok(fixed) = frame::peek(frame)
        {
            let headers = &frame[fixed.headers_range()];
            terms::of_headers(headers, segment.salt).for_each(|term| self.terms.post(term, at8));
        }
    }

    /// As [`Index::newest`].
    pub fn newest(&self, segment: &Segment, hash: u32, key: &[u8]) -> Result<Option<u64>, LogError> {
        let mut fault = None;
        for at8 in self.keys.of_hash(hash) {
            match is_of_key(segment, at8, key) {
                Ok(true) => return Ok(Some(u64::from(at8) * 8)),
                Ok(false) => {}
                Err(e) => fault = Some(e),
            }
        }
        fault.map_or(Ok(None), Err)
    }

    /// As [`filter::candidates`].
    pub fn candidates(&self, segment: &Segment, filter: &Filter, span: At, max: usize) -> Result<Option<Vec<u64>>, LogError> {
        filter::candidates(self, segment, filter, span, max)
    }

    /// As [`Sealed::verify`](crate::sealed::Sealed::verify), of the head.
    pub fn verify(&self, segment: &Segment) -> Vec<String> {
        crate::check::check(self, segment)
    }

    pub fn slots(&self) -> Vec<Slot> {
        self.keys.iter().map(|(hash, at8)| Slot { hash, at8 }).collect()
    }

    /// As [`Terms::build`].
    pub fn term_parts(&self) -> (Vec<u8>, Vec<u8>) {
        self.terms.build()
    }

    /// 11 to 16 bytes per live key, 8 per posting, 24 for every 16 KiB of records.
    pub fn heap_bytes(&self) -> usize {
        self.keys.heap_bytes() + self.terms.heap_bytes() + self.sparse.capacity() * size_of::<Sparse>()
    }
}

impl Index for Tables {
    fn summary(&self) -> Summary {
        Summary { records: self.records, last: self.last, time_max: self.time_max, is_ordered: !self.is_unordered }
    }

    fn sparse(&self) -> &[Sparse] {
        &self.sparse
    }

    fn heap_bytes(&self) -> usize {
        self.heap_bytes()
    }

    fn may_hold(&self, key_hash: u32) -> bool {
        self.keys.of_hash(key_hash).next().is_some()
    }

    fn newest(&self, segment: &Segment, hash: u32, key: &[u8]) -> Result<Option<u64>, LogError> {
        self.newest(segment, hash, key)
    }

    fn newest_of_hash(&self, _: &Segment, hash: u32, out: &mut Vec<u32>) -> Result<(), LogError> {
        out.extend(self.keys.of_hash(hash));
        Ok(())
    }

    fn has_terms(&self) -> bool {
        self.terms.is_complete()
    }

    fn count(&self, _: &Segment, term: u32) -> Result<usize, LogError> {
        Ok(self.terms.count(term))
    }

    fn positions(&self, _: &Segment, term: u32, span: Span, max: usize, out: &mut Vec<u32>) -> Result<(), LogError> {
        self.terms.positions(term, span, max, out);
        Ok(())
    }
}

fn key_at(segment: &Segment, at8: u32) -> Option<&[u8]> {
    let at = u64::from(at8) * 8;
    let range = segment.peek(at).ok()?.key_range()?;
    Some(&segment.bytes_from(at)[range])
}

/// Whether the record at this position has this key; looks at the checksum only when it has not.
pub fn is_of_key(segment: &Segment, at8: u32, key: &[u8]) -> Result<bool, LogError> {
    if key_at(segment, at8) == Some(key) {
        return Ok(true);
    }
    let at = u64::from(at8) * 8;
    segment.decode(at).map_err(|f| segment.corrupt(at, f))?;
    Ok(false)
}
