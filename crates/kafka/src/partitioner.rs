//! The partition of a key, as Kafka's own clients choose it.

/// Seed of the hash in Kafka's `org.apache.kafka.common.utils.Utils.murmur2`.
const SEED: u32 = 0x9747_b28c;
const M: u32 = 0x5bd1_e995;
const R: u32 = 24;

/// The partition that Kafka's default partitioner gives a record with this key: murmur2, sign bit cleared, modulo the
/// number of partitions. A topic without partitions (`partitions < 1`) gives 0.
pub fn murmur2_partition(key: &[u8], partitions: i32) -> i32 {
    if partitions < 1 {
        return 0;
    }
    // The sign bit is cleared, so the value fits an i32.
    (murmur2(key) & 0x7fff_ffff) as i32 % partitions
}

fn murmur2(data: &[u8]) -> u32 {
    // Kafka hashes the length as Java's int.
    let mut h = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that Kafka's own `UtilsTest.testMurmur2` expects of its Java implementation, as signed integers.
    #[test]
    fn hashes_as_the_java_client_does() {
        let known: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (key, hash) in known {
            assert_eq!(murmur2(key) as i32, hash, "{}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn a_partition_is_within_the_topic() {
        for (key, partitions, expected) in [
            (&b"abc"[..], 3, 479_470_107 % 3),
            (b"21", 7, ((-973_932_308_i32) & 0x7fff_ffff) % 7),
            (b"", 1, 0),
            (b"abc", 0, 0),
            (b"abc", -1, 0),
        ] {
            assert_eq!(murmur2_partition(key, partitions), expected, "{key:?} over {partitions}");
        }
    }
}
