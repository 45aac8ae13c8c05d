//! Appending a commit, and finding one again by its id.

use crate::Usage;
use crate::commit::NewCommit;
use crate::deadline::Deadline;
use crate::id::{CommitId, ContentDigest};
use crate::name::StreamId;
use crate::number::{CommitNumber, Position, Revision, Timestamp};
use std::fmt;

/// What has to be true of a stream for an append to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expected {
    /// Anything, but deleted or sealed.
    Any,
    /// The stream has no commit. The same as `At(Revision(0))`.
    NoStream,
    /// The stream has an event.
    Exists,
    /// The last event has exactly this revision. Stale, gappy and future values all conflict.
    At(Revision),
}

impl Expected {
    /// Whether it holds of a stream whose last event has this revision, 0 for none.
    ///
    /// A stream is never without events once it was created: truncation strips events and keeps the head.
    #[must_use]
    pub fn holds(self, head: Revision) -> bool {
        match self {
            Self::Any => true,
            Self::NoStream => head.0 == 0,
            Self::Exists => head.0 > 0,
            Self::At(revision) => head == revision,
        }
    }
}

/// As the command line takes it: `any`, `no-stream`, `exists` or a revision.
impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::NoStream => f.write_str("no-stream"),
            Self::Exists => f.write_str("exists"),
            Self::At(revision) => revision.fmt(f),
        }
    }
}

/// Appends one commit to one stream, all or nothing.
#[derive(Clone, Debug)]
pub struct Append {
    /// The stream; made by its first commit.
    pub stream: StreamId,
    /// What has to be true of it.
    pub expected: Expected,
    /// What to append.
    pub commit: NewCommit,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// The receipt of a commit, the same on every repeat but for `repeated` and `usage`.
#[derive(Clone, Debug, PartialEq)]
pub struct Appended {
    /// The commit.
    pub commit: CommitId,
    /// Its slot.
    pub number: CommitNumber,
    /// Revision of its first event; for a marker the one that the next event would take.
    pub first: Revision,
    /// Revision of its last event.
    pub last: Revision,
    /// Position of its first event, where the append assigns it or a sequencer has since.
    pub position: Option<Position>,
    /// When the store took it.
    pub recorded_at: Timestamp,
    /// Digest of its content.
    pub digest: ContentDigest,
    /// Whether the commit was there already and this call wrote nothing.
    pub repeated: bool,
    /// What this call cost.
    pub usage: Usage,
}

/// Looks a commit up by its id, within the declared window.
#[derive(Clone, Debug)]
pub struct FindCommit {
    /// The stream that the id belongs to.
    pub stream: StreamId,
    /// The id.
    pub commit: CommitId,
    /// When to stop waiting.
    pub deadline: Deadline,
}
