//! What the disk did to the last append or fsync, and what the log was told of it.

use std::collections::BTreeMap;

/// Texts that are remembered as told; further ones are not told.
const TOLD_MAX: usize = 100;

/// The fault that the status shows, until an append goes well again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskProblem {
    pub text: String,
    /// Whether only a restart helps.
    pub lasting: bool,
}

#[derive(Default)]
pub struct Trouble {
    current: Option<DiskProblem>,
    /// By text, whether it is lasting: partitions that fail in turn are not to fill the log either.
    told: BTreeMap<String, bool>,
}

impl Trouble {
    pub fn current(&self) -> Option<&DiskProblem> {
        self.current.as_ref()
    }

    /// Notes a fault; whether it is to be told, because it was not since an append last went well.
    pub fn add(&mut self, text: String, lasting: bool) -> bool {
        let is_news = self.told.len() < TOLD_MAX && !self.told.contains_key(&text);
        if is_news {
            self.told.insert(text.clone(), lasting);
        }
        // A poisoned partition stays so while others are written to.
        if self.current.as_ref().is_none_or(|p| !p.lasting) {
            self.current = Some(DiskProblem { text, lasting });
        }
        is_news
    }

    /// An append went well: what passes is over.
    pub fn pass(&mut self) {
        if !self.told.is_empty() {
            self.told.retain(|_, lasting| *lasting);
            self.current = self.current.take().filter(|p| p.lasting);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Faults by a letter each, lasting ones in capitals; `.` is an append that goes well. What is told of them, and what is
    /// shown in the end.
    #[test]
    fn a_fault_is_told_once() {
        let check = |steps: &str, told: &str, shown: Option<&str>| {
            let mut trouble = Trouble::default();
            let mut tell = |step: &char| match step {
                '.' => {
                    trouble.pass();
                    true
                }
                fault => trouble.add(fault.to_string(), fault.is_uppercase()),
            };
            assert_eq!(steps.chars().filter(|step| tell(step)).collect::<String>(), told, "{steps}");
            assert_eq!(trouble.current().map(|p| p.text.as_str()), shown, "{steps}");
        };
        check("aaa", "a", Some("a"));
        check("abab", "ab", Some("b"));
        check("aa.aa", "a.a", Some("a"));
        check("a.", "a.", None);
        check("AAbAb.bAb", "Ab.b", Some("A"));
        check("AB.AB.", "AB..", Some("A"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut trouble = Trouble::default();
        assert_eq!((0..10 * TOLD_MAX).filter(|n| trouble.add(n.to_string(), true)).count(), TOLD_MAX);
        assert_eq!(trouble.told.len(), TOLD_MAX);
    }
}
