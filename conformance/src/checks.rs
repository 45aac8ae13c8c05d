//! The checks, a file for each topic.

use crate::check::Check;

mod append;
pub(crate) mod concurrency;
mod copies;
mod deletion;
mod feed;
mod filters;
mod health;
mod honesty;
mod idempotency;
mod in_place;
mod lifecycle;
mod listing;
mod ownership;
mod pages;
mod payload;
mod records;
mod snapshots;
mod stream_reads;
mod tenancy;
mod time;

/// Every file's checks, in the order of the contract.
///
/// Statics by reference: what a constant holds, or a static by value, is compiled anew with every future that it leads to in
/// each crate, and each part of one, that looks at it.
pub(crate) static ALL: &[&&[Check]] = &[
    &append::CHECKS,
    &idempotency::CHECKS,
    &concurrency::CHECKS,
    &stream_reads::CHECKS,
    &feed::CHECKS,
    &filters::CHECKS,
    &health::CHECKS,
    &listing::CHECKS,
    &records::CHECKS,
    &pages::CHECKS,
    &deletion::CHECKS,
    &snapshots::CHECKS,
    &payload::CHECKS,
    &time::CHECKS,
    &tenancy::CHECKS,
    &lifecycle::CHECKS,
    &honesty::CHECKS,
    &ownership::CHECKS,
    &copies::CHECKS,
];

/// Checks that only read. They run on a store itself and belong to no scratch store's run.
pub(crate) static IN_PLACE: &&[Check] = &in_place::CHECKS;
