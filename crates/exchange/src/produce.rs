//! One request, one record: built from templates, answered when the cluster acknowledged it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka::{Cluster, Condition, ProduceError, ProduceRecord};
use message_cache::TopicCache;
use template::{RenderError, Scope, Template};

use crate::cursor::Cursor;
use crate::etag::record_etag;
use crate::fetch::{FetchError, latest};
use crate::id::{CorrelationId, KeyId, RequestDigest};
use crate::once::{DIGEST_HEADER, KEY_HEADER, Once, OnceError, Written};
use crate::topic::{Topic, Topics};

pub struct ProduceOptions {
    /// Name and door of the cluster.
    pub cluster_name: String,
    pub cluster: Cluster,
    pub topic: Template,
    pub key: Option<Template>,
    pub partition: Option<Template>,
    pub timestamp: Option<Template>,
    /// Record headers, in order.
    pub headers: Vec<(String, Template)>,
    /// The record headers of an exchange.
    pub names: RecordNames,
    /// What writes records with a digest, on a topic with a fixed name.
    pub once: Option<Arc<Once>>,
    /// How long the cache may take to reach the end of the topic, before a condition is looked at.
    pub patience: Duration,
}

/// Names of record headers.
#[derive(Clone, Debug)]
pub struct RecordNames {
    pub correlation_id: String,
    /// With the topic of replies, where there are any.
    pub reply_to: Option<(String, String)>,
}

/// What a record is known by.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    pub id: CorrelationId,
    /// Of a request that is written once however often it comes.
    pub key: Option<(KeyId, RequestDigest)>,
}

/// Whether a record may be written over the current one of its key: its entity tag, quoted, and its time in ms since the epoch.
/// `None`: there is none, or a tombstone.
pub type Precondition = Box<dyn FnOnce(Option<(&str, i64)>) -> bool + Send>;

/// A record to write, beside what the route says.
#[derive(Default)]
pub struct Write {
    pub value: Option<Bytes>,
    /// They come first in the record, then those of the route, then those of the exchange.
    pub headers: Vec<(String, Option<Bytes>)>,
    pub marks: Option<Marks>,
    pub precondition: Option<Precondition>,
}

pub struct Produce {
    options: ProduceOptions,
    topics: Arc<Topics>,
    /// The topic, where no request changes its name.
    fixed: Option<Arc<Topic>>,
}

