//! Terms: what records can be looked for by beside the newest of a key. A term is a header (name and value) or a key.
//!
//! A posting says that the record at a position may have a term; hashes collide, so whoever looks compares. Of a key
//! only the records that a newer one in the same segment replaced are posted, since the key table has the newest: keys
//! that do not repeat cost nothing.
//!
//! In memory postings lie in sorted runs, behind them the last few unsorted: they are written in sequence, and no choice
//! of headers makes them slow. On disk they are sorted, in full pages as those of `keytable.rs`.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::bloom;
use crate::frame;
use crate::keytable::{self, BadPage, ENTRIES_MAX, PAGE, Page, Slot};

/// Headers of one record that are posted. A record with more is posted as [`CROWDED`] instead, and then looked at by
/// whoever looks for any header.
pub const HEADERS_MAX: usize = 64;
/// Postings of one segment, 8 bytes each in memory. A segment with more has no index of terms: it is read through.
pub const POSTINGS_MAX: usize = 16 << 20;
/// Postings that lie unsorted; a search looks at each.
const TAIL: usize = 4096;
/// Runs of one size before they are merged into one.
const FAN: usize = 8;

/// The term of records with more than [`HEADERS_MAX`] headers.
pub const CROWDED: u32 = 0x7fb5_d329;
/// Keeps the terms of keys apart from their hashes, and from headers as far as 32 bits can.
const KEY_TAG: u32 = 0x4b5a_0e91;
const VALUE_TAG: u64 = 1;
const NULL_TAG: u64 = 2;

/// The term of a key, from its [`keytable::hash`].
pub fn of_key(hash: u32) -> u32 {
    hash ^ KEY_TAG
}

/// The term of a header; a null value is a value of its own. Salted by the segment, as keys are.
pub fn of_header(name: &str, value: Option<&[u8]>, salt: u32) -> u32 {
    let tag = if value.is_some() { VALUE_TAG } else { NULL_TAG } | u64::from(salt) << 32;
    xxh3_64_with_seed(value.unwrap_or_default(), xxh3_64_with_seed(name.as_bytes(), tag)) as u32
}

/// The terms that the headers of a record are posted under, some perhaps twice.
pub fn of_headers(bytes: &[u8], salt: u32) -> impl Iterator<Item = u32> {
    // The length tells it of nearly all: a header takes 8 bytes at least.
    let crowded = bytes.len() > HEADERS_MAX * 8 && frame::headers(bytes).nth(HEADERS_MAX).is_some();
    let each = frame::headers(if crowded { &[] } else { bytes }).map(move |h| of_header(h.name, h.value, salt));
    each.chain(crowded.then_some(CROWDED))
}

/// A posting in memory, `term << 32 | at8`: one number is sorted faster than two.
fn posting(term: u32, at8: u32) -> u64 {
    u64::from(term) << 32 | u64::from(at8)
}

fn term_of(posting: u64) -> u32 {
    (posting >> 32) as u32
}

struct Run {
    /// How often its postings were merged.
    level: u32,
    at8_max: u32,
    sorted: Vec<u64>,
    /// A bit for each term, by its upper bits: most searches for what is not here end with one look.
    filter: Vec<u64>,
}

/// Bits of a run's filter for each posting: one byte beside eight.
const FILTER_BITS: usize = 8;

impl Run {
    fn new(level: u32, mut sorted: Vec<u64>) -> Self {
        // The stable sort, as it finds the runs that a merge is made of.
        sorted.sort();
        sorted.dedup();
        let at8_max = sorted.iter().map(|p| *p as u32).max().unwrap_or(0);
        let mut run = Self { level, at8_max, filter: vec![0; (sorted.len() * FILTER_BITS).div_ceil(64)], sorted };
        for posting in &run.sorted {
            let bit = bit_of(term_of(*posting), run.filter.len());
            run.filter[bit / 64] |= 1 << (bit % 64);
        }
        run
    }

    fn may_have(&self, term: u32) -> bool {
        let bit = bit_of(term, self.filter.len());
        self.filter.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 != 0)
    }
}

/// Terms are hashes: their upper bits are as good as any.
fn bit_of(term: u32, words: usize) -> usize {
    ((u64::from(term) * (words as u64 * 64)) >> 32) as usize
}

