//! What is wrong with a configuration, and how it is shown.

use std::fmt;

use crate::node::Span;
use crate::secret;

/// Most problems that are reported at once.
pub const PROBLEMS_MAX: usize = 500;
/// Most characters of a source line that are shown.
const SHOWN_MAX: usize = 160;

/// One thing that is wrong, where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, or the override, it stands in.
    pub file: String,
    /// From 1; 0 when the place has no lines (an override).
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The offending line, its secrets masked.
    pub source_line: Option<String>,
    pub message: String,
    pub help: Option<String>,
    /// How many characters the offending part has.
    width: usize,
}

/// All problems of a configuration, sorted by place. Never empty as an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl Problems {
    /// The problems one below the other, for a terminal that has colours or has none.
    pub fn render(&self, color: bool) -> String {
        self.0.iter().map(|problem| problem.render(color)).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl Problem {
    /// The problem with its line and a caret, for a terminal that has colours or has none.
    pub fn render(&self, color: bool) -> String {
        let paint = |style: &'static str| if color { style } else { "" };
        let (red, blue, bold, reset) = (paint("\x1b[1;31m"), paint("\x1b[1;34m"), paint("\x1b[1m"), paint("\x1b[0m"));
        let number = if self.line > 0 { self.line.to_string() } else { String::new() };
        let gutter = " ".repeat(number.len());
        let place = match self.line {
            0 => printable(&self.file),
            line => format!("{}:{line}:{}", printable(&self.file), self.column),
        };
        let message = printable(&self.message);
        let mut text = format!("{red}error{reset}{bold}: {message}{reset}\n{gutter}{blue}-->{reset} {place}\n");
        if let Some(line) = &self.source_line {
            let (line, indent, width) = window(line, self.column.saturating_sub(1), self.width);
            text += &format!("{gutter} {blue}|{reset}\n{blue}{number} |{reset} {line}\n");
            text += &format!("{gutter} {blue}|{reset} {indent}{red}{}{reset}\n", "^".repeat(width));
        }
        if let Some(help) = &self.help {
            text += &format!("{gutter} {blue}={reset} {bold}help{reset}: {}\n", printable(help));
        }
        text
    }
}

/// The part of `line` around the characters `from..from + width`, the indentation of a caret below it, its width.
fn window(line: &str, from: usize, width: usize) -> (String, String, usize) {
    let chars: Vec<char> = line.chars().collect();
    let start = if chars.len() > SHOWN_MAX { from.saturating_sub(SHOWN_MAX / 2).min(chars.len()) } else { 0 };
    let end = chars.len().min(start + SHOWN_MAX);
    let shown: String = chars[start..end].iter().map(|c| if c.is_control() && *c != '\t' { ' ' } else { *c }).collect();
    let before = &chars[start..from.clamp(start, end)];
    let indent = before.iter().map(|c| if *c == '\t' { '\t' } else { ' ' }).collect();
    let width = width.min((end - start).saturating_sub(before.len())).max(1);
    (shown, indent, width)
}

/// `text` without control characters, which could redraw the terminal of whoever reads it.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Collects faults while a configuration is read.
#[derive(Default)]
pub(crate) struct Report {
    faults: Vec<(Span, String, Option<String>)>,
}

impl Report {
    pub fn add(&mut self, span: Span, message: impl Into<String>, help: impl Into<Option<String>>) {
        self.faults.push((span, message.into(), help.into()));
    }

    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// The faults as problems of the file `name` with this `text`, or of one of the overrides, named by `origins`.
    /// `hidden` are first and last lines of secret values.
    pub fn into_problems(mut self, name: &str, text: &str, origins: &[String], hidden: &[(usize, usize)]) -> Problems {
        // Overrides come last. The same fault in a value that aliases repeat is one fault.
        self.faults.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        self.faults.dedup();
        self.faults.truncate(PROBLEMS_MAX);
        let lines: Vec<&str> = text.lines().collect();
        let problem = |(span, message, help): (Span, String, Option<String>)| {
            let (file, source_line) = match span.origin.checked_sub(1) {
                None => (name.to_owned(), secret::masked_line(&lines, span.line, hidden)),
                Some(index) => (origins.get(index).cloned().unwrap_or_default(), None),
            };
            Problem { file, line: span.line, column: span.column, source_line, message, help, width: span.width.max(1) }
        };
        Problems(self.faults.into_iter().map(problem).collect())
    }
}
