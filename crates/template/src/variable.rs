//! The names an expression may use.

/// A root name of an expression. Which ones make sense depends on the place of the template: a record's topic cannot
/// depend on the record, for example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Variable {
    /// `params.NAME`: a part of the path that the route's pattern names.
    Params,
    /// `query.NAME`: the first query parameter of that name, decoded.
    Query,
    /// `headers['NAME']`: a request header; its name in any case.
    Headers,
    /// `guard.identity` and `guard.claims`: who asks.
    Guard,
    /// `idempotencyKey`: the request's `Idempotency-Key`.
    IdempotencyKey,
    /// `correlationId`: what ties a reply to its request.
    CorrelationId,
    /// `message`: a record, with `key`, `value`, `json`, `headers`, `topic`, `partition`, `offset`, `timestamp`
    /// (milliseconds since the epoch).
    Message,
}

impl Variable {
    pub const ALL: [Variable; 7] = [
        Variable::Params,
        Variable::Query,
        Variable::Headers,
        Variable::Guard,
        Variable::IdempotencyKey,
        Variable::CorrelationId,
        Variable::Message,
    ];

    /// The name as an expression spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Variable::Params => "params",
            Variable::Query => "query",
            Variable::Headers => "headers",
            Variable::Guard => "guard",
            Variable::IdempotencyKey => "idempotencyKey",
            Variable::CorrelationId => "correlationId",
            Variable::Message => "message",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Variable> {
        Variable::ALL.into_iter().find(|v| v.name() == name)
    }
}

/// The candidate most like `name`, if one is near enough to be what was meant. Case, `-` and `_` make no difference.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.replace(['-', '_'], "").to_lowercase();
    let wanted = plain(name);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
