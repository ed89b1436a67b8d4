//! Which claims of a batch are written. Pure.

use std::collections::HashSet;

use super::format::{Claim, Wanted};

/// What becomes of a batch.
#[derive(Debug, Default)]
pub struct Choice<'c> {
    /// In the order of the claims, with the place of each in the batch.
    pub write: Vec<(usize, &'c Wanted)>,
    /// Of an id that is there, or that an earlier claim of the batch brings.
    pub repeated: u64,
    /// Those that are none, and why.
    pub refused: Vec<(i64, &'c str)>,
}

/// The first claim of each id that is not there. `is_there` is asked once for each id.
///
/// # Errors
/// What `is_there` says: then nothing is to be written.
pub fn choose<'c, E>(claims: &'c [Claim], mut is_there: impl FnMut(&str) -> Result<bool, E>) -> Result<Choice<'c>, E> {
    let mut choice = Choice::default();
    let mut seen = HashSet::new();
    for (place, claim) in claims.iter().enumerate() {
        match &claim.what {
            Err(why) => choice.refused.push((claim.offset, why)),
            Ok(wanted) if !seen.insert(wanted.id.as_str()) || is_there(&wanted.id)? => choice.repeated += 1,
            Ok(wanted) => choice.write.push((place, wanted)),
        }
    }
    Ok(choice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ProduceRecord;

    /// Each id is a claim; `-` is none.
    fn claims(ids: &str) -> Vec<Claim> {
        let wanted = |id: &str| match id {
            "-" => Err("bad".to_owned()),
            id => Ok(Wanted { id: id.to_owned(), record: ProduceRecord::default() }),
        };
        (10..).zip(ids.split_whitespace()).map(|(offset, id)| Claim { offset, what: wanted(id) }).collect()
    }

    #[test]
    fn the_first_claim_of_each_new_id_is_written() {
        let check = |ids: &str, there: &[&str], write: &[usize], repeated: u64, refused: &[i64]| {
            let (claims, mut asked) = (claims(ids), Vec::new());
            let choice = choose(&claims, |id| {
                asked.push(id.to_owned());
                Ok::<_, ()>(there.contains(&id))
            });
            let choice = choice.expect("nothing fails");
            assert_eq!(choice.write.iter().map(|(place, _)| *place).collect::<Vec<_>>(), write, "{ids}");
            assert_eq!(choice.repeated, repeated, "{ids}");
            assert_eq!(choice.refused.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), refused, "{ids}");
            asked.sort();
            assert!(asked.is_sorted_by(|a, b| a < b), "{asked:?}: asked twice");
        };
        check("", &[], &[], 0, &[]);
        check("a", &[], &[0], 0, &[]);
        check("a", &["a"], &[], 1, &[]);
        check("a b a a c b", &[], &[0, 1, 4], 3, &[]);
        check("a b a a c b", &["a", "c"], &[1], 5, &[]);
        check("- a - b", &["b"], &[1], 1, &[10, 12]);
    }

    #[test]
    fn nothing_is_written_when_it_cannot_be_told_what_is_there() {
        let claims = claims("a b");
        let choice = choose(&claims, |id| if id == "b" { Err("damaged") } else { Ok(false) });
        assert_eq!(choice.map(|_| ()), Err("damaged"));
    }
}
