//! A segment that takes no more records. Its indexes are in memory until the sealer has written them to a file, and in
//! that mapped file from then on: `<base offset>.index`, described in `docs/format.md`.

use std::sync::{Arc, LazyLock, OnceLock, mpsc};

use parking_lot::RwLock;

use crate::error::LogError;
use crate::filter::{self, At, Filter};
use crate::head::{Last, Sparse, Tables};
use crate::index::{self, DiskIndex, Index, Summary};
use crate::keytable;
use crate::segment::Segment;

pub struct Sealed {
    pub segment: Arc<Segment>,
    memory: RwLock<Option<Arc<Tables>>>,
    disk: OnceLock<DiskIndex>,
}

impl Sealed {
    /// Opens the index file of a segment. `Ok(None)` when it is missing, damaged or of another segment: it can be made
    /// again from the records.
    pub fn open(segment: Segment) -> Result<Result<Self, Segment>, LogError> {
        Ok(match DiskIndex::open(&segment) {
            Some(index) => {
                segment.set_synced();
                let disk = OnceLock::from(index);
                Ok(Self { segment: Arc::new(segment), memory: RwLock::new(None), disk })
            }
            None => Err(segment),
        })
    }

    /// Seals a segment; its index file is written in the background.
    pub fn new(segment: Arc<Segment>, tables: Tables) -> Arc<Self> {
        let sealed = Arc::new(Self { segment, memory: RwLock::new(Some(Arc::new(tables))), disk: OnceLock::new() });
        // A sealer that died leaves the tables in memory, which serve as well.
        let _ = SEALER.send(Arc::clone(&sealed));
        sealed
    }

    /// As [`Sealed::new`], with the index file durable when it returns.
    pub fn finish(segment: Arc<Segment>, tables: Tables) -> Result<Arc<Self>, LogError> {
        let memory = RwLock::new(Some(Arc::new(tables)));
        let sealed = Arc::new(Self { segment, memory, disk: OnceLock::new() });
        sealed.write_index()?;
        Ok(sealed)
    }

    /// One of the two forms of the index; the file as soon as it is there.
    fn with<T>(&self, ask: impl FnOnce(&dyn Index) -> T) -> T {
        if let Some(disk) = self.disk.get() {
            return ask(disk);
        }
        let memory = self.memory.read();
        match (&*memory, self.disk.get()) {
            (Some(tables), _) => ask(&**tables),
            (None, Some(disk)) => ask(disk),
            // The memory is let go of only after the file is there.
            (None, None) => ask(&Tables::default()),
        }
    }

    /// As [`Index::newest`]: position of the newest record of a key in this segment.
    pub fn newest(&self, key: &[u8]) -> Result<Option<u64>, LogError> {
        let hash = keytable::hash(key, self.segment.salt);
        self.with(|index| index.newest(&self.segment, hash, key))
    }

    /// As [`filter::candidates`].
    pub fn candidates(&self, filter: &Filter, span: At, max: usize) -> Result<Option<Vec<u64>>, LogError> {
        self.with(|index| filter::candidates(index, &self.segment, filter, span, max))
    }

    /// Reads all records and asks the index for each: what is wrong, in words; empty if all is well.
    pub fn verify(&self) -> Vec<String> {
        // Takes long, so no lock is held.
        let memory = self.memory.read().clone();
        match memory {
            Some(tables) => crate::check::check(&*tables, &self.segment),
            None => self.with(|index| crate::check::check(index, &self.segment)),
        }
    }

    /// Where to begin looking for an offset.
    pub fn before_offset(&self, offset: i64) -> u64 {
        self.with(|index| before_offset(index.sparse(), offset))
    }

    /// Where to begin looking for the first record of at least that time; `None` if all are older.
    pub fn before_time(&self, timestamp_ms: i64) -> Option<u64> {
        let all_older = self.time_max()? < timestamp_ms;
        (!all_older).then(|| self.with(|index| before_time(index.sparse(), timestamp_ms)))
    }

    pub fn summary(&self) -> Summary {
        self.with(|index| index.summary())
    }

    pub fn last(&self) -> Option<Last> {
        self.summary().last
    }

    pub fn time_max(&self) -> Option<i64> {
        self.summary().time_max
    }

    pub fn records(&self) -> u64 {
        self.summary().records
    }

    pub fn heap_bytes(&self) -> usize {
        self.with(|index| index.heap_bytes())
    }

    /// Makes the segment durable, then its index, then lets go of the memory.
    fn write_index(&self) -> Result<(), LogError> {
        let io = |e| LogError::io(&self.segment.path, e);
        self.segment.sync().map_err(io)?;
        let Some(tables) = self.memory.read().clone() else { return Ok(()) };
        index::write(&self.segment, &tables)?;
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
