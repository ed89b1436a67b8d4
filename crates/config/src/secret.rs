//! Which values must not be shown.

use crate::node::{Kind, Node};

const MASK: &str = "***";

/// Whether a key of this name usually holds a secret (`sasl.password`, `ssl.key.pem`, `sasl.jaas.config`, `signing`, ...).
pub fn looks_secret(key: &str) -> bool {
    const PARTS: [&str; 13] = [
        "password",
        "passwd",
        "passphrase",
        "secret",
        "token",
        "credential",
        "jaas",
        "private",
        "api_key",
        "key.pem",
        "ssl.key",
        "keystore.key",
        "signing",
    ];
    let plain = key.to_ascii_lowercase().replace('-', "_");
    PARTS.iter().any(|part| plain.contains(part))
}

/// The first and last lines of the secret values of a tree.
pub(crate) fn hidden_lines(node: &Node, found: &mut Vec<(usize, usize)>) {
    match &node.kind {
        Kind::Scalar(_) => {}
        Kind::List(items) => items.iter().for_each(|item| hidden_lines(item, found)),
        Kind::Map(entries) => entries.iter().for_each(|entry| match looks_secret(&entry.key) {
            true if entry.value.span.origin == 0 => found.push((entry.key_span.line, entry.value.span.line_end)),
            true => {}
            false => hidden_lines(&entry.value, found),
        }),
    }
}

/// The line `number` (from 1) as it may be shown: what follows a secret key is masked, on its line and on the lines that
/// continue it. Works on lines, since it must do so for a text that is not valid YAML, too.
pub(crate) fn masked_line(lines: &[&str], number: usize, hidden: &[(usize, usize)]) -> Option<String> {
    let line = lines.get(number.checked_sub(1)?)?;
    let continues = hidden.iter().any(|(first, last)| number > *first && number <= *last);
    if continues || is_below_secret(lines, number - 1) {
        return Some(MASK.into());
    }
    Some(match secret_colon(line) {
        Some(colon) => format!("{} {MASK}", &line[..=colon]),
        None => (*line).to_owned(),
    })
}

/// The colon after the first key of the line that looks secret.
fn secret_colon(line: &str) -> Option<usize> {
    let is_key = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '"' | '\'' | ' ');
    line.match_indices(':').map(|(colon, _)| colon).find(|colon| {
        let before = &line[..*colon];
        let start = before.rfind(|c| !is_key(c)).map_or(0, |at| at + 1);
        looks_secret(before.get(start..).unwrap_or(before))
    })
}

/// Whether one of the lines that `index` is indented below has a secret key.
fn is_below_secret(lines: &[&str], index: usize) -> bool {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut limit = indent(lines[index]);
    for line in lines[..index].iter().rev().filter(|line| !line.trim().is_empty()) {
        if limit == 0 {
            return false;
        }
        if indent(line) < limit {
            limit = indent(line);
            if secret_colon(line).is_some() {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_masked() {
        let text = "a:\n  sasl.password: hunter2\n  user: x\nb: { 'ssl.key.pem': abc, c: d }\npem:\n  ssl.key.pem: |\n    BEGIN\n    END\n  d: e";
        let lines: Vec<&str> = text.lines().collect();
        for (number, expected) in [
            (1, "a:"),
            (2, "  sasl.password: ***"),
            (3, "  user: x"),
            (4, "b: { 'ssl.key.pem': ***"),
            (6, "  ssl.key.pem: ***"),
            (7, "***"),
            (8, "***"),
            (9, "  d: e"),
        ] {
            assert_eq!(masked_line(&lines, number, &[]).as_deref(), Some(expected), "line {number}");
        }
        assert_eq!(masked_line(&lines, 3, &[(2, 3)]).as_deref(), Some(MASK));
        assert_eq!(masked_line(&lines, 0, &[]), None);
        assert_eq!(masked_line(&lines, 99, &[]), None);
    }
}
