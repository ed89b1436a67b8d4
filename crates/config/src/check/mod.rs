//! What a schema cannot say: names that must exist, texts with a grammar of their own, routes that hide each other.

mod capability;
mod clusters;
mod exchange;
mod http;
mod idempotency;
mod location;
mod pattern;
mod produce;
mod routes;
mod templates;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub use http::HOP_BY_HOP;

use crate::Checks;
use crate::document::{Document, Limits, Signing};
use crate::names::did_you_mean;
use crate::node::{At, Kind, Node};
use crate::plan::{ClaimsPlan, LimitsPlan, ListenerPlan, LogPlan, Plan, SigningPlan};
use crate::problem::Report;
use crate::units::{Size, Time};

/// Shorter keys could be guessed: as many bytes as a location token's MAC has.
const SIGNING_KEY_BYTES_MIN: usize = 16;

/// Why a Kafka property is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PropertyProblem {
    pub message: String,
    pub help: Option<String>,
}

/// Checks the document and makes it a plan. `None` when something is missing from it, which has been reported then.
pub(crate) fn check(
    document: &Document,
    tree: &Node,
    dropped: &BTreeSet<At>,
    base_dir: &Path,
    checks: &Checks<'_>,
    report: &mut Report,
) -> Option<Plan> {
    let (topics, embedded, uncommitted, needed) = Default::default();
    let mut checker = Checker { dropped, tree, report, checks, topics, embedded, uncommitted, needed, claims: Vec::new() };
    let listeners = checker.listeners(document);
    let limits = checker.limits(&document.limits);
    let clusters = checker.clusters(document);
    let cache = checker.cache(document, base_dir);
    let signing = checker.signing(document.signing.as_ref());
    let mut routes = checker.routes(document, &limits);
    let mut cache = cache?;
    let claims = checker.settle(&mut cache, &mut routes);
    let log = LogPlan { level: document.log.level, format: document.log.format, access: document.log.access };
    Some(Plan { listeners, admin: document.admin.address.0, log, limits, clusters, cache, signing, claims, routes })
}

struct Checker<'a> {
    tree: &'a Node,
    /// The list elements that did not fit the schema, so that the document does not have them.
    dropped: &'a BTreeSet<At>,
    report: &'a mut Report,
    checks: &'a Checks<'a>,
    /// The cached topics that are in order, with their cluster.
    topics: BTreeMap<String, String>,
    /// The clusters that are the built-in log.
    embedded: BTreeSet<String>,
    /// The clusters that are read with what transactions have not committed.
    uncommitted: BTreeSet<String>,
    /// The topics, by cluster and name, that a route needs in the cache, declared or not.
    needed: BTreeSet<(String, String)>,
    /// With the place where they are said.
    claims: Vec<(ClaimsPlan, At)>,
}

impl<'a> Checker<'a> {
    /// Reports a fault of the value at `at`.
    fn fault(&mut self, at: &At, message: impl Into<String>, help: impl Into<Option<String>>) {
        let span = self.tree.get(at).map_or_else(|| self.tree.key_span(at), |node| node.span);
        self.report.add(span, message, help);
    }

    /// Reports a fault of the key at `at`.
    fn key_fault(&mut self, at: &At, message: impl Into<String>, help: impl Into<Option<String>>) {
        self.report.add(self.tree.key_span(at), message, help);
    }

    /// The value at `at` as a problem may show it.
    fn shown(&self, at: &At) -> String {
        self.tree.get(at).and_then(Node::scalar).map_or_else(|| "this value".into(), |scalar| scalar.shown())
    }

