//! The command as a user types it: one program, which is built and linked once.

#![allow(clippy::unwrap_used, reason = "a test that cannot set its stage has failed")]

mod command;
mod compare;
mod damage;
mod evstore;
mod import;
mod interrupt;
mod migrate;
