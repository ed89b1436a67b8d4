//! Power losses at every moment: what was acknowledged as durable is there afterwards, what is served was written, nothing
//! twice, in order. Where nothing was promised, what is left has no hole that is not told of.

mod disk;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use disk::Disk;
use message_cache::{Clock, Files, LogOptions, NewRecord, OnCorruption, PartitionLog, Policy, Shared};
use proptest::prelude::*;

#[derive(Clone, Debug, PartialEq)]
struct Row {
    offset: i64,
    key: u8,
    /// Differs from append to append and from life to life.
    value: Vec<u8>,
}

/// The log between two resets.
#[derive(Clone, Debug, Default)]
struct Life {
    /// The moments at which the reset that began it was called, and done.
    called: usize,
    done: usize,
    start: i64,
    /// With the moments at which each was handed to the log, and acknowledged.
    rows: Vec<(Row, usize, usize)>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Records of (gap before, key, length).
    Append(Vec<(u8, u8, u16)>),
    Reset(i64),
    Clear,
    /// The process begins anew; the disk goes on.
    Reopen,
    /// A power loss at a moment since the last one; then on with what it left.
    Crash(prop::sample::Index, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let record = (0..3u8, 0..8u8, prop_oneof![4 => 0..300u16, 1 => 300..2500u16]);
    prop_oneof![
        8 => proptest::collection::vec(record, 1..8).prop_map(Step::Append),
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
}

struct World {
    kind: Kind,
    root: tempfile::TempDir,
    disk: Arc<Disk>,
    log: Option<PartitionLog>,
    lives: Vec<Life>,
    appends: u32,
}

impl Drop for World {
    fn drop(&mut self) {
        // There is one for all tests.
        self.disk.let_sealer_go();
    }
}

fn open(root: &Path, kind: Kind, disk: &Arc<Disk>) -> PartitionLog {
    let files = Files::with_faults(disk.clone());
    let Kind { durable, on_corruption } = kind;
    let options = LogOptions { segment_bytes: 2048, durable, on_corruption, files, ..LogOptions::default() };
    let log = PartitionLog::open(&root.join("topic/0"), options, Shared::new(Policy::default(), Clock::System)).unwrap();
    disk.settle();
    log
}

impl World {
    fn new(kind: Kind) -> Self {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::new(root.path());
        let log = Some(open(root.path(), kind, &disk));
        Self { kind, root, disk, log, lives: vec![Life::default()], appends: 0 }
    }

    fn log(&self) -> &PartitionLog {
        self.log.as_ref().unwrap()
    }

    fn apply(&mut self, step: &Step) {
        self.disk.hold_sealer();
        match step {
            Step::Append(batch) => self.append(batch),
            Step::Reset(start) => self.renew(*start, |log| log.reset(*start).unwrap()),
            Step::Clear => self.renew(0, |log| log.clear().unwrap()),
            Step::Reopen => {
                let served = |log: &PartitionLog| log.scan(0).flatten().map(|r| r.offset()).collect::<Vec<_>>();
                let before = self.log.take().map(|log| served(&log));
                self.log = Some(open(self.root.path(), self.kind, &self.disk));
                assert_eq!(Some(served(self.log())), before, "a new process finds what the old one served");
            }
            Step::Crash(at, seed) => self.crash(at.index(self.disk.now() + 1), *seed),
        }
        self.disk.settle();
    }

    fn append(&mut self, batch: &[(u8, u8, u16)]) {
        let mut offset = self.log().end_offset();
        self.appends += 1;
        let called = self.disk.now();
        let of = |&(gap, key, len): &(u8, u8, u16)| {
            offset += i64::from(gap) + 1;
            let mut value = self.appends.to_le_bytes().to_vec();
            value.extend((0..len).map(|i| (i as u8) ^ (offset as u8)));
            Row { offset: offset - 1, key, value }
        };
        let rows: Vec<Row> = batch.iter().map(of).collect();
        let keys: Vec<_> = rows.iter().map(|r| [r.key]).collect();
        let records: Vec<_> = rows
            .iter()
            .zip(&keys)
            .map(|(r, key)| NewRecord { offset: r.offset, key: Some(key), value: Some(&r.value), ..NewRecord::default() })
            .collect();
        self.log().append(&records).unwrap();
        let done = self.disk.now();
        self.lives.last_mut().unwrap().rows.extend(rows.into_iter().map(|r| (r, called, done)));
    }

    fn renew(&mut self, start: i64, reset: impl FnOnce(&PartitionLog)) {
        let called = self.disk.now();
        reset(self.log());
        self.lives.push(Life { called, done: self.disk.now(), start, rows: Vec::new() });
    }

    fn crash(&mut self, moment: usize, seed: u64) {
        self.disk.let_sealer_go();
        let root = tempfile::tempdir().unwrap();
        self.disk.after_power_loss(moment, seed, root.path());
        let disk = Disk::new(root.path());
        let log = open(root.path(), self.kind, &disk);
        let life = self.check(&log, moment);
        (self.root, self.disk, self.log, self.lives) = (root, disk, Some(log), vec![life]);
    }

    /// What a log must be that was opened after a power loss at that moment; returns what it holds.
    fn check(&self, log: &PartitionLog, moment: usize) -> Life {
        let scanned: Vec<_> = log.scan(0).collect();
        let is_told = log.stats().corrupt > 0 || scanned.iter().any(Result::is_err);
        let found: Vec<Row> = scanned
            .into_iter()
            .flatten()
            .map(|r| Row { offset: r.offset(), key: r.key().unwrap()[0], value: r.value().unwrap().to_vec() })
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
                assert_eq!(log.latest(&[key]).unwrap().unwrap().value(), Some(&row.value[..]));
            }
        }
        let rows = found.into_iter().map(|r| (r, 0, 0)).collect();
        Life { called: 0, done: 0, start: log.start_offset(), rows }
    }

