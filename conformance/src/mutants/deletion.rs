//! What can be wrong with truncation and deletion.

use super::Mutant;
use super::defect::{Defect, find, forgotten, head, lock, mutant};
use async_trait::async_trait;
use evstore_api::{
    Append, Appended, CommitId, CommitNumber, CommitsPage, Content, ContentDigest, Delete, Deleted, Error, ErrorKind,
    EventStore, Expected, Head, PutSnapshot, ReadCommits, ReadHead, ReadSnapshot, ReadStream, Release, Released,
    Result, Revision, Snapshot, SnapshotPut, StoreAdmin, StreamId, StreamPage, StreamStart, StreamState, Timestamp,
    Truncate, Truncated, Usage,
};
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<KeepsOneMore>(
        "deletion.keeps-one-more",
        "a truncation ends one revision too early",
        &["deletion.truncation-strips-whole-commits", "deletion.truncated-slots-stay-as-stubs"],
    ),
    mutant::<StripsEverything>(
        "deletion.truncates-everything",
        "a truncation takes all events of its stream",
        &["deletion.truncation-strips-whole-commits", "deletion.races-with-appends-lose-nothing"],
    ),
    mutant::<SaysBefore>(
        "deletion.says-what-was-asked",
        "a truncation says that what it was asked to keep is what is left",
        &["deletion.truncation-strips-whole-commits", "deletion.truncation-never-gives-back"],
    ),
    mutant::<NothingBelow>(
        "deletion.reads-nothing-below-the-cut",
        "a forward read from below the first event that is left is empty",
        &["deletion.truncated-reads-begin-at-what-is-left"],
    ),
    mutant::<ForgetsStubs>(
        "deletion.forgets-stubs",
        "the slots of commits without events are gone",
        &["deletion.truncated-slots-stay-as-stubs", "deletion.deleted-streams-say-so", "copies.a-copy-is-the-same"],
    ),
    mutant::<ClampsBefore>(
        "deletion.clamps-the-cut",
        "a truncation out of bounds is made at the nearest bound",
        &["deletion.truncation-is-bounded"],
    ),
    mutant::<EmptiedIsMissing>(
        "deletion.an-emptied-stream-is-missing",
        "a stream without events is taken for one that never was",
        &["deletion.numbers-are-never-reused"],
    ),
    mutant::<ForgetsMarkers>(
        "deletion.forgets-markers",
        "a truncation or deletion that is repeated is made again",
        &["deletion.markers-are-repeatable"],
    ),
    mutant::<ForgetsStripped>(
        "deletion.forgets-ids",
        "commits whose events are gone are not found by their ids",
        &["deletion.ids-survive"],
    ),
    mutant::<DeletesAnyway>(
        "deletion.deletes-anyway",
        "what a deletion expects is not looked at",
        &["deletion.each-expectation-is-checked", "deletion.a-missing-name-can-be-burnt"],
    ),
    mutant::<MissingIsNotFound>(
        "deletion.missing-is-not-found",
        "the deletion of a missing stream is refused",
        &["deletion.a-missing-name-can-be-burnt"],
    ),
    mutant::<TakesSnapshots>(
        "deletion.takes-snapshots",
        "a snapshot of a deleted stream is taken",
        &["deletion.a-deleted-name-is-gone-for-ever"],
    ),
    mutant::<LooksMissing>(
        "deletion.looks-missing",
        "the head of a deleted stream is that of a missing one",
        &["deletion.deleted-streams-say-so", "deletion.a-missing-name-can-be-burnt"],
    ),
    mutant::<DeletesByPrefix>(
        "deletion.deletes-by-prefix",
        "a deletion takes every stream whose name begins with the given one",
        &["deletion.neighbours-are-untouched"],
    ),
    mutant::<KeepsSnapshots>(
        "deletion.keeps-snapshots",
        "the snapshot of a deleted stream is still there",
        &["deletion.the-snapshot-goes-too"],
    ),
    mutant::<AcknowledgesGone>(
        "deletion.acknowledges-what-is-gone",
        "an append that comes behind a tombstone gets a receipt",
        &["deletion.races-with-appends-end-gone", "deletion.a-deleted-name-is-gone-for-ever"],
    ),
    mutant::<ReleasedIsNothing>(
        "deletion.released-events-are-nothing",
        "a stream whose next event was released to an archive reads as ended",
        &["deletion.released-events-are-told"],
    ),
    mutant::<TruncatesToRelease>(
        "deletion.truncates-to-release",
        "events that an archive has are truncated",
        &["deletion.released-events-are-told"],
    ),
    mutant::<ReleasesOneMore>(
        "deletion.releases-one-more",
        "the commit that holds the first revision which is not released is released too",
        &["deletion.released-events-are-told"],
    ),
];

#[derive(Debug, Default)]
struct ReleasedIsNothing;

