//! Who waits for the record of which id. Pure: what is done with the waiting is the caller's.

use std::collections::HashMap;

use crate::id::CorrelationId;

/// Ids whose end is remembered, to tell late and repeated records from those of others: in two halves, the older of which is
/// forgotten when the younger is full.
const REMEMBERED_MAX: usize = 32 * 1024;

/// The waiting, each with `W` to be told by.
pub struct Waiting<W> {
    by_id: HashMap<CorrelationId, Vec<(u64, W)>>,
    waiting: usize,
    next_ticket: u64,
    remembered: [HashMap<CorrelationId, End>; 2],
}

/// How the waiting for an id ended here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Met,
    /// Nobody waits any more, and no record had come.
    GivenUp,
}

/// What a record was to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Somebody waited for it.
    Awaited,
    /// The first had come already.
    Repeated,
    /// Who waited had given up.
    Late,
    /// Nobody asked here: of another gateway, of a request whose client does not wait, or of nobody at all.
    Unasked,
}

impl<W> Default for Waiting<W> {
    fn default() -> Self {
        Self { by_id: HashMap::new(), waiting: 0, next_ticket: 0, remembered: Default::default() }
    }
}

impl<W> Waiting<W> {
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// A ticket to leave with.
    pub fn enter(&mut self, id: CorrelationId, who: W) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting += 1;
        // Most ids have one who waits.
        self.by_id.entry(id).or_insert_with(|| Vec::with_capacity(1)).push((ticket, who));
        ticket
    }

    /// Does nothing for who was met or left before. Whoever leaves in good order was told to come again.
    pub fn leave(&mut self, id: CorrelationId, ticket: u64, in_order: bool) {
        let Some(waiting) = self.by_id.get_mut(&id) else { return };
        let before = waiting.len();
        waiting.retain(|(t, _)| *t != ticket);
        self.waiting -= before - waiting.len();
        if waiting.is_empty() {
            self.by_id.remove(&id);
            if !in_order {
                self.remember(id, End::GivenUp);
            }
        }
    }

    /// A record of the id is there: who waits for it goes.
    pub fn arrive(&mut self, id: CorrelationId) -> (Arrival, Vec<(u64, W)>) {
        let met = self.by_id.remove(&id).unwrap_or_default();
        self.waiting -= met.len();
        let arrival = match self.end_of(id) {
            _ if !met.is_empty() => Arrival::Awaited,
            Some(End::Met) => Arrival::Repeated,
            Some(End::GivenUp) => Arrival::Late,
            None => Arrival::Unasked,
        };
        if matches!(arrival, Arrival::Awaited | Arrival::Late) {
            self.remember(id, End::Met);
        }
        (arrival, met)
    }

    fn end_of(&self, id: CorrelationId) -> Option<End> {
        self.remembered.iter().find_map(|half| half.get(&id)).copied()
    }

    fn remember(&mut self, id: CorrelationId, end: End) {
        // Who gives up on a record that had come before does not make the next one late.
        let end = if self.end_of(id) == Some(End::Met) { End::Met } else { end };
        if self.remembered[0].len() >= REMEMBERED_MAX / 2 {
            self.remembered.swap(0, 1);
            self.remembered[0].clear();
        }
        self.remembered[0].insert(id, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps: `+n` somebody waits for id n, `-n` the first who waits for it gives up, `>n` it leaves in good order, `=n` a record of
    /// it comes.
    fn check(steps: &str, arrivals: &[(Arrival, usize)], left: usize) {
        let mut waiting = Waiting::default();
        let mut tickets: Vec<(u64, u64)> = Vec::new();
        let mut seen = Vec::new();
        for step in steps.split_whitespace() {
            let n: u64 = step[1..].parse().unwrap();
            let id = CorrelationId::of_number(n);
            match &step[..1] {
                "+" => tickets.push((n, waiting.enter(id, ()))),
                how @ ("-" | ">") => {
                    let at = tickets.iter().position(|(of, _)| *of == n).unwrap();
                    waiting.leave(id, tickets.remove(at).1, how == ">");
                }
                _ => {
                    let (arrival, met) = waiting.arrive(id);
                    seen.push((arrival, met.len()));
                }
            }
        }
        assert_eq!(seen, arrivals, "{steps}");
        assert_eq!((waiting.len(), waiting.by_id.is_empty()), (left, left == 0), "{steps}");
    }

    #[test]
    fn records_meet_who_waits() {
        use Arrival::*;
        check("=1 =1", &[(Unasked, 0), (Unasked, 0)], 0);
        check("+1 =1 =1", &[(Awaited, 1), (Repeated, 0)], 0);
        check("+1 +1 +2 =1", &[(Awaited, 2)], 1);
        check("+1 -1 =1 =1", &[(Late, 0), (Repeated, 0)], 0);
        check("+1 >1 =1 =1", &[(Unasked, 0), (Unasked, 0)], 0);
        check("+1 +1 -1 =1", &[(Awaited, 1)], 0);
        check("+1 =1 -1 =1", &[(Awaited, 1), (Repeated, 0)], 0);
        check("+1 =1 +1 =1 =1", &[(Awaited, 1), (Awaited, 1), (Repeated, 0)], 0);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut waiting = Waiting::default();
        for n in 0..3 * REMEMBERED_MAX as u64 {
            let ticket = waiting.enter(CorrelationId::of_number(n), ());
            waiting.leave(CorrelationId::of_number(n), ticket, false);
        }
        assert!(waiting.remembered.iter().map(HashMap::len).sum::<usize>() <= REMEMBERED_MAX);
        let last = CorrelationId::of_number(3 * REMEMBERED_MAX as u64 - 1);
        assert_eq!(waiting.arrive(last).0, Arrival::Late);
        assert_eq!(waiting.arrive(CorrelationId::of_number(0)).0, Arrival::Unasked);
    }
}
