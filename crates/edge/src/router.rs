//! The routing table: from a request head to a route and its parameters. Pure.
//!
//! A table exists per host and method. Within one, plain routes live in a `matchit` tree; routes with header conditions, with
//! several parameters in a segment, and the few patterns that such a tree cannot hold beside each other (`/a/{id}` and
//! `/a/{*rest}`), are tried one by one, best first.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::limits::Limits;
use crate::params::Params;
use crate::path::{self, ENCODED_SLASH, PathFault};
use crate::pattern::{Pattern, RouteError};

/// A header that must be there, with the given value if there is one.
pub type HeaderCondition = (HeaderName, Option<HeaderValue>);

/// Which requests a route is for.
#[derive(Clone, Debug, Default)]
pub struct RouteMatch {
    /// Any method if empty. `GET` also answers `HEAD` (RFC 9110 section 9.3.2).
    pub methods: Vec<Method>,
    /// A pattern such as `/items/{id}` or `/files/{*rest}`, with decoded text.
    pub path: String,
    /// A host without port; any if absent.
    pub host: Option<String>,
    /// Headers that must be there, some with one of their values given.
    pub headers: Vec<HeaderCondition>,
}

/// What the table says about a request.
#[derive(Debug)]
pub enum Routed<'a, T> {
    /// A route answers it.
    Found {
        /// What was stored with the route.
        route: &'a T,
        /// The decoded parameters of its path.
        params: Params,
    },
    /// No route has this path: `404`.
    NotFound,
    /// Routes have this path, for other methods: `405`.
    MethodNotAllowed {
        /// For the `Allow` header (RFC 9110 section 10.2.1).
        allow: String,
    },
    /// `OPTIONS` on a path that has routes, none of them for `OPTIONS`; or `OPTIONS *`: `204`.
    Options {
        /// For the `Allow` header.
        allow: String,
    },
    /// The path itself is at fault: [`PathFault::status`].
    BadPath(PathFault),
}

/// The routing table.
#[derive(Debug)]
pub struct Router<T> {
    routes: Vec<(Route, T)>,
    hosts: HashMap<String, Host>,
    general: Host,
    uri_bytes_max: usize,
    path_segments_max: usize,
}

#[derive(Debug)]
struct Route {
    condition: RouteMatch,
    pattern: Pattern,
}

/// The tables of one host.
#[derive(Debug, Default)]
struct Host {
    methods: Vec<(Method, Table)>,
    /// For methods that no route of the host names.
    any: Table,
}

/// The routes of one host and method; numbers are positions in `Router::routes`.
#[derive(Debug, Default)]
struct Table {
    tree: matchit::Router<usize>,
    /// Best first.
    others: Vec<Other>,
}

/// A route beside the tree.
#[derive(Debug)]
struct Other {
    at: usize,
    /// [`Pattern::prefix`], which spares most requests for other routes the rest of the look.
    prefix: String,
    alone: matchit::Router<()>,
}

impl<T> Router<T> {
    /// Builds a table with the default `uri_bytes` and `path_segments` of [`Limits`].
    ///
    /// # Errors
    /// If a pattern is wrong or two routes answer the same requests.
    pub fn build(routes: Vec<(RouteMatch, T)>) -> Result<Self, RouteError> {
        let mut parsed = Vec::with_capacity(routes.len());
        for (mut condition, value) in routes {
            let pattern = Pattern::parse(&condition.path)?;
            condition.host = condition.host.map(|host| without_port(&host).to_ascii_lowercase());
            condition.headers.sort_by(|a, b| (a.0.as_str(), &a.1).cmp(&(b.0.as_str(), &b.1)));
            condition.headers.dedup();
            parsed.push((Route { condition, pattern }, value));
        }
        let of_host = |host: Option<&str>| -> Result<Host, RouteError> {
            let routes = parsed.iter().enumerate().map(|(at, (route, _))| (at, route));
            Host::build(&routes.filter(|(_, route)| route.condition.host.as_deref() == host).collect::<Vec<_>>())
        };
        let general = of_host(None)?;
        let mut hosts = HashMap::new();
        for host in parsed.iter().filter_map(|(route, _)| route.condition.host.clone()) {
            if let Entry::Vacant(place) = hosts.entry(host) {
                let tables = of_host(Some(place.key()))?;
                place.insert(tables);
            }
        }
        let Limits { uri_bytes, path_segments, .. } = Limits::default();
        Ok(Self { routes: parsed, hosts, general, uri_bytes_max: uri_bytes, path_segments_max: path_segments })
    }

