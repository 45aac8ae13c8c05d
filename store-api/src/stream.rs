//! One stream: its head, its events, and the list of all streams.

use crate::Usage;
use crate::commit::Commit;
use crate::deadline::Deadline;
use crate::event::EventRef;
use crate::feed::NamespaceFilter;
use crate::id::CommitId;
use crate::name::{Category, StoreName, StreamId};
use crate::number::{CommitNumber, Epoch, Revision, Timestamp};

/// What can be done with a stream. Four answers, all different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamState {
    /// It has no commit.
    Missing,
    /// It takes appends (while its store does).
    Open,
    /// It takes none here: it lives in another store, or is on its way.
    Sealed {
        /// The epoch of the move.
        epoch: Epoch,
        /// Where it went; this store's own name while it is still being copied in.
        to: StoreName,
    },
    /// It was deleted for good.
    Deleted,
}

/// The end of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Revision of the last event ever appended; 0 for a missing stream.
    pub revision: Revision,
    /// Number of the last commit, markers included; 0 for a missing stream.
    pub number: CommitNumber,
    /// Revision of the first event that is still there; one above `revision` where none is.
    pub first_retained: Revision,
    /// Id of the last commit; none for a missing stream.
    pub commit: Option<CommitId>,
    /// When the last commit was taken; none for a missing stream.
    pub recorded_at: Option<Timestamp>,
    /// What can be done with it.
    pub state: StreamState,
}

impl Head {
    /// The head of a stream without a commit.
    #[must_use]
    pub fn missing() -> Self {
        Self {
            revision: Revision(0),
            number: CommitNumber(0),
            first_retained: Revision(1),
            commit: None,
            recorded_at: None,
            state: StreamState::Missing,
        }
    }
}

/// Reads a stream's head.
#[derive(Clone, Debug)]
pub struct ReadHead {
    /// The stream.
    pub stream: StreamId,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// Which way to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// By rising revision.
    Forward,
    /// By falling revision.
    Backward,
}

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamStart {
    /// At the first retained event.
    First,
    /// At the last event.
    Last,
    /// At this event, included. Forward past the head and backward below the first retained one read nothing; forward
    /// below the first retained one begins there, backward above the head begins at the head. 0 is `Invalid`.
    At(Revision),
}

/// Reads events of one stream.
#[derive(Clone, Debug)]
pub struct ReadStream {
    /// The stream.
    pub stream: StreamId,
    /// Where to begin.
    pub from: StreamStart,
    /// Which way.
    pub direction: Direction,
    /// Most events to return, over all pages of the engine. 0 returns the head alone.
    pub limit: u32,
    /// Most bytes of data and metadata to return; one event is returned even when it alone is larger.
    pub max_bytes: u64,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// A part of one stream, never part of a commit that is not wholly there.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamPage {
    /// The stream's head at the moment of the read, also when the page is empty or filtered.
    pub head: Head,
    /// The commits in the order of reading, each with the events asked for. Events inside a commit are by ordinal; see
    /// [`events`](Self::events) for the order of reading.
    pub commits: Vec<Commit>,
    /// The direction of the read.
    pub direction: Direction,
    /// Where to go on, none at the end of the stream in this direction.
    pub next: Option<Revision>,
    /// What this call cost.
    pub usage: Usage,
}

impl StreamPage {
    /// The events in the order of reading.
    pub fn events(&self) -> Box<dyn Iterator<Item = EventRef<'_>> + Send + '_> {
        match self.direction {
            Direction::Forward => Box::new(self.commits.iter().flat_map(Commit::events)),
            Direction::Backward => Box::new(self.commits.iter().flat_map(|commit| commit.events().rev())),
        }
    }
}

/// Lists streams in the order of namespace and name (bytes), each that existed at the start exactly once.
#[derive(Clone, Debug)]
pub struct ListStreams {
    /// Of which namespaces.
    pub namespace: NamespaceFilter,
    /// Only of this category.
    pub category: Option<Category>,
    /// Only names that begin so. Empty for all.
    pub prefix: String,
    /// After this stream, as [`StreamsPage::next`] gave it.
    pub after: Option<StreamId>,
    /// Most streams to return, at least 1.
    pub limit: u32,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// A stream in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedStream {
    /// The stream.
    pub stream: StreamId,
    /// Its head. Deleted streams are listed, as deleted.
    pub head: Head,
}

/// A part of the list of streams.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamsPage {
    /// The streams.
    pub streams: Vec<ListedStream>,
    /// Where to go on, none at the end.
    pub next: Option<StreamId>,
    /// What this call cost.
    pub usage: Usage,
}
