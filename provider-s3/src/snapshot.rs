//! The latest snapshot of each stream: what it is of is part of the state, its data lies in the log as events do.

use crate::blank;
use crate::codec;
use crate::error;
use crate::payload;
use crate::store::{Client, Handle};
use crate::tables::Effect;
use evstore_api::{DeleteSnapshot, PutSnapshot, ReadSnapshot, Result, Snapshot, SnapshotPut, Usage};
use evstore_kit::{decide, limits};

/// Keeps a snapshot, unless a newer one is kept.
pub async fn put(handle: &Handle, request: PutSnapshot) -> Result<SnapshotPut> {
    let client = &handle.client;
    limits::check_put_snapshot(client.limits(), &request)?;
    let _open = client.enter(request.deadline).await?;
    let snapshot = request.snapshot;
    let written = handle.lane.write(snapshot.data.len(), request.deadline, move |draft| {
        draft.decide(&snapshot.stream, |situation| decide::put_snapshot(situation, &snapshot))?;
        match draft.tables().snapshots.get(&snapshot.stream) {
            Some(kept) if kept.snapshot.revision > snapshot.revision => Ok(Some(kept.snapshot.revision)),
            Some(_) | None => draft.add_snapshot(snapshot.clone()).map(|()| None),
        }
    });
    let (superseded, mut usage) = written.await?;
    match superseded {
        Some(by) => Ok(SnapshotPut::Superseded { by, usage }),
        None => {
            blank::tidy(handle, request.deadline, &mut usage).await;
            Ok(SnapshotPut::Stored { usage })
        }
    }
}

/// Reads the latest snapshot.
pub async fn read(client: &Client, request: &ReadSnapshot) -> Result<Option<Snapshot>> {
    let _open = client.enter(request.deadline).await?;
    let mut usage = Usage::default();
    let mut before = None;
    loop {
        let find = |tables: &crate::tables::Tables| Ok(tables.snapshots.get(&request.stream).cloned());
        let Some(kept) = client.look(request.deadline, &mut usage, find).await? else { return Ok(None) };
        let payload = payload::fetch_one(client, kept.at, request.deadline, &mut usage).await?;
        match codec::snapshot_data(&payload) {
            Ok(data) => return Ok(Some(Snapshot { data, ..kept.snapshot })),
            // A newer one may have taken its place while this one was fetched; if not, it is damaged.
            Err(cause) if before == Some(kept.at) => return Err(error::damaged(&client.slot(kept.at.object), cause)),
            Err(_) => {
                client.cache().forget(kept.at.object);
                before = Some(kept.at);
            }
        }
    }
}

/// Removes the snapshot.
pub async fn delete(handle: &Handle, request: &DeleteSnapshot) -> Result<()> {
    let client = &handle.client;
    let _open = client.enter(request.deadline).await?;
    let stream = request.stream.clone();
    let written = handle.lane.write(0, request.deadline, move |draft| {
        draft.decide(&stream, decide::delete_snapshot).map_err(|error| error.with("stream", &stream))?;
        match draft.tables().snapshots.contains_key(&stream) {
            true => draft.add(Effect::NoSnapshot(stream.clone())),
            false => Ok(()),
        }
    });
    let ((), mut usage) = written.await?;
    blank::finish(handle, request.deadline, &mut usage).await;
    Ok(())
}
