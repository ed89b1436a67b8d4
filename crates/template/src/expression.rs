//! From the inside of one `${...}` to an [`Expression`].

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::common::types::CelString;
use cel::{Context, Env, ExecutionError, ParseErrors, Value};

use crate::variable::nearest;
use crate::{CompileError, Variable};

/// Deepest nesting of `all`, `exists`, `map`, `filter`: each level multiplies the work of an evaluation.
pub const COMPREHENSION_DEPTH_MAX: usize = 2;

/// CEL's own names that stand for a type.
const TYPES: [&str; 12] =
    ["bool", "bytes", "double", "dyn", "duration", "int", "list", "map", "null_type", "string", "timestamp", "uint"];
/// What a misspelt function is compared with.
const FUNCTIONS: [&str; 16] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "string",
    "int",
    "uint",
    "double",
    "bytes",
    "bool",
    "type",
    "has",
    "all",
    "exists",
    "map",
    "filter",
];

pub(crate) static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

#[derive(Debug)]
pub(crate) struct Expression {
    pub source: String,
    pub kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// Read straight from the scope.
    Direct(Direct),
    /// Evaluated by CEL, with these variables in its context.
    Cel { ast: Box<IdedExpr>, variables: BTreeSet<Variable>, json: bool },
}

/// The short forms that need no evaluation.
#[derive(Debug, PartialEq)]
pub(crate) enum Direct {
    Param(String),
    Query(String),
    Header(String),
    Identity,
    IdempotencyKey,
    CorrelationId,
    MessageKey,
    MessageHeader(String),
}

pub(crate) struct Compiled {
    pub expression: Expression,
    pub params: BTreeSet<String>,
    pub variables: BTreeSet<Variable>,
}

/// Compiles `source`, which begins at byte `at` of the template's text.
pub(crate) fn compile(source: &str, at: usize, allowed: &[Variable]) -> Result<Compiled, CompileError> {
    let fault = |at: usize, message: String, help: Option<String>| CompileError { at, message, help };
    if source.trim().is_empty() {
        return Err(fault(at, "the expression is empty".into(), Some(allowed_names(allowed))));
    }
    // The parser of this CEL version has been seen to panic on malformed input.
    let parsed = catch_unwind(AssertUnwindSafe(|| ENVIRONMENT.parser().parse(source)));
    let mut ast = match parsed {
        Ok(Ok(ast)) => ast,
        Ok(Err(errors)) => {
            let (offset, message) = first_error(&errors, source);
            return Err(fault(at + offset, message, None));
        }
        Err(_) => return Err(fault(at, "the expression is not valid CEL".into(), None)),
    };
    let mut walk = Walk { allowed, bound: Vec::new(), found: Found::default() };
    if let Err((message, help)) = walk.visit(&mut ast) {
        return Err(fault(at, message, help));
    }
    let Found { params, variables, json, .. } = walk.found;
    let kind = match direct(&ast) {
        Some(direct) => Kind::Direct(direct),
        None => Kind::Cel { ast: Box::new(ast), variables: variables.clone(), json },
    };
    let expression = Expression { source: source.trim().to_owned(), kind };
    Ok(Compiled { expression, params, variables })
}

/// The first fault the parser found: its offset in `source` and its text without the list of token names.
fn first_error(errors: &ParseErrors, source: &str) -> (usize, String) {
    let Some(error) = errors.errors.first() else {
        return (0, "the expression is not valid CEL".into());
    };
    let (line, column) = (error.pos.0.max(1) as usize, error.pos.1.max(1) as usize);
    let line_start: usize = source.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let in_line: usize = source[line_start..].chars().take(column - 1).map(char::len_utf8).sum();
    let text = error.msg.trim_start_matches("Syntax error: ");
    let text = text.split(" expecting").next().unwrap_or(text).replace("'<EOF>'", "the end");
    (line_start + in_line, format!("not valid CEL: {text}"))
}

fn direct(ast: &IdedExpr) -> Option<Direct> {
    if let Expr::Ident(name) = &ast.expr {
        return match Variable::from_name(name)? {
            Variable::IdempotencyKey => Some(Direct::IdempotencyKey),
            Variable::CorrelationId => Some(Direct::CorrelationId),
            _ => None,
        };
    }
    let (operand, name) = member(&ast.expr)?;
    if let Expr::Ident(root) = operand {
        return match (Variable::from_name(root)?, name) {
            (Variable::Params, name) => Some(Direct::Param(name.to_owned())),
            (Variable::Query, name) => Some(Direct::Query(name.to_owned())),
            (Variable::Headers, name) => Some(Direct::Header(name.to_owned())),
            (Variable::Guard, "identity") => Some(Direct::Identity),
            (Variable::Message, "key") => Some(Direct::MessageKey),
            _ => None,
        };
    }
    match member(operand)? {
        (Expr::Ident(root), "headers") if root == Variable::Message.name() => Some(Direct::MessageHeader(name.to_owned())),
        _ => None,
    }
}

/// `x.name` or `x['name']`, taken apart.
fn member(expr: &Expr) -> Option<(&Expr, &str)> {
    match expr {
        Expr::Select(select) if !select.test => Some((&select.operand.expr, &select.field)),
        Expr::Call(call) if call.func_name == operators::INDEX && call.target.is_none() => match call.args.as_slice() {
            [operand, IdedExpr { expr: Expr::Literal(LiteralValue::String(name)), .. }] => Some((&operand.expr, name.inner())),
            _ => None,
        },
        _ => None,
    }
}

#[derive(Default)]
struct Found {
    params: BTreeSet<String>,
    variables: BTreeSet<Variable>,
    json: bool,
    depth: usize,
}

