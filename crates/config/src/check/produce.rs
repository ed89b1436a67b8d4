//! `produce`, and the record of a request.

use std::collections::BTreeMap;

use template::Template;

use super::Checker;
use super::capability::Params;
use super::clusters::{TOPIC_NAME_HELP, is_topic_name};
use super::http::{self, PSEUDO};
use super::routes::Site;
use super::templates::OF_REQUEST;
use crate::document::{Produce, Request};
use crate::names::nearest;
use crate::node::At;
use crate::plan::{ProducePlan, RecordNamesPlan};
use crate::units::TemplateText;

/// The methods whose requests say what a record shall be: those that have preconditions.
const CHANGES: [&str; 3] = ["PUT", "PATCH", "DELETE"];

/// What a `produce` and the `request` of an exchange have in common.
struct Record<'d> {
    topic: &'d TemplateText,
    cluster: Option<&'d str>,
    key: Option<&'d TemplateText>,
    partition: Option<&'d TemplateText>,
    timestamp: Option<&'d TemplateText>,
    headers: &'d BTreeMap<String, TemplateText>,
    copy_headers: &'d [String],
    /// Headers that may be copied although HTTP has no such fields.
    pseudo: &'static [&'static str],
}

macro_rules! record {
    ($of:expr, $pseudo:expr) => {
        Record {
            topic: &$of.topic,
            cluster: $of.cluster.as_deref(),
            key: $of.key.as_ref(),
            partition: $of.partition.as_ref(),
            timestamp: $of.timestamp.as_ref(),
            headers: &$of.headers,
            copy_headers: &$of.copy_headers,
            pseudo: $pseudo,
        }
    };
}

