//! Copying recorded content in, all of a request or nothing.

use crate::draft::Draft;
use crate::store::Handle;
use crate::tables::{Effect, Place, Placed, SnapshotDigest};
use bytes::Bytes;
use evstore_api::{
    Commit, CommitKind, Content, Error, ErrorKind, Position, Record, Replica, Replicate, Replicated, Result, Revision,
    Snapshot, StreamId,
};
use evstore_kit::copy::{self, Claimed, CommitFate, Fate};
use evstore_kit::limits;
use std::collections::BTreeMap;

/// Bytes of one request at most: it is one object, and that is held in memory.
const REQUEST_BYTES_MAX: usize = 1 << 30;

/// Something to copy, checked as far as that is possible without a look at the store.
enum Item {
    /// A commit without its events, and these encoded.
    Commit(Box<Commit>, Option<Bytes>),
    Removed {
        first: Position,
        last: Position,
    },
    Snapshot(Snapshot),
    Record(Record),
}

/// Copies the items of a request.
pub async fn replicate(handle: &Handle, request: Replicate) -> Result<Replicated> {
    let client = &handle.client;
    let (epoch, origin) = (request.epoch, request.origin);
    let imported = copy::imported(origin, epoch);
    let mut bytes = 0;
    let mut items = Vec::with_capacity(request.items.len());
    for replica in request.items {
        items.push(match replica {
            Replica::Commit(commit) => {
                let encoded = limits::check_copy(client.limits(), &commit)?;
                let kept = commit.content == Content::Kept && !commit.kind.is_marker();
                let payload = kept.then(|| Bytes::from(encoded));
                bytes += payload.as_ref().map_or(0, Bytes::len) + 256;
                Item::Commit(Box::new(Commit { imported, events: Vec::new(), ..commit }), payload)
            }
            Replica::Removed { first, last } => Item::Removed { first, last },
            Replica::Snapshot(snapshot) => {
                limits::check_snapshot(client.limits(), &snapshot)?;
                bytes += snapshot.data.len() + 256;
                Item::Snapshot(snapshot)
            }
            Replica::Record(record) => {
                limits::check_record(client.limits(), &record)?;
                bytes += record.value.as_ref().map_or(0, Bytes::len) + 256;
                Item::Record(record)
            }
        });
    }
    if bytes > REQUEST_BYTES_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "a request copies more than fits into one object")
            .with("bytes", bytes)
            .with("max", REQUEST_BYTES_MAX));
    }
    let _open = client.enter(request.deadline).await?;
    let written = handle.lane.write(bytes, request.deadline, move |draft| {
        copy::check_importing(draft.meta(), epoch, origin)?;
        let mut copying = Copying { draft, strips: BTreeMap::new() };
        let (mut written, mut present) = (0, 0);
        for item in &items {
            match copying.add(item)? {
                Fate::Write => written += 1,
                Fate::Present => present += 1,
            }
        }
        copying.strip()?;
        Ok((written, present))
    });
    let ((written, present), usage) = written.await?;
    let mut replicated = Replicated { written, present, usage };
    crate::blank::finish(handle, request.deadline, &mut replicated.usage).await;
    Ok(replicated)
}

/// A request on its way.
struct Copying<'a, 'b> {
    draft: &'a mut Draft<'b>,
    /// What is stripped once everything is there.
    strips: BTreeMap<StreamId, Revision>,
}

impl Copying<'_, '_> {
    fn add(&mut self, item: &Item) -> Result<Fate> {
        match item {
            Item::Commit(commit, payload) => self.add_commit(commit, payload.as_ref()),
            Item::Removed { first, last } => self.add_removed(*first, *last),
            Item::Snapshot(snapshot) => self.add_snapshot(snapshot),
            Item::Record(record) => self.add_record(record),
        }
    }

