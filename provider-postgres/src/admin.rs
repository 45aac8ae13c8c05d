//! Administration: the store's record, truncation and deletion, each in one transaction under the locks that appends take.

use crate::codec::{self, Id, ONE_REQUEST, integer};
use crate::error::Result as Worked;
use crate::snapshot;
use crate::store::Client;
use crate::transaction::Transaction;
use evstore_api::{
    Appended, Deadline, Delete, Deleted, Meta, MetaSwapped, Release, Released, Result, Revision, StoreState, StreamId,
    SwapMeta, Truncate, Truncated, format,
};
use evstore_kit::decide::{self, Decision, Slot, Wanted};

/// Reads the store's record.
pub async fn read_meta(client: &Client, deadline: Deadline) -> Result<Meta> {
    client
        .read(deadline, async |connection| {
            let rows = client.statements.meta.query().fetch_all(connection).await?;
            let missing = || {
                let kind = evstore_api::ErrorKind::Schema;
                evstore_api::Error::new(kind, "the store's record is missing")
            };
            codec::any_meta(rows.first().ok_or_else(missing)?, 0)
        })
        .await
}

/// Changes the store's record if it is as expected. Writers hold the other side of the lock until they have committed: what
/// began before is done, and what comes later sees the change.
pub async fn swap_meta(client: &Client, request: &SwapMeta) -> Result<MetaSwapped> {
    let swapped = client
        .write(request.deadline, async |transaction| {
            transaction.run(|statements| &statements.lock_store).await?;
            let meta = transaction.any_meta().await?;
            if let Some(answer) = decide::swap_meta(&meta, request)? {
                return Ok(answer);
            }
            let update = transaction
                .statements()
                .put_meta
                .query()
                .bind(format::encode_meta(&request.new))
                .bind(access(&request.new));
            transaction.execute(update).await?;
            Ok(MetaSwapped::Done)
        })
        .await?;
    // A new history may refuse the cursors of those who wait.
    client.sequencer.ring();
    Ok(swapped)
}

/// What the store's record means to the append function, which reads no more of it.
pub fn access(meta: &Meta) -> i16 {
    if meta.format.check_write().is_err() {
        return 2;
    }
    match meta.state {
        StoreState::Open => 0,
        StoreState::Leaving { .. } => 1,
        StoreState::Fenced { .. }
        | StoreState::Moved { .. }
        | StoreState::Importing { .. }
        | StoreState::Retired { .. } => 2,
    }
}

/// Strips the commits of a stream that lie wholly before a revision, and puts a marker at its next slot.
pub async fn truncate(client: &Client, request: &Truncate) -> Result<Truncated> {
    let wanted = Wanted::truncation(request);
    let truncated = client
        .write(request.deadline, async |transaction| {
            let found = transaction.lock_stream(client.schema(), &request.stream).await?;
            let key = found.last.as_ref().map(|last| last.key);
            let repeat = repeat(transaction, &wanted).await?;
            match decide::truncate(&transaction.situation(&found), &wanted, request.before, repeat)? {
                Decision::Repeated(marker) => Ok(Truncated { marker, first_retained: found.head.first_retained }),
                Decision::Write(slot) => {
                    let key = put_marker(transaction, key, &wanted, &slot).await?;
                    let first_retained = strip(transaction, key, request.before, found.head.revision).await?;
                    Ok(Truncated { marker: slot.receipt(&wanted, ONE_REQUEST), first_retained })
                }
            }
        })
        .await?;
    client.sequencer.nudge();
    Ok(truncated)
}

