//! The contract of evstore: what an event store is, in types and two traits.
//!
//! Applications hold an [`EventStore`]; operators and migrations hold a [`StoreAdmin`], opened apart and with other
//! credentials. Both are object-safe, work on bytes, and take one request struct per operation and give one receipt back.
//! A [`Provider`] is a value that says how to open both for one kind of engine. What a store promises is in its
//! [`Capabilities`]; what went wrong, and what to do next, is in [`Error`].
//!
//! This crate holds no provider's types and no conveniences that one provider could answer differently from another.

pub mod admin;
pub mod append;
pub mod capabilities;
pub mod chain;
pub mod clock;
pub mod commit;
pub mod cursor;
pub mod deadline;
pub mod error;
pub mod event;
pub mod feed;
pub mod format;
pub mod id;
pub mod meta;
pub mod name;
pub mod number;
pub mod provider;
pub mod record;
pub mod snapshot;
pub mod store;
pub mod stream;

pub use admin::{
    AdvanceFeed, CommitsPage, Delete, Deleted, FeedAdvanced, Finding, OpenStream, Origin, ReadCommits, Release,
    Released, Replica, Replicate, Replicated, SchemaChange, SchemaPlan, SealStream, Severity, StoreAdmin, StreamOpened,
    StreamSealed, Truncate, Truncated,
};
pub use append::{Append, Appended, Expected, FindCommit};
pub use capabilities::Capabilities;
pub use clock::{Clock, SystemClock};
pub use commit::{Commit, CommitKind, Content, Events, NewCommit};
pub use cursor::Cursor;
pub use deadline::Deadline;
pub use error::{Advice, Error, ErrorKind, Result, Written};
pub use event::{Event, EventRef, Extension, NewEvent};
pub use feed::{FeedFilter, FeedHead, FeedItem, FeedPage, FeedStart, Lag, NamespaceFilter, ReadFeed, WaitFeed, Waited};
pub use id::{CommitId, ContentDigest, EventId, Incarnation};
pub use meta::{Format, Lineage, Meta, MetaSwapped, StoreState, SwapMeta};
pub use name::{Category, ContentType, EventType, Namespace, RecordName, StoreName, StreamId, StreamName};
pub use number::{CommitNumber, Epoch, Position, RecordNumber, Revision, Timestamp};
pub use provider::{ConfigKey, KeyDefault, KeyKind, Opener, Provider, Secrecy, Settings};
pub use record::{
    ListRecords, PutRecord, ReadRecord, Record, RecordExpected, RecordKey, RecordKind, RecordPut, RecordsPage,
};
pub use snapshot::{DeleteSnapshot, PutSnapshot, ReadSnapshot, Snapshot, SnapshotPut};
pub use store::EventStore;
pub use stream::{
    Direction, Head, ListStreams, ListedStream, ReadHead, ReadStream, StreamPage, StreamStart, StreamState, StreamsPage,
};

/// Number of this contract. A verb is added only together with a new number; conformance runs this one and the one before.
pub const CONTRACT: u32 = 1;

/// What one call cost the engine, counted from its answers and never from constants. Zero where the engine does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Round trips to the engine. Calls that shared them report whole ones, so that all their receipts together say how many were sent:
    /// some then say none.
    pub requests: u32,
    /// Read units as the engine reports them (DynamoDB), else zero.
    pub read_units: f64,
    /// Write units as the engine reports them (DynamoDB), tables and indexes together, else zero.
    pub write_units: f64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.read_units += other.read_units;
        self.write_units += other.write_units;
    }
}
