//! Reading records in order, from a snapshot of a log: what was there when the scan began, however long it lasts.

use std::sync::Arc;

use crate::error::LogError;
use crate::record::Record;
use crate::segment::Segment;

/// The records of a log from an offset to the end it had when the scan began. Holds the mapped segments, copies nothing.
pub struct Scan {
    /// Segments yet to be read, the next one last, with the bytes of each that were visible.
    segments: Vec<(Arc<Segment>, u64)>,
    at: u64,
    from: i64,
    after: i64,
    /// Records of an earlier time have expired.
    expired_before: Option<i64>,
}

impl Scan {
    pub(crate) fn new(mut segments: Vec<(Arc<Segment>, u64)>, at: u64, from: i64, expired_before: Option<i64>) -> Self {
        segments.reverse();
        Self { segments, at, from, after: -1, expired_before }
    }
}

impl Iterator for Scan {
    type Item = Result<Record, LogError>;

    /// An error stands for a corrupt stretch; the records behind it follow.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (segment, len) = self.segments.last()?;
            if self.at >= *len {
                self.segments.pop();
                self.at = crate::segment::HEADER;
                continue;
            }
            // Frames below the wanted offset are stepped over by their lengths; only what is handed out is verified.
            match segment.peek(self.at) {
                Ok(fixed) if fixed.offset < self.from && fixed.offset > self.after => {
                    self.after = fixed.offset;
                    self.at += fixed.stride() as u64;
                    continue;
                }
                _ => {}
            }
            let at = self.at;
            let record = segment.record(at);
            match &record {
                Ok(r) => {
                    self.after = r.offset();
                    self.at += r.stride() as u64;
                    let time = r.timestamp_ms();
                    if r.offset() < self.from || time >= 0 && self.expired_before.is_some_and(|before| time < before) {
                        continue;
                    }
                }
                Err(_) => self.at = segment.resync(at, self.after).unwrap_or(*len),
            }
            return Some(record);
        }
    }
}