#[async_trait]
impl Defect for ReleasedIsNothing {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        match store.read_stream(request.clone()).await {
            Err(error) if error.kind() == ErrorKind::Schema => {
                let head = ReadHead { stream: request.stream, deadline: request.deadline };
                let (head, direction) = (store.head(head).await?, request.direction);
                Ok(StreamPage { head, commits: Vec::new(), direction, next: None, usage: Usage::default() })
            }
            page => page,
        }
    }
}

#[derive(Debug, Default)]
struct TruncatesToRelease;

#[async_trait]
impl Defect for TruncatesToRelease {
    async fn release(&self, admin: &dyn StoreAdmin, request: Release) -> Result<Released> {
        for (stream, before) in request.streams {
            let request = Truncate { stream, commit: CommitId::generate(), before, deadline: request.deadline };
            match admin.truncate(request).await {
                Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Gone) => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(Released { usage: Usage::default() })
    }
}

#[derive(Debug, Default)]
struct ReleasesOneMore;

#[async_trait]
impl Defect for ReleasesOneMore {
    async fn release(&self, admin: &dyn StoreAdmin, mut request: Release) -> Result<Released> {
        for (_, before) in &mut request.streams {
            *before = before.next();
        }
        admin.release(request).await
    }
}

#[derive(Debug, Default)]
struct KeepsOneMore;

#[async_trait]
impl Defect for KeepsOneMore {
    async fn truncate(&self, admin: &dyn StoreAdmin, request: Truncate) -> Result<Truncated> {
        let before = if request.before > Revision(2) { Revision(request.before.0 - 1) } else { request.before };
        admin.truncate(Truncate { before, ..request }).await
    }
}

#[derive(Debug, Default)]
struct StripsEverything(Heads);

/// Heads that a defect has seen, as its administrative side can't read them.
#[derive(Debug, Default)]
struct Heads(Mutex<HashMap<StreamId, Revision>>);

#[async_trait]
impl Defect for StripsEverything {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let stream = request.stream.clone();
        let receipt = store.append(request).await?;
        lock(&self.0.0).insert(stream, receipt.last);
        Ok(receipt)
    }

    async fn truncate(&self, admin: &dyn StoreAdmin, request: Truncate) -> Result<Truncated> {
        let last = lock(&self.0.0).get(&request.stream).copied();
        let before = last.map_or(request.before, |last| request.before.max(last));
        admin.truncate(Truncate { before, ..request }).await
    }
}

#[derive(Debug, Default)]
struct SaysBefore;

#[async_trait]
impl Defect for SaysBefore {
    async fn truncate(&self, admin: &dyn StoreAdmin, request: Truncate) -> Result<Truncated> {
        let first_retained = request.before;
        Ok(Truncated { first_retained, ..admin.truncate(request).await? })
    }
}

#[derive(Debug, Default)]
struct NothingBelow;

#[async_trait]
impl Defect for NothingBelow {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let (from, forward) = (request.from, request.direction == evstore_api::Direction::Forward);
        let mut page = store.read_stream(request).await?;
        if let StreamStart::At(revision) = from
            && forward
            && revision < page.head.first_retained
        {
            page.commits.clear();
            page.next = None;
        }
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct ForgetsStubs;

#[async_trait]
impl Defect for ForgetsStubs {
    async fn read_commits(&self, admin: &dyn StoreAdmin, request: ReadCommits) -> Result<CommitsPage> {
        let mut page = admin.read_commits(request).await?;
        page.commits.retain(|commit| commit.kind.is_marker() || commit.content == Content::Kept);
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct ClampsBefore;

#[async_trait]
impl Defect for ClampsBefore {
    async fn truncate(&self, admin: &dyn StoreAdmin, request: Truncate) -> Result<Truncated> {
        let before = request.before.max(Revision(2));
        admin.truncate(Truncate { before, ..request }).await
    }
}

#[derive(Debug, Default)]
struct EmptiedIsMissing;

#[async_trait]
impl Defect for EmptiedIsMissing {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let head = head(store, &request.stream, request.deadline).await?;
        let emptied = head.state == StreamState::Open && head.first_retained > head.revision;
        let expected = match request.expected {
            Expected::NoStream | Expected::At(Revision(0)) if emptied => Expected::Any,
            other => other,
        };
        store.append(Append { expected, ..request }).await
    }
}

#[derive(Debug, Default)]
struct ForgetsMarkers;

#[async_trait]
impl Defect for ForgetsMarkers {
    async fn truncate(&self, admin: &dyn StoreAdmin, request: Truncate) -> Result<Truncated> {
        admin.truncate(Truncate { commit: CommitId::generate(), ..request }).await
    }

