//! Events: as a caller gives them, as a store keeps them, and as a reader sees them.

use crate::commit::Commit;
use crate::id::{CommitId, EventId};
use crate::name::{ContentType, EventType, StreamId};
use crate::number::{Position, Revision, Timestamp};
use bytes::Bytes;

/// A tagged value beside the fields of the format. Unknown and critical is refused; unknown and other is kept and copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// What it is. Tags are given out in `docs/FORMAT.md`; from 2³¹ on they are free for private use.
    pub tag: u32,
    /// Whether a reader that does not know the tag has to refuse the whole.
    pub critical: bool,
    /// Its bytes.
    pub value: Bytes,
}

/// An event that a caller wants appended. Its data is opaque: the same bytes come out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Its identity; derived from the commit's id and its ordinal where none is supplied.
    pub id: Option<EventId>,
    /// What happened.
    pub event_type: EventType,
    /// Number of the schema of `data`, for upcasting.
    pub schema: u32,
    /// Media type of `data`.
    pub content_type: ContentType,
    /// What happened, in detail. Any bytes.
    pub data: Bytes,
    /// About the event: causation, correlation, who. Any bytes.
    pub metadata: Bytes,
    /// The caller's own time, kept unchanged.
    pub occurred_at: Option<Timestamp>,
    /// Kept and copied unchanged.
    pub extensions: Vec<Extension>,
}

impl NewEvent {
    /// An event of schema 1 with bytes as data and nothing else.
    #[must_use]
    pub fn new(event_type: EventType, data: impl Into<Bytes>) -> Self {
        Self {
            id: None,
            event_type,
            schema: 1,
            content_type: ContentType::bytes(),
            data: data.into(),
            metadata: Bytes::new(),
            occurred_at: None,
            extensions: Vec::new(),
        }
    }
}

/// An event as a store keeps it, in a [`Commit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Place in its commit, from 0. A filtered or sliced commit leaves some out.
    pub ordinal: u32,
    /// Its identity.
    pub id: EventId,
    /// What happened.
    pub event_type: EventType,
    /// Number of the schema of `data`.
    pub schema: u32,
    /// Media type of `data`.
    pub content_type: ContentType,
    /// The bytes that were appended.
    pub data: Bytes,
    /// The bytes that were appended beside them.
    pub metadata: Bytes,
    /// The caller's own time.
    pub occurred_at: Option<Timestamp>,
    /// As given.
    pub extensions: Vec<Extension>,
}

impl Event {
    /// The event at `ordinal` of the commit `commit`, as it is stored.
    #[must_use]
    pub fn recorded(new: NewEvent, commit: CommitId, ordinal: u32) -> Self {
        Self {
            ordinal,
            id: new.id.unwrap_or_else(|| EventId::derive(commit, ordinal)),
            event_type: new.event_type,
            schema: new.schema,
            content_type: new.content_type,
            data: new.data,
            metadata: new.metadata,
            occurred_at: new.occurred_at,
            extensions: new.extensions,
        }
    }
}

/// An event together with the commit that it stands in.
#[derive(Clone, Copy, Debug)]
pub struct EventRef<'a> {
    /// Its commit.
    pub commit: &'a Commit,
    /// The event.
    pub event: &'a Event,
}

impl<'a> EventRef<'a> {
    /// Number of the event in its stream.
    #[must_use]
    pub fn revision(self) -> Revision {
        self.commit.first_revision.plus(u64::from(self.event.ordinal))
    }

    /// Place of the event in the feed, where the store numbers it and had done so when this was read.
    #[must_use]
    pub fn position(self) -> Option<Position> {
        self.commit.first_position.map(|first| first.plus(u64::from(self.event.ordinal)))
    }

    /// The stream.
    #[must_use]
    pub fn stream(self) -> &'a StreamId {
        &self.commit.stream
    }
}
