//! What operators and migrations do to a store: ownership, copies, deletion, schema.

use crate::Usage;
use crate::append::{Appended, Expected};
use crate::capabilities::Capabilities;
use crate::commit::Commit;
use crate::deadline::Deadline;
use crate::error::Result;
use crate::feed::FeedHead;
use crate::id::{CommitId, Incarnation};
use crate::meta::{Meta, MetaSwapped, SwapMeta};
use crate::name::{StoreName, StreamId};
use crate::number::{CommitNumber, Epoch, Position, Revision};
use crate::record::Record;
use crate::snapshot::Snapshot;
use async_trait::async_trait;

/// Seals a stream here: its next slot takes a `MovedOut` marker. Where appends look at nothing but their stream, that is what closes it.
#[derive(Clone, Debug)]
pub struct SealStream {
    /// The stream.
    pub stream: StreamId,
    /// Id of the marker, so that a repeat is recognised.
    pub commit: CommitId,
    /// The epoch in which the store is `Fenced` or `Leaving`.
    pub epoch: Epoch,
    /// Where the stream goes.
    pub to: StoreName,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// The receipt of a sealed stream: the marker's.
pub type StreamSealed = Appended;

/// Opens a copied stream here: its slot takes a `MovedIn` marker. Mode B, and the way back.
#[derive(Clone, Debug)]
pub struct OpenStream {
    /// The stream.
    pub stream: StreamId,
    /// Id of the marker, so that a repeat is recognised.
    pub commit: CommitId,
    /// The slot at which the other store has its `MovedOut`; it must be the next free one here.
    pub number: CommitNumber,
    /// The epoch of the move.
    pub epoch: Epoch,
    /// This store, by the name that markers give it.
    pub owner: StoreName,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// The receipt of an opened stream: the marker's.
pub type StreamOpened = Appended;

/// Whether what is replicated belongs to another store or is this store's own again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A copy of another store's commits: they carry `imported` and open no stream.
    Move {
        /// The present history of both stores, as it was before what is copied was read. A store that is filled takes over the histories
        /// of its owner, and after that no copy that was read from one of which the owner has lost something since.
        history: Incarnation,
    },
    /// A restore of this store's own content from an export: they carry nothing.
    Restore,
}

/// Something to copy, exactly as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replica {
    /// A commit with its numbers, times and position. Whole, or stripped.
    Commit(Commit),
    /// Positions without content, both ends included.
    Removed {
        /// The first.
        first: Position,
        /// The last.
        last: Position,
    },
    /// A snapshot. One that is older than what is kept is passed over.
    Snapshot(Snapshot),
    /// A checkpoint, with its number. One that is older than what is kept is passed over.
    Record(Record),
}

/// Copies recorded content into a store that is `Importing` this epoch, in feed order, all of a request or nothing.
#[derive(Clone, Debug)]
pub struct Replicate {
    /// The epoch that the store is importing.
    pub epoch: Epoch,
    /// Whose content it is.
    pub origin: Origin,
    /// What to copy. A commit takes exactly the next slot of its stream and the next position, or is there already,
    /// identical.
    pub items: Vec<Replica>,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// The receipt of a copy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Replicated {
    /// Items that this call wrote.
    pub written: u64,
    /// Items that were there already.
    pub present: u64,
    /// What this call cost.
    pub usage: Usage,
}

