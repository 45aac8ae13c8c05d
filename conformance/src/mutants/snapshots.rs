//! What can be wrong with snapshots.

use super::Mutant;
use super::defect::{Defect, lock, mutant};
use async_trait::async_trait;
use bytes::Bytes;
use evstore_api::{
    Append, CommitId, DeleteSnapshot, ErrorKind, EventStore, EventType, Events, Expected, NewCommit, NewEvent,
    PutSnapshot, ReadSnapshot, Result, Snapshot, SnapshotPut, StreamId, Timestamp, Usage,
};
use std::collections::HashMap;
use std::sync::Mutex;

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<LosesFields>(
        "snapshots.lose-their-time",
        "the time at which a snapshot was made is not kept",
        &["snapshots.the-latest-is-read-back"],
    ),
    mutant::<LastWins>(
        "snapshots.the-last-wins",
        "a snapshot replaces whichever is kept",
        &["snapshots.an-older-one-replaces-none"],
    ),
    mutant::<DeletesByName>(
        "snapshots.deleted-by-name",
        "deleting a snapshot deletes those of streams of that name in other namespaces",
        &["snapshots.deleting-one-leaves-others"],
    ),
    mutant::<OldState>(
        "snapshots.an-old-state",
        "a newer snapshot changes the revision and leaves the state",
        &["snapshots.snapshot-and-tail-equal-a-replay", "snapshots.an-older-one-replaces-none"],
    ),
    mutant::<Anything>(
        "snapshots.of-anything",
        "a snapshot of a missing stream or of no revision is answered as kept",
        &["snapshots.need-a-stream-and-a-revision"],
    ),
    mutant::<Ahead>(
        "snapshots.ahead-of-their-stream",
        "a snapshot of what its stream has not reached is kept",
        &["snapshots.ahead-of-their-stream-are-refused"],
    ),
    mutant::<Cuts>(
        "snapshots.are-cut",
        "a snapshot that is too large is kept as far as it fits",
        &["snapshots.up-to-the-limit"],
    ),
    mutant::<AreEvents>(
        "snapshots.are-events",
        "a snapshot is kept as an event of its stream",
        &["snapshots.take-nothing-from-the-stream"],
    ),
    mutant::<Outlive>(
        "snapshots.outlive-their-stream",
        "the snapshot of a deleted stream stays",
        &["snapshots.go-with-their-stream"],
    ),
];

#[derive(Debug, Default)]
struct LosesFields;

#[async_trait]
impl Defect for LosesFields {
    async fn put_snapshot(&self, store: &dyn EventStore, mut request: PutSnapshot) -> Result<SnapshotPut> {
        request.snapshot.taken_at = Timestamp(0);
        store.put_snapshot(request).await
    }
}

#[derive(Debug, Default)]
struct LastWins;

#[async_trait]
impl Defect for LastWins {
    async fn put_snapshot(&self, store: &dyn EventStore, request: PutSnapshot) -> Result<SnapshotPut> {
        let (stream, deadline) = (request.snapshot.stream.clone(), request.deadline);
        store.delete_snapshot(DeleteSnapshot { stream, deadline }).await?;
        store.put_snapshot(request).await
    }
}

/// Streams that have had a snapshot.
#[derive(Debug, Default)]
struct DeletesByName(Mutex<Vec<StreamId>>);

#[async_trait]
impl Defect for DeletesByName {
    async fn put_snapshot(&self, store: &dyn EventStore, request: PutSnapshot) -> Result<SnapshotPut> {
        lock(&self.0).push(request.snapshot.stream.clone());
        store.put_snapshot(request).await
    }

    async fn delete_snapshot(&self, store: &dyn EventStore, request: DeleteSnapshot) -> Result<()> {
        let named: Vec<_> = lock(&self.0).iter().filter(|one| one.name == request.stream.name).cloned().collect();
        for stream in named {
            store.delete_snapshot(DeleteSnapshot { stream, ..request.clone() }).await?;
        }
        Ok(())
    }
}