/// A record that is in the topic.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub topic: String,
    pub key: Option<Bytes>,
    pub partition: i32,
    /// `None` with `acks=0`.
    pub offset: Option<i64>,
    pub timestamp_ms: i64,
    /// Quoted; `None` without an offset.
    pub etag: Option<String>,
    pub cursor: Option<Cursor>,
    /// It was written before, for the same request.
    pub repeated: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ProduceFault {
    #[error(transparent)]
    Render(#[from] RenderError),
    /// A template gave text that is no number where one is needed.
    #[error("{what} is {text:?}, which is no {wanted}")]
    NoNumber { what: &'static str, text: String, wanted: &'static str },
    #[error("{0:?} is no legal topic name")]
    TopicName(String),
    #[error(transparent)]
    Cluster(#[from] ProduceError),
    /// There is no current record without a key.
    #[error("the route writes records without a key, so there is none that a condition could be about")]
    NoKey,
    /// The topic has to be cached, for a condition to be looked at.
    #[error("topic {0} is not cached, so the conditions of the request cannot be looked at")]
    NotCached(String),
    /// The current record cannot be told; nothing was written.
    #[error(transparent)]
    Current(#[from] FetchError),
    #[error(transparent)]
    Once(OnceError),
}

impl From<OnceError> for ProduceFault {
    fn from(e: OnceError) -> Self {
        match e {
            OnceError::Produce(e) => Self::Cluster(e),
            e => Self::Once(e),
        }
    }
}

impl Produce {
    pub fn new(options: ProduceOptions, topics: Arc<Topics>) -> Self {
        let fixed = options.topic.literal().and_then(|name| topics.get(&options.cluster_name, name)).cloned();
        Self { options, topics, fixed }
    }

    /// The topic of the route, or the template of its name: for labels of metrics.
    pub fn topic_label(&self) -> &str {
        self.options.topic.source()
    }

    /// Writes one record.
    pub async fn run(&self, scope: &(dyn Scope + Sync), write: Write) -> Result<Acknowledged, ProduceFault> {
        let Write { value, headers, marks, precondition } = write;
        let record = self.record(scope, value, headers, marks)?;
        let (name, key) = (record.topic.clone(), record.key.clone());
        let condition = match (precondition, &key) {
            (Some(precondition), Some(key)) => Some(condition_of(key.clone(), precondition)),
            (Some(_), None) => return Err(ProduceFault::NoKey),
            (None, _) => None,
        };
        let Written { produced, repeated } = match (&self.options.once, marks) {
            (Some(once), Some(Marks { key: Some((key, digest)), .. })) => once.write(key, digest, record, condition).await?,
            _ => self.write(record, condition).await?,
        };
        Ok(Acknowledged {
            key,
            partition: produced.partition,
            offset: produced.offset,
            timestamp_ms: produced.timestamp_ms,
            etag: produced.offset.map(|offset| record_etag(produced.partition, offset, produced.timestamp_ms)),
            cursor: produced.offset.map(|offset| Cursor::new(&name, vec![(produced.partition, offset + 1)])),
            topic: name,
            repeated,
        })
    }

    async fn write(&self, record: ProduceRecord, condition: Option<Condition>) -> Result<Written, ProduceFault> {
        let cached = self.fixed.as_ref().or_else(|| self.topics.get(&self.options.cluster_name, &record.topic));
        let produced = match (cached, condition) {
            (Some(topic), None) => topic.produce(record, None).await?,
            (Some(topic), condition) => {
                let used = topic.caught_up(None, self.options.patience).await?;
                topic.at_end(used.cache, self.options.patience).await?;
                topic.produce(record, condition).await?
            }
            (None, None) => self.options.cluster.produce(record).await?,
            (None, Some(_)) => return Err(ProduceFault::NotCached(record.topic)),
        };
        Ok(Written { produced, repeated: false })
    }

    fn record(
        &self,
        scope: &dyn Scope,
        value: Option<Bytes>,
        mut headers: Vec<(String, Option<Bytes>)>,
        marks: Option<Marks>,
    ) -> Result<ProduceRecord, ProduceFault> {
        let o = &self.options;
        let topic = o.topic.render(scope)?.into_owned();
        if !message_cache::is_legal_topic_name(&topic) {
            return Err(ProduceFault::TopicName(topic));
        }
        for (name, template) in &o.headers {
            headers.push((name.clone(), Some(template.render(scope)?.into_owned().into())));
        }
        // Last, since of several headers with one name the last counts.
        if let Some(Marks { id, key }) = marks {
            let reply_to = o.names.reply_to.iter().map(|(name, topic)| (name.clone(), topic.clone()));
            let key = key.into_iter().flat_map(|(key, digest)| {
                [(KEY_HEADER.to_owned(), key.to_string()), (DIGEST_HEADER.to_owned(), digest.to_string())]
            });
            let marks = reply_to.chain(key).chain([(o.names.correlation_id.clone(), id.to_string())]);
            headers.extend(marks.map(|(name, value)| (name, Some(value.into()))));
        }
        Ok(ProduceRecord {
            topic,
            partition: number(o.partition.as_ref(), scope, "the partition", "partition number")?,
            key: o.key.as_ref().map(|k| k.render(scope)).transpose()?.map(|k| k.into_owned().into()),
            value,
            headers,
            timestamp_ms: number(o.timestamp.as_ref(), scope, "the timestamp", "number of milliseconds since the epoch")?,
        })
    }
}

/// The condition on a topic that is one on the newest record of a key.
fn condition_of(key: Bytes, precondition: Precondition) -> Condition {
    Box::new(move |cache: &TopicCache| {
        // A record that cannot be read is not known to be what the client means, nor to be none.
        let Ok(current) = latest(cache, &key) else { return false };
        let tagged = current.filter(|l| !l.record.is_tombstone()).map(|l| (l.etag(), l.record.timestamp_ms()));
        precondition(tagged.as_ref().map(|(etag, ms)| (etag.as_str(), *ms)))
    })
}

fn number<N: std::str::FromStr + PartialOrd + Default>(
    template: Option<&Template>,
    scope: &dyn Scope,
    what: &'static str,
    wanted: &'static str,
) -> Result<Option<N>, ProduceFault> {
    let Some(template) = template else { return Ok(None) };
    let text = template.render(scope)?;
    match text.trim().parse::<N>() {
        Ok(n) if n >= N::default() => Ok(Some(n)),
        _ => Err(ProduceFault::NoNumber { what, text: text.into_owned(), wanted }),
    }
}
