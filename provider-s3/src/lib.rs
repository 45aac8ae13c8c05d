//! S3: the log of a store is a row of objects, each written under the condition that its number is free.
//!
//! A store is a machine that every process runs for itself: `tables` is its state, `log` the row of objects that changes it, `lane`
//! puts the next one. An object holds the effects of all that waited (`codec`), decided in order against the state before it
//! (`draft`); who loses the number takes over what stands there and decides again. Payloads stay in the objects: `payload` fetches
//! them, `blank` takes away what was removed. `checkpoint` keeps the state, so that opening does not read everything.
//!
//! What is not here on purpose: retries of refused calls, metrics; those are layers, and the SDK's own retries are off.

mod admin;
mod append;
mod blank;
mod capabilities;
mod checkpoint;
mod claim;
mod codec;
mod config;
mod draft;
mod error;
mod examine;
pub mod floor;
mod lane;
mod log;
mod opener;
mod payload;
mod read;
mod record;
mod replicate;
mod schema;
mod snapshot;
mod store;
mod tables;
mod wire;

pub use config::KEYS;
pub use opener::{provider, provider_with};

/// Its name in config files.
pub const NAME: &str = "s3";
