//! DynamoDB: a commit is one item, written under a condition that its slot is free.
//!
//! The layout is in `tables`, what an item holds in `codec`. With `feed = "transactional"` appends that wait are one transaction: their
//! commits, and the next record of the log that orders all of them (`lane`, `log`). What is not here on purpose: retries of refused
//! calls, metrics; those are layers, and the SDK's own retries are off.

mod admin;
mod append;
mod capabilities;
mod codec;
mod config;
mod courier;
mod dictionary;
mod error;
mod examine;
pub mod floor;
mod index;
mod known;
mod lane;
mod link;
mod log;
mod opener;
mod place;
#[cfg_attr(
    not(feature = "sqs"),
    expect(dead_code, reason = "some of it is only for the service, which is built in with the feature")
)]
mod queue;
mod read;
mod record;
mod replicate;
mod schema;
mod seal;
mod sequencer;
mod server_time;
mod slots;
mod snapshot;
mod source;
#[cfg(feature = "sqs")]
mod sqs;
mod store;
mod tables;
mod together;

pub use config::KEYS;
pub use opener::{provider, provider_with};

/// Its name in config files.
pub const NAME: &str = "dynamodb";