/// Strips the commits of a stream that lie wholly before a revision, and puts a marker at its next slot.
#[derive(Clone, Debug)]
pub struct Truncate {
    /// The stream.
    pub stream: StreamId,
    /// Id of the marker, so that a repeat is recognised.
    pub commit: CommitId,
    /// The first revision to keep, from 2 to one above the head. The commit that holds it is kept whole.
    pub before: Revision,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// The receipt of a truncation.
#[derive(Clone, Debug, PartialEq)]
pub struct Truncated {
    /// The marker's receipt.
    pub marker: Appended,
    /// Revision of the first event that is still there; one above the head where none is.
    pub first_retained: Revision,
}

/// Takes events out of a store because an archive holds them.
#[derive(Clone, Debug)]
pub struct Release {
    /// Streams, each with the first revision that is not released.
    pub streams: Vec<(StreamId, Revision)>,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// The receipt of a release.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Released {
    /// What this call cost.
    pub usage: Usage,
}

/// Deletes a stream for good: a tombstone at its next slot, then its events stripped everywhere.
#[derive(Clone, Debug)]
pub struct Delete {
    /// The stream.
    pub stream: StreamId,
    /// What has to be true of it. A missing stream can be deleted under `Any` and `NoStream`: its name is burnt.
    pub expected: Expected,
    /// Id of the tombstone, so that a repeat is recognised.
    pub commit: CommitId,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// The receipt of a deletion: the tombstone's.
pub type Deleted = Appended;

/// Reads the slots of one stream, markers and stubs included, in order.
#[derive(Clone, Debug)]
pub struct ReadCommits {
    /// The stream.
    pub stream: StreamId,
    /// The first slot wanted, at least 1.
    pub from: CommitNumber,
    /// Most commits to return, at least 1.
    pub limit: u32,
    /// Most bytes of data and metadata; one commit is returned even when it alone is larger.
    pub max_bytes: u64,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// A part of the slots of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct CommitsPage {
    /// The commits.
    pub commits: Vec<Commit>,
    /// Where to go on, none at the end.
    pub next: Option<CommitNumber>,
    /// What this call cost.
    pub usage: Usage,
}

/// Brings the feed up to the streams. A no-op where the append orders it.
#[derive(Clone, Copy, Debug)]
pub struct AdvanceFeed {
    /// When to stop.
    pub deadline: Deadline,
}

/// The receipt of an advance.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedAdvanced {
    /// The end of the feed now.
    pub head: FeedHead,
}

/// One step of a schema change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaChange {
    /// What it does, in a sentence.
    pub summary: String,
    /// The statement, for review; empty where the engine has none.
    pub statement: String,
}

/// What `apply` would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaPlan {
    /// The steps in order; none when the schema is current.
    pub changes: Vec<SchemaChange>,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Fine,
    /// It works, and less well, less safely or not much longer than it should.
    Warning,
    /// It does not work.
    Problem,
}

/// What an examination found about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What was looked at, in a word or two: `disk`, `eviction`, `sequencer`.
    pub about: &'static str,
    /// What was found, in words, with the facts. No secret and no content of events.
    pub found: String,
    /// What to do about it; empty where all is fine.
    pub mending: String,
}

impl Finding {
    /// All is fine.
    #[must_use]
    pub fn fine(about: &'static str, found: impl Into<String>) -> Self {
        Self { severity: Severity::Fine, about, found: found.into(), mending: String::new() }
    }

    /// It works, with a reservation.
    #[must_use]
    pub fn warning(about: &'static str, found: impl Into<String>, mending: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, about, found: found.into(), mending: mending.into() }
    }

    /// It does not work.
    #[must_use]
    pub fn problem(about: &'static str, found: impl Into<String>, mending: impl Into<String>) -> Self {
        Self { severity: Severity::Problem, about, found: found.into(), mending: mending.into() }
    }
}

/// The side of a store that operators and migrations hold. Every method can be repeated.
#[async_trait]
pub trait StoreAdmin: Send + Sync + std::fmt::Debug {
    /// What the store promises.
    fn capabilities(&self) -> &Capabilities;

    /// Reads the store's record.
    ///
    /// # Errors
    /// `Schema` when there is none.
    async fn read_meta(&self, deadline: Deadline) -> Result<Meta>;

    /// Changes the store's record if it is as expected: the fence. No append that began before is acknowledged after.
    ///
    /// # Errors
    /// `Invalid` for a step that no protocol makes; nothing was written. `Indeterminate`: read it.
    async fn swap_meta(&self, request: SwapMeta) -> Result<MetaSwapped>;

