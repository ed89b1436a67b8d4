//! `exchange`: a request record, a reply record, and what ties them.

use std::time::Duration;

use template::{Template, Variable};

use super::Checker;
use super::capability::Params;
use super::clusters::{TOPIC_NAME_HELP, is_topic_name};
use super::idempotency::OURS;
use super::routes::Site;
use super::templates::OF_RECORD;
use crate::document::{Async, Exchange, Names, Profile, Reply};
use crate::node::At;
use crate::plan::{ExchangePlan, LimitsPlan, LocationPiece, LocationPlan, ProducePlan, RecordNamesPlan, ReplyPlan};

const REPLY_BYTES: usize = 1 << 20;
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Record headers that are copied or set anyway, and mean something else.
const TAKEN: [&str; 2] = ["content-type", "traceparent"];

impl Checker<'_> {
    pub(super) fn exchange(
        &mut self,
        exchange: &Exchange,
        at: &At,
        site: &Site<'_>,
        limits: &LimitsPlan,
    ) -> Option<ExchangePlan> {
        let params = site.params();
        let names = self.names(exchange.names.as_ref(), &at.key("names"));
        let request_at = at.key("request");
        let mut request = self.request(&exchange.request, &request_at, params);
        let ours = [names.correlation_id.as_str(), &names.reply_to, &names.status];
        self.not_forged(&exchange.request.headers, &exchange.request.copy_headers, &request_at, &ours);
        let reply = exchange.reply.as_ref().map(|reply| self.reply(reply, &at.key("reply"), request.as_ref(), params));
        let location = exchange.later.as_ref().map(|later| self.later(later, at, site, limits));
        if exchange.later.is_some() {
            self.needs_cache(request.as_ref(), &request_at.key("topic"), "'async' looks requests up");
        } else if exchange.idempotency.is_some() {
            self.needs_cache(request.as_ref(), &request_at.key("topic"), "'idempotency' looks requests up");
        }
        let idempotency = exchange.idempotency.as_ref().map(|given| {
            let reply = reply.as_ref().and_then(Option::as_ref);
            self.idempotency(given, &at.key("idempotency"), request.as_ref(), reply, params)
        });
        let timeout = self.some_time(exchange.timeout, &at.key("timeout"), "answered");
        let body_bytes = self.body_bytes(exchange.body_bytes, &at.key("body_bytes"));
        let identity = self.identity(exchange.identity.as_ref(), &at.key("identity"), params);
        if let Some(Some(location)) = &location {
            self.told_by_location(location, identity.as_ref(), &at.key("identity"));
            for (name, header) in reply.iter().flatten().flat_map(|reply| &reply.headers) {
                let at = self.key_in(&at.key("reply").key("headers"), name);
                self.has_params(location, header, &at);
            }
        }
        if let Some(request) = &mut request {
            (request.body_bytes, request.timeout, request.identity) = (body_bytes, timeout, identity);
            request.idempotency = idempotency.flatten();
        }
        Some(ExchangePlan {
            request: request?,
            reply: reply.flatten(),
            location: location.flatten(),
            retry_after: exchange.later.as_ref().and_then(|later| later.retry_after).map_or(RETRY_AFTER, |time| time.0),
            names,
            timeout,
            wait_max: exchange.wait_max.map(|wait| wait.0),
            pending_max: exchange.pending_max.map(|most| most as usize),
        })
    }

    fn reply(&mut self, reply: &Reply, at: &At, request: Option<&ProducePlan>, params: Params<'_>) -> Option<ReplyPlan> {
        let topic_at = at.key("topic");
        if reply.topic.contains("${") {
            let help = "write the name of one topic, without ${...}".to_owned();
            self.fault(&topic_at, "the reply topic is looked up in the cache, so that it cannot depend on the request", help);
        } else if !is_topic_name(&reply.topic) {
            let message = format!("{} is no name for a topic", self.shown(&topic_at));
            self.fault(&topic_at, message, TOPIC_NAME_HELP.to_owned());
        } else {
            self.produced_topic(&reply.topic, &topic_at);
        }
        let cluster = match &reply.cluster {
            Some(given) => self.cluster_of(Some(given), at),
            None if self.tree.get(&at.key("cluster")).is_some() => None,
            None if self.cached_names().contains(&reply.topic.as_str()) => self.topics.get(&reply.topic).cloned(),
            None => request.map(|request| request.cluster.clone()),
        };
        if let (Some(request), Some(cluster)) = (request, &cluster)
            && request.cluster == *cluster
            && request.topic.literal() == Some(&reply.topic)
        {
            let help = "let the worker write its replies to another topic".to_owned();
            self.fault(
                &topic_at,
                "requests and replies are in the same topic, so that each request would be its own reply",
                help,
            );
        }
        let headers = self.response_headers(&reply.headers, &at.key("headers"), &OF_RECORD, params);
        let copy_headers = self.copied(&reply.copy_headers, &at.key("copy_headers"));
        self.content_type(reply.content_type.as_deref(), &at.key("content_type"));
        let body_bytes = self.body_bytes(reply.body_bytes, &at.key("body_bytes")).unwrap_or(REPLY_BYTES);
        let cluster = cluster?;
        self.keep(&cluster, &reply.topic);
        let (topic, content_type) = (reply.topic.clone(), reply.content_type.clone());
        Some(ReplyPlan { topic, cluster, copy_headers, headers, content_type, body_bytes })
    }

    fn later(&mut self, later: &Async, at: &At, site: &Site<'_>, limits: &LimitsPlan) -> Option<LocationPlan> {
        if self.tree.get(&at.key("reply")).is_none() {
            let help = "add 'reply', or leave 'async' out".to_owned();
            self.key_fault(&at.key("async"), "without 'reply' there is nothing to fetch later", help);
        }
        if site.params().is_some_and(|params| params.iter().any(|name| name == LocationPlan::PARAM)) {
            let message = format!("the parameter '{}' is that of the location", LocationPlan::PARAM);
            self.fault(&site.at.key("match"), message, "give it another name".to_owned());
        }
        self.location(&later.location.0, &at.key("async").key("location"), site, limits)
    }

    /// Who asks at the location is found out from that request: what it has not, no identity is made from.
    fn told_by_location(&mut self, location: &LocationPlan, identity: Option<&Template>, at: &At) {
        let Some(identity) = identity else { return };
        self.has_params(location, identity, at);
        if identity.uses(Variable::Query) {
            let help = "make the identity from headers or from parameters of the location".to_owned();
            self.fault(at, "a location has no query, so that nobody could fetch a reply there", help);
        }
    }

    fn has_params(&mut self, location: &LocationPlan, template: &Template, at: &At) {
        let has = |name: &str| location.pieces.iter().any(|piece| matches!(piece, LocationPiece::Param(known) if known == name));
        if let Some(name) = template.params().find(|name| !has(name)) {
            let (shown, help) = match self.is_hidden(at) {
                true => (String::new(), "write all of its parameters into 'async.location'".to_owned()),
                false => (format!(" '{name}'"), format!("write ${{params.{name}}} into 'async.location'")),
            };
            self.fault(at, format!("at the location there is no parameter{shown}, so that this has no value there"), help);
        }
    }

    /// The place of a header in the map at `at`, by its name in any case.
    fn key_in(&self, at: &At, name: &str) -> At {
        let written = self.written(at).unwrap_or_default();
        at.key(written.into_iter().find(|key| key.eq_ignore_ascii_case(name)).unwrap_or(name))
    }

    fn names(&mut self, names: Option<&Names>, at: &At) -> RecordNamesPlan {
        let default = RecordNamesPlan::tidegate();
        let plan = match names {
            None | Some(Names::Profile(Profile::Tidegate)) => return default,
            Some(Names::Profile(Profile::Zilla)) => return RecordNamesPlan::zilla(),
            Some(Names::Own(own)) => RecordNamesPlan {
                correlation_id: own.correlation_id.clone().unwrap_or(default.correlation_id),
                reply_to: own.reply_to.clone().unwrap_or(default.reply_to),
                status: own.status.clone().unwrap_or(default.status),
            },
        };
        let all = [("correlation_id", &plan.correlation_id), ("reply_to", &plan.reply_to), ("status", &plan.status)];
        for (index, (key, name)) in all.into_iter().enumerate() {
            let at = at.key(key);
            let shown = self.quoted(&at, name);
            if name.is_empty() || name.chars().any(char::is_control) {
                self.fault(
                    &at,
                    format!("{shown} is no name for a record header"),
                    "write one such as my-correlation-id".to_owned(),
                );
            } else if OURS.iter().chain(&TAKEN).any(|taken| taken.eq_ignore_ascii_case(name)) {
                self.fault(&at, format!("the record header {shown} means something else"), "take another name".to_owned());
            } else if let Some((other, _)) = all[..index].iter().find(|(_, other)| other.eq_ignore_ascii_case(name)) {
                let message = format!("'{other}' and '{key}' have the same name");
                self.fault(&at, message, "give each a name of its own; case makes no difference".to_owned());
            }
        }
        plan
    }
}
