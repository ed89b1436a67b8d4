//! Figures of the message cache itself, without a gateway around it: `cache-bench NAME DIRECTORY [ROUNDS] [DIVISOR]`. Prints one
//! JSON object per figure, which `cargo xtask bench cache` makes a table of. The divisor makes all numbers of records smaller, to try it.

mod append;
mod compact;
mod data;
mod find;
mod look;
mod restart;
mod size;
mod snapshot;

use std::path::PathBuf;

/// What a measurement is given.
pub struct Bench {
    /// Where files go; on the disk that is measured.
    dir: PathBuf,
    rounds: usize,
    divisor: u64,
}

/// One figure: a value per round, and one of what it is held against.
pub struct Row {
    what: String,
    ours: Vec<f64>,
    peer: Vec<f64>,
    unit: &'static str,
    note: String,
}

impl Bench {
    fn records(&self, n: u64) -> u64 {
        (n / self.divisor).max(1000)
    }

    fn tempdir(&self) -> tempfile::TempDir {
        tempfile::tempdir_in(&self.dir).expect("a directory")
    }
}

impl Row {
    fn print(&self) {
        let Self { what, ours, peer, unit, note } = self;
        println!(r#"{{"what":"{what}","ours":{ours:?},"peer":{peer:?},"unit":"{unit}","note":"{note}"}}"#);
    }
}

fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| args.get(i).map_or(default, |a| a.parse().expect("a number"));
    let dir = args.get(1).map_or_else(std::env::temp_dir, Into::into);
    let bench = Bench { dir, rounds: number(2, 5), divisor: number(3, 1) as u64 };
    let rows = match args.first().map(String::as_str) {
        Some("append") => append::append(&bench),
        Some("get") => look::get(&bench),
        Some("find") => find::find(&bench),
        Some("snapshot") => snapshot::snapshot(&bench),
        Some("restart") => restart::restart(&bench),
        Some("compact") => compact::compact(&bench),
        Some("memory") => size::memory(&bench),
        Some("disk") => size::disk(&bench),
        // For measurements from outside: DIRECTORY becomes a log of so many keys, instead of ROUNDS.
        Some("fill") => {
            let log = data::open(&bench.dir, 256 << 20, message_cache::Policy::default());
            data::fill(&log, 0..number(2, 1000) as u64, &[]);
            data::settle(&log, &bench.dir);
            Vec::new()
        }
        _ => panic!("cache-bench append|get|find|snapshot|restart|compact|memory|disk|fill DIRECTORY [ROUNDS] [DIVISOR]"),
    };
    rows.iter().for_each(Row::print);
}
