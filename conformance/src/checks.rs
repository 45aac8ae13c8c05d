//! The checks, a file for each topic.

use crate::check::Check;

mod append;
mod concurrency;
mod feed;

/// Every file's checks, in the order of the contract.
pub(crate) const ALL: &[&[Check]] = &[append::CHECKS, concurrency::CHECKS, feed::CHECKS];
