//! What a route does: `produce` and `fetch`.

use std::collections::BTreeMap;

use template::{Template, Variable};

use super::Checker;
use super::clusters::{TOPIC_NAME_HELP, is_topic_name};
use super::http;
use super::templates::{OF_RECORD, OF_REQUEST};
use crate::document::{Fetch, Filter, Produce};
use crate::names::nearest;
use crate::node::At;
use crate::plan::{FetchPlan, FilterPlan, ProducePlan, SelectPlan};
use crate::units::TemplateText;

/// A body is held in memory until the cluster has acknowledged it.
const BODY_BYTES_MAX: u64 = 1 << 30;

/// The parameters of the route's path; `None` when the path is at fault.
type Params<'p> = Option<&'p [String]>;

impl Checker<'_> {
    pub(super) fn produce(&mut self, produce: &Produce, at: &At, params: Params<'_>) -> Option<ProducePlan> {
        let topic = self.template(&at.key("topic"), &produce.topic, &OF_REQUEST, params);
        let cluster = match (&produce.cluster, topic.as_ref().map(Template::literal)) {
            (None, Some(Some(name))) => match self.cached_names().contains(&name) {
                true => self.topics.get(name).cloned(),
                false => self.cluster_of(None, at),
            },
            (given, _) => self.cluster_of(given.as_deref(), at),
        };
        if let Some(name) = topic.as_ref().and_then(Template::literal) {
            self.produced_topic(name, &at.key("topic"));
        }
        let mut optional = |name: &str, text: &Option<TemplateText>| match text {
            Some(text) => self.template(&at.key(name), text, &OF_REQUEST, params),
            None => None,
        };
        let key = optional("key", &produce.key);
        let partition = optional("partition", &produce.partition);
        let timestamp = optional("timestamp", &produce.timestamp);
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
        let headers = self.record_headers(&produce.headers, &at.key("headers"), params);
        let copy_headers = self.copied(&produce.copy_headers, &at.key("copy_headers"));
        if let Some(bytes) = produce.body_bytes {
            self.bounded(&at.key("body_bytes"), bytes, 1, BODY_BYTES_MAX);
        }
        if produce.timeout.is_some_and(|timeout| timeout.0.is_zero()) {
            let help = "give 1ms at least".to_owned();
            self.fault(&at.key("timeout"), "with no time at all, nothing would be acknowledged", help);
        }
        Some(ProducePlan {
            topic: topic?,
            cluster: cluster?,
            key,
            partition,
            timestamp,
            headers,
            copy_headers: copy_headers.into_iter().map(|name| name.to_ascii_lowercase()).collect(),
            body_bytes: produce.body_bytes.map(|bytes| usize::try_from(bytes.0).unwrap_or(usize::MAX)),
            timeout: produce.timeout.map(|timeout| timeout.0),
        })
    }

    /// A topic that is written need not be cached; one that is spelt almost like a cached one is a slip.
    fn produced_topic(&mut self, name: &str, at: &At) {
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

    /// The names of headers that are copied. Secrets among them are allowed, since they are named; what belongs to the
    /// connection is not.
    fn copied(&mut self, names: &[String], at: &At) -> Vec<String> {
        for (at, name) in self.kept(at).zip(names) {
            let shown = self.quoted(&at, name);
            if let Some((message, help)) = http::header_fault(name, &shown) {
                self.fault(&at, message, help);
            }
        }
        names.to_vec()
    }

    pub(super) fn fetch(&mut self, fetch: &Fetch, at: &At, params: Params<'_>) -> Option<FetchPlan> {
        let cluster = self.cached_topic(&fetch.topic, &at.key("topic"));
        if let Some(given) = &fetch.cluster
            && let Some(given) = self.cluster_of(Some(given), at)
            && let Some(actual) = cluster.as_ref().filter(|actual| **actual != given)
        {
            let help = format!("leave the key out, or write {actual}");
            self.fault(&at.key("cluster"), format!("the topic is cached from the cluster '{actual}'"), help);
        }
        let select = self.select(fetch, at, params);
        // A merged answer is made of many records.
        let allowed: &[Variable] = if fetch.merge.is_some() { &OF_REQUEST } else { &OF_RECORD };
        let headers = self.response_headers(&fetch.headers, &at.key("headers"), allowed, params);
        let copy_headers = self.copied(&fetch.copy_headers, &at.key("copy_headers"));
        if fetch.merge.is_some() && !copy_headers.is_empty() {
            let help = "take the key out; 'headers' can set some for the whole answer".to_owned();
            self.key_fault(
                &at.key("copy_headers"),
                "a merged answer is made of many records, whose headers are not copied",
                help,
            );
        }
        if let Some(content_type) = &fetch.content_type {
            let is_type = http::is_field_value(content_type) && content_type.contains('/');
            if !is_type {
                let at = at.key("content_type");
                let message = format!("{} is no content type", self.shown(&at));
                self.fault(&at, message, "write one such as application/json".to_owned());
            }
        }
        Some(FetchPlan {
            topic: fetch.topic.clone(),
            cluster: cluster?,
            select: select?,
            headers,
            copy_headers,
            content_type: fetch.content_type.clone(),
            wait_max: fetch.wait_max.map(|wait| wait.0),
        })
    }

    fn select(&mut self, fetch: &Fetch, at: &At, params: Params<'_>) -> Option<SelectPlan> {
        // The tree tells what was meant even where it did not fit the schema.
        let given = |key: &str| self.tree.get(at).and_then(|node| node.entry(key)).is_some_and(|entry| !entry.value.is_null());
        if !given("filters") && !given("merge") {
            let help = "add filters: [{ key: ... }] for one record, or merge: json for all of them".to_owned();
            self.key_fault(at, "the fetch does not say which records", help);
            return None;
        }
        let filters =
            if given("filters") { self.filters(fetch.filters.as_deref()?, &at.key("filters"), params) } else { Vec::new() };
        Some(if given("merge") { SelectPlan::MergeJson(filters) } else { SelectPlan::Newest(filters) })
    }

    fn filters(&mut self, filters: &[Filter], at: &At, params: Params<'_>) -> Vec<FilterPlan> {
        let kept = self.kept(at);
        let mut filter = |(at, filter): (At, &Filter)| {
            let key = match &filter.key {
                Some(key) => Some(self.template(&at.key("key"), key, &OF_REQUEST, params)?),
                None => None,
            };
            let headers_at = at.key("headers");
            let mut headers = Vec::with_capacity(filter.headers.len());
            for (name, text) in &filter.headers {
                headers.push((name.clone(), self.template(&headers_at.key(name), text, &OF_REQUEST, params)?));
            }
            Some(FilterPlan { key, headers })
        };
        kept.zip(filters).filter_map(&mut filter).collect()
    }

    fn response_headers(
        &mut self,
        headers: &BTreeMap<String, TemplateText>,
        at: &At,
        allowed: &[Variable],
        params: Params<'_>,
    ) -> Vec<(String, Template)> {
        let mut plans: Vec<(String, Template)> = Vec::with_capacity(headers.len());
        for (name, text) in headers {
            let at = at.key(name);
            if let Some((message, help)) = http::header_fault(name, &format!("'{name}'")) {
                self.key_fault(&at, message, help);
            }
            let lower = name.to_ascii_lowercase();
            if plans.iter().any(|(known, _)| *known == lower) {
                self.key_fault(
                    &at,
                    format!("the header '{lower}' is given twice"),
                    "keep one of them; case makes no difference".to_owned(),
                );
            }
            let Some(template) = self.template(&at, text, allowed, params) else {
                continue;
            };
            if template.literal().is_some_and(|literal| !http::is_field_value(literal)) {
                let help = "visible ASCII characters with blanks in between".to_owned();
                self.fault(&at, "an HTTP header cannot have this value", help);
            }
            plans.push((lower, template));
        }
        plans
    }
}
