//! An archive behind any store: cold commits lie in segments on S3 or in a folder, and every read is as if they had stayed.
//!
//! The hot store in front decides everything and keeps the frame of every commit. The archive holds events: `archiver` moves them
//! there, `segment` and `catalog` are how they lie, `archive` finds them again, `store` and `read` put the two together. `note` is the
//! small record in the hot store that says which catalog is the last.
//!
//! What is not here on purpose: a process in the background. Somebody runs the archiver: `evstore archive run`, or an application.

mod admin;
mod archive;
mod archiver;
mod capabilities;
mod catalog;
mod config;
mod copied;
mod error;
mod feed;
mod hot;
mod line;
mod note;
mod opener;
mod place;
mod read;
mod segment;
mod store;
#[cfg(test)]
mod tests;
mod verify;

pub use archiver::{Archiver, Compacted, Policy, Progress, Ran};
pub use catalog::{Catalog, Segment};
pub use config::KEYS;
pub use hot::{HOT_STORE, with_hot};
pub use opener::provider;
pub use verify::{Damage, Stats, Verified};

/// Its name in config files.
pub const NAME: &str = "tiered";
