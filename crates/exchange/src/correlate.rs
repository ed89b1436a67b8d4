//! A request record and its reply: the first record of the reply topic that has the id of the request.
//!
//! All that is known of an exchange is in the two topics, so any gateway can tell what became of it. In this process there is only
//! who waits.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::fetch::{FetchError, Latest};
use crate::id::CorrelationId;
use crate::topic::Topic;
use crate::watch::{Awaited, Watch, first};

/// How long a look at an exchange may wait for the cluster, which need not be there.
const LOOK_PATIENCE: Duration = Duration::from_millis(500);

/// The replies of a route.
pub struct Correlate {
    replies: Arc<Watch>,
    /// The topic of requests, where it is cached.
    requests: Option<Arc<Topic>>,
    /// How long a cache may take to reach the end of its topic.
    patience: Duration,
    /// When the process stops, until when who waits may wait.
    until: watch::Receiver<Option<Instant>>,
}

/// What has become of an exchange.
#[derive(Debug)]
pub enum Progress {
    Replied(Latest),
    /// The request is in its topic, and no reply yet.
    Pending,
    /// Request or reply are older than what their topics keep.
    Gone,
}

impl Correlate {
    /// `patience`: how long a cache may take to reach the end of its topic; `until`: when the process stops, until when who waits for
    /// a reply may wait.
    pub fn new(
        replies: Arc<Watch>,
        requests: Option<Arc<Topic>>,
        patience: Duration,
        until: watch::Receiver<Option<Instant>>,
    ) -> Self {
        Self { replies, requests, patience, until }
    }

    pub fn replies(&self) -> &Arc<Watch> {
        &self.replies
    }

    /// Begins to wait for the reply to a request that is not written yet.
    ///
    /// # Errors
    /// When the topic of replies cannot be read now.
    pub async fn expect(&self, id: CorrelationId) -> Result<Pending<'_>, FetchError> {
        let topic = self.replies.topic();
        let cache = topic.cache().map_err(|e| FetchError::Unavailable(e.to_string()))?;
        // Missing, or not known yet: a request that is written now would have no reply.
        if cache.partitions().is_empty() {
            return Err(FetchError::Filling { topic: topic.name().to_owned() });
        }
        let ready = tokio::time::timeout(self.patience, self.replies.ready()).await;
        ready.map_err(|_| FetchError::Unavailable(format!("topic {} is not read yet", topic.name())))?;
        Ok(Pending { correlate: self, id, awaited: self.replies.await_id(id) })
    }

    /// What has become of an exchange whose id was given out by a gateway; of one that is pending, after that long at most.
    pub async fn progress(&self, id: CorrelationId, wait: Duration) -> Result<Progress, FetchError> {
        if let Some(reply) = self.replies.first(id)? {
            return Ok(Progress::Replied(reply));
        }
        let mut pending = self.expect(id).await?;
        // One that came between the look and the wait.
        if let Some(reply) = self.replies.first(id)? {
            return Ok(Progress::Replied(reply));
        }
        let Some(requested_ms) = self.requested(id).await? else {
            // The replies are read to their end now, as the requests are.
            return Ok(self.replies.first(id)?.map_or(Progress::Gone, Progress::Replied));
        };
        let policy = self.replies.topic().cache().map_err(|e| FetchError::Unavailable(e.to_string()))?.policy();
        if policy.is_expired(requested_ms, now_ms()) {
            return Ok(Progress::Gone);
        }
        // Nobody waits: then what the cluster has already must not be missed. Where it is away, the exchange is pending still.
        if wait.is_zero() {
            let topic = self.replies.topic();
            let cache = topic.cache().map_err(|e| FetchError::Unavailable(e.to_string()))?;
            let _ = topic.at_end(cache, self.patience.min(LOOK_PATIENCE)).await;
        }
        let reply = pending.reply(wait).await?;
        pending.leave();
        Ok(reply.map_or(Progress::Pending, Progress::Replied))
    }

    /// When the request was written, in ms since the epoch; `None` when its topic does not have it (any more).
    async fn requested(&self, id: CorrelationId) -> Result<Option<i64>, FetchError> {
        let Some(requests) = &self.requests else { return Ok(None) };
        let header = self.replies.header();
        let time_of = |found: Option<Latest>| found.map(|l| l.record.timestamp_ms());
        if let Some(time) = time_of(first(requests, header, id.to_string())?) {
            return Ok(Some(time));
        }
        for topic in [self.replies.topic(), requests] {
            let used = topic.caught_up(None, self.patience).await?;
            topic.at_end(used.cache, self.patience).await?;
        }
        Ok(time_of(first(requests, header, id.to_string())?))
    }
}

/// One who waits for a reply; gone when dropped.
pub struct Pending<'c> {
    correlate: &'c Correlate,
    id: CorrelationId,
    awaited: Awaited,
}

impl Pending<'_> {
    /// The reply that is there already.
    pub fn ready(&self) -> Result<Option<Latest>, FetchError> {
        self.correlate.replies.first(self.id)
    }

    /// Leaves without giving up: whoever asked is to come again.
    pub fn leave(self) {
        self.awaited.leave();
    }

    /// The reply, when it comes within that time; not to be called again when it has come.
    pub async fn reply(&mut self, wait: Duration) -> Result<Option<Latest>, FetchError> {
        let mut until = self.correlate.until.clone();
        let deadline = Instant::now() + wait;
        let stop = async {
            let until = until.wait_for(Option::is_some).await.ok().and_then(|until| *until);
            tokio::time::sleep_until(until.unwrap_or(deadline)).await;
        };
        tokio::select! {
            () = self.awaited.arrival() => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = stop => {}
        }
        // Also where nobody told of it: the record is what counts.
        self.ready()
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}
