//! The names of a request: its id, and its place in a trace (W3C Trace Context).

use std::cell::Cell;
use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::escape::hex_digits;

/// Longest id that is taken over from a client, in bytes.
const TAKEN_BYTES_MAX: usize = 128;
/// Ids that a thread reserves at once, so that threads do not share a counter per request.
const BLOCK: u64 = 1024;

/// The id of a request: the client's own, or a new one of 24 hexadecimal digits: a random prefix of the process and a counter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(Repr);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Repr {
    Taken(Box<str>),
    Made([u8; 24]),
}

impl RequestId {
    /// Takes over an id of 1 to 128 visible ASCII characters; otherwise makes one.
    pub fn take_or_make(header: Option<&[u8]>) -> Self {
        let taken = header
            .filter(|id| (1..=TAKEN_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic))
            .and_then(|id| std::str::from_utf8(id).ok());
        Self(taken.map_or_else(|| Repr::Made(make()), |id| Repr::Taken(id.into())))
    }

    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Taken(id) => id,
            // Digits are UTF-8 always.
            Repr::Made(digits) => std::str::from_utf8(digits).unwrap_or_default(),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn make() -> [u8; 24] {
    static PREFIX: LazyLock<u32> = LazyLock::new(|| fastrand::u32(..));
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static NUMBERS: Cell<u64> = const { Cell::new(0) };
    }
    let mut number = NUMBERS.get();
    if number.is_multiple_of(BLOCK) {
        number = NEXT.fetch_add(BLOCK, Relaxed);
    }
    // The last number of a block leaves a multiple of BLOCK, which asks for the next block.
    NUMBERS.set(number + 1);
    let mut digits = [0; 24];
    let bytes = PREFIX.to_be_bytes().into_iter().chain(number.to_be_bytes());
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&hex_digits(byte));
    }
    digits
}

/// The id of a trace, never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// The id of a span, never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

impl TraceId {
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl SpanId {
    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// Where a request stands in a trace. `Display` writes the `traceparent` for what we call in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: TraceId,
    /// The caller's span, if the caller sent one.
    pub parent: Option<SpanId>,
    /// Our span.
    pub span_id: SpanId,
    /// Bit 0: the caller may have recorded the trace. A trace that we begin has it unset, since we record none.
    pub flags: u8,
}

impl TraceContext {
    /// Continues the trace of a valid `traceparent` header, or begins one (W3C Trace Context sections 3.2 and 4.2).
    pub fn take_or_make(traceparent: Option<&[u8]>) -> Self {
        let span_id = SpanId(fastrand::u64(1..).to_be_bytes());
        match traceparent.and_then(parse) {
            Some((trace_id, parent, flags)) => Self { trace_id, parent: Some(parent), span_id, flags },
            None => Self { trace_id: TraceId(fastrand::u128(1..).to_be_bytes()), parent: None, span_id, flags: 0 },
        }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// Version 00 has exactly these fields; a later version may append more after a dash; version ff is none.
fn parse(header: &[u8]) -> Option<(TraceId, SpanId, u8)> {
    let (known, more) = header.split_at_checked(55)?;
    let [version] = unhex(&known[..2])?;
    let well_formed = [2, 35, 52].into_iter().all(|at| known[at] == b'-')
        && match version {
            0x00 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more[0] == b'-',
        };
    let trace: [u8; 16] = unhex(&known[3..35])?;
    let span: [u8; 8] = unhex(&known[36..52])?;
    let [flags] = unhex(&known[53..])?;
    // Bits that version 00 does not define are not passed on (section 3.2.2.5).
    (well_formed && trace != [0; 16] && span != [0; 8]).then_some((TraceId(trace), SpanId(span), flags & 1))
}

/// Lower-case digits only, as the specification asks.
fn unhex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn check(header: &str, taken: Option<u8>) {
        let context = TraceContext::take_or_make(Some(header.as_bytes()));
        assert_eq!(context.parent.map(|_| context.flags), taken, "{header}");
        if taken.is_some() {
            assert_eq!(context.trace_id.to_string(), TRACE);
            assert_eq!(context.parent.expect("parent").to_string(), SPAN);
            assert_ne!(context.parent, Some(context.span_id));
        } else {
            assert_ne!(context.trace_id.to_string(), TRACE);
        }
        let again = TraceContext::take_or_make(Some(context.to_string().as_bytes()));
        assert_eq!((again.trace_id, again.parent), (context.trace_id, Some(context.span_id)));
    }

    #[test]
    fn traceparents() {
        check(&format!("00-{TRACE}-{SPAN}-01"), Some(1));
        check(&format!("00-{TRACE}-{SPAN}-00"), Some(0));
        check(&format!("00-{TRACE}-{SPAN}-ff"), Some(1));
        check(&format!("cc-{TRACE}-{SPAN}-01-what-comes-later"), Some(1));
        check(&format!("cc-{TRACE}-{SPAN}-01"), Some(1));
        check(&format!("cc-{TRACE}-{SPAN}-01x"), None);
        check(&format!("00-{TRACE}-{SPAN}-01-more"), None);
        check(&format!("ff-{TRACE}-{SPAN}-01"), None);
        check(&format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None);
        check(&format!("00-{}-{SPAN}-01", "0".repeat(32)), None);
        check(&format!("00-{TRACE}-{}-01", "0".repeat(16)), None);
        check(&format!("00-{TRACE}-{SPAN}-0g"), None);
        check(&format!("00_{TRACE}-{SPAN}-01"), None);
        check(&format!("00-{TRACE}-{SPAN}"), None);
        check("", None);
    }

    fn check_id(header: Option<&[u8]>, taken: bool) {
        let id = RequestId::take_or_make(header);
        assert_eq!(header == Some(id.as_str().as_bytes()), taken, "{header:?}");
        assert!(taken || id.as_str().len() == 24);
    }

    #[test]
    fn request_ids() {
        check_id(Some(b"abc-123"), true);
        check_id(Some(&[b'x'; 128]), true);
        check_id(Some(&[b'x'; 129]), false);
        check_id(Some(b""), false);
        check_id(Some(b"a b"), false);
        check_id(Some(b"a\n"), false);
        check_id(Some("é".as_bytes()), false);
        check_id(None, false);
    }

    #[test]
    fn made_ids_are_unique_across_threads_and_blocks() {
        let make = || (0..3 * BLOCK).map(|_| RequestId::take_or_make(None).to_string()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(make)).collect();
        let ids: HashSet<String> = threads.into_iter().flat_map(|thread| thread.join().expect("thread")).collect();
        assert_eq!(ids.len() as u64, 4 * 3 * BLOCK);
    }

    proptest! {
        #[test]
        fn any_header_gives_a_valid_context(header in any::<Vec<u8>>()) {
            let context = TraceContext::take_or_make(Some(&header));
            prop_assert!(parse(context.to_string().as_bytes()).is_some());
        }
    }
}
