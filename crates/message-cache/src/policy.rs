//! How long a topic keeps its records: what its configuration says, and what follows for a record. Pure.

use std::collections::BTreeMap;

/// The part of a topic's configuration that decides what is kept. The default is that of a topic that keeps all.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// `cleanup.policy` names `compact`: the newest record of each key stays.
    pub compact: bool,
    /// `cleanup.policy` names `delete`: old records go, by `retention_ms` and `retention_bytes`.
    pub delete: bool,
    /// `retention.ms`; `None`: for ever.
    pub retention_ms: Option<i64>,
    /// `retention.bytes` of a partition; `None`: without a bound.
    pub retention_bytes: Option<u64>,
    /// `delete.retention.ms`: how long a tombstone stays after it was first compacted.
    pub delete_retention_ms: i64,
    /// `min.compaction.lag.ms`: how long a record stays whatever follows it.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`: how old a record may grow before its partition is compacted; `None`: as old as it likes.
    pub max_compaction_lag_ms: Option<i64>,
    /// `min.cleanable.dirty.ratio`: the share of bytes not yet compacted from which on a partition is compacted.
    pub min_cleanable_dirty_ratio: f64,
    /// `segment.bytes`; `None`: as the cache has it.
    pub segment_bytes: Option<u64>,
    /// `segment.ms`: how old a segment grows before the next is begun.
    pub segment_ms: Option<i64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            compact: false,
            delete: false,
            retention_ms: None,
            retention_bytes: None,
            delete_retention_ms: 86_400_000,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: None,
            min_cleanable_dirty_ratio: 0.5,
            segment_bytes: None,
            segment_ms: None,
        }
    }
}

impl Policy {
    /// From the properties of a topic under Kafka's own names. What is missing has Kafka's default; what cannot be read counts as
    /// missing, since a cluster has checked it and a newer one may have new words for it.
    ///
    /// An empty `cleanup.policy` keeps everything (KIP-1225), as does `retention.ms=-1` with `retention.bytes=-1`.
    pub fn from_properties(properties: &BTreeMap<String, String>) -> Self {
        let number = |name: &str, default: i64| properties.get(name).and_then(|v| v.trim().parse().ok()).unwrap_or(default);
        let bounded = |n: i64| (n >= 0).then_some(n);
        let below_max = |n: i64| (n != i64::MAX).then_some(n);
        let policy = properties.get("cleanup.policy").map_or("delete", String::as_str);
        let has = |word: &str| policy.split(',').any(|p| p.trim() == word);
        Self {
            compact: has("compact"),
            delete: has("delete"),
            retention_ms: bounded(number("retention.ms", 604_800_000)).and_then(below_max),
            retention_bytes: bounded(number("retention.bytes", -1)).and_then(|n| u64::try_from(n).ok()),
            delete_retention_ms: number("delete.retention.ms", 86_400_000).max(0),
            min_compaction_lag_ms: number("min.compaction.lag.ms", 0).max(0),
            max_compaction_lag_ms: below_max(number("max.compaction.lag.ms", i64::MAX).max(1)),
            min_cleanable_dirty_ratio: properties
                .get("min.cleanable.dirty.ratio")
                .and_then(|v| v.parse::<f64>().ok())
                .filter(|r| (0.0..=1.0).contains(r))
                .unwrap_or(0.5),
            segment_bytes: bounded(number("segment.bytes", -1)).and_then(|n| u64::try_from(n).ok()),
            segment_ms: bounded(number("segment.ms", 604_800_000)).and_then(below_max),
        }
    }

    /// Records with an earlier timestamp have expired; `None` if none ever does. Time does not delete from a topic that is only
    /// compacted, as in Kafka.
    pub fn expired_before(&self, now_ms: i64) -> Option<i64> {
        self.retention_ms.filter(|_| self.delete).map(|ms| now_ms.saturating_sub(ms))
    }

    /// Whether a record of that time has expired. A record without a time (-1) never does.
    pub fn is_expired(&self, timestamp_ms: i64, now_ms: i64) -> bool {
        timestamp_ms >= 0 && self.expired_before(now_ms).is_some_and(|before| timestamp_ms < before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(properties: &[(&str, &str)]) -> Policy {
        Policy::from_properties(&properties.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn cleanup_policies() {
        for (text, compact, delete) in [
            ("delete", false, true),
            ("compact", true, false),
            ("compact,delete", true, true),
            ("delete, compact", true, true),
            ("", false, false),
        ] {
            let policy = of(&[("cleanup.policy", text)]);
            assert_eq!((policy.compact, policy.delete), (compact, delete), "{text:?}");
        }
        assert!(of(&[]).delete);
    }

    #[test]
    fn numbers() {
        assert_eq!(of(&[]).retention_ms, Some(604_800_000));
        assert_eq!(of(&[("retention.ms", "-1")]).retention_ms, None);
        assert_eq!(of(&[("retention.bytes", "100")]).retention_bytes, Some(100));
        assert_eq!(of(&[("max.compaction.lag.ms", "9223372036854775807")]).max_compaction_lag_ms, None);
        assert!((of(&[("min.cleanable.dirty.ratio", "7")]).min_cleanable_dirty_ratio - 0.5).abs() < f64::EPSILON);
    }

    #[test]
    fn expiry() {
        let check = |properties: &[(&str, &str)], timestamp_ms, now_ms, expected| {
            assert_eq!(of(properties).is_expired(timestamp_ms, now_ms), expected, "{properties:?} {timestamp_ms} at {now_ms}");
        };
        check(&[("retention.ms", "100")], 0, 100, false);
        check(&[("retention.ms", "100")], 0, 101, true);
        check(&[("retention.ms", "100")], -1, 1000, false);
        check(&[("retention.ms", "100"), ("cleanup.policy", "compact")], 0, 1000, false);
        check(&[("retention.ms", "100"), ("cleanup.policy", "compact,delete")], 0, 1000, true);
        check(&[("retention.ms", "-1")], 0, i64::MAX, false);
    }
}
