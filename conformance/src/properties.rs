//! The properties that the event stores of the field test or are missed by their users, and where each is held here: by
//! checks of the catalog, by a test elsewhere, or not in this number of the contract, with the reason. None is dropped.

mod list;

use crate::catalog::catalog;
use std::fmt::Write as _;

pub use list::PROPERTIES;

/// How far a property reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Every store has it.
    Core,
    /// A store promises it, or refuses it by type.
    Capability,
    /// No suite of the field has it: ours.
    Own,
}

/// Where a property is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// By checks of the catalog, on every store.
    Catalog,
    /// By tests of what stands above or below a store, as `path::test` from the workspace's root.
    Tests(&'static [&'static str]),
    /// Not in this number of the contract, for this reason.
    Later(&'static str),
}

/// One property.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// Its number, for ever.
    pub number: u16,
    /// Letter of its group.
    pub group: char,
    /// How far it reaches.
    pub level: Level,
    /// What holds.
    pub sentence: &'static str,
    /// Where it is held.
    pub home: Home,
    /// What of it is not in this number of the contract, with the reason; none where all of it is held, or nothing.
    pub rest: Option<&'static str>,
}

impl Property {
    /// Names of the checks that cover it, in the order of the catalog.
    pub fn checks(&self) -> impl Iterator<Item = &'static str> + use<> {
        let number = self.number;
        catalog().filter(move |check| check.properties.contains(&number)).map(|check| check.name)
    }

    /// Whether something holds it.
    #[must_use]
    pub fn is_covered(&self) -> bool {
        matches!(self.home, Home::Tests(_)) || self.checks().next().is_some()
    }
}

/// What a group is about.
pub const GROUPS: [(char, &str); 21] = [
    ('A', "Append and expectation"),
    ('B', "Idempotency"),
    ('C', "Atomicity and durability"),
    ('D', "Concurrency"),
    ('E', "Several streams at once"),
    ('F', "Reading streams"),
    ('G', "The feed and its gaps"),
    ('H', "Categories, types, lists"),
    ('I', "Subscriptions"),
    ('J', "Checkpoints and competing consumers"),
    ('K', "Deletion, truncation, retention"),
    ('L', "Snapshots"),
    ('M', "Payload and metadata"),
    ('N', "Time"),
    ('O', "Tenants and names"),
    ('P', "Lifecycle and resilience"),
    ('Q', "Honest capabilities"),
    ('R', "Archive and tiers"),
    ('S', "Migration, copy, freeze"),
    ('T', "Security and erasure"),
    ('U', "Tests of the catalog itself"),
];

/// The properties that something holds.
pub fn covered() -> impl Iterator<Item = &'static Property> {
    PROPERTIES.iter().filter(|property| property.is_covered())
}

/// The properties that nothing holds yet, those that come later among them.
pub fn uncovered() -> impl Iterator<Item = &'static Property> {
    PROPERTIES.iter().filter(|property| !property.is_covered())
}

/// Every property with its home, as tables of a page.
#[must_use]
pub fn markdown() -> String {
    let mut page = format!(
        "{} of {} properties are held; the others say what brings them. C: every store. K: promised or refused. \
         X: in no suite of the field.\n",
        covered().count(),
        PROPERTIES.len()
    );
    for (group, about) in GROUPS {
        // Writing to a string can't fail.
        let _ = write!(page, "\n### {group}. {about}\n\n| | | what holds | where |\n|-:|-|-|-|\n");
        for property in PROPERTIES.iter().filter(|property| property.group == group) {
            let level = match property.level {
                Level::Core => "C",
                Level::Capability => "K",
                Level::Own => "X",
            };
            let _ = writeln!(page, "| {} | {level} | {} | {} |", property.number, property.sentence, home(property));
        }
    }
    page
}

fn home(property: &Property) -> String {
    let checks = property.checks().map(|name| format!("`{name}`"));
    let (tests, later): (&[&str], _) = match property.home {
        Home::Catalog => (&[], None),
        Home::Tests(tests) => (tests, None),
        Home::Later(reason) => (&[], Some(reason)),
    };
    let tests = tests.iter().map(|test| format!("`{test}`"));
    let held: Vec<_> = checks.chain(tests).collect();
    match later.or(property.rest) {
        None if held.is_empty() => "**open**".into(),
        None => held.join("<br>"),
        Some(reason) if held.is_empty() => format!("not yet: {reason}"),
        Some(reason) => format!("{}<br>the rest not yet: {reason}", held.join("<br>")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_every_number_once_in_order_and_every_group() {
        assert!(PROPERTIES.iter().map(|property| property.number).eq(1..=235));
        let mut groups: Vec<_> = PROPERTIES.iter().map(|property| property.group).collect();
        groups.dedup();
        assert!(groups.into_iter().eq(GROUPS.iter().map(|(group, _)| *group)));
    }

    #[test]
    fn a_row_of_the_page_is_one_row() {
        for line in markdown().lines().filter(|line| line.starts_with('|')) {
            assert_eq!(line.matches('|').count(), 5, "{line}");
        }
    }

    #[test]
    fn checks_cover_numbers_that_exist() {
        for check in catalog() {
            assert!(check.properties.iter().all(|number| (1..=235).contains(number)), "{}", check.name);
            assert!(!check.properties.is_empty(), "{} covers nothing", check.name);
        }
    }
}
