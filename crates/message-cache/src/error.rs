//! What can go wrong with a log, by what the caller can do about it.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Nothing was appended; the log is as it was. Try again when there is space.
    #[error("no space left on the device of {}", path.display())]
    DiskFull { path: PathBuf },
    /// Nothing was appended: a bound on bytes is reached, and no record may be dropped to make room.
    #[error("{}: a bound on bytes is reached (cache.max_bytes, or max_bytes of the topic), and no record may go to make room", path.display())]
    Full { path: PathBuf },
    /// An fsync failed, and what the kernel dropped cannot be known; or a reset did not finish. This log takes no more records
    /// until it is reopened or reset.
    #[error("{} takes no more records: {cause}", path.display())]
    Poisoned { path: PathBuf, cause: String },
    /// The topic has this partition no more, or is another one of the same name.
    #[error("{} is gone with its topic, or with a partition of it: open the topic anew", path.display())]
    Gone { path: PathBuf },
    /// Bytes on disk are not what was written. They are never served.
    #[error("{}: corrupt record at byte {at} ({what})", path.display())]
    Corrupt { path: PathBuf, at: u64, what: &'static str },
    /// A file that was whole ends too early, cannot be read by the device, or is gone. Its log takes no more records.
    #[error(
        "{} was cut short or removed by somebody else, or its device fails: restore the file with the gateway \
         stopped; the cache of a Kafka topic is fetched again by itself",
        path.display()
    )]
    Cut { path: PathBuf },
    /// A file of another format or of a version that this build does not know.
    #[error("{}: {what}", path.display())]
    Format { path: PathBuf, what: String },
    /// A search for one record was given up.
    #[error("none of {looks} records that its terms led to matches the filter: name something rarer")]
    TooBroad { looks: usize },
    #[error("offset {offset} is below the end of the log, {end}")]
    OutOfOrder { offset: i64, end: i64 },
    #[error("a record of {bytes} bytes cannot be stored: at most {max}")]
    TooLarge { bytes: u64, max: u64 },
    #[error("{0:?} is no legal topic name: 1 to 249 of a-z A-Z 0-9 . _ - , not . or ..")]
    TopicName(String),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl LogError {
    pub(crate) fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::DiskFull { path },
            _ => Self::Io { path, source },
        }
    }
}
