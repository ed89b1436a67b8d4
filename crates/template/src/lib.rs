//! Text with `${...}` parts, compiled when the configuration is loaded and rendered once per request.
//!
//! The inside of `${...}` is a CEL expression over the [`Variable`]s that its place allows. `$${` stands for a
//! literal `${`. The usual short forms (`params.id`, `headers['x-user']`, `idempotencyKey`, ...) are recognised at
//! compile time and rendered straight from the [`Scope`], without a CEL evaluation.
//!
//! This crate knows neither HTTP nor Kafka nor the configuration file: a request and a record are what
//! [`Scope`] and [`Message`] show of them.

mod compile;
mod expression;
mod render;
mod scan;
mod scope;
mod variable;

pub use compile::{CompileError, EXPRESSIONS_MAX, TEXT_BYTES_MAX, Template};
pub use expression::COMPREHENSION_DEPTH_MAX;
pub use render::{Blame, RENDERED_BYTES_MAX, RenderError};
pub use scan::{EXPRESSION_DEPTH_MAX, EXPRESSION_TOKENS_MAX};
pub use scope::{Message, Scope};
pub use variable::Variable;

#[cfg(test)]
mod tests;
