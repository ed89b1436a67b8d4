//! Matches: which requests a route takes, and whether any are left for it.

use std::collections::{BTreeMap, HashMap};

use super::Checker;
use super::http;
use super::pattern::{self, Pattern};
use crate::document::{Document, Match, MatchMap, OneOrMany, Route};
use crate::names::nearest;
use crate::node::At;
use crate::plan::{CapabilityPlan, LimitsPlan, LocationPlan, RoutePlan};
use crate::units::Word;

/// What a route may do, and with which methods.
const CAPABILITIES: [(&str, &[&str]); 3] = [
    ("produce", &["POST", "PUT", "PATCH", "DELETE"]),
    ("fetch", &["GET"]),
    ("exchange", &["GET", "POST", "PUT", "PATCH", "DELETE"]),
];
const ALL_METHODS: &[&str] = CAPABILITIES[2].1;
const ANY: &str = "*";

/// Header names in lower case, with the value they must have if there is one.
type Conditions = Vec<(String, Option<String>)>;

/// What makes two routes take the same requests: method, host, header conditions, shape of the path.
type Claim = (String, Option<String>, Conditions, String);
/// Who takes them, and on which listeners.
type Claims = HashMap<Claim, Vec<(At, Vec<String>)>>;

/// A match, read.
struct Matched {
    methods: Vec<String>,
    path: String,
    pattern: Option<Pattern>,
    host: Option<String>,
    headers: Conditions,
}

/// The route that a capability stands in.
pub(super) struct Site<'r> {
    pub at: &'r At,
    /// `None` when the path is at fault.
    pub pattern: Option<&'r Pattern>,
    /// Empty when the match is at fault.
    pub methods: &'r [String],
}

impl<'r> Site<'r> {
    pub fn params(&self) -> Option<&'r [String]> {
        self.pattern.map(|pattern| pattern.params.as_slice())
    }
}

