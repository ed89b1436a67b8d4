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
    // Kafka leaves it to the system by default, since its replicas are elsewhere. Here each group is fsynced before it is acknowledged.
    ("flush.messages", "1", Kind::Number(1)),
    ("flush.ms", "9223372036854775807", Kind::Number(0)),
    ("max.compaction.lag.ms", "9223372036854775807", Kind::Number(1)),
    ("max.message.bytes", "1048588", Kind::Number(0)),
    // Since Kafka 4.0 no longer without a bound. (KIP-1030)
    ("message.timestamp.after.max.ms", "3600000", Kind::Number(0)),
    ("message.timestamp.before.max.ms", "9223372036854775807", Kind::Number(0)),
    ("message.timestamp.type", "CreateTime", Kind::OneOf(&["CreateTime", "LogAppendTime"])),
    ("min.cleanable.dirty.ratio", "0.5", Kind::Ratio),
    ("min.compaction.lag.ms", "0", Kind::Number(0)),
    ("retention.bytes", "-1", Kind::Number(-1)),
    ("retention.ms", "604800000", Kind::Number(-1)),
    ("segment.bytes", "1073741824", Kind::Number(1024)),
    ("segment.ms", "604800000", Kind::Number(1)),
];

/// Properties of Kafka that the embedded cluster does not have, and why.
const NOT_HERE: &[(&str, &str)] = &[
    ("compression.type", "values are kept as they came"),
    ("file.delete.delay.ms", "files are removed when the last reader has let go of them"),
    ("follower.replication.throttled.replicas", ONE_NODE),
    ("index.interval.bytes", "its indexes have a form of their own"),
    ("leader.replication.throttled.replicas", ONE_NODE),
    ("local.retention.bytes", NO_TIERS),
    ("local.retention.ms", NO_TIERS),
    ("min.insync.replicas", ONE_NODE),
    ("preallocate", "segments grow as they are written"),
    ("remote.storage.enable", NO_TIERS),
    ("segment.index.bytes", "its indexes have a form of their own"),
    ("segment.jitter.ms", "its segments are not rolled by a common clock"),
    ("unclean.leader.election.enable", ONE_NODE),
];
const ONE_NODE: &str = "it has one node";
const NO_TIERS: &str = "it has no remote storage";

fn find(name: &str) -> Result<&'static Kind, String> {
    if let Some((.., kind)) = KNOWN.iter().find(|(known, ..)| *known == name) {
        return Ok(kind);
    }
    if let Some((_, why)) = NOT_HERE.iter().find(|(kafka, _)| *kafka == name) {
        return Err(format!("the embedded cluster has no topic property {name}: {why}; leave it out"));
    }
    let nearest = KNOWN.iter().map(|(known, ..)| (strsim::damerau_levenshtein(known, name), known)).min();
    let help = nearest.filter(|(distance, _)| *distance <= 4).map_or_else(String::new, |(_, n)| format!("; did you mean {n}?"));
    Err(format!("the embedded cluster has no topic property {name}{help}"))
}

pub fn is_known(name: &str) -> Result<(), String> {
    find(name).map(drop)
}

/// Whether a topic may have this property.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    let kind = find(name)?;
    let (valid, wanted) = match kind {
        Kind::Number(min) => (value.parse::<i64>().is_ok_and(|n| n >= *min), format!("a whole number of at least {min}")),
        Kind::Ratio => (value.parse::<f64>().is_ok_and(|n| (0.0..=1.0).contains(&n)), "a number from 0 to 1".into()),
        Kind::AnyOf(words) => (value.split(',').all(|v| words.contains(&v.trim())), format!("a list of {}", words.join(", "))),
        Kind::OneOf(words) => (words.contains(&value), format!("one of {}", words.join(", "))),
    };
    if valid { Ok(()) } else { Err(format!("{name} is {value:?}; it takes {wanted}")) }
}

/// Whether properties that are each right fit each other.
pub fn check_together(config: &BTreeMap<String, String>) -> Result<(), String> {
    let number = |name: &str, default: i64| config.get(name).and_then(|v| v.parse().ok()).unwrap_or(default);
    let (min, max) = (number("min.compaction.lag.ms", 0), number("max.compaction.lag.ms", i64::MAX));
    if min <= max { Ok(()) } else { Err(format!("min.compaction.lag.ms, {min}, is more than max.compaction.lag.ms, {max}")) }
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
            ("flush.messages", "0", Some("flush.messages is \"0\"; it takes a whole number of at least 1")),
            (
                "min.insync.replicas",
                "2",
                Some("the embedded cluster has no topic property min.insync.replicas: it has one node; leave it out"),
            ),
        ] {
            assert_eq!(check(name, value).err().as_deref(), fault, "{name}={value}");
        }
        for (name, default, _) in KNOWN {
            assert_eq!(check(name, default), Ok(()));
        }
    }

    #[test]
    fn lags() {
        for (min, max, fits) in [("0", "1", true), ("5", "5", true), ("6", "5", false)] {
            let pairs = [("min.compaction.lag.ms", min), ("max.compaction.lag.ms", max)];
            let config = pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
            assert_eq!(check_together(&config).is_ok(), fits, "{min} {max}");
        }
    }
}
