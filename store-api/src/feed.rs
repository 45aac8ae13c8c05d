//! The feed over all streams: reading it, waiting for it, and its end.

use crate::Usage;
use crate::commit::Commit;
use crate::cursor::Cursor;
use crate::deadline::Deadline;
use crate::event::EventRef;
use crate::name::{Category, EventType, Namespace, StreamId};
use crate::number::Position;
use std::time::Duration;

/// Which namespaces a read covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceFilter {
    /// All of them.
    All,
    /// This one.
    One(Namespace),
}

impl NamespaceFilter {
    /// Whether it covers a namespace.
    #[must_use]
    pub fn covers(&self, namespace: &Namespace) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == namespace,
        }
    }
}

/// Which events of the feed to return. An empty list does not filter.
///
/// A filter drops events and keeps the frame of each commit that still has one; the cursor moves over the rest within
/// bounded work. Markers pass while `types` is empty and their stream passes. `Removed` ranges pass only where nothing
/// is filtered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedFilter {
    /// Of which namespaces.
    pub namespace: NamespaceFilter,
    /// Of any of these categories, whole names: `order` is not `orders`.
    pub categories: Vec<Category>,
    /// Of any of these types.
    pub types: Vec<EventType>,
}

impl FeedFilter {
    /// Lets everything pass.
    #[must_use]
    pub fn none() -> Self {
        Self { namespace: NamespaceFilter::All, categories: Vec::new(), types: Vec::new() }
    }

    /// Whether it lets everything pass.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.namespace == NamespaceFilter::All && self.categories.is_empty() && self.types.is_empty()
    }

    /// Whether commits of this stream may pass.
    #[must_use]
    pub fn covers_stream(&self, stream: &StreamId) -> bool {
        let category = stream.name.as_str().split('-').next().unwrap_or_default();
        self.namespace.covers(&stream.namespace)
            && (self.categories.is_empty() || self.categories.iter().any(|one| one.as_str() == category))
    }

    /// Whether events of this type pass.
    #[must_use]
    pub fn covers_type(&self, event_type: &EventType) -> bool {
        self.types.is_empty() || self.types.contains(event_type)
    }

    /// What passes of a commit, none where nothing does.
    #[must_use]
    pub fn apply(&self, mut commit: Commit) -> Option<Commit> {
        if !self.covers_stream(&commit.stream) {
            return None;
        }
        if commit.kind.is_marker() {
            return self.types.is_empty().then_some(commit);
        }
        if !self.types.is_empty() {
            commit.events.retain(|event| self.covers_type(&event.event_type));
        }
        (!commit.events.is_empty()).then_some(commit)
    }
}

/// Where a feed read begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedStart {
    /// At the very first position.
    First,
    /// After the place of this cursor.
    After(Cursor),
    /// After this position of the store's present incarnation. `Unsupported` where positions are opaque.
    AfterPosition(Position),
}

/// Reads the feed.
#[derive(Clone, Debug)]
pub struct ReadFeed {
    /// Where to begin.
    pub from: FeedStart,
    /// What to return.
    pub filter: FeedFilter,
    /// Most events to return, at least 1. A page holds whole commits, at least one, so a larger first commit exceeds it.
    pub limit: u32,
    /// Most bytes of data and metadata, with the same exception.
    pub max_bytes: u64,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// What takes places in the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every item is a commit, and a box would cost each one an allocation"
)]
pub enum FeedItem {
    /// A commit with its events, or a marker.
    Commit(Commit),
    /// Positions whose events were truncated or deleted, both ends included.
    Removed {
        /// The first.
        first: Position,
        /// The last.
        last: Position,
    },
}

/// A part of the feed, in feed order.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedPage {
    /// What stands there. May be empty although the end is not reached, where a filter dropped everything looked at.
    pub items: Vec<FeedItem>,
    /// The position directly before the first place that this page looked at; none where positions are opaque.
    pub before: Option<Position>,
    /// The place up to which this page looked: where to go on, and what to keep as a checkpoint.
    pub next: Cursor,
    /// Whether there was nothing more when this was read.
    pub end: bool,
    /// What this call cost.
    pub usage: Usage,
}

impl FeedPage {
    /// The commits and markers.
    pub fn commits(&self) -> impl Iterator<Item = &Commit> {
        self.items.iter().filter_map(|item| match item {
            FeedItem::Commit(commit) => Some(commit),
            FeedItem::Removed { .. } => None,
        })
    }

    /// The events.
    pub fn events(&self) -> impl Iterator<Item = EventRef<'_>> {
        self.commits().flat_map(Commit::events)
    }
}

/// Waits until the feed has more.
#[derive(Clone, Debug)]
pub struct WaitFeed {
    /// The place after which something has to appear.
    pub after: Cursor,
    /// When to give up; answered with [`Waited::DeadlinePassed`], not with an error.
    pub deadline: Deadline,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// There is more to read.
    More,
    /// Nothing appeared in time.
    DeadlinePassed,
}

/// How far the feed is behind the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Commits that are acknowledged and not yet in the feed, as far as the store knows.
    pub commits: u64,
    /// Age of the oldest of them.
    pub age: Duration,
}

/// The end of the feed.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedHead {
    /// The place of the last item; before the first on an empty store.
    pub cursor: Cursor,
    /// Its position; 0 on an empty store, none where positions are opaque.
    pub position: Option<Position>,
    /// What is not in the feed yet; zero where the append orders it.
    pub lag: Lag,
    /// What this call cost.
    pub usage: Usage,
}