impl Checker<'_> {
    pub(super) fn routes(&mut self, document: &Document, limits: &LimitsPlan) -> Vec<RoutePlan> {
        let root = At::root().key("routes");
        let mut claims = Claims::new();
        let mut plans = Vec::new();
        for (at, route) in self.kept(&root).zip(&document.routes) {
            plans.extend(self.route(route, &at, limits, &mut claims));
        }
        plans
    }

    fn route(&mut self, route: &Route, at: &At, limits: &LimitsPlan, claims: &mut Claims) -> Option<RoutePlan> {
        let allowed = self.capability_methods(at);
        let matched = self.matched(&route.matches, &at.key("match"), allowed, limits);
        let listeners = self.listeners_of(route.listener.as_ref(), &at.key("listener"));
        if let Some(matched) = &matched {
            self.claim(matched, &listeners, at, claims);
        }
        let pattern = matched.as_ref().and_then(|m| m.pattern.as_ref());
        let site = Site { at, pattern, methods: matched.as_ref().map_or(&[], |m| m.methods.as_slice()) };
        let produce = route.produce.as_ref().map(|produce| self.produce(produce, &at.key("produce"), &site));
        let fetch = route.fetch.as_ref().map(|fetch| self.fetch(fetch, &at.key("fetch"), site.params()));
        let exchange = route.exchange.as_ref().map(|exchange| self.exchange(exchange, &at.key("exchange"), &site, limits));
        if let (Some(Some(exchange)), Some(matched)) = (&exchange, &matched)
            && let Some(location) = &exchange.location
        {
            self.claim_location(location, matched, &listeners, at, claims);
        }
        let capability = match (produce, fetch, exchange) {
            (Some(produce), None, None) => CapabilityPlan::Produce(produce?),
            (None, Some(fetch), None) => CapabilityPlan::Fetch(fetch?),
            (None, None, Some(exchange)) => CapabilityPlan::Exchange(exchange?),
            _ => return None,
        };
        let Matched { methods, path, host, headers, .. } = matched?;
        let name = format!("{} {path}", methods.join(","));
        let line = self.tree.key_span(at).line;
        Some(RoutePlan { name, line, listeners, methods, path, host, headers, capability })
    }

    /// The methods of the route's one capability; reports when it has none or several. Asks the tree, so that a capability with
    /// a fault inside counts.
    fn capability_methods(&mut self, at: &At) -> &'static [&'static str] {
        let has = |key: &str| self.tree.get(at).and_then(|node| node.entry(key)).is_some_and(|entry| !entry.value.is_null());
        let given: Vec<_> = CAPABILITIES.iter().filter(|(name, _)| has(name)).collect();
        match given.as_slice() {
            [(_, methods)] => return methods,
            [] => self.fault(at, "the route does nothing", "add 'produce', 'fetch' or 'exchange'".to_owned()),
            [(first, _), (second, _), ..] => {
                let help = "make it a route for each".to_owned();
                let message = format!("a route has one capability, this one has '{first}' and '{second}'");
                self.key_fault(&at.key(second), message, help);
            }
        }
        ALL_METHODS
    }

    fn matched(&mut self, matches: &Match, at: &At, allowed: &[&str], limits: &LimitsPlan) -> Option<Matched> {
        let (methods, method_at, path, path_at, map) = match matches {
            Match::Short(text) => {
                let words: Vec<&str> = text.split_whitespace().collect();
                let [method, path] = words.as_slice() else {
                    let help = "a match is a method and a path, such as GET /items/{id}".to_owned();
                    self.fault(at, format!("{} is no match", self.shown(at)), help);
                    return None;
                };
                (vec![(*method).to_owned()], at.clone(), (*path).to_owned(), at.clone(), None)
            }
            Match::Long(map) => {
                let methods = match &map.method {
                    None => vec![ANY.to_owned()],
                    Some(methods) => methods.names(),
                };
                (methods, at.key("method"), map.path.clone(), at.key("path"), Some(map))
            }
        };
        let methods = self.methods(&methods, &method_at, allowed);
        let pattern = self.pattern(&path, &path_at, limits);
        let (host, headers) = map.map_or_else(Default::default, |map| self.conditions(map, at));
        Some(Matched { methods, path, pattern, host, headers })
    }

    fn methods(&mut self, methods: &[String], at: &At, allowed: &[&str]) -> Vec<String> {
        let all = || allowed.iter().map(|method| (*method).to_owned()).collect::<Vec<_>>();
        if methods.is_empty() {
            self.fault(
                at,
                "the route can never be reached: its list of methods is empty",
                "leave the key out for all".to_owned(),
            );
        }
        let mut kept: Vec<String> = Vec::new();
        for method in methods {
            match method.as_str() {
                ANY => return all(),
                known if allowed.contains(&known) => {
                    if !kept.contains(method) {
                        kept.push(method.clone());
                    }
                }
                "HEAD" => {
                    self.fault(at, "HEAD is answered wherever GET is", "write GET, or remove the route".to_owned());
                }
                other => {
                    let near = nearest(other, allowed.iter().copied());
                    let help =
                        near.map_or_else(|| format!("one of {}", allowed.join(", ")), |near| format!("did you mean {near}?"));
                    let shown = self.quoted(at, other);
                    self.fault(at, format!("this route cannot have the method {shown}"), help);
                }
            }
        }
        kept
    }

    pub(super) fn pattern(&mut self, path: &str, at: &At, limits: &LimitsPlan) -> Option<Pattern> {
        match pattern::parse(path) {
            Ok(pattern) if pattern.segments > limits.path_segments => {
                let message = format!("the route can never be reached: a path has at most {} segments", limits.path_segments);
                self.fault(at, message, "raise limits.path_segments".to_owned());
                None
            }
            Ok(pattern) => Some(pattern),
            Err(_) if self.is_hidden(at) => {
                self.fault(at, "with the given values filled in, this is no valid path", None);
                None
            }
            Err((message, help)) => {
                self.fault(at, message, help);
                None
            }
        }
    }

    fn conditions(&mut self, map: &MatchMap, at: &At) -> (Option<String>, Conditions) {
        if let Some(help) = map.host.as_deref().and_then(http::host_fault) {
            let message = format!("{} is no host", self.shown(&at.key("host")));
            self.fault(&at.key("host"), message, help.to_owned());
        }
        let mut headers: BTreeMap<String, Option<String>> = BTreeMap::new();
        for (name, Word(value)) in &map.headers {
            let at = at.key("headers").key(name);
            if !http::is_token(name) {
                self.key_fault(&at, format!("'{name}' is no name for an HTTP header"), None);
            }
            if !http::is_field_value(value) {
                self.fault(&at, "the route can never be reached: no HTTP header has this value", None);
            }
            let condition = (value != ANY).then(|| value.clone());
            if headers.insert(name.to_ascii_lowercase(), condition).is_some() {
                self.key_fault(
                    &at,
                    format!("the header '{name}' is given twice, in another case"),
                    "keep one of them".to_owned(),
                );
            }
        }
        (map.host.as_ref().map(|host| host.to_ascii_lowercase()), headers.into_iter().collect())
    }

    fn listeners_of(&mut self, given: Option<&OneOrMany>, at: &At) -> Vec<String> {
        let root = At::root().key("listeners");
        let Some(given) = given else {
            if self.tree.get(at).is_some() {
                return Vec::new();
            }
            return self.written(&root).unwrap_or_default().into_iter().map(str::to_owned).collect();
        };
        let names = given.names();
        if names.is_empty() {
            let help = "name a listener, or leave the key out for all".to_owned();
            self.fault(at, "the route can never be reached: its list of listeners is empty", help);
        }
        let is_list = matches!(given, OneOrMany::Many(_));
        let mut kept: Vec<String> = Vec::new();
        for (element, name) in self.kept(at).zip(names) {
            let at = if is_list { element } else { at.clone() };
            if self.known(&name, "listener", &root, &at) && !kept.contains(&name) {
                kept.push(name);
            }
        }
        kept
    }

    /// Reports a route that takes the same requests as one before it. Which of the two answers would be left to chance.
    fn claim(&mut self, matched: &Matched, listeners: &[String], at: &At, claims: &mut Claims) {
        if let Some((method, line)) = self.taken(matched, listeners, at, claims) {
            let message = format!("the route can never be reached: {method} on this path goes to the route in line {line}");
            self.fault(&at.key("match"), message, "remove one of the two, or tell them apart by host or headers".to_owned());
        }
    }

    /// A location is a GET route of its own, with the listeners and the host of its exchange, whatever the headers.
    fn claim_location(&mut self, location: &LocationPlan, matched: &Matched, listeners: &[String], at: &At, claims: &mut Claims) {
        let pattern = pattern::parse(&location.pattern).ok();
        let (methods, host) = (vec!["GET".to_owned()], matched.host.clone());
        let own = Matched { methods, path: location.pattern.clone(), pattern, host, headers: Conditions::new() };
        if let Some((_, line)) = self.taken(&own, listeners, at, claims) {
            let message = format!("the location can never be reached: GET on this path goes to the route in line {line}");
            let at = at.key("exchange").key("async").key("location");
            self.fault(&at, message, "give each a path of its own".to_owned());
        }
    }

    /// Notes who takes such requests. A method that somebody takes already, and the line of that route.
    fn taken(&self, matched: &Matched, listeners: &[String], at: &At, claims: &mut Claims) -> Option<(String, usize)> {
        let pattern = matched.pattern.as_ref()?;
        let mut first: Option<(String, At)> = None;
        for method in &matched.methods {
            let claim = (method.clone(), matched.host.clone(), matched.headers.clone(), pattern.shape.clone());
            let takers = claims.entry(claim).or_default();
            let overlaps = |taken: &[String]| taken.iter().any(|name| listeners.contains(name));
            match takers.iter().find(|(_, taken)| overlaps(taken)) {
                Some((taker, _)) => first = first.or_else(|| Some((method.clone(), taker.clone()))),
                None => takers.push((at.clone(), listeners.to_vec())),
            }
        }
        first.map(|(method, taker)| (method, self.tree.key_span(&taker).line))
    }
}

impl OneOrMany {
    fn names(&self) -> Vec<String> {
        match self {
            OneOrMany::One(name) => vec![name.clone()],
            OneOrMany::Many(names) => names.clone(),
        }
    }
}
