//! When a producer has something to say. Its wrapper's `poll` waits its whole time out whatever comes, and spins through what is
//! left of the last millisecond: here a thread sleeps until there is something.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rdkafka::bindings as rd;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};

/// The most events that are served at a time, so that whoever serves them gets on.
const EVENTS_MAX: usize = 1000;

/// Deliveries and other events of one producer, served by one thread.
pub struct Arrivals<C: ProducerContext + 'static> {
    queue: *mut rd::rd_kafka_queue_t,
    bell: Arc<Bell>,
    /// The queue must go before its client does.
    producer: Arc<BaseProducer<C>>,
}

// SAFETY: librdkafka's objects may be used from every thread at once (rdkafka.h, "Thread safety"); a producer is `Send` by itself.
unsafe impl<C: ProducerContext + 'static> Send for Arrivals<C> {}

/// Rings when the first event comes into an empty queue.
#[derive(Default)]
struct Bell {
    has_rung: Mutex<bool>,
    ringing: Condvar,
}

/// # Safety
/// `bell` is the one that [`Arrivals::of`] has given.
unsafe extern "C" fn ring(_: *mut rd::rd_kafka_t, bell: *mut c_void) {
    // SAFETY: `Arrivals` holds the bell until after it has taken back this callback.
    let bell = unsafe { &*bell.cast::<Bell>() };
    *bell.has_rung.lock() = true;
    bell.ringing.notify_all();
}

impl<C: ProducerContext + 'static> Arrivals<C> {
    /// To be made once for a producer.
    pub fn of(producer: &Arc<BaseProducer<C>>) -> Self {
        let bell = Arc::new(Bell::default());
        // SAFETY: the client is alive; the queue is released by `drop`.
        let queue = unsafe { rd::rd_kafka_queue_get_main(producer.client().native_ptr()) };
        let opaque = Arc::as_ptr(&bell).cast_mut().cast();
        // SAFETY: the queue is alive, and the bell lives until `drop` has taken the callback back.
        unsafe { rd::rd_kafka_queue_cb_event_enable(queue, Some(ring), opaque) };
        Self { queue, bell, producer: Arc::clone(producer) }
    }

    /// Serves what has come; never waits.
    pub fn serve(&self) {
        for _ in 0..EVENTS_MAX {
            if self.is_empty() {
                return;
            }
            // With no time to wait it serves one event.
            self.producer.poll(Duration::ZERO);
        }
    }

    /// Sleeps until there is something to serve, up to `time`, and serves it. It need not be a delivery.
    pub fn wait(&self, time: Duration) {
        let until = Instant::now() + time;
        // It may have rung for what is served by now.
        *self.bell.has_rung.lock() = false;
        // Asked after that, for then whatever comes rings; and without the bell's lock, for it rings under the queue's.
        if self.is_empty() {
            let mut has_rung = self.bell.has_rung.lock();
            while !*has_rung && !self.bell.ringing.wait_until(&mut has_rung, until).timed_out() {}
        }
        self.serve();
    }

    fn is_empty(&self) -> bool {
        // SAFETY: the queue is alive.
        unsafe { rd::rd_kafka_queue_length(self.queue) == 0 }
    }
}

impl<C: ProducerContext + 'static> Drop for Arrivals<C> {
    fn drop(&mut self) {
        // SAFETY: the queue is alive until it is destroyed here, once. librdkafka calls back under the lock of the queue that taking the
        // callback back needs, too: the bell can go afterwards.
        unsafe {
            rd::rd_kafka_queue_cb_event_enable(self.queue, None, ptr::null_mut());
            rd::rd_kafka_queue_destroy(self.queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use tokio::sync::oneshot;

    use super::*;
    use crate::ProduceRecord;
    use crate::client::delivery::Outcome;
    use crate::client::health::{Health, WriterContext};
    use crate::client::producer::message;

    const LONG: Duration = Duration::from_secs(60);

    fn producer(servers: &str) -> Arc<BaseProducer<WriterContext>> {
        let context = WriterContext { health: Health::new("main", "test"), broken: AtomicBool::new(false) };
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers);
        Arc::new(config.create_with_context(context).expect("a producer"))
    }

    fn send(producer: &BaseProducer<WriterContext>) -> oneshot::Receiver<Outcome> {
        let record = ProduceRecord { topic: "t".to_owned(), value: Some("v".into()), ..ProduceRecord::default() };
        let (sender, receiver) = oneshot::channel();
        assert!(producer.send(message(&record, sender)).is_ok());
        receiver
    }

    #[test]
    fn a_wait_ends_when_a_delivery_comes() {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic("t", 1, 1).expect("a topic");
        let producer = producer(&cluster.bootstrap_servers());
        let arrivals = Arrivals::of(&producer);
        let began = Instant::now();
        for _ in 0..20 {
            let mut receiver = send(&producer);
            let outcome = loop {
                arrivals.wait(LONG);
                match receiver.try_recv() {
                    Ok(outcome) => break outcome,
                    Err(_) => assert!(began.elapsed() < LONG, "no delivery"),
                }
            };
            assert!(outcome.is_ok(), "{outcome:?}");
        }
        // What came before anybody waited counts, too.
        let mut receiver = send(&producer);
        while arrivals.is_empty() {
            std::thread::yield_now();
        }
        arrivals.wait(LONG);
        assert!(receiver.try_recv().is_ok_and(|outcome| outcome.is_ok()));
        assert!(began.elapsed() < LONG, "a wait lasts its whole time");
        // Whatever the producer says after that, nobody listens.
        drop(arrivals);
        let mut receiver = send(&producer);
        producer.flush(LONG).expect("delivered");
        assert!(receiver.try_recv().is_ok());
    }

    #[test]
    fn a_wait_for_nothing_lasts_its_time_and_sleeps() {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        let producer = producer(&cluster.bootstrap_servers());
        let arrivals = Arrivals::of(&producer);
        let time = Duration::from_millis(1);
        let (began, worked) = (Instant::now(), on_processor());
        for _ in 0..200 {
            arrivals.wait(time);
        }
        let (waited, worked) = (began.elapsed(), on_processor() - worked);
        assert!(waited >= 200 * time, "{waited:?}");
        assert!(worked < 100 * time, "{worked:?} of {waited:?} were worked");
    }

    /// How long this thread has had a processor. (proc(5), `schedstat`)
    fn on_processor() -> Duration {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
        let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
        Duration::from_nanos(nanos.expect("a number"))
    }
}
