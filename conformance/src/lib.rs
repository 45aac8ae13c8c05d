//! Holds every event store to the promises of evstore.
//!
//! The [`catalog()`] is data: each [`Check`] has a name, a promise, the properties that it covers, and a function. The same
//! checks run from `cargo test` ([`test_main`]) and from a command line ([`Runner`]), always on scratch stores beside the
//! given one. A verdict is held, BROKEN, refused, not applicable, or not run: never anything else, and never one shown as another.
//!
//! A third party holds its own provider to the catalog in fifteen lines: see `examples/own-provider`.
//!
//! The crate knows no provider. [`mutants`] are complete stores with one defect each, made by wrapping whatever provider
//! is given; they show that each check can fail. [`history`] proves what concurrent clients saw.

pub mod catalog;
pub mod check;
mod checks;
pub mod context;
pub mod mutants;
pub mod properties;
mod race;
pub mod report;
pub mod runner;
mod tail;
pub mod target;
mod trace;
mod trial;
pub mod worker;

pub use catalog::{catalog, in_place};
pub use check::{Broken, Check, Outcome, Verdict};
pub use checks::concurrency::Arena;
pub use context::Context;
pub use evstore_history::{self as history, seed};
pub use report::Report;
pub use runner::{Place, Runner};
pub use target::Target;
pub use trial::{test_main, test_main_with};
