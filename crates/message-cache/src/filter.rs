//! Which records a reader wants, by key and headers, and which of a segment are worth a look for it.

use crate::error::LogError;
use crate::index::Index;
use crate::keytable;
use crate::record::Record;
use crate::segment::Segment;
use crate::terms::{self, Span};

/// Records that fulfil at least one clause. Without a clause there is no such record; [`Filter::all`] is for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub any: Vec<Clause>,
}

/// What a record must have: all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clause {
    /// `None` is fulfilled by every record, also of a null key.
    pub key: Option<Vec<u8>>,
    /// Name and value; fulfilled if any header of that name has that value. `None` asks for a null value.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Filter {
    pub fn all() -> Self {
        Self { any: vec![Clause::default()] }
    }

    pub fn matches(&self, record: &Record) -> bool {
        self.any.iter().any(|c| c.matches(record))
    }

    /// As [`Filter::matches`], for a record that is not in a log.
    pub fn matches_parts(&self, key: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) -> bool {
        let fulfils = |c: &Clause| {
            let has = |(name, value): &(String, Option<Vec<u8>>)| headers.contains(&(name.as_str(), value.as_deref()));
            c.key.as_deref().is_none_or(|k| key == Some(k)) && c.headers.iter().all(has)
        };
        self.any.iter().any(fulfils)
    }
}

impl Clause {
    pub fn matches(&self, record: &Record) -> bool {
        let has = |name: &str, value: Option<&[u8]>| record.headers().any(|h| h.name == name && h.value == value);
        self.key.as_deref().is_none_or(|k| record.key() == Some(k)) && self.headers.iter().all(|(n, v)| has(n, v.as_deref()))
    }

    fn matches_all(&self) -> bool {
        self.key.is_none() && self.headers.is_empty()
    }
}

/// Which part of a segment is looked at, in bytes, and from which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    From(u64),
    Below(u64),
}

/// Positions of records, in bytes, in the order of the span, each once, that may match: the first `max` (at least one).
/// No other record before the last of them matches; fewer than `max` are all that the span has. `None`: no index
/// helps, so every record is a candidate. Costs a few binary searches, and `max` postings for each clause.
///
/// # Errors
/// A damaged page of the index: the records must then be read through.
pub fn candidates(
    index: &dyn Index,
    segment: &Segment,
    filter: &Filter,
    span: At,
    max: usize,
) -> Result<Option<Vec<u64>>, LogError> {
    if filter.any.iter().any(Clause::matches_all) || !index.has_terms() {
        return Ok(None);
    }
    let max = max.max(1);
    let span = match span {
        At::From(at) => match u32::try_from(at.div_ceil(8)) {
            Ok(from8) => Span::From(from8),
            Err(_) => return Ok(Some(Vec::new())),
        },
        At::Below(at) => Span::Below(u32::try_from(at.div_ceil(8)).unwrap_or(u32::MAX)),
    };
    let mut found = Vec::new();
    for clause in &filter.any {
        of_clause(index, segment, clause, span, max, &mut found)?;
    }
    // A list that was cut short has `max` entries, so the first `max` of all lists lie before the cut.
    span.order(&mut found, max);
    Ok(Some(found.into_iter().map(|at8| u64::from(at8) * 8).collect()))
}

