//! The tree a YAML text stands for, each node with its place.

use std::fmt;

use crate::secret::looks_secret;

/// A place: where a node begins, and how wide it is on its first line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    /// 0: the file; n: the override n - 1, which has neither line nor column.
    pub origin: usize,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// In characters, at least 1.
    pub width: usize,
    /// The last line of the node.
    pub line_end: usize,
}

impl Span {
    pub fn of_override(index: usize) -> Span {
        Span { origin: index + 1, ..Span::default() }
    }
}

#[derive(Clone)]
pub(crate) struct Node {
    pub span: Span,
    pub kind: Kind,
}

#[derive(Clone)]
pub(crate) enum Kind {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone)]
pub(crate) struct Entry {
    pub key: String,
    pub key_span: Span,
    pub value: Node,
}

/// A scalar keeps its text: what type it has depends on where it stands (a password `007` is no number).
#[derive(Clone)]
pub(crate) struct Scalar {
    pub raw: String,
    /// Unquoted: may be a number, a boolean or null.
    pub plain: bool,
    /// What to show instead of `raw`, when that came out of the environment or from an override.
    pub written: Option<String>,
    /// A problem has been reported already; whatever is made of it, no second one.
    pub spoiled: bool,
}

impl Scalar {
    pub fn new(raw: impl Into<String>, plain: bool) -> Scalar {
        Scalar { raw: raw.into(), plain, written: None, spoiled: false }
    }
}

/// The type of a plain scalar by the core schema of YAML 1.2 (section 10.3.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Typed {
    Null,
    Bool(bool),
    Int(i64),
    /// A number that is no `i64`.
    Number,
    Text,
}

impl Scalar {
    pub fn typed(&self) -> Typed {
        if !self.plain {
            return Typed::Text;
        }
        match self.raw.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => return Typed::Null,
            "true" | "True" | "TRUE" => return Typed::Bool(true),
            "false" | "False" | "FALSE" => return Typed::Bool(false),
            ".inf" | "+.inf" | "-.inf" | ".nan" => return Typed::Number,
            _ => {}
        }
        let unsigned = self.raw.strip_prefix(['-', '+']).unwrap_or(&self.raw);
        for (prefix, radix) in [("0x", 16), ("0o", 8)] {
            if let Some(digits) = self.raw.strip_prefix(prefix) {
                return i64::from_str_radix(digits, radix).map_or(Typed::Text, Typed::Int);
            }
        }
        let numeric = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
        if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') || !unsigned.chars().all(numeric) {
            return Typed::Text;
        }
        match (self.raw.parse::<i64>(), self.raw.parse::<f64>()) {
            (Ok(number), _) => Typed::Int(number),
            (_, Ok(_)) => Typed::Number,
            _ => Typed::Text,
        }
    }

    /// The scalar as a problem may show it: never what came out of the environment.
    pub fn shown(&self) -> String {
        match &self.written {
            Some(written) => written.clone(),
            None if self.raw.chars().count() > 80 => format!("'{}...'", self.raw.chars().take(77).collect::<String>()),
            None => format!("'{}'", self.raw),
        }
    }
}

impl Node {
    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.kind {
            Kind::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        self.scalar().is_some_and(|scalar| scalar.typed() == Typed::Null && !scalar.spoiled)
    }

    pub fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries().iter().map(|entry| entry.key.as_str())
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The value at `at`, unless it is absent or null.
    pub fn get(&self, at: &At) -> Option<&Node> {
        let mut node = self;
        for step in &at.0 {
            node = match (&node.kind, step) {
                (Kind::List(items), Step::Index(index)) => items.get(*index)?,
                (_, Step::Key(key)) => &node.entry(key)?.value,
                _ => return None,
            };
        }
        (!node.is_null()).then_some(node)
    }

    /// The place of the key that `at` leads to (of the element, for an index); of the nearest one around it when absent.
    pub fn key_span(&self, at: &At) -> Span {
        let (mut node, mut span) = (self, self.span);
        for step in &at.0 {
            match (&node.kind, step) {
                (Kind::List(items), Step::Index(index)) => match items.get(*index) {
                    Some(item) => (node, span) = (item, item.span),
                    None => return span,
                },
                (_, Step::Key(key)) => match node.entry(key) {
                    Some(entry) => (node, span) = (&entry.value, entry.key_span),
                    None => return span,
                },
                _ => return span,
            }
        }
        span
    }

    /// What kind of value it is, its text left out.
    pub fn kind(&self) -> &'static str {
        match &self.kind {
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
            Kind::Scalar(_) => "a single value",
        }
    }

    /// What a reader would call it, without showing what must not be shown.
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::List(_) => "a list".into(),
            Kind::Map(_) => "a map".into(),
            Kind::Scalar(scalar) if scalar.written.is_some() => scalar.shown(),
            Kind::Scalar(scalar) => match scalar.typed() {
                Typed::Null => "nothing".into(),
                Typed::Bool(truth) => truth.to_string(),
                Typed::Int(_) | Typed::Number => format!("the number {}", scalar.raw),
                Typed::Text => format!("the text {}", scalar.shown()),
            },
        }
    }
}

/// A way through the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct At(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Step {
    Key(String),
    Index(usize),
}

impl At {
    pub fn root() -> At {
        At::default()
    }

    pub fn key(&self, key: &str) -> At {
        self.with(Step::Key(key.to_owned()))
    }

    pub fn index(&self, index: usize) -> At {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> At {
        let mut steps = self.0.clone();
        steps.push(step);
        At(steps)
    }

    /// Whether this is the root or begins with the key `key`.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether what is there, or around it, must not be shown.
    pub fn is_secret(&self) -> bool {
        self.0.iter().any(|step| matches!(step, Step::Key(key) if looks_secret(key)))
    }

    pub fn last_key(&self) -> Option<&str> {
        self.0.iter().rev().find_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        })
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_are_typed() {
        for (raw, expected) in [
            ("", Typed::Null),
            ("null", Typed::Null),
            ("true", Typed::Bool(true)),
            ("off", Typed::Text),
            ("007", Typed::Int(7)),
            ("-3", Typed::Int(-3)),
            ("0x1F", Typed::Int(31)),
            ("1.5", Typed::Number),
            ("1e3", Typed::Number),
            ("99999999999999999999", Typed::Number),
            (".", Typed::Text),
            ("1.2.3", Typed::Text),
            ("127.0.0.1:80", Typed::Text),
            ("30s", Typed::Text),
            ("inf", Typed::Text),
            ("-", Typed::Text),
        ] {
            assert_eq!(Scalar::new(raw, true).typed(), expected, "{raw:?}");
            assert_eq!(Scalar::new(raw, false).typed(), Typed::Text, "{raw:?} in quotes");
        }
    }
}
