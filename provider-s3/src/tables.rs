//! The state of a store: what the objects of its log say, applied in order. Payloads are not in it, only where they lie.

use crate::capabilities::FENCE;
use crate::wire::corrupt;
use evstore_api::capabilities::Window;
use evstore_api::{
    Commit, CommitId, CommitKind, CommitNumber, Content, ContentDigest, Epoch, Event, Extension, Head, Meta, Position,
    Record, RecordKey, Result, Revision, Snapshot, StoreName, StreamId, Timestamp,
};
use evstore_kit::{decide, state};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Where a payload lies. It lies there for ever: an object that loses payloads keeps all others where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The object.
    pub object: u64,
    /// Its first byte in the object.
    pub offset: u32,
    /// How many bytes.
    pub bytes: u32,
}

/// The first 16 bytes of BLAKE3 over a snapshot's data, so that two can be told apart without fetching one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotDigest(pub [u8; 16]);

impl SnapshotDigest {
    /// Of this data.
    pub fn of(data: &[u8]) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&blake3::hash(data).as_bytes()[..16]);
        Self(bytes)
    }
}

/// A change of the state, decided. What it says holds whoever applies it: nothing is decided again.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// A commit takes the next slot of its stream, and its positions. Its events lie elsewhere.
    Commit(Box<Commit>, Option<Location>),
    /// Positions without content, up to this one.
    Removed(Position),
    /// Commits of a stream that lie wholly before this revision are stripped.
    Stripped(StreamId, Revision),
    /// The latest snapshot of its stream. Its data lies elsewhere.
    Snapshot(Box<Snapshot>, SnapshotDigest, Location),
    /// A stream has no snapshot any more.
    NoSnapshot(StreamId),
    /// A small record, as it is now.
    Record(Record),
    /// The store's record, as it is now.
    Meta(Meta),
    /// Payloads of which the bytes are gone.
    Blanked(Vec<Location>),
}

/// A commit without its stream, its number and its events.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Its id.
    pub id: CommitId,
    /// Events or a marker.
    pub kind: CommitKind,
    /// Revision of its first event.
    pub first_revision: Revision,
    /// How many events.
    pub count: u32,
    /// Its first position.
    pub first_position: Position,
    /// When the store took it.
    pub recorded_at: Timestamp,
    /// Digest of its content.
    pub digest: ContentDigest,
    /// The epoch of the move that copied it.
    pub imported: Option<Epoch>,
    /// What hardly any commit has.
    pub rare: Option<Box<Rare>>,
    /// Where its events lie; none for a marker, and once it is stripped.
    pub at: Option<Location>,
}

/// What hardly any commit has.
#[derive(Clone, Debug, PartialEq)]
pub struct Rare {
    /// Ties commits together.
    pub group: Option<CommitId>,
    /// Kept and copied.
    pub extensions: Vec<Extension>,
}

impl Frame {
    fn of(commit: Commit, at: Option<Location>) -> Result<Self> {
        let rare = commit.group.is_some() || !commit.extensions.is_empty();
        Ok(Self {
            id: commit.id,
            first_revision: commit.first_revision,
            count: commit.count,
            first_position: commit.first_position.ok_or_else(|| corrupt("a commit has no position"))?,
            recorded_at: commit.recorded_at,
            digest: commit.digest,
            imported: commit.imported,
            rare: rare.then(|| Box::new(Rare { group: commit.group, extensions: commit.extensions })),
            kind: commit.kind,
            at,
        })
    }

    /// Revision of its last event; for a marker that of the last event before it.
    pub fn last_revision(&self) -> Revision {
        Revision(self.first_revision.0 + u64::from(self.count) - 1)
    }

    /// The last position that it takes.
    pub fn last_position(&self) -> Position {
        Position(self.first_position.0 + u64::from(self.count.max(1)) - 1)
    }

