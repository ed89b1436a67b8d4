//! Whose request it is, which requests are the same, and the topics that it takes to know.

use std::collections::{BTreeMap, BTreeSet};

use template::Template;

use super::Checker;
use super::capability::Params;
use super::clusters::{TOPIC_NAME_HELP, is_topic_name};
use super::http;
use super::templates::OF_IDENTITY;
use crate::document::Idempotency;
use crate::node::At;
use crate::plan::{
    CachePlan, CapabilityPlan, ClaimsPlan, DIGEST_HEADER, HistoryPlan, IdempotencyMode, IdempotencyPlan, IdempotencySource,
    KEY_HEADER, ProducePlan, ReplyPlan, RoutePlan, StartPlan, TopicPlan,
};
use crate::units::TemplateText;

const HEADER: &str = "idempotency-key";
/// What makes the name of a claims topic from that of its request topic.
const CLAIMS_SUFFIX: &str = "-claims";
const OWN_TOPIC: &str =
    "claims need a topic of their own for each request topic; without 'claims' it has that one's name and -claims";
/// The record header by which a claim says what the record shall be.
const CLAIM_HEADER: &str = "tidegate-claim";

/// Record headers that only the gateway itself sets, whatever the names of the correlation headers.
pub(super) const OURS: [&str; 3] = [DIGEST_HEADER, KEY_HEADER, CLAIM_HEADER];