    /// Sets `uri_bytes` and `path_segments`.
    #[must_use]
    pub fn with_limits(mut self, limits: &Limits) -> Self {
        self.uri_bytes_max = limits.uri_bytes;
        self.path_segments_max = limits.path_segments;
        self
    }

    /// Finds the route of a request. Routes of the request's host come before general ones, the narrower pattern before the wider,
    /// more header conditions before fewer, a named method before any.
    pub fn route(&self, head: &Parts) -> Routed<'_, T> {
        if head.uri.path_and_query().map_or(0, |target| target.as_str().len()) > self.uri_bytes_max {
            return Routed::BadPath(PathFault::TooLong);
        }
        let own_host = if self.hosts.is_empty() { None } else { host_of(head).and_then(|host| self.host(host)) };
        let hosts = own_host.into_iter().chain([&self.general]);
        if head.uri.path() == "*" && head.method == Method::OPTIONS {
            return Routed::Options { allow: allow(hosts.flat_map(|host| host.methods.iter().map(|(method, _)| method))) };
        }
        let path = match path::decode(head.uri.path(), self.path_segments_max) {
            Ok(path) => path,
            Err(fault) => return Routed::BadPath(fault),
        };
        for host in hosts.clone() {
            let table = host.methods.iter().find(|(method, _)| *method == head.method).map_or(&host.any, |(_, table)| table);
            if let Some((at, params)) = table.find(&path, &head.headers, &self.routes) {
                return Routed::Found { route: &self.routes[at].1, params };
            }
        }
        let mut known = hosts
            .flat_map(|host| &host.methods)
            .filter(|(_, table)| table.find(&path, &head.headers, &self.routes).is_some())
            .map(|(method, _)| method)
            .peekable();
        if known.peek().is_none() {
            return Routed::NotFound;
        }
        match head.method {
            Method::OPTIONS => Routed::Options { allow: allow(known) },
            _ => Routed::MethodNotAllowed { allow: allow(known) },
        }
    }

    fn host(&self, name: &str) -> Option<&Host> {
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.hosts.get(&name.to_ascii_lowercase());
        }
        self.hosts.get(name)
    }
}

impl Host {
    fn build(routes: &[(usize, &Route)]) -> Result<Self, RouteError> {
        let mut methods: Vec<Method> = Vec::new();
        for method in routes.iter().flat_map(|(_, route)| &route.condition.methods) {
            let with_head = (*method == Method::GET).then_some(&Method::HEAD);
            for method in [method].into_iter().chain(with_head) {
                if !methods.contains(method) {
                    methods.push(method.clone());
                }
            }
        }
        let tables = methods.into_iter().map(|method| Ok((method.clone(), Table::build(routes, Some(&method))?)));
        Ok(Self { methods: tables.collect::<Result<_, RouteError>>()?, any: Table::build(routes, None)? })
    }
}

/// How directly a route names a method; the smaller wins.
fn directness(methods: &[Method], method: Option<&Method>) -> Option<u8> {
    match method {
        Some(method) if methods.contains(method) => Some(0),
        Some(&Method::HEAD) if methods.contains(&Method::GET) => Some(1),
        _ => methods.is_empty().then_some(2),
    }
}

