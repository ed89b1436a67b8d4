//! From text to a [`Template`].

use std::borrow::Cow;
use std::collections::BTreeSet;

use thiserror::Error;

use crate::expression::{self, Expression};
use crate::render::{self, RenderError};
use crate::scan::{self, Piece, ScanError};
use crate::{Scope, Variable};

/// Longest text of one template, in bytes.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;
/// Most `${...}` in one template.
pub const EXPRESSIONS_MAX: usize = 64;

/// A text with `${...}` parts, ready to be rendered.
#[derive(Debug)]
pub struct Template {
    source: String,
    pub(crate) parts: Vec<Part>,
    params: BTreeSet<String>,
    variables: BTreeSet<Variable>,
}

#[derive(Debug)]
pub(crate) enum Part {
    Literal(String),
    Expression(Expression),
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct CompileError {
    /// Byte offset in the text.
    pub at: usize,
    pub message: String,
    pub help: Option<String>,
}

impl From<ScanError> for CompileError {
    fn from(ScanError { at, message, help }: ScanError) -> Self {
        CompileError { at, message, help }
    }
}

impl Template {
    /// Compiles `text`, whose expressions may use the `allowed` variables.
    pub fn compile(text: &str, allowed: &[Variable]) -> Result<Template, CompileError> {
        if text.len() > TEXT_BYTES_MAX {
            let message = format!("the text has {} bytes; a template has at most {TEXT_BYTES_MAX}", text.len());
            return Err(CompileError { at: 0, message, help: None });
        }
        let mut template =
            Template { source: text.to_owned(), parts: Vec::new(), params: BTreeSet::new(), variables: BTreeSet::new() };
        for (index, piece) in scan::pieces(text)?.into_iter().enumerate() {
            match piece {
                Piece::Literal(literal) => template.push_literal(literal),
                Piece::Expression { at, .. } if index >= 2 * EXPRESSIONS_MAX => {
                    let message = format!("a template has at most {EXPRESSIONS_MAX} expressions");
                    return Err(CompileError { at, message, help: None });
                }
                Piece::Expression { at, source } => {
                    let compiled = expression::compile(source, at, allowed)?;
                    template.params.extend(compiled.params);
                    template.variables.extend(compiled.variables);
                    template.parts.push(Part::Expression(compiled.expression));
                }
            }
        }
        if template.parts.is_empty() {
            template.parts.push(Part::Literal(String::new()));
        }
        Ok(template)
    }

    fn push_literal(&mut self, literal: &str) {
        match self.parts.last_mut() {
            Some(Part::Literal(last)) => last.push_str(literal),
            _ => self.parts.push(Part::Literal(literal.to_owned())),
        }
    }

    /// The text, when nothing in it depends on the request.
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The text as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The names used as `params.NAME` or `params['NAME']`.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.params.iter().map(String::as_str)
    }

    pub fn uses(&self, variable: Variable) -> bool {
        self.variables.contains(&variable)
    }

    /// The text for one request.
    pub fn render<'a>(&'a self, scope: &'a dyn Scope) -> Result<Cow<'a, str>, RenderError> {
        render::render(&self.parts, scope)
    }
}