impl Checker<'_> {
    pub(super) fn produce(&mut self, produce: &Produce, at: &At, site: &Site<'_>) -> Option<ProducePlan> {
        let params = site.params();
        let mut plan = self.record(&record!(produce, &[]), at, params);
        let body_bytes = self.body_bytes(produce.body_bytes, &at.key("body_bytes"));
        let timeout = self.some_time(produce.timeout, &at.key("timeout"), "acknowledged");
        let identity = self.identity(produce.identity.as_ref(), &at.key("identity"), params);
        // The topic may be one that another route looks keys up in; correlation ids are for workers to write.
        let names = RecordNamesPlan::tidegate();
        let own: &[&str] = if produce.idempotency.is_some() { &[&names.correlation_id] } else { &[] };
        self.not_forged(&produce.headers, &produce.copy_headers, at, own);
        let idempotency = produce.idempotency.as_ref().map(|given| {
            self.needs_cache(plan.as_ref(), &at.key("topic"), "'idempotency' looks requests up");
            self.idempotency(given, &at.key("idempotency"), plan.as_ref(), None, params)
        });
        if produce.require_match {
            self.requires_match(produce, at, site);
            self.needs_cache(plan.as_ref(), &at.key("topic"), "'require_match' looks the current record up");
        }
        if let Some(plan) = &mut plan {
            (plan.body_bytes, plan.timeout, plan.identity) = (body_bytes, timeout, identity);
            (plan.idempotency, plan.require_match) = (idempotency.flatten(), produce.require_match);
        }
        plan
    }

    /// The request record of an exchange, as far as it is said in `request`.
    pub(super) fn request(&mut self, request: &Request, at: &At, params: Params<'_>) -> Option<ProducePlan> {
        self.record(&record!(request, &PSEUDO), at, params)
    }

    fn record(&mut self, record: &Record<'_>, at: &At, params: Params<'_>) -> Option<ProducePlan> {
        let topic = self.template(&at.key("topic"), record.topic, &OF_REQUEST, params);
        let cluster = match (record.cluster, topic.as_ref().map(Template::literal)) {
            (None, Some(Some(name))) => match self.cached_names().contains(&name) {
                true => self.topics.get(name).cloned(),
                false => self.cluster_of(None, at),
            },
            (given, _) => self.cluster_of(given, at),
        };
        if let Some(name) = topic.as_ref().and_then(Template::literal) {
            self.produced_topic(name, &at.key("topic"));
        }
        let mut optional = |name: &str, text: Option<&TemplateText>| match text {
            Some(text) => self.template(&at.key(name), text, &OF_REQUEST, params),
            None => None,
        };
        let key = optional("key", record.key);
        let partition = optional("partition", record.partition);
        let timestamp = optional("timestamp", record.timestamp);
        let not_partition = |text: &&str| text.parse::<i32>().map_or(true, |number| number < 0);
        if partition.as_ref().and_then(Template::literal).filter(not_partition).is_some() {
            let message = format!("{} is no partition", self.shown(&at.key("partition")));
            self.fault(&at.key("partition"), message, "a whole number from 0 on".to_owned());
        }
        let not_time = |text: &&str| text.parse::<i64>().map_or(true, |number| number < 0);
        if timestamp.as_ref().and_then(Template::literal).filter(not_time).is_some() {
            let message = format!("{} is no timestamp", self.shown(&at.key("timestamp")));
            self.fault(&at.key("timestamp"), message, "milliseconds since 1970-01-01T00:00:00Z".to_owned());
        }
        let headers = self.record_headers(record.headers, &at.key("headers"), params);
        let copy_headers = self.copied_from_request(record.copy_headers, record.pseudo, &at.key("copy_headers"));
        Some(ProducePlan {
            topic: topic?,
            cluster: cluster?,
            key,
            partition,
            timestamp,
            headers,
            copy_headers,
            body_bytes: None,
            timeout: None,
            identity: None,
            idempotency: None,
            require_match: false,
            caches: false,
        })
    }

    /// A topic that is written need not be cached; one that is spelt almost like a cached one is a slip.
    pub(super) fn produced_topic(&mut self, name: &str, at: &At) {
        if !is_topic_name(name) {
            let message = format!("{} is no name for a topic", self.shown(at));
            self.fault(at, message, TOPIC_NAME_HELP.to_owned());
            return;
        }
        let cached = self.cached_names();
        if !cached.contains(&name)
            && let Some(near) = nearest(name, cached)
        {
            let help = format!("did you mean '{near}'? If both are meant, declare this one in cache.topics, too");
            let message = format!("the topic {} is not cached, but one of almost the same name is", self.shown(at));
            self.fault(at, message, help);
        }
    }

    fn record_headers(
        &mut self,
        headers: &BTreeMap<String, TemplateText>,
        at: &At,
        params: Params<'_>,
    ) -> Vec<(String, Template)> {
        let mut plans = Vec::with_capacity(headers.len());
        for (name, text) in headers {
            let at = at.key(name);
            if name.is_empty() {
                self.key_fault(&at, "a record header needs a name", None);
            }
            plans.extend(self.template(&at, text, &OF_REQUEST, params).map(|template| (name.clone(), template)));
        }
        plans
    }

    /// Names of request headers, in lower case.
    fn copied_from_request(&mut self, names: &[String], pseudo: &[&str], at: &At) -> Vec<String> {
        for (at, name) in self.kept(at).zip(names) {
            let shown = self.quoted(&at, name);
            if pseudo.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                continue;
            }
            if !pseudo.is_empty() && name.starts_with(':') {
                self.fault(&at, format!("there is no {shown} of a request"), format!("one of {}", pseudo.join(", ")));
            } else if let Some((message, help)) = http::header_fault(name, &shown) {
                self.fault(&at, message, help);
            }
        }
        names.iter().map(|name| name.to_ascii_lowercase()).collect()
    }

    fn requires_match(&mut self, produce: &Produce, at: &At, site: &Site<'_>) {
        let here = at.key("require_match");
        if produce.key.is_none() && self.tree.get(&at.key("key")).is_none() {
            let message = "a precondition compares with the current record of a key, and there is no key";
            self.key_fault(&here, message, "add 'key', or leave 'require_match' out".to_owned());
        }
        // Without methods, they are at fault themselves.
        if !site.methods.is_empty() && !site.methods.iter().any(|method| CHANGES.contains(&method.as_str())) {
            let message = "no method of this route has preconditions";
            self.key_fault(&here, message, format!("only {} have; match one of them, or leave it out", CHANGES.join(", ")));
        }
    }
}
