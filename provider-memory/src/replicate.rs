//! Copying recorded content in, all of a request or nothing: each change is noted, and taken back when an item is refused.

use crate::schema::{Place, Placed, Tables};
use crate::store::Client;
use evstore_api::{
    Commit, CommitId, CommitKind, CommitNumber, Content, Position, Record, RecordKey, Replica, Replicate, Replicated,
    Result, Revision, Snapshot, StoreName, StreamId, Usage,
};
use evstore_kit::copy::{self, Claimed, CommitFate, Fate};
use evstore_kit::limits;
use std::collections::BTreeMap;

/// Copies the items of a request.
pub fn replicate(client: &Client, request: Replicate) -> Result<Replicated> {
    check_content(client, &request.items)?;
    let imported = copy::imported(request.origin, request.epoch);
    let mut tables = client.enter(request.deadline)?;
    copy::check_importing(&tables.meta, request.epoch, request.origin)?;
    let mut draft = Draft::new(&mut tables, client.own());
    let mut replicated = Replicated { written: 0, present: 0, usage: Usage::default() };
    for item in request.items {
        let item = match item {
            Replica::Commit(commit) => Replica::Commit(Commit { imported, ..commit }),
            other => other,
        };
        match draft.add(item) {
            Ok(Fate::Write) => replicated.written += 1,
            Ok(Fate::Present) => replicated.present += 1,
            Err(refused) => {
                draft.take_back();
                return Err(refused);
            }
        }
    }
    draft.strip();
    client.ring();
    Ok(replicated)
}

/// What can be refused without a look at the store is refused before it is locked.
fn check_content(client: &Client, items: &[Replica]) -> Result<()> {
    for item in items {
        match item {
            Replica::Commit(commit) => drop(limits::check_copy(client.limits(), commit)?),
            Replica::Snapshot(snapshot) => limits::check_snapshot(client.limits(), snapshot)?,
            Replica::Record(record) => limits::check_record(client.limits(), record)?,
            Replica::Removed { .. } => {}
        }
    }
    Ok(())
}

/// A request on its way into the tables.
struct Draft<'a> {
    tables: &'a mut Tables,
    own: &'a StoreName,
    changes: Vec<Change>,
    /// What is to be stripped once nothing can be refused any more: it could not be taken back.
    strips: BTreeMap<StreamId, Revision>,
}

/// A change, by what was there before.
enum Change {
    Pushed { stream: StreamId, id: CommitId, slot_before: Option<CommitNumber> },
    Feed { first: Position, before: Option<Place> },
    LastPosition { before: Position },
    Snapshot { stream: StreamId, before: Option<Snapshot> },
    Record { key: RecordKey, before: Option<Record> },
}

impl<'a> Draft<'a> {
    fn new(tables: &'a mut Tables, own: &'a StoreName) -> Self {
        Self { tables, own, changes: Vec::new(), strips: BTreeMap::new() }
    }

    fn add(&mut self, item: Replica) -> Result<Fate> {
        match item {
            Replica::Commit(commit) => self.add_commit(commit),
            Replica::Removed { first, last } => self.add_removed(first, last),
            Replica::Snapshot(snapshot) => self.add_snapshot(snapshot),
            Replica::Record(record) => self.add_record(record),
        }
    }

    fn add_commit(&mut self, mut commit: Commit) -> Result<Fate> {
        let head = self.tables.head(&commit.stream, self.own);
        let found = self.tables.commit(&commit.stream, commit.number);
        let claimed = self.claimed(&commit);
        let first = match copy::commit(&commit, &head, found, self.tables.last_position, claimed)? {
            CommitFate::Present => return Ok(Fate::Present),
            CommitFate::Write { first } => first,
        };
        commit.first_position = Some(first);
        self.place(&commit, first);
        self.note_strips(&commit);
        let (stream, id) = (commit.stream.clone(), commit.id);
        let slot_before = self.tables.push(commit);
        self.changes.push(Change::Pushed { stream, id, slot_before });
        Ok(Fate::Write)
    }

    /// What a marker takes away, and what the source of a stripped commit had taken away.
    fn note_strips(&mut self, commit: &Commit) {
        let before = match (&commit.kind, commit.content) {
            (CommitKind::Truncated { before }, _) => *before,
            (CommitKind::Deleted, _) => {
                let stream = commit.stream.clone();
                let before = self.tables.snapshots.remove(&stream);
                self.changes.push(Change::Snapshot { stream, before });
                commit.first_revision
            }
            // The stub itself has nothing that could be kept either.
            (CommitKind::Events, Content::Stripped) => commit.last_revision().next(),
            (CommitKind::Events | CommitKind::MovedOut { .. } | CommitKind::MovedIn { .. }, _) => return,
        };
        let noted = self.strips.entry(commit.stream.clone()).or_insert(before);
        *noted = before.max(*noted);
    }

