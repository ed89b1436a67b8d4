//! Finds the expressions in a text: which bytes are literal, which are CEL.

/// Most tokens of one expression. The CEL parser and evaluator recurse once per operator of a chain such as `a+a+a`,
/// so that their stack use is bounded here.
pub const EXPRESSION_TOKENS_MAX: usize = 256;
/// Deepest nesting of brackets in one expression.
pub const EXPRESSION_DEPTH_MAX: usize = 24;

#[derive(Debug, PartialEq)]
pub(crate) enum Piece<'a> {
    /// Text that stands for itself.
    Literal(&'a str),
    /// The inside of `${...}`; `at` is its first byte in the whole text.
    Expression { at: usize, source: &'a str },
}

#[derive(Debug, PartialEq)]
pub(crate) struct ScanError {
    pub at: usize,
    pub message: String,
    pub help: Option<String>,
}

impl ScanError {
    fn new(at: usize, message: impl Into<String>, help: impl Into<String>) -> Self {
        ScanError { at, message: message.into(), help: Some(help.into()) }
    }
}

/// Splits `text` at its `${...}`. `$${` is the literal `${`.
pub(crate) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, ScanError> {
    let mut found = Vec::new();
    let mut literal_start = 0;
    let mut at = 0;
    while let Some(dollar) = text[at..].find('$').map(|i| at + i) {
        let rest = &text[dollar..];
        if rest.starts_with("$${") {
            // The first `$` ends the literal before it; the next literal starts at the second one.
            push_literal(&mut found, &text[literal_start..dollar]);
            literal_start = dollar + 1;
            at = dollar + 3;
        } else if rest.starts_with("${") {
            push_literal(&mut found, &text[literal_start..dollar]);
            let start = dollar + 2;
            let end = start + expression_len(&text[start..], start)?;
            found.push(Piece::Expression { at: start, source: &text[start..end] });
            literal_start = end + 1;
            at = literal_start;
        } else {
            at = dollar + 1;
        }
    }
    push_literal(&mut found, &text[literal_start..]);
    Ok(found)
}

fn push_literal<'a>(found: &mut Vec<Piece<'a>>, text: &'a str) {
    if !text.is_empty() {
        found.push(Piece::Literal(text));
    }
}

/// The length of the expression that `rest` begins with, up to its closing `}`. `base` is where `rest` begins in the
/// whole text. Strings and brackets inside the expression are stepped over.
fn expression_len(rest: &str, base: usize) -> Result<usize, ScanError> {
    let bytes = rest.as_bytes();
    let mut open: Vec<u8> = Vec::new();
    let (mut tokens, mut at) = (0, 0);
    while at < bytes.len() {
        tokens += 1;
        let byte = bytes[at];
        match byte {
            b'"' | b'\'' => at += string_len(rest, at, base)?,
            b'{' | b'[' | b'(' => {
                open.push(byte);
                at += 1;
            }
            b'}' if open.is_empty() => return Ok(at),
            b'}' | b']' | b')' => {
                if open.pop() != Some(opening(byte)) {
                    let message = format!("`{}` closes nothing", byte as char);
                    return Err(ScanError::new(base + at, message, "check the brackets of the expression"));
                }
                at += 1;
            }
            b'/' if rest[at..].starts_with("//") => {
                return Err(ScanError::new(base + at, "comments are not allowed in an expression", "remove the comment"));
            }
            _ if is_word(byte) => at += bytes[at..].iter().take_while(|b| is_word(**b)).count(),
            _ => {
                tokens -= usize::from(byte.is_ascii_whitespace());
                at += 1;
            }
        }
        if tokens > EXPRESSION_TOKENS_MAX || open.len() > EXPRESSION_DEPTH_MAX {
            let help =
                format!("at most {EXPRESSION_TOKENS_MAX} words and signs, brackets nested at most {EXPRESSION_DEPTH_MAX} deep");
            return Err(ScanError::new(base + at, "the expression is too long or too deep", help));
        }
    }
    let help = "close it with `}`; a literal `${` is written `$${`";
    Err(ScanError::new(base.saturating_sub(2), "`${` is not closed", help))
}

