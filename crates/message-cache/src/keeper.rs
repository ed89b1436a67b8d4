//! The housekeeper: one thread that keeps every log as its topic's policy says, and all of them within their bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::budget::{self, Give, Holding};
use crate::log::PartitionLog;
use crate::topic::TopicCache;

/// How often the bounds on bytes are looked at: what comes in between may go over them.
const BOUNDS_INTERVAL: Duration = Duration::from_secs(1);
/// Added to the thread's niceness: requests come first.
const NICENESS: i32 = 10;

#[derive(Clone, Copy, Debug)]
pub struct KeeperOptions {
    /// How often each log is looked at (Kafka: `log.retention.check.interval.ms`, `log.cleaner.backoff.ms`).
    pub interval: Duration,
    /// Most bytes of the segments of all topics together.
    pub max_bytes: Option<u64>,
}

/// One look at the housekeeper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeeperStatus {
    /// Turns since the start.
    pub turns: u64,
    /// Bytes that were dropped for want of room.
    pub evicted_bytes: u64,
}

/// Works until it is stopped or dropped.
pub struct Keeper {
    shared: Arc<Orders>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Orders {
    stop: AtomicBool,
    tickets: Mutex<Tickets>,
    /// Rings when a turn is asked for, and when one has ended.
    bell: Condvar,
    turns: AtomicU64,
    evicted_bytes: AtomicU64,
}

/// Turns that were asked for.
#[derive(Default)]
struct Tickets {
    asked: u64,
    /// Every turn that was asked for up to here has ended.
    done: u64,
}

type Caches = Box<dyn Fn() -> Vec<Arc<TopicCache>> + Send>;

impl Keeper {
    /// `caches`: those that are in use, asked for anew each time.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(options: KeeperOptions, caches: impl Fn() -> Vec<Arc<TopicCache>> + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Orders::default());
        let worker = Worker { options, caches: Box::new(caches), orders: Arc::clone(&shared) };
        let thread = std::thread::Builder::new().name("housekeeper".into()).spawn(move || worker.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Begins a turn as soon as the running one has ended; the ticket is for [`Keeper::wait`].
    pub fn hurry(&self) -> u64 {
        let mut tickets = self.shared.tickets.lock();
        tickets.asked += 1;
        self.shared.bell.notify_all();
        tickets.asked
    }

    /// Blocks until the turn of that ticket has ended, or the housekeeper stops.
    pub fn wait(&self, ticket: u64) {
        let mut tickets = self.shared.tickets.lock();
        while tickets.done < ticket && !self.shared.stop.load(Ordering::Acquire) {
            self.shared.bell.wait(&mut tickets);
        }
    }

    /// Breaks off what runs, and waits for the end of it.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        // Under the lock, so that a worker about to wait hears it.
        drop(self.shared.tickets.lock());
        self.shared.bell.notify_all();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }

    pub fn status(&self) -> KeeperStatus {
        KeeperStatus {
            turns: self.shared.turns.load(Ordering::Acquire),
            evicted_bytes: self.shared.evicted_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Worker {
    options: KeeperOptions,
    caches: Caches,
    orders: Arc<Orders>,
}

impl Worker {
    fn run(&self) {
        let _ = rustix::process::nice(NICENESS);
        let mut next_turn = Instant::now();
        while self.goes_on() {
            let asked = self.orders.tickets.lock().asked;
            if Instant::now() >= next_turn {
                self.turn();
                next_turn = Instant::now() + self.options.interval;
                self.orders.turns.fetch_add(1, Ordering::AcqRel);
                self.hold_bounds();
                self.orders.tickets.lock().done = asked;
                self.orders.bell.notify_all();
            } else {
                self.hold_bounds();
            }
            let wait = next_turn.saturating_duration_since(Instant::now()).min(BOUNDS_INTERVAL);
            let mut tickets = self.orders.tickets.lock();
            if tickets.asked == tickets.done && self.goes_on() {
                self.orders.bell.wait_for(&mut tickets, wait);
            }
            if tickets.asked > tickets.done {
                next_turn = Instant::now();
            }
        }
        self.orders.bell.notify_all();
    }

    fn goes_on(&self) -> bool {
        !self.orders.stop.load(Ordering::Acquire)
    }

    fn turn(&self) {
        let mut held = Instant::now();
        for cache in (self.caches)() {
            for (partition, log) in cache.partitions().iter().enumerate() {
                if !self.goes_on() {
                    return;
                }
                let before = log.stats().problem;
                if let Err(error) = log.keep(&|| self.goes_on())
                    && before.as_deref() != Some(&error.to_string())
                {
                    tracing::error!(topic = cache.name(), partition, %error, "housekeeping failed; it is tried again");
                }
                if held.elapsed() >= BOUNDS_INTERVAL {
                    self.hold_bounds();
                    held = Instant::now();
                }
            }
        }
    }

    /// Each topic within its bound, then all within that of the node.
    fn hold_bounds(&self) {
        let caches = (self.caches)();
        let bounded = caches.iter().any(|c| c.bounds().max_bytes.is_some());
        if !bounded && self.options.max_bytes.is_none() {
            return;
        }
        let mut is_full = vec![false; caches.len()];
        for (n, cache) in caches.iter().enumerate() {
            if let Some(max) = cache.bounds().max_bytes {
                is_full[n] = !self.make_room(std::slice::from_ref(cache), max);
            }
        }
        if let Some(max) = self.options.max_bytes
            && !self.make_room(&caches, max)
        {
            is_full.fill(true);
        }
        for (cache, is_full) in caches.iter().zip(is_full) {
            cache.set_full(is_full);
        }
    }

    /// Drops the oldest segments that may go until the bound is held; false if that is not enough.
    fn make_room(&self, caches: &[Arc<TopicCache>], max_bytes: u64) -> bool {
        if self.drop_oldest(caches, max_bytes) {
            return true;
        }
        // Topics that are read now and then may have little more than a head.
        let mut sealed = false;
        for log in caches.iter().filter(|c| c.give() != Give::Nothing).flat_map(|c| c.partitions().to_vec()) {
            match log.seal_head() {
                Ok(done) => sealed |= done,
                Err(error) => tracing::error!(%error, "no room could be made"),
            }
        }
        sealed && self.drop_oldest(caches, max_bytes)
    }

    fn drop_oldest(&self, caches: &[Arc<TopicCache>], max_bytes: u64) -> bool {
        let mut logs: Vec<Arc<PartitionLog>> = Vec::new();
        let mut holdings = Vec::new();
        for (topic, cache) in caches.iter().enumerate() {
            for log in cache.partitions().iter() {
                let (bytes, sealed) = log.holding();
                holdings.push(Holding { topic, give: cache.give(), bytes, sealed });
                logs.push(Arc::clone(log));
            }
        }
        let (chosen, enough) = budget::choose(&holdings, max_bytes);
        for n in chosen {
            match logs[n].drop_oldest() {
                Ok(bytes) => {
                    let topic = caches[holdings[n].topic].name();
                    tracing::info!(topic, bytes, "the oldest segment was dropped: a bound on bytes is reached");
                    self.orders.evicted_bytes.fetch_add(bytes, Ordering::Relaxed);
                }
                Err(error) => tracing::error!(%error, "no room could be made"),
            }
        }
        enough
    }
}
