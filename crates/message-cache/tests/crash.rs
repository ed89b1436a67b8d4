//! Power losses at every moment: what was acknowledged as durable is there afterwards, what is served was written, nothing
//! twice, in order. Where nothing was promised, what was synced is there, and what is left has no hole that is not told of.

mod disk;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use disk::Disk;
use message_cache::{Clock, Files, LogError, LogOptions, NewRecord, OnCorruption, PartitionLog, Policy, Shared};
use proptest::prelude::*;

#[derive(Clone, Debug, PartialEq)]
struct Row {
    offset: i64,
    key: u8,
    /// Differs from append to append and from life to life; `None` for a tombstone.
    value: Option<Vec<u8>>,
}

/// The log between two resets.
#[derive(Clone, Debug, Default)]
struct Life {
    /// The moments at which the reset that began it was called, and done.
    called: usize,
    done: usize,
    start: i64,
    /// To where the start was moved since, and the moments as above.
    starts: Vec<(i64, usize, usize)>,
    /// With the moments at which each was handed to the log, and acknowledged.
    rows: Vec<(Row, usize, usize)>,
    /// How many of the rows were made durable on demand, and the moment at which that was done.
    syncs: Vec<(usize, usize)>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Records of (gap before, key, length or tombstone).
    Append(Vec<(u8, u8, Option<u16>)>),
    /// Housekeeping: compaction, where the topic is compacted.
    Keep,
    /// All that was appended is to be durable.
    Sync,
    /// By so many of 255 of what there is.
    MoveStart(u8),
    DropOldest,
    Reset(i64),
    Clear,
    /// The process begins anew; the disk goes on.
    Reopen,
    /// A power loss at a moment since the last one; then on with what it left.
    Crash(prop::sample::Index, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![1 => Just(None), 8 => (0..300u16).prop_map(Some), 2 => (300..2500u16).prop_map(Some)];
    let record = (0..3u8, 0..8u8, len);
    prop_oneof![
        8 => proptest::collection::vec(record, 1..8).prop_map(Step::Append),
        4 => Just(Step::Keep),
        3 => Just(Step::Sync),
        1 => any::<u8>().prop_map(Step::MoveStart),
        1 => Just(Step::DropOldest),
        1 => (0..1000i64).prop_map(Step::Reset),
        1 => Just(Step::Clear),
        1 => Just(Step::Reopen),
        2 => (any::<prop::sample::Index>(), any::<u64>()).prop_map(|(at, seed)| Step::Crash(at, seed)),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    durable: bool,
    on_corruption: OnCorruption,
    compact: bool,
}

struct World {
    kind: Kind,
    root: tempfile::TempDir,
    disk: Arc<Disk>,
    log: Option<PartitionLog>,
    lives: Vec<Life>,
    appends: u32,
    /// A power loss left something corrupt. It has an index by now, so that a later start does not meet it again.
    is_torn: bool,
}

impl Drop for World {
    fn drop(&mut self) {
        // There is one for all tests.
        self.disk.let_sealer_go();
    }
}

/// In memory where that can be had: what is durable is for the simulation to say.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn open(root: &Path, kind: Kind, disk: &Arc<Disk>) -> PartitionLog {
    let files = Files::with_faults(disk.clone());
    let Kind { durable, on_corruption, compact } = kind;
    let policy = Policy { compact, min_cleanable_dirty_ratio: 0.0, delete_retention_ms: 0, ..Policy::default() };
    let options = LogOptions { segment_bytes: 2048, durable, on_corruption, files, ..LogOptions::default() };
    let log = PartitionLog::open(&root.join("topic/0"), options, Shared::new(policy, Clock::System)).unwrap();
    disk.settle();
    log
}

impl World {
    fn new(kind: Kind) -> Self {
        let root = directory();
        let disk = Disk::new(root.path());
        let log = Some(open(root.path(), kind, &disk));
        Self { kind, root, disk, log, lives: vec![Life::default()], appends: 0, is_torn: false }
    }

    fn log(&self) -> &PartitionLog {
        self.log.as_ref().unwrap()
    }

