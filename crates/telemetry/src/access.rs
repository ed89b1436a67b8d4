//! One line per request, written without `tracing`'s machinery because it runs for every request.

use std::cell::RefCell;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::escape::{Style, escape, escape_bytes, hex};
use crate::ids::TraceId;
use crate::names::{ACCESS_TARGET, field};
use crate::queue::LogQueue;

/// What is known about a request when its response has ended.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    pub request_id: &'a str,
    pub trace_id: TraceId,
    pub method: &'a str,
    /// The path as it was sent; leave the query out where it may hold secrets.
    pub path: &'a str,
    /// The matched route; empty if there was none.
    pub route: &'a str,
    pub status: u16,
    /// Bytes of the request body, if counted.
    pub bytes_in: Option<u64>,
    /// Bytes of the response body, if counted.
    pub bytes_out: Option<u64>,
    pub duration: Duration,
    /// The records of an exchange.
    pub request: Option<RecordStep>,
    pub reply: Option<RecordStep>,
    pub peer: SocketAddr,
    /// The header's bytes, which need not be UTF-8.
    pub user_agent: Option<&'a [u8]>,
}

/// A record of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordStep {
    pub partition: i32,
    pub offset: i64,
    /// When it was written or seen, from the whole request on.
    pub after: Duration,
}

/// The access log; cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: LogQueue,
    style: Style,
}

thread_local! {
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl AccessLog {
    pub(crate) fn new(queue: LogQueue, style: Style) -> Self {
        Self { queue, style }
    }

    /// Queues a line. Never blocks on the output; a full queue drops the line and counts it.
    pub fn log(&self, entry: &Entry<'_>) {
        LINE.with_borrow_mut(|line| {
            line.clear();
            match self.style {
                Style::Json => json(line, entry, SystemTime::now()),
                Style::Text => text(line, entry, SystemTime::now()),
            }
            self.queue.push(line);
        });
    }
}

fn json(line: &mut Vec<u8>, entry: &Entry<'_>, now: SystemTime) {
    line.push(b'{');
    name(line, field::TIMESTAMP);
    line.push(b'"');
    timestamp(line, now);
    line.extend_from_slice(b"\",");
    name(line, field::LEVEL);
    line.extend_from_slice(b"\"INFO\",");
    string(line, field::TARGET, ACCESS_TARGET);
    string(line, field::REQUEST_ID, entry.request_id);
    name(line, field::TRACE_ID);
    line.push(b'"');
    hex(line, entry.trace_id.as_bytes());
    line.extend_from_slice(b"\",");
    string(line, field::METHOD, entry.method);
    string(line, field::PATH, entry.path);
    if !entry.route.is_empty() {
        string(line, field::ROUTE, entry.route);
    }
    name(line, field::STATUS);
    number(line, entry.status.into());
    for (field, bytes) in [(field::BYTES_IN, entry.bytes_in), (field::BYTES_OUT, entry.bytes_out)] {
        if let Some(bytes) = bytes {
            line.push(b',');
            name(line, field);
            number(line, bytes);
        }
    }
    line.push(b',');
    name(line, field::DURATION_MS);
    milliseconds(line, entry.duration);
    each_step(entry, |field, value| {
        line.push(b',');
        name(line, field);
        value.write(line);
    });
    line.push(b',');
    name(line, field::PEER);
    line.push(b'"');
    peer(line, entry.peer);
    line.push(b'"');
    if let Some(agent) = entry.user_agent {
        line.push(b',');
        name(line, field::USER_AGENT);
        line.push(b'"');
        escape_bytes(line, agent, Style::Json);
        line.push(b'"');
    }
    line.extend_from_slice(b"}\n");
}

enum StepValue {
    Number(u64),
    Time(Duration),
}

impl StepValue {
    fn write(self, line: &mut Vec<u8>) {
        match self {
            Self::Number(n) => number(line, n),
            Self::Time(time) => milliseconds(line, time),
        }
    }
}

fn each_step(entry: &Entry<'_>, mut each: impl FnMut(&'static str, StepValue)) {
    const REQUEST: [&str; 3] = [field::REQUEST_PARTITION, field::REQUEST_OFFSET, field::REQUEST_MS];
    const REPLY: [&str; 3] = [field::REPLY_PARTITION, field::REPLY_OFFSET, field::REPLY_MS];
    for (fields, step) in [(REQUEST, entry.request), (REPLY, entry.reply)] {
        let Some(RecordStep { partition, offset, after }) = step else { continue };
        let unsigned = |n: i64| StepValue::Number(u64::try_from(n).unwrap_or(0));
        let values = [unsigned(partition.into()), unsigned(offset), StepValue::Time(after)];
        fields.into_iter().zip(values).for_each(|(field, value)| each(field, value));
    }
}

