//! Children that cannot outlive the test: killed when dropped, and by the kernel when the test process itself dies.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use crate::{Error, Result, poll_until};

/// Lines kept of what a child says; older ones are forgotten, so that an access log cannot fill the memory of the test.
const LINES_KEPT: usize = 4_000;
/// Bytes kept of one line.
const LINE_BYTES: usize = 4_096;

/// A running child with its output captured by line.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

/// The last lines of a stream, shared with the thread that reads it.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<VecDeque<String>>>);

impl Process {
    /// Starts `command` with its output captured; `name` is for messages.
    pub fn start(name: &str, mut command: Command) -> Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::unheard(name, command)
    }

    /// Starts `command` with its output where the command says; pipes are captured.
    pub(crate) fn unheard(name: &str, command: Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = spawn(command).map_err(Error::doing(format!("cannot start {name} ({program})")))?;
        let stdout = child.stdout.take().map_or_else(Lines::default, Lines::collect);
        let stderr = child.stderr.take().map_or_else(Lines::default, Lines::collect);
        Ok(Self { name: name.to_owned(), child, stdout, stderr })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The pipe to the child, when its command asked for one.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// The first kept line of standard output that `pick` accepts.
    pub fn stdout_line<T>(&self, pick: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.stdout.lock().iter().find_map(|line| pick(line))
    }

    /// Everything kept of standard output.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Everything kept of standard error.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// The exit status, if the child has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends SIGTERM, as an init system or a container runtime does.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Sends SIGKILL and reaps the child: it gets no chance to say good-bye.
    pub fn kill9(&mut self) {
        // An error means that it has ended already, which is what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for the child to end by itself.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        poll_until(within, || self.ended())
            .ok_or_else(|| Error::new(format!("{} still runs after {within:?}; it said:\n{}", self.name, self.stderr())))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // An error means that it has ended already; `wait` tells that to whoever cares.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

impl Lines {
    fn collect(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let shared = lines.clone();
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            // Ends at end of file; a read error means the same here.
            while matches!(stream.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                let mut text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if text.len() > LINE_BYTES {
                    text.truncate(text.floor_char_boundary(LINE_BYTES));
                }
                let mut kept = shared.lock();
                if kept.len() == LINES_KEPT {
                    kept.pop_front();
                }
                kept.push_back(text);
                line.clear();
            }
        });
        lines
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        self.lock().iter().map(|line| format!("{line}\n")).collect()
    }
}

/// Spawns through one thread that lives as long as the process: the kernel's parent-death signal is bound to the *thread* that
/// forked, and test threads come and go.
pub(crate) fn spawn(mut command: Command) -> std::io::Result<Child> {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();

    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only async-signal-safe system calls are made (prctl, getppid) and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above; then no signal will ever come.
            if getppid() == Some(parent) { Ok(()) } else { Err(std::io::ErrorKind::BrokenPipe.into()) }
        });
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // The one who asked may have gone; the child is then dropped, and dies with this process.
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (reply, answer) = channel();
    let gone = || std::io::Error::other("the spawner thread has ended");
    spawner.lock().unwrap_or_else(PoisonError::into_inner).send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start("sh", command).expect("sh starts")
    }

    #[test]
    fn output_and_status_are_seen() {
        let mut child = shell("echo one; echo two >&2; exit 7");
        assert_eq!(child.wait(Duration::from_secs(10)).expect("ends").code(), Some(7));
        let line = poll_until(Duration::from_secs(10), || child.stdout_line(|l| (l == "one").then(|| l.to_owned())));
        assert_eq!(line.as_deref(), Some("one"));
        assert_eq!(
            poll_until(Duration::from_secs(10), || Some(child.stderr()).filter(|t| !t.is_empty())).as_deref(),
            Some("two\n")
        );
    }

    #[test]
    fn a_dropped_child_is_dead() {
        let child = shell("exec sleep 1000");
        let proc = format!("/proc/{}", child.id());
        assert!(std::path::Path::new(&proc).exists());
        drop(child);
        assert!(!std::path::Path::new(&proc).exists());
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let mut child = thread::spawn(|| shell("exec sleep 1000")).join().expect("thread ends");
        assert!(child.ended().is_none());
        child.terminate();
        assert!(child.wait(Duration::from_secs(10)).expect("ends").code().is_none(), "ended by the signal");
    }
}
