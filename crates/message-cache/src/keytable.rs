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
pub const ENTRIES_MAX: usize = (PAGE - PAGE_HEAD) / ENTRY;
/// Entries per page aimed at: at 70 % a search seldom leaves its page.
const ENTRIES_AIM: usize = 44;

/// One entry: a hash and where a record of it is in the segment, in units of 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    pub hash: u32,
    pub at8: u32,
}

impl Slot {
    fn read(entry: &[u8; ENTRY]) -> Self {
        let [a, b, c, d, e, f, g, h] = *entry;
        Self { hash: u32::from_le_bytes([a, b, c, d]), at8: u32::from_le_bytes([e, f, g, h]) }
    }
}

/// Salted by the segment, so that nobody can choose keys that share a hash.
pub fn hash(key: &[u8], salt: u32) -> u32 {
    xxhash_rust::xxh3::xxh3_64_with_seed(key, u64::from(salt)) as u32
}

/// Appends a page of at most [`ENTRIES_MAX`] slots.
pub fn push_page(out: &mut Vec<u8>, slots: impl ExactSizeIterator<Item = Slot>, goes_on: bool) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(slots.len() as u16).to_le_bytes());
    out.extend_from_slice(&u16::from(goes_on).to_le_bytes());
    for slot in slots {
        out.extend_from_slice(&slot.hash.to_le_bytes());
        out.extend_from_slice(&slot.at8.to_le_bytes());
    }
    out.resize(start + PAGE, 0);
    let crc = crc32c::crc32c(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// A page whose checksum is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct BadPage(pub usize);

/// A page whose checksum is right.
#[derive(Clone, Copy)]
pub struct Page<'a> {
    entries: &'a [[u8; ENTRY]],
    goes_on: bool,
}

impl<'a> Page<'a> {
    /// The page of that number, which the table has.
    pub fn read(table: &'a [u8], i: usize) -> Result<Self, BadPage> {
        let Some(page) = table.get(i * PAGE..(i + 1) * PAGE) else { return Err(BadPage(i)) };
        let crc = u32::from_le_bytes([page[0], page[1], page[2], page[3]]);
        let entries = page[PAGE_HEAD..].as_chunks().0.get(..usize::from(u16::from_le_bytes([page[4], page[5]])));
        match entries {
            Some(entries) if crc == crc32c::crc32c(&page[4..]) => Ok(Self { entries, goes_on: page[6..8] != [0, 0] }),
            _ => Err(BadPage(i)),
        }
    }

    pub fn slots(self) -> impl DoubleEndedIterator<Item = Slot> + ExactSizeIterator + 'a {
        self.entries.iter().map(Slot::read)
    }

    /// In a page whose slots are in order: how many are below this one.
    pub fn rank(self, slot: Slot) -> usize {
        self.entries.partition_point(|e| Slot::read(e) < slot)
    }
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
        let waiting = slots[next..].iter().take(ENTRIES_MAX + 1);
        let ready = waiting.take_while(|s| home(s.hash, pages) <= page).count();
        let fits = ready.min(ENTRIES_MAX);
        push_page(&mut out, slots[next..next + fits].iter().copied(), ready > fits);
        next += fits;
        page += 1;
    }
    out
}

/// Calls `candidate` with the position of each entry of that hash until it says that one is the right one.
pub fn find<E: From<BadPage>>(
    table: &[u8],
    home_pages: u32,
    hash: u32,
    mut candidate: impl FnMut(u32) -> Result<bool, E>,
) -> Result<Option<u32>, E> {
    for i in home(hash, home_pages)..table.len() / PAGE {
        let page = Page::read(table, i)?;
        for slot in page.slots().filter(|s| s.hash == hash) {
            if candidate(slot.at8)? {
                return Ok(Some(slot.at8));
            }
        }
        if !page.goes_on {
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
            let slots: Vec<_> = (0..200).map(|i| Slot { hash: hash(&[i], 7), at8: u32::from(i) }).collect();
            let mut table = build(slots.clone());
            let at = at.index(table.len());
            table[at] ^= 1 << bit;
            for slot in slots {
                prop_assert!(matches!(look_up(&table, home_pages(200), slot), Ok(Some(_)) | Err(_)));
            }
        }
    }
}
