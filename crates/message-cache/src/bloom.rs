//! Which keys a sealed segment may hold, or which terms: a blocked Bloom filter, asked in the mapped file before the key table or
//! the index of terms, so that a segment without the key costs one cache line.
//!
//! ```text
//! block of 64 bytes:  u32 CRC-32C of bytes 4..64, 480 bits
//! ```
//! A key sets [`PROBES`] bits of one block. A damaged block answers "maybe": it costs a look into the key table, and
//! never hides a record.

pub const BLOCK: usize = 64;
const BLOCK_HEAD: usize = 4;
const BITS: u64 = ((BLOCK - BLOCK_HEAD) * 8) as u64;
/// Keys per block aimed at: 13 bits for each.
const KEYS_AIM: usize = 37;
/// Bits per key; more would fill a block that has more than its share of the keys.
const PROBES: usize = 7;

/// The block of a key, and the bits of it that the key sets.
fn places(hash: u32, blocks: usize) -> (usize, [usize; PROBES]) {
    let mut state = u64::from(hash);
    // The steps of SplitMix64: enough to make independent numbers of one hash.
    let mut next = |range: u64| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((mixed >> 32) * range) >> 32) as usize
    };
    let block = next(blocks as u64);
    (block, std::array::from_fn(|_| next(BITS)))
}

/// The filter of these hashes: a whole number of blocks, none for no key.
pub fn build(hashes: impl ExactSizeIterator<Item = u32>) -> Vec<u8> {
    let blocks = hashes.len().div_ceil(KEYS_AIM);
    let mut out = vec![0; blocks * BLOCK];
    for hash in hashes {
        let (block, bits) = places(hash, blocks);
        let bytes = &mut out[block * BLOCK + BLOCK_HEAD..][..BLOCK - BLOCK_HEAD];
        bits.iter().for_each(|bit| bytes[bit / 8] |= 1 << (bit % 8));
    }
    for block in out.chunks_exact_mut(BLOCK) {
        let crc = crc32c::crc32c(&block[BLOCK_HEAD..]);
        block[..BLOCK_HEAD].copy_from_slice(&crc.to_le_bytes());
    }
    out
}

/// False only if no key of that hash was given to [`build`].
pub fn may_hold(filter: &[u8], hash: u32) -> bool {
    let (block, bits) = places(hash, filter.len() / BLOCK);
    let Some(bytes) = filter.get(block * BLOCK..(block + 1) * BLOCK) else { return false };
    let (crc, set) = bytes.split_at(BLOCK_HEAD);
    // The checksum last: whatever sets all bits is "maybe" anyway.
    bits.iter().all(|bit| set[bit / 8] & (1 << (bit % 8)) != 0) || crc32c::crc32c(set).to_le_bytes() != crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_key_is_missed(hashes in proptest::collection::vec(any::<u32>(), 0..400)) {
            let filter = build(hashes.iter().copied());
            prop_assert!(hashes.iter().all(|&h| may_hold(&filter, h)));
        }

        #[test]
        fn flipped_bits_miss_no_key(
            hashes in proptest::collection::vec(any::<u32>(), 1..120),
            flips in proptest::collection::vec((any::<prop::sample::Index>(), 0..8u8), 1..4),
        ) {
            let mut filter = build(hashes.iter().copied());
            for (at, bit) in flips {
                let at = at.index(filter.len());
                filter[at] ^= 1 << bit;
            }
            prop_assert!(hashes.iter().all(|&h| may_hold(&filter, h)));
        }
    }

    #[test]
    fn other_keys_are_mostly_known_to_be_absent() {
        for keys in [10u32, 1000, 200_000] {
            let filter = build((0..keys).map(|i| crate::keytable::hash(&i.to_le_bytes(), 7)));
            let asked = 200_000;
            let others = keys..keys + asked;
            let wrong = others.filter(|i| may_hold(&filter, crate::keytable::hash(&i.to_le_bytes(), 7))).count();
            let rate = wrong as f64 / f64::from(asked);
            println!("{keys} keys, {} bytes: {rate:.5} false", filter.len());
            assert!(rate < 0.006, "{rate} of the absent keys pass the filter of {keys} keys");
        }
        assert!(!may_hold(&build(std::iter::empty()), 1));
    }
}
