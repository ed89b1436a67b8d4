//! The keys of a segment in memory: an open hash table of hash and position packed in 64 bits, without the keys
//! themselves. One cache line answers most questions; a full table takes 11 bytes per key, one that just grew 16.

/// Slots that a table begins with.
const SLOTS_MIN: usize = 16;

/// From the hash of a key to the position / 8 of its newest record. Keys of the same hash have a slot each; the caller
/// tells them apart by the records.
pub struct KeyMap {
    /// `hash << 32 | at8`, 0 where empty: no frame lies at position 0, where the file header is.
    slots: Vec<u64>,
    len: usize,
    /// Odd and random, so that nobody can choose keys whose slots crowd in one place.
    seed: u32,
}

impl Default for KeyMap {
    fn default() -> Self {
        Self { slots: Vec::new(), len: 0, seed: fastrand::u32(..) | 1 }
    }
}

impl KeyMap {
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u64>()
    }

    /// Hashes and positions in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.slots.iter().filter(|s| **s != 0).map(|s| unpack(*s))
    }

    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash.wrapping_mul(self.seed)) * self.slots.len() as u64) >> 32) as usize
    }

    /// The positions under a hash.
    pub fn of_hash(&self, hash: u32) -> impl Iterator<Item = u32> {
        let home = if self.slots.is_empty() { 0 } else { self.home(hash) };
        let (before, after) = self.slots.split_at(home);
        let run = after.iter().chain(before).take_while(|s| **s != 0);
        run.map(|s| unpack(*s)).filter(move |(h, _)| *h == hash).map(|(_, at8)| at8)
    }

    /// What lies in the home slot of a hash, if it is of that hash; reading many of these in a row lets the processor
    /// fetch their cache lines at once.
    pub fn glance(&self, hash: u32) -> Option<u32> {
        let (h, at8) = unpack(*self.slots.get(self.home(hash))?);
        (h == hash).then_some(at8)
    }

    /// Puts a position in place of the one of the same key, which is returned; a new slot if there is none.
    pub fn replace(&mut self, hash: u32, at8: u32, is_same_key: impl Fn(u32) -> bool) -> Option<u32> {
        debug_assert!(at8 != 0);
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let mut i = self.home(hash);
        loop {
            let (h, older) = unpack(self.slots[i]);
            if older == 0 {
                self.slots[i] = pack(hash, at8);
                self.len += 1;
                return None;
            }
            if h == hash && is_same_key(older) {
                self.slots[i] = pack(hash, at8);
                return Some(older);
            }
            i = self.after(i);
        }
    }

    fn after(&self, i: usize) -> usize {
        if i + 1 == self.slots.len() { 0 } else { i + 1 }
    }

    /// Homes rise with the slots whatever the size is, so old and new table are both passed from front to back.
    fn grow(&mut self) {
        let slots = (self.slots.len() + self.slots.len() / 2).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![0; slots]);
        for slot in old.into_iter().filter(|s| *s != 0) {
            let mut i = self.home(unpack(slot).0);
            while self.slots[i] != 0 {
                i = self.after(i);
            }
            self.slots[i] = slot;
        }
    }
}

fn pack(hash: u32, at8: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(at8)
}

fn unpack(slot: u64) -> (u32, u32) {
    ((slot >> 32) as u32, slot as u32)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        // Keys are numbers, and few hashes stand for all of them. A position says whose it is: key = at8 % 100.
        #[test]
        fn is_a_map(keys in proptest::collection::vec(0..100u32, 0..600), hashes in 1..60u32) {
            let hash = |key: u32| (key % hashes).wrapping_mul(0x0800_0001);
            let (mut map, mut model) = (KeyMap::default(), HashMap::new());
            for (i, key) in (1..).zip(keys) {
                let at8 = i * 100 + key;
                let older = map.replace(hash(key), at8, |older| older % 100 == key);
                prop_assert_eq!(older, model.insert(key, at8));
            }
            prop_assert_eq!(map.len(), model.len());
            prop_assert_eq!(map.iter().count(), model.len());
            for key in 0..100 {
                let found = map.of_hash(hash(key)).find(|at8| at8 % 100 == key);
                prop_assert_eq!(found, model.get(&key).copied());
            }
        }
    }

    #[test]
    fn a_key_costs_at_most_16_bytes() {
        let mut map = KeyMap::default();
        let mut worst: f64 = 0.0;
        for i in 1..200_000u32 {
            map.replace(crate::keytable::hash(&i.to_le_bytes(), 7), i, |_| false);
            worst = worst.max(if i > 100 { map.heap_bytes() as f64 / f64::from(i) } else { 0.0 });
        }
        assert!((8.0..16.2).contains(&worst), "{worst} bytes per key");
    }
}
