//! A disk that remembers what was done to it, and can say what a power loss at any moment might have left.
//!
//! What was synced is there. Of what was not, any part may be: each sector of each write, each change of length, each name
//! that was given or taken. `fsync` of a file says nothing of its name; that of a directory nothing of what the files hold.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use message_cache::{Faults, Op, OpKind, Verdict};

const SECTOR: usize = 512;
const ROOT: usize = 0;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    File(usize),
    Dir(usize),
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

/// Names given or taken in one step.
type Names = Vec<(String, Option<Node>)>;

#[derive(Clone, Debug)]
enum Event {
    Data(usize, Change),
    SyncData(usize),
    Names(usize, Names),
    SyncDir(usize),
}

/// What is certain of a file or directory, and what came after.
#[derive(Clone)]
struct Kept<T, P> {
    synced: T,
    since: Vec<P>,
}

impl<T: Clone + Default, P: Clone> Kept<T, P> {
    /// Of everything there ever was: what was there first, and nothing of the others.
    fn all(first: &[T], count: usize) -> Vec<Self> {
        let synced = first.iter().cloned().chain(std::iter::repeat_with(T::default)).take(count);
        synced.map(|synced| Self { synced, since: Vec::new() }).collect()
    }
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    /// As running programs see them.
    dirs: Vec<BTreeMap<String, Node>>,
    by_inode: HashMap<u64, usize>,
    files: usize,
    /// What was there at the beginning.
    first_files: Vec<Vec<u8>>,
    first_dirs: Vec<BTreeMap<String, Node>>,
    sealer_waits: bool,
}