/// Deletes a stream for good: its tombstone, its events, its snapshot.
pub async fn delete(client: &Client, request: &Delete) -> Result<Deleted> {
    let wanted = Wanted::deletion(request);
    let deleted = client
        .write(request.deadline, async |transaction| {
            let found = transaction.lock_stream(client.schema(), &request.stream).await?;
            let key = found.last.as_ref().map(|last| last.key);
            let repeat = repeat(transaction, &wanted).await?;
            match decide::delete(&transaction.situation(&found), &wanted, repeat)? {
                Decision::Repeated(receipt) => Ok(receipt),
                Decision::Write(slot) => {
                    let key = put_marker(transaction, key, &wanted, &slot).await?;
                    let revision = found.head.revision;
                    strip(transaction, key, revision.next(), revision).await?;
                    snapshot::delete_of(transaction, key).await?;
                    Ok(slot.receipt(&wanted, ONE_REQUEST))
                }
            }
        })
        .await?;
    client.sequencer.nudge();
    Ok(deleted)
}

/// Takes out the events of commits that an archive holds, under the writer's side of the fence.
pub async fn release(client: &Client, request: &Release) -> Result<Released> {
    let texts = |text: fn(&StreamId) -> &str| -> Vec<String> {
        request.streams.iter().map(|(stream, _)| text(stream).to_owned()).collect()
    };
    let before: Vec<i64> = request.streams.iter().map(|(_, before)| integer(before.0)).collect();
    client
        .write(request.deadline, async |transaction| {
            transaction.run(|statements| &statements.share_store).await?;
            let meta = transaction.meta().await?;
            decide::release(&meta)?;
            let release = transaction
                .statements()
                .release
                .query()
                .bind(texts(|stream| stream.namespace.as_str()))
                .bind(texts(|stream| stream.name.as_str()))
                .bind(before.clone());
            transaction.execute(release).await?;
            Ok(Released { usage: ONE_REQUEST })
        })
        .await
}

async fn repeat(transaction: &mut Transaction, wanted: &Wanted) -> Worked<Option<Appended>> {
    let find = transaction
        .statements()
        .find
        .query()
        .bind(wanted.stream.namespace.as_str().to_owned())
        .bind(wanted.stream.name.as_str().to_owned())
        .bind(Id(wanted.commit.0));
    match transaction.row(find).await? {
        Some(row) => codec::receipt(&row, [1, 0, 2, 3, 4, 5], wanted.commit),
        None => Ok(None),
    }
}

/// Writes a marker into the slot that was decided; the stream is made where a missing one is deleted.
async fn put_marker(transaction: &mut Transaction, key: Option<i64>, wanted: &Wanted, slot: &Slot) -> Worked<i64> {
    let key = match key {
        Some(key) => key,
        None => make_stream(transaction, &wanted.stream).await?,
    };
    let (kind, marker) = codec::kind_columns(&wanted.kind);
    let insert = transaction
        .statements()
        .put_marker
        .query()
        .bind(key)
        .bind(integer(slot.number.0))
        .bind(integer(slot.first.0))
        .bind(slot.recorded_at.0)
        .bind(kind)
        .bind(Id(wanted.commit.0))
        .bind(Id(wanted.digest.0))
        .bind(marker);
    transaction.execute(insert).await?;
    Ok(key)
}

async fn make_stream(transaction: &mut Transaction, stream: &StreamId) -> Worked<i64> {
    let insert = transaction
        .statements()
        .make_stream
        .query()
        .bind(stream.namespace.as_str().to_owned())
        .bind(stream.name.as_str().to_owned())
        .bind(stream.name.category().as_str().to_owned());
    let row = transaction.row(insert).await?;
    codec::get(&row.ok_or_else(|| crate::error::corrupt("a stream was not made"))?, 0)
}

/// Takes the events away from the commits that lie wholly before a revision; answers where those that are left begin.
pub async fn strip(transaction: &mut Transaction, key: i64, before: Revision, head: Revision) -> Worked<Revision> {
    let statements = transaction.statements();
    transaction.execute(statements.strip.query().bind(key).bind(integer(before.0))).await?;
    let retain = statements.retain.query().bind(key).bind(integer(head.0 + 1)).bind(integer(before.0));
    let row = transaction.row(retain).await?;
    let row = row.ok_or_else(|| crate::error::corrupt("a stream's row is missing"))?;
    Ok(Revision(codec::number(&row, 0)?))
}