/// Which positions / 8 are wanted, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// From here on, rising.
    From(u32),
    /// Below this, falling.
    Below(u32),
}

impl Span {
    fn edge8(self) -> u32 {
        let (Self::From(at8) | Self::Below(at8)) = self;
        at8
    }

    pub fn holds(self, at8: u32) -> bool {
        match self {
            Self::From(from) => at8 >= from,
            Self::Below(below) => at8 < below,
        }
    }

    /// The first `max` in the order of the span, each once.
    pub fn order(self, found: &mut Vec<u32>, max: usize) {
        found.sort_unstable();
        found.dedup();
        if let Self::Below(_) = self {
            found.reverse();
        }
        found.truncate(max);
    }
}

/// The postings of one segment in memory.
#[derive(Default)]
pub struct Terms {
    tail: Vec<u64>,
    /// The terms of the tail, again: many are compared at a time.
    tail_terms: Vec<u32>,
    /// Whether [`CROWDED`] was ever posted.
    has_crowded: bool,
    /// The older the further merged.
    runs: Vec<Run>,
    count: usize,
}

impl Terms {
    pub fn post(&mut self, term: u32, at8: u32) {
        if self.count >= POSTINGS_MAX {
            (self.tail, self.tail_terms, self.runs) = Default::default();
            return;
        }
        self.count += 1;
        self.tail.push(posting(term, at8));
        self.tail_terms.push(term);
        self.has_crowded |= term == CROWDED;
        if self.tail.len() == TAIL {
            self.fold();
        }
    }

    /// False once there were more than [`POSTINGS_MAX`]: then nothing is known of any term.
    pub fn is_complete(&self) -> bool {
        self.count < POSTINGS_MAX
    }

    fn fold(&mut self) {
        let mut run = Run::new(0, std::mem::take(&mut self.tail));
        self.tail_terms.clear();
        loop {
            let equals = self.runs.iter().rev().take_while(|r| r.level == run.level).count();
            if equals + 1 < FAN {
                break;
            }
            let mut merged = Vec::with_capacity(run.sorted.len() * FAN);
            self.runs.drain(self.runs.len() - equals..).for_each(|r| merged.extend(r.sorted));
            merged.append(&mut run.sorted);
            run = Run::new(run.level + 1, merged);
        }
        self.runs.push(run);
    }

    /// How many postings of a term there are at most.
    pub fn count(&self, term: u32) -> usize {
        let in_run = |r: &Run| {
            let from = r.sorted.partition_point(|p| term_of(*p) < term);
            r.sorted[from..].partition_point(|p| term_of(*p) == term)
        };
        self.runs.iter().filter(|r| r.may_have(term)).map(in_run).sum::<usize>() + self.count_in_tail(term)
    }

    fn count_in_tail(&self, term: u32) -> usize {
        self.tail_terms.iter().filter(|t| **t == term).count()
    }

    /// Adds positions / 8 of a term within a span, in its order, each once: the first `max`.
    pub fn positions(&self, term: u32, span: Span, max: usize, out: &mut Vec<u32>) {
        if term == CROWDED && !self.has_crowded {
            return;
        }
        let mut found = Vec::new();
        let edge = posting(term, span.edge8());
        let is_of_term = |p: &&u64| term_of(**p) == term;
        let runs = self.runs.iter().filter(|r| r.may_have(term));
        for run in runs.filter(|r| span.holds(r.at8_max) || matches!(span, Span::Below(_))) {
            let (before, after) = run.sorted.split_at(run.sorted.partition_point(|p| *p < edge));
            match span {
                Span::From(_) => found.extend(after.iter().take(max).take_while(is_of_term).map(|p| *p as u32)),
                Span::Below(_) => found.extend(before.iter().rev().take(max).take_while(is_of_term).map(|p| *p as u32)),
            }
        }
        if self.count_in_tail(term) > 0 {
            found.extend(self.tail.iter().filter(|p| is_of_term(p) && span.holds(**p as u32)).map(|p| *p as u32));
        }
        span.order(&mut found, max);
        out.append(&mut found);
    }