fn text(line: &mut Vec<u8>, entry: &Entry<'_>, now: SystemTime) {
    timestamp(line, now);
    line.extend_from_slice(b"  INFO ");
    line.extend_from_slice(ACCESS_TARGET.as_bytes());
    line.extend_from_slice(b": ");
    escape(line, entry.method, Style::Text);
    line.push(b' ');
    escape(line, entry.path, Style::Text);
    line.push(b' ');
    number(line, entry.status.into());
    line.push(b' ');
    milliseconds(line, entry.duration);
    line.extend_from_slice(b"ms");
    if !entry.route.is_empty() {
        quoted(line, field::ROUTE, entry.route.as_bytes());
    }
    for (field, bytes) in [(field::BYTES_IN, entry.bytes_in), (field::BYTES_OUT, entry.bytes_out)] {
        if let Some(bytes) = bytes {
            key(line, field);
            number(line, bytes);
        }
    }
    each_step(entry, |field, value| {
        key(line, field);
        value.write(line);
    });
    key(line, field::PEER);
    peer(line, entry.peer);
    key(line, field::REQUEST_ID);
    escape(line, entry.request_id, Style::Text);
    key(line, field::TRACE_ID);
    hex(line, entry.trace_id.as_bytes());
    if let Some(agent) = entry.user_agent {
        quoted(line, field::USER_AGENT, agent);
    }
    line.push(b'\n');
}

fn name(line: &mut Vec<u8>, name: &str) {
    line.push(b'"');
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(b"\":");
}

/// A string field and the comma after it.
fn string(line: &mut Vec<u8>, field: &str, value: &str) {
    name(line, field);
    line.push(b'"');
    escape(line, value, Style::Json);
    line.extend_from_slice(b"\",");
}

fn key(line: &mut Vec<u8>, name: &str) {
    line.push(b' ');
    line.extend_from_slice(name.as_bytes());
    line.push(b'=');
}

fn quoted(line: &mut Vec<u8>, name: &str, value: &[u8]) {
    key(line, name);
    line.push(b'"');
    escape_bytes(line, value, Style::Text);
    line.push(b'"');
}

fn number(line: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[start..]);
}

/// `width` digits, zeros in front.
fn padded(line: &mut Vec<u8>, value: u64, width: u32) {
    for place in (0..width).rev() {
        line.push(b'0' + (value / 10_u64.pow(place) % 10) as u8);
    }
}

fn milliseconds(line: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    number(line, micros / 1000);
    line.push(b'.');
    padded(line, micros % 1000, 3);
}

fn peer(line: &mut Vec<u8>, peer: SocketAddr) {
    match peer {
        SocketAddr::V4(peer) => {
            for (at, octet) in peer.ip().octets().into_iter().enumerate() {
                if at > 0 {
                    line.push(b'.');
                }
                number(line, octet.into());
            }
            line.push(b':');
            number(line, peer.port().into());
        }
        // Writing into memory does not fail.
        SocketAddr::V6(peer) => drop(write!(line, "{peer}")),
    }
}

/// RFC 3339 in UTC with microseconds, as `tracing_subscriber` writes it. Before 1970 it is 1970.
fn timestamp(line: &mut Vec<u8>, now: SystemTime) {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    for (value, width, after) in [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (second / 3600, 2, b':'),
        (second / 60 % 60, 2, b':'),
        (second % 60, 2, b'.'),
        (since.subsec_micros().into(), 6, b'Z'),
    ] {
        padded(line, value, width);
        line.push(after);
    }
}

