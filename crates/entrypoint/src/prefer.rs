//! `Prefer` (RFC 7240): what a client would like, as far as an exchange can honour it.

use std::time::Duration;

use http::header::HeaderMap;

/// Longest `Prefer` header that is looked at, all lines together, in bytes.
const PREFER_BYTES_MAX: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    Minimal,
    Representation,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preferences {
    /// `wait=N`: how long to hold the request, in seconds on the wire.
    pub wait: Option<Duration>,
    /// `respond-async` (section 4.1)
    pub respond_async: bool,
    /// `return=minimal` or `return=representation`.
    pub returns: Option<Return>,
}

impl Preferences {
    /// Of several equal preferences the first counts (section 2); those that are not understood are ignored.
    pub fn parse(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        let mut budget = PREFER_BYTES_MAX;
        for line in headers.get_all("prefer") {
            let Ok(line) = line.to_str() else { continue };
            budget = budget.saturating_sub(line.len());
            if budget == 0 {
                break;
            }
            for preference in split_quoted(line, ',') {
                // Parameters behind `;` belong to the preference and change none that we honour.
                let token = split_quoted(preference, ';').next().unwrap_or_default();
                let (name, value) = token.split_once('=').unwrap_or((token, ""));
                found.note(name.trim(), unquote(value.trim()));
            }
        }
        found
    }

    fn note(&mut self, name: &str, value: &str) {
        if name.eq_ignore_ascii_case("respond-async") {
            // A value makes it another preference, which nobody has defined.
            self.respond_async |= value.is_empty();
        } else if name.eq_ignore_ascii_case("wait") && self.wait.is_none() {
            self.wait = value.parse::<u32>().ok().map(|s| Duration::from_secs(s.into()));
        } else if name.eq_ignore_ascii_case("return") && self.returns.is_none() {
            self.returns = match value {
                "minimal" => Some(Return::Minimal),
                "representation" => Some(Return::Representation),
                _ => None,
            };
        }
    }
}

/// Splits at a separator that is not inside a quoted string.
fn split_quoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |c| {
        let was_escaped = escaped;
        escaped = quoted && c == '\\' && !was_escaped;
        if c == '"' && !was_escaped {
            quoted = !quoted;
        }
        c == separator && !quoted
    })
}

fn unquote(value: &str) -> &str {
    value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences() {
        let secs = |n| Some(Duration::from_secs(n));
        let check = |lines: &[&str], wait: Option<Duration>, returns: Option<Return>| {
            let respond_async = lines.iter().any(|line| line.starts_with("respond-async"));
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("prefer", line.parse().unwrap());
            }
            assert_eq!(Preferences::parse(&headers), Preferences { wait, respond_async, returns }, "{lines:?}");
        };
        check(&[], None, None);
        check(&["wait=10"], secs(10), None);
        check(&["respond-async, wait=10"], secs(10), None);
        check(&["respond-async; x=\"a,wait=3\", WAIT = \"7\""], secs(7), None);
        check(&["return=representation", "wait=1, wait=2"], secs(1), Some(Return::Representation));
        check(&["return=minimal; foo, wait=ten"], None, Some(Return::Minimal));
        check(&["respond-async", "respond-async"], None, None);
        check(&["respond-async; foo=\"bar\""], None, None);
        check(&["x=\"respond-async, wait=1\", x=\", respond-async\""], None, None);
        check(&["wait=-1"], None, None);
        check(&["wait=99999999999999999999"], None, None);
        check(&["x=\"unclosed, wait=1"], None, None);
    }
}
