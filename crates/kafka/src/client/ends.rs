//! Where partitions end, for many callers at once: of each topic one question is under way at a time, and those who come meanwhile
//! share the next. One client and one thread, which only hands out answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::error::RDKafkaErrorCode as E;
use tokio::sync::oneshot;

use super::ask::{Asking, OffsetOf, Offsets, Queue};
use super::health::Health;
use super::native::{Code, ReaderClient, serve_events};
use super::{KafkaCluster, admin, start_reader};
use crate::{AdminError, ProduceError};

/// How long the cluster may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the thread looks whether it is to stop; answers wake it at once.
const WAIT: Duration = Duration::from_millis(100);

type Told = Result<Vec<i64>, AdminError>;
type Waiting = Vec<oneshot::Sender<Told>>;

pub struct Ends {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    /// Goes before its client does.
    queue: Queue,
    client: Arc<ReaderClient>,
    questions: Mutex<Questions>,
}

#[derive(Default)]
struct Questions {
    stop: bool,
    asked: u64,
    last_ticket: usize,
    /// By topic, and whether ends are those of transactions that are over. Only those under way.
    topics: HashMap<(String, bool), Asked>,
    tickets: HashMap<usize, (String, bool)>,
}

struct Asked {
    /// Of the question under way.
    asked: i32,
    /// Of the next one.
    partitions: i32,
    /// Who waits for the answer that is under way.
    now: Waiting,
    /// Who came after that question, and must not have its answer.
    next: Waiting,
}

impl KafkaCluster {
    /// The next offset of every partition, by number, asked after this was called, as the isolation level shows it: the cache's
    /// `end_offset` gets there. Many callers at once cost few questions. Behind the last record there may be offsets that hold none,
    /// such as the mark of a transaction that has ended: the cache then gets there with the next fetch that finds nothing, up to
    /// `fetch.wait.max.ms` later. A transaction that is still open holds the end back. Partitions that were added count a second
    /// later at most.
    ///
    /// # Errors
    /// [`AdminError::UnknownTopic`], or why the cluster does not tell; at once when every broker is down.
    pub async fn ends(&self, topic: &str) -> Result<Vec<i64>, AdminError> {
        self.ask_ends(topic, self.committed).await
    }

    /// As [`Self::ends`], but the high watermark: what was written, also by a transaction that is still open.
    pub async fn ends_uncommitted(&self, topic: &str) -> Result<Vec<i64>, AdminError> {
        self.ask_ends(topic, false).await
    }

    async fn ask_ends(&self, topic: &str, committed: bool) -> Result<Vec<i64>, AdminError> {
        let partitions = self.known.count(topic).await.map_err(|error| match error {
            ProduceError::UnknownTopic { topic } => AdminError::UnknownTopic(topic),
            ProduceError::Invalid { reason } => AdminError::Invalid(reason),
            error => AdminError::Unavailable(error.to_string()),
        })?;
        let start = || {
            let health = Health::new(&self.options.name, "ends");
            start_reader(&self.admin_config, &health).and_then(Ends::start)
        };
        let ends = self.ends.get_or_init(start).as_ref().map_err(|e| AdminError::Unavailable(e.clone()))?;
        let asking = async {
            match ends.ask(topic, partitions, committed).await {
                // The client may not have heard of a new partition or leader, and would not look for it soon.
                Err(AdminError::Unavailable(_)) if !ends.is_stopped() => {
                    let (client, name) = (Arc::clone(&ends.shared.client), topic.to_owned());
                    self.ask(move || admin::find_topic(&client, &name)).await?;
                    ends.ask(topic, partitions, committed).await
                }
                answer => answer,
            }
        };
        let answer = tokio::select! {
            answer = asking => answer,
            () = self.reader_health.until_down() => Err(AdminError::Unavailable(self.why_down())),
        };
        if matches!(answer, Err(AdminError::UnknownTopic(_))) {
            self.known.forget(topic);
        }
        answer
    }

    /// How many questions [`Self::ends`] has cost.
    pub fn ends_asked(&self) -> u64 {
        self.ends.get().and_then(|ends| ends.as_ref().ok()).map_or(0, Ends::asked)
    }
}

