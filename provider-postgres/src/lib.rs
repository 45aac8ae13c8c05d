//! Postgres and Aurora as an event store of evstore.
//!
//! An append is one round trip to a function on the server, which decides a whole batch of waiting appends, each with its own
//! verdict; positions are given afterwards, by a sequencer that any node can run (docs/decisions/0020-postgres-feed.md). What
//! is not here on purpose: retries, timeouts of running calls, metrics; those are layers. Only an append that another
//! transaction undid is sent again, because its neighbours in the batch did not ask for that.

mod admin;
mod append;
mod capabilities;
mod codec;
mod config;
mod error;
mod examine;
pub mod floor;
mod lanes;
mod names;
mod opener;
mod packed;
mod read;
mod record;
mod replicate;
mod schema;
mod sequencer;
mod snapshot;
mod statements;
mod store;
mod transaction;

pub use config::KEYS;
pub use opener::{provider, provider_with_clock};

/// Its name in config files.
pub const NAME: &str = "postgres";
