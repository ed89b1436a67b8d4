//! The open connections of one listener.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::limits::{Limits, Observer};
use crate::pulse::{Command, Pulse};
use crate::watch::{Verdict, Watch};

pub(crate) struct Registry {
    table: Mutex<Table>,
    emptied: Notify,
    observer: Arc<dyn Observer>,
}

#[derive(Default)]
struct Table {
    next: u64,
    open: HashMap<u64, (Arc<Pulse>, Watch)>,
}

/// A place in the registry, given back when the connection ends in whatever way.
pub(crate) struct Registered {
    registry: Arc<Registry>,
    id: u64,
    pub pulse: Arc<Pulse>,
}

impl Registry {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default(), emptied: Notify::new(), observer })
    }

    /// A place for one more connection, or `None` if `max` are open.
    pub(crate) fn open(self: &Arc<Self>, max: usize, now: Instant) -> Option<Registered> {
        let pulse = Arc::new(Pulse::new());
        let mut table = self.lock();
        if table.open.len() >= max {
            return None;
        }
        let id = table.next;
        table.next += 1;
        table.open.insert(id, (pulse.clone(), Watch::new(now)));
        drop(table);
        self.observer.connection_opened();
        Some(Registered { registry: self.clone(), id, pulse })
    }

    /// Looks at every connection once and closes those whose time is up.
    pub(crate) fn sweep(&self, limits: &Limits, now: Instant) {
        for (pulse, watch) in self.lock().open.values_mut() {
            let (command, limit) = match watch.look(pulse.seen(), limits, now) {
                Verdict::Keep => continue,
                Verdict::Finish(limit) => (Command::Finish, Some(limit)),
                Verdict::Abort(limit) => (Command::Abort, limit),
            };
            // An abort stands until the task has seen it; it is counted once.
            if pulse.commanded() < command
                && let Some(limit) = limit
            {
                self.observer.limit_hit(limit);
            }
            pulse.command(command);
        }
    }

    /// Tells every connection the same; returns how many there are.
    pub(crate) fn command_all(&self, command: Command) -> usize {
        let table = self.lock();
        for (pulse, _) in table.open.values() {
            pulse.command(command);
        }
        table.open.len()
    }

    /// Waits until no connection is open. One caller at a time.
    pub(crate) async fn empty(&self) {
        while !self.lock().open.is_empty() {
            self.emptied.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut table = self.registry.lock();
        table.open.remove(&self.id);
        let empty = table.open.is_empty();
        drop(table);
        self.registry.observer.connection_closed();
        if empty {
            self.registry.emptied.notify_one();
        }
    }
}