impl Ends {
    pub fn start(client: Arc<ReaderClient>) -> Result<Self, String> {
        let shared = Arc::new(Shared { queue: Queue::new(&client), client, questions: Mutex::default() });
        let answering = Arc::clone(&shared);
        let thread = super::spawn("kafka-ends", move || answering.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// The next offset of each of that many partitions, as of some time after this call. `committed`: as `read_committed` shows it.
    pub async fn ask(&self, topic: &str, partitions: i32, committed: bool) -> Told {
        let (sender, answer) = oneshot::channel();
        self.shared.join((topic.to_owned(), committed), partitions, sender);
        answer.await.unwrap_or_else(|_| Err(AdminError::Unavailable("this gateway is stopping".to_owned())))
    }

    fn is_stopped(&self) -> bool {
        self.shared.questions.lock().stop
    }

    /// How many questions the cluster was asked.
    pub fn asked(&self) -> u64 {
        self.shared.questions.lock().asked
    }

    /// Whoever waits gets an error. Blocks until the thread has ended.
    pub fn close(&self) {
        self.shared.questions.lock().stop = true;
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.shared.questions.lock().stop = true;
    }
}

impl Shared {
    fn join(&self, topic: (String, bool), partitions: i32, waiting: oneshot::Sender<Told>) {
        let mut questions = self.questions.lock();
        if questions.stop {
            return;
        }
        if let Some(asked) = questions.topics.get_mut(&topic) {
            asked.partitions = asked.partitions.max(partitions);
            asked.next.push(waiting);
            return;
        }
        questions.topics.insert(topic.clone(), Asked { asked: 0, partitions, now: Vec::new(), next: vec![waiting] });
        self.ask(&mut questions, topic);
    }

    /// Asks for all who wait for the next answer; forgets the topic if there is nobody.
    fn ask(&self, questions: &mut Questions, topic: (String, bool)) {
        let Some(asked) = questions.topics.get_mut(&topic) else { return };
        (asked.now, asked.asked) = (std::mem::take(&mut asked.next), asked.partitions);
        asked.now.retain(|waiting| !waiting.is_closed());
        if asked.now.is_empty() {
            questions.topics.remove(&topic);
            return;
        }
        let wanted: Vec<_> = (0..asked.partitions).map(|p| ((topic.0.clone(), p), OffsetOf::Latest)).collect();
        questions.last_ticket = questions.last_ticket.wrapping_add(1);
        let ticket = questions.last_ticket;
        let asking = Asking { client: &self.client, timeout: ANSWER_TIMEOUT, give_up: &|| false };
        match asking.offsets_into(&self.queue, ticket, &wanted, topic.1) {
            Ok(()) => {
                questions.asked += 1;
                questions.tickets.insert(ticket, topic);
            }
            Err(code) => {
                let refused = questions.topics.remove(&topic);
                tell(refused.map(|asked| asked.now).unwrap_or_default(), &Err(AdminError::Invalid(code.text())));
            }
        }
    }

    fn run(&self) {
        let mut served = Instant::now();
        loop {
            if let Some((ticket, answer)) = self.queue.next_offsets(WAIT) {
                self.answer(ticket, answer);
            }
            if served.elapsed() >= WAIT {
                serve_events(&self.client);
                served = Instant::now();
                let mut questions = self.questions.lock();
                if questions.stop {
                    // Their senders go, and that is the answer.
                    questions.topics.clear();
                    return;
                }
            }
        }
    }

    fn answer(&self, ticket: usize, answer: Result<Offsets, Code>) {
        let (told, waiting) = {
            let mut questions = self.questions.lock();
            let Some(topic) = questions.tickets.remove(&ticket) else { return };
            let Some(asked) = questions.topics.get_mut(&topic) else { return };
            let told = in_order(&topic.0, asked.asked, answer);
            let waiting = std::mem::take(&mut asked.now);
            self.ask(&mut questions, topic);
            (told, waiting)
        };
        tell(waiting, &told);
    }
}

fn tell(waiting: Waiting, told: &Told) {
    for one in waiting {
        // Whoever has left needs no answer.
        let _ = one.send(told.clone());
    }
}

/// By partition number, all of them.
fn in_order(topic: &str, partitions: i32, answer: Result<Offsets, Code>) -> Told {
    let refused = |code: Code| {
        if code.is(E::UnknownTopicOrPartition) {
            return AdminError::UnknownTopic(topic.to_owned());
        }
        AdminError::Unavailable(format!("the ends of topic {topic} are not told: {}", code.text()))
    };
    let mut offsets = answer.map_err(refused)?;
    let told = |partition| match offsets.remove(&(topic.to_owned(), partition)) {
        Some(Ok(Some(end))) => Ok(end),
        Some(Err(code)) => Err(refused(code)),
        Some(Ok(None)) | None => Err(refused(E::LeaderNotAvailable.into())),
    };
    (0..partitions).map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_by_partition_or_an_error() {
        let check = |offsets: &[(i32, Result<Option<i64>, E>)], partitions: i32, expected: Result<&[i64], &str>| {
            let told = offsets.iter().map(|(p, told)| (("t".to_owned(), *p), told.map_err(Code::from)));
            let ends = in_order("t", partitions, Ok(told.collect()));
            let shown = ends.as_deref().map_err(ToString::to_string);
            match expected {
                Ok(expected) => assert_eq!(shown, Ok(expected), "{offsets:?}"),
                Err(part) => assert!(shown.as_ref().is_err_and(|e| e.contains(part)), "{offsets:?}: {shown:?}"),
            }
        };
        check(&[(1, Ok(Some(7))), (0, Ok(Some(0)))], 2, Ok(&[0, 7]));
        check(&[(0, Ok(Some(3)))], 2, Err("not told"));
        check(&[(0, Ok(Some(3))), (1, Err(E::NotLeaderForPartition))], 2, Err("not told"));
        check(&[(0, Err(E::UnknownTopicOrPartition))], 1, Err("topic t does not exist"));
        check(&[(0, Ok(None))], 1, Err("not told"));
        let none = in_order("t", 1, Err(E::OperationTimedOut.into()));
        assert!(matches!(none, Err(AdminError::Unavailable(_))), "{none:?}");
    }
}
