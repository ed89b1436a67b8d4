//! Routes that ask by a record and reply with another.

use std::sync::Arc;
use std::time::Duration;

use config::{ExchangePlan, IdempotencyPlan, IdempotencySource, LocationPlan, Plan, ProducePlan, RecordNamesPlan, ReplyPlan};
use edge::RouteMatch;
use entrypoint::{
    ExchangeFace, ExchangeFaceOptions, Idempotency, Identify, KeySource, Location, LocationPiece, Pseudo, Replies, ReplyFace,
    ReplyFaceOptions,
};
use exchange::{Correlate, Produce, ProduceOptions, Quota, RecordNames};
use http::{HeaderValue, Method};

use super::{Lowering, header_name};
use crate::pipeline::{Capability, Route};

impl Lowering<'_> {
    /// What asks, and what answers at the location.
    pub(super) fn exchange(&mut self, plan: &Plan, mut e: ExchangePlan) -> Result<(Capability, Capability), String> {
        let names = e.names.clone();
        let reply_to = e.reply.as_ref().map(|r| (names.reply_to.clone(), r.topic.clone()));
        let (copy_pseudo, copy_headers): (Vec<_>, Vec<_>) =
            std::mem::take(&mut e.request.copy_headers).into_iter().map(|n| pseudo(&n).ok_or(n)).partition(Result::is_ok);
        let copy_headers = copy_headers.into_iter().filter_map(Result::err).map(|n| header_name(&n));
        let (copy_pseudo, copy_headers) = (copy_pseudo.into_iter().flatten().collect(), copy_headers.collect::<Result<_, _>>()?);
        let timeout = e.timeout.unwrap_or(plan.limits.request_timeout);
        let body_bytes_max = e.request.body_bytes.unwrap_or(plan.limits.body_bytes) as u64;
        let replies = e.reply.take().map(|reply| self.replies(plan, &e, reply)).transpose()?;
        let (produce, identify) = self.writer(plan, e.request, &names, reply_to)?;
        let metrics = self.shared.metrics.exchange.topic(produce.topic_label());
        let options = ExchangeFaceOptions { body_bytes_max, timeout, copy_headers, copy_pseudo, identify, replies };
        let face = Arc::new(ExchangeFace::new(produce, options));
        Ok((Capability::Exchange(Arc::clone(&face), metrics.clone()), Capability::FollowUp(face, metrics)))
    }

    pub(super) fn follow_up(&self, of: &RouteMatch, path: String, capability: Capability) -> (RouteMatch, Route) {
        let name = format!("GET {path}");
        let metrics = self.shared.metrics.http.route(&path, "GET");
        // Who follows a location has not the headers of who was given it.
        let condition = RouteMatch { methods: vec![Method::GET], path, host: of.host.clone(), headers: Vec::new() };
        (condition, Route { name, metrics, capability })
    }

    fn replies(&mut self, plan: &Plan, e: &ExchangePlan, reply: ReplyPlan) -> Result<Replies, String> {
        let topic =
            self.topics.get(&reply.cluster, &reply.topic).ok_or_else(|| format!("no topic {} in the cache", reply.topic))?;
        let watch = self.exchanges.watch(&reply.cluster, &Arc::clone(topic), &e.names.correlation_id);
        let requests = e.request.topic.literal().and_then(|name| self.topics.get(&e.request.cluster, name)).cloned();
        let patience = plan.cache.read_your_writes_timeout;
        let correlate = Correlate::new(watch, requests, patience, self.exchanges.until.clone());
        Ok(Replies {
            correlate,
            face: reply_face(&e.names, reply)?,
            location: e.location.as_ref().map(|location| self.location(location, e.retry_after)),
            wait_max: e.wait_max.unwrap_or(plan.limits.wait_max),
            pending: e.pending_max.map(Quota::new),
            pending_in_all: Arc::clone(&self.exchanges.pending),
        })
    }

    fn location(&self, location: &LocationPlan, retry_after: Duration) -> Location {
        let piece = |piece: &config::LocationPiece| match piece {
            config::LocationPiece::Text(text) => LocationPiece::Text(text.clone()),
            config::LocationPiece::Param(name) => LocationPiece::Param(name.clone()),
            config::LocationPiece::CorrelationId => LocationPiece::Token,
        };
        let pieces = location.pieces.iter().map(piece).collect();
        Location { pieces, signer: Arc::clone(&self.exchanges.signer), retry_after }
    }

    /// What writes the records of a route, and tells its requests apart.
    pub(super) fn writer(
        &mut self,
        plan: &Plan,
        p: ProducePlan,
        names: &RecordNamesPlan,
        reply_to: Option<(String, String)>,
    ) -> Result<(Produce, Identify), String> {
        let cluster = self.clusters.get(&p.cluster).ok_or_else(|| format!("no cluster {}", p.cluster))?.clone();
        let topic = p.topic.source().to_owned();
        let once = match &p.idempotency {
            Some(_) => {
                let cached = self.topics.get(&p.cluster, &topic).ok_or_else(|| format!("no topic {topic} in the cache"))?;
                Some(self.exchanges.once(&p.cluster, &Arc::clone(cached)))
            }
            None => None,
        };
        let identify = Identify { topic, identity: p.identity, idempotency: p.idempotency.map(idempotency).transpose()? };
        let options = ProduceOptions {
            cluster_name: p.cluster,
            cluster,
            topic: p.topic,
            key: p.key,
            partition: p.partition,
            timestamp: p.timestamp,
            headers: p.headers,
            names: RecordNames { correlation_id: names.correlation_id.clone(), reply_to },
            once,
            patience: plan.cache.read_your_writes_timeout,
        };
        Ok((Produce::new(options, Arc::clone(&self.topics)), identify))
    }
}

fn reply_face(names: &RecordNamesPlan, reply: ReplyPlan) -> Result<ReplyFace, String> {
    let content_type =
        reply.content_type.map(|text| HeaderValue::from_str(&text).map_err(|e| format!("content_type {text:?}: {e}")));
    let headers = reply.headers.into_iter().map(|(name, template)| Ok::<_, String>((header_name(&name)?, template)));
    Ok(ReplyFace::new(ReplyFaceOptions {
        status: names.status.clone(),
        copy_headers: reply.copy_headers.into_iter().map(|n| header_name(&n).map(|name| (n, name))).collect::<Result<_, _>>()?,
        headers: headers.collect::<Result<_, _>>()?,
        content_type: content_type.transpose()?,
        body_bytes_max: reply.body_bytes,
    }))
}

fn idempotency(plan: IdempotencyPlan) -> Result<Idempotency, String> {
    let source = match plan.source {
        IdempotencySource::Header { name, required } => KeySource::Header { name: header_name(&name)?, required },
        IdempotencySource::Key(template) => KeySource::Template(template),
    };
    Ok(Idempotency { source, compare_headers: plan.compare_headers.iter().map(|n| header_name(n)).collect::<Result<_, _>>()? })
}

fn pseudo(name: &str) -> Option<Pseudo> {
    [Pseudo::Method, Pseudo::Path, Pseudo::Authority, Pseudo::Scheme].into_iter().find(|p| p.name() == name)
}
