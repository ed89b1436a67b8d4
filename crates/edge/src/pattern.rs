//! A path pattern such as `/items/{id}` or `/files/{*rest}`, in the syntax of `matchit`.

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

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// With parameters named by position, so that patterns which match the same paths are equal.
    pub normal: String,
    pub names: Vec<String>,
    pub specificity: Specificity,
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
        let mut pattern = Self { normal: String::with_capacity(path.len()), names: Vec::new(), specificity: Vec::new() };
        for segment in path[1..].split('/') {
            pattern.normal.push('/');
            pattern.segment(segment).map_err(|cause| fault(&cause))?;
        }
        if pattern.names.len() > PARAMS_MAX {
            return Err(fault(&format!("it has more than {PARAMS_MAX} parameters")));
        }
        // The rest of the grammar is matchit's: one parameter in a segment, `{*rest}` at the end only.
        match matchit::Router::new().insert(pattern.normal.as_str(), ()) {
            Ok(()) => Ok(pattern),
            Err(matchit::InsertError::InvalidParamSegment) => Err(fault("a segment may hold one parameter")),
            Err(matchit::InsertError::InvalidCatchAll) => Err(fault("`{*name}` is only allowed as the end of the path")),
            Err(error) => Err(fault(&error.to_string())),
        }
    }

    fn segment(&mut self, segment: &str) -> Result<(), String> {
        let (mut rest, mut class, mut literal) = (segment, 0, 0);
        while let Some(at) = rest.find(['{', '}']) {
            literal += at;
            self.normal.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(escaped) = ["{{", "}}"].into_iter().find(|escaped| rest.starts_with(escaped)) {
                self.normal.push_str(escaped);
                literal += 1;
                rest = &rest[2..];
                continue;
            }
            let Some((name, after)) = rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) else {
                return Err("its braces do not pair; write `{{` and `}}` for the characters themselves".into());
            };
            let (star, name) = name.strip_prefix('*').map_or(("", name), |name| ("*", name));
            self.name(name)?;
            self.normal.push_str(&format!("{{{star}p{}}}", self.names.len()));
            class = if star.is_empty() { 2 } else { 3 };
            rest = after;
        }
        literal += rest.len();
        self.normal.push_str(rest);
        if class == 2 && literal > 0 {
            class = 1;
        }
        self.specificity.push((class, Reverse(literal)));
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
        check("/{a}{b}", Err("one parameter"));
        check("/{*rest}/x", Err("end of the path"));
        check("/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}", Err("more than 8"));
    }
}
