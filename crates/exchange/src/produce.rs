//! One request, one record: built from templates, answered when the cluster acknowledged it.

use std::sync::Arc;

use bytes::Bytes;
use kafka::{Cluster, ProduceError, ProduceRecord};
use template::{RenderError, Scope, Template};

use crate::cursor::Cursor;
use crate::etag::record_etag;
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

    /// Writes one record. `headers` come first in it, then those of the route.
    pub async fn run(
        &self,
        scope: &(dyn Scope + Sync),
        value: Option<Bytes>,
        headers: Vec<(String, Option<Bytes>)>,
    ) -> Result<Acknowledged, ProduceFault> {
        let record = self.record(scope, value, headers)?;
        let (name, key) = (record.topic.clone(), record.key.clone());
        let produced = self.options.cluster.produce(record).await?;
        let topic = self.fixed.as_ref().or_else(|| self.topics.get(&self.options.cluster_name, &name));
        if let (Some(topic), Some(offset)) = (topic, produced.offset) {
            topic.acknowledge(produced.partition, offset);
        }
        Ok(Acknowledged {
            key,
            partition: produced.partition,
            offset: produced.offset,
            timestamp_ms: produced.timestamp_ms,
            etag: produced.offset.map(|offset| record_etag(produced.partition, offset, produced.timestamp_ms)),
            cursor: produced.offset.map(|offset| Cursor::new(&name, vec![(produced.partition, offset + 1)])),
            topic: name,
        })
    }

    fn record(
        &self,
        scope: &dyn Scope,
        value: Option<Bytes>,
        mut headers: Vec<(String, Option<Bytes>)>,
    ) -> Result<ProduceRecord, ProduceFault> {
        let o = &self.options;
        let topic = o.topic.render(scope)?.into_owned();
        if !message_cache::is_legal_topic_name(&topic) {
            return Err(ProduceFault::TopicName(topic));
        }
        for (name, template) in &o.headers {
            headers.push((name.clone(), Some(template.render(scope)?.into_owned().into())));
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
