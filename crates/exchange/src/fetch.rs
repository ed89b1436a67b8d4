//! The newest record that passes a filter, or of every key; at once, or when it is another than the client has.

use std::sync::Arc;
use std::time::Duration;

use message_cache::{Clause, Filter, LogError, Record, TopicCache};
use template::{RenderError, Scope, Template};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cursor::Cursor;
use crate::etag::{Version, record_etag};
use crate::merge::Merged;
use crate::topic::Topic;

/// What of a topic a route shows.
pub enum Select {
    /// The newest record that passes one of these.
    Newest(Vec<ClauseTemplate>),
    /// The latest value of each key, as one JSON array; only of records that pass one of these, if there are any.
    MergeJson(Vec<ClauseTemplate>),
}

/// What a record must have, by the request. On a compacted topic only the newest record of each key counts.
pub struct ClauseTemplate {
    pub key: Option<Template>,
    pub headers: Vec<(String, Template)>,
}

impl ClauseTemplate {
    fn render(&self, scope: &dyn Scope) -> Result<Clause, RenderError> {
        let key = self.key.as_ref().map(|k| k.render(scope)).transpose()?.map(|k| k.into_owned().into_bytes());
        let header = |(name, value): &(String, Template)| {
            Ok::<_, RenderError>((name.clone(), Some(value.render(scope)?.into_owned().into_bytes())))
        };
        Ok(Clause { key, headers: self.headers.iter().map(header).collect::<Result<_, _>>()? })
    }
}

pub struct FetchOptions {
    pub topic: Arc<Topic>,
    pub select: Select,
    /// How long a fetch waits for the cache to have what it must show.
    pub patience: Duration,
    /// True when the process stops: whoever waits for a change is answered with what there is.
    pub stopping: watch::Receiver<bool>,
}

pub struct Fetch {
    options: FetchOptions,
}

/// Whether the client has this content already: that of the entity tag (quoted) and the time in ms; or, for `None`, that
/// there is nothing.
pub type Has<'h> = dyn Fn(Option<(&str, i64)>) -> bool + Sync + 'h;

/// What a client asks beyond the route.
pub struct Ask<'a> {
    pub has: &'a Has<'a>,
    /// How long to hold on while the client has what there is.
    pub wait: Option<Duration>,
    /// What the client has seen elsewhere and wants reflected.
    pub cursor: Option<Cursor>,
}

/// A record with what it does not know itself.
#[derive(Clone, Debug)]
pub struct Latest {
    pub partition: i32,
    pub record: Record,
}

impl Latest {
    pub fn etag(&self) -> String {
        record_etag(self.partition, self.record.offset(), self.record.timestamp_ms())
    }
}

pub enum Found {
    /// With its entity tag.
    Record(Latest, String),
    /// No record of the key, or a tombstone.
    Nothing,
    Collection(Version, Merged),
    /// The client has it: entity tag, and time in ms.
    Unchanged(String, i64),
}

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error("{0}")]
    Unavailable(String),
    #[error("the cache of topic {topic} has not caught up with its cluster for the first time, or since it was last used")]
    Filling { topic: String },
    #[error("the cache of topic {topic} has not reached what was written before")]
    Behind { topic: String },
    #[error("none of {looks} records that its terms led to passes the filter: name something rarer")]
    TooBroad { looks: usize },
    #[error("the record cannot be read: {0}")]
    Unreadable(LogError),
}

impl From<LogError> for FetchError {
    fn from(e: LogError) -> Self {
        match e {
            LogError::TooBroad { looks } => Self::TooBroad { looks },
            e => Self::Unreadable(e),
        }
    }
}

impl Fetch {
    pub fn new(options: FetchOptions) -> Self {
        Self { options }
    }

    pub fn topic(&self) -> &Topic {
        &self.options.topic
    }

