//! The latest snapshot of each stream.

use crate::append::situation;
use crate::store::Client;
use evstore_api::{DeleteSnapshot, PutSnapshot, ReadSnapshot, Result, Snapshot, SnapshotPut, Usage};
use evstore_kit::{decide, limits};

/// Keeps a snapshot, unless a newer one is kept.
pub fn put(client: &Client, request: PutSnapshot) -> Result<SnapshotPut> {
    limits::check_put_snapshot(client.limits(), &request)?;
    let usage = Usage::default();
    let snapshot = request.snapshot;
    let mut tables = client.enter(request.deadline)?;
    let head = tables.head(&snapshot.stream, client.own());
    decide::put_snapshot(&situation(client, &tables, &head), &snapshot)?;
    match tables.snapshots.get(&snapshot.stream) {
        Some(kept) if kept.revision > snapshot.revision => Ok(SnapshotPut::Superseded { by: kept.revision, usage }),
        Some(_) | None => {
            tables.snapshots.insert(snapshot.stream.clone(), snapshot);
            Ok(SnapshotPut::Stored { usage })
        }
    }
}

/// Reads the latest snapshot.
pub fn read(client: &Client, request: &ReadSnapshot) -> Result<Option<Snapshot>> {
    Ok(client.enter(request.deadline)?.snapshots.get(&request.stream).cloned())
}

/// Removes the snapshot.
pub fn delete(client: &Client, request: &DeleteSnapshot) -> Result<()> {
    let mut tables = client.enter(request.deadline)?;
    let head = tables.head(&request.stream, client.own());
    decide::delete_snapshot(&situation(client, &tables, &head))
        .map_err(|error| error.with("stream", &request.stream))?;
    tables.snapshots.remove(&request.stream);
    Ok(())
}
