//! An index held against the records of its segment.

use crate::head::{Entry, Last, Tables};
use crate::index::{Index, Summary};
use crate::keytable;
use crate::segment::{self, Segment};
use crate::terms;

/// Faults that are told one by one; of more, only the number.
const FAULTS_MAX: usize = 100;

struct Faults {
    told: Vec<String>,
    more: usize,
}

impl Faults {
    fn add(&mut self, what: impl FnOnce() -> String) {
        if self.told.len() < FAULTS_MAX {
            self.told.push(what());
        } else {
            self.more += 1;
        }
    }
}

/// What is wrong with a segment and its index, in words; empty if all is well. Builds the index anew to compare, so it
/// takes the memory of one head.
pub fn check(index: &dyn Index, segment: &Segment) -> Vec<String> {
    let mut faults = Faults { told: Vec::new(), more: 0 };
    let truth = read(index, segment, &mut faults);
    each_frame(segment, |_| {}, |at, entry| check_record(index, &truth, segment, at, entry, &mut faults));
    if faults.more > 0 {
        faults.told.push(format!("and {} more", faults.more));
    }
    let file = segment.path.display();
    faults.told.into_iter().map(|fault| format!("{file}: {fault}")).collect()
}

/// Calls `bad` with each fault, `good` with each whole record.
fn each_frame(segment: &Segment, mut bad: impl FnMut(String), mut good: impl FnMut(u64, Entry)) {
    let (mut at, mut after) = (segment::HEADER, segment.base_offset - 1);
    while at < segment.len() {
        match segment.decode(at) {
            Ok(fixed) if fixed.offset > after => {
                good(at, Entry::of(segment, at, &fixed));
                after = fixed.offset;
                at += fixed.stride() as u64;
            }
            other => {
                let next = segment.resync(at, after).unwrap_or(segment.len());
                let what = other.err().map_or("offset not above the one before", |fault| fault.text());
                bad(format!("corrupt record at byte {at}, {} bytes long ({what})", next - at));
                at = next;
            }
        }
    }
}

/// The index as the records have it; sparse index and summary are compared on the way.
fn read(index: &dyn Index, segment: &Segment, faults: &mut Faults) -> Tables {
    let mut truth = Tables::default();
    let mut corrupt = Vec::new();
    let mut sparse = index.sparse().iter().peekable();
    let mut wrong = Vec::new();
    each_frame(
        segment,
        |fault| corrupt.push(fault),
        |at, entry| {
            while let Some(s) = sparse.next_if(|s| s.at <= at) {
                let time_before = truth.time_max.unwrap_or(i64::MIN);
                if s.at != at || s.offset != entry.offset || s.time_before < time_before {
                    wrong.push(s.at);
                }
            }
            truth.add(segment, entry);
        },
    );
    // What is known of corrupt records is in the index too, so where there are some it may say more.
    let is_whole = corrupt.is_empty();
    corrupt.into_iter().for_each(|fault| faults.add(|| fault));
    if is_whole {
        wrong.extend(sparse.map(|s| s.at));
        let first = index.sparse().first().map(|s| s.at);
        if index.sparse() != truth.sparse.as_slice() && wrong.is_empty() {
            wrong.push(first.unwrap_or(segment::HEADER));
        }
        check_summary(index.summary(), truth.summary(), faults);
        wrong.iter().for_each(|at| faults.add(|| format!("the sparse index is wrong at byte {at}")));
    }
    truth
}

fn check_summary(index: Summary, truth: Summary, faults: &mut Faults) {
    let last = |s: Summary| s.last.unwrap_or(Last { offset: -1, timestamp_ms: -1 });
    let rows = [
        ("records", index.records as i64, truth.records as i64),
        ("last offset", last(index).offset, last(truth).offset),
        ("last timestamp", last(index).timestamp_ms, last(truth).timestamp_ms),
        ("highest timestamp", index.time_max.unwrap_or(-1), truth.time_max.unwrap_or(-1)),
    ];
    for (what, said, is) in rows.into_iter().filter(|(_, said, is)| said != is) {
        faults.add(|| format!("{what}: the index says {said}, the records {is}"));
    }
}

fn check_record(index: &dyn Index, truth: &Tables, segment: &Segment, at: u64, entry: Entry, faults: &mut Faults) {
    let Ok(fixed) = segment.peek(at) else { return };
    let bytes = segment.bytes_from(at);
    let at8 = (at / 8) as u32;
    let mut posted = |term: u32, what: &str| {
        let mut found = Vec::new();
        match index.positions(segment, term, terms::Span::From(at8), 1, &mut found) {
            Ok(()) if found.first() == Some(&at8) => {}
            Ok(()) => faults.add(|| format!("offset {}: not in the index under {what}", entry.offset)),
            Err(e) => faults.add(|| format!("offset {}: {e}", entry.offset)),
        }
    };
    if index.has_terms() {
        terms::of_headers(&bytes[fixed.headers_range()], segment.salt).for_each(|term| posted(term, "one of its headers"));
    }
    let Some(key) = fixed.key_range().map(|r| &bytes[r]) else { return };
    let hash = keytable::hash(key, segment.salt);
    let newest = truth.newest(segment, hash, key).ok().flatten();
    if newest != Some(at) {
        if index.has_terms() {
            posted(terms::of_key(hash), "its key");
        }
        return;
    }
    match index.newest(segment, hash, key) {
        Ok(found) if found == newest => {}
        // A corrupt record stands before it, or after it, under the same hash.
        Ok(found) => faults.add(|| {
            let said = found.map_or("nowhere".to_owned(), |n| format!("at byte {n}"));
            format!("offset {}: the newest of its key is at byte {at}, the index says {said}", entry.offset)
        }),
        Err(e) => faults.add(|| format!("offset {}: {e}", entry.offset)),
    }
    if !index.may_hold(hash) {
        faults.add(|| format!("offset {}: the Bloom filter does not know its key", entry.offset));
    }
}
