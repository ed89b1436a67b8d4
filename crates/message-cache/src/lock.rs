//! One process per directory: a lock file that says who holds it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::segment::is_named;

const FILE: &str = "LOCK";

/// Held for as long as it lives; the kernel lets go of it when the process dies, however it dies.
#[derive(Debug)]
pub struct DirLock {
    file: File,
    dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{} is in use by {holder}", dir.display())]
    Held { dir: PathBuf, holder: String },
    #[error("{} cannot be used: {source}", dir.display())]
    Io { dir: PathBuf, source: std::io::Error },
}

impl DirLock {
    /// Creates the directory if needed. `purpose` is what another process is told of the holder, beside its process id.
    pub fn acquire(dir: &Path, purpose: &str) -> Result<Self, LockError> {
        let io = |source| LockError::Io { dir: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(io)?;
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join(FILE)).map_err(io)?;
        if let Err(e) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if e != rustix::io::Errno::WOULDBLOCK {
                return Err(io(e.into()));
            }
            let mut holder = String::new();
            let _ = (&mut file).take(200).read_to_string(&mut holder);
            let holder = if holder.is_empty() { "another process".into() } else { holder.trim().to_owned() };
            return Err(LockError::Held { dir: dir.to_owned(), holder });
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "process {} ({purpose})", std::process::id())
        };
        // Who holds it is a courtesy; the lock itself stands also where the text cannot be written.
        let _ = write(&mut file);
        Ok(Self { file, dir: dir.to_owned() })
    }

    /// Whether the lock file is still there under its name. When somebody removed it, or the directory, another process
    /// could take the lock as well.
    pub fn is_intact(&self) -> bool {
        is_named(&self.file, &self.dir.join(FILE))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(dir.path(), "test").unwrap();
        let text = DirLock::acquire(dir.path(), "other").unwrap_err().to_string();
        assert!(text.contains(&format!("in use by process {} (test)", std::process::id())), "{text}");
        assert!(first.is_intact());
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        assert!(!first.is_intact());
        let second = DirLock::acquire(dir.path(), "other").unwrap();
        assert!(!first.is_intact() && second.is_intact());
        drop(second);
        drop(DirLock::acquire(dir.path(), "other").unwrap());
    }
}
