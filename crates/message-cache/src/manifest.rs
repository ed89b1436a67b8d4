//! The manifest of a partition: which segments are live, and where the log begins. Text, written aside and renamed, so that a
//! crash leaves the old set or the new one.
//!
//! ```text
//! tidegate-manifest 1
//! start 120              records below are gone
//! end 4711 4720          if the last record is at the first offset (-1: there is none), the log ends at the second
//! clean 3000             records below have been compacted
//! through 3000           segments that begin above were appended later, and are live without being listed
//! segment 0 2 1763722800000      base offset, generation, and the earliest delete horizon in it (or -)
//! segment 3000 0 -
//! checksum 89abcdef      CRC-32C of all before, hexadecimal
//! ```

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::LogError;
use crate::files::Files;

pub const FILE: &str = "manifest";
const MAGIC: &str = "tidegate-manifest 1";
/// Longest manifest that is read: some 300,000 segments.
const BYTES_MAX: u64 = 16 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    pub start: i64,
    /// Offset of the last record when this was written, and the end of the log behind it.
    pub end: Option<(i64, i64)>,
    pub clean: i64,
    pub through: i64,
    pub segments: Vec<Listed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    pub base_offset: i64,
    pub generation: u32,
    /// The earliest delete horizon of its tombstones, ms since the epoch.
    pub horizon_ms: Option<i64>,
}

impl Manifest {
    /// `Ok(None)` when there is none.
    pub fn read(dir: &Path) -> Result<Option<Self>, LogError> {
        let path = dir.join(FILE);
        let read = std::fs::metadata(&path).and_then(|m| {
            if m.len() > BYTES_MAX {
                return Err(std::io::Error::new(ErrorKind::InvalidData, "longer than a manifest can be"));
            }
            std::fs::read(&path)
        });
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(LogError::io(path, e)),
        };
        let broken = || LogError::Format {
            path: path.clone(),
            what: "the manifest is damaged: restore it, or remove the directory with what it holds".into(),
        };
        std::str::from_utf8(&bytes).ok().and_then(Self::parse).map(Some).ok_or_else(broken)
    }

    /// Whether it lists a segment that the other does not.
    pub fn lists_more_than(&self, other: &Self) -> bool {
        let listed = |s: &Listed| other.segments.binary_search_by_key(&s.base_offset, |o| o.base_offset);
        self.segments.iter().any(|s| !listed(s).is_ok_and(|i| other.segments[i].generation == s.generation))
    }

    /// Durable when it returns. On an error the manifest is as it was.
    pub fn write(&self, dir: &Path, files: &Files) -> Result<(), LogError> {
        let (path, tmp) = (dir.join(FILE), dir.join("manifest.tmp"));
        let io = |e| LogError::io(&path, e);
        let written = files.create(&tmp).and_then(|file| {
            files.write_all_at(&file, &tmp, self.text().as_bytes(), 0)?;
            files.sync_data(&file, &tmp)
        });
        if let Err(e) = written {
            let _ = files.remove(&tmp);
            return Err(io(e));
        }
        files.rename(&tmp, &path).and_then(|()| files.sync_dir(dir)).map_err(io)
    }

    fn text(&self) -> String {
        let mut text = format!("{MAGIC}\nstart {}\n", self.start);
        if let Some((last, end)) = self.end {
            let _ = writeln!(text, "end {last} {end}");
        }
        let _ = writeln!(text, "clean {}\nthrough {}", self.clean, self.through);
        for s in &self.segments {
            let horizon = s.horizon_ms.map_or("-".to_owned(), |h| h.to_string());
            let _ = writeln!(text, "segment {} {} {horizon}", s.base_offset, s.generation);
        }
        let checksum = crc32c::crc32c(text.as_bytes());
        let _ = writeln!(text, "checksum {checksum:08x}");
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let (body, last) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        let body = &text[..=body.len()];
        if last != format!("checksum {:08x}", crc32c::crc32c(body.as_bytes())) {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != MAGIC {
            return None;
        }
        let mut manifest = Self { through: -1, ..Self::default() };
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["start", n] => manifest.start = n.parse().ok()?,
                ["end", last, end] => manifest.end = Some((last.parse().ok()?, end.parse().ok()?)),
                ["clean", n] => manifest.clean = n.parse().ok()?,
                ["through", n] => manifest.through = n.parse().ok()?,
                ["segment", base, generation, horizon] => manifest.segments.push(Listed {
                    base_offset: base.parse().ok()?,
                    generation: generation.parse().ok()?,
                    horizon_ms: if *horizon == "-" { None } else { Some(horizon.parse().ok()?) },
                }),
                _ => return None,
            }
        }
        let rises = manifest.segments.windows(2).all(|w| w[0].base_offset < w[1].base_offset);
        let through = manifest.segments.last().is_none_or(|s| s.base_offset <= manifest.through);
        (rises && through).then_some(manifest)
    }

    /// Whether a segment of this name is live.
    pub fn names(&self, base_offset: i64, generation: u32) -> bool {
        let appended_later = base_offset > self.through && generation == 0;
        appended_later || self.segments.iter().any(|s| (s.base_offset, s.generation) == (base_offset, generation))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest() -> impl Strategy<Value = Manifest> {
        let segment = (1..1000i64, any::<u32>(), proptest::option::of(any::<i64>()));
        let end = proptest::option::of((any::<i64>(), any::<i64>()));
        (any::<i64>(), end, any::<i64>(), 0..50i64, proptest::collection::vec(segment, 0..20)).prop_map(
            |(start, end, clean, beyond, segments)| {
                let mut base_offset = 0;
                let list = |(step, generation, horizon_ms)| {
                    base_offset += step;
                    Listed { base_offset, generation, horizon_ms }
                };
                let segments: Vec<_> = segments.into_iter().map(list).collect();
                Manifest { start, end, clean, through: base_offset + beyond, segments }
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(m in manifest()) {
            let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
            prop_assert_eq!(Manifest::read(dir.path()).unwrap(), None);
            m.write(dir.path(), &Files::default()).unwrap();
            prop_assert_eq!(Manifest::read(dir.path()).unwrap(), Some(m));
        }

        #[test]
        fn a_flipped_bit_or_a_cut_is_seen(m in manifest(), at: prop::sample::Index, bit in 0..8u8) {
            let mut bytes = m.text().into_bytes();
            let at = at.index(bytes.len());
            let cut = String::from_utf8_lossy(&bytes[..at]).into_owned();
            prop_assert_eq!(Manifest::parse(&cut), None);
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(std::str::from_utf8(&bytes).ok().and_then(Manifest::parse), None);
        }

        #[test]
        fn arbitrary_text_does_no_harm(text in "(tidegate-manifest 1\n)?([a-z]{0,9} ?[0-9-]{0,3} ?\n){0,6}") {
            let _ = Manifest::parse(&text);
        }
    }
}
