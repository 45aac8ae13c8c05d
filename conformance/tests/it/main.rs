//! The catalog, from outside: one program, which is built and linked once.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod coverage;
mod in_place;
mod seeds;
