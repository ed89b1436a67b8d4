//! The path parameters of one request.

/// Parameters that one path pattern may have.
pub const PARAMS_MAX: usize = 8;

/// Names and decoded values, in the order of the pattern. One allocation holds them all; none is made without parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params {
    text: String,
    /// Ends of name and value in `text`.
    ends: [(u32, u32); PARAMS_MAX],
    len: usize,
}

impl Params {
    /// The decoded value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// All parameters, in the order of the pattern.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.ends[..self.len].iter().map(move |&(name_end, value_end)| {
            let (name_end, value_end) = (name_end as usize, value_end as usize);
            let pair = (&self.text[start..name_end], &self.text[name_end..value_end]);
            start = value_end;
            pair
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the pattern has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Joins names and values; in a value, `slash` stands for `/`. `values_bytes` is about how long the values are together. More
    /// than [`PARAMS_MAX`] are refused when patterns are parsed.
    pub(crate) fn new<'a>(names: &[String], values: impl Iterator<Item = &'a str>, values_bytes: usize, slash: char) -> Self {
        let mut params = Self::default();
        if names.is_empty() {
            return params;
        }
        params.text.reserve_exact(names.iter().map(String::len).sum::<usize>() + values_bytes);
        for ((name, value), ends) in names.iter().zip(values).zip(&mut params.ends) {
            params.text.push_str(name);
            ends.0 = params.text.len() as u32;
            let mut parts = value.split(slash);
            params.text.push_str(parts.next().unwrap_or_default());
            for part in parts {
                params.text.push('/');
                params.text.push_str(part);
            }
            ends.1 = params.text.len() as u32;
            params.len += 1;
        }
        params
    }
}