/// The first state of each stream.
#[derive(Debug, Default)]
struct OldState(Mutex<HashMap<StreamId, Bytes>>);

#[async_trait]
impl Defect for OldState {
    async fn put_snapshot(&self, store: &dyn EventStore, mut request: PutSnapshot) -> Result<SnapshotPut> {
        let snapshot = &mut request.snapshot;
        snapshot.data = lock(&self.0).entry(snapshot.stream.clone()).or_insert(snapshot.data.clone()).clone();
        store.put_snapshot(request).await
    }
}

#[derive(Debug, Default)]
struct Anything;

#[async_trait]
impl Defect for Anything {
    async fn put_snapshot(&self, store: &dyn EventStore, request: PutSnapshot) -> Result<SnapshotPut> {
        match store.put_snapshot(request).await {
            Err(error) if [ErrorKind::NotFound, ErrorKind::Invalid].contains(&error.kind()) => {
                Ok(SnapshotPut::Stored { usage: Usage::default() })
            }
            answer => answer,
        }
    }
}

/// Snapshots that were ahead of their streams.
#[derive(Debug, Default)]
struct Ahead(Mutex<HashMap<StreamId, Snapshot>>);

#[async_trait]
impl Defect for Ahead {
    async fn put_snapshot(&self, store: &dyn EventStore, request: PutSnapshot) -> Result<SnapshotPut> {
        let snapshot = request.snapshot.clone();
        match store.put_snapshot(request).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                lock(&self.0).insert(snapshot.stream.clone(), snapshot);
                Ok(SnapshotPut::Stored { usage: Usage::default() })
            }
            answer => answer,
        }
    }

    async fn read_snapshot(&self, store: &dyn EventStore, request: ReadSnapshot) -> Result<Option<Snapshot>> {
        let ahead = lock(&self.0).get(&request.stream).cloned();
        Ok(ahead.or(store.read_snapshot(request).await?))
    }
}

#[derive(Debug, Default)]
struct Cuts;

#[async_trait]
impl Defect for Cuts {
    async fn put_snapshot(&self, store: &dyn EventStore, mut request: PutSnapshot) -> Result<SnapshotPut> {
        if let evstore_api::capabilities::Limit::Max(max) = store.capabilities().limits.snapshot_bytes {
            request.snapshot.data.truncate(max as usize);
        }
        store.put_snapshot(request).await
    }
}

#[derive(Debug, Default)]
struct AreEvents;

#[async_trait]
impl Defect for AreEvents {
    async fn put_snapshot(&self, store: &dyn EventStore, request: PutSnapshot) -> Result<SnapshotPut> {
        let (stream, deadline) = (request.snapshot.stream.clone(), request.deadline);
        let event = NewEvent::new(EventType::new("$snapshot")?, request.snapshot.data.clone());
        let commit = NewCommit { id: CommitId::generate(), events: Events::new(vec![event])? };
        let put = store.put_snapshot(request).await?;
        store.append(Append { stream, expected: Expected::Any, commit, deadline }).await?;
        Ok(put)
    }
}

/// The latest of each stream.
#[derive(Debug, Default)]
struct Outlive(Mutex<HashMap<StreamId, Snapshot>>);

#[async_trait]
impl Defect for Outlive {
    async fn put_snapshot(&self, store: &dyn EventStore, request: PutSnapshot) -> Result<SnapshotPut> {
        lock(&self.0).insert(request.snapshot.stream.clone(), request.snapshot.clone());
        store.put_snapshot(request).await
    }

    async fn read_snapshot(&self, store: &dyn EventStore, request: ReadSnapshot) -> Result<Option<Snapshot>> {
        let kept = lock(&self.0).get(&request.stream).cloned();
        Ok(store.read_snapshot(request).await?.or(kept))
    }
}