    /// The commit with these events, or none of them.
    pub fn commit(&self, stream: &StreamId, number: CommitNumber, events: Vec<Event>) -> Commit {
        let kept = self.kind.is_marker() || self.at.is_some();
        Commit {
            stream: stream.clone(),
            id: self.id,
            number,
            kind: self.kind.clone(),
            first_revision: self.first_revision,
            count: self.count,
            first_position: Some(self.first_position),
            recorded_at: self.recorded_at,
            digest: self.digest,
            imported: self.imported,
            group: self.rare.as_ref().and_then(|rare| rare.group),
            extensions: self.rare.as_ref().map(|rare| rare.extensions.clone()).unwrap_or_default(),
            content: if kept { Content::Kept } else { Content::Stripped },
            events,
        }
    }
}

/// One stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// Its commits; the one of number n stands at n − 1.
    pub frames: Vec<Frame>,
    /// The latest slot of each commit id.
    slots: HashMap<CommitId, CommitNumber>,
    /// Revision of the first event that is still there; one above the head where none is.
    pub first_retained: Revision,
}

impl Stream {
    fn new() -> Self {
        Self { frames: Vec::new(), slots: HashMap::new(), first_retained: Revision(1) }
    }

    /// The commit in a slot.
    pub fn frame(&self, number: CommitNumber) -> Option<&Frame> {
        self.frames.get(usize::try_from(number.0.checked_sub(1)?).ok()?)
    }

    /// The head, with the state that the store's record leaves it.
    pub fn head(&self, meta: &Meta, own: &StoreName) -> Head {
        let Some(last) = self.frames.last() else {
            return Head::missing();
        };
        Head {
            revision: last.last_revision(),
            number: CommitNumber(self.frames.len() as u64),
            first_retained: self.first_retained,
            commit: Some(last.id),
            recorded_at: Some(last.recorded_at),
            state: state::of_stream(&last.kind, last.imported, meta, FENCE, own),
        }
    }

    /// Strips what lies wholly before a revision; gives the slots and what lay there.
    fn strip(&mut self, before: Revision) -> Vec<(usize, Location)> {
        let end = self.frames.partition_point(|frame| frame.last_revision() < before);
        // A marker behind the last stripped commit has the same last revision; it has no content to lose.
        let taken: Vec<_> = self.frames[..end]
            .iter_mut()
            .enumerate()
            .filter_map(|(at, frame)| frame.at.take().map(|location| (at, location)))
            .collect();
        let after = self.frames.last().map_or(Revision(1), |last| last.last_revision().next());
        let kept = self.frames.iter().find(|frame| frame.at.is_some());
        self.first_retained = kept.map_or(after, |frame| frame.first_revision);
        taken
    }
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
    Commit(Arc<StreamId>, CommitNumber),
    /// Nothing: it was removed before it came here.
    Removed,
}

/// A snapshot without its data.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptSnapshot {
    /// The rest of it.
    pub snapshot: Snapshot,
    /// Digest of its data.
    pub digest: SnapshotDigest,
    /// Where its data lies.
    pub at: Location,
}

/// A change by what was there before, so that it can be taken back.
#[derive(Debug)]
pub enum Change {
    /// A commit was added.
    Pushed {
        /// To this stream.
        stream: Arc<StreamId>,
        /// Under this id.
        id: CommitId,
        /// Which stood in this slot before.
        slot_before: Option<CommitNumber>,
    },
    /// A place of the feed.
    Feed {
        /// Where it begins.
        first: Position,
        /// What it was.
        before: Option<Place>,
    },
    /// The end of the feed.
    LastPosition(Position),
    /// Commits were stripped.
    Stripped {
        /// Of this stream.
        stream: StreamId,
        /// These, and where they lay.
        taken: Vec<(usize, Location)>,
        /// The first event before.
        first_retained: Revision,
    },
    /// A stream's snapshot.
    Snapshot(StreamId, Option<KeptSnapshot>),
    /// A small record.
    Record(RecordKey, Option<Record>),
    /// The store's record.
    Meta(Option<Meta>),
}

