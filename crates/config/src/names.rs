//! Suggestions for misspelt names.

/// The candidate most like `name`, if one is near enough to be what was meant. Case, `-`, `_` and `.` make no difference.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Names out of a hostile file may be long, and the distance is quadratic.
    const NAME_MAX: usize = 256;
    let plain = |text: &str| text.replace(['-', '_', '.'], "").to_lowercase();
    if name.len() > NAME_MAX {
        return None;
    }
    let wanted = plain(name);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= NAME_MAX)
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= ((candidate.len() + 1) / 3).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// "did you mean 'x'?", or else the list of what there is, if that is short.
pub(crate) fn did_you_mean<'a>(name: &str, what: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    const LISTED_MAX: usize = 16;
    let candidates: Vec<&str> = candidates.into_iter().collect();
    match nearest(name, candidates.iter().copied()) {
        Some(near) => Some(format!("did you mean '{near}'?")),
        None if candidates.is_empty() || candidates.len() > LISTED_MAX => None,
        None => Some(format!("{what}: {}", candidates.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        let known = ["header_bytes", "headers", "bootstrap.servers", "id", "x"];
        for (name, expected) in [
            ("header-bytes", Some("header_bytes")),
            ("heders", Some("headers")),
            ("Bootstrap_Servers", Some("bootstrap.servers")),
            ("ide", Some("id")),
            ("body", None),
            ("", None),
            ("y", None),
        ] {
            assert_eq!(nearest(name, known), expected, "{name}");
        }
    }
}
