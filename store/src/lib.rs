//! Event stores behind one contract, chosen in a config file.

// The derive names this crate from the outside, also in its own documentation tests.
extern crate self as evstore;

pub use evstore_api as api;

mod aggregate;
mod backoff;
mod context;
mod domain_event;
mod fold;
mod repository;
mod snapshots;
pub mod testing;
mod variant;

pub use aggregate::Aggregate;
pub use api::{CommitId, EventStore};
pub use context::Context;
pub use domain_event::{DomainEvent, RawEvent};
/// Makes an enum the events of an aggregate; see the [trait](trait@DomainEvent).
pub use evstore_derive::DomainEvent;
pub use fold::FoldedFrom;
pub use repository::{ExecuteError, Executed, Loaded, Repository};
pub use snapshots::{SnapshotPolicy, SnapshotRefused};

/// For what `#[derive(DomainEvent)]` writes; no promise is made about it.
#[doc(hidden)]
pub mod __private {
    pub use crate::variant::{decode, decode_old, encode, encode_raw, unknown_schema, unknown_type};
}