/// Everything that a store holds but payloads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    /// The last object of the log that is in here; 0 where the store is not there.
    pub end: u64,
    /// How many bytes each object had that was seen, by its number less one; 0 where that is not known.
    pub sizes: Vec<u32>,
    /// The store's record; none where the store is not there.
    pub meta: Option<Meta>,
    /// The last position that was given; every one up to it has a place in the feed.
    pub last_position: Position,
    /// The streams that have a commit, in the order in which they are listed.
    pub streams: BTreeMap<Arc<StreamId>, Stream>,
    /// What takes the positions, by the first of each.
    pub feed: BTreeMap<Position, Place>,
    /// The latest snapshot of each stream.
    pub snapshots: BTreeMap<StreamId, KeptSnapshot>,
    /// The small records, deleted ones too.
    pub records: BTreeMap<RecordKey, Record>,
    /// Payloads that nothing points to any more and whose bytes are still there, by object.
    pub dead: BTreeMap<u64, Vec<Location>>,
    /// Whether some of them were removed because somebody said so, and not because something newer came.
    pub due: bool,
    /// An object that could not be applied: what is here may be half of it.
    pub broken: Option<u64>,
}

impl Tables {
    /// The store's record.
    ///
    /// # Panics
    /// Where the store is not there, which whoever looks at it has found out before.
    pub fn meta(&self) -> &Meta {
        self.meta.as_ref().expect("a store that is there has its record")
    }

    /// The head of a stream.
    pub fn head(&self, stream: &StreamId, own: &StoreName) -> Head {
        self.streams.get(stream).map_or_else(Head::missing, |stream| stream.head(self.meta(), own))
    }

    /// The commit in a slot of a stream.
    pub fn frame(&self, stream: &StreamId, number: CommitNumber) -> Option<&Frame> {
        self.streams.get(stream)?.frame(number)
    }

    /// The commit of an id, without its events, while it is still recognised.
    pub fn find(&self, stream: &StreamId, id: CommitId, window: Window) -> Option<Commit> {
        let found = self.streams.get(stream)?;
        let number = *found.slots.get(&id)?;
        let head = CommitNumber(found.frames.len() as u64);
        let recognised = decide::in_window(window, head, number);
        recognised.then(|| found.frame(number).map(|frame| frame.commit(stream, number, Vec::new()))).flatten()
    }

    /// The places of the feed that end after a position, in order, the first perhaps beginning before it.
    pub fn places_after(&self, after: Position) -> impl Iterator<Item = (Position, &Place)> {
        let first = self.feed.range(..=after).next_back().map_or(after, |(first, _)| *first);
        self.feed.range(first..).filter(move |(_, place)| place.last > after).map(|(first, place)| (*first, place))
    }

    /// Applies the next object of the log.
    ///
    /// # Errors
    /// `Corrupt` for what does not follow; nothing can be done with the tables then.
    pub fn advance(&mut self, number: u64, size: usize, effects: Vec<Effect>) -> Result<()> {
        self.broken = Some(number);
        if number != self.end + 1 {
            return Err(corrupt("an object does not follow the one before"));
        }
        if number == 1 && !matches!(effects.first(), Some(Effect::Meta(_))) {
            return Err(corrupt("the first object has no record of the store"));
        }
        for effect in effects {
            for change in self.apply(effect)? {
                self.note_dead(change);
            }
        }
        self.sizes.resize(self.end as usize, 0);
        self.sizes.push(u32::try_from(size).unwrap_or(u32::MAX));
        self.end = number;
        self.broken = None;
        Ok(())
    }

    /// Keeps in mind where payloads lie that nothing points to any more.
    fn note_dead(&mut self, change: Change) {
        let mut dead = |at: Location| self.dead.entry(at.object).or_default().push(at);
        match change {
            Change::Stripped { taken, .. } => {
                self.due |= !taken.is_empty();
                taken.into_iter().for_each(|(_, at)| dead(at));
            }
            Change::Snapshot(stream, before) => {
                before.into_iter().for_each(|kept| dead(kept.at));
                // Those that were there before it may still be in the log, and go with it.
                self.due |= !self.snapshots.contains_key(&stream) && !self.dead.is_empty();
            }
            Change::Pushed { .. }
            | Change::Feed { .. }
            | Change::LastPosition(_)
            | Change::Record(..)
            | Change::Meta(_) => {}
        }
    }

