//! What a route does: `fetch`, and what the capabilities have in common.

use std::collections::BTreeMap;

use template::{Template, Variable};

use super::Checker;
use super::http;
use super::templates::{OF_RECORD, OF_REQUEST};
use crate::document::{Fetch, Filter};
use crate::node::At;
use crate::plan::{FetchPlan, FilterPlan, SelectPlan};
use crate::units::{Size, TemplateText, Time};

/// A body is held in memory until the cluster has acknowledged it, a reply until it is sent.
const BODY_BYTES_MAX: u64 = 1 << 30;

/// The parameters of the route's path; `None` when the path is at fault.
pub(super) type Params<'p> = Option<&'p [String]>;

impl Checker<'_> {
    /// The names of headers that are copied. Secrets among them are allowed, since they are named; what belongs to the
    /// connection is not.
    pub(super) fn copied(&mut self, names: &[String], at: &At) -> Vec<String> {
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
        self.content_type(fetch.content_type.as_deref(), &at.key("content_type"));
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

    pub(super) fn content_type(&mut self, given: Option<&str>, at: &At) {
        if given.is_some_and(|text| !http::is_field_value(text) || !text.contains('/')) {
            let message = format!("{} is no content type", self.shown(at));
            self.fault(at, message, "write one such as application/json".to_owned());
        }
    }

    pub(super) fn body_bytes(&mut self, given: Option<Size>, at: &At) -> Option<usize> {
        let bytes = given?;
        self.bounded(at, bytes, 1, BODY_BYTES_MAX);
        Some(usize::try_from(bytes.0).unwrap_or(usize::MAX))
    }

    /// A time in which something must happen, which would not happen `without`.
    pub(super) fn some_time(&mut self, given: Option<Time>, at: &At, without: &str) -> Option<std::time::Duration> {
        let time = given?.0;
        if time.is_zero() {
            self.fault(at, format!("with no time at all, nothing would be {without}"), "give 1ms at least".to_owned());
        }
        Some(time)
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

    pub(super) fn response_headers(
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
