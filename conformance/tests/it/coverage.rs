//! Every property that this number of the contract has is held by a check, or by a test that is there.

use evstore_api::{ErrorKind, Events};
use evstore_conformance::properties::{Home, Level, PROPERTIES, Property, uncovered};
use std::path::Path;

fn listed<'a>(properties: impl Iterator<Item = &'a Property>) -> String {
    let line = |property: &Property| {
        let reason = match (property.home, property.rest) {
            (Home::Later(reason), _) | (Home::Catalog | Home::Tests(_), Some(reason)) => format!(" ({reason})"),
            (Home::Catalog | Home::Tests(_), None) => String::new(),
        };
        format!("  {} {:?} {}{reason}\n", property.number, property.level, property.sentence)
    };
    properties.map(line).collect()
}

#[test]
fn every_property_of_this_contract_is_covered() {
    println!("not in this number of the contract:\n{}", listed(uncovered().filter(|one| is_later(one))));
    println!("not all of it:\n{}", listed(PROPERTIES.iter().filter(|one| one.rest.is_some())));
    let missing = listed(uncovered().filter(|one| !is_later(one)));
    assert!(missing.is_empty(), "held by nothing:\n{missing}");
}

fn is_later(property: &Property) -> bool {
    matches!(property.home, Home::Later(_))
}

/// What is said to be held but for a part has to be held.
#[test]
fn what_is_held_in_part_is_held() {
    let in_part: Vec<_> = PROPERTIES.iter().filter(|one| one.rest.is_some()).collect();
    assert!(in_part.iter().all(|one| one.is_covered() && !is_later(one)));
    // Core ones are named here, so that a part of another does not come later unseen.
    let core: Vec<_> = in_part.iter().filter(|one| one.level == Level::Core).map(|one| one.number).collect();
    assert_eq!(core, [94]);
}

/// What is core belongs to every store: it comes with no later number.
#[test]
fn no_core_property_comes_later() {
    let later = listed(PROPERTIES.iter().filter(|one| one.level == Level::Core && is_later(one)));
    assert!(later.is_empty(), "core, and not held:\n{later}");
}

#[test]
fn every_test_that_holds_a_property_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate stands in a workspace");
    let mut missing = Vec::new();
    for property in PROPERTIES {
        let Home::Tests(tests) = property.home else { continue };
        for test in tests {
            let (file, name) = test.split_once("::").expect("a test is named by its file and its function");
            let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            if !text.contains(&format!("fn {name}(")) {
                missing.push(format!("{}: {test}", property.number));
            }
        }
    }
    assert!(missing.is_empty(), "tests that are not there:\n{}", missing.join("\n"));
}

/// Property 12: the type has no empty value, so that no store can be asked.
#[test]
fn an_empty_commit_cannot_be_made() {
    assert_eq!(Events::new(Vec::new()).unwrap_err().kind(), ErrorKind::Invalid);
}