    async fn delete(&self, admin: &dyn StoreAdmin, request: Delete) -> Result<Deleted> {
        admin.delete(Delete { commit: CommitId::generate(), ..request }).await
    }
}

#[derive(Debug, Default)]
struct ForgetsStripped;

#[async_trait]
impl Defect for ForgetsStripped {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let head = head(store, &request.stream, request.deadline).await?;
        let found = find(store, &request).await?;
        let stripped = found.is_some_and(|found| found.first < head.first_retained);
        store.append(if stripped { forgotten(request) } else { request }).await
    }
}

#[derive(Debug, Default)]
struct DeletesAnyway;

#[async_trait]
impl Defect for DeletesAnyway {
    async fn delete(&self, admin: &dyn StoreAdmin, request: Delete) -> Result<Deleted> {
        admin.delete(Delete { expected: Expected::Any, ..request }).await
    }
}

#[derive(Debug, Default)]
struct MissingIsNotFound;

#[async_trait]
impl Defect for MissingIsNotFound {
    async fn delete(&self, admin: &dyn StoreAdmin, request: Delete) -> Result<Deleted> {
        let (stream, from, deadline) = (request.stream.clone(), CommitNumber(1), request.deadline);
        let slots = admin.read_commits(ReadCommits { stream, from, limit: 1, max_bytes: 1, deadline }).await?;
        if slots.commits.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "there is no such stream"));
        }
        admin.delete(request).await
    }
}

#[derive(Debug, Default)]
struct TakesSnapshots;

#[async_trait]
impl Defect for TakesSnapshots {
    async fn put_snapshot(&self, store: &dyn EventStore, request: PutSnapshot) -> Result<SnapshotPut> {
        match store.put_snapshot(request).await {
            Err(error) if error.kind() == ErrorKind::Gone => Ok(SnapshotPut::Stored { usage: Usage::default() }),
            other => other,
        }
    }
}

#[derive(Debug, Default)]
struct LooksMissing;

#[async_trait]
impl Defect for LooksMissing {
    async fn head(&self, store: &dyn EventStore, request: ReadHead) -> Result<Head> {
        let head = store.head(request).await?;
        Ok(if head.state == StreamState::Deleted { Head::missing() } else { head })
    }

    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let page = store.read_stream(request).await?;
        let head = if page.head.state == StreamState::Deleted { Head::missing() } else { page.head.clone() };
        Ok(StreamPage { head, ..page })
    }
}

/// The streams that a defect has seen.
#[derive(Debug, Default)]
struct DeletesByPrefix(Mutex<HashSet<StreamId>>);

#[async_trait]
impl Defect for DeletesByPrefix {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        lock(&self.0).insert(request.stream.clone());
        store.append(request).await
    }

    async fn delete(&self, admin: &dyn StoreAdmin, request: Delete) -> Result<Deleted> {
        let begins = |stream: &&StreamId| {
            stream.namespace == request.stream.namespace
                && **stream != request.stream
                && stream.name.as_str().starts_with(request.stream.name.as_str())
        };
        let neighbours: Vec<_> = lock(&self.0).iter().filter(begins).cloned().collect();
        for stream in neighbours {
            let (commit, expected) = (CommitId::generate(), Expected::Any);
            admin.delete(Delete { stream, expected, commit, deadline: request.deadline }).await?;
        }
        admin.delete(request).await
    }
}

#[derive(Debug, Default)]
struct KeepsSnapshots(Mutex<HashMap<StreamId, Snapshot>>);

#[async_trait]
impl Defect for KeepsSnapshots {
    async fn put_snapshot(&self, store: &dyn EventStore, request: PutSnapshot) -> Result<SnapshotPut> {
        let snapshot = request.snapshot.clone();
        let put = store.put_snapshot(request).await?;
        lock(&self.0).insert(snapshot.stream.clone(), snapshot);
        Ok(put)
    }

    async fn read_snapshot(&self, store: &dyn EventStore, request: ReadSnapshot) -> Result<Option<Snapshot>> {
        let kept = lock(&self.0).get(&request.stream).cloned();
        Ok(store.read_snapshot(request).await?.or(kept))
    }
}

#[derive(Debug, Default)]
struct AcknowledgesGone;

#[async_trait]
impl Defect for AcknowledgesGone {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let (stream, commit, deadline) = (request.stream.clone(), request.commit.id, request.deadline);
        let count = u64::from(request.commit.events.count());
        match store.append(request).await {
            Err(error) if error.kind() == ErrorKind::Gone => {
                let head = head(store, &stream, deadline).await?;
                Ok(Appended {
                    commit,
                    number: head.number.next(),
                    first: head.revision.next(),
                    last: head.revision.plus(count),
                    position: None,
                    recorded_at: Timestamp(0),
                    digest: ContentDigest([0; 16]),
                    repeated: false,
                    usage: Usage::default(),
                })
            }
            other => other,
        }
    }
}
