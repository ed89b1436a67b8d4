//! Path patterns: `/items/{id}`, `/orders/{id};cid={token}`, `/files/{*rest}`.

/// Most parameters of one pattern.
pub const PARAMS_MAX: usize = 8;

#[derive(Debug, PartialEq)]
pub(super) struct Pattern {
    pub params: Vec<String>,
    /// The pattern without the names of its parameters: equal for patterns that match the same paths.
    pub shape: String,
    pub segments: usize,
}

type Fault = (String, Option<String>);

pub(super) fn parse(path: &str) -> Result<Pattern, Fault> {
    let fault = |message: &str, help: &str| Err((message.to_owned(), Some(help.to_owned())));
    let Some(rest) = path.strip_prefix('/') else {
        return fault("a path begins with '/'", "write it as in /items/{id}");
    };
    if path.contains(['?', '#']) {
        return fault("a path pattern has neither query nor fragment", "leave out what begins with '?' or '#'");
    }
    if path.contains('%') {
        return fault("a path pattern is not percent-encoded", "write the characters themselves; requests are decoded first");
    }
    if path.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return fault("a path pattern has no blanks or control characters", "write it as in /items/{id}");
    }
    let segments: Vec<&str> = rest.split('/').collect();
    let mut pattern = Pattern { params: Vec::new(), shape: String::new(), segments: segments.len() };
    for (index, segment) in segments.iter().enumerate() {
        let is_last = index + 1 == segments.len();
        if matches!(*segment, "." | "..") {
            let message = format!("the route can never be reached: requests with a '{segment}' segment are refused");
            return Err((message, Some("remove the segment".into())));
        }
        if segment.is_empty() && !is_last {
            return fault("the path has an empty segment", "write one '/' between two segments");
        }
        pattern.segment(segment, is_last)?;
    }
    if pattern.params.len() > PARAMS_MAX {
        return Err((format!("a path has at most {PARAMS_MAX} parameters"), None));
    }
    Ok(pattern)
}

impl Pattern {
    fn segment(&mut self, segment: &str, is_last: bool) -> Result<(), Fault> {
        let fault = |message: String, help: &str| Err((message, Some(help.to_owned())));
        self.shape.push('/');
        let unpaired = || fault(format!("the braces of '{segment}' do not pair"), "a parameter is written {name}");
        let mut rest = segment;
        while let Some(brace) = rest.find(['{', '}']) {
            let (text, braced) = rest.split_at(brace);
            let Some((inside, after)) = braced.strip_prefix('{').and_then(|braced| braced.split_once('}')) else {
                return unpaired();
            };
            if inside.contains('{') {
                return unpaired();
            }
            let is_first = rest.len() == segment.len();
            if text.is_empty() && !is_first {
                let message = format!("nothing stands between two parameters of '{segment}'");
                return fault(message, "put some text between them, as in {a}-{b}");
            }
            let (star, name) = inside.strip_prefix('*').map_or(("", inside), |name| ("*", name));
            if star == "*" && (!is_last || !is_first || !text.is_empty() || !after.is_empty()) {
                return fault(format!("'{{*{name}}}' stands alone at the end of a path"), "move it there, or write {name}");
            }
            self.param(inside, name)?;
            self.shape.push_str(&format!("{text}{{{star}}}"));
            rest = after;
        }
        self.shape.push_str(rest);
        Ok(())
    }

    fn param(&mut self, inside: &str, name: &str) -> Result<(), Fault> {
        let fault = |message: String, help: &str| Err((message, Some(help.to_owned())));
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(is_name) {
            return fault(format!("'{inside}' is no name for a parameter"), "letters, digits and '_', no digit first");
        }
        if self.params.iter().any(|known| known == name) {
            return fault(format!("the parameter '{name}' is given twice"), "give each parameter a name of its own");
        }
        self.params.push(name.to_owned());
        Ok(())
    }

    /// The parameter that stands for the rest of the path.
    pub(super) fn rest(&self) -> Option<&str> {
        self.params.last().filter(|_| self.shape.ends_with("/{*}")).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read() {
        for (path, expected) in [
            ("/", Ok("/ []")),
            ("/items", Ok("/items []")),
            ("/items/", Ok("/items/ []")),
            ("/items/{id}", Ok("/items/{} [id]")),
            ("/a/{b}/c-{d}.json", Ok("/a/{}/c-{}.json [b d]")),
            ("/files/{*rest}", Ok("/files/{*} [rest]")),
            ("/größe/{id}", Ok("/größe/{} [id]")),
            ("items", Err("a path begins with '/'")),
            ("", Err("a path begins with '/'")),
            ("/a?b", Err("a path pattern has neither query nor fragment")),
            ("/a%20b", Err("a path pattern is not percent-encoded")),
            ("/a b", Err("a path pattern has no blanks or control characters")),
            ("/a//b", Err("the path has an empty segment")),
            ("/a/../b", Err("the route can never be reached: requests with a '..' segment are refused")),
            ("/{a}/{a}", Err("the parameter 'a' is given twice")),
            ("/orders/{id};cid={token}", Ok("/orders/{};cid={} [id token]")),
            ("/{a}.{b}.{c}/x", Ok("/{}.{}.{}/x [a b c]")),
            ("/{a}{b}", Err("nothing stands between two parameters of '{a}{b}'")),
            ("/x-{a}{b}", Err("nothing stands between two parameters of 'x-{a}{b}'")),
            ("/{a}-{a}", Err("the parameter 'a' is given twice")),
            ("/{{a}}", Err("the braces of '{{a}}' do not pair")),
            ("/{a}-{b", Err("the braces of '{a}-{b' do not pair")),
            ("/{a}-{*rest}", Err("'{*rest}' stands alone at the end of a path")),
            ("/{*rest}-{a}", Err("'{*rest}' stands alone at the end of a path")),
            ("/{a", Err("the braces of '{a' do not pair")),
            ("/a}", Err("the braces of 'a}' do not pair")),
            ("/}{a}", Err("the braces of '}{a}' do not pair")),
            ("/{}", Err("'' is no name for a parameter")),
            ("/{a-b}", Err("'a-b' is no name for a parameter")),
            ("/{*rest}/x", Err("'{*rest}' stands alone at the end of a path")),
            ("/x{*rest}", Err("'{*rest}' stands alone at the end of a path")),
            ("/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}", Err("a path has at most 8 parameters")),
        ] {
            let result = parse(path);
            let shown = result.as_ref().map(|p| format!("{} [{}]", p.shape, p.params.join(" ")));
            assert_eq!(shown.as_deref().map_err(|fault| fault.0.as_str()), expected, "{path}");
        }
    }
}
