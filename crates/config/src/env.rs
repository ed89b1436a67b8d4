//! `${VAR}` and `${VAR:-default}` in scalars.

use crate::node::{Kind, Node, Scalar};
use crate::problem::Report;

/// Longest text of a scalar after expansion, in bytes.
pub const EXPANDED_BYTES_MAX: usize = 1024 * 1024;

/// Fills in the environment, in place. Other `${...}` are request templates and stay.
pub(crate) fn expand(node: &mut Node, env: &dyn Fn(&str) -> Option<String>, report: &mut Report) {
    let span = node.span;
    match &mut node.kind {
        Kind::List(items) => items.iter_mut().for_each(|item| expand(item, env, report)),
        Kind::Map(entries) => entries.iter_mut().for_each(|entry| expand(&mut entry.value, env, report)),
        Kind::Scalar(scalar) => {
            let Scalar { raw, written, spoiled, .. } = scalar;
            match expanded(raw, env) {
                Ok(None) => {}
                Ok(Some(text)) => {
                    let before = std::mem::replace(raw, text);
                    written.get_or_insert(format!("the value of '{before}'"));
                }
                Err((message, help)) => {
                    *spoiled = true;
                    report.add(span, message, help);
                }
            }
        }
    }
}

type Fault = (String, Option<String>);

/// `text` with its variables filled in; `None` when it has none.
fn expanded(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, Fault> {
    let mut result = String::new();
    let mut rest = text;
    let mut found = false;
    while let Some(at) = rest.find("${") {
        // `$${` is a literal `${`, for the template or for the shape check to undo.
        let escaped = rest[..at].ends_with('$');
        match variable(&rest[at + 2..]).filter(|_| !escaped) {
            Some((name, default, len)) => {
                found = true;
                result.push_str(&rest[..at]);
                let set = env(name);
                // As in a shell, `:-` stands in for an empty variable, too.
                match (set.filter(|value| !(value.is_empty() && default.is_some())), default) {
                    (Some(value), _) => result.push_str(&value),
                    (None, Some(default)) => result.push_str(default),
                    (None, None) => {
                        let help = format!("set it, or give a default: ${{{name}:-...}}");
                        return Err((format!("the environment variable '{name}' is not set"), Some(help)));
                    }
                }
                rest = &rest[at + 2 + len..];
            }
            None => {
                result.push_str(&rest[..at + 2]);
                rest = &rest[at + 2..];
            }
        }
        if result.len() > EXPANDED_BYTES_MAX {
            return Err((format!("with the environment filled in, this is longer than {EXPANDED_BYTES_MAX} bytes"), None));
        }
    }
    result.push_str(rest);
    Ok(found.then_some(result))
}

/// The variable that `text` begins with, right after `${`: its name, its default, the length up to and with the `}`.
fn variable(text: &str) -> Option<(&str, Option<&str>, usize)> {
    let is_name = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    let len = text.bytes().take_while(is_name).count();
    let (name, rest) = text.split_at(len);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    match rest.strip_prefix(":-") {
        Some(after) => after.find('}').map(|end| (name, Some(&after[..end]), len + 2 + end + 1)),
        None => rest.starts_with('}').then_some((name, None, len + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in() {
        let env = |name: &str| match name {
            "HOST" => Some("kafka".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("${HOST}".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("plain", Ok(None)),
            ("${HOST}:9092", Ok(Some("kafka:9092"))),
            ("${NONE:-embedded}", Ok(Some("embedded"))),
            ("${NONE:-}", Ok(Some(""))),
            ("${EMPTY:-x}", Ok(Some("x"))),
            ("${EMPTY}", Ok(Some(""))),
            ("${HOST:-x}-${HOST}", Ok(Some("kafka-kafka"))),
            ("$${HOST}", Ok(None)),
            ("${params.id}", Ok(None)),
            ("${params.id}-${HOST}", Ok(Some("${params.id}-kafka"))),
            ("${TRICKY}", Ok(Some("${HOST}"))),
            ("${HOST", Ok(None)),
            ("${HOST:-", Ok(None)),
            ("${1A}", Ok(None)),
            ("${NONE}", Err("the environment variable 'NONE' is not set")),
        ] {
            let result = expanded(text, &env);
            let shown = result.as_ref().map(|text| text.as_deref()).map_err(|(message, _)| message.as_str());
            assert_eq!(shown, expected, "{text}");
        }
    }
}
