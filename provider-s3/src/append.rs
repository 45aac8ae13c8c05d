//! Appending, truncating, deleting: the decision of each, made anew whenever a number of the log is lost; and finding a commit again.

use crate::blank;
use crate::store::{Client, Handle};
use crate::tables::Effect;
use bytes::Bytes;
use evstore_api::{Append, Appended, Delete, Deleted, FindCommit, Result, Truncate, Truncated, Usage};
use evstore_kit::decide::{self, Wanted};
use evstore_kit::limits;

/// Appends a commit.
pub async fn append(handle: &Handle, request: Append) -> Result<Appended> {
    let client = &handle.client;
    let prepared = limits::check_append(client.limits(), request)?;
    let _open = client.enter(prepared.deadline).await?;
    let wanted = Wanted::append(&prepared);
    let payload = Bytes::from(prepared.encoded);
    let written = handle.lane.write(payload.len(), prepared.deadline, move |draft| {
        let found = draft.found(&wanted);
        let decision = draft.decide(&wanted.stream, |situation| decide::append(situation, &wanted, found))?;
        draft.write(&wanted, decision, Some(&payload)).map(|(receipt, _)| receipt)
    });
    let (receipt, usage) = written.await.map_err(|error| error.of_commit(prepared.commit))?;
    Ok(Appended { usage, ..receipt })
}

/// Strips the beginning of a stream, and writes the marker. The bytes are taken out of their objects before the answer, if the service
/// lets that happen in time; else by whoever removes something next.
pub async fn truncate(handle: &Handle, request: &Truncate) -> Result<Truncated> {
    let client = &handle.client;
    let _open = client.enter(request.deadline).await?;
    let (wanted, before) = (Wanted::truncation(request), request.before);
    let written = handle.lane.write(0, request.deadline, move |draft| {
        let found = draft.found(&wanted);
        let decision = draft.decide(&wanted.stream, |situation| decide::truncate(situation, &wanted, before, found))?;
        let (marker, new) = draft.write(&wanted, decision, None)?;
        if new {
            draft.add(Effect::Stripped(wanted.stream.clone(), before))?;
        }
        let first_retained = draft.tables().head(&wanted.stream, draft.client().own()).first_retained;
        Ok(Truncated { marker, first_retained })
    });
    let (mut truncated, usage) = written.await.map_err(|error| error.of_commit(request.commit))?;
    truncated.marker.usage = usage;
    blank::finish(handle, request.deadline, &mut truncated.marker.usage).await;
    Ok(truncated)
}

/// Deletes a stream: the tombstone, its events, its snapshot. Their bytes go as those of a truncation.
pub async fn delete(handle: &Handle, request: &Delete) -> Result<Deleted> {
    let client = &handle.client;
    let _open = client.enter(request.deadline).await?;
    let wanted = Wanted::deletion(request);
    let written = handle.lane.write(0, request.deadline, move |draft| {
        let found = draft.found(&wanted);
        let decision = draft.decide(&wanted.stream, |situation| decide::delete(situation, &wanted, found))?;
        let (tombstone, new) = draft.write(&wanted, decision, None)?;
        if new {
            draft.add(Effect::Stripped(wanted.stream.clone(), tombstone.first))?;
            draft.add(Effect::NoSnapshot(wanted.stream.clone()))?;
        }
        Ok(tombstone)
    });
    let (mut tombstone, usage) = written.await.map_err(|error| error.of_commit(request.commit))?;
    tombstone.usage = usage;
    blank::finish(handle, request.deadline, &mut tombstone.usage).await;
    Ok(tombstone)
}

/// Finds a commit or a marker by its id.
pub async fn find_commit(client: &Client, request: &FindCommit) -> Result<Option<Appended>> {
    let _open = client.enter(request.deadline).await?;
    let mut usage = Usage::default();
    let find = |tables: &crate::tables::Tables| Ok(tables.find(&request.stream, request.commit, client.window()));
    let found = client.look(request.deadline, &mut usage, find).await?;
    Ok(found.map(|commit| decide::repeated(&commit, usage)))
}
