//! The command line as clap sees it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(
    name = "tidegate",
    version,
    about = "A gateway between HTTP and Kafka, with a memory",
    long_about = "Tidegate puts Kafka topics behind one HTTP surface and keeps what passed in a durable cache.\n\
        Without a Kafka cluster it keeps topics in its own embedded log.",
    after_help = "Exit codes: 0 done; 1 failed; 2 the command line or the configuration is wrong; 3 an address cannot be \
        listened on; 4 a directory cannot be used or is in use; 5 a cluster or topic cannot be reached.\n\n\
        A value of the configuration is overridden by --set a.b=c, or by the environment: TIDEGATE__A__B=c.",
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

/// A configuration file and what overrides it.
#[derive(Args, Clone)]
pub struct Config {
    /// The configuration, YAML or JSON
    pub file: PathBuf,
    /// Override a value, as in listeners.public.address=0.0.0.0:80; may be given several times
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Run the gateway until SIGTERM or SIGINT
    ///
    /// Prints where it listens, its routes, and commands to try. At SIGTERM it stops accepting, finishes what runs
    /// (limits.drain_timeout at most) and exits with 0; a second signal ends the waiting.
    Run {
        #[command(flatten)]
        config: Config,
    },
    /// Check a configuration and print all problems at once
    ///
    /// Connects to nothing. Exits with 2 if there is a problem; each is printed with its line, column and a remedy.
    Check {
        #[command(flatten)]
        config: Config,
    },
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Print the version
    Version {
        /// As JSON, with what was compiled in
        #[arg(long)]
        json: bool,
    },
    /// Connect to each cluster, topic and directory and say what is well and what is not
    ///
    /// Prints a line per fact, with a remedy for each that is bad. Exits with 5 if a cluster or topic cannot be reached, 4 if a
    /// directory cannot be used.
    Doctor {
        #[command(flatten)]
        config: Config,
        /// Seconds to wait for a cluster
        #[arg(long, default_value_t = 5)]
        timeout: u64,
    },
    /// Create, alter, delete, list, describe, write and read topics of any cluster of a configuration
    ///
    /// Works on the embedded cluster too: through the running gateway if there is one, else on its files.
    Topic {
        #[command(subcommand)]
        verb: TopicVerb,
    },
    /// Look at what is cached on disk, verify it, drop it; works while a gateway runs
    Cache {
        #[command(subcommand)]
        verb: CacheVerb,
    },
}

/// Which cluster of which configuration.
#[derive(Args, Clone)]
pub struct Where {
    #[command(flatten)]
    pub config: Config,
    /// The cluster; may be left out if the configuration has one
    #[arg(long)]
    pub cluster: Option<String>,
}

#[derive(Subcommand)]
pub enum TopicVerb {
    /// Create a topic
    Create {
        #[command(flatten)]
        at: Where,
        topic: String,
        #[arg(long, default_value_t = 1)]
        partitions: i32,
        /// Copies of each partition; -1 is the cluster's default
        #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
        replication: i32,
        /// A topic property, as in cleanup.policy=compact; may be given several times
        #[arg(long, value_name = "NAME=VALUE")]
        config: Vec<String>,
    },
    /// List topics
    Ls {
        #[command(flatten)]
        at: Where,
    },
    /// Change the properties of a topic, or add partitions
    Alter {
        #[command(flatten)]
        at: Where,
        topic: String,
        /// A topic property, as in retention.ms=3600000; without a value back to its default; may be given several times
        #[arg(long, value_name = "NAME=VALUE")]
        config: Vec<String>,
        /// How many partitions the topic is to have; never less than it has
        #[arg(long)]
        partitions: Option<i32>,
    },
    /// Delete a topic with all its records
    Delete {
        #[command(flatten)]
        at: Where,
        topic: String,
        /// Says that it is meant
        #[arg(long)]
        yes: bool,
    },
    /// Delete the oldest records of a partition
    DeleteRecords {
        #[command(flatten)]
        at: Where,
        topic: String,
        #[arg(long)]
        partition: i32,
        /// The offset of the first record to keep, or end: none is kept
        #[arg(long, value_name = "OFFSET|end")]
        before: String,
    },
    /// Show the partitions and properties of a topic
    Describe {
        #[command(flatten)]
        at: Where,
        topic: String,
    },
    /// Write records from standard input
    ///
    /// JSON lines: {"key": "k", "value": "v", "headers": [{"name": "n", "value": "v"}], "partition": 0, "timestamp": 0}, all of
    /// them optional; a record without value is a tombstone; bytes that are no text as key_base64 and value_base64. Prints a
    /// line per record: where it is.
    Produce {
        #[command(flatten)]
        at: Where,
        topic: String,
        #[arg(long, value_enum, default_value_t = Format::Json)]
        format: Format,
        /// The key of the records, with --format raw
        #[arg(long)]
        key: Option<String>,
    },
    /// Print records as JSON lines, or their values
    Consume {
        #[command(flatten)]
        at: Where,
        topic: String,
        #[arg(long, value_enum, default_value_t = Format::Json)]
        format: Format,
        /// Only this partition
        #[arg(long)]
        partition: Option<i32>,
        /// earliest, latest, or an offset
        #[arg(long, default_value = "earliest")]
        from: String,
        /// Stop after so many records
        #[arg(long)]
        count: Option<u64>,
        /// Go on with records to come
        #[arg(long)]
        follow: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object per line
    Json,
    /// One value per line, as it is
    Raw,
}

#[derive(Subcommand)]
pub enum CacheVerb {
    /// List the cached topics
    Ls {
        #[command(flatten)]
        config: Config,
    },
    /// Show a topic: its policy, and of each partition offsets, times, records, bytes, segments
    Inspect {
        #[command(flatten)]
        at: Where,
        topic: String,
        /// Show the record at this offset of --partition
        #[arg(long, requires = "partition")]
        offset: Option<i64>,
        #[arg(long)]
        partition: Option<i32>,
        /// Show the newest record of this key
        #[arg(long, conflicts_with = "offset")]
        key: Option<String>,
    },
    /// Read everything and check it: checksums, the order of offsets, and indexes against records
    ///
    /// Prints a line per fault and a summary. Exits with 1 if there is a fault.
    Verify {
        #[command(flatten)]
        at: Where,
        /// Only this topic
        topic: Option<String>,
    },
    /// Drop what is cached of a Kafka topic; a running gateway fetches it again
    Purge {
        #[command(flatten)]
        at: Where,
        topic: String,
    },
}
