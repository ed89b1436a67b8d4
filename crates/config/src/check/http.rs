//! The grammar of HTTP names.

/// Header fields that belong to one connection or frame one message: never copied (RFC 9110, section 7.6.1, and RFC 9112).
pub const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// A `token` of RFC 9110, section 5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// A `field-value` of RFC 9110, section 5.5, of ASCII.
pub(super) fn is_field_value(text: &str) -> bool {
    let ends_blank = text.starts_with([' ', '\t']) || text.ends_with([' ', '\t']);
    !ends_blank && text.bytes().all(|byte| byte == b'\t' || (b' '..0x7f).contains(&byte))
}

/// What is wrong with a header name that would be read or written, and how to mend it. Problems call it `shown`.
pub(super) fn header_fault(name: &str, shown: &str) -> Option<(String, Option<String>)> {
    if !is_token(name) {
        let help = "letters, digits and !#$%&'*+-.^_`|~".to_owned();
        return Some((format!("{shown} is no name for an HTTP header"), Some(help)));
    }
    let lower = name.to_ascii_lowercase();
    let refused = HOP_BY_HOP.contains(&lower.as_str());
    let help = "it belongs to the connection, not to the content; leave it out".to_owned();
    refused.then(|| (format!("the header {shown} cannot be passed on"), Some(help)))
}

/// What makes up the target of a request, under the names of HTTP/2 (RFC 9113, section 8.3.1).
pub(super) const PSEUDO: [&str; 4] = [":method", ":path", ":authority", ":scheme"];

/// What is wrong with a host name in a match.
pub(super) fn host_fault(host: &str) -> Option<&'static str> {
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_ipv6 = host.starts_with('[') && host.ends_with(']') && host[1..host.len() - 1].parse::<std::net::Ipv6Addr>().is_ok();
    match host {
        "" => Some("write a name such as api.example.com, or leave it out for every host"),
        _ if is_ipv6 || host.chars().all(is_host) => None,
        _ if host.contains(':') && !host.contains('/') => Some("write it without the port"),
        _ => Some("write a name such as api.example.com; other alphabets in their xn-- form"),
    }
}
