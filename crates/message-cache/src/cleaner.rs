//! Compaction: the oldest sealed segments are written anew with what must stay of them, then take their place in one step.
//!
//! When to do it is decided in `retention.rs`. A record stays if it is the newest of its key among the segments that are
//! compacted; what came later, into the head, does not count, for it may not be durable yet. A tombstone stays until its
//! delete horizon: `delete.retention.ms` after it was first compacted, by which time all older records of its key are gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::LogError;
use crate::frame::{self, Fixed};
use crate::head::{Entry, Tables};
use crate::keytable;
use crate::log::PartitionLog;
use crate::policy::Policy;
use crate::retention;
use crate::sealed::Sealed;
use crate::segment::{self, Birth, Segment};

/// Most bytes of segments that are written anew before they take the place of the old: how much space compaction needs beside.
const ROUND_BYTES: u64 = 1 << 30;
/// Bytes collected before they are written.
const WRITE_BYTES: usize = 1 << 20;

impl PartitionLog {
    /// Compacts if it is time, in rounds; each is complete in itself.
    pub(crate) fn clean_if_due(&self, life: u64, go_on: &dyn Fn() -> bool) -> Result<(), LogError> {
        let (policy, now_ms) = (self.shared.policy(), self.shared.clock.now_ms());
        let (inputs, start, ends_at) = {
            let view = self.view.read();
            let facts = view.sealed_facts(self.end_offset());
            let count = retention::to_clean(&policy, view.clean, &facts, now_ms);
            let ends_at: Vec<i64> = facts[..count].iter().map(|f| f.next_base).collect();
            (view.sealed[..count].to_vec(), view.start, ends_at)
        };
        if inputs.is_empty() {
            return Ok(());
        }
        // What is written below is no remains of another version's, but of this: a manifest says so.
        self.write_manifest()?;
        let (mut from, mut damaged, mut round_bytes) = (0, None, ROUND_BYTES);
        while from < inputs.len() {
            let mut bytes = 0;
            let fits = |s: &&Arc<Sealed>| {
                bytes += s.segment.len();
                bytes <= round_bytes
            };
            let mut to = from + inputs[from..].iter().take_while(fits).count().max(1);
            let (outputs, dropped) = Default::default();
            let after_damage = damaged.is_some();
            let mut round =
                Round { log: self, inputs: &inputs, policy: &policy, start, now_ms, at: from, after_damage, outputs, dropped };
            let mut whole = round.run(from..to, go_on);
            if let Err(error @ LogError::Corrupt { .. }) = whole {
                // Copying around it would lose what it hides. The segment stays as it is; those before it are done alone.
                round.outputs.remove();
                to = round.at;
                damaged.get_or_insert(error);
                if to == from {
                    from += 1;
                    continue;
                }
                (round.outputs, round.dropped) = Default::default();
                whole = round.run(from..to, go_on);
            }
            if matches!(whole, Err(LogError::DiskFull { .. })) && to - from > 1 {
                // Segment by segment less space is needed at a time.
                round.outputs.remove();
                round_bytes = 0;
                continue;
            }
            let done = whole.and_then(|whole| match whole {
                true => self.replace(&inputs[from..to], &round.outputs.sealed, ends_at[to - 1], life),
                false => Ok(false),
            });
            match done {
                Ok(true) => round.dropped.count(self),
                other => {
                    round.outputs.remove();
                    return other.map(drop);
                }
            }
            from = to;
        }
        damaged.map_or(Ok(()), Err)
    }
}

/// One round of compaction.
struct Round<'a> {
    log: &'a PartitionLog,
    /// All segments that are being compacted: what is newest among them stays.
    inputs: &'a [Arc<Sealed>],
    policy: &'a Policy,
    start: i64,
    now_ms: i64,
    /// The input that is being read.
    at: usize,
    /// An input before these stays as it is, with older records of who knows which keys.
    after_damage: bool,
    outputs: Outputs,
    dropped: Dropped,
}

/// Records that did not stay, by reason.
#[derive(Default)]
struct Dropped {
    replaced: u64,
    expired: u64,
    tombstones: u64,
}

impl Dropped {
    fn count(&self, log: &PartitionLog) {
        let c = &log.counters;
        let add = |counter: &AtomicU64, n| counter.fetch_add(n, Ordering::Relaxed);
        add(&c.compacted, self.replaced);
        add(&c.expired, self.expired);
        add(&c.tombstones, self.tombstones);
    }
}

#[derive(Default)]
struct Outputs {
    sealed: Vec<Arc<Sealed>>,
    current: Option<Output>,
}

/// A segment that is being written.
struct Output {
    segment: Arc<Segment>,
    tables: Tables,
    buffer: Vec<u8>,
    entries: Vec<Entry>,
}

