//! The latest snapshot of each stream. Separate, it is one item that gives way only to one that is not older; interleaved, each
//! stands half a number behind its commit, where no query for commits looks, and the last one counts.

use crate::codec::{self, corrupt};
use crate::config::Snapshots;
use crate::known::Last;
use crate::link::{Condition, Order, Range, Written};
use crate::read;
use crate::schema;
use crate::store::Client;
use crate::tables::{
    BURNT, COUNT, FRAME, Item, KEY, NUMBER, Table, VALUE, bytes, bytes_of, number, numbered, stream_key, text, with,
};
use aws_sdk_dynamodb::types::AttributeValue;
use evstore_api::{
    CommitKind, Deadline, DeleteSnapshot, Error, ErrorKind, PutSnapshot, ReadSnapshot, Result, Snapshot, SnapshotPut,
    StreamId, Usage,
};
use evstore_kit::decide::{self, Situation};
use evstore_kit::limits;

/// Items that one request asks for, of a stream whose snapshots are between its commits.
const PART_ITEMS: u32 = 100;

/// Keeps a snapshot, unless a newer one is kept.
pub async fn put(client: &Client, request: &PutSnapshot) -> Result<SnapshotPut> {
    limits::check_put_snapshot(client.limits(), request)?;
    let _open = client.enter(request.deadline).await?;
    let (snapshot, deadline) = (&request.snapshot, request.deadline);
    let mut usage = Usage::default();
    let last =
        check(client, &snapshot.stream, deadline, &mut usage, |situation| decide::put_snapshot(situation, snapshot))
            .await?;
    let condition = match client.config().snapshots {
        Snapshots::Separate => Condition::not_newer(snapshot.revision.0),
        Snapshots::Interleaved => {
            if let Some(kept) = latest(client, &snapshot.stream, deadline, &mut usage).await?
                && kept.revision > snapshot.revision
            {
                return Ok(SnapshotPut::Superseded { by: kept.revision, usage });
            }
            Condition::not_newer(snapshot.revision.0)
        }
    };
    let item = item(client, snapshot);
    match client.link().put(Table::Commits, item, condition, deadline, &mut usage).await? {
        Written::Done => Ok(SnapshotPut::Stored { usage }),
        Written::Refused(Some(there)) if !there.contains_key(BURNT) => {
            let kept = snapshot_of(&there, &snapshot.stream)?;
            Ok(SnapshotPut::Superseded { by: kept.revision, usage })
        }
        Written::Contended => {
            Err(Error::new(ErrorKind::Throttled, "others write the same items just now")
                .with("stream", &snapshot.stream))
        }
        // Deleted since its head was read.
        Written::Refused(_) => Err(Error::new(ErrorKind::Gone, "the stream was deleted for good")
            .with("stream", &snapshot.stream)
            .with("number", last.number)),
    }
}

/// A snapshot as it is put.
pub fn item(client: &Client, snapshot: &Snapshot) -> Item {
    let key = stream_key(&snapshot.stream);
    let at = match client.config().snapshots {
        Snapshots::Separate => numbered(key, 0),
        Snapshots::Interleaved => Item::from([
            (KEY.to_owned(), text(key)),
            (NUMBER.to_owned(), AttributeValue::N(format!("{}.5", snapshot.number))),
        ]),
    };
    let item = with(at, COUNT, number(snapshot.revision.0));
    with(item, VALUE, bytes(codec::encode_snapshot(snapshot)))
}

/// Reads the latest snapshot.
pub async fn read(client: &Client, request: &ReadSnapshot) -> Result<Option<Snapshot>> {
    let _open = client.enter(request.deadline).await?;
    let mut usage = Usage::default();
    let found = latest(client, &request.stream, request.deadline, &mut usage).await?;
    if let Some(snapshot) = &found {
        // Whoever reads it begins at its commit, to verify that, or behind it; which may not be there yet.
        client.memory().keep_place(&request.stream, snapshot.revision, snapshot.number);
        client.memory().keep_place(&request.stream, snapshot.revision.next(), snapshot.number);
    }
    Ok(found)
}