impl Table {
    fn build(routes: &[(usize, &Route)], method: Option<&Method>) -> Result<Self, RouteError> {
        let relevant = routes.iter().filter_map(|&(at, route)| Some((directness(&route.condition.methods, method)?, at, route)));
        let mut candidates: Vec<(u8, usize, &Route)> = relevant.collect();
        candidates
            .sort_by_key(|&(direct, at, route)| (&route.pattern.specificity, Reverse(route.condition.headers.len()), direct, at));
        let mut table = Self::default();
        let mut placed: HashMap<(&str, &[HeaderCondition]), (u8, usize)> = HashMap::new();
        for (direct, at, route) in candidates {
            let headers = route.condition.headers.as_slice();
            match placed.get(&(route.pattern.normal.as_str(), headers)) {
                Some(&(earlier, first)) if earlier == direct => {
                    let method = method.map_or("*", Method::as_str).into();
                    return Err(RouteError::Duplicate { method, path: route.condition.path.clone(), first, second: at });
                }
                // A route that names the method more directly stands before it.
                Some(_) => continue,
                None => placed.insert((&route.pattern.normal, headers), (direct, at)),
            };
            let Pattern { skeleton, prefix, .. } = &route.pattern;
            if headers.is_empty() && !route.pattern.is_split() && table.tree.insert(skeleton.as_str(), at).is_ok() {
                continue;
            }
            let mut alone = matchit::Router::new();
            alone
                .insert(skeleton.as_str(), ())
                .map_err(|error| RouteError::Pattern { path: route.condition.path.clone(), cause: error.to_string() })?;
            table.others.push(Other { at, prefix: prefix.clone(), alone });
        }
        Ok(table)
    }

    fn find<T>(&self, path: &str, headers: &HeaderMap, routes: &[(Route, T)]) -> Option<(usize, Params)> {
        let pattern = |at: usize| &routes[at].0.pattern;
        let plain = self.tree.at(path).ok().map(|found| (*found.value, found.params));
        let other = self
            .others
            .iter()
            .filter(|other| path.starts_with(&other.prefix))
            .take_while(|other| {
                plain.as_ref().is_none_or(|(plain, _)| pattern(other.at).specificity <= pattern(*plain).specificity)
            })
            .filter(|other| routes[other.at].0.condition.headers.iter().all(|condition| holds(condition, headers)))
            .find_map(|other| {
                let found = other.alone.at(path).ok()?.params;
                let fits = !pattern(other.at).is_split() || pattern(other.at).split(&found).is_some();
                fits.then_some((other.at, found))
            });
        let (at, found) = other.or(plain)?;
        let names = &pattern(at).names;
        if pattern(at).is_split() {
            return Some((at, Params::new(names, pattern(at).split(&found)?.into_iter(), path.len(), ENCODED_SLASH)));
        }
        Some((at, Params::new(names, found.iter().map(|(_, value)| value), path.len(), ENCODED_SLASH)))
    }
}

fn holds((name, value): &HeaderCondition, headers: &HeaderMap) -> bool {
    match value {
        None => headers.contains_key(name),
        Some(value) => headers.get_all(name).iter().any(|given| given == value),
    }
}

/// The host that was asked for: of the target (absolute form, HTTP/2 `:authority`) before the header (RFC 9112 section 3.2.2).
fn host_of(head: &Parts) -> Option<&str> {
    let host = match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => head.headers.get(HOST)?.to_str().ok()?,
    };
    Some(without_port(host))
}

fn without_port(host: &str) -> &str {
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let name = match host.rsplit_once(':') {
        // `[::1]:80`, but not `[::1]` and not a bare `::1`.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && (name.ends_with(']') || !name.contains(':')) => {
            name
        }
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

fn allow<'a>(methods: impl Iterator<Item = &'a Method>) -> String {
    let mut names: Vec<&str> = methods.map(Method::as_str).chain(["OPTIONS"]).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests;
