//! The key index of a sealed segment: a static hash table in checksummed pages, looked up in the mapped file.
//!
//! ```text
//! page of 512 bytes:  u32 CRC-32C of bytes 4..512, u16 entries, u16 1 if the search goes on in the next page,
//!                     entries of { u32 hash, u32 position of the frame / 8 }, zeros
//! ```
//! The page of a hash is `hash * pages >> 32`; a page that overflows spills into the next. Hashes collide, so whoever
//! looks up compares the key of the record.

pub const PAGE: usize = 512;
const PAGE_HEAD: usize = 8;
const ENTRY: usize = 8;
const ENTRIES_MAX: usize = (PAGE - PAGE_HEAD) / ENTRY;
/// Entries per page aimed at: at 70 % a search seldom leaves its page.
const ENTRIES_AIM: usize = 44;

/// One entry: the hash of a key and where its newest record in the segment is, in units of 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    pub hash: u32,
    pub at8: u32,
}

pub fn hash(key: &[u8]) -> u32 {
    xxhash_rust::xxh3::xxh3_64(key) as u32
}

/// How many home pages a table of so many entries has.
pub fn home_pages(entries: usize) -> u32 {
    u32::try_from(entries.div_ceil(ENTRIES_AIM)).unwrap_or(u32::MAX)
}

fn home(hash: u32, pages: u32) -> usize {
    ((u64::from(hash) * u64::from(pages)) >> 32) as usize
}

/// The table of these entries; a whole number of pages, at least [`home_pages`].
pub fn build(mut slots: Vec<Slot>) -> Vec<u8> {
    slots.sort_unstable();
    let pages = home_pages(slots.len());
    let mut out = Vec::with_capacity(pages as usize * PAGE);
    let mut next = 0; // the first entry not yet placed
    let mut page = 0;
    while page < pages as usize || next < slots.len() {
        // Whatever has its home here or before and is not placed yet, as far as it fits; after the last home page, all.
        let ready = slots[next..].iter().take_while(|s| home(s.hash, pages) <= page).count();
        let fits = ready.min(ENTRIES_MAX);
        let start = out.len();
        out.resize(start + PAGE, 0);
        let bytes = &mut out[start..];
        bytes[4..6].copy_from_slice(&(fits as u16).to_le_bytes());
        bytes[6..8].copy_from_slice(&u16::from(ready > fits).to_le_bytes());
        for (slot, entry) in slots[next..next + fits].iter().zip(bytes[PAGE_HEAD..].chunks_exact_mut(ENTRY)) {
            entry[..4].copy_from_slice(&slot.hash.to_le_bytes());
            entry[4..].copy_from_slice(&slot.at8.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        next += fits;
        page += 1;
    }
    out
}

/// A page whose checksum is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct BadPage(pub usize);

/// Calls `candidate` with the position of each entry of that hash until it says that one is the right one.
pub fn find<E: From<BadPage>>(
    table: &[u8],
    home_pages: u32,
    hash: u32,
    mut candidate: impl FnMut(u32) -> Result<bool, E>,
) -> Result<Option<u32>, E> {
    for (i, page) in table.chunks_exact(PAGE).enumerate().skip(home(hash, home_pages)) {
        let u16_at = |i: usize| u16::from_le_bytes([page[i], page[i + 1]]);
        let u32_at = |i: usize| u32::from_le_bytes([page[i], page[i + 1], page[i + 2], page[i + 3]]);
        if u32_at(0) != crc32c::crc32c(&page[4..]) {
            return Err(BadPage(i).into());
        }
        for entry in page[PAGE_HEAD..].chunks_exact(ENTRY).take(usize::from(u16_at(4))) {
            if entry[..4] == hash.to_le_bytes() {
                let at8 = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
                if candidate(at8)? {
                    return Ok(Some(at8));
                }
            }
        }
        if u16_at(6) == 0 {
            break;
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn look_up(table: &[u8], pages: u32, slot: Slot) -> Result<Option<u32>, BadPage> {
        find(table, pages, slot.hash, |at8| Ok(at8 == slot.at8))
    }

    proptest! {
        // Few distinct hashes, so that pages overflow.
        #[test]
        fn every_entry_is_found(hashes in proptest::collection::vec(0..40u32, 0..900), spread in 1..u32::MAX / 40) {
            let slots: Vec<_> = hashes.iter().enumerate().map(|(i, h)| Slot { hash: h * spread, at8: i as u32 }).collect();
            let table = build(slots.clone());
            let pages = home_pages(slots.len());
            for slot in &slots {
                prop_assert_eq!(look_up(&table, pages, *slot), Ok(Some(slot.at8)));
            }
            prop_assert_eq!(look_up(&table, pages, Slot { hash: spread / 2, at8: u32::MAX }), Ok(None));
        }

        #[test]
        fn a_flipped_bit_is_no_miss(at: prop::sample::Index, bit in 0..8u8) {
            let slots: Vec<_> = (0..200).map(|i| Slot { hash: hash(&[i]), at8: u32::from(i) }).collect();
            let mut table = build(slots.clone());
            let at = at.index(table.len());
            table[at] ^= 1 << bit;
            for slot in slots {
                prop_assert!(matches!(look_up(&table, home_pages(200), slot), Ok(Some(_)) | Err(_)));
            }
        }
    }
}
