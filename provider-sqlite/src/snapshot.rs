//! The latest snapshot of each stream.

use crate::append::{NO_KEY, USAGE, find_stream, head_of, situation};
use crate::codec::{self, SNAPSHOT_COLUMNS};
use crate::error::Result as Worked;
use crate::writer::Transaction;
use evstore_api::{Revision, Snapshot, SnapshotPut, StreamId};
use evstore_kit::decide;
use rusqlite::{Connection, OptionalExtension, params};

/// Keeps a snapshot, unless one of a higher revision is kept.
pub fn put(transaction: &Transaction<'_>, snapshot: &Snapshot) -> Worked<SnapshotPut> {
    let found = find_stream(transaction.connection, &snapshot.stream)?;
    let head = head_of(transaction, found.as_ref());
    decide::put_snapshot(&situation(transaction, &head)).map_err(|error| error.with("stream", &snapshot.stream))?;
    let key = found.map_or(NO_KEY, |found| found.key);
    match kept(transaction.connection, key)? {
        Some(by) if by > snapshot.revision => Ok(SnapshotPut::Superseded { by, usage: USAGE }),
        _ => {
            write(transaction.connection, key, snapshot)?;
            Ok(SnapshotPut::Stored { usage: USAGE })
        }
    }
}

/// Revision of the snapshot that is kept of a stream.
pub fn kept(connection: &Connection, key: i64) -> Worked<Option<Revision>> {
    let mut select = connection.prepare_cached("SELECT revision FROM snapshots WHERE stream = ?1")?;
    Ok(select.query_row([key], |row| codec::number(row, 0)).optional()?.map(Revision))
}

/// Writes a snapshot in place of what is kept.
pub fn write(connection: &Connection, key: i64, snapshot: &Snapshot) -> Worked<()> {
    const REPLACE: &str =
        "INSERT OR REPLACE INTO snapshots (stream, revision, number, id, schema, content_type, taken_at, data,
        checksum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    connection.prepare_cached(REPLACE)?.execute(params![
        key,
        codec::integer(snapshot.revision.0)?,
        codec::integer(snapshot.number.0)?,
        snapshot.commit.0,
        snapshot.schema,
        snapshot.content_type.as_str(),
        snapshot.taken_at.0,
        &snapshot.data[..],
        codec::checksum(&snapshot.data),
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
pub fn delete(transaction: &Transaction<'_>, stream: &StreamId) -> Worked<()> {
    let found = find_stream(transaction.connection, stream)?;
    let head = head_of(transaction, found.as_ref());
    decide::delete_snapshot(&situation(transaction, &head)).map_err(|error| error.with("stream", stream))?;
    match found {
        Some(found) => delete_of(transaction.connection, found.key),
        None => Ok(()),
    }
}

/// Removes the snapshot of the stream with a key, if there is one.
pub fn delete_of(connection: &Connection, key: i64) -> Worked<()> {
    connection.prepare_cached("DELETE FROM snapshots WHERE stream = ?1")?.execute([key])?;
    Ok(())
}
