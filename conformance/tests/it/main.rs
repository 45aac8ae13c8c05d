//! The catalog and the checker of histories, from outside: one program, which is built and linked once.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod coverage;
mod history_clean;
mod history_exhaustive;
mod history_rules;
mod in_place;
mod seeds;
