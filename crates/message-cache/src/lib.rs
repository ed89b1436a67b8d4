//! The durable copy of topics: one append-only segmented log per partition.
//!
//! Knows no Kafka client, no HTTP and no configuration file. Bytes come in through [`PartitionLog::append`], go out
//! through [`PartitionLog::latest`] and [`PartitionLog::scan`], and lie on disk as `docs/format.md` says.

mod bloom;
mod budget;
mod check;
mod cleaner;
mod clock;
mod demand;
mod durability;
mod error;
mod files;
mod filter;
mod frame;
mod head;
mod index;
mod keep;
mod keeper;
mod keymap;
mod keytable;
mod lock;
mod log;
mod manifest;
mod open;
mod policy;
mod read;
mod reader;
mod record;
mod recovery;
mod renew;
mod retention;
mod scan;
mod sealed;
mod segment;
mod shared;
mod sigbus;
mod stats;
mod take;
mod terms;
mod topic;

pub use clock::Clock;
pub use demand::{Demand, InUse};
pub use error::LogError;
pub use files::{Faults, Files, Op, OpKind, Verdict};
pub use filter::{Clause, Filter};
pub use keeper::{Keeper, KeeperOptions, KeeperStatus};
pub use lock::{DirLock, LockError};
pub use log::{Appending, LogOptions, OnCorruption, PartitionLog};
pub use policy::Policy;
pub use reader::{Event, From, ReadOptions, Reader};
pub use record::{Header, NewRecord, Record, TimestampType};
pub use scan::Scan;
pub use shared::Shared;
pub use sigbus::MAPPINGS_MAX;
pub use stats::LogStats;
pub use take::{Taken, Want};
pub use topic::{Bounds, TopicCache, is_legal_topic_name};
