//! The latest snapshot of a stream's folded state: a hint, never the truth.

use crate::Usage;
use crate::deadline::Deadline;
use crate::id::CommitId;
use crate::name::{ContentType, StreamId};
use crate::number::{CommitNumber, Revision, Timestamp};
use bytes::Bytes;

/// The state of a stream after one of its commits.
///
/// Whoever loads it starts at the commit that it names and verifies the id there; a failover may have refilled those
/// revisions with other events, and then the snapshot is worth nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The stream.
    pub stream: StreamId,
    /// Revision of the last event that is folded in; at least 1.
    pub revision: Revision,
    /// The commit that this event ends.
    pub number: CommitNumber,
    /// Its id.
    pub commit: CommitId,
    /// Number of the schema of `data`.
    pub schema: u32,
    /// Media type of `data`.
    pub content_type: ContentType,
    /// The state. Any bytes.
    pub data: Bytes,
    /// When it was made, by its maker's clock.
    pub taken_at: Timestamp,
}

/// Keeps a snapshot if no newer one is kept.
#[derive(Clone, Debug)]
pub struct PutSnapshot {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// What became of a snapshot. Both are success.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SnapshotPut {
    /// It is the latest now. One of the same revision was replaced.
    Stored {
        /// What this call cost.
        usage: Usage,
    },
    /// One of a higher revision is kept; nothing was written.
    Superseded {
        /// Revision of the one that is kept.
        by: Revision,
        /// What this call cost.
        usage: Usage,
    },
}

/// Reads the latest snapshot of a stream.
#[derive(Clone, Debug)]
pub struct ReadSnapshot {
    /// The stream.
    pub stream: StreamId,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// Removes the snapshot of a stream, whichever it is. Removing none is success.
#[derive(Clone, Debug)]
pub struct DeleteSnapshot {
    /// The stream.
    pub stream: StreamId,
    /// When to stop waiting.
    pub deadline: Deadline,
}
