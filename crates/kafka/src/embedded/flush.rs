//! When what was appended is fsynced (Kafka properties `flush.messages`, `flush.ms`).

use std::collections::BTreeMap;
use std::time::Duration;

use super::Acks;

/// How far acknowledgement may run ahead of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush {
    /// Records after which a partition is fsynced; 1: each group before it is acknowledged.
    pub messages: u64,
    /// Longest time from the first record that is not fsynced until it is; `None`: no bound.
    pub after: Option<Duration>,
}

impl Flush {
    /// From what was said of a topic. Unless it says anything, a group is fsynced before it is acknowledged; or never by us, with
    /// `acks` that ask for no more than the kernel.
    pub fn of(config: &BTreeMap<String, String>, acks: Acks) -> Self {
        let number = |name: &str| config.get(name).and_then(|v| v.trim().parse::<u64>().ok());
        let after = number("flush.ms").filter(|ms| *ms < i64::MAX as u64).map(Duration::from_millis);
        let lazy = after.is_some() || acks == Acks::Written;
        Self { messages: number("flush.messages").unwrap_or(if lazy { u64::MAX } else { 1 }).max(1), after }
    }

    /// Whether a record is on disk before it is acknowledged.
    pub fn is_strict(self, acks: Acks) -> bool {
        self.messages == 1 && acks == Acks::Durable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties() {
        let check = |config: &[(&str, &str)], acks, messages, after: Option<u64>, strict| {
            let map = config.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let flush = Flush::of(&map, acks);
            assert_eq!(flush, Flush { messages, after: after.map(Duration::from_millis) }, "{config:?}");
            assert_eq!(flush.is_strict(acks), strict, "{config:?}");
        };
        check(&[], Acks::Durable, 1, None, true);
        check(&[("flush.messages", "1"), ("flush.ms", "5")], Acks::Durable, 1, Some(5), true);
        check(&[("flush.messages", "10")], Acks::Durable, 10, None, false);
        check(&[("flush.ms", "5")], Acks::Durable, u64::MAX, Some(5), false);
        check(&[("flush.ms", "9223372036854775807")], Acks::Durable, 1, None, true);
        check(&[], Acks::Written, u64::MAX, None, false);
        check(&[("flush.messages", "1")], Acks::Written, 1, None, false);
    }
}
