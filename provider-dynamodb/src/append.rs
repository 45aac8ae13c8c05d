//! Writing a commit or a marker through the lane, and finding one again by its id.

use crate::codec::{self, Events};
use crate::config::Snapshots;
use crate::dictionary;
use crate::known::{self, frame_of, frames};
use crate::lane::{Done, Work};
use crate::link::Order;
use crate::read;
use crate::snapshot;
use crate::store::{Client, Handle};
use crate::tables::{number, numbered, stream_key};
use evstore_api::{
    Append, Appended, CommitNumber, Content, Deadline, Delete, Deleted, Error, ErrorKind, FindCommit, Release,
    Released, Result, StreamId, Truncate, Truncated, Usage,
};
use evstore_kit::decide::{self, Wanted};
use evstore_kit::limits;
use futures::stream::{self, StreamExt, TryStreamExt};

/// Commits that are stripped at a time.
const STRIPPED_AT_ONCE: usize = 16;
/// Commits that are looked at for that at a time.
const STRIP_PART: u32 = 1_000;

/// Appends a commit.
pub async fn append(handle: &Handle, request: Append) -> Result<Appended> {
    let prepared = limits::check_append(handle.client.limits(), request)?;
    let _open = handle.client.enter(prepared.deadline).await?;
    let (commit, deadline) = (prepared.commit, prepared.deadline);
    let wanted = Wanted::append(&prepared);
    dictionary::sample(&handle.client, &prepared.encoded);
    let events = handle.client.pack(prepared.encoded);
    let work = Work { wanted, events, before: None };
    let done = handle.writer.write(work, deadline).await;
    done.map(|done| done.receipt).map_err(|error| error.of_commit(commit))
}

/// Strips the beginning of a stream, and writes the marker.
pub async fn truncate(handle: &Handle, request: &Truncate) -> Result<Truncated> {
    let _open = handle.client.enter(request.deadline).await?;
    let wanted = Wanted::truncation(request);
    let work = Work { wanted, events: Events::default(), before: Some(request.before) };
    let finish = async || {
        let done = handle.writer.write(work, request.deadline).await?;
        cut(&handle.client, &request.stream, &done, request.deadline).await?;
        Ok(done)
    };
    let done: Result<Done> = finish().await;
    let done = done.map_err(|error| error.of_commit(request.commit))?;
    Ok(Truncated { first_retained: done.last.retained, marker: done.receipt })
}

/// Deletes a stream: the tombstone, its events, its snapshot.
pub async fn delete(handle: &Handle, request: &Delete) -> Result<Deleted> {
    let _open = handle.client.enter(request.deadline).await?;
    let wanted = Wanted::deletion(request);
    let work = Work { wanted, events: Events::default(), before: None };
    let finish = async || {
        let done = handle.writer.write(work, request.deadline).await?;
        // Everything from the beginning on: what an earlier truncation left behind goes too.
        let all = Done { had_from: CommitNumber(1), ..done };
        cut(&handle.client, &request.stream, &all, request.deadline).await?;
        if handle.client.config().snapshots == Snapshots::Interleaved {
            snapshot::remove_all(&handle.client, &request.stream, request.deadline).await?;
        }
        Ok(all)
    };
    let done: Result<Done> = finish().await;
    done.map(|done| done.receipt).map_err(|error| error.of_commit(request.commit))
}

/// Strips what a marker says, from where its stream had events before it; from the beginning for a repeat, which so goes on with
/// what was broken off. Readers of the stream leave out all of it already.
async fn cut(client: &Client, stream: &StreamId, done: &Done, deadline: Deadline) -> Result<()> {
    strip(client, stream, done.had_from, done.last.from, deadline).await.map_err(|error| match error.kind() {
        // The marker is written; that the rest is not done is what the caller has to know.
        ErrorKind::Corrupt => error,
        _ => Error::new(
            ErrorKind::Indeterminate,
            "the marker is written, and what it takes away is not all gone; repeat it",
        )
        .caused_by(error),
    })
}

/// Takes out the events of commits that an archive holds.
pub async fn release(client: &Client, request: &Release) -> Result<Released> {
    let _open = client.enter(request.deadline).await?;
    let (deadline, mut usage) = (request.deadline, Usage::default());
    for (stream, before) in &request.streams {
        let last = read::last(client, stream, deadline, &mut usage).await?;
        let meta = client.meta_for(&last, deadline, &mut usage).await?;
        decide::release(&meta.meta)?;
        // Of a deleted stream nothing is there, and nothing lies before what is kept.
        let below = match before.0 {
            before if before <= last.retained.0 => continue,
            before if before > last.revision.0 => last.number.next(),
            _ => read::locate(client, stream, &last, *before, deadline, &mut usage).await?.1,
        };
        strip(client, stream, last.from, below, deadline).await?;
    }
    Ok(Released { usage })
}

/// Takes the events away from the commits in slots from one to below another.
///
/// # Errors
/// As writes have them; a repeat goes on.
pub async fn strip(
    client: &Client,
    stream: &StreamId,
    from: CommitNumber,
    below: CommitNumber,
    deadline: Deadline,
) -> Result<()> {
    if from >= below {
        return Ok(());
    }
    let mut usage = Usage::default();
    let mut range = frames(stream, from.0, Order::Rising);
    range.to = Some(number(below.0 - 1));
    let mut start = None;
    loop {
        let part = client.link().query(&range, start, STRIP_PART, deadline, &mut usage).await?;
        let mut kept = Vec::new();
        for item in &part.items {
            kept.extend(
                frame_of(stream, item)?.filter(|(_, frame)| frame.content == Content::Kept && !frame.kind.is_marker()),
            );
        }
        stream::iter(kept)
            .map(|(number, frame)| async move {
                let stub = codec::Frame { content: Content::Stripped, plain_bytes: None, ..frame };
                let stub = codec::encode_frame(stream, number, &stub);
                let key = numbered(stream_key(stream), number.0);
                client.link().strip(key, stub, deadline, &mut Usage::default()).await
            })
            .buffer_unordered(STRIPPED_AT_ONCE)
            .try_collect::<()>()
            .await?;
        start = part.next;
        if start.is_none() {
            return Ok(());
        }
    }
}

/// Finds a commit or a marker by its id. One that this process knows costs nothing.
pub async fn find_commit(client: &Client, request: &FindCommit) -> Result<Option<Appended>> {
    let _open = client.enter(request.deadline).await?;
    let (stream, commit) = (&request.stream, request.commit);
    let mut usage = Usage::default();
    let found = client
        .memory()
        .look(stream, |known| known.and_then(|known| Some((known.last.clone(), known.find(commit)?.clone()))));
    let (last, found) = match found {
        Some((last, found)) => (last, Some(found)),
        None => {
            let known = known::refresh(client, stream, request.deadline, &mut usage).await?;
            (known.last.clone(), known.find(commit).cloned())
        }
    };
    let Some(found) = found.filter(|receipt| known::in_window(client, &last, receipt)) else { return Ok(None) };
    let found = known::positioned(client, stream, found, request.deadline, &mut usage).await?;
    Ok(Some(Appended { usage, ..found }))
}
