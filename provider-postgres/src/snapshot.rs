//! The latest snapshot of each stream.

use crate::codec::{self, Id, ONE_REQUEST, integer};
use crate::error::Result as Worked;
use crate::store::Client;
use crate::transaction::Transaction;
use evstore_api::{DeleteSnapshot, PutSnapshot, ReadSnapshot, Result, Revision, Snapshot, SnapshotPut};
use evstore_kit::{decide, limits};

/// Keeps a snapshot, unless one of a higher revision is kept.
pub async fn put(client: &Client, request: &PutSnapshot) -> Result<SnapshotPut> {
    limits::check_put_snapshot(client.limits(), request)?;
    let snapshot = &request.snapshot;
    client
        .write(request.deadline, async |transaction| {
            let found = transaction.lock_stream(client.schema(), &snapshot.stream).await?;
            decide::put_snapshot(&transaction.situation(&found), snapshot)?;
            let key = found.last.map_or(0, |last| last.key);
            match kept(transaction, key).await? {
                Some(by) if by > snapshot.revision => Ok(SnapshotPut::Superseded { by, usage: ONE_REQUEST }),
                _ => {
                    write(transaction, key, snapshot).await?;
                    Ok(SnapshotPut::Stored { usage: ONE_REQUEST })
                }
            }
        })
        .await
}

async fn kept(transaction: &mut Transaction, key: i64) -> Worked<Option<Revision>> {
    let select = transaction.statements().snapshot_revision.query().bind(key);
    let row = transaction.row(select).await?;
    row.map(|row| codec::number(&row, 0).map(Revision)).transpose()
}

/// Writes a snapshot in place of what is kept.
pub async fn write(transaction: &mut Transaction, key: i64, snapshot: &Snapshot) -> Worked<()> {
    let insert = transaction
        .statements()
        .put_snapshot
        .query()
        .bind(key)
        .bind(integer(snapshot.revision.0))
        .bind(integer(snapshot.number.0))
        .bind(snapshot.taken_at.0)
        .bind(i64::from(snapshot.schema))
        .bind(codec::checksum(&snapshot.data))
        .bind(Id(snapshot.commit.0))
        .bind(snapshot.content_type.as_str().to_owned())
        .bind(snapshot.data.to_vec());
    transaction.execute(insert).await.map(drop)
}

/// Reads the snapshot of a stream.
pub async fn read(client: &Client, request: &ReadSnapshot) -> Result<Option<Snapshot>> {
    client
        .read(request.deadline, async |connection| {
            let stream = &request.stream;
            let select =
                client.statements.read_snapshot.query().bind(stream.namespace.as_str()).bind(stream.name.as_str());
            let rows = select.fetch_all(connection).await?;
            rows.first().map(|row| codec::snapshot(row, stream.clone())).transpose()
        })
        .await
}

/// Removes the snapshot of a stream, if there is one.
pub async fn delete(client: &Client, request: &DeleteSnapshot) -> Result<()> {
    client
        .write(request.deadline, async |transaction| {
            let found = transaction.lock_stream(client.schema(), &request.stream).await?;
            decide::delete_snapshot(&transaction.situation(&found))
                .map_err(|error| error.with("stream", &request.stream))?;
            match found.last {
                Some(last) => delete_of(transaction, last.key).await,
                None => Ok(()),
            }
        })
        .await
}

/// Removes the snapshot of the stream with a key, if there is one.
pub async fn delete_of(transaction: &mut Transaction, key: i64) -> Worked<()> {
    let delete = transaction.statements().delete_snapshot.query().bind(key);
    transaction.execute(delete).await.map(drop)
}
