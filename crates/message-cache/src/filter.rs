//! Which records a reader wants, by key and headers, and which of a segment are worth a look for it.

use crate::record::Record;

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
}

impl Clause {
    pub fn matches(&self, record: &Record) -> bool {
        let has = |name: &str, value: Option<&[u8]>| record.headers().any(|h| h.name == name && h.value == value);
        self.key.as_deref().is_none_or(|k| record.key() == Some(k)) && self.headers.iter().all(|(n, v)| has(n, v.as_deref()))
    }
}
