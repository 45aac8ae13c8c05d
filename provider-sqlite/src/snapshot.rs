//! The latest snapshot of each stream.

use crate::append::{NO_KEY, USAGE, find_stream, head_of, situation};
use crate::checksum::{self, SnapshotSum};
use crate::codec::{self, SNAPSHOT_COLUMNS};
use crate::error::Result as Worked;
use crate::writer::Transaction;
use evstore_api::{Revision, Snapshot, SnapshotPut, StreamId};
use evstore_kit::decide;
use rusqlite::{Connection, params};

/// Keeps a snapshot, unless one of a higher revision is kept.
pub fn put(transaction: &Transaction<'_>, snapshot: &Snapshot) -> Worked<SnapshotPut> {
    let found = find_stream(transaction.connection, &snapshot.stream)?;
    let head = head_of(transaction, found.as_ref());
    decide::put_snapshot(&situation(transaction, &head), snapshot)?;
    let key = found.map_or(NO_KEY, |found| found.key);
    match kept(transaction.connection, key, &snapshot.stream)? {
        Some(by) if by > snapshot.revision => Ok(SnapshotPut::Superseded { by, usage: USAGE }),
        _ => {
            write(transaction.connection, key, snapshot)?;
            Ok(SnapshotPut::Stored { usage: USAGE })
        }
    }
}

/// Revision of the snapshot that is kept of a stream. It does not touch the data.
fn kept(connection: &Connection, key: i64, stream: &StreamId) -> Worked<Option<Revision>> {
    const SELECT: &str = "SELECT revision, number, id, schema, content_type, taken_at, data_checksum, checksum
        FROM snapshots WHERE stream = ?1";
    let mut select = connection.prepare_cached(SELECT)?;
    let mut rows = select.query([key])?;
    rows.next()?.map(|row| codec::snapshot_place(row, stream).map(|(revision, _)| revision)).transpose()
}

/// Writes a snapshot in place of what is kept.
pub fn write(connection: &Connection, key: i64, snapshot: &Snapshot) -> Worked<()> {
    const REPLACE: &str =
        "INSERT OR REPLACE INTO snapshots (stream, revision, number, id, schema, content_type, taken_at, data_checksum,
        checksum, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let sum = SnapshotSum {
        named: checksum::of_name(&snapshot.stream),
        revision: codec::integer(snapshot.revision.0)?,
        number: codec::integer(snapshot.number.0)?,
        id: &snapshot.commit.0,
        schema: i64::from(snapshot.schema),
        content_type: snapshot.content_type.as_str(),
        taken_at: snapshot.taken_at.0,
        data: checksum::of(&snapshot.data),
    };
    connection.prepare_cached(REPLACE)?.execute(params![
        key,
        sum.revision,
        sum.number,
        sum.id,
        sum.schema,
        sum.content_type,
        sum.taken_at,
        sum.data,
        sum.checksum(),
        &snapshot.data[..],
    ])?;
    Ok(())
}

/// Reads the snapshot of a stream.
pub fn read(connection: &Connection, stream: &StreamId) -> Worked<Option<Snapshot>> {
    let Some(found) = find_stream(connection, stream)? else { return Ok(None) };
    let mut select =
        connection.prepare_cached(&format!("SELECT {SNAPSHOT_COLUMNS} FROM snapshots WHERE stream = ?1"))?;
    let mut rows = select.query([found.key])?;
    rows.next()?.map(|row| codec::snapshot(row, stream.clone())).transpose()
}

/// Removes the snapshot of a stream, if there is one.
pub fn delete(transaction: &mut Transaction<'_>, stream: &StreamId) -> Worked<()> {
    let found = find_stream(transaction.connection, stream)?;
    let head = head_of(transaction, found.as_ref());
    decide::delete_snapshot(&situation(transaction, &head)).map_err(|error| error.with("stream", stream))?;
    match found {
        Some(found) => delete_of(transaction, found.key),
        None => Ok(()),
    }
}

/// Removes the snapshot of the stream with a key, if there is one.
pub fn delete_of(transaction: &mut Transaction<'_>, key: i64) -> Worked<()> {
    let deleted = transaction.connection.prepare_cached("DELETE FROM snapshots WHERE stream = ?1")?.execute([key])?;
    if deleted > 0 {
        transaction.mark_erased();
    }
    Ok(())
}
