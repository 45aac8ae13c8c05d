//! Commits: what is appended all or nothing, and the markers that take a slot without events.

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventRef, Extension, NewEvent};
use crate::id::{CommitId, ContentDigest, EventId};
use crate::name::{StoreName, StreamId};
use crate::number::{CommitNumber, Epoch, Position, Revision, Timestamp};
use std::collections::HashSet;

/// One or more events, no id twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events(Vec<NewEvent>);

impl Events {
    /// Checks that there is an event and that no supplied id stands twice.
    ///
    /// # Errors
    /// `Invalid`; nothing was written.
    pub fn new(events: Vec<NewEvent>) -> Result<Self> {
        if events.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "a commit has at least one event"));
        }
        if u32::try_from(events.len()).is_err() {
            return Err(Error::new(ErrorKind::TooLarge, "a commit has too many events").with("events", events.len()));
        }
        let mut ids = HashSet::new();
        match events.iter().filter_map(|event| event.id).find(|id| !ids.insert(*id)) {
            None => Ok(Self(events)),
            Some(id) => Err(Error::new(ErrorKind::Invalid, "an event id stands twice in a commit").with("event", id)),
        }
    }

    /// The events, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[NewEvent] {
        &self.0
    }

    /// How many there are, at least one.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.len() as u32
    }
}

/// A commit that a caller wants appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCommit {
    /// Its identity in its stream: repeating it is safe.
    pub id: CommitId,
    /// Its events.
    pub events: Events,
}

impl NewCommit {
    /// The events as they will be stored, ids derived where none was supplied.
    ///
    /// # Errors
    /// `Invalid` when a supplied id equals a derived one of the same commit; nothing was written.
    pub fn recorded(self) -> Result<Vec<Event>> {
        let id = self.id;
        let supplied = self.events.0.iter().any(|event| event.id.is_some());
        let numbered = self.events.0.into_iter().zip(0..);
        let events: Vec<Event> = numbered.map(|(event, ordinal)| Event::recorded(event, id, ordinal)).collect();
        // Derived ids alone can't collide: the check costs a set, so it is made only where one was supplied.
        if supplied {
            let mut ids: HashSet<EventId> = HashSet::with_capacity(events.len());
            if let Some(twice) = events.iter().find(|event| !ids.insert(event.id)) {
                let error = Error::new(ErrorKind::Invalid, "an event id stands twice in a commit");
                return Err(error.with("event", twice.id));
            }
        }
        Ok(events)
    }
}

/// What takes a slot of a stream: events, or a marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitKind {
    /// One or more events.
    Events,
    /// Commits that lay wholly before this revision were stripped.
    Truncated {
        /// The first revision that is kept.
        before: Revision,
    },
    /// The stream is deleted for good.
    Deleted,
    /// The stream is closed here and lives in another store.
    MovedOut {
        /// The epoch of the move.
        epoch: Epoch,
        /// Where it went.
        to: StoreName,
    },
    /// The stream came from another store and is open here.
    MovedIn {
        /// The epoch of the move.
        epoch: Epoch,
        /// The store that it is open in: a copy of this marker elsewhere opens nothing.
        owner: StoreName,
    },
}

impl CommitKind {
    /// Whether it is a marker: no events, no revision, one position.
    #[must_use]
    pub fn is_marker(&self) -> bool {
        *self != Self::Events
    }
}

/// A commit as a store keeps it, or the part of it that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its stream.
    pub stream: StreamId,
    /// Its identity in its stream.
    pub id: CommitId,
    /// Its slot.
    pub number: CommitNumber,
    /// Events or a marker.
    pub kind: CommitKind,
    /// Revision of its first event; for a marker the one that the next event would take.
    pub first_revision: Revision,
    /// How many events it was appended with; 0 for a marker. More than `events` where it is sliced, filtered or stripped.
    pub count: u32,
    /// Position of its first event, or of the marker; the others follow without a gap. None where the store does not
    /// number, or has not yet.
    pub first_position: Option<Position>,
    /// When the store took it, by the provider's clock; never below that of the commit before.
    pub recorded_at: Timestamp,
    /// Digest of its content.
    pub digest: ContentDigest,
    /// The epoch of the move that copied it here; none where it was appended here. An imported commit opens no stream.
    pub imported: Option<Epoch>,
    /// Ties commits of several streams together. Always none in this release.
    pub group: Option<CommitId>,
    /// Kept and copied unchanged.
    pub extensions: Vec<Extension>,
    /// Whether truncation or deletion took the events away for good. The slot, the numbers, the id and the digest stay.
    pub content: Content,
    /// The events that are there and were asked for, by ordinal.
    pub events: Vec<Event>,
}

/// Whether a commit still has its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// As appended.
    Kept,
    /// Only the stub is left, after truncation or deletion.
    Stripped,
}

impl Commit {
    /// Whether every event that it was appended with is in `events`.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.events.len() == self.count as usize
    }

    /// Revision of its last event; for a marker the head's.
    #[must_use]
    pub fn last_revision(&self) -> Revision {
        Revision(self.first_revision.0 + u64::from(self.count) - 1)
    }

    /// How many positions it takes: one for each event, one for a marker.
    #[must_use]
    pub fn positions(&self) -> u64 {
        u64::from(self.count.max(1))
    }

    /// Position of its last event, or of the marker.
    #[must_use]
    pub fn last_position(&self) -> Option<Position> {
        self.first_position.map(|first| first.plus(self.positions() - 1))
    }

    /// The commit without its events.
    #[must_use]
    pub fn frame(&self) -> Self {
        Self {
            stream: self.stream.clone(),
            kind: self.kind.clone(),
            extensions: self.extensions.clone(),
            events: Vec::new(),
            ..*self
        }
    }

    /// The events with their numbers.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = EventRef<'_>> {
        self.events.iter().map(|event| EventRef { commit: self, event })
    }
}
