//! Event stores behind one contract, chosen in a config file: the one dependency of an application.
//!
//! [`Config`] says which stores there are, a [`Registry`] knows the providers and opens a [`Store`], and [`layers`] give every
//! store the same checks, timeouts, retries, metrics and traces. The contract itself is re-exported from `evstore-api`.
//!
//! ```no_run
//! # async fn example() -> evstore::Result<()> {
//! use evstore::{Config, ReadHead, Registry, Sources, StreamId};
//!
//! let config = Config::load(&Sources::of_process()?)?; // Without a file: SQLite in ./evstore.db.
//! let store = Registry::builtin().open(&config, config.default_store()?).await?;
//! let head = store.events().head(ReadHead { stream: StreamId::new("order-42")?, deadline: store.deadline() }).await?;
//! println!("order 42 is at revision {}", head.revision);
//! # Ok(())
//! # }
//! ```

// The derive names this crate from the outside, also in its own documentation tests.
extern crate self as evstore;

pub use evstore_api as api;
#[doc(no_inline)]
pub use evstore_api::*;

mod aggregate;
mod backoff;
mod checkpoint;
pub mod config;
mod context;
mod domain_event;
mod fold;
pub mod handle;
pub mod layers;
mod logged;
mod projection;
pub mod registry;
mod repository;
mod snapshots;
mod subscription;
pub mod testing;
mod variant;

pub use aggregate::Aggregate;
pub use checkpoint::{Checkpoint, LastCommit, Parked};
pub use config::{Config, Environment, Migrate, Origin, Sources, Warning};
pub use context::Context;
pub use domain_event::{DomainEvent, RawEvent};
/// Makes an enum the events of an aggregate; see the [trait](trait@DomainEvent).
pub use evstore_derive::DomainEvent;
pub use fold::FoldedFrom;
pub use handle::Store;
pub use projection::{
    Awaited, BoxError, Handler, Move, OnError, Phase, Project, Projection, ReadModel, RetryError, Rivals, Status,
    StopReason, WaitError,
};
pub use registry::{Configured, Registry, Shown};
pub use repository::{ExecuteError, Executed, Loaded, Repository};
pub use snapshots::{SnapshotPolicy, SnapshotRefused};
pub use subscription::{Batch, Delivery, FeedEvent, Start, Stopper, Subscribe, Subscription};

/// For what `#[derive(DomainEvent)]` writes; no promise is made about it.
#[doc(hidden)]
pub mod __private {
    pub use crate::variant::{decode, decode_old, encode, encode_raw, unknown_schema, unknown_type};
}
