//! What the providers of evstore share: checking a request against limits, deciding what becomes of it, cutting pages.
//!
//! Everything here but the queue of the group commit is pure: a provider reads, asks, and writes what the answer says,
//! inside one atomic step of its own. No provider's types, no clock, no waiting.

pub mod copy;
pub mod decide;
pub mod escape;
pub mod feed_page;
pub mod floor;
pub mod group_commit;
pub mod keys;
pub mod limits;
pub mod prefix;
pub mod presence;
pub mod refusal;
pub mod state;
pub mod stream_page;
