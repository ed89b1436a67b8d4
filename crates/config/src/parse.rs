//! From YAML text to a tree. JSON is YAML, too.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Tag};

use crate::node::{Entry, Kind, Node, Scalar, Span};
use crate::problem::Report;

/// Longest configuration, in bytes.
pub const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Deepest nesting of lists and maps.
pub const DEPTH_MAX: usize = 64;
/// Most nodes of a document, those that aliases repeat included.
pub const NODES_MAX: usize = 200_000;

/// The tree of `text`, or `None` when there is none; faults are reported. An empty text is an empty map.
pub(crate) fn parse(text: &str, report: &mut Report) -> Option<Node> {
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("the configuration has {} bytes; at most {TEXT_BYTES_MAX} are read", text.len());
        report.add(Span { line: 1, column: 1, ..Span::default() }, message, None);
        return None;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // The scanner has places that panic on input its author thought impossible.
    let outcome = catch_unwind(AssertUnwindSafe(|| Builder::new(report, text).build(text)));
    match outcome {
        Ok(Ok(node)) => Some(node),
        Ok(Err(Stop)) => None,
        Err(_) => {
            report.add(Span { line: 1, column: 1, ..Span::default() }, "not valid YAML", None);
            None
        }
    }
}

/// Reading cannot go on; the reason has been reported.
struct Stop;

struct Builder<'r> {
    report: &'r mut Report,
    lines: Vec<&'r str>,
    open: Vec<Open>,
    root: Option<Node>,
    /// Anchored nodes with their number of nodes and their depth.
    anchors: HashMap<usize, (Node, usize, usize)>,
    nodes: usize,
    documents: usize,
}

/// A list or map that is being read.
struct Open {
    span: Span,
    anchor: usize,
    /// How many nodes there were before it.
    nodes_before: usize,
    /// The deepest level below it so far, counted from the root.
    deepest: usize,
    items: Items,
}

enum Items {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, seen: HashMap<String, Span>, key: Option<(String, Span)> },
}

impl<'r> Builder<'r> {
    fn new(report: &'r mut Report, text: &'r str) -> Self {
        Builder {
            report,
            lines: text.lines().collect(),
            open: Vec::new(),
            root: None,
            anchors: HashMap::new(),
            nodes: 0,
            documents: 0,
        }
    }

    fn build(mut self, text: &str) -> Result<Node, Stop> {
        for event in Parser::new_from_str(text) {
            match event {
                Ok((event, span)) => {
                    let span = self.place_of(span);
                    self.event(event, span)?;
                }
                Err(error) => return Err(self.scan_error(&error, text)),
            }
        }
        let start = Span { line: 1, column: 1, width: 1, line_end: 1, origin: 0 };
        match self.root {
            Some(node) if !node.is_null() => Ok(node),
            _ => Ok(Node { span: start, kind: Kind::Map(Vec::new()) }),
        }
    }