    fn apply(&mut self, step: &Step) {
        self.disk.hold_sealer();
        match step {
            Step::Append(batch) => self.append(batch),
            Step::Keep => match self.log().keep(&|| true) {
                // What a batch left that was torn before it was acknowledged is not compacted.
                Err(LogError::Corrupt { .. }) if self.is_torn => {}
                kept => kept.unwrap(),
            },
            Step::Sync => {
                self.log().sync().unwrap();
                let done = self.disk.now();
                let life = self.lives.last_mut().unwrap();
                life.syncs.push((life.rows.len(), done));
            }
            Step::MoveStart(share) => self.move_start(|log| {
                let (start, end) = (log.start_offset(), log.end_offset());
                log.move_start(start + (end - start) * i64::from(*share) / 255).unwrap();
            }),
            Step::DropOldest => self.move_start(|log| {
                log.drop_oldest().unwrap();
            }),
            Step::Reset(start) => self.renew(*start, |log| log.reset(*start).unwrap()),
            Step::Clear => self.renew(0, |log| log.clear().unwrap()),
            Step::Reopen => {
                // Where nothing is promised, a start that was moved is kept with the next housekeeping.
                let start = self.log().start_offset();
                let served = |log: &PartitionLog| log.scan(start).flatten().map(|r| r.offset()).collect::<Vec<_>>();
                let before = self.log.take().map(|log| served(&log));
                self.log = Some(open(self.root.path(), self.kind, &self.disk));
                assert_eq!(Some(served(self.log())), before, "a new process finds what the old one served");
            }
            Step::Crash(at, seed) => self.crash(at.index(self.disk.now() + 1), *seed),
        }
        self.disk.settle();
    }

    fn move_start(&mut self, how: impl FnOnce(&PartitionLog)) {
        let called = self.disk.now();
        how(self.log());
        let moved = (self.log().start_offset(), called, self.disk.now());
        self.lives.last_mut().unwrap().starts.push(moved);
    }

    fn append(&mut self, batch: &[(u8, u8, Option<u16>)]) {
        let mut offset = self.log().end_offset();
        self.appends += 1;
        let called = self.disk.now();
        let of = |&(gap, key, len): &(u8, u8, Option<u16>)| {
            offset += i64::from(gap) + 1;
            let body = |len| self.appends.to_le_bytes().into_iter().chain((0..len).map(|i| (i as u8) ^ (offset as u8)));
            let value = len.map(|len| body(len).collect());
            Row { offset: offset - 1, key, value }
        };
        let rows: Vec<Row> = batch.iter().map(of).collect();
        let keys: Vec<_> = rows.iter().map(|r| [r.key]).collect();
        let records: Vec<_> = rows
            .iter()
            .zip(&keys)
            .map(|(r, key)| NewRecord { offset: r.offset, key: Some(key), value: r.value.as_deref(), ..NewRecord::default() })
            .collect();
        self.log().append(&records).unwrap();
        let done = self.disk.now();
        self.lives.last_mut().unwrap().rows.extend(rows.into_iter().map(|r| (r, called, done)));
    }

    fn renew(&mut self, start: i64, reset: impl FnOnce(&PartitionLog)) {
        let called = self.disk.now();
        reset(self.log());
        self.lives.push(Life { called, done: self.disk.now(), start, ..Life::default() });
    }

    fn crash(&mut self, moment: usize, seed: u64) {
        self.disk.let_sealer_go();
        let root = directory();
        self.disk.after_power_loss(moment, seed, root.path());
        let disk = Disk::new(root.path());
        let log = open(root.path(), self.kind, &disk);
        let life = self.check(&log, moment);
        self.is_torn |= log.stats().corrupt > 0;
        (self.root, self.disk, self.log, self.lives) = (root, disk, Some(log), vec![life]);
    }

    /// What a log must be that was opened after a power loss at that moment; returns what it holds.
    fn check(&self, log: &PartitionLog, moment: usize) -> Life {
        let scanned: Vec<_> = log.scan(0).collect();
        let is_told = log.stats().corrupt > 0 || scanned.iter().any(Result::is_err);
        let found: Vec<Row> = scanned
            .into_iter()
            .flatten()
            .map(|r| Row { offset: r.offset(), key: r.key().unwrap()[0], value: r.value().map(<[u8]>::to_vec) })
            .collect();
        assert!(found.is_sorted_by(|a, b| a.offset < b.offset), "in order, nothing twice");
        // The life that is certain, or the one that was about to begin.
        let fits = |life: &&Life| self.fits(life, moment, &found, is_told);
        let current = self.lives.iter().rposition(|l| l.done <= moment).unwrap();
        let possible = self.lives[current..].iter().filter(|l| l.called <= moment);
        let life = possible.rev().find(fits).unwrap_or_else(|| panic!("{found:#?} after {moment} of {:#?}", self.lives));
        let end = found.last().map_or(0, |r| r.offset + 1);
        assert!(log.end_offset() >= end);
        if self.kind.durable && life.done <= moment {
            assert!(log.end_offset() >= life.start, "the end does not move back");
        }
        if !is_told {
            let newest: BTreeMap<_, _> = found.iter().map(|r| (r.key, r)).collect();
            for (key, row) in newest {
                assert_eq!(log.latest(&[key]).unwrap().unwrap().offset(), row.offset);
            }
        }
        let rows = found.into_iter().map(|r| (r, 0, 0)).collect();
        Life { start: log.start_offset(), rows, ..Life::default() }
    }