impl Round<'_> {
    /// Writes what stays of these inputs. False if it was broken off.
    ///
    /// # Errors
    /// A corrupt record of the input [`Round::at`].
    fn run(&mut self, inputs: std::ops::Range<usize>, go_on: &dyn Fn() -> bool) -> Result<bool, LogError> {
        let generation = self.inputs[inputs.clone()].iter().map(|s| s.segment.generation).max().unwrap_or(0).saturating_add(1);
        let first_base = self.inputs[inputs.start].segment.base_offset;
        // A record goes because of a later one, which must be at least as safe: it may have been sealed a moment ago.
        for s in self.inputs {
            s.segment.sync().map_err(|e| LogError::io(&s.segment.path, e))?;
        }
        for n in inputs {
            self.at = n;
            let segment = Arc::clone(&self.inputs[n].segment);
            let mut at = segment::HEADER;
            let mut checked = at;
            while at < segment.len() {
                let fixed = segment.decode(at).map_err(|f| segment.corrupt(at, f))?;
                if self.stays(n, at, &fixed)? {
                    let base = if self.outputs.is_empty() { first_base } else { fixed.offset };
                    self.put(&segment, at, &fixed, base, generation)?;
                }
                at += fixed.stride() as u64;
                if at - checked > WRITE_BYTES as u64 {
                    if !go_on() {
                        return Ok(false);
                    }
                    checked = at;
                }
            }
        }
        self.outputs.finish()?;
        Ok(true)
    }

    fn stays(&mut self, n: usize, at: u64, fixed: &Fixed) -> Result<bool, LogError> {
        let segment = &self.inputs[n].segment;
        // Kafka has no records without a key in a compacted topic; those from before it was one go, as there.
        let Some(range) = fixed.key_range().filter(|_| fixed.offset >= self.start) else {
            self.dropped.expired += 1;
            return Ok(false);
        };
        if self.policy.is_expired(fixed.timestamp_ms, self.now_ms) {
            self.dropped.expired += 1;
            return Ok(false);
        }
        let key = &segment.bytes_from(at)[range];
        let is_newest_here = self.inputs[n].newest(key)? == Some(at);
        // What cannot be told of a later segment is no reason to drop this one.
        let is_replaced = || self.inputs[n + 1..].iter().any(|s| matches!(s.newest(key), Ok(Some(_))));
        if !is_newest_here || is_replaced() {
            self.dropped.replaced += 1;
            return Ok(false);
        }
        let is_over = fixed.horizon_ms.is_some_and(|h| h <= self.now_ms) && !self.after_damage;
        if is_over && !self.log.has_elder_elsewhere(key, fixed.timestamp_ms) {
            self.dropped.tombstones += 1;
            return Ok(false);
        }
        Ok(true)
    }

    fn put(&mut self, from: &Segment, at: u64, fixed: &Fixed, base: i64, generation: u32) -> Result<(), LogError> {
        let bytes = frame::copy_bytes_max(fixed) as u64;
        if self.outputs.current.as_ref().is_some_and(|o| !o.segment.has_room(o.buffer.len() as u64 + bytes)) {
            self.outputs.finish()?;
        }
        let output = match &mut self.outputs.current {
            Some(output) => output,
            none => {
                let capacity = self.log.segment_bytes().max(segment::HEADER + bytes);
                let (base_offset, now_ms) = (base, from.created_ms);
                // Its name is made durable with all of the round.
                let birth = Birth { base_offset, generation, capacity, now_ms, follows: None, durable: false };
                let segment = Segment::create(&self.log.dir, &birth, &self.log.options.files)?;
                none.insert(Output {
                    segment: Arc::new(segment),
                    tables: Tables::default(),
                    buffer: Vec::new(),
                    entries: Vec::new(),
                })
            }
        };
        let horizon = fixed.horizon_ms.unwrap_or_else(|| self.now_ms.saturating_add(self.policy.delete_retention_ms));
        if fixed.value_len.is_none() && !self.after_damage {
            output.segment.horizon_ms.fetch_min(horizon, Ordering::Relaxed);
        }
        let frame = from.bytes_from(at);
        let key_hash = fixed.key_range().map(|r| keytable::hash(&frame[r], output.segment.salt));
        let at = output.segment.len() + output.buffer.len() as u64;
        frame::copy(frame, fixed, Some(horizon), output.segment.salt, &mut output.buffer);
        let (offset, timestamp_ms, has_headers) = (fixed.offset, fixed.timestamp_ms, fixed.headers_len > 0);
        output.entries.push(Entry { at, offset, timestamp_ms, key_hash, has_headers });
        if output.buffer.len() >= WRITE_BYTES { output.write() } else { Ok(()) }
    }
}

impl Output {
    fn write(&mut self) -> Result<(), LogError> {
        self.segment.append(&self.buffer)?;
        self.tables.add_all(&self.segment, &self.entries, &self.buffer);
        self.entries.clear();
        self.buffer.clear();
        Ok(())
    }
}

impl Outputs {
    fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.current.is_none()
    }

    /// Makes the current output durable, with its index.
    fn finish(&mut self) -> Result<(), LogError> {
        let Some(output) = &mut self.current else { return Ok(()) };
        output.write()?;
        let sealed = Sealed::finish(Arc::clone(&output.segment), std::mem::take(&mut output.tables))?;
        self.current = None;
        self.sealed.push(sealed);
        Ok(())
    }

    /// Nobody was told of them.
    fn remove(&self) {
        let segments = self.sealed.iter().map(|s| &s.segment).chain(self.current.as_ref().map(|o| &o.segment));
        for s in segments {
            let _ = s.files.remove(&s.path.with_extension("index"));
            let _ = s.files.remove(&s.path);
        }
    }
}
