//! A path pattern such as `/items/{id}`, `/files/{*rest}` or `/orders/{id};cid={token}`.
//!
//! The syntax is that of `matchit`, which knows one parameter in a segment. A segment with several is one parameter there, and is
//! split after the match.

use std::cmp::Reverse;

use crate::params::PARAMS_MAX;

/// A routing table could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The pattern itself is wrong.
    #[error("the path pattern `{path}` is not valid: {cause}")]
    Pattern {
        /// As it was given.
        path: String,
        /// What is wrong with it, and what would be right.
        cause: String,
    },
    /// Two routes answer the same requests, so that the second would never be found.
    #[error(
        "`{method} {path}` is routed twice with the same conditions; remove one of the two, or tell them apart by host or headers"
    )]
    Duplicate {
        /// The method, or `*` for any.
        method: String,
        /// The pattern of the later route.
        path: String,
        /// Position of the earlier route in the list that was given.
        first: usize,
        /// Position of the later route.
        second: usize,
    },
}

/// How narrowly a pattern describes the paths it matches; the smaller wins. Compared segment by segment from the left: literal
/// text, text around a parameter (more text first), a parameter, the rest of the path.
pub(crate) type Specificity = Vec<(u8, Reverse<usize>)>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// With parameters named by position, so that patterns which match the same paths are equal.
    pub normal: String,
    /// What `matchit` gets: as `normal`, but from the first parameter of a segment to its last one is one parameter.
    pub skeleton: String,
    /// Paths that match begin with it: the text before the first parameter.
    pub prefix: String,
    pub names: Vec<String>,
    pub specificity: Specificity,
    /// For each parameter of `skeleton`, what stands between the parameters that it holds.
    separators: Vec<Vec<String>>,
}

/// A part of a segment.
enum Piece<'a> {
    /// Without escapes.
    Text(String),
    /// `{name}` or `{*name}`, as it stands between the braces.
    Param(&'a str),
}

impl Pattern {
    pub(crate) fn parse(path: &str) -> Result<Self, RouteError> {
        let fault = |cause: &str| RouteError::Pattern { path: path.into(), cause: cause.into() };
        if !path.starts_with('/') {
            return Err(fault("it must begin with `/`"));
        }
        if path.chars().any(|c| c.is_control() || matches!(c, '%' | '?' | '#')) {
            return Err(fault("write characters as they are, not percent-encoded, and leave out query and fragment"));
        }
        if path.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(fault("`.` and `..` segments never match, since such requests are refused"));
        }
        let mut pattern = Self::default();
        for segment in path[1..].split('/') {
            pattern.segment(segment).map_err(|cause| fault(&cause))?;
        }
        if pattern.names.len() > PARAMS_MAX {
            return Err(fault(&format!("it has more than {PARAMS_MAX} parameters")));
        }
        // The rest of the grammar is matchit's: `{*rest}` at the end only.
        match matchit::Router::new().insert(pattern.skeleton.as_str(), ()) {
            Ok(()) => Ok(pattern),
            Err(matchit::InsertError::InvalidCatchAll) => Err(fault("`{*name}` is only allowed as the end of the path")),
            Err(error) => Err(fault(&error.to_string())),
        }
    }

    /// Whether a match of `skeleton` is yet to be split, and may turn out to be none.
    pub(crate) fn is_split(&self) -> bool {
        self.separators.iter().any(|between| !between.is_empty())
    }

    /// The values of the parameters, from those of `skeleton`. A separator is the last one that leaves a character behind it, so that
    /// there is one way to split, and whenever there is any. `None` if there is none: the path does not match.
    pub(crate) fn split<'a>(&self, found: &matchit::Params<'_, 'a>) -> Option<[&'a str; PARAMS_MAX]> {
        let (mut values, mut first) = ([""; PARAMS_MAX], 0);
        for ((_, value), separators) in found.iter().zip(&self.separators) {
            let mut rest = value;
            for (number, separator) in separators.iter().enumerate().rev() {
                let (last, _) = rest.char_indices().next_back()?;
                let at = rest[..last].rfind(separator)?;
                values[first + number + 1] = &rest[at + separator.len()..];
                rest = &rest[..at];
            }
            if rest.is_empty() {
                return None;
            }
            values[first] = rest;
            first += separators.len() + 1;
        }
        Some(values)
    }

    fn segment(&mut self, segment: &str) -> Result<(), String> {
        let pieces = pieces(segment)?;
        let is_param = |piece: &Piece| matches!(piece, Piece::Param(_));
        if pieces.windows(2).any(|pair| pair.iter().all(is_param)) {
            return Err("two parameters stand side by side; put text between them".into());
        }
        let params = || pieces.iter().filter(|piece| is_param(piece));
        if params().count() > 1 && params().any(|piece| matches!(piece, Piece::Param(name) if name.starts_with('*'))) {
            return Err("a parameter with `*` must be the only one of its segment".into());
        }
        let last_param = pieces.iter().rposition(is_param);
        if self.names.is_empty() {
            self.prefix.push('/');
        }
        self.normal.push('/');
        self.skeleton.push('/');
        let (mut class, mut literal, mut separators) = (0, 0, None::<Vec<String>>);
        for (number, piece) in pieces.into_iter().enumerate() {
            match piece {
                Piece::Text(text) => {
                    literal += text.len();
                    if self.names.is_empty() {
                        self.prefix.push_str(&text);
                    }
                    let escaped = text.replace('{', "{{").replace('}', "}}");
                    self.normal.push_str(&escaped);
                    match &mut separators {
                        Some(between) if Some(number) < last_param => between.push(text),
                        _ => self.skeleton.push_str(&escaped),
                    }
                }
                Piece::Param(name) => {
                    let (star, name) = name.strip_prefix('*').map_or(("", name), |name| ("*", name));
                    self.name(name)?;
                    let param = format!("{{{star}p{}}}", self.names.len());
                    self.normal.push_str(&param);
                    if separators.is_none() {
                        self.skeleton.push_str(&param);
                    }
                    class = class.max(if star.is_empty() { 2 } else { 3 });
                    separators.get_or_insert_default();
                }
            }
        }
        if class == 2 && literal > 0 {
            class = 1;
        }
        self.specificity.push((class, Reverse(literal)));
        self.separators.extend(separators);
        Ok(())
    }

    fn name(&mut self, name: &str) -> Result<(), String> {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
            return Err(format!("`{name}` is no parameter name; use letters, digits, `_` and `-`"));
        }
        if self.names.iter().any(|known| known == name) {
            return Err(format!("the parameter `{name}` occurs twice"));
        }
        self.names.push(name.into());
        Ok(())
    }
}