    pub fn heap_bytes(&self) -> usize {
        let postings = self.tail.capacity() + self.runs.iter().map(|r| r.sorted.capacity()).sum::<usize>();
        let filters = self.runs.iter().map(|r| r.filter.capacity()).sum::<usize>();
        let terms = self.tail_terms.capacity() * size_of::<u32>();
        (postings + filters) * size_of::<u64>() + terms + self.runs.capacity() * size_of::<Run>()
    }

    /// The filter and the pages of these postings as they go to disk.
    pub fn build(&self) -> (Vec<u8>, Vec<u8>) {
        let mut all: Vec<_> = self.runs.iter().flat_map(|r| &r.sorted).chain(&self.tail).copied().collect();
        all.sort();
        all.dedup();
        let mut terms: Vec<u32> = all.iter().map(|p| term_of(*p)).collect();
        terms.dedup();
        let filter = bloom::build(terms.into_iter());
        let mut out = Vec::with_capacity(all.len().div_ceil(ENTRIES_MAX) * PAGE);
        for page in all.chunks(ENTRIES_MAX) {
            let slots = page.iter().map(|p| Slot { hash: term_of(*p), at8: *p as u32 });
            keytable::push_page(&mut out, slots, false);
        }
        (filter, out)
    }
}

/// How many postings lie before this one, be it there or not.
fn rank(pages: &[u8], slot: Slot) -> Result<usize, BadPage> {
    let (mut low, mut high) = (0, pages.len() / PAGE);
    let mut within = 0; // how many postings of page `high` are below
    // The first page whose last posting is not below the one wanted.
    while low < high {
        let middle = low.midpoint(high);
        let page = Page::read(pages, middle)?;
        let below = page.rank(slot);
        if below == page.slots().len() {
            low = middle + 1;
        } else {
            high = middle;
            within = below;
        }
    }
    let count = pages.len() / PAGE;
    if low == count && low > 0 {
        // Behind the last page, which may not be full.
        return Ok((low - 1) * ENTRIES_MAX + Page::read(pages, low - 1)?.slots().len());
    }
    Ok(low * ENTRIES_MAX + within)
}

/// As [`Terms::count`], in pages.
pub fn count_in(pages: &[u8], term: u32) -> Result<usize, BadPage> {
    let from = rank(pages, Slot { hash: term, at8: 0 })?;
    let to = match term.checked_add(1) {
        Some(next) => rank(pages, Slot { hash: next, at8: 0 })?,
        None => pages.len() / PAGE * ENTRIES_MAX,
    };
    Ok(to.saturating_sub(from))
}

