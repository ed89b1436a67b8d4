//! The reply of a worker as a response.

use exchange::Latest;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use template::Template;

use crate::problem::Problem;
use crate::scope::{RequestScope, WithMessage};
use crate::{Reply, headers};

pub struct ReplyFaceOptions {
    /// The record header that has the status.
    pub status: String,
    /// Record headers, whose names are case-sensitive, that become response headers, besides `content-type` and `traceparent`.
    pub copy_headers: Vec<(String, HeaderName)>,
    /// Response headers made from the request and the reply.
    pub headers: Vec<(HeaderName, Template)>,
    /// Where a reply with content says none.
    pub content_type: Option<HeaderValue>,
    /// Most bytes of a reply.
    pub body_bytes_max: usize,
}

pub struct ReplyFace {
    options: ReplyFaceOptions,
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const ANY_BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

impl ReplyFace {
    pub fn new(options: ReplyFaceOptions) -> Self {
        Self { options }
    }

    /// Whether [`ReplyFace::respond`] looks at the request.
    pub fn needs_request(&self) -> bool {
        self.options.headers.iter().any(|(_, template)| template.literal().is_none())
    }

    /// # Errors
    /// When the worker's reply is none that HTTP can carry.
    pub fn respond(&self, scope: &RequestScope<'_>, topic: &str, latest: &Latest) -> Result<Response<Reply>, Problem> {
        let record = &latest.record;
        let status = status_of(record.header(&self.options.status), record.is_tombstone())
            .ok_or_else(|| Problem::bad_reply(format!("its header {} is no status from 200 to 599", self.options.status)))?;
        let value = record.value_bytes().unwrap_or_default();
        if value.len() > self.options.body_bytes_max {
            let (len, max) = (value.len(), self.options.body_bytes_max);
            return Err(Problem::bad_reply(format!("it has {len} bytes, and may have {max}")));
        }
        let without_content = matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
        let is_empty = without_content || value.is_empty();
        let mut response = Response::new(if is_empty { Reply::Empty } else { Reply::Full(value) });
        *response.status_mut() = status;
        let out = response.headers_mut();
        for (of_record, name) in &self.options.copy_headers {
            for header in record.headers().filter(|h| h.name == of_record) {
                out.extend(headers::of_reply(name, header.value).map(|value| (name.clone(), value)));
            }
        }
        if !is_empty {
            let given = headers::of_reply(&CONTENT_TYPE, record.header(CONTENT_TYPE.as_str()));
            out.insert(CONTENT_TYPE, given.or_else(|| self.options.content_type.clone()).unwrap_or(ANY_BYTES));
        }
        if let Some(trace) = headers::of_reply(&TRACEPARENT, record.header(TRACEPARENT.as_str())) {
            out.insert(TRACEPARENT, trace);
        }
        let scope = WithMessage { request: scope, topic, latest };
        for (name, template) in &self.options.headers {
            let text = template.render(&scope).map_err(|e| Problem::from(&e))?;
            let value = headers::of_reply(name, Some(text.as_bytes()));
            if let Some(value) = value {
                out.insert(name, value);
            }
        }
        // It answers one request; only the worker may say that others can have it.
        out.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

/// Informational ones are no answer (RFC 9110 section 15.2), and 600 and more are none at all.
fn status_of(text: Option<&[u8]>, is_tombstone: bool) -> Option<StatusCode> {
    let Some(text) = text else { return Some(if is_tombstone { StatusCode::NO_CONTENT } else { StatusCode::OK }) };
    StatusCode::from_bytes(text).ok().filter(|status| (200..600).contains(&status.as_u16()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        for (text, tombstone, status) in [
            (None, false, Some(200)),
            (None, true, Some(204)),
            (Some("201"), true, Some(201)),
            (Some("599"), false, Some(599)),
            (Some("100"), false, None),
            (Some("600"), false, None),
            (Some("99"), false, None),
            (Some(" 200"), false, None),
            (Some("2000"), false, None),
            (Some(""), false, None),
            (Some("OK"), false, None),
        ] {
            let found = status_of(text.map(str::as_bytes), tombstone);
            assert_eq!(found.map(|s| s.as_u16()), status, "{text:?}");
        }
    }
}
