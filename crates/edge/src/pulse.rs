//! The signs of life of one connection: what its own task notes down and the watch reads.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32};
use std::task::Waker;

use futures_util::task::AtomicWaker;

use crate::watch::Seen;

/// What the listener asks a connection to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Command {
    Run = 0,
    /// Say with the next answer that it is the last (HTTP/1.1).
    LastRequest = 1,
    /// Finish what runs, take nothing new, close.
    Finish = 2,
    /// Close now.
    Abort = 3,
}

/// Relaxed atomics throughout: each is a fact of its own that the watch may see one sweep late. No clock is read and no lock taken
/// on the path of a request.
#[derive(Debug)]
pub(crate) struct Pulse {
    requests: AtomicU32,
    in_flight: AtomicU32,
    partial_head: AtomicBool,
    stalled: AtomicBool,
    unstalled: AtomicU32,
    lingering: AtomicBool,
    command: AtomicU8,
    waker: AtomicWaker,
}

impl Pulse {
    /// A new connection owes us a request head.
    pub(crate) fn new() -> Self {
        Self {
            requests: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            partial_head: AtomicBool::new(true),
            stalled: AtomicBool::new(false),
            unstalled: AtomicU32::new(0),
            lingering: AtomicBool::new(false),
            command: AtomicU8::new(Command::Run as u8),
            waker: AtomicWaker::new(),
        }
    }

    /// A request head is complete. The request lasts as long as the guard.
    pub(crate) fn request(self: &Arc<Self>) -> RequestGuard {
        self.partial_head.store(false, Relaxed);
        self.requests.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        RequestGuard(self.clone())
    }

    /// Bytes came in: outside of a request they begin the next head.
    pub(crate) fn read(&self) {
        if self.in_flight.load(Relaxed) == 0 {
            self.partial_head.store(true, Relaxed);
        }
    }

    /// The peer spoke HTTP/2: bytes between requests are frames, not heads.
    pub(crate) fn head_not_expected(&self) {
        self.partial_head.store(false, Relaxed);
    }

    /// The peer takes no more bytes now.
    pub(crate) fn write_blocked(&self) {
        self.stalled.store(true, Relaxed);
    }

    /// The peer took bytes.
    pub(crate) fn written(&self) {
        if self.stalled.load(Relaxed) {
            self.stalled.store(false, Relaxed);
            self.unstalled.fetch_add(1, Relaxed);
        }
    }

    /// We are done and only wait for the peer to close.
    pub(crate) fn linger(&self) {
        self.lingering.store(true, Relaxed);
    }

    pub(crate) fn seen(&self) -> Seen {
        Seen {
            requests: self.requests.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed) > 0,
            partial_head: self.partial_head.load(Relaxed),
            stalled: self.stalled.load(Relaxed).then(|| self.unstalled.load(Relaxed)),
            lingering: self.lingering.load(Relaxed),
        }
    }

    /// Asks for more, never for less: an abort is not softened by a later `Finish`.
    pub(crate) fn command(&self, command: Command) {
        // Waking takes the waker out, and the task puts it back only when it sees a new command: so wake for new ones only.
        if self.command.fetch_max(command as u8, AcqRel) < command as u8 {
            self.waker.wake();
        }
    }

    pub(crate) fn commanded(&self) -> Command {
        match self.command.load(Acquire) {
            0 => Command::Run,
            1 => Command::LastRequest,
            2 => Command::Finish,
            _ => Command::Abort,
        }
    }

    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }
}

/// One request in progress: from its complete head to the end of the response body.
#[derive(Debug)]
pub(crate) struct RequestGuard(Arc<Pulse>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}
