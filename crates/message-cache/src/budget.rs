//! Which records make room when the caches hold more bytes than they may. Pure.

/// A partition that takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Its topic, by any number.
    pub topic: usize,
    /// What may be done about its bytes.
    pub give: Give,
    pub bytes: u64,
    /// Of its sealed segments, the oldest first: bytes and the time of the newest record in each.
    pub sealed: Vec<(u64, i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Give {
    /// Its oldest segments, before those of others: the topic is fetched on demand.
    First,
    /// Its oldest segments, when the others have none left.
    Then,
    /// Nothing: it is the only copy, or lacks no record that its cluster has.
    Nothing,
}

/// Partitions, by their place in `holdings`, whose oldest segment is to go, in this order; and whether that is enough.
pub fn choose(holdings: &[Holding], max_bytes: u64) -> (Vec<usize>, bool) {
    let mut bytes: u64 = holdings.iter().map(|h| h.bytes).sum();
    let mut candidates: Vec<_> = holdings
        .iter()
        .enumerate()
        .filter(|(_, h)| h.give != Give::Nothing)
        .flat_map(|(n, h)| h.sealed.iter().map(move |&(bytes, time)| (h.give, time, n, bytes)))
        .collect();
    // The sort is stable, and segments of a partition stay in order even if their times do not rise.
    for h in (0..candidates.len()).rev().skip(1) {
        let (before, after) = (candidates[h], candidates[h + 1]);
        if before.2 == after.2 && before.1 > after.1 {
            candidates[h].1 = after.1;
        }
    }
    candidates.sort_by_key(|&(give, time, ..)| (give, time));
    let mut chosen = Vec::new();
    for (_, _, n, segment_bytes) in candidates {
        if bytes <= max_bytes {
            break;
        }
        bytes -= segment_bytes.min(bytes);
        chosen.push(n);
    }
    (chosen, bytes <= max_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses() {
        let holding = |topic, give, sealed: &[(u64, i64)]| Holding {
            topic,
            give,
            bytes: 10 + sealed.iter().map(|s| s.0).sum::<u64>(),
            sealed: sealed.to_vec(),
        };
        let all = [
            holding(0, Give::Then, &[(100, 1), (100, 2)]),
            holding(1, Give::First, &[(100, 5), (100, 4), (100, 9)]),
            holding(2, Give::Nothing, &[(100, 0)]),
            holding(3, Give::First, &[(100, 7)]),
        ];
        for (max_bytes, chosen, enough) in [
            (740, vec![], true),
            (739, vec![1], true),
            (540, vec![1, 1], true),
            (440, vec![1, 1, 3], true),
            (300, vec![1, 1, 3, 1, 0], true),
            (0, vec![1, 1, 3, 1, 0, 0], false),
        ] {
            assert_eq!(choose(&all, max_bytes), (chosen, enough), "{max_bytes}");
        }
    }
}
