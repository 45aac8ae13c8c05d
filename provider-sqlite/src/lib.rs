//! The embedded default of evstore: one SQLite file, durable, no server.
//!
//! One writer thread for each open store turns what waits into one transaction and one fsync; readers stand beside it.
//! Several processes may have the file open: heads, ids and the position counter are read under SQLite's write lock and
//! never trusted from memory. What is not here on purpose: retries, timeouts of running calls, metrics; those are layers.

mod admin;
mod append;
mod capabilities;
mod checksum;
mod codec;
mod config;
mod error;
mod examine;
pub mod floor;
mod opener;
mod place;
mod read;
mod reader;
mod record;
mod schema;
mod snapshot;
mod store;
mod wait;
mod writer;

pub use config::KEYS;
pub use opener::{provider, provider_with};
