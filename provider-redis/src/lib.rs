//! Redis and Valkey: standalone, behind Sentinel, or a Cluster.
//!
//! One server-side script decides and writes an append; what it refuses is judged by the rules that all providers share. The
//! layout is in `keyspace`, the scripts are in `scripts/`, connections that follow a failover are in `link`. What `Ok` means
//! is read off the server and declared. What is not here on purpose: retries of refused calls, metrics; those are layers.

mod address;
mod admin;
mod append;
mod capabilities;
mod codec;
mod config;
mod error;
mod examine;
pub mod floor;
mod keyspace;
mod link;
mod opener;
mod read;
mod record;
mod replicate;
mod schema;
mod script;
mod server;
mod snapshot;
mod store;
mod wait;

pub use config::KEYS;
pub use opener::{provider, provider_with};

/// Its name in config files.
pub const NAME: &str = "redis";
