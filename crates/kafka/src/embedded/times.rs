//! Which time a record has, and which times a topic takes.

use std::collections::BTreeMap;

use message_cache::TimestampType;

use crate::ProduceError;

const AFTER_MAX: &str = "message.timestamp.after.max.ms";
const BEFORE_MAX: &str = "message.timestamp.before.max.ms";

/// Kafka's `message.timestamp.*` of a topic (KIP-32, KIP-937).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The cluster sets the time (`LogAppendTime`), and says nothing of the client's.
    is_append: bool,
    /// How far a client's time may be ahead of the cluster's clock, and behind it.
    after_max_ms: i64,
    before_max_ms: i64,
}

impl Times {
    /// From all properties of a topic, defaults among them.
    pub fn of(config: &BTreeMap<String, String>) -> Self {
        let number = |property| config.get(property).and_then(|v| v.parse().ok()).unwrap_or(i64::MAX);
        Self {
            is_append: config.get("message.timestamp.type").is_some_and(|t| t == "LogAppendTime"),
            after_max_ms: number(AFTER_MAX),
            before_max_ms: number(BEFORE_MAX),
        }
    }

    /// The time of a record, in milliseconds since the Unix epoch, and who set it.
    ///
    /// # Errors
    /// When a client's time is none, or too far from `now_ms`. (Kafka: INVALID_TIMESTAMP)
    pub fn stamp(self, client_ms: Option<i64>, now_ms: i64) -> Result<(i64, TimestampType), ProduceError> {
        if self.is_append {
            return Ok((now_ms, TimestampType::LogAppend));
        }
        let invalid = |reason| Err(ProduceError::Invalid { reason });
        let Some(time_ms) = client_ms else { return Ok((now_ms, TimestampType::Create)) };
        if time_ms < 0 {
            return invalid(format!("{time_ms} is no time: it is before 1970"));
        }
        let ahead_ms = time_ms.saturating_sub(now_ms);
        let (difference_ms, side, property, max_ms) = match ahead_ms {
            0.. => (ahead_ms, "ahead of", AFTER_MAX, self.after_max_ms),
            _ => (ahead_ms.saturating_neg(), "behind", BEFORE_MAX, self.before_max_ms),
        };
        if difference_ms <= max_ms {
            return Ok((time_ms, TimestampType::Create));
        }
        invalid(format!(
            "its timestamp {time_ms} is {difference_ms} ms {side} the clock of the cluster, and {property} of the topic is \
             {max_ms}: correct the timestamp (milliseconds since 1970) or the clock, or raise the property"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::topic_config;
    use super::*;

    const NOW_MS: i64 = 1_800_000_000_000;

    #[test]
    fn what_a_topic_takes() {
        let check = |config: &[(&str, &str)], client_ms: Option<i64>, expected: Result<i64, &str>| {
            let what = format!("{config:?} {client_ms:?}");
            let set = config.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let times = Times::of(&topic_config::effective(&set));
            match (times.stamp(client_ms, NOW_MS), expected) {
                (Ok((time_ms, _)), Ok(expected)) => assert_eq!(time_ms, expected, "{what}"),
                (Err(ProduceError::Invalid { reason }), Err(fault)) => assert!(reason.contains(fault), "{what}: {reason}"),
                (other, _) => panic!("{what}: {other:?}"),
            }
        };
        let hour = 3_600_000;
        check(&[], None, Ok(NOW_MS));
        check(&[], Some(0), Ok(0));
        check(&[], Some(-1), Err("before 1970"));
        check(&[], Some(NOW_MS + hour), Ok(NOW_MS + hour));
        check(
            &[],
            Some(NOW_MS + hour + 1),
            Err("is 3600001 ms ahead of the clock of the cluster, and message.timestamp.after.max.ms"),
        );
        check(&[], Some(i64::MAX), Err("raise the property"));
        check(&[(AFTER_MAX, "9223372036854775807")], Some(i64::MAX), Ok(i64::MAX));
        check(&[(AFTER_MAX, "0")], Some(NOW_MS), Ok(NOW_MS));
        check(&[(AFTER_MAX, "0")], Some(NOW_MS + 1), Err("is 1 ms ahead of"));
        check(&[(BEFORE_MAX, "5")], Some(NOW_MS - 5), Ok(NOW_MS - 5));
        check(
            &[(BEFORE_MAX, "5")],
            Some(NOW_MS - 6),
            Err("is 6 ms behind the clock of the cluster, and message.timestamp.before.max.ms"),
        );
        let append = ("message.timestamp.type", "LogAppendTime");
        check(&[append], Some(i64::MAX), Ok(NOW_MS));
        check(&[append, (BEFORE_MAX, "0")], Some(-1), Ok(NOW_MS));
    }
}
