//! The log's queue: callers append to a bounded buffer, one thread writes it out. A slow or blocked output costs lines, which are
//! counted, and never a caller's time.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Bytes that may wait for the writer.
pub(crate) const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long the writer collects lines before it writes, so that a busy process wakes it some hundred times a second at most.
const COLLECT: Duration = Duration::from_millis(5);
/// Memory that both buffers may keep while the log is quiet.
const KEEP_BYTES: usize = 256 * 1024;
/// How long the end of the process waits for an output that does not take the last lines.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// A handle to the log; cheap to clone.
#[derive(Clone, Debug)]
pub struct LogQueue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    dropped: AtomicU64,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    writer_sleeps: bool,
    closed: bool,
    finished: bool,
}

impl LogQueue {
    /// Starts the writer thread.
    pub(crate) fn start(output: Box<dyn Write + Send>, bytes_max: usize) -> io::Result<(Self, JoinHandle<()>)> {
        let shared = Shared { state: Mutex::default(), changed: Condvar::new(), dropped: AtomicU64::new(0), bytes_max };
        let queue = Self { shared: Arc::new(shared) };
        let writer = queue.clone();
        let thread = thread::Builder::new().name("log".into()).spawn(move || writer.write_out(output))?;
        Ok((queue, thread))
    }

    /// Queues whole lines, or drops and counts them when the queue is full.
    pub fn push(&self, lines: &[u8]) {
        let mut state = self.lock();
        if state.closed || state.bytes.len() + lines.len() > self.shared.bytes_max {
            drop(state);
            self.shared.dropped.fetch_add(1, Relaxed);
            return;
        }
        state.bytes.extend_from_slice(lines);
        if std::mem::take(&mut state.writer_sleeps) {
            drop(state);
            self.shared.changed.notify_all();
        }
    }

    /// Lines lost so far.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Relaxed)
    }

    /// Takes no more lines and waits, within [`FLUSH_MAX`], until those it has are written.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.shared.changed.notify_all();
        let waited = self.shared.changed.wait_timeout_while(state, FLUSH_MAX, |state| !state.finished);
        drop(waited);
    }

    fn write_out(&self, mut output: Box<dyn Write + Send>) {
        let mut batch = Vec::new();
        loop {
            let state = self.lock();
            let state = self.shared.changed.wait_while(state, |state| {
                state.writer_sleeps = state.bytes.is_empty() && !state.closed;
                state.writer_sleeps
            });
            let state = state.unwrap_or_else(PoisonError::into_inner);
            let state = self.shared.changed.wait_timeout_while(state, COLLECT, |state| !state.closed);
            let (mut state, _) = state.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut state.bytes, &mut batch);
            let closed = state.closed;
            drop(state);
            if output.write_all(&batch).and_then(|()| output.flush()).is_err() {
                let lines = batch.iter().filter(|byte| **byte == b'\n').count();
                self.shared.dropped.fetch_add(lines as u64, Relaxed);
            }
            batch.clear();
            batch.shrink_to(KEEP_BYTES);
            if closed {
                self.lock().finished = true;
                self.shared.changed.notify_all();
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For the formatter of `tracing` events, which writes each event with one call.
impl Write for LogQueue {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.push(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    pub(crate) struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Memory {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("memory").clone()).expect("text")
        }
    }

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("memory").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Tells when a write begins, and lets it go on when told to.
    struct Blocked {
        begun: mpsc::Sender<()>,
        go_on: mpsc::Receiver<()>,
        memory: Memory,
    }

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.begun.send(()).expect("the test listens");
            self.go_on.recv().expect("the test answers");
            self.memory.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn close_writes_what_is_queued() {
        let memory = Memory::default();
        let (queue, thread) = LogQueue::start(Box::new(memory.clone()), 1 << 20).expect("start");
        let expected: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        for line in expected.split_inclusive('\n') {
            queue.push(line.as_bytes());
        }
        queue.close();
        thread.join().expect("writer");
        assert_eq!(memory.text(), expected);
        assert_eq!(queue.dropped(), 0);
        queue.push(b"late\n");
        assert_eq!(queue.dropped(), 1);
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (begun, has_begun) = mpsc::channel();
        let (let_go, go_on) = mpsc::channel();
        let memory = Memory::default();
        let (queue, thread) = LogQueue::start(Box::new(Blocked { begun, go_on, memory: memory.clone() }), 10).expect("start");
        queue.push(b"first\n");
        has_begun.recv().expect("the writer is stuck with the first line");
        for line in [b"aaaa\n", b"bbbb\n", b"cccc\n", b"dddd\n"] {
            queue.push(line);
        }
        assert_eq!(queue.dropped(), 2);
        let_go.send(()).expect("writer");
        has_begun.recv().expect("the second batch");
        let_go.send(()).expect("writer");
        queue.close();
        thread.join().expect("writer");
        assert_eq!(memory.text(), "first\naaaa\nbbbb\n");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::other("gone"))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (queue, thread) = LogQueue::start(Box::new(Broken), 100).expect("start");
        queue.push(b"one\ntwo\n");
        queue.close();
        thread.join().expect("writer");
        assert_eq!(queue.dropped(), 2);
    }
}
