//! What the disk allows: appends a block, makes it durable, and again. A log that commits a group per sync cannot be faster than
//! records per block times blocks per second. Prints one line of JSON.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;

/// The file starts over at this size, so that a fast disk is not filled.
const FILE_BYTES: usize = 256 << 20;

#[derive(Parser)]
struct Args {
    /// Where the log under test has its files: another file system has another answer.
    #[arg(long)]
    dir: PathBuf,
    /// Bytes of one record.
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
    /// Records of one group commit.
    #[arg(long, default_value_t = 64)]
    group: usize,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let block = vec![b'x'; args.bytes * args.group];
    let mut file = tempfile::tempfile_in(&args.dir)?;
    let start = Instant::now();
    let mut blocks = 0_u64;
    let mut written = 0;
    while start.elapsed() < Duration::from_secs(args.seconds) {
        if written + block.len() > FILE_BYTES {
            file = tempfile::tempfile_in(&args.dir)?;
            written = 0;
        }
        file.write_all(&block)?;
        file.sync_data()?;
        written += block.len();
        blocks += 1;
    }
    let rate = blocks as f64 / start.elapsed().as_secs_f64();
    println!("{}", serde_json::json!({ "syncs_per_second": rate, "records_per_second": rate * args.group as f64 }));
    Ok(())
}