/// The latest snapshot of a stream.
///
/// # Errors
/// As reads have them.
pub async fn latest(
    client: &Client,
    stream: &StreamId,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<Option<Snapshot>> {
    match client.config().snapshots {
        Snapshots::Separate => {
            let found = client.link().get(Table::Commits, numbered(stream_key(stream), 0), deadline, usage).await?;
            found.filter(|item| !item.contains_key(BURNT)).map(|item| snapshot_of(&item, stream)).transpose()
        }
        Snapshots::Interleaved => between(client, stream, deadline, usage).await,
    }
}

/// The last snapshot between the commits: what is read on the way is what has to be folded on it. A stream without one is read to its
/// beginning.
async fn between(
    client: &Client,
    stream: &StreamId,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<Option<Snapshot>> {
    let range = Range {
        table: Table::Commits,
        key: stream_key(stream),
        from: Some(number(1)),
        to: None,
        order: Order::Falling,
        only: Some("n, f, i, c, v"),
    };
    let mut start = None;
    let mut at_end = true;
    loop {
        let part = client.link().query(&range, start, PART_ITEMS, deadline, usage).await?;
        for item in &part.items {
            if !item.contains_key(FRAME) {
                return snapshot_of(item, stream).map(Some);
            }
            // A late snapshot of a deleted stream may stand before its tombstone.
            if at_end
                && let Some((_, frame)) = crate::known::frame_of(stream, item)?
                && frame.kind == CommitKind::Deleted
            {
                return Ok(None);
            }
            at_end = false;
        }
        start = part.next;
        if start.is_none() {
            return Ok(None);
        }
    }
}

/// Removes the snapshot.
pub async fn delete(client: &Client, request: &DeleteSnapshot) -> Result<()> {
    let _open = client.enter(request.deadline).await?;
    let (stream, deadline) = (&request.stream, request.deadline);
    let mut usage = Usage::default();
    check(client, stream, deadline, &mut usage, decide::delete_snapshot).await?;
    match client.config().snapshots {
        Snapshots::Separate => client.link().remove(numbered(stream_key(stream), 0), deadline, &mut usage).await,
        Snapshots::Interleaved => remove_all(client, stream, deadline).await,
    }
}

/// Removes every snapshot between the commits of a stream.
///
/// # Errors
/// As writes have them; a repeat goes on.
pub async fn remove_all(client: &Client, stream: &StreamId, deadline: Deadline) -> Result<()> {
    let mut usage = Usage::default();
    // The latest goes last: what is removed half is the older half, and never an older one takes its place.
    let range = Range {
        table: Table::Commits,
        key: stream_key(stream),
        from: Some(number(1)),
        to: None,
        order: Order::Rising,
        only: Some("k, n, c"),
    };
    let mut start = None;
    loop {
        let part = client.link().query(&range, start, PART_ITEMS, deadline, &mut usage).await?;
        for mut item in part.items {
            if item.remove(COUNT).is_some() {
                client.link().remove(item, deadline, &mut usage).await?;
            }
        }
        start = part.next;
        if start.is_none() {
            return Ok(());
        }
    }
}

/// Reads what a change is decided by, and decides it. A fence that comes directly behind does not undo it: a snapshot is a hint.
async fn check(
    client: &Client,
    stream: &StreamId,
    deadline: Deadline,
    usage: &mut Usage,
    decide: impl FnOnce(&Situation<'_>) -> Result<()>,
) -> Result<Last> {
    let last = read::last(client, stream, deadline, usage).await?;
    let meta = schema::read_meta(client, deadline, usage).await?;
    let head = client.head(&last, &meta.meta);
    let own = client.own();
    let situation = Situation { meta: &meta.meta, own, head: &head, last_position: None, now: client.now() };
    decide(&situation).map_err(|error| error.with("stream", stream))?;
    Ok(last)
}

fn snapshot_of(item: &Item, stream: &StreamId) -> Result<Snapshot> {
    let stored = bytes_of(item, VALUE).ok_or_else(|| corrupt("a snapshot is not one").with("stream", stream))?;
    codec::decode_snapshot(&stored, stream)
}