impl Checker<'_> {
    pub(super) fn identity(&mut self, given: Option<&TemplateText>, at: &At, params: Params<'_>) -> Option<Template> {
        self.template(at, given?, &OF_IDENTITY, params)
    }

    /// `request` and `reply` are `None` when they are at fault, or there is no reply.
    pub(super) fn idempotency(
        &mut self,
        given: &Idempotency,
        at: &At,
        request: Option<&ProducePlan>,
        reply: Option<&ReplyPlan>,
        params: Params<'_>,
    ) -> Option<IdempotencyPlan> {
        let source = self.source(given, at, params);
        for (at, name) in self.kept(&at.key("compare_headers")).zip(&given.compare_headers) {
            self.request_header(name, &at);
        }
        let mode_at = at.key("mode");
        let at = at.key("claims");
        if given.mode != IdempotencyMode::ExactlyOnce && given.claims.is_some() {
            let help = "add mode: exactly-once, or leave 'claims' out".to_owned();
            self.key_fault(&at, "only exactly-once has claims", help);
        }
        let claims = match request {
            Some(request) if given.mode == IdempotencyMode::ExactlyOnce && !self.embedded.contains(&request.cluster) => {
                if self.uncommitted.contains(&request.cluster) {
                    let message = format!("the cluster '{}' has isolation.level read_uncommitted", request.cluster);
                    let help = "exactly-once goes by what transactions have committed: take the property out".to_owned();
                    self.fault(&mode_at, message, help);
                }
                self.claims(given, &at, request, reply)
            }
            _ => None,
        };
        let compare_headers = given.compare_headers.iter().map(|name| name.to_ascii_lowercase()).collect();
        Some(IdempotencyPlan { source: source?, mode: given.mode, compare_headers, claims })
    }

    fn source(&mut self, given: &Idempotency, at: &At, params: Params<'_>) -> Option<IdempotencySource> {
        if let Some(key) = &given.key {
            if given.header.is_some() {
                let help = "keep one of them; a template may use headers['...']".to_owned();
                self.key_fault(&at.key("header"), "the key comes from 'header' or from 'key', not from both", help);
            }
            if given.required.is_some() {
                let help = "leave it out; a template that lacks something is refused anyway".to_owned();
                self.key_fault(&at.key("required"), "with 'key' there is no header to require", help);
            }
            return self.template(&at.key("key"), key, &OF_IDENTITY, params).map(IdempotencySource::Key);
        }
        let name = given.header.as_deref().unwrap_or(HEADER);
        self.request_header(name, &at.key("header"));
        Some(IdempotencySource::Header { name: name.to_ascii_lowercase(), required: given.required.unwrap_or(false) })
    }

    fn request_header(&mut self, name: &str, at: &At) {
        let shown = self.quoted(at, name);
        if let Some((message, help)) = http::header_fault(name, &shown) {
            self.fault(at, message, help);
        }
    }

    /// The name of the claims topic, which is noted with its request topic. There is one way through the cluster for each request
    /// topic: two would not know of each other.
    fn claims(&mut self, given: &Idempotency, at: &At, request: &ProducePlan, reply: Option<&ReplyPlan>) -> Option<String> {
        let (cluster, target) = (request.cluster.as_str(), request.topic.literal()?);
        let topic = given.claims.clone().unwrap_or_else(|| format!("{target}{CLAIMS_SUFFIX}"));
        // The default is made from the request topic, which may not be shown.
        let shown = match given.claims {
            Some(_) => format!("the claims topic {}", self.shown(at)),
            None => "the default of 'claims'".to_owned(),
        };
        if !is_topic_name(&topic) {
            self.fault(at, format!("{shown} is no name for a topic"), format!("claims: {TOPIC_NAME_HELP}"));
            return None;
        }
        if topic == target || reply.is_some_and(|reply| reply.topic == topic && reply.cluster == cluster) {
            self.fault(at, format!("{shown} has the requests or the replies already"), OWN_TOPIC.to_owned());
            return None;
        }
        let same = |one: &&(ClaimsPlan, At)| one.0.cluster == cluster && (one.0.topic == topic || one.0.target == target);
        let Some((known, known_at)) = self.claims.iter().find(same) else {
            let (cluster, target) = (cluster.to_owned(), target.to_owned());
            let plan = ClaimsPlan { cluster, topic: topic.clone(), target, create: None };
            self.claims.push((plan, at.clone()));
            return Some(topic);
        };
        let line = self.tree.key_span(known_at).line;
        let fault = if known.target != target {
            Some((format!("{shown} is taken for another request topic, in line {line}"), OWN_TOPIC))
        } else if known.topic != topic {
            Some((
                format!("the claims for this request topic go elsewhere in line {line}, so that neither would know of the other"),
                "write the same 'claims' in both",
            ))
        } else {
            None
        };
        if let Some((message, help)) = fault {
            self.fault(at, message, help.to_owned());
        }
        Some(topic)
    }

    /// Reports record headers that would be set from a request although they are what the gateway is told by.
    pub(super) fn not_forged(
        &mut self,
        headers: &BTreeMap<String, TemplateText>,
        copy_headers: &[String],
        at: &At,
        names: &[&str],
    ) {
        let is_ours = |name: &str| names.iter().chain(&OURS).any(|ours| ours.eq_ignore_ascii_case(name));
        let help = || "leave it out; the gateway sets it itself where it is due".to_owned();
        let message =
            |shown: &str| format!("a client could forge the record header {shown}, which tells the gateway what is whose");
        for name in headers.keys().filter(|name| is_ours(name)) {
            self.key_fault(&at.key("headers").key(name), message(&format!("'{name}'")), help());
        }
        for (at, name) in self.kept(&at.key("copy_headers")).zip(copy_headers).filter(|(_, name)| is_ours(name)) {
            let shown = self.quoted(&at, name);
            self.fault(&at, message(&shown), help());
        }
    }

    /// Sees to it that the topic of `request`, at `at`, is in the cache.
    pub(super) fn needs_cache(&mut self, request: Option<&ProducePlan>, at: &At, why: &str) {
        let Some(request) = request else { return };
        match request.topic.literal() {
            Some(topic) => self.keep(&request.cluster, topic),
            None => {
                let message = format!("the topic depends on the request, but {why} in the cache");
                self.fault(at, message, "write the name of one topic, without ${...}".to_owned());
            }
        }
    }

    pub(super) fn keep(&mut self, cluster: &str, topic: &str) {
        self.needed.insert((cluster.to_owned(), topic.to_owned()));
    }

    /// Adds the topics that routes need to the cache, and tells the routes which topics it has.
    pub(super) fn settle(&mut self, cache: &mut CachePlan, routes: &mut [RoutePlan]) -> Vec<ClaimsPlan> {
        let claims = std::mem::take(&mut self.claims);
        for (plan, at) in &claims {
            if self.needed.contains(&(plan.cluster.clone(), plan.topic.clone())) {
                self.fault(at, "the claims topic has the records of another route", OWN_TOPIC.to_owned());
            }
        }
        let declared: BTreeSet<_> = cache.topics.iter().map(|topic| (topic.cluster.clone(), topic.name.clone())).collect();
        let needed = std::mem::take(&mut self.needed);
        cache.topics.extend(needed.difference(&declared).cloned().map(|(cluster, name)| TopicPlan {
            name,
            cluster,
            bootstrap: true,
            start: StartPlan::Earliest,
            max_bytes: None,
            linger: None,
            history: HistoryPlan::Gap,
            create: None,
        }));
        let cached: BTreeMap<(&str, &str), &TopicPlan> =
            cache.topics.iter().map(|topic| ((topic.cluster.as_str(), topic.name.as_str()), topic)).collect();
        for route in routes {
            let request = match &mut route.capability {
                CapabilityPlan::Produce(produce) => produce,
                CapabilityPlan::Exchange(exchange) => &mut exchange.request,
                CapabilityPlan::Fetch(_) => continue,
            };
            let topic = request.topic.literal();
            request.caches = topic.is_some_and(|topic| cached.contains_key(&(request.cluster.as_str(), topic)));
        }
        let created = |(plan, _): (ClaimsPlan, At)| {
            let declared = cached.get(&(plan.cluster.as_str(), plan.topic.as_str()));
            ClaimsPlan { create: declared.and_then(|topic| topic.create.clone()), ..plan }
        };
        claims.into_iter().map(created).collect()
    }
}
