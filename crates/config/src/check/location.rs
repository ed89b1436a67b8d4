//! Where a reply may be fetched: a path made from `${params.NAME}` and one `${correlationId}`.

use template::CompileError;

use super::Checker;
use super::routes::Site;
use crate::names::did_you_mean;
use crate::node::At;
use crate::plan::{LimitsPlan, LocationPiece, LocationPlan};

impl Checker<'_> {
    pub(super) fn location(&mut self, text: &str, at: &At, site: &Site<'_>, limits: &LimitsPlan) -> Option<LocationPlan> {
        let pieces = match pieces(text, site) {
            Ok(pieces) => pieces,
            Err(error) => {
                self.template_fault(at, text, error);
                return None;
            }
        };
        let pattern = pieces.iter().map(|piece| match piece {
            LocationPiece::Text(text) => text.clone(),
            LocationPiece::Param(name) => format!("{{{name}}}"),
            LocationPiece::CorrelationId => format!("{{{}}}", LocationPlan::PARAM),
        });
        let pattern: String = pattern.collect();
        self.pattern(&pattern, at, limits)?;
        Some(LocationPlan { pattern, pieces })
    }
}

fn fault(at: usize, message: impl Into<String>, help: impl Into<String>) -> CompileError {
    CompileError { at, message: message.into(), help: Some(help.into()) }
}

/// The text in its pieces; what is wrong with it, and at which byte.
fn pieces(text: &str, site: &Site<'_>) -> Result<Vec<LocationPiece>, CompileError> {
    if !text.starts_with('/') {
        return Err(fault(0, "a location is an absolute path", "begin it with '/', as in /orders/${correlationId}"));
    }
    let mut pieces: Vec<LocationPiece> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let at = text.len() - rest.len();
        let Some(inner) = rest.strip_prefix("${") else {
            let (literal, after) = rest.split_at(rest.find("${").unwrap_or(rest.len()));
            if let Some(brace) = literal.find(['{', '}']) {
                return Err(fault(at + brace, "a location has no braces but those of ${...}", HELP));
            }
            pieces.push(LocationPiece::Text(literal.to_owned()));
            rest = after;
            continue;
        };
        let Some((inner, after)) = inner.split_once('}') else {
            return Err(fault(at, "this '${' has no '}'", HELP));
        };
        if !matches!(pieces.last(), Some(LocationPiece::Text(_))) {
            let message = "nothing stands between two expressions, so that a path could not be taken apart again";
            return Err(fault(at, message, "put some text between them, such as '/' or ';cid='"));
        }
        let piece = placeholder(inner.trim(), at, site)?;
        if splits_wrongly(&pieces, &piece) {
            let message = "from such a segment of a path, the correlation id could not be told with certainty";
            let help = "let ${correlationId} be the last of its segment, behind a text such as ';cid=' or '/'";
            return Err(fault(at, message, help));
        }
        pieces.push(piece);
        if pieces.iter().filter(|piece| **piece == LocationPiece::CorrelationId).count() > 1 {
            return Err(fault(at, "the location has more than one ${correlationId}", "keep one of them"));
        }
        rest = after;
    }
    match pieces.contains(&LocationPiece::CorrelationId) {
        true => Ok(pieces),
        false => Err(fault(0, "the location has no ${correlationId}", "add it, as in /orders/${correlationId}")),
    }
}

/// Whether, in a segment with several expressions, the token is not the last, or stands behind a text that could be a part of
/// itself: a path is taken apart from the right, at the last place where the text occurs.
fn splits_wrongly(before: &[LocationPiece], piece: &LocationPiece) -> bool {
    let [.., previous, LocationPiece::Text(between)] = before else { return false };
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match (previous, piece) {
        _ if between.contains('/') => false,
        (LocationPiece::CorrelationId, _) => true,
        (_, LocationPiece::CorrelationId) => between.chars().all(is_of_token),
        _ => false,
    }
}

const HELP: &str = "a location is made of text, ${params.NAME} and one ${correlationId}";

fn placeholder(inner: &str, at: usize, site: &Site<'_>) -> Result<LocationPiece, CompileError> {
    let is_name = |name: &&str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match inner.strip_prefix("params.").filter(is_name) {
        Some(name) => param(name, at, site),
        None if inner == LocationPlan::PARAM => Ok(LocationPiece::CorrelationId),
        None => Err(fault(at, format!("'{inner}' cannot stand in a location"), HELP)),
    }
}

fn param(name: &str, at: usize, site: &Site<'_>) -> Result<LocationPiece, CompileError> {
    let known = site.params();
    if let Some(params) = known.filter(|params| !params.iter().any(|param| param == name)) {
        let help = did_you_mean(name, "its parameters", params.iter().map(String::as_str));
        let help = help.unwrap_or_else(|| format!("write {{{name}}} into the path of the match"));
        return Err(fault(at, format!("the path has no parameter '{name}'"), help));
    }
    let is_rest = site.pattern.is_some_and(|pattern| pattern.rest() == Some(name));
    match is_rest {
        true => {
            let message = format!("'{{*{name}}}' may be several segments of the path, which a location could not be told by");
            Err(fault(at, message, "leave it out"))
        }
        false => Ok(LocationPiece::Param(name.to_owned())),
    }
}
