//! Untrusted bytes in a log line. Both forms escape quotes, backslashes and every control character, C1 included, so that a
//! request can neither begin a line of its own nor steer a terminal.

/// How control characters are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// RFC 8259 section 7.
    Json,
    /// `\x1b`, as in string literals.
    Text,
}

/// Appends `text` without quotes around it.
pub(crate) fn escape(out: &mut Vec<u8>, text: &str, style: Style) {
    let bytes = text.as_bytes();
    let mut copied = 0;
    let mut at = 0;
    while at < bytes.len() {
        let (code, width) = match bytes[at] {
            byte @ (b'"' | b'\\' | 0..0x20 | 0x7f) => (byte, 1),
            // U+0080 to U+009F in UTF-8.
            0xc2 if bytes.get(at + 1).is_some_and(|next| *next < 0xa0) => (bytes[at + 1], 2),
            _ => {
                at += 1;
                continue;
            }
        };
        out.extend_from_slice(&bytes[copied..at]);
        code_point(out, code, style);
        at += width;
        copied = at;
    }
    out.extend_from_slice(&bytes[copied..]);
}

/// Appends bytes that may not be UTF-8; what is not becomes U+FFFD.
pub(crate) fn escape_bytes(out: &mut Vec<u8>, bytes: &[u8], style: Style) {
    for chunk in bytes.utf8_chunks() {
        escape(out, chunk.valid(), style);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Appends lower-case hexadecimal digits.
pub(crate) fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.extend_from_slice(&hex_digits(*byte));
    }
}

pub(crate) fn hex_digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

fn code_point(out: &mut Vec<u8>, code: u8, style: Style) {
    match (code, style) {
        (b'"', _) => out.extend_from_slice(b"\\\""),
        (b'\\', _) => out.extend_from_slice(b"\\\\"),
        (b'\n', _) => out.extend_from_slice(b"\\n"),
        (b'\r', _) => out.extend_from_slice(b"\\r"),
        (b'\t', _) => out.extend_from_slice(b"\\t"),
        (code, Style::Json) => {
            out.extend_from_slice(b"\\u00");
            hex(out, &[code]);
        }
        (code, Style::Text) => {
            out.extend_from_slice(b"\\x");
            hex(out, &[code]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(bytes: &[u8], json: &str, text: &str) {
        for (style, expected) in [(Style::Json, json), (Style::Text, text)] {
            let mut out = Vec::new();
            escape_bytes(&mut out, bytes, style);
            assert_eq!(String::from_utf8(out).expect("text"), expected);
        }
    }

    #[test]
    fn escapes() {
        check(b"", "", "");
        check(b"plain /items?a=b", "plain /items?a=b", "plain /items?a=b");
        check(b"a\"b\\c", "a\\\"b\\\\c", "a\\\"b\\\\c");
        check(b"\n\r\t", "\\n\\r\\t", "\\n\\r\\t");
        check(b"\x00\x1b[31m\x7f", "\\u0000\\u001b[31m\\u007f", "\\x00\\x1b[31m\\x7f");
        check("é\u{9b}x\u{a0}".as_bytes(), "é\\u009bx\u{a0}", "é\\x9bx\u{a0}");
        check(b"a\xffb", "a\u{fffd}b", "a\u{fffd}b");
    }

    proptest! {
        #[test]
        fn json_reads_back(text in any::<String>()) {
            let mut out = b"\"".to_vec();
            escape(&mut out, &text, Style::Json);
            out.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), text);
        }

        #[test]
        fn no_control_character_is_left(bytes in any::<Vec<u8>>()) {
            for style in [Style::Json, Style::Text] {
                let mut out = Vec::new();
                escape_bytes(&mut out, &bytes, style);
                let text = String::from_utf8(out).expect("UTF-8");
                prop_assert!(!text.chars().any(char::is_control), "{:?}", text);
            }
        }
    }
}
