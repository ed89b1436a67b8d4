//! From a [`Template`](crate::Template) and a request to text.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::common::ast::IdedExpr;
use cel::objects::Key;
use cel::{Context, ExecutionError, Value};
use thiserror::Error;

use crate::compile::Part;
use crate::expression::{Direct, ENVIRONMENT, Expression, Kind};
use crate::scope::Pair;
use crate::{Message, Scope, Variable};

/// Longest result of a template that has to build one, in bytes.
pub const RENDERED_BYTES_MAX: usize = 1024 * 1024;

/// Why a template has no value for a request. The message never shows a value of the request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("${{{expression}}}: {message}")]
pub struct RenderError {
    pub expression: String,
    pub message: String,
    pub blame: Blame,
}

/// Who can mend a [`RenderError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The client: something the template needs is not in the request. Sending it again unchanged fails again.
    Request,
    /// The template's author, or the record that the template is about.
    Template,
}

type Fault = (Blame, String);

pub(crate) fn render<'a>(parts: &'a [Part], scope: &'a dyn Scope) -> Result<Cow<'a, str>, RenderError> {
    if let [only] = parts {
        return part(only, scope);
    }
    let mut text = String::new();
    for (index, one) in parts.iter().enumerate() {
        let piece = part(one, scope)?;
        if text.len() + piece.len() > RENDERED_BYTES_MAX {
            let expression = parts[..=index].iter().rev().find_map(Part::expression).unwrap_or_default();
            let message = format!("the result is longer than {RENDERED_BYTES_MAX} bytes");
            return Err(RenderError { expression, message, blame: Blame::Request });
        }
        text.push_str(&piece);
    }
    Ok(Cow::Owned(text))
}

impl Part {
    fn expression(&self) -> Option<String> {
        match self {
            Part::Literal(_) => None,
            Part::Expression(expression) => Some(expression.source.clone()),
        }
    }
}

fn part<'a>(part: &'a Part, scope: &'a dyn Scope) -> Result<Cow<'a, str>, RenderError> {
    match part {
        Part::Literal(text) => Ok(Cow::Borrowed(text)),
        Part::Expression(Expression { source, kind }) => match kind {
            Kind::Direct(direct) => read(direct, scope),
            Kind::Cel { ast, variables, json } => evaluate(ast, variables, *json, scope).map(Cow::Owned),
        }
        .map_err(|(blame, message)| RenderError { expression: source.clone(), message, blame }),
    }
}

fn read<'a>(direct: &'a Direct, scope: &'a dyn Scope) -> Result<Cow<'a, str>, Fault> {
    let missing = |what: String| (Blame::Request, format!("the request has no {what}"));
    match direct {
        Direct::Param(name) => scope.param(name).ok_or_else(|| missing(format!("path parameter '{name}'"))),
        Direct::Query(name) => scope.query(name).ok_or_else(|| missing(format!("query parameter '{name}'"))),
        Direct::Header(name) => scope.header(name).ok_or_else(|| missing(format!("header '{name}'"))),
        Direct::Identity => scope.identity().ok_or_else(|| missing("identity".into())),
        Direct::IdempotencyKey => scope.idempotency_key().ok_or_else(|| missing("idempotency key".into())),
        Direct::CorrelationId => scope.correlation_id().ok_or_else(|| missing("correlation id".into())),
        Direct::MessageKey => text(message(scope)?.key(), || "key".into()),
        Direct::MessageHeader(name) => text(message(scope)?.header(name), || format!("header '{name}'")),
    }
}

fn message(scope: &dyn Scope) -> Result<&dyn Message, Fault> {
    scope.message().ok_or_else(|| (Blame::Template, "there is no message here".into()))
}

fn text(bytes: Option<&[u8]>, what: impl Fn() -> String) -> Result<Cow<'_, str>, Fault> {
    let bytes = bytes.ok_or_else(|| (Blame::Template, format!("the message has no {}", what())))?;
    let text = std::str::from_utf8(bytes).map_err(|_| (Blame::Template, format!("the message's {} is not UTF-8", what())))?;
    Ok(Cow::Borrowed(text))
}

