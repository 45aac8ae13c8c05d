//! The side of a store that applications hold.

use crate::append::{Append, Appended, FindCommit};
use crate::capabilities::Capabilities;
use crate::deadline::Deadline;
use crate::error::Result;
use crate::feed::{FeedHead, FeedPage, ReadFeed, WaitFeed, Waited};
use crate::record::{ListRecords, PutRecord, ReadRecord, Record, RecordPut, RecordsPage};
use crate::snapshot::{DeleteSnapshot, PutSnapshot, ReadSnapshot, Snapshot, SnapshotPut};
use crate::stream::{Head, ListStreams, ReadHead, ReadStream, StreamPage, StreamsPage};
use async_trait::async_trait;

/// An event store: append, read, follow.
///
/// Every call may be made concurrently through a shared reference. Any call may fail with `Unavailable`, `Throttled`,
/// `DeadlineExceeded`, `Denied`, `Corrupt` or `Closed`; only the others are named at each method.
///
/// # Cancel safety
/// Dropping the future of a write after its first poll leaves it `Indeterminate`: repeating the same commit resolves it.
/// Dropping a read loses nothing.
#[async_trait]
pub trait EventStore: Send + Sync + std::fmt::Debug {
    /// What the store promises. Fixed while it is open.
    fn capabilities(&self) -> &Capabilities;

    /// Appends a commit, all or nothing; `Ok` means as durable as the store declares.
    ///
    /// # Behavior
    /// The commit id is looked up first. Found with the same content: the first receipt, with `repeated`, whatever the
    /// expectation and the stream's state. Found with other content: `IdReused`. Then the states of store and stream, then
    /// the expectation, are checked in the same atomic step that writes.
    ///
    /// # Errors
    /// `Conflict` with the actual head; `IdReused`; `Gone`, `Moved` or `Fenced` by the states; `TooLarge` and `Invalid` before
    /// anything is sent. In all these cases nothing was written. `Indeterminate` when sent without an answer.
    async fn append(&self, request: Append) -> Result<Appended>;

    /// Finds a commit by its id: its receipt, with `repeated` and the position it has by now. None when the stream has no
    /// such commit within the declared window. Finds markers too.
    async fn find_commit(&self, request: FindCommit) -> Result<Option<Appended>>;

    /// Reads a stream's head. A missing stream is an answer, not an error.
    async fn head(&self, request: ReadHead) -> Result<Head>;

    /// Reads events of a stream. Missing, sealed and deleted streams answer with an empty or readable page whose head says so.
    ///
    /// # Errors
    /// `Invalid` for revision 0, also on a missing stream.
    async fn read_stream(&self, request: ReadStream) -> Result<StreamPage>;

    /// Reads the feed after a place.
    ///
    /// # Errors
    /// `Invalid` for a limit of 0. `CursorRefused` for a cursor of another store, `HistoryLost` for one beyond what a
    /// failover kept. A place beyond the end is an empty page.
    async fn read_feed(&self, request: ReadFeed) -> Result<FeedPage>;

    /// Waits until the feed has more after a place, or the deadline passes. May say `More` too early, never too late.
    ///
    /// # Errors
    /// As `read_feed`.
    async fn wait_feed(&self, request: WaitFeed) -> Result<Waited>;

    /// Reads the end of the feed, and how far it is behind the streams.
    async fn feed_head(&self, deadline: Deadline) -> Result<FeedHead>;

    /// Lists streams.
    ///
    /// # Errors
    /// `Invalid` for a limit of 0.
    async fn list_streams(&self, request: ListStreams) -> Result<StreamsPage>;

    /// Keeps a snapshot, unless a newer one is kept.
    ///
    /// # Errors
    /// `Gone`, `Moved`, `Fenced` as for an append, `NotFound` for a missing stream, `Conflict` with the head for one that is ahead
    /// of its stream, `TooLarge`, `Invalid` for revision 0.
    async fn put_snapshot(&self, request: PutSnapshot) -> Result<SnapshotPut>;

    /// Reads the latest snapshot, if there is one.
    async fn read_snapshot(&self, request: ReadSnapshot) -> Result<Option<Snapshot>>;

    /// Removes the snapshot.
    async fn delete_snapshot(&self, request: DeleteSnapshot) -> Result<()>;

    /// Changes a small record if it is as expected.
    ///
    /// # Errors
    /// `Conflict`, with `actual` (its number) in the context; `Moved` and `Fenced` as for an append, for checkpoints;
    /// `TooLarge`.
    async fn put_record(&self, request: PutRecord) -> Result<RecordPut>;

    /// Reads a small record: none if it never was, without a value if it is deleted.
    async fn read_record(&self, request: ReadRecord) -> Result<Option<Record>>;

    /// Lists small records that have a value.
    ///
    /// # Errors
    /// `Invalid` for a limit of 0.
    async fn list_records(&self, request: ListRecords) -> Result<RecordsPage>;

    /// Answers what was taken and lets go of connections. Later calls are `Closed`; closing again is success.
    async fn close(&self) -> Result<()>;
}
