//! Reading a segment from its first frame to its end: after a crash, or when its index is gone.

use std::path::PathBuf;

use crate::frame::Fault;
use crate::head::{Entry, Tables};
use crate::log::OnCorruption;
use crate::segment::{self, Segment};

/// What was found beside the records.
#[derive(Debug, Default, Clone)]
pub struct Findings {
    /// Bytes cut off behind the last whole record, or behind the first corrupt one where it will be fetched again.
    pub truncated_bytes: u64,
    /// Places that are corrupt and stay, never to be served.
    pub corrupt: Vec<(PathBuf, u64)>,
    /// True if records were cut off that the cluster still has.
    pub refetch: bool,
}

/// How a segment is to be recovered.
#[derive(Clone, Copy, Debug)]
pub struct Orders {
    pub on_corruption: OnCorruption,
    /// Whether another segment follows: then this one was whole once, and its end is no torn tail.
    pub followed: bool,
}

/// Builds the indexes of a segment from its records, and says where it is to be cut. A torn tail is cut off: what is broken of
/// the last write, and what follows of it. Corruption
/// before the last whole record is cut off with all that follows if the cluster can give it again, else kept and stepped
/// over.
pub fn recover(segment: &Segment, orders: Orders, findings: &mut Findings) -> (Tables, Option<u64>) {
    let mut tables = Tables::default();
    let mut at = segment::HEADER;
    let mut after = segment.base_offset - 1;
    while at < segment.len() {
        let fault = match segment.decode(at) {
            Ok(fixed) if fixed.offset > after => {
                tables.add(segment, Entry::of(segment, at, &fixed));
                after = fixed.offset;
                at += fixed.stride() as u64;
                continue;
            }
            Ok(_) => Fault::Length, // whole, but out of order: no writer of ours did that
            Err(fault) => fault,
        };
        let next = segment.resync(at, after).or(orders.followed.then(|| segment.len()));
        // A copy is not served before the cluster has given again what may have been whole.
        let is_copy = orders.on_corruption == OnCorruption::Refetch;
        let next = next.filter(|next| is_copy || orders.followed || is_of_later_write(segment, *next));
        match next {
            Some(next) if orders.on_corruption == OnCorruption::Keep => {
                tracing::error!(segment = %segment.path.display(), at, to = next, what = fault.text(), "corrupt record: kept, not served");
                findings.corrupt.push((segment.path.clone(), at));
                if let Some(entry) = of_damaged(segment, at, next, after) {
                    after = entry.offset;
                    tables.add(segment, entry);
                }
                at = next;
            }
            _ => {
                let bytes = segment.len() - at;
                findings.refetch |= next.is_some();
                findings.truncated_bytes += bytes;
                tracing::warn!(segment = %segment.path.display(), at, bytes, what = fault.text(), torn = next.is_none(), "tail cut off");
                return (tables, Some(at));
            }
        }
    }
    (tables, None)
}

/// Whether a write was begun at or behind this whole frame. If none was, what lies before it and cannot be read is of the last
/// write, whose sectors a power loss took in no order; it was not acknowledged.
fn is_of_later_write(segment: &Segment, mut at: u64) -> bool {
    loop {
        match segment.decode(at) {
            Ok(fixed) if fixed.begins_write => return true,
            Ok(fixed) => at += fixed.stride() as u64,
            Err(_) => match segment.resync(at, -1) {
                Some(next) => at = next,
                None => return false,
            },
        }
    }
}

/// What the indexes are told of a corrupt record that ends where the next one begins, and so has its lengths and most likely
/// its key: that it is the newest of that key. Whoever asks for the key is refused, where otherwise an older record would
/// stand in for it.
fn of_damaged(segment: &Segment, at: u64, next: u64, after: i64) -> Option<Entry> {
    let fixed = segment.peek(at).ok()?;
    let before = segment.peek(next).map_or(i64::MAX, |following| following.offset);
    let in_order = (after + 1..before).contains(&fixed.offset);
    (in_order && at + fixed.stride() as u64 == next).then(|| Entry::of(segment, at, &fixed))
}