    /// Applies one effect; gives what takes it back, in order.
    ///
    /// # Errors
    /// `Corrupt` for what does not follow; what was done of it stays.
    pub fn apply(&mut self, effect: Effect) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        match effect {
            Effect::Commit(commit, at) => self.push(*commit, at, &mut changes)?,
            Effect::Removed(last) => self.extend(last, Placed::Removed, &mut changes)?,
            Effect::Stripped(stream, before) => {
                if let Some(found) = self.streams.get_mut(&stream) {
                    let first_retained = found.first_retained;
                    let taken = found.strip(before);
                    changes.push(Change::Stripped { stream, taken, first_retained });
                }
            }
            Effect::Snapshot(snapshot, digest, at) => {
                let stream = snapshot.stream.clone();
                let before = self.snapshots.insert(stream.clone(), KeptSnapshot { snapshot: *snapshot, digest, at });
                changes.push(Change::Snapshot(stream, before));
            }
            Effect::NoSnapshot(stream) => {
                let before = self.snapshots.remove(&stream);
                changes.push(Change::Snapshot(stream, before));
            }
            Effect::Record(record) => {
                let key = record.key.clone();
                let before = self.records.insert(key.clone(), record);
                changes.push(Change::Record(key, before));
            }
            Effect::Meta(meta) => changes.push(Change::Meta(self.meta.replace(meta))),
            Effect::Blanked(gone) => self.forget(&gone),
        }
        Ok(changes)
    }

    fn forget(&mut self, gone: &[Location]) {
        for at in gone {
            if let Some(dead) = self.dead.get_mut(&at.object) {
                dead.retain(|one| one != at);
                if dead.is_empty() {
                    self.dead.remove(&at.object);
                }
            }
        }
        self.due &= !self.dead.is_empty();
    }

    fn push(&mut self, commit: Commit, at: Option<Location>, changes: &mut Vec<Change>) -> Result<()> {
        let (id, number) = (commit.id, commit.number);
        let stream = match self.streams.get_key_value(&commit.stream) {
            Some((known, _)) => known.clone(),
            None => Arc::new(commit.stream.clone()),
        };
        let frame = Frame::of(commit, at)?;
        let found = self.streams.entry(stream.clone()).or_insert_with(Stream::new);
        let next = found.frames.last().map_or(Revision(1), |last| last.last_revision().next());
        if number.0 != found.frames.len() as u64 + 1 || frame.first_revision != next {
            return Err(corrupt("a commit does not follow the one before in its stream"));
        }
        let slot_before = found.slots.insert(id, number);
        let (first, last) = (frame.first_position, frame.last_position());
        found.frames.push(frame);
        changes.push(Change::Pushed { stream: stream.clone(), id, slot_before });
        let content = Placed::Commit(stream, number);
        if first > self.last_position {
            if first != self.last_position.next() {
                return Err(corrupt("a commit leaves a gap in the feed"));
            }
            return self.extend(last, content, changes);
        }
        self.cut(first, last, content, changes)
    }

    /// Puts a commit into a range that came as removed before.
    fn cut(&mut self, first: Position, last: Position, content: Placed, changes: &mut Vec<Change>) -> Result<()> {
        let range = self.feed.range(..=first).next_back().map(|(start, place)| (*start, place.clone()));
        let Some((start, Place { last: end, content: Placed::Removed })) =
            range.filter(|(_, place)| last <= place.last)
        else {
            return Err(corrupt("a commit takes positions that are taken"));
        };
        if start < first {
            self.set_place(start, Place { last: Position(first.0 - 1), content: Placed::Removed }, changes);
        }
        self.set_place(first, Place { last, content }, changes);
        if last < end {
            self.set_place(last.next(), Place { last: end, content: Placed::Removed }, changes);
        }
        Ok(())
    }

    fn extend(&mut self, last: Position, content: Placed, changes: &mut Vec<Change>) -> Result<()> {
        if last <= self.last_position {
            return Err(corrupt("positions of the feed do not rise"));
        }
        changes.push(Change::LastPosition(self.last_position));
        self.set_place(self.last_position.next(), Place { last, content }, changes);
        self.last_position = last;
        Ok(())
    }

    fn set_place(&mut self, first: Position, place: Place, changes: &mut Vec<Change>) {
        let before = self.feed.insert(first, place);
        changes.push(Change::Feed { first, before });
    }

    /// Takes a change back; the last one first.
    pub fn take_back(&mut self, change: Change) {
        match change {
            Change::Pushed { stream, id, slot_before } => self.pop(&stream, id, slot_before),
            Change::Feed { first, before } => put_back(&mut self.feed, first, before),
            Change::LastPosition(before) => self.last_position = before,
            Change::Stripped { stream, taken, first_retained } => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.first_retained = first_retained;
                    taken.into_iter().for_each(|(at, location)| stream.frames[at].at = Some(location));
                }
            }
            Change::Snapshot(stream, before) => put_back(&mut self.snapshots, stream, before),
            Change::Record(key, before) => put_back(&mut self.records, key, before),
            Change::Meta(before) => self.meta = before,
        }
    }

    fn pop(&mut self, stream: &Arc<StreamId>, id: CommitId, slot_before: Option<CommitNumber>) {
        let Some(found) = self.streams.get_mut(stream) else { return };
        found.frames.pop();
        match slot_before {
            Some(number) => drop(found.slots.insert(id, number)),
            None => drop(found.slots.remove(&id)),
        }
        if found.frames.is_empty() {
            self.streams.remove(stream);
        }
    }

    /// Puts a stream of a checkpoint in, with its places in the feed.
    ///
    /// # Errors
    /// `Corrupt` for a stream that stands twice.
    pub fn restore(&mut self, stream: StreamId, first_retained: Revision, frames: Vec<Frame>) -> Result<()> {
        let stream = Arc::new(stream);
        let mut slots = HashMap::with_capacity(frames.len());
        for (frame, number) in frames.iter().zip(1..) {
            slots.insert(frame.id, CommitNumber(number));
            let content = Placed::Commit(stream.clone(), CommitNumber(number));
            self.feed.insert(frame.first_position, Place { last: frame.last_position(), content });
        }
        match self.streams.insert(stream, Stream { frames, slots, first_retained }) {
            None => Ok(()),
            Some(_) => Err(corrupt("a stream stands twice")),
        }
    }
}