    /// Seals a stream in favour of another store. The record is looked at before. A seal that is put late, when the record has changed, bears
    /// the epoch that it was asked for, and closes nothing in a later one.
    ///
    /// # Errors
    /// `Unsupported` where the fence is of the whole store. `Conflict` when the record is not `Fenced` or `Leaving` in
    /// this epoch.
    /// `NotFound` for a missing stream, `Gone` for a deleted one.
    async fn seal_stream(&self, request: SealStream) -> Result<StreamSealed>;

    /// Opens a copied stream, at the slot at which the other store sealed it.
    ///
    /// # Errors
    /// `Unsupported` where the fence is of the whole store. `Conflict` when the slot is not the next one.
    async fn open_stream(&self, request: OpenStream) -> Result<StreamOpened>;

    /// Copies recorded content, all of a request or nothing.
    ///
    /// # Errors
    /// `Fenced` when the store is not importing this epoch, or has another present history. `Conflict` for a gap, or for a slot or position that holds
    /// something else. `TooLarge` for a commit beyond the declared limits. `Corrupt` for a commit whose content is not
    /// what its digest says. Nothing was written.
    async fn replicate(&self, request: Replicate) -> Result<Replicated>;

    /// Reads the slots of a stream, for copies and comparison.
    async fn read_commits(&self, request: ReadCommits) -> Result<CommitsPage>;

    /// Strips the beginning of a stream. Revisions, slots and positions stay used; commits are stripped whole.
    ///
    /// # Errors
    /// `NotFound`, `Gone`, `Moved`, `Fenced` as for an append. `Invalid` when `before` is not from 2 to one above the
    /// head. A `before` that keeps nothing new away is a marker all the same.
    async fn truncate(&self, request: Truncate) -> Result<Truncated>;

    /// Takes out the events of commits that lie wholly before a revision, because an archive holds them.
    ///
    /// # Behavior
    /// Nothing else changes: no marker is written, and the head, the slots and the positions stay as they are, the first retained
    /// revision too, as the events are not gone from the whole. This store alone refuses to read them with `Schema`, and shows their
    /// positions as `Removed`; the tiered store in front of it reads them from its archive. Missing and deleted streams are passed
    /// over. Each stream is done by itself: after an error some may be done, and a repeat does the rest.
    ///
    /// # Errors
    /// `Unsupported` where it is not promised. `Moved` and `Fenced` as for an append.
    async fn release(&self, request: Release) -> Result<Released>;

    /// Deletes a stream for good.
    ///
    /// # Errors
    /// `Conflict`, `Gone`, `Moved`, `Fenced` as for an append.
    async fn delete(&self, request: Delete) -> Result<Deleted>;

    /// Brings the feed up to the streams.
    async fn advance_feed(&self, request: AdvanceFeed) -> Result<FeedAdvanced>;

    /// What `apply_schema` would do.
    ///
    /// # Errors
    /// `Schema` when what is there was made by a newer release, or is something else.
    async fn plan_schema(&self, deadline: Deadline) -> Result<SchemaPlan>;

    /// Makes or upgrades the schema. Does nothing when it is current.
    async fn apply_schema(&self, deadline: Deadline) -> Result<SchemaPlan>;

    /// Verifies that the schema is what this release needs.
    ///
    /// # Errors
    /// `Schema`, naming what is missing or different.
    async fn check_schema(&self, deadline: Deadline) -> Result<()>;

    /// Looks for what only the provider can see, and an operator should know: how the server is set up, whether a disk is
    /// slow, what holds the feed back.
    ///
    /// # Behavior
    /// Changes nothing, and works before the schema is made. What other methods say is left out: the schema, the record, how
    /// far the feed is behind (its cause belongs here). Empty where there is nothing to look at; at most a few dozen findings.
    /// What can't be looked at with these credentials is a finding.
    async fn examine(&self, deadline: Deadline) -> Result<Vec<Finding>>;

    /// Lets go of connections. Later calls are `Closed`; closing again is success.
    async fn close(&self) -> Result<()>;
}
