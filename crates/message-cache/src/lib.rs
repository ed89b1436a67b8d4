//! The durable copy of topics: one append-only segmented log per partition.
//!
//! Knows no Kafka client, no HTTP and no configuration file. Bytes come in through [`PartitionLog::append`], go out
//! through [`PartitionLog::latest`] and [`PartitionLog::scan`], and lie on disk as `docs/format.md` says.

mod clock;
mod error;
mod files;
mod frame;
mod head;
mod keytable;
mod lock;
mod log;
mod open;
mod policy;
mod record;
mod recovery;
mod scan;
mod sealed;
mod segment;
mod shared;
mod sigbus;
mod topic;

pub use clock::Clock;
pub use error::LogError;
pub use files::{Faults, Files, Op, OpKind, Verdict};
pub use lock::{DirLock, LockError};
pub use log::{LogOptions, LogStats, OnCorruption, PartitionLog};
pub use policy::Policy;
pub use record::{Header, NewRecord, Record, TimestampType};
pub use scan::Scan;
pub use shared::Shared;
pub use sigbus::MAPPINGS_MAX;
pub use topic::{TopicCache, is_legal_topic_name};
