//! Topic properties that the embedded cluster knows, under Kafka's names and with Kafka's defaults.

use std::collections::BTreeMap;

enum Kind {
    /// A whole number, at least this.
    Number(i64),
    Ratio,
    /// A comma-separated list of these.
    AnyOf(&'static [&'static str]),
    OneOf(&'static [&'static str]),
}

const KNOWN: &[(&str, &str, Kind)] = &[
    ("cleanup.policy", "delete", Kind::AnyOf(&["delete", "compact"])),
    ("delete.retention.ms", "86400000", Kind::Number(0)),
    ("max.compaction.lag.ms", "9223372036854775807", Kind::Number(1)),
    ("max.message.bytes", "1048588", Kind::Number(0)),
    ("message.timestamp.type", "CreateTime", Kind::OneOf(&["CreateTime", "LogAppendTime"])),
    ("min.cleanable.dirty.ratio", "0.5", Kind::Ratio),
    ("min.compaction.lag.ms", "0", Kind::Number(0)),
    ("retention.bytes", "-1", Kind::Number(-1)),
    ("retention.ms", "604800000", Kind::Number(-1)),
    ("segment.bytes", "1073741824", Kind::Number(1024)),
    ("segment.ms", "604800000", Kind::Number(1)),
];

/// Whether a topic may be created with this property.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    let Some((_, _, kind)) = KNOWN.iter().find(|(known, ..)| *known == name) else {
        let nearest = KNOWN.iter().map(|(known, ..)| (strsim::damerau_levenshtein(known, name), known)).min();
        let help =
            nearest.filter(|(distance, _)| *distance <= 4).map_or_else(String::new, |(_, n)| format!("; did you mean {n}?"));
        return Err(format!("the embedded cluster has no topic property {name}{help}"));
    };
    let (valid, wanted) = match kind {
        Kind::Number(min) => (value.parse::<i64>().is_ok_and(|n| n >= *min), format!("a whole number of at least {min}")),
        Kind::Ratio => (value.parse::<f64>().is_ok_and(|n| (0.0..=1.0).contains(&n)), "a number from 0 to 1".into()),
        Kind::AnyOf(words) => (value.split(',').all(|v| words.contains(&v.trim())), format!("a list of {}", words.join(", "))),
        Kind::OneOf(words) => (words.contains(&value), format!("one of {}", words.join(", "))),
    };
    if valid { Ok(()) } else { Err(format!("{name} is {value:?}; it takes {wanted}")) }
}

/// All properties of a topic that was created with these.
pub fn effective(config: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let defaults = KNOWN.iter().map(|(name, default, _)| ((*name).to_owned(), (*default).to_owned()));
    defaults.chain(config.iter().map(|(n, v)| (n.clone(), v.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties() {
        for (name, value, fault) in [
            ("cleanup.policy", "compact", None),
            ("cleanup.policy", "compact, delete", None),
            ("cleanup.policy", "compactt", Some("cleanup.policy is \"compactt\"; it takes a list of delete, compact")),
            ("retention.ms", "-1", None),
            ("retention.ms", "1d", Some("retention.ms is \"1d\"; it takes a whole number of at least -1")),
            ("min.cleanable.dirty.ratio", "2", Some("min.cleanable.dirty.ratio is \"2\"; it takes a number from 0 to 1")),
            (
                "cleanup.polcy",
                "x",
                Some("the embedded cluster has no topic property cleanup.polcy; did you mean cleanup.policy?"),
            ),
        ] {
            assert_eq!(check(name, value).err().as_deref(), fault, "{name}={value}");
        }
        for (name, default, _) in KNOWN {
            assert_eq!(check(name, default), Ok(()));
        }
    }
}