    fn claimed(&self, commit: &Commit) -> Claimed {
        let (Some(first), Some(last)) = (commit.first_position, commit.last_position()) else {
            return Claimed::Otherwise;
        };
        if first.0 == self.tables.last_position.0 + 1 {
            return Claimed::Next;
        }
        match self.tables.feed.range(..=first).next_back() {
            Some((_, place)) if place.content == Placed::Removed && last <= place.last => Claimed::Removed,
            _ => Claimed::Otherwise,
        }
    }

    /// Gives a commit its place: at the end of the feed, or cut out of a range that was removed.
    fn place(&mut self, commit: &Commit, first: Position) {
        let last = first.plus(commit.positions() - 1);
        let content = Placed::Commit(commit.stream.clone(), commit.number);
        if first > self.tables.last_position {
            return self.extend(last, content);
        }
        let range = self.tables.feed.range(..=first).next_back().map(|(start, place)| (*start, place.last));
        let (start, end) = range.expect("a commit that is not at the end was found inside a range");
        if start < first {
            self.set_place(start, Place { last: Position(first.0 - 1), content: Placed::Removed });
        }
        self.set_place(first, Place { last, content });
        if last < end {
            self.set_place(last.next(), Place { last: end, content: Placed::Removed });
        }
    }

    fn extend(&mut self, last: Position, content: Placed) {
        let before = self.tables.last_position;
        self.changes.push(Change::LastPosition { before });
        self.changes.push(Change::Feed { first: before.next(), before: None });
        self.tables.place(last, content);
    }

    fn set_place(&mut self, first: Position, place: Place) {
        let before = self.tables.feed.insert(first, place);
        self.changes.push(Change::Feed { first, before });
    }

    fn add_removed(&mut self, first: Position, last: Position) -> Result<Fate> {
        let covered = self.is_covered(first, last);
        let fate = copy::removed(first, last, self.tables.last_position, covered)?;
        if fate == Fate::Write {
            self.extend(last, Placed::Removed);
        }
        Ok(fate)
    }

    /// Whether nothing has content of what a range claims and the feed has given already.
    fn is_covered(&self, first: Position, last: Position) -> bool {
        let before = Position(first.0.saturating_sub(1));
        let given = last.min(self.tables.last_position);
        let mut claimed = self.tables.places_after(before).take_while(|(start, _)| *start <= given);
        claimed.all(|(_, place)| self.is_empty(place))
    }

    fn is_empty(&self, place: &Place) -> bool {
        match &place.content {
            Placed::Removed => true,
            Placed::Commit(stream, number) => self
                .tables
                .commit(stream, *number)
                .is_some_and(|commit| commit.content == Content::Stripped && commit.kind == CommitKind::Events),
        }
    }

    fn add_snapshot(&mut self, snapshot: Snapshot) -> Result<Fate> {
        let head = self.tables.head(&snapshot.stream, self.own);
        let fate = copy::snapshot(&snapshot, self.tables.snapshots.get(&snapshot.stream), &head)?;
        if fate == Fate::Write {
            let stream = snapshot.stream.clone();
            let before = self.tables.snapshots.insert(stream.clone(), snapshot);
            self.changes.push(Change::Snapshot { stream, before });
        }
        Ok(fate)
    }

    fn add_record(&mut self, record: Record) -> Result<Fate> {
        let fate = copy::record(&record, self.tables.records.get(&record.key))?;
        if fate == Fate::Write {
            let key = record.key.clone();
            let before = self.tables.records.insert(key.clone(), record);
            self.changes.push(Change::Record { key, before });
        }
        Ok(fate)
    }

    fn strip(self) {
        for (stream, before) in self.strips {
            self.tables.strip(&stream, before);
        }
    }