/// Visits every node once: collects what is used, refuses what is unknown, lower-cases the names of request headers.
struct Walk<'a> {
    allowed: &'a [Variable],
    /// Names that the comprehensions around the node bring.
    bound: Vec<String>,
    found: Found,
}

type Refusal = (String, Option<String>);

impl Walk<'_> {
    fn visit(&mut self, node: &mut IdedExpr) -> Result<(), Refusal> {
        self.note_member(&mut node.expr);
        match &mut node.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) => self.visit(&mut select.operand),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => list.elements.iter_mut().try_for_each(|e| self.visit(e)),
            Expr::Map(map) => map.entries.iter_mut().try_for_each(|e| self.entry(&mut e.expr)),
            Expr::Struct(st) => Err((format!("there is no message type '{}'", st.type_name), None)),
            Expr::Comprehension(comp) => {
                self.visit(&mut comp.iter_range)?;
                self.visit(&mut comp.accu_init)?;
                if self.found.depth == COMPREHENSION_DEPTH_MAX {
                    let message = format!("at most {COMPREHENSION_DEPTH_MAX} of all, exists, map, filter may be nested");
                    return Err((message, None));
                }
                let before = self.bound.len();
                self.bound.extend([comp.iter_var.clone(), comp.accu_var.clone()]);
                self.bound.extend(comp.iter_var2.clone());
                self.found.depth += 1;
                let inner = [&mut comp.loop_cond, &mut comp.loop_step, &mut comp.result];
                let outcome = inner.into_iter().try_for_each(|e| self.visit(e));
                self.found.depth -= 1;
                self.bound.truncate(before);
                outcome
            }
        }
    }

    fn entry(&mut self, entry: &mut EntryExpr) -> Result<(), Refusal> {
        match entry {
            EntryExpr::StructField(field) => self.visit(&mut field.value),
            EntryExpr::MapEntry(entry) => {
                self.visit(&mut entry.key)?;
                self.visit(&mut entry.value)
            }
        }
    }

    fn call(&mut self, call: &mut CallExpr) -> Result<(), Refusal> {
        let is_operator =
            call.func_name.contains(|c: char| !c.is_ascii_alphanumeric() && c != '_') || call.func_name.starts_with('_');
        // `optional.of(x)`: what looks like a variable is the first part of a function's name.
        let namespace = call.target.as_ref().and_then(|target| match &target.expr {
            Expr::Ident(name) if Variable::from_name(name).is_none() && !self.bound.contains(name) => Some(name.clone()),
            _ => None,
        });
        let probe = match (&namespace, &call.target) {
            (Some(namespace), _) => format!("{namespace}.{}()", call.func_name),
            (None, Some(_)) => format!("''.{}()", call.func_name),
            (None, None) => format!("{}()", call.func_name),
        };
        if !is_operator && !is_declared(&probe) {
            if let Some(namespace) = &namespace {
                self.ident(namespace)?;
            }
            let help = nearest(&call.func_name, FUNCTIONS).map(|name| format!("did you mean '{name}'?"));
            return Err((format!("there is no function '{}'", call.func_name), help));
        }
        if let (None, Some(target)) = (namespace, &mut call.target) {
            self.visit(target)?;
        }
        call.args.iter_mut().try_for_each(|arg| self.visit(arg))
    }

    fn ident(&mut self, name: &str) -> Result<(), Refusal> {
        if self.bound.iter().any(|bound| bound == name) || TYPES.contains(&name) {
            return Ok(());
        }
        match Variable::from_name(name) {
            Some(variable) if self.allowed.contains(&variable) => {
                self.found.variables.insert(variable);
                Ok(())
            }
            Some(_) => Err((format!("'{name}' is not available here"), Some(allowed_names(self.allowed)))),
            None => {
                let guess = nearest(name, self.allowed.iter().map(|v| v.name()));
                let guess = guess.map(|name| format!("did you mean '{name}'? ")).unwrap_or_default();
                Err((format!("unknown variable '{name}'"), Some(format!("{guess}{}", allowed_names(self.allowed)))))
            }
        }
    }

    fn note_member(&mut self, expr: &mut Expr) {
        let is_bound = |bound: &[String], root: &String| bound.contains(root);
        // `has(params.x)` names a parameter too, though it is no member access to CEL.
        let (root, name) = match &*expr {
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(root) => (root, select.field.as_str()),
                _ => return,
            },
            other => match member(other) {
                Some((Expr::Ident(root), name)) => (root, name),
                _ => return,
            },
        };
        if is_bound(&self.bound, root) {
            return;
        }
        match Variable::from_name(root) {
            Some(Variable::Params) => {
                self.found.params.insert(name.to_owned());
            }
            Some(Variable::Message) if name == "json" => self.found.json = true,
            Some(Variable::Headers) => {
                let lower = name.to_ascii_lowercase();
                match expr {
                    Expr::Select(select) => select.field = lower,
                    Expr::Call(call) => {
                        if let Some(IdedExpr { expr: Expr::Literal(literal), .. }) = call.args.get_mut(1) {
                            *literal = LiteralValue::String(CelString::from(lower));
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// Whether CEL knows the function that `probe` calls without arguments: only an unknown one is an undeclared reference.
fn is_declared(probe: &str) -> bool {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let ast = ENVIRONMENT.parser().parse(probe).ok()?;
        Some(Value::resolve(&ast, &Context::with_env(Arc::clone(&ENVIRONMENT))))
    }));
    !matches!(outcome, Ok(Some(Err(ExecutionError::UndeclaredReference(_)))) | Err(_))
}

fn allowed_names(allowed: &[Variable]) -> String {
    if allowed.is_empty() {
        return "this text takes no variables".into();
    }
    let names: Vec<&str> = allowed.iter().map(|v| v.name()).collect();
    format!("available here: {}", names.join(", "))
}
