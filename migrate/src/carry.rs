//! What stands beside the events: snapshots, which are hints and follow when they can, and consumers' checkpoints, which are carried
//! exactly.

use crate::copy::{Filling, send};
use crate::deadline;
use crate::pages::{Records, Streams};
use crate::side::Side;
use evstore_api::{
    Error, ErrorKind, PutSnapshot, ReadRecord, ReadSnapshot, Record, RecordKey, RecordKind, Replica, Result, Snapshot,
    StreamId,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::collections::HashSet;

/// Snapshots that are read at a time.
const READS_MAX: usize = 16;
/// Checkpoints of one request. A store has a few dozen, and each may have up to a record's largest value.
const RECORDS_MAX: usize = 32;

/// Copies every snapshot of streams that are copied as far. What is ahead comes with a later call.
pub(crate) async fn snapshots(from: &Side, to: &Side, filling: Filling) -> Result<()> {
    let mut streams = Streams::all(&*from.store);
    while let Some(page) = streams.next(&*from.store).await.map_err(|error| from.named(error))? {
        for snapshot in read_all(from, page.into_iter().map(|listed| listed.stream)).await? {
            match send(to, filling, vec![Replica::Snapshot(snapshot)]).await {
                // It is ahead of what is copied.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                sent => sent?,
            }
        }
    }
    Ok(())
}

/// Puts snapshots that were taken since into the store that took over, unless it has newer ones.
pub(crate) async fn later_snapshots(from: &Side, to: &Side) -> Result<()> {
    let mut streams = Streams::all(&*from.store);
    while let Some(page) = streams.next(&*from.store).await.map_err(|error| from.named(error))? {
        for snapshot in read_all(from, page.into_iter().map(|listed| listed.stream)).await? {
            let there = read(to, snapshot.stream.clone()).await?;
            if there.is_some_and(|there| there.revision >= snapshot.revision) {
                continue;
            }
            match to.store.put_snapshot(PutSnapshot { snapshot, deadline: deadline() }).await {
                // It is a hint: whoever moves or deletes its stream meanwhile is right.
                Ok(_) => {}
                Err(error) if is_overtaken(&error) => {}
                Err(error) => return Err(to.named(error)),
            }
        }
    }
    Ok(())
}

fn is_overtaken(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Conflict | ErrorKind::NotFound | ErrorKind::Gone | ErrorKind::Moved | ErrorKind::Fenced
    )
}

async fn read_all(from: &Side, streams: impl Iterator<Item = StreamId>) -> Result<Vec<Snapshot>> {
    let reads = stream::iter(streams.map(|stream| read(from, stream)));
    reads.buffered(READS_MAX).try_filter_map(|found| async { Ok(found) }).try_collect().await
}

async fn read(side: &Side, stream: StreamId) -> Result<Option<Snapshot>> {
    side.store.read_snapshot(ReadSnapshot { stream, deadline: deadline() }).await.map_err(|error| side.named(error))
}

/// Copies every checkpoint, deletions included.
pub(crate) async fn checkpoints(from: &Side, to: &Side, filling: Filling) -> Result<()> {
    let records = all(from).await?;
    let names: HashSet<RecordKey> = records.iter().map(|record| record.key.clone()).collect();
    for part in records.chunks(RECORDS_MAX) {
        send(to, filling, part.iter().cloned().map(Replica::Record).collect()).await?;
    }
    for gone in all(to).await?.into_iter().filter(|record| !names.contains(&record.key)) {
        // A list has no deleted ones, and their numbers have to come along.
        if let Some(record) = one(from, gone.key).await? {
            send(to, filling, vec![Replica::Record(record)]).await?;
        }
    }
    Ok(())
}

/// Checks that every checkpoint is the same in both stores. Only good while the source is closed.
///
/// # Errors
/// `Conflict` with the first one that is not.
pub(crate) async fn check_checkpoints(from: &Side, to: &Side) -> Result<()> {
    for (side, other) in [(from, to), (to, from)] {
        for record in all(side).await? {
            let found = one(other, record.key.clone()).await?;
            let same =
                found.as_ref().is_some_and(|found| (found.number, &found.value) == (record.number, &record.value));
            if !same {
                return Err(Error::new(ErrorKind::Conflict, "a checkpoint differs between the two stores")
                    .with("checkpoint", &record.key.name)
                    .with("store", &side.name)
                    .with("number", record.number)
                    .with("other_number", found.map_or_else(|| "none".to_owned(), |found| found.number.to_string())));
            }
        }
    }
    Ok(())
}

async fn all(side: &Side) -> Result<Vec<Record>> {
    let mut pages = Records::all(&*side.store, RecordKind::Checkpoint);
    let mut records = Vec::new();
    while let Some(page) = pages.next(&*side.store).await.map_err(|error| side.named(error))? {
        records.extend(page);
    }
    Ok(records)
}

async fn one(side: &Side, key: RecordKey) -> Result<Option<Record>> {
    side.store.read_record(ReadRecord { key, deadline: deadline() }).await.map_err(|error| side.named(error))
}