    pub async fn run(&self, scope: &(dyn Scope + Sync), ask: Ask<'_>) -> Result<Found, FetchError> {
        let (Select::Newest(templates) | Select::MergeJson(templates)) = &self.options.select;
        let filter = Filter { any: templates.iter().map(|t| t.render(scope)).collect::<Result<_, _>>()? };
        let used = self.options.topic.caught_up(ask.cursor.as_ref(), self.options.patience).await?;
        let cache = used.cache;
        let found = self.look(cache, &filter, ask.has)?;
        match ask.wait {
            // Boxed: who does not wait has no room for it.
            Some(wait) if is_old_news(&found, ask.has) => Box::pin(self.wait(cache, &filter, ask.has, wait)).await,
            _ => Ok(found),
        }
    }

    /// Looks again at every change of the topic until the client does not have what there is, or time is up.
    async fn wait(&self, cache: &Arc<TopicCache>, filter: &Filter, has: &Has<'_>, wait: Duration) -> Result<Found, FetchError> {
        let deadline = Instant::now() + wait;
        let mut changes = cache.changes();
        let mut stopping = self.options.stopping.clone();
        loop {
            let found = self.look(cache, filter, has)?;
            if !is_old_news(&found, has) {
                return Ok(found);
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return Ok(found) },
                () = tokio::time::sleep_until(deadline) => return Ok(found),
                _ = stopping.wait_for(|stopping| *stopping) => return Ok(found),
            }
        }
    }

    fn look(&self, cache: &Arc<TopicCache>, filter: &Filter, has: &Has<'_>) -> Result<Found, FetchError> {
        let found = match &self.options.select {
            Select::MergeJson(_) => collection(cache, filter, has),
            Select::Newest(_) => newest(cache, filter, has)?,
        };
        // What is dropped to be fetched again is marked before: what was not found may be on its way.
        let is_gone = !matches!(found, Found::Record(..)) && !cache.is_complete();
        if is_gone { Err(FetchError::Filling { topic: cache.name().to_owned() }) } else { Ok(found) }
    }
}

fn collection(cache: &Arc<TopicCache>, filter: &Filter, has: &Has<'_>) -> Found {
    let version = Version::of(cache, "json", filter);
    let etag = version.etag();
    if has(Some((&etag, version.timestamp_ms))) {
        return Found::Unchanged(etag, version.timestamp_ms);
    }
    let filter = if filter.any.is_empty() { Filter::all() } else { filter.clone() };
    Found::Collection(version, Merged::new(cache, filter))
}

fn newest(cache: &TopicCache, filter: &Filter, has: &Has<'_>) -> Result<Found, LogError> {
    let conflate = cache.policy().compact;
    let mut found = None;
    for clause in &filter.any {
        let mut of_clause = None;
        for (n, log) in cache.partitions().iter().enumerate() {
            of_clause = newer(of_clause, log.newest(clause, conflate)?.map(|record| Latest { partition: n as i32, record }));
        }
        // A record that was deleted hides older ones of its clause, not what another clause finds.
        found = newer(found, of_clause.filter(|l| !l.record.is_tombstone()));
    }
    let Some(found) = found else { return Ok(Found::Nothing) };
    let (etag, timestamp_ms) = (found.etag(), found.record.timestamp_ms());
    let unchanged = has(Some((&etag, timestamp_ms)));
    Ok(if unchanged { Found::Unchanged(etag, timestamp_ms) } else { Found::Record(found, etag) })
}

fn is_old_news(found: &Found, has: &Has<'_>) -> bool {
    matches!(found, Found::Unchanged(..)) || matches!(found, Found::Nothing) && has(None)
}

/// The newest record of a key in any partition: producers with another partitioner put a key elsewhere than ours does.
pub fn latest(cache: &TopicCache, key: &[u8]) -> Result<Option<Latest>, LogError> {
    let mut newest = None;
    for (n, log) in cache.partitions().iter().enumerate() {
        let found = log.latest(key)?.map(|record| Latest { partition: n as i32, record });
        newest = newer(newest, found);
    }
    Ok(newest)
}

/// By timestamp: offsets of different partitions do not compare.
fn newer(a: Option<Latest>, b: Option<Latest>) -> Option<Latest> {
    match (a, b) {
        (Some(a), Some(b)) if b.record.timestamp_ms() >= a.record.timestamp_ms() => Some(b),
        (a, b) => a.or(b),
    }
}