    /// Whether that may be left of a life.
    fn fits(&self, life: &Life, moment: usize, found: &[Row], is_told: bool) -> bool {
        let Kind { durable, compact, on_corruption } = self.kind;
        let may: Vec<&Row> = life.rows.iter().filter(|(_, called, _)| *called <= moment).map(|(r, ..)| r).collect();
        // Rows reach the log in order, so those that must be there are the first of those that may.
        let synced = life.syncs.iter().filter(|(_, done)| *done <= moment).map(|(rows, _)| *rows).max().unwrap_or(0);
        let must = if durable { life.rows.iter().filter(|(_, _, done)| *done <= moment).count() } else { synced };
        let moved = |done: bool| {
            let starts = life.starts.iter().filter(|(_, c, d)| if done { *d <= moment } else { *c <= moment });
            starts.map(|(start, ..)| *start).max().unwrap_or(life.start)
        };
        let keeps_start = durable || on_corruption == OnCorruption::Keep;
        let (gone_below, served_from) = (moved(false), if keeps_start { moved(true) } else { life.start });
        let certain = may.iter().rposition(|r| found.last() == Some(r)).map_or(0, |last| last + 1).max(must);
        let certain = &may[..if is_told { must } else { certain }];
        let later = |rows: &[Row], row: &Row| rows.iter().any(|r| r.key == row.key && r.offset > row.offset);
        // Compaction: a record goes when a later one of its key stays, or a tombstone has come and gone.
        let buried = |row: &Row| may.iter().any(|r| r.value.is_none() && r.key == row.key && r.offset >= row.offset);
        let is_there = |row: &Row| found.contains(row) || (compact && (later(found, row) || buried(row)));
        // And no older one may come to light by it.
        let is_newest = |row: &Row| found.contains(row) || later(found, row) || !found.iter().any(|r| r.key == row.key);
        found.iter().all(|r| may.contains(&r) && r.offset >= served_from)
            && certain.iter().filter(|r| r.offset >= gone_below).all(|r| is_there(r) && is_newest(r))
    }
}

fn run(kind: Kind, steps: &[Step], moments: &[(prop::sample::Index, u64)]) {
    fastrand::seed(7);
    let mut world = World::new(kind);
    for step in steps {
        world.apply(step);
    }
    // The same run may end in many ways.
    for (at, seed) in moments {
        let root = directory();
        let moment = at.index(world.disk.now() + 1);
        world.disk.after_power_loss(moment, *seed, root.path());
        let disk = Disk::new(root.path());
        world.check(&open(root.path(), kind, &disk), moment);
    }
}

fn steps() -> impl Strategy<Value = (Vec<Step>, Vec<(prop::sample::Index, u64)>)> {
    (proptest::collection::vec(step(), 1..16), proptest::collection::vec(any::<(prop::sample::Index, u64)>(), 12))
}

/// More or less than that by `PROPTEST_CASES`, of which 256 are usual. Each case has a dozen ends.
const CASES: u32 = 300;

fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: (CASES * usual.cases).div_ceil(256), ..usual }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_acknowledged_is_durable((steps, moments) in steps(), keep: bool, compact: bool) {
        let on_corruption = if keep { OnCorruption::Keep } else { OnCorruption::Refetch };
        run(Kind { durable: true, on_corruption, compact }, &steps, &moments);
    }

    #[test]
    fn a_copy_has_no_hidden_hole((steps, moments) in steps(), keep: bool, compact: bool) {
        let on_corruption = if keep { OnCorruption::Keep } else { OnCorruption::Refetch };
        run(Kind { durable: false, on_corruption, compact }, &steps, &moments);
    }
}