    fn add_commit(&mut self, commit: &Commit, payload: Option<&Bytes>) -> Result<Fate> {
        let tables = self.draft.tables();
        let head = tables.head(&commit.stream, self.draft.client().own());
        let found = tables.frame(&commit.stream, commit.number);
        let found = found.map(|frame| frame.commit(&commit.stream, commit.number, Vec::new()));
        let fate = copy::commit(commit, &head, found.as_ref(), tables.last_position, self.claimed(commit))?;
        let CommitFate::Write { first } = fate else { return Ok(Fate::Present) };
        self.draft.add_commit(Commit { first_position: Some(first), ..commit.clone() }, payload.cloned())?;
        self.note_strips(commit)?;
        Ok(Fate::Write)
    }

    /// What a marker takes away, and what the source of a stripped commit had taken away.
    fn note_strips(&mut self, commit: &Commit) -> Result<()> {
        let before = match (&commit.kind, commit.content) {
            (CommitKind::Truncated { before }, _) => *before,
            (CommitKind::Deleted, _) => {
                self.draft.add(Effect::NoSnapshot(commit.stream.clone()))?;
                commit.first_revision
            }
            (CommitKind::Events, Content::Stripped) => commit.first_revision,
            (CommitKind::Events | CommitKind::MovedOut { .. } | CommitKind::MovedIn { .. }, _) => return Ok(()),
        };
        let noted = self.strips.entry(commit.stream.clone()).or_insert(before);
        *noted = before.max(*noted);
        Ok(())
    }

    fn claimed(&self, commit: &Commit) -> Claimed {
        let tables = self.draft.tables();
        let (Some(first), Some(last)) = (commit.first_position, commit.last_position()) else {
            return Claimed::Otherwise;
        };
        if first.0 == tables.last_position.0 + 1 {
            return Claimed::Next;
        }
        match tables.feed.range(..=first).next_back() {
            Some((_, place)) if place.content == Placed::Removed && last <= place.last => Claimed::Removed,
            _ => Claimed::Otherwise,
        }
    }

    fn add_removed(&mut self, first: Position, last: Position) -> Result<Fate> {
        let covered = self.is_covered(first, last);
        let fate = copy::removed(first, last, self.draft.tables().last_position, covered)?;
        if fate == Fate::Write {
            self.draft.add(Effect::Removed(last))?;
        }
        Ok(fate)
    }

    /// Whether nothing has content of what a range claims and the feed has given already.
    fn is_covered(&self, first: Position, last: Position) -> bool {
        let tables = self.draft.tables();
        let before = Position(first.0.saturating_sub(1));
        let given = last.min(tables.last_position);
        let mut claimed = tables.places_after(before).take_while(|(start, _)| *start <= given);
        claimed.all(|(_, place)| self.is_empty(place))
    }

    fn is_empty(&self, place: &Place) -> bool {
        match &place.content {
            Placed::Removed => true,
            Placed::Commit(stream, number) => self
                .draft
                .tables()
                .frame(stream, *number)
                .is_some_and(|frame| frame.at.is_none() && frame.kind == CommitKind::Events),
        }
    }

    fn add_snapshot(&mut self, snapshot: &Snapshot) -> Result<Fate> {
        let tables = self.draft.tables();
        let head = tables.head(&snapshot.stream, self.draft.client().own());
        let kept = tables.snapshots.get(&snapshot.stream).map(|kept| {
            // Its data lies elsewhere; whether it is the same is told by its digest. What stands for it is other data if it is other.
            let same = kept.digest == SnapshotDigest::of(&snapshot.data);
            let other = if snapshot.data.is_empty() { Bytes::from_static(b"other") } else { Bytes::new() };
            Snapshot { data: if same { snapshot.data.clone() } else { other }, ..kept.snapshot.clone() }
        });
        let fate = copy::snapshot(snapshot, kept.as_ref(), &head)?;
        if fate == Fate::Write {
            self.draft.add_snapshot(snapshot.clone())?;
        }
        Ok(fate)
    }

    fn add_record(&mut self, record: &Record) -> Result<Fate> {
        let fate = copy::record(record, self.draft.tables().records.get(&record.key))?;
        if fate == Fate::Write {
            self.draft.add(Effect::Record(record.clone()))?;
        }
        Ok(fate)
    }

    fn strip(self) -> Result<()> {
        for (stream, before) in self.strips {
            self.draft.add(Effect::Stripped(stream, before))?;
        }
        Ok(())
    }
}