fn evaluate(ast: &IdedExpr, variables: &BTreeSet<Variable>, json: bool, scope: &dyn Scope) -> Result<String, Fault> {
    let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
    for variable in variables {
        context.add_variable_from_value(variable.name(), value_of(*variable, json, scope)?);
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| Value::resolve(ast, &context)));
    let value =
        outcome.map_err(|_| (Blame::Template, "the evaluation failed".to_owned()))?.map_err(|error| blame(&error, variables))?;
    let text = match value {
        Value::String(text) => Arc::unwrap_or_clone(text),
        Value::Int(number) => number.to_string(),
        Value::UInt(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Bytes(bytes) => String::from_utf8(Arc::unwrap_or_clone(bytes))
            .map_err(|_| (Blame::Template, "the result is bytes that are not UTF-8".to_owned()))?,
        other => {
            return Err((Blame::Template, format!("the result is a {}; text is needed", other.type_of())));
        }
    };
    if text.len() > RENDERED_BYTES_MAX {
        return Err((Blame::Request, format!("the result is longer than {RENDERED_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn value_of(variable: Variable, json: bool, scope: &dyn Scope) -> Result<Value, Fault> {
    let optional = |text: Option<Cow<'_, str>>| text.map_or(Value::Null, |text| Value::from(text.into_owned()));
    Ok(match variable {
        Variable::Params => map(scope.params()),
        Variable::Query => map(scope.queries()),
        Variable::Headers => map(scope.headers()),
        Variable::IdempotencyKey => optional(scope.idempotency_key()),
        Variable::CorrelationId => optional(scope.correlation_id()),
        Variable::Guard => {
            let claims: HashMap<Key, Value> = HashMap::new();
            let fields = [("identity", optional(scope.identity())), ("claims", Value::from(claims))];
            Value::from(HashMap::from(fields))
        }
        Variable::Message => message_value(message(scope)?, json)?,
    })
}

fn map(pairs: Vec<Pair<'_>>) -> Value {
    let mut map: HashMap<Key, Value> = HashMap::with_capacity(pairs.len());
    for (name, value) in pairs {
        map.entry(Key::from(name.into_owned())).or_insert_with(|| Value::from(value.into_owned()));
    }
    Value::from(map)
}

fn message_value(message: &dyn Message, json: bool) -> Result<Value, Fault> {
    let bytes = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => Value::from(bytes.to_vec()),
    };
    // Of equal names the last one stays, as `Message::header` has it.
    let headers: HashMap<Key, Value> =
        message.headers().into_iter().map(|(name, value)| (Key::from(name), bytes(value))).collect();
    let mut fields = HashMap::from([
        ("key", message.key().map_or(Value::Null, bytes)),
        ("value", message.value().map_or(Value::Null, bytes)),
        ("headers", Value::from(headers)),
        ("topic", Value::from(message.topic())),
        ("partition", Value::Int(message.partition().into())),
        ("offset", Value::Int(message.offset())),
        ("timestamp", Value::Int(message.timestamp_ms())),
    ]);
    if json {
        let parsed: serde_json::Value = serde_json::from_slice(message.value().unwrap_or(b"null"))
            .map_err(|_| (Blame::Template, "the message's value is not JSON".to_owned()))?;
        let value = cel::to_value(parsed).map_err(|_| (Blame::Template, "the message's value cannot be read".to_owned()))?;
        fields.insert("json", value);
    }
    Ok(Value::from(fields))
}

/// Who is to blame, in words that show no value of the request: CEL's own texts quote the operands.
fn blame(error: &ExecutionError, variables: &BTreeSet<Variable>) -> Fault {
    let message = match error {
        ExecutionError::NoSuchKey(name) => return missing(name, variables),
        ExecutionError::NoSuchOverload(overload) => overload.to_string(),
        ExecutionError::UndeclaredReference(name) => format!("there is no variable or function '{name}'"),
        ExecutionError::InvalidArgumentCount { expected, actual } => format!("{actual} arguments instead of {expected}"),
        ExecutionError::NotSupportedAsMethod { method, .. } => format!("'{method}' cannot be called on a value of this type"),
        ExecutionError::UnexpectedType { got, want } => format!("a {got} where a {want} is needed"),
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
            format!("'{operator}' takes no {} with a {}", left.type_of(), right.type_of())
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".into(),
        ExecutionError::Overflow(operator, ..) => format!("the result of '{operator}' is out of range"),
        ExecutionError::IndexOutOfBounds(_) => "the list has no such element".into(),
        ExecutionError::FunctionError { function, .. } => format!("the function '{function}' cannot take this value"),
        _ => "the values do not fit the operation".into(),
    };
    (Blame::Template, message)
}

fn missing(name: &str, variables: &BTreeSet<Variable>) -> Fault {
    let of_request: Vec<&str> = variables
        .iter()
        .filter_map(|v| match v {
            Variable::Params => Some("path parameter"),
            Variable::Query => Some("query parameter"),
            Variable::Headers => Some("header"),
            Variable::Guard => Some("claim"),
            _ => None,
        })
        .collect();
    match of_request.is_empty() {
        true => (Blame::Template, format!("the message has no '{name}'")),
        false => (Blame::Request, format!("the request has no {} '{name}'", of_request.join(" or "))),
    }
}
