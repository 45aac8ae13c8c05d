//! The catalog: every check, in the order of the contract.

use crate::check::Check;
use crate::checks;

/// Every check. Names are unique and never change.
pub fn catalog() -> impl Iterator<Item = &'static Check> {
    checks::ALL.iter().copied().copied().flatten()
}

/// Checks that only read, for a store with content of its own. Not part of the catalog: they prove less.
pub fn in_place() -> impl Iterator<Item = &'static Check> {
    checks::IN_PLACE.iter()
}

#[cfg(test)]
mod tests {
    use super::{catalog, in_place};
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_well_formed() {
        let mut seen = HashSet::new();
        for check in catalog().chain(in_place()) {
            assert!(seen.insert(check.name), "{} stands twice", check.name);
            let (topic, what) = check.name.split_once('.').expect(check.name);
            for part in [topic, what] {
                assert!(
                    part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
                    "{}",
                    check.name
                );
            }
            assert!(!check.promise.ends_with('.'), "{}: a promise has no full stop", check.name);
        }
    }
}
