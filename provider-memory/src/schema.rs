//! The tables: what a database holds, and the few changes that keep them in agreement. Deciding is done before.

use crate::capabilities::FENCE;
use evstore_api::capabilities::Window;
use evstore_api::{
    Commit, CommitId, CommitKind, CommitNumber, Content, Head, Meta, Position, Record, RecordKey, Revision, Snapshot,
    StoreName, StreamId, Timestamp,
};
use evstore_kit::{decide, state};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Mutex;
use tokio::sync::watch;

/// One store: its tables behind the one lock, and the bell for those who wait for a change.
pub struct Database {
    /// The tables. Never locked across a wait.
    pub tables: Mutex<Tables>,
    /// Rung after every change of the feed or the record, and when a handle is closed.
    pub bell: watch::Sender<()>,
}

/// Without the tables: payloads are not for logs.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

impl Database {
    /// An empty, open store.
    pub fn new(now: Timestamp) -> Self {
        let tables = Tables {
            meta: Meta::new(now),
            last_position: Position(0),
            streams: BTreeMap::new(),
            feed: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            records: BTreeMap::new(),
        };
        Self { tables: Mutex::new(tables), bell: watch::Sender::new(()) }
    }
}

/// Everything that a store holds.
pub struct Tables {
    /// The store's record.
    pub meta: Meta,
    /// The last position that was given; every one up to it has a place in the feed.
    pub last_position: Position,
    /// The streams that have a commit, in the order in which they are listed.
    pub streams: BTreeMap<StreamId, Stream>,
    /// What takes the positions, by the first of each.
    pub feed: BTreeMap<Position, Place>,
    /// The latest snapshot of each stream.
    pub snapshots: BTreeMap<StreamId, Snapshot>,
    /// The small records, deleted ones too.
    pub records: BTreeMap<RecordKey, Record>,
}

/// One stream.
pub struct Stream {
    /// Its commits; the one of number n stands at n − 1.
    pub commits: Vec<Commit>,
    /// The latest slot of each commit id.
    pub slots: HashMap<CommitId, CommitNumber>,
    /// Revision of the first event that is still there; one above the head where none is.
    pub first_retained: Revision,
}

/// What takes positions of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The last position that it takes.
    pub last: Position,
    /// What stands there.
    pub content: Placed,
}

/// What stands at a place of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    /// The commit in this slot, stripped or not.
    Commit(StreamId, CommitNumber),
    /// Nothing: it was removed before it came here.
    Removed,
}

impl Stream {
    fn new() -> Self {
        Self { commits: Vec::new(), slots: HashMap::new(), first_retained: Revision(1) }
    }

    /// The commit in a slot.
    pub fn commit(&self, number: CommitNumber) -> Option<&Commit> {
        let place = usize::try_from(number.0.checked_sub(1)?).ok()?;
        self.commits.get(place)
    }

    /// The head, with the state that the store's record leaves it.
    pub fn head(&self, meta: &Meta, own: &StoreName) -> Head {
        let Some(last) = self.commits.last() else {
            return Head::missing();
        };
        Head {
            revision: last.last_revision(),
            number: last.number,
            first_retained: self.first_retained,
            commit: Some(last.id),
            recorded_at: Some(last.recorded_at),
            state: state::of_stream(&last.kind, last.imported, meta, FENCE, own),
        }
    }

    /// Takes the events away from the commits that lie wholly before a revision. Slots, numbers, ids and digests stay.
    fn release(&mut self, before: Revision) {
        for commit in &mut self.commits {
            if commit.kind == CommitKind::Events && commit.last_revision() < before {
                commit.content = Content::Stripped;
                commit.events = Vec::new();
            }
        }
    }

    /// The same for good: the stream begins behind them then.
    fn strip(&mut self, before: Revision) {
        self.release(before);
        let holds = |commit: &&Commit| commit.kind == CommitKind::Events && commit.last_revision() >= before;
        let end = self.commits.last().map_or(Revision(1), |last| last.last_revision().next());
        let first = self.commits.iter().find(holds).map_or(end, |commit| commit.first_revision);
        self.first_retained = self.first_retained.max(first);
    }
}

impl Tables {
    /// The head of a stream.
    pub fn head(&self, stream: &StreamId, own: &StoreName) -> Head {
        self.streams.get(stream).map_or_else(Head::missing, |stream| stream.head(&self.meta, own))
    }

    /// The commit in a slot of a stream.
    pub fn commit(&self, stream: &StreamId, number: CommitNumber) -> Option<&Commit> {
        self.streams.get(stream)?.commit(number)
    }

    /// The commit of an id, while it is still recognised.
    pub fn find(&self, stream: &StreamId, id: CommitId, window: Window) -> Option<&Commit> {
        let stream = self.streams.get(stream)?;
        let found = stream.commit(*stream.slots.get(&id)?)?;
        let head = stream.commits.last()?.number;
        decide::in_window(window, head, found.number).then_some(found)
    }

    /// Puts a commit into the next slot of its stream, and nothing else. Gives back the slot that its id had before.
    pub fn push(&mut self, commit: Commit) -> Option<CommitNumber> {
        let stream = self.streams.entry(commit.stream.clone()).or_insert_with(Stream::new);
        assert_eq!(commit.number.0, stream.commits.len() as u64 + 1, "a commit takes the next slot");
        let before = stream.slots.insert(commit.id, commit.number);
        stream.commits.push(commit);
        before
    }

    /// Takes the last commit of a stream out of its slot again.
    pub fn pop(&mut self, stream: &StreamId, id: CommitId, slot_before: Option<CommitNumber>) {
        let Some(commits) = self.streams.get_mut(stream) else { return };
        commits.commits.pop();
        match slot_before {
            Some(number) => drop(commits.slots.insert(id, number)),
            None => drop(commits.slots.remove(&id)),
        }
        if commits.commits.is_empty() {
            self.streams.remove(stream);
        }
    }

    /// Gives the next positions of the feed to something.
    pub fn place(&mut self, last: Position, content: Placed) {
        assert!(last > self.last_position, "positions only rise");
        self.feed.insert(self.last_position.next(), Place { last, content });
        self.last_position = last;
    }

    /// Strips the beginning of a stream.
    pub fn strip(&mut self, stream: &StreamId, before: Revision) {
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.strip(before);
        }
    }

    /// Takes events out that an archive holds.
    pub fn release(&mut self, stream: &StreamId, before: Revision) {
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.release(before);
        }
    }

    /// The places of the feed that end after a position, in order, the first perhaps beginning before it.
    pub fn places_after(&self, after: Position) -> impl Iterator<Item = (Position, &Place)> {
        let first = self.feed.range(..=after).next_back().map_or(after, |(first, _)| *first);
        self.feed.range(first..).filter(move |(_, place)| place.last > after).map(|(first, place)| (*first, place))
    }
}