/// Everything below a directory, from when it was made.
pub struct Disk {
    root: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

impl Disk {
    /// What lies there already is taken as synced.
    pub fn new(root: &Path) -> Arc<Self> {
        let mut state = State::default();
        state.load(root);
        state.first_dirs = state.dirs.clone();
        Arc::new(Self { root: root.to_owned(), state: Mutex::new(state), changed: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// How many events there were: the moment it is.
    pub fn now(&self) -> usize {
        self.state().events.len()
    }

    /// The sealer waits before its next operation, so that a run can be repeated.
    pub fn hold_sealer(&self) {
        self.state().sealer_waits = true;
    }

    pub fn let_sealer_go(&self) {
        self.state().sealer_waits = false;
        self.changed.notify_all();
    }

    /// Lets the sealer go, and returns when every segment but the last has its index.
    pub fn settle(&self) {
        self.let_sealer_go();
        let limit = Duration::from_secs(60);
        let waited = self.changed.wait_timeout_while(self.state(), limit, |s| s.lacks_an_index()).unwrap();
        assert!(!waited.1.timed_out(), "the sealer wrote no index");
    }

    /// Writes to `target` what a power loss after so many events might have left.
    pub fn after_power_loss(&self, moment: usize, seed: u64, target: &Path) {
        let state = self.state();
        let mut files = Kept::<_, Change>::all(&state.first_files, state.files);
        let mut dirs = Kept::<_, Names>::all(&state.first_dirs, state.dirs.len());
        for event in &state.events[..moment] {
            match event {
                Event::Data(f, change) => files[*f].since.push(change.clone()),
                Event::Names(d, names) => dirs[*d].since.push(names.clone()),
                Event::SyncData(f) => {
                    let Kept { synced, since } = &mut files[*f];
                    since.drain(..).for_each(|c| c.apply(synced, 0, |_| true));
                }
                Event::SyncDir(d) => {
                    let Kept { synced, since } = &mut dirs[*d];
                    since.drain(..).for_each(|names| rename(synced, &names));
                }
            }
        }
        let mut rng = fastrand::Rng::with_seed(seed);
        let files: Vec<_> = files.into_iter().map(|f| some_of_data(f, &mut rng)).collect();
        let dirs: Vec<_> = dirs.into_iter().map(|d| some_of_names(d, &mut rng)).collect();
        write_out(ROOT, target, &files, &dirs);
    }
}

impl State {
    fn load(&mut self, dir: &Path) -> usize {
        let id = self.dirs.len();
        self.dirs.push(BTreeMap::new());
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let node = if path.is_dir() {
                Node::Dir(self.load(&path))
            } else {
                self.first_files.push(std::fs::read(&path).unwrap());
                self.by_inode.insert(entry.metadata().unwrap().ino(), self.files);
                self.files += 1;
                Node::File(self.files - 1)
            };
            self.dirs[id].insert(entry.file_name().into_string().unwrap(), node);
        }
        id
    }

    fn lacks_an_index(&self) -> bool {
        // Logs that were dropped get none.
        let live = |(name, node): (&String, &Node)| match node {
            Node::Dir(id) if !name.contains(".dead-") => Some(*id),
            _ => None,
        };
        self.dirs.iter().flatten().filter_map(live).any(|id| {
            let names = &self.dirs[id];
            let mut logs: Vec<_> = names.keys().filter_map(|n| n.strip_suffix(".log")).collect();
            logs.pop();
            logs.iter().any(|base| !names.contains_key(&format!("{base}.index")))
        })
    }

    fn dir(&self, path: &Path) -> usize {
        path.iter().fold(ROOT, |dir, name| match self.dirs[dir].get(name.to_str().unwrap()) {
            Some(Node::Dir(id)) => *id,
            other => panic!("{}: {other:?}", path.display()),
        })
    }

    fn place(&self, path: &Path) -> (usize, String) {
        (self.dir(path.parent().unwrap()), path.file_name().unwrap().to_str().unwrap().to_owned())
    }

    fn file(&self, file: Option<&File>) -> usize {
        self.by_inode[&file.unwrap().metadata().unwrap().ino()]
    }

    fn rename(&mut self, dir: usize, names: Names) {
        rename(&mut self.dirs[dir], &names);
        self.events.push(Event::Names(dir, names));
    }

    fn create(&mut self, path: &Path, file: Option<&File>) {
        let (dir, name) = self.place(path);
        if let Some(Node::File(old)) = self.dirs[dir].get(&name) {
            let old = *old;
            return self.events.push(Event::Data(old, Change::SetLen(0)));
        }
        self.by_inode.insert(file.unwrap().metadata().unwrap().ino(), self.files);
        self.rename(dir, vec![(name, Some(Node::File(self.files)))]);
        self.files += 1;
    }

    fn note(&mut self, op: &Op<'_>, path: &Path, to: Option<&Path>) {
        match op.kind {
            OpKind::Create => self.create(path, op.file),
            OpKind::Write => {
                let change = Change::Write(op.offset as usize, op.bytes.to_vec());
                self.events.push(Event::Data(self.file(op.file), change));
            }
            OpKind::SetLen => self.events.push(Event::Data(self.file(op.file), Change::SetLen(op.offset as usize))),
            OpKind::SyncData => self.events.push(Event::SyncData(self.file(op.file))),
            OpKind::SyncDir => self.events.push(Event::SyncDir(self.dir(path))),
            OpKind::Rename => {
                let ((dir, from), (same, to)) = (self.place(path), self.place(to.unwrap()));
                assert_eq!(dir, same, "renames within one directory only");
                let node = self.dirs[dir][&from];
                self.rename(dir, vec![(from, None), (to, Some(node))]);
            }
            OpKind::Remove => {
                let (dir, name) = self.place(path);
                self.rename(dir, vec![(name, None)]);
            }
            OpKind::CreateDir => {
                let (dir, name) = self.place(path);
                self.dirs.push(BTreeMap::new());
                self.rename(dir, vec![(name, Some(Node::Dir(self.dirs.len() - 1)))]);
            }
            OpKind::RemoveTree => {
                let id = self.dir(path);
                for name in self.dirs[id].keys().cloned().collect::<Vec<_>>() {
                    assert!(matches!(self.dirs[id][&name], Node::File(_)), "trees of files only");
                    self.rename(id, vec![(name, None)]);
                }
                let (dir, name) = self.place(path);
                self.rename(dir, vec![(name, None)]);
            }
        }
    }
}

impl Faults for Disk {
    fn before(&self, _: &Op<'_>) -> Verdict {
        if std::thread::current().name() == Some("sealer") {
            drop(self.changed.wait_while(self.state(), |s| s.sealer_waits));
        }
        Verdict::Pretend
    }

    fn after(&self, op: &Op<'_>) {
        let inside = |p: &Path| p.strip_prefix(&self.root).map(Path::to_owned);
        let (Ok(path), to) = (inside(op.path), op.to.map(|to| inside(to).unwrap())) else { return };
        self.state().note(op, &path, to.as_deref());
        self.changed.notify_all();
    }
}

impl Change {
    /// Does to `data` what of this change `survives`, asked for each sector. What a length covers that was never written is
    /// `filler`.
    fn apply(self, data: &mut Vec<u8>, filler: u8, mut survives: impl FnMut(usize) -> bool) {
        match self {
            Self::SetLen(len) if survives(len) => data.resize(len, 0),
            Self::SetLen(_) => {}
            Self::Write(at, bytes) => {
                let mut done = 0;
                while done < bytes.len() {
                    let from = at + done;
                    let len = (SECTOR - from % SECTOR).min(bytes.len() - done);
                    if survives(from) {
                        data.resize(data.len().max(from + len), filler);
                        data[from..from + len].copy_from_slice(&bytes[done..done + len]);
                    }
                    done += len;
                }
            }
        }
    }
}

fn rename(names: &mut BTreeMap<String, Node>, changes: &Names) {
    for (name, node) in changes {
        match node {
            Some(node) => names.insert(name.clone(), *node),
            None => names.remove(name),
        };
    }
}

/// In a hundred: nothing, everything, or chance, of what was not synced.
fn share(rng: &mut fastrand::Rng) -> u8 {
    *rng.choice(&[0, 100, 10, 50, 90]).unwrap()
}

fn some_of_data(file: Kept<Vec<u8>, Change>, rng: &mut fastrand::Rng) -> Vec<u8> {
    let Kept { mut synced, since } = file;
    let (share, filler) = (share(rng), *rng.choice(&[0, 0, 0, 0xa5]).unwrap());
    let len = synced.len();
    for change in since {
        change.apply(&mut synced, filler, |_| rng.u8(..100) < share);
    }
    if synced.len() > len && rng.u8(..4) == 0 {
        // The new length got lost, or a part of it.
        synced.truncate(rng.usize(len..=synced.len()));
    }
    synced
}

fn some_of_names(dir: Kept<BTreeMap<String, Node>, Names>, rng: &mut fastrand::Rng) -> BTreeMap<String, Node> {
    let Kept { mut synced, since } = dir;
    let share = share(rng);
    for names in since {
        if rng.u8(..100) < share {
            rename(&mut synced, &names);
        }
    }
    synced
}

fn write_out(dir: usize, target: &Path, files: &[Vec<u8>], dirs: &[BTreeMap<String, Node>]) {
    for (name, node) in &dirs[dir] {
        let path = target.join(name);
        match node {
            Node::File(id) => std::fs::write(&path, &files[*id]).unwrap(),
            Node::Dir(id) => {
                std::fs::create_dir(&path).unwrap();
                write_out(*id, &path, files, dirs);
            }
        }
    }
}