/// Takes a segment apart; texts and parameters in turn, or parameters side by side.
fn pieces(segment: &str) -> Result<Vec<Piece<'_>>, String> {
    let (mut pieces, mut text, mut rest) = (Vec::new(), String::new(), segment);
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with("{{") || rest.starts_with("}}") {
            text.push_str(&rest[..1]);
            rest = &rest[2..];
            continue;
        }
        let Some((name, after)) = rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) else {
            return Err("its braces do not pair; write `{{` and `}}` for the characters themselves".into());
        };
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(Piece::Param(name));
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Result<(&str, &[&str]), &str>) {
        match (Pattern::parse(path), expected) {
            (Ok(pattern), Ok((normal, names))) => {
                assert_eq!(pattern.normal, normal);
                assert_eq!(pattern.names, names);
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expected) => panic!("{path}: {got:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn patterns() {
        check("/", Ok(("/", &[])));
        check("/items/{id}", Ok(("/items/{p1}", &["id"])));
        check("/{a}/x-{b}.png/{*rest}", Ok(("/{p1}/x-{p2}.png/{*p3}", &["a", "b", "rest"])));
        check("/{{literal}}", Ok(("/{{literal}}", &[])));
        check("items", Err("begin with `/`"));
        check("/a%20b", Err("not percent-encoded"));
        check("/a?b=c", Err("query"));
        check("/a/../b", Err("never match"));
        check("/{id", Err("do not pair"));
        check("/id}", Err("do not pair"));
        check("/{}", Err("no parameter name"));
        check("/{a b}", Err("no parameter name"));
        check("/{id}/{id}", Err("occurs twice"));
        check("/{a};cid={b}", Ok(("/{p1};cid={p2}", &["a", "b"])));
        check("/v{a}-{b}.{c}.png/{*rest}", Ok(("/v{p1}-{p2}.{p3}.png/{*p4}", &["a", "b", "c", "rest"])));
        check("/{a}{{{b}", Ok(("/{p1}{{{p2}", &["a", "b"])));
        check("/{a}{b}", Err("side by side"));
        check("/{a}-{a}", Err("occurs twice"));
        check("/{a}-{*b}", Err("the only one"));
        check("/{*a}-{b}", Err("the only one"));
        check("/{a}.{b}.{c}.{d}.{e}.{f}.{g}.{h}.{i}", Err("more than 8"));
        check("/{*rest}/x", Err("end of the path"));
        check("/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}", Err("more than 8"));
    }
}