    fn take_back(self) {
        let tables = self.tables;
        for change in self.changes.into_iter().rev() {
            match change {
                Change::Pushed { stream, id, slot_before } => tables.pop(&stream, id, slot_before),
                Change::Feed { first, before } => put_back(&mut tables.feed, first, before),
                Change::LastPosition { before } => tables.last_position = before,
                Change::Snapshot { stream, before } => put_back(&mut tables.snapshots, stream, before),
                Change::Record { key, before } => put_back(&mut tables.records, key, before),
            }
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
    use crate::testing::{self, append, deadline, stream};
    use evstore_api::{
        Commit, CommitNumber, Content, Delete, Epoch, ErrorKind, EventStore, Expected, FeedFilter, FeedItem, FeedPage,
        FeedStart, Meta, MetaSwapped, Origin, Position, ReadCommits, ReadFeed, ReadHead, Record, RecordKey, RecordKind,
        RecordName, RecordNumber, Replica, Replicate, Revision, Snapshot, StoreAdmin, StoreState, StreamState,
        SwapMeta, Timestamp, Truncate,
    };
    use std::sync::Arc;

    async fn swap(admin: &Arc<dyn StoreAdmin>, change: impl FnOnce(&mut Meta)) {
        let expected = admin.read_meta(deadline()).await.unwrap();
        let mut new = expected.clone();
        change(&mut new);
        let request = SwapMeta { expected, new, deadline: deadline() };
        assert_eq!(admin.swap_meta(request).await.unwrap(), MetaSwapped::Done);
    }

    async fn importing() -> (Arc<dyn EventStore>, Arc<dyn StoreAdmin>) {
        let (store, admin) = testing::open("target").await;
        swap(&admin, |meta| {
            meta.epoch = Epoch(1);
            meta.state = StoreState::Importing { from: None };
        })
        .await;
        (store, admin)
    }

    async fn copy(admin: &Arc<dyn StoreAdmin>, items: Vec<Replica>) -> Result<(u64, u64), ErrorKind> {
        let history = admin.read_meta(deadline()).await.map_err(|error| error.kind())?.incarnation();
        let request = Replicate { epoch: Epoch(1), origin: Origin::Move { history }, items, deadline: deadline() };
        let replicated = admin.replicate(request).await.map_err(|error| error.kind())?;
        Ok((replicated.written, replicated.present))
    }

    async fn feed(store: &Arc<dyn EventStore>) -> FeedPage {
        let request = ReadFeed {
            from: FeedStart::First,
            filter: FeedFilter::none(),
            limit: 1_000,
            max_bytes: u64::MAX,
            deadline: deadline(),
        };
        store.read_feed(request).await.unwrap()
    }

    async fn slots(admin: &Arc<dyn StoreAdmin>, name: &str) -> Vec<Commit> {
        let request = ReadCommits {
            stream: stream(name),
            from: CommitNumber(1),
            limit: 1_000,
            max_bytes: u64::MAX,
            deadline: deadline(),
        };
        admin.read_commits(request).await.unwrap().commits
    }

    fn replicas(page: FeedPage) -> Vec<Replica> {
        let replica = |item| match item {
            FeedItem::Commit(commit) => Replica::Commit(commit),
            FeedItem::Removed { first, last } => Replica::Removed { first, last },
        };
        page.items.into_iter().map(replica).collect()
    }

    fn snapshot(name: &str) -> Snapshot {
        Snapshot {
            stream: stream(name),
            revision: Revision(1),
            number: CommitNumber(1),
            commit: testing::commit(1),
            schema: 1,
            content_type: evstore_api::ContentType::bytes(),
            data: bytes::Bytes::new(),
            taken_at: Timestamp(0),
        }
    }

    fn record() -> Record {
        Record {
            key: RecordKey { kind: RecordKind::Checkpoint, name: RecordName::new("c").unwrap() },
            number: RecordNumber(3),
            epoch: Epoch(0),
            value: None,
            updated_at: Timestamp(0),
        }
    }

    /// A source whose stream `a-1` is truncated: positions 1 to 3 are removed, 4 is kept, 5 is the marker.
    async fn truncated_source() -> (Arc<dyn EventStore>, Arc<dyn StoreAdmin>) {
        let (store, admin) = testing::open("source").await;
        for (id, count) in [(1, 1), (2, 2), (3, 1)] {
            append(&store, "a-1", id, count, Expected::Any).await.unwrap();
        }
        let (commit, before) = (testing::commit(4), Revision(4));
        admin.truncate(Truncate { stream: stream("a-1"), commit, before, deadline: deadline() }).await.unwrap();
        (store, admin)
    }

    #[tokio::test]
    async fn a_copy_is_the_same_and_its_repeat_writes_nothing() {
        let (source, source_admin) = testing::open("source").await;
        append(&source, "a-1", 1, 2, Expected::NoStream).await.unwrap();
        append(&source, "b-1", 1, 1, Expected::NoStream).await.unwrap();
        let (target, admin) = importing().await;
        let items = replicas(feed(&source).await);
        assert_eq!(copy(&admin, items.clone()).await, Ok((2, 0)));
        assert_eq!(copy(&admin, items).await, Ok((0, 2)));
        let expected: Vec<_> = slots(&source_admin, "a-1")
            .await
            .into_iter()
            .map(|commit| Commit { imported: Some(Epoch(1)), ..commit })
            .collect();
        assert_eq!(slots(&admin, "a-1").await, expected);
        let head = target.head(ReadHead { stream: stream("a-1"), deadline: deadline() }).await.unwrap();
        assert!(matches!(head.state, StreamState::Sealed { .. }));
        swap(&admin, |meta| meta.state = StoreState::Open).await;
        let receipt = append(&target, "a-1", 2, 1, Expected::At(Revision(2))).await.unwrap();
        assert_eq!(receipt.position, Some(Position(4)));
    }

    #[tokio::test]
    async fn stubs_are_copied_into_the_range_that_came_before_them() {
        let (source, source_admin) = truncated_source().await;
        let (target, admin) = importing().await;
        let mut items = replicas(feed(&source).await);
        let stubs = slots(&source_admin, "a-1").await.into_iter().filter(|commit| commit.content == Content::Stripped);
        items.splice(1..1, stubs.map(Replica::Commit));
        assert_eq!(copy(&admin, items).await, Ok((5, 0)));
        assert_eq!(feed(&target).await.commits().count(), 2);
        assert_eq!(feed(&target).await.items.len(), feed(&source).await.items.len());
        let request = ReadHead { stream: stream("a-1"), deadline: deadline() };
        let head = target.head(request.clone()).await.unwrap();
        assert_eq!(head.first_retained, source.head(request).await.unwrap().first_retained);
    }

    #[tokio::test]
    async fn a_copied_marker_strips_what_was_copied_before_it() {
        let (source, source_admin) = testing::open("source").await;
        append(&source, "a-1", 1, 2, Expected::NoStream).await.unwrap();
        let (target, admin) = importing().await;
        let mut items = replicas(feed(&source).await);
        items.push(Replica::Snapshot(snapshot("a-1")));
        copy(&admin, items).await.unwrap();
        let commit = testing::commit(2);
        let request = Delete { stream: stream("a-1"), expected: Expected::Any, commit, deadline: deadline() };
        source_admin.delete(request).await.unwrap();
        let tombstone = slots(&source_admin, "a-1").await.pop().unwrap();
        assert_eq!(copy(&admin, vec![Replica::Commit(tombstone)]).await, Ok((1, 0)));
        assert_eq!(slots(&admin, "a-1").await[0].content, Content::Stripped);
        let snapshot = evstore_api::ReadSnapshot { stream: stream("a-1"), deadline: deadline() };
        assert_eq!(target.read_snapshot(snapshot).await.unwrap(), None);
    }

    #[tokio::test]
    async fn of_a_refused_request_nothing_is_left() {
        let (source, source_admin) = truncated_source().await;
        let (target, admin) = importing().await;
        append(&source, "b-1", 1, 1, Expected::Any).await.unwrap();
        let all = replicas(feed(&source).await);
        copy(&admin, all[..1].to_vec()).await.unwrap();
        let before = feed(&target).await;

        let stubs = slots(&source_admin, "a-1").await.into_iter().take(2).map(Replica::Commit);
        let mut items: Vec<_> = stubs.chain(all[1..].to_vec()).collect();
        items.push(Replica::Snapshot(snapshot("b-1")));
        items.push(Replica::Record(record()));
        items.push(Replica::Removed { first: Position(99), last: Position(99) });
        assert_eq!(copy(&admin, items.clone()).await, Err(ErrorKind::Conflict));
        assert_eq!(feed(&target).await, before);
        assert_eq!(slots(&admin, "a-1").await, vec![]);

        items.pop();
        assert_eq!(copy(&admin, items).await, Ok((7, 0)));
    }

    #[tokio::test]
    async fn changed_content_is_found() {
        let (source, _) = testing::open("source").await;
        append(&source, "a-1", 1, 1, Expected::NoStream).await.unwrap();
        let (_, admin) = importing().await;
        let mut commit = feed(&source).await.commits().next().unwrap().clone();
        commit.events[0].data = bytes::Bytes::from_static(b"other");
        assert_eq!(copy(&admin, vec![Replica::Commit(commit)]).await, Err(ErrorKind::Corrupt));
    }
}
