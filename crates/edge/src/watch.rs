//! When a connection has used up its time: pure, given what was seen and `now`.
//!
//! A sweep over all connections of a listener replaces a timer per connection or per request. A sweep sees a change up to one
//! [`period`] late, so a connection closes between its timeout and its timeout plus two periods, never early.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{Limits, hit};

/// How long we wait for the peer to close after our last byte, so that it can read our answer before the socket is reset
/// (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(1);

/// What one look at a connection shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Heads completed so far.
    pub requests: u32,
    pub in_flight: bool,
    /// Bytes of a head came in that is not complete.
    pub partial_head: bool,
    /// The peer takes no bytes; the number tells one stall from the next.
    pub stalled: Option<u32>,
    pub lingering: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Head(u32),
    Idle(u32),
    Busy,
    Stalled(u32),
    Lingering,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Finish(&'static str),
    Abort(Option<&'static str>),
}

/// What is remembered between two looks at one connection.
#[derive(Debug)]
pub(crate) struct Watch {
    phase: Phase,
    since: Instant,
    asked_to_finish: bool,
}

impl Watch {
    pub(crate) fn new(now: Instant) -> Self {
        Self { phase: Phase::Head(0), since: now, asked_to_finish: false }
    }

    pub(crate) fn look(&mut self, seen: Seen, limits: &Limits, now: Instant) -> Verdict {
        let phase = phase(seen);
        if phase != self.phase {
            self.phase = phase;
            self.since = now;
            return Verdict::Keep;
        }
        let spent = now.saturating_duration_since(self.since);
        match phase {
            Phase::Busy => Verdict::Keep,
            Phase::Lingering if spent >= LINGER => Verdict::Abort(None),
            Phase::Head(_) if spent >= limits.header_timeout => Verdict::Abort(Some(hit::HEADER_TIMEOUT)),
            Phase::Stalled(_) if spent >= limits.idle_timeout => Verdict::Abort(Some(hit::WRITE_TIMEOUT)),
            Phase::Idle(_) if spent >= limits.idle_timeout && self.asked_to_finish => Verdict::Abort(None),
            Phase::Idle(_) if spent >= limits.idle_timeout => {
                // HTTP/2 may hold bytes that the peer has not made room for; it gets the same time again for them.
                self.asked_to_finish = true;
                self.since = now;
                Verdict::Finish(hit::IDLE_TIMEOUT)
            }
            _ => Verdict::Keep,
        }
    }
}

fn phase(seen: Seen) -> Phase {
    match seen {
        Seen { lingering: true, .. } => Phase::Lingering,
        Seen { stalled: Some(stall), .. } => Phase::Stalled(stall),
        Seen { in_flight: true, .. } => Phase::Busy,
        Seen { partial_head: true, requests, .. } => Phase::Head(requests),
        Seen { requests, .. } => Phase::Idle(requests),
    }
}

/// Time between two sweeps: a sixteenth of the shortest timeout, between 5 ms and 1 s.
pub(crate) fn period(limits: &Limits) -> Duration {
    let shortest = limits.header_timeout.min(limits.idle_timeout);
    (shortest / 16).clamp(Duration::from_millis(5), Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Seen = Seen { requests: 0, in_flight: false, partial_head: true, stalled: None, lingering: false };
    const IDLE: Seen = Seen { requests: 1, partial_head: false, ..NEW };
    const BUSY: Seen = Seen { requests: 1, partial_head: false, in_flight: true, ..NEW };

    /// Looks at the given seconds; all but the last look must keep the connection.
    fn check(looks: &[(u64, Seen)], last: Verdict) {
        let limits = Limits::default();
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let (end, before) = looks.split_last().expect("a look");
        for (second, seen) in before {
            assert_eq!(watch.look(*seen, &limits, start + Duration::from_secs(*second)), Verdict::Keep, "at {second} s");
        }
        assert_eq!(watch.look(end.1, &limits, start + Duration::from_secs(end.0)), last);
    }

    #[test]
    fn verdicts() {
        let head = Verdict::Abort(Some(hit::HEADER_TIMEOUT));
        let idle = Verdict::Finish(hit::IDLE_TIMEOUT);
        check(&[(9, NEW)], Verdict::Keep);
        check(&[(10, NEW)], head);
        check(&[(5, IDLE), (79, IDLE)], Verdict::Keep);
        check(&[(5, IDLE), (80, IDLE)], idle);
        check(&[(5, IDLE), (70, Seen { requests: 2, ..IDLE }), (80, Seen { requests: 2, ..IDLE })], Verdict::Keep);
        check(&[(1, IDLE), (2, Seen { requests: 1, ..NEW }), (12, Seen { requests: 1, ..NEW })], head);
        check(&[(1, BUSY), (100_000, BUSY)], Verdict::Keep);
        check(&[(1, BUSY), (2, Seen { stalled: Some(0), ..BUSY }), (76, Seen { stalled: Some(0), ..BUSY })], Verdict::Keep);
        let stall = Seen { stalled: Some(4), ..BUSY };
        check(&[(2, stall), (77, stall)], Verdict::Abort(Some(hit::WRITE_TIMEOUT)));
        check(&[(2, Seen { stalled: Some(3), ..BUSY }), (70, stall), (80, stall)], Verdict::Keep);
        check(&[(1, Seen { lingering: true, ..IDLE }), (2, Seen { lingering: true, ..IDLE })], Verdict::Abort(None));
    }

    #[test]
    fn one_that_does_not_finish_is_aborted() {
        let limits = Limits::default();
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let at = |second| start + Duration::from_secs(second);
        assert_eq!(watch.look(IDLE, &limits, at(0)), Verdict::Keep);
        assert_eq!(watch.look(IDLE, &limits, at(75)), Verdict::Finish(hit::IDLE_TIMEOUT));
        assert_eq!(watch.look(IDLE, &limits, at(149)), Verdict::Keep);
        assert_eq!(watch.look(IDLE, &limits, at(150)), Verdict::Abort(None));
    }
}