/// As [`Terms::positions`], in pages.
pub fn positions_in(pages: &[u8], term: u32, span: Span, max: usize, out: &mut Vec<u32>) -> Result<(), BadPage> {
    let first = rank(pages, Slot { hash: term, at8: span.edge8() })?;
    if let Span::Below(_) = span {
        let mut left = max;
        let (mut i, mut take) = (first / ENTRIES_MAX, first % ENTRIES_MAX);
        loop {
            if take > 0 {
                let page = Page::read(pages, i)?;
                let slots: Vec<Slot> = page.slots().take(take).collect();
                for slot in slots.iter().rev() {
                    if slot.hash != term || left == 0 {
                        return Ok(());
                    }
                    out.push(slot.at8);
                    left -= 1;
                }
            }
            if i == 0 {
                return Ok(());
            }
            (i, take) = (i - 1, ENTRIES_MAX);
        }
    }
    let (mut left, mut skip) = (max, first % ENTRIES_MAX);
    for i in first / ENTRIES_MAX..pages.len() / PAGE {
        let page = Page::read(pages, i)?;
        for slot in page.slots().skip(skip) {
            if slot.hash != term || left == 0 {
                return Ok(());
            }
            out.push(slot.at8);
            left -= 1;
        }
        skip = 0;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Both forms against a filter over the list, read in steps of `max`.
    fn check(postings: &[(u32, u32)], max: usize) {
        let mut terms = Terms::default();
        postings.iter().for_each(|&(term, at8)| terms.post(term, at8));
        let (filter, pages) = terms.build();
        for term in [0, 1, 2, 3, 4, u32::MAX] {
            let mut expected: Vec<_> = postings.iter().filter(|p| p.0 == term).map(|p| p.1).collect();
            let posted = expected.len();
            assert!(posted == 0 || bloom::may_hold(&filter, term));
            expected.sort_unstable();
            expected.dedup();
            let counts = expected.len()..=posted;
            assert!(counts.contains(&terms.count(term)), "{} of {counts:?}", terms.count(term));
            let tolerance = if term == u32::MAX { ENTRIES_MAX } else { 0 };
            assert!(count_in(&pages, term).unwrap().abs_diff(expected.len()) <= tolerance);
            let mut backwards = Vec::new();
            loop {
                let (before, edge) = (backwards.len(), Span::Below(backwards.last().copied().unwrap_or(u32::MAX)));
                terms.positions(term, edge, max, &mut backwards);
                let mut in_pages = Vec::new();
                positions_in(&pages, term, edge, max, &mut in_pages).unwrap();
                assert_eq!(in_pages, backwards[before..]);
                if backwards.len() - before < max {
                    break;
                }
            }
            backwards.reverse();
            assert_eq!(backwards, expected.iter().copied().filter(|at8| *at8 < u32::MAX).collect::<Vec<_>>());
            let in_steps = |step: &dyn Fn(u32, &mut Vec<u32>)| {
                let mut all = Vec::new();
                loop {
                    let before = all.len();
                    let from = all.last().map_or(0, |at8| at8 + 1);
                    step(from, &mut all);
                    assert!(all[before..].iter().all(|at8| *at8 >= from));
                    if all.len() - before < max {
                        return all;
                    }
                }
            };
            assert_eq!(in_steps(&|from, out| terms.positions(term, Span::From(from), max, out)), expected);
            assert_eq!(in_steps(&|from, out| positions_in(&pages, term, Span::From(from), max, out).unwrap()), expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn postings_are_found_in_order(
            some in proptest::collection::vec((prop_oneof![0..4u32, Just(u32::MAX)], 1..3000u32), 1..300),
            times in 1..90u32,
            max in 1..400usize,
        ) {
            let many: Vec<_> = (0..times).flat_map(|i| some.iter().map(move |(term, at8)| (*term, at8 + i * 700))).collect();
            check(&many, max);
        }

        #[test]
        fn a_flipped_bit_is_no_miss(at: prop::sample::Index, bit in 0..8u8, term in 0..8u32) {
            let mut terms = Terms::default();
            (0..2000).for_each(|i| terms.post(i % 8, i + 8));
            let (_, mut pages) = terms.build();
            let at = at.index(pages.len());
            pages[at] ^= 1 << bit;
            let mut found = Vec::new();
            let answer = positions_in(&pages, term, Span::From(0), 2000, &mut found);
            prop_assert!(answer.is_err() || found.len() == 250);
        }
    }

    #[test]
    fn headers_of_other_names_and_values_are_other_terms() {
        let headers =
            [("a", Some(&b"b"[..])), ("a", None), ("a", Some(b"")), ("ab", Some(b"")), ("", Some(b"ab")), ("b", Some(b"a"))];
        let mut terms: Vec<_> = headers.iter().map(|(name, value)| of_header(name, *value, 7)).collect();
        terms.sort_unstable();
        terms.dedup();
        assert_eq!(terms.len(), headers.len());
    }

    #[test]
    fn a_record_with_very_many_headers_is_one_posting() {
        let header = [1u32.to_le_bytes().as_slice(), &0u32.to_le_bytes(), b"n"].concat();
        assert_eq!(of_headers(&header.repeat(HEADERS_MAX), 7).count(), HEADERS_MAX);
        assert_eq!(of_headers(&header.repeat(HEADERS_MAX + 1), 7).collect::<Vec<_>>(), [CROWDED]);
        assert_eq!(of_headers(&[], 7).count(), 0);
    }

    #[test]
    fn memory_is_bounded_and_a_posting_small() {
        let mut terms = Terms::default();
        for i in 0..1_000_000u32 {
            terms.post(i.wrapping_mul(0x9e37_79b9), i + 8);
        }
        let each = terms.heap_bytes() as f64 / 1e6;
        assert!(each <= 12.0, "{each} bytes per posting");
        terms.count = POSTINGS_MAX;
        terms.post(1, 1);
        assert!(!terms.is_complete() && terms.heap_bytes() == 0);
    }
}
