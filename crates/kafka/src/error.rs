//! Faults by who is to blame and what a client may do about them.

/// Whether a record that was not acknowledged may be in the topic all the same: the difference between a retry that is
/// safe and one that may write twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    No,
    Maybe,
    /// Of what went wrong later.
    Yes,
}

/// Why a record was not acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProduceError {
    #[error("topic {topic} does not exist")]
    UnknownTopic { topic: String },
    #[error("topic {topic} has no partition {partition}")]
    UnknownPartition { topic: String, partition: i32 },
    /// Over `max.message.bytes` of the topic or `message.max.bytes` of the client.
    #[error("the record is larger than the topic takes{}", limit_bytes.map(|n| format!(": at most {n} bytes")).unwrap_or_default())]
    TooLarge { limit_bytes: Option<u64> },
    /// The cluster refuses this record as it is, and would refuse it again.
    #[error("the cluster refuses the record: {reason}")]
    Invalid { reason: String },
    /// The queue of records on their way is full (`queue.buffering.max.messages`, `queue.buffering.max.kbytes`).
    #[error("too many records are on their way")]
    QueueFull,
    #[error("not authorised: {reason}")]
    NotAuthorized { reason: String },
    /// The cluster cannot take records now.
    #[error("the cluster is not available: {reason}")]
    Unavailable { reason: String, written: Written },
    /// No acknowledgement within `delivery.timeout.ms`.
    #[error("the cluster did not acknowledge in time: {reason}")]
    TimedOut { reason: String, written: Written },
    /// The device of the embedded log is full.
    #[error("there is no space left for the embedded log")]
    DiskFull,
    /// Not the device is full: a bound of the configuration is reached.
    #[error(
        "a bound on bytes (cache.max_bytes, or max_bytes of the topic) is reached, and nothing may go to make room: raise it, or \
         have retention or compaction take more"
    )]
    BytesMax,
    /// What `produce_if` was to look for is not so, or not any more.
    #[error("the condition of the record does not hold: the topic has changed since")]
    ConditionFailed,
}

impl ProduceError {
    /// Whether the record may have been written.
    pub fn written(&self) -> Written {
        match self {
            Self::Unavailable { written, .. } | Self::TimedOut { written, .. } => *written,
            _ => Written::No,
        }
    }
}

/// Why a topic could not be created, changed, listed or described.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AdminError {
    #[error("topic {0} does not exist")]
    UnknownTopic(String),
    #[error("topic {0} exists already")]
    TopicExists(String),
    #[error("{0}")]
    Invalid(String),
    #[error("not available now: {0}")]
    Unavailable(String),
}