/// Adds the first `max` records of the rarest thing that a clause asks for, and maybe later ones.
fn of_clause(
    index: &dyn Index,
    segment: &Segment,
    clause: &Clause,
    span: Span,
    max: usize,
    out: &mut Vec<u32>,
) -> Result<(), LogError> {
    let mut newest = Vec::new();
    let mut rarest = None;
    if let Some(key) = &clause.key {
        let hash = keytable::hash(key, segment.salt);
        index.newest_of_hash(segment, hash, &mut newest)?;
        if newest.is_empty() {
            return Ok(());
        }
        let replaced = index.count(segment, terms::of_key(hash))?;
        rarest = Some((replaced + newest.len(), terms::of_key(hash)));
    }
    for (name, value) in &clause.headers {
        let term = terms::of_header(name, value.as_deref(), segment.salt);
        // With nothing to compare it to, the rarest needs no counting.
        let is_alone = clause.key.is_none() && clause.headers.len() == 1;
        let count = if is_alone { 0 } else { index.count(segment, term)? };
        if rarest.is_none_or(|(fewest, _)| count < fewest) {
            rarest = Some((count, term));
            newest.clear();
        }
    }
    let Some((_, term)) = rarest else { return Ok(()) };
    index.positions(segment, term, span, max, out)?;
    if newest.is_empty() {
        return index.positions(segment, terms::CROWDED, span, max, out);
    }
    out.extend(newest.into_iter().filter(|at8| span.holds(*at8)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::files::Files;
    use crate::frame;
    use crate::head::{Entry, Tables};
    use crate::index::{self, DiskIndex};
    use crate::record::{Header, NewRecord};
    use crate::segment::Birth;
    use crate::terms::HEADERS_MAX;

    /// Key, headers by number of name and value.
    type Row = (Option<u8>, Vec<(u8, Option<u8>)>);

    const NAMES: [&str; 3] = ["a", "b", "ab"];

    fn row() -> impl Strategy<Value = Row> {
        let header = (0..3u8, proptest::option::weighted(0.8, 0..4u8));
        let headers = prop_oneof![
            8 => proptest::collection::vec(header.clone(), 0..4),
            1 => proptest::collection::vec(header, HEADERS_MAX..HEADERS_MAX + 4),
        ];
        (proptest::option::weighted(0.9, 0..9u8), headers)
    }

    fn clause() -> impl Strategy<Value = Clause> {
        let value = proptest::option::weighted(0.8, (0..5u8).prop_map(|v| vec![v]));
        let header = (0..3usize, value).prop_map(|(name, value)| (NAMES[name].to_owned(), value));
        let key = proptest::option::of((0..10u8).prop_map(|k| vec![k]));
        (key, proptest::collection::vec(header, 0..3)).prop_map(|(key, headers)| Clause { key, headers })
    }

    fn filter() -> impl Strategy<Value = Filter> {
        proptest::collection::vec(clause(), 0..4).prop_map(|any| Filter { any })
    }

    /// In memory, where there is such a place.
    fn directory() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
    }

    /// A segment of these records with the index in memory.
    fn segment_of(dir: &std::path::Path, rows: &[Row]) -> (Segment, Tables) {
        let birth = Birth { base_offset: 0, generation: 0, capacity: 4 << 20, now_ms: 0, follows: None, durable: false };
        let segment = Segment::create(dir, &birth, &Files::default()).unwrap();
        let mut entries = Vec::new();
        for (offset, (key, headers)) in (0..).zip(rows) {
            let key = key.map(|k| [k]);
            let values: Vec<_> = headers.iter().map(|(name, value)| (*name, value.map(|v| [v]))).collect();
            let named =
                values.iter().map(|(name, v)| Header { name: NAMES[usize::from(*name)], value: v.as_ref().map(|v| &v[..]) });
            let headers: Vec<_> = named.collect();
            let key = key.as_ref().map(|k| &k[..]);
            let record = NewRecord { offset, timestamp_ms: 1000 - offset, key, headers: &headers, ..NewRecord::default() };
            let mut bytes = Vec::new();
            frame::encode(&record, frame::length_of(&record).unwrap(), segment.salt, &mut bytes);
            let at = segment.len();
            segment.append(&bytes).unwrap();
            entries.push(Entry::of(&segment, at, &segment.peek(at).unwrap()));
        }
        let mut tables = Tables::default();
        tables.add_all(&segment, &entries, segment.bytes_from(crate::segment::HEADER));
        (segment, tables)
    }

    /// What a reader gets that reads candidates in steps and verifies each.
    fn read(index: &dyn Index, segment: &Segment, filter: &Filter, from_at: u64, max: usize) -> Option<Vec<u64>> {
        let (mut all, mut from) = (Vec::new(), from_at);
        loop {
            let step = candidates(index, segment, filter, At::From(from), max).unwrap()?;
            assert!(step.is_sorted_by(|a, b| a < b) && step.first().is_none_or(|at| *at >= from) && step.len() <= max);
            all.extend(step.iter().copied().filter(|at| filter.matches(&segment.record(*at).unwrap())));
            match step.last() {
                Some(last) if step.len() == max => from = last + 8,
                _ => return Some(all),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn candidates_are_all_that_match(
            rows in proptest::collection::vec(row(), 1..150),
            filter in filter(),
            max in 1..40usize,
            from: prop::sample::Index,
        ) {
            let dir = directory();
            let (segment, tables) = segment_of(dir.path(), &rows);
            index::write(&segment, &tables).unwrap();
            let disk = DiskIndex::open(&segment).unwrap();
            let mut all = Vec::new();
            let mut at = crate::segment::HEADER;
            while let Ok(fixed) = segment.peek(at) {
                all.push(at);
                at += fixed.stride() as u64;
            }
            let from_at = *from.get(&all);
            let matching = all.iter().copied().filter(|at| *at >= from_at && filter.matches(&segment.record(*at).unwrap()));
            let expected = (!filter.any.iter().any(Clause::matches_all)).then(|| matching.collect::<Vec<_>>());
            for index in [&tables as &dyn Index, &disk] {
                prop_assert_eq!(read(index, &segment, &filter, from_at, max), expected.clone());
                prop_assert_eq!(crate::check::check(index, &segment), Vec::<String>::new());
            }
        }

        // An index is told apart from the right one, whatever record of it is missing or foreign.
        #[test]
        fn an_index_of_other_records_is_found_out(rows in proptest::collection::vec(row(), 2..60), at: prop::sample::Index) {
            let dirs = [directory(), directory()];
            let (segment, _) = segment_of(dirs[0].path(), &rows);
            let mut fewer = rows.clone();
            fewer.remove(at.index(rows.len()));
            let (_, tables) = segment_of(dirs[1].path(), &fewer);
            prop_assert!(!crate::check::check(&tables, &segment).is_empty());
        }

        // A page of the index that is not as it was written is an error at most.
        #[test]
        fn a_flipped_bit_hides_no_record(
            rows in proptest::collection::vec(row(), 50..150),
            filter in filter(),
            at: prop::sample::Index,
            bit in 0..8u8,
        ) {
            let dir = directory();
            let (segment, tables) = segment_of(dir.path(), &rows);
            index::write(&segment, &tables).unwrap();
            let path = segment.path.with_extension("index");
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, bytes).unwrap();
            let matching = |found: Option<Vec<u64>>| {
                let records = found.map(|f| f.into_iter().filter(|at| filter.matches(&segment.record(*at).unwrap())));
                records.map(Iterator::collect::<Vec<_>>)
            };
            let whole = candidates(&tables, &segment, &filter, At::From(0), usize::MAX).unwrap();
            let Some(disk) = DiskIndex::open(&segment) else { return Ok(()) };
            if let Ok(found) = candidates(&disk, &segment, &filter, At::From(0), usize::MAX) {
                prop_assert_eq!(matching(found), matching(whole));
            }
            for key in 0..9u8 {
                let hash = keytable::hash(&[key], segment.salt);
                if let Ok(found) = disk.newest(&segment, hash, &[key]) {
                    prop_assert_eq!(found, tables.newest(&segment, hash, &[key]).unwrap());
                }
            }
        }
    }

    #[test]
    fn no_clause_matches_nothing_and_an_empty_one_everything() {
        let dir = directory();
        let (segment, tables) = segment_of(dir.path(), &[(None, vec![])]);
        let none = Filter { any: vec![] };
        assert_eq!(candidates(&tables, &segment, &none, At::From(0), 9).unwrap(), Some(vec![]));
        assert_eq!(candidates(&tables, &segment, &Filter::all(), At::From(0), 9).unwrap(), None);
        let record = segment.record(crate::segment::HEADER).unwrap();
        assert!(Filter::all().matches(&record) && !none.matches(&record));
    }
}