fn opening(closing: u8) -> u8 {
    match closing {
        b'}' => b'{',
        b']' => b'[',
        _ => b'(',
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// The length of the CEL string literal at `start`, quotes included (CEL: `STRING_LIT`, with `r` prefix and triple quotes).
fn string_len(rest: &str, start: usize, base: usize) -> Result<usize, ScanError> {
    let text = &rest[start..];
    let quote = &text[..1];
    let triple = text.starts_with(&quote.repeat(3));
    let close = if triple { quote.repeat(3) } else { quote.to_owned() };
    let raw = is_raw(&rest.as_bytes()[..start]);
    let mut at = close.len();
    while at < text.len() {
        if text.as_bytes()[at..].starts_with(close.as_bytes()) {
            return Ok(at + close.len());
        }
        // Two bytes may end inside a character; only whole ASCII quotes are compared, so that does no harm.
        at += if text.as_bytes()[at] == b'\\' && !raw { 2 } else { 1 };
    }
    Err(ScanError::new(base + start, "the string is not closed", format!("close it with {close}")))
}

/// Whether the word right before a quote is a raw-string prefix: `r`, `R`, `br`, `rb` in any case.
fn is_raw(before: &[u8]) -> bool {
    let word_start = before.iter().rposition(|b| !is_word(*b)).map_or(0, |i| i + 1);
    let word = before[word_start..].to_ascii_lowercase();
    matches!(word.as_slice(), b"r" | b"br" | b"rb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found() {
        let check = |text: &str, expected: &str| {
            let shown = match pieces(text) {
                Ok(found) => found
                    .iter()
                    .map(|p| match p {
                        Piece::Literal(text) => format!("<{text}>"),
                        Piece::Expression { at, source } => format!("{at}:({source})"),
                    })
                    .collect(),
                Err(e) => format!("{} {}", e.at, e.message),
            };
            assert_eq!(shown, expected, "{text}");
        };
        check("", "");
        check("plain $ text $5", "<plain $ text $5>");
        check("${a}", "2:(a)");
        check("x${a}y${b}z", "<x>3:(a)<y>8:(b)<z>");
        check("$${a}", "<${a}>");
        check("$$${a}", "<$><${a}>");
        check("a$${b}${c}", "<a><${b}>8:(c)");
        check("${{'a': '}'}['a']}", "2:({'a': '}'}['a'])");
        check("${\"}\\\"}\"}!", "2:(\"}\\\"}\")<!>");
        check(r"${r'\'}!", r"2:(r'\')<!>");
        check("${'''a'}''' + b}", "2:('''a'}''' + b)");
        check("a${b", "1 `${` is not closed");
        check("${'b}", "2 the string is not closed");
        check("${(a}", "4 `}` closes nothing");
        check("${a)}", "3 `)` closes nothing");
        check("${a // b}", "4 comments are not allowed in an expression");
        check("${'é' + 'ü'}", "2:('é' + 'ü')");
        check("${'\\é'}", "2:('\\é')");
    }

    #[test]
    fn expressions_are_bounded() {
        let too_long = "the expression is too long or too deep";
        let message = |text: String| pieces(&text).expect_err("too much").message;
        assert_eq!(message(format!("${{{}1}}", "1+".repeat(EXPRESSION_TOKENS_MAX))), too_long);
        let depth = EXPRESSION_DEPTH_MAX + 1;
        assert_eq!(message(format!("${{{}1{}}}", "(".repeat(depth), ")".repeat(depth))), too_long);
        let long_string = format!("${{'{}'}}", "x ".repeat(10_000));
        assert!(pieces(&long_string).is_ok(), "a string is one token");
    }
}