    /// Whether that may be left of a life. Compaction and retention would take rows out of `must` and leave them in `may`.
    fn fits(&self, life: &Life, moment: usize, found: &[Row], is_told: bool) -> bool {
        let may: Vec<_> = life.rows.iter().filter(|(_, called, _)| *called <= moment).map(|(r, ..)| r).collect();
        let must = if self.kind.durable { life.rows.iter().filter(|(_, _, done)| *done <= moment).count() } else { 0 };
        if is_told {
            // Of a batch whose fsync was still to come, a part may be torn and the rest whole.
            return found.iter().all(|r| may.contains(&r)) && may[..must].iter().all(|r| found.contains(r));
        }
        // Rows reach the log in order, so those that must be there are the first of those that may.
        found.len() >= must && found.len() <= may.len() && found.iter().zip(may).all(|(a, b)| a == b)
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
        let root = tempfile::tempdir().unwrap();
        let moment = at.index(world.disk.now() + 1);
        world.disk.after_power_loss(moment, *seed, root.path());
        let disk = Disk::new(root.path());
        world.check(&open(root.path(), kind, &disk), moment);
    }
}

fn steps() -> impl Strategy<Value = (Vec<Step>, Vec<(prop::sample::Index, u64)>)> {
    (proptest::collection::vec(step(), 1..16), proptest::collection::vec(any::<(prop::sample::Index, u64)>(), 12))
}

/// Half of what is usual (`PROPTEST_CASES`): each case has a dozen ends, and writes files.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.div_ceil(2), ..usual }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_acknowledged_is_durable((steps, moments) in steps(), keep: bool) {
        let on_corruption = if keep { OnCorruption::Keep } else { OnCorruption::Refetch };
        run(Kind { durable: true, on_corruption }, &steps, &moments);
    }

    #[test]
    fn a_copy_has_no_hidden_hole((steps, moments) in steps(), keep: bool) {
        let on_corruption = if keep { OnCorruption::Keep } else { OnCorruption::Refetch };
        run(Kind { durable: false, on_corruption }, &steps, &moments);
    }
}
