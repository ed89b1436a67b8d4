//! Every change of a file that this crate makes goes through here, so that a test can let it fail, or note it down.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// What is to be done to a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Create a file, or empty the one that is there.
    Create,
    Write,
    /// Make the file `offset` bytes long.
    SetLen,
    /// `fdatasync` of a file.
    SyncData,
    /// `fsync` of a directory: the names in it are durable from then on.
    SyncDir,
    Rename,
    Remove,
    CreateDir,
    /// Remove a directory with all that is in it, file by file.
    RemoveTree,
}

/// One operation, as a [`Faults`] sees it.
#[derive(Clone, Copy, Debug)]
pub struct Op<'a> {
    pub kind: OpKind,
    pub path: &'a Path,
    /// The new name, for a rename.
    pub to: Option<&'a Path>,
    /// Position of a write, or the new length.
    pub offset: u64,
    pub bytes: &'a [u8],
    /// The open file, whose name may have changed since `path` was noted.
    pub file: Option<&'a File>,
}

impl<'a> Op<'a> {
    fn on(kind: OpKind, path: &'a Path) -> Self {
        Self { kind, path, to: None, offset: 0, bytes: &[], file: None }
    }
}

/// What becomes of an operation. Errors are `errno` numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Go,
    /// A sync is not done, but answered as if it were: for tests that keep account of what is durable themselves. Other
    /// operations are done.
    Pretend,
    /// Nothing happens but the error.
    Fail(i32),
    /// That many bytes are written, then the error.
    Short(usize, i32),
}

/// For tests: decides what becomes of each operation, and is told of those that were done.
pub trait Faults: Send + Sync {
    fn before(&self, op: &Op<'_>) -> Verdict;
    /// `op.bytes` are those that were written.
    fn after(&self, op: &Op<'_>);
}

/// The file system, or a test's idea of it.
#[derive(Clone, Default)]
pub struct Files(Option<Arc<dyn Faults>>);

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Files(with faults)" } else { "Files" })
    }
}

impl Files {
    /// For tests: the real file system, each operation shown to `faults` first.
    pub fn with_faults(faults: Arc<dyn Faults>) -> Self {
        Self(Some(faults))
    }

    fn run(&self, op: Op<'_>, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let Some(faults) = &self.0 else { return act() };
        match faults.before(&op) {
            Verdict::Fail(errno) | Verdict::Short(_, errno) => return Err(io::Error::from_raw_os_error(errno)),
            Verdict::Pretend if matches!(op.kind, OpKind::SyncData | OpKind::SyncDir) => {}
            Verdict::Go | Verdict::Pretend => act()?,
        }
        faults.after(&op);
        Ok(())
    }

    /// An empty file to read and write, whatever was there before.
    pub fn create(&self, path: &Path) -> io::Result<File> {
        let mut op = Op::on(OpKind::Create, path);
        if let Some(faults) = &self.0
            && let Verdict::Fail(errno) | Verdict::Short(_, errno) = faults.before(&op)
        {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        if let Some(faults) = &self.0 {
            op.file = Some(&file);
            faults.after(&op);
        }
        Ok(file)
    }

    pub fn write_all_at(&self, file: &File, path: &Path, bytes: &[u8], offset: u64) -> io::Result<()> {
        let Some(faults) = &self.0 else { return file.write_all_at(bytes, offset) };
        let op = Op { offset, bytes, file: Some(file), ..Op::on(OpKind::Write, path) };
        let (taken, error) = match faults.before(&op) {
            Verdict::Go | Verdict::Pretend => (bytes.len(), None),
            Verdict::Fail(errno) => return Err(io::Error::from_raw_os_error(errno)),
            Verdict::Short(n, errno) => (n.min(bytes.len()), Some(errno)),
        };
        file.write_all_at(&bytes[..taken], offset)?;
        faults.after(&Op { bytes: &bytes[..taken], ..op });
        error.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    pub fn set_len(&self, file: &File, path: &Path, len: u64) -> io::Result<()> {
        let op = Op { offset: len, file: Some(file), ..Op::on(OpKind::SetLen, path) };
        self.run(op, || file.set_len(len))
    }

    pub fn sync_data(&self, file: &File, path: &Path) -> io::Result<()> {
        self.run(Op { file: Some(file), ..Op::on(OpKind::SyncData, path) }, || file.sync_data())
    }

    pub fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.run(Op::on(OpKind::SyncDir, dir), || File::open(dir)?.sync_all())
    }

    /// Makes the name of `path` durable, or that it is gone.
    pub fn sync_parent(&self, path: &Path) -> io::Result<()> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(Op { to: Some(to), ..Op::on(OpKind::Rename, from) }, || std::fs::rename(from, to))
    }

    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.run(Op::on(OpKind::Remove, path), || std::fs::remove_file(path))
    }

    pub fn remove_tree(&self, dir: &Path) -> io::Result<()> {
        self.run(Op::on(OpKind::RemoveTree, dir), || std::fs::remove_dir_all(dir))
    }

    /// Creates a directory and those above it, as far as they are missing; with `durable`, their names are fsynced.
    pub fn create_dirs(&self, dir: &Path, durable: bool) -> io::Result<()> {
        if dir.is_dir() || dir.as_os_str().is_empty() {
            return Ok(());
        }
        if let Some(parent) = dir.parent() {
            self.create_dirs(parent, durable)?;
        }
        match self.run(Op::on(OpKind::CreateDir, dir), || std::fs::create_dir(dir)) {
            // Somebody was faster.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            Err(e) => Err(e),
            Ok(()) if durable => self.sync_parent(dir),
            Ok(()) => Ok(()),
        }
    }
}