/// Year, month and day of a day since 1970 in the Gregorian calendar. Counted from the first of March of the year 0, so that the
/// leap day ends a year, in cycles of 400 years, which all have the same number of days.
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970: u64 = 719_468;
    const DAYS_IN_CYCLE: u64 = 146_097;
    let days = days_since_1970 + DAYS_TO_1970;
    let (cycle, day) = (days / DAYS_IN_CYCLE, days % DAYS_IN_CYCLE);
    let year = (day - day / 1460 + day / 36_524 - day / (DAYS_IN_CYCLE - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (cycle * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::TraceContext;
    use crate::queue::tests::Memory;

    fn entry<'a>(path: &'a str, agent: Option<&'a [u8]>) -> Entry<'a> {
        Entry {
            request_id: "r-1",
            trace_id: TraceContext::take_or_make(Some(b"00-abababababababababababababababab-b7ad6b7169203331-01")).trace_id,
            method: "GET",
            path,
            route: "GET /items/{id}",
            status: 200,
            bytes_in: None,
            bytes_out: Some(1024),
            duration: Duration::from_micros(1_234_005),
            request: None,
            reply: None,
            peer: "192.0.2.1:40123".parse().expect("address"),
            user_agent: agent,
        }
    }

    fn line(write: fn(&mut Vec<u8>, &Entry<'_>, SystemTime), entry: &Entry<'_>) -> String {
        let mut line = Vec::new();
        write(&mut line, entry, UNIX_EPOCH + Duration::from_micros(1_763_711_700_012_345));
        String::from_utf8(line).expect("text")
    }

    #[test]
    fn lines() {
        let trace = "ab".repeat(16);
        assert_eq!(
            line(text, &entry("/items/7", Some(b"curl/8 \"x\"\x1b\xff"))),
            format!(
                "2025-11-21T07:55:00.012345Z  INFO access: GET /items/7 200 1234.005ms route=\"GET /items/{{id}}\" bytes_out=1024 \
                 peer=192.0.2.1:40123 request_id=r-1 trace_id={trace} user_agent=\"curl/8 \\\"x\\\"\\x1b\u{fffd}\"\n"
            )
        );
        let json = line(json, &entry("/items/7", Some(b"a\"\x1b\xff")));
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let expected = serde_json::json!({
            "timestamp": "2025-11-21T07:55:00.012345Z", "level": "INFO", "target": "access", "request_id": "r-1", "trace_id": trace,
            "method": "GET", "path": "/items/7", "route": "GET /items/{id}", "status": 200, "bytes_out": 1024,
            "duration_ms": 1234.005, "peer": "192.0.2.1:40123", "user_agent": "a\"\u{1b}\u{fffd}",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn records_of_an_exchange() {
        let step = |offset, micros| Some(RecordStep { partition: 2, offset, after: Duration::from_micros(micros) });
        let entry = Entry { request: step(7, 1_500), reply: step(9, 20_000), ..entry("/", None) };
        let value: serde_json::Value = serde_json::from_str(&line(json, &entry)).expect("JSON");
        for (field, expected) in [
            ("request_partition", 2.0),
            ("request_offset", 7.0),
            ("request_ms", 1.5),
            ("reply_partition", 2.0),
            ("reply_offset", 9.0),
            ("reply_ms", 20.0),
        ] {
            assert_eq!(value[field].as_f64(), Some(expected), "{field}");
        }
        let text = line(text, &entry);
        assert!(
            text.contains(" request_partition=2 request_offset=7 request_ms=1.500 reply_partition=2 reply_offset=9"),
            "{text}"
        );
    }

    #[test]
    fn other_peers_and_no_route() {
        let mut entry = entry("/", None);
        entry.route = "";
        entry.bytes_in = Some(u64::MAX);
        entry.peer = "[2001:db8::1]:443".parse().expect("address");
        let value: serde_json::Value = serde_json::from_str(&line(json, &entry)).expect("JSON");
        assert_eq!(value["peer"], "[2001:db8::1]:443");
        assert_eq!(value["bytes_in"], u64::MAX);
        assert_eq!(value.get("route"), None);
        assert_eq!(value.get("user_agent"), None);
    }

    fn check_date(days: u64, expected: (u64, u64, u64)) {
        assert_eq!(date(days), expected);
    }

    #[test]
    fn dates() {
        check_date(0, (1970, 1, 1));
        check_date(58, (1970, 2, 28));
        check_date(59, (1970, 3, 1));
        check_date(11_016, (2000, 2, 29));
        check_date(11_017, (2000, 3, 1));
        check_date(19_782, (2024, 2, 29));
        check_date(20_453, (2025, 12, 31));
        check_date(47_540, (2100, 2, 28));
        check_date(47_541, (2100, 3, 1));
    }

    #[test]
    fn lines_reach_the_queue() {
        let memory = Memory::default();
        let (queue, thread) = LogQueue::start(Box::new(memory.clone()), 1 << 20).expect("start");
        let log = AccessLog::new(queue.clone(), Style::Json);
        log.log(&entry("/a", None));
        log.log(&entry("/b", None));
        queue.close();
        thread.join().expect("writer");
        let text = memory.text();
        let paths = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["path"].clone());
        assert_eq!(paths.collect::<Vec<_>>(), ["/a", "/b"]);
    }

    proptest! {
        #[test]
        fn any_entry_is_one_line(path in any::<String>(), agent in any::<Vec<u8>>(), micros in any::<u64>()) {
            let mut entry = entry(&path, Some(&agent));
            entry.duration = Duration::from_micros(micros);
            let json = line(json, &entry);
            let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            prop_assert_eq!(value["path"].as_str(), Some(path.as_str()));
            let text = line(text, &entry);
            for line in [json, text] {
                prop_assert_eq!(line.chars().filter(|c| c.is_control()).count(), 1);
                prop_assert!(line.ends_with('\n'));
            }
        }
    }
}