    /// The places of the elements that the document has of the list at `at`.
    fn kept(&self, at: &At) -> impl Iterator<Item = At> + use<'a> {
        let (dropped, at) = (self.dropped, at.clone());
        (0..).map(move |index| at.index(index)).filter(move |at| !dropped.contains(at))
    }

    /// Whether the value at `at` came out of the environment or from an override, so that no problem may quote it.
    fn is_hidden(&self, at: &At) -> bool {
        self.tree.get(at).and_then(Node::scalar).is_some_and(|scalar| scalar.written.is_some())
    }

    /// `part` of the value at `at` as a problem may show it.
    fn quoted(&self, at: &At, part: &str) -> String {
        if self.is_hidden(at) { self.shown(at) } else { format!("'{part}'") }
    }

    /// The keys of the map at `at` as they were written: those with faults in them, too, so that one fault has no others follow.
    /// `None` when what stands there is no map.
    fn written(&self, at: &At) -> Option<Vec<&'a str>> {
        let tree: &'a Node = self.tree;
        match tree.get(at) {
            None => Some(Vec::new()),
            Some(Node { kind: Kind::Map(entries), .. }) => Some(entries.iter().map(|entry| entry.key.as_str()).collect()),
            Some(_) => None,
        }
    }

    /// Whether `name`, which stands at `at`, is a key of the map `of`; reports it otherwise.
    fn known(&mut self, name: &str, what: &str, of: &At, at: &At) -> bool {
        let Some(known) = self.written(of) else { return false };
        let found = known.contains(&name);
        if !found {
            let help = did_you_mean(name, &format!("known {what}s"), known.iter().copied());
            let help = help.or_else(|| known.is_empty().then(|| format!("declare it under '{of}'")));
            let shown = self.shown(at);
            self.fault(at, format!("there is no {what} {shown}"), help);
        }
        found
    }

    fn listeners(&mut self, document: &Document) -> Vec<ListenerPlan> {
        let root = At::root().key("listeners");
        let mut plans: Vec<ListenerPlan> = Vec::new();
        for (name, listener) in &document.listeners {
            let at = root.key(name);
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(is_name) {
                let help = "begin with a to z; go on with a to z, 0 to 9 and '-'".to_owned();
                self.key_fault(&at, format!("'{name}' is no name for a listener"), help);
            }
            let address = listener.address.0;
            let same = plans.iter().find(|other| other.address == address && address.port() != 0);
            if let Some(other) = same {
                let message = format!("the listener '{}' has this address already", other.name);
                self.fault(&at.key("address"), message, "give each listener a port of its own".to_owned());
            }
            plans.push(ListenerPlan { name: name.clone(), address });
        }
        if let Some(other) =
            plans.iter().find(|other| Some(other.address) == document.admin.address.0 && other.address.port() != 0)
        {
            let message = format!("the listener '{}' has the address of the admin listener", other.name);
            let at = At::root().key("admin").key("address");
            let (at, help) = match self.tree.get(&at) {
                Some(_) => (at, "give the admin listener a port of its own, or switch it off: off"),
                None => (
                    root.key(&other.name).key("address"),
                    "take another port, or move the admin listener: admin: { address: ... }",
                ),
            };
            self.fault(&at, message, help.to_owned());
        }
        plans
    }

    fn limits(&mut self, limits: &Limits) -> LimitsPlan {
        const KIB: u64 = 1024;
        const GIB: u64 = 1 << 30;
        LimitsPlan {
            header_bytes: self.size("header_bytes", limits.header_bytes, KIB, 16 * KIB * KIB),
            headers: limits.headers as usize,
            // The URI type of the front holds 65534 bytes at most.
            uri_bytes: self.size("uri_bytes", limits.uri_bytes, 16, 65_534),
            body_bytes: self.size("body_bytes", limits.body_bytes, 1, GIB),
            connections: limits.connections as usize,
            header_timeout: self.time("header_timeout", limits.header_timeout),
            idle_timeout: self.time("idle_timeout", limits.idle_timeout),
            request_timeout: self.time("request_timeout", limits.request_timeout),
            wait_max: limits.wait_max.0,
            drain_timeout: limits.drain_timeout.0,
            requests: limits.requests as usize,
            path_segments: limits.path_segments as usize,
            streams_per_connection: limits.streams_per_connection,
            pending_exchanges: limits.pending_exchanges as usize,
        }
    }

    fn signing(&mut self, signing: Option<&Signing>) -> Option<SigningPlan> {
        let at = At::root().key("signing").key("keys");
        let keys = &signing?.keys;
        for (at, key) in self.kept(&at).zip(keys) {
            if key.0.len() < SIGNING_KEY_BYTES_MIN {
                let message = format!("a signing key has {SIGNING_KEY_BYTES_MIN} bytes or more; this one is shorter");
                self.fault(&at, message, "make one with: openssl rand -base64 32".to_owned());
            }
        }
        Some(SigningPlan { keys: keys.iter().map(|key| key.0.clone().into_bytes()).collect() })
    }

    fn size(&mut self, name: &str, size: Size, least: u64, most: u64) -> usize {
        self.bounded(&At::root().key("limits").key(name), size, least, most);
        usize::try_from(size.0).unwrap_or(usize::MAX)
    }

    fn bounded(&mut self, at: &At, size: Size, least: u64, most: u64) {
        if size.0 < least || size.0 > most {
            let (least, most) = (Size(least).to_string(), Size(most).to_string());
            self.fault(at, format!("{} is out of range", self.shown(at)), format!("from {least} to {most}"));
        }
    }

    fn time(&mut self, name: &str, time: Time) -> std::time::Duration {
        if time.0.is_zero() {
            let at = At::root().key("limits").key(name);
            self.fault(&at, "with no time at all, nothing would be answered", "give 1ms at least".to_owned());
        }
        time.0
    }
}