    fn scan_error(&mut self, error: &ScanError, text: &str) -> Stop {
        let mark = error.marker();
        let last = text.lines().count().max(1);
        let span = Span { line: mark.line().clamp(1, last), column: mark.col() + 1, width: 1, ..Span::default() };
        let line = text.lines().nth(span.line - 1).unwrap_or_default();
        let in_braces = line.matches('{').count() > 1;
        let help =
            in_braces.then(|| "within { }, a text that has braces itself (/items/{id}, ${...}) must stand in quotes".to_owned());
        self.report.add(span, format!("not valid YAML: {}", error.info()), help);
        Stop
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return self.stop(span, "a second document begins here; a configuration is one document");
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let text_tag = tag.as_ref().is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
                self.refuse_tag(tag.as_deref(), span);
                let scalar = Scalar::new(text, style == ScalarStyle::Plain && !text_tag);
                self.count(span, 1)?;
                let node = Node { span, kind: Kind::Scalar(scalar) };
                self.remember(anchor, &node, 1, 0)?;
                self.place(node)
            }
            Event::SequenceStart(anchor, tag) => self.start(anchor, tag.as_deref(), span, Items::List(Vec::new())),
            Event::MappingStart(anchor, tag) => {
                let items = Items::Map { entries: Vec::new(), seen: HashMap::new(), key: None };
                self.start(anchor, tag.as_deref(), span, items)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
            Event::Alias(anchor) => self.alias(anchor, span),
        }
    }

    fn start(&mut self, anchor: usize, tag: Option<&Tag>, span: Span, items: Items) -> Result<(), Stop> {
        self.refuse_tag(tag, span);
        self.count(span, 1)?;
        let depth = self.open.len() + 1;
        if depth > DEPTH_MAX {
            return self.stop(span, format!("nested more than {DEPTH_MAX} deep"));
        }
        self.open.push(Open { span, anchor, nodes_before: self.nodes - 1, deepest: depth, items });
        Ok(())
    }

    fn end(&mut self, end: Span) -> Result<(), Stop> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let kind = match open.items {
            Items::List(items) => Kind::List(items),
            Items::Map { entries, .. } => Kind::Map(entries),
        };
        let node = Node { span: Span { line_end: end.line_end.max(open.span.line), ..open.span }, kind };
        if let Some(parent) = self.open.last_mut() {
            parent.deepest = parent.deepest.max(open.deepest);
        }
        self.remember(open.anchor, &node, self.nodes - open.nodes_before, open.deepest - self.open.len())?;
        self.place(node)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Stop> {
        let Some((node, nodes, depth)) = self.anchors.get(&anchor) else {
            return self.stop(span, "this alias stands inside of what it names");
        };
        // Counted before it is copied: a few lines of nested aliases stand for billions of nodes.
        let (nodes, deepest) = (*nodes, self.open.len() + depth);
        if deepest > DEPTH_MAX {
            return self.stop(span, format!("nested more than {DEPTH_MAX} deep"));
        }
        if nodes > NODES_MAX - self.nodes {
            return self.count(span, nodes);
        }
        let node = node.clone();
        self.nodes += nodes;
        if let Some(parent) = self.open.last_mut() {
            parent.deepest = parent.deepest.max(deepest);
        }
        self.place(node)
    }

    /// Keeps a copy of what an anchor names; copies count as nodes, since anchors nest.
    fn remember(&mut self, anchor: usize, node: &Node, nodes: usize, depth: usize) -> Result<(), Stop> {
        if anchor > 0 {
            self.count(node.span, nodes)?;
            self.anchors.insert(anchor, (node.clone(), nodes, depth));
        }
        Ok(())
    }

    fn count(&mut self, span: Span, nodes: usize) -> Result<(), Stop> {
        if nodes > NODES_MAX - self.nodes {
            return self.stop(span, format!("more than {NODES_MAX} values, those that aliases repeat included"));
        }
        self.nodes += nodes;
        Ok(())
    }

    fn place(&mut self, mut node: Node) -> Result<(), Stop> {
        match self.open.last_mut().map(|open| &mut open.items) {
            None => self.root = Some(node),
            Some(Items::List(items)) => items.push(node),
            Some(Items::Map { entries, seen, key }) => match key.take() {
                None => match &node.kind {
                    Kind::Scalar(scalar) => *key = Some((scalar.raw.clone(), node.span)),
                    _ => return self.stop(node.span, "a key must be text"),
                },
                Some((name, key_span)) => {
                    // Nothing has no place of its own: it is reported at its key.
                    if node.scalar().is_some_and(|scalar| scalar.plain && scalar.raw.is_empty()) {
                        node.span = key_span;
                    }
                    if let Some(first) = seen.get(&name) {
                        let help = format!("the first one is in line {}; keep one of them", first.line);
                        self.report.add(key_span, format!("the key '{name}' is given twice"), help);
                    } else {
                        seen.insert(name.clone(), key_span);
                        entries.push(Entry { key: name, key_span, value: node });
                    }
                }
            },
        }
        Ok(())
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, span: Span) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            self.report.add(span, format!("the tag '{tag}' means nothing here"), "remove it".to_owned());
        }
    }

    fn stop<T>(&mut self, span: Span, message: impl Into<String>) -> Result<T, Stop> {
        self.report.add(span, message, None);
        Err(Stop)
    }

    fn place_of(&self, span: saphyr_parser::Span) -> Span {
        let (start, end) = (span.start, span.end);
        // A block scalar ends where the next line begins.
        let line_end = if end.col() == 0 { end.line().saturating_sub(1) } else { end.line() };
        let line_end = line_end.max(start.line());
        let width = if end.line() == start.line() { end.col().saturating_sub(start.col()) } else { 1 };
        let width = self.without_blanks(start.line(), start.col(), width).max(1);
        Span { origin: 0, line: start.line(), column: start.col() + 1, width, line_end }
    }

    /// The scanner takes blanks after a quoted scalar for a part of it: `width` without them.
    fn without_blanks(&self, line: usize, from: usize, width: usize) -> usize {
        // In a longer line (JSON has them) the search for the place would cost more than it is worth.
        const LINE_BYTES_MAX: usize = 4096;
        match self.lines.get(line.saturating_sub(1)).filter(|line| line.len() <= LINE_BYTES_MAX) {
            Some(line) => line.chars().skip(from).take(width).collect::<String>().trim_end().chars().count(),
            None => width,
        }
    }
}
