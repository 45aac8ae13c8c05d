//! Complete stores with one defect each, made by wrapping a given provider, and the checks that must notice.
//!
//! A mutant is reached through the public traits alone: whatever notices it would notice a real store that is wrong in the
//! same way. The repository that decides before it looks up the commit id is not a store: it stands with its like, and with
//! the checks that notice them, in `store/tests/it/repository_mutants.rs`.

mod append;
mod backward;
mod classes;
mod concurrency;
mod copies;
mod defect;
mod deletion;
mod feed;
mod honesty;
mod idempotency;
mod lifecycle;
mod listing;
mod ownership;
mod pages;
mod payload;
mod reads;
mod records;
mod serial;
mod snapshots;
mod tenancy;
mod whole;

use evstore_api::{Opener, Provider};
use std::fmt;
use std::sync::Arc;

/// A complete store with one defect.
#[derive(Clone, Copy)]
pub struct Mutant {
    /// `topic.what-is-wrong`.
    pub name: &'static str,
    /// What is wrong, in a sentence.
    pub defect: &'static str,
    /// The checks that must find it BROKEN.
    pub killed_by: &'static [&'static str],
    /// Puts the defect around what opens the stores of a provider.
    pub wrap: fn(Arc<dyn Opener>) -> Arc<dyn Opener>,
}

impl Mutant {
    /// The given provider with this defect in every store that it opens.
    #[must_use]
    pub fn provider(&self, inner: &Provider) -> Provider {
        Provider { opener: (self.wrap)(inner.opener.clone()), ..inner.clone() }
    }
}

impl fmt::Debug for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mutant({})", self.name)
    }
}

/// Every file's mutants, as `checks::ALL` has the checks.
static ALL: &[&&[Mutant]] = &[
    &append::MUTANTS,
    &backward::MUTANTS,
    &classes::MUTANTS,
    &concurrency::MUTANTS,
    &idempotency::MUTANTS,
    &listing::MUTANTS,
    &pages::MUTANTS,
    &payload::MUTANTS,
    &feed::MUTANTS,
    &records::MUTANTS,
    &deletion::MUTANTS,
    &lifecycle::MUTANTS,
    &honesty::MUTANTS,
    &ownership::MUTANTS,
    &copies::MUTANTS,
    &reads::MUTANTS,
    &serial::MUTANTS,
    &snapshots::MUTANTS,
    &tenancy::MUTANTS,
    &whole::MUTANTS,
];

/// Name of the store that answers every call and does nothing: every check that wants something done has to notice it.
pub const DOES_NOTHING: &str = whole::DOES_NOTHING;

/// Every mutant. Names are unique.
pub fn mutants() -> impl Iterator<Item = &'static Mutant> {
    ALL.iter().copied().copied().flatten()
}

/// Whole stores of other classes than the one that is wrapped, with nothing wrong: every check has to hold on them.
pub fn honest_classes() -> impl Iterator<Item = &'static Mutant> {
    classes::HONEST.iter()
}

/// Mutants that only checks with several processes notice, on a store that several processes can open.
pub fn mutants_of_processes() -> impl Iterator<Item = &'static Mutant> {
    concurrency::OF_PROCESSES.iter()
}

/// The field's commonest feed: an append takes its position first and becomes visible later, so that a reader who resumes
/// after the last position that it saw passes over what was still on its way.
///
/// # Panics
/// Never: the mutant is in the list.
#[must_use]
pub fn serial_feed() -> &'static Mutant {
    &serial::MUTANTS[0]
}