fn put_back<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, before: Option<V>) {
    match before {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_as_small_as_the_documentation_says() {
        assert!(size_of::<Frame>() <= 160, "{}", size_of::<Frame>());
        assert!(size_of::<Place>() <= 32, "{}", size_of::<Place>());
    }

    #[test]
    fn what_does_not_follow_is_refused_and_nothing_is_done_behind_it() {
        let mut tables = Tables::default();
        assert!(tables.clone().advance(2, 0, vec![Effect::Meta(Meta::new(Timestamp(0)))]).is_err());
        assert!(tables.clone().advance(1, 0, vec![]).is_err());
        tables.advance(1, 0, vec![Effect::Meta(Meta::new(Timestamp(0))), Effect::Removed(Position(3))]).unwrap();
        for position in [3, 5] {
            let commit = Commit {
                stream: StreamId::new("a-1").unwrap(),
                id: CommitId([1; 16]),
                number: CommitNumber(1),
                kind: CommitKind::Events,
                first_revision: Revision(1),
                count: 2,
                first_position: Some(Position(position)),
                recorded_at: Timestamp(0),
                digest: ContentDigest([0; 16]),
                imported: None,
                group: None,
                extensions: Vec::new(),
                content: Content::Kept,
                events: Vec::new(),
            };
            let mut tables = tables.clone();
            assert!(tables.advance(2, 0, vec![Effect::Commit(Box::new(commit), None)]).is_err(), "{position}");
            assert_eq!((tables.broken, tables.end), (Some(2), 1));
        }
    }
}
