//! Between rows and the contract's types. Pure: it reads rows that it is given, and runs no statement.

use crate::capabilities::FENCE;
use crate::error::Result as Worked;
use bytes::Bytes;
use evstore_api::Content;
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    Appended, Commit, CommitId, CommitKind, CommitNumber, ContentDigest, ContentType, Epoch, Error, ErrorKind, Head,
    Meta, Namespace, Position, Record, RecordKey, RecordNumber, Revision, Snapshot, StoreName, StreamId, StreamName,
    Timestamp, Usage, format,
};
use evstore_kit::state;
use rusqlite::{Row, types::ValueRef};

/// The columns of a commit, in the order in which [`commit`] reads them.
pub const COMMIT_COLUMNS: &str =
    "position, stream, number, revision, count, recorded_at, id, digest, marker, imported, grouped, extensions, events";

/// The columns of a stream, in the order in which [`stream`] reads them.
pub const STREAM_COLUMNS: &str =
    "key, revision, number, first_retained, recorded_at, last_id, last_marker, last_imported";

/// Finds a stream by its name, for [`stream`]. Written out, as every append runs it.
pub const SELECT_STREAM: &str =
    "SELECT key, revision, number, first_retained, recorded_at, last_id, last_marker, last_imported
    FROM streams WHERE namespace = ?1 AND name = ?2";

/// The columns of a snapshot, in the order in which [`snapshot`] reads them.
pub const SNAPSHOT_COLUMNS: &str = "revision, number, id, schema, content_type, taken_at, data, checksum";

/// The columns of a small record, in the order in which [`record`] reads them.
pub const RECORD_COLUMNS: &str = "number, epoch, updated_at, value, checksum";

/// A stream's row: its key, and what stands last in it. What can be done with it also hangs on the store's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRow {
    /// What stands for the stream in the other tables. Never used again for another one.
    pub key: i64,
    /// Revision of its last event.
    pub revision: Revision,
    /// Its last slot.
    pub number: CommitNumber,
    /// Revision of the first event that is still there.
    pub first_retained: Revision,
    /// When its last commit was taken.
    pub recorded_at: Timestamp,
    /// Id of its last commit.
    pub last_id: CommitId,
    /// Kind of its last commit.
    pub last_kind: CommitKind,
    /// The epoch that copied its last commit here.
    pub last_imported: Option<Epoch>,
}

impl StreamRow {
    /// The head of the stream, under this record of the store with this name.
    pub fn head(&self, meta: &Meta, own: &StoreName) -> Head {
        Head {
            revision: self.revision,
            number: self.number,
            first_retained: self.first_retained,
            commit: Some(self.last_id),
            recorded_at: Some(self.recorded_at),
            state: state::of_stream(&self.last_kind, self.last_imported, meta, FENCE, own),
        }
    }
}

/// The number in a column.
pub fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// A number of the contract as SQLite keeps it.
///
/// # Errors
/// `Invalid` for one that no store can have given.
pub fn integer(number: u64) -> Worked<i64> {
    let refused = || Error::new(ErrorKind::Invalid, "numbers stay below 2^53").with("number", number);
    Ok(i64::try_from(number).ok().filter(|_| number <= NUMBER_MAX).ok_or_else(refused)?)
}

/// Reads a stream's row.
pub fn stream(row: &Row<'_>) -> Worked<StreamRow> {
    Ok(StreamRow {
        key: row.get(0)?,
        revision: Revision(number(row, 1)?),
        number: CommitNumber(number(row, 2)?),
        first_retained: Revision(number(row, 3)?),
        recorded_at: Timestamp(row.get(4)?),
        last_id: CommitId(row.get(5)?),
        last_kind: kind(row, 6)?,
        last_imported: epoch(row, 7)?,
    })
}

fn kind(row: &Row<'_>, column: usize) -> Worked<CommitKind> {
    match blob(row, column)? {
        None => Ok(CommitKind::Events),
        Some(encoded) => Ok(format::decode_kind(&encoded)?),
    }
}

fn epoch(row: &Row<'_>, column: usize) -> Worked<Option<Epoch>> {
    let found: Option<i64> = row.get(column)?;
    Ok(found.map(|_| number(row, column).map(Epoch)).transpose()?)
}

/// A kind as its column keeps it: nothing for events, which nearly all commits are.
pub fn marker(kind: &CommitKind) -> Option<Vec<u8>> {
    kind.is_marker().then(|| format::encode_kind(kind))
}

/// Reads the identity of a stream from two columns.
pub fn stream_id(row: &Row<'_>, namespace: usize, name: usize) -> Worked<StreamId> {
    let text = |column: usize| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
    Ok(StreamId { namespace: valid(Namespace::new(text(namespace)?))?, name: valid(StreamName::new(text(name)?))? })
}

/// Reads a commit of a stream, whole; the checksum of its events is verified.
pub fn commit(row: &Row<'_>, stream: StreamId) -> Worked<Commit> {
    let mut commit = frame(row, stream)?;
    if let Some(encoded) = blob(row, 12)? {
        commit.events = format::decode_events(commit.id, &encoded)?;
        if !commit.is_whole() {
            return Err(corrupt("a commit's events are not as many as its row says").with("commit", commit.id).into());
        }
    }
    Ok(commit)
}

/// Reads a commit of a stream without its events.
pub fn frame(row: &Row<'_>, stream: StreamId) -> Worked<Commit> {
    let kind = kind(row, 8)?;
    let has_events = row.get_ref(12)? != ValueRef::Null;
    Ok(Commit {
        stream,
        id: CommitId(row.get(6)?),
        number: CommitNumber(number(row, 2)?),
        content: if has_events || kind.is_marker() { Content::Kept } else { Content::Stripped },
        kind,
        first_revision: Revision(number(row, 3)?),
        count: u32::try_from(number(row, 4)?).map_err(|_| corrupt("a commit's count is out of bounds"))?,
        first_position: Some(Position(number(row, 0)?)),
        recorded_at: Timestamp(row.get(5)?),
        digest: ContentDigest(row.get(7)?),
        imported: epoch(row, 9)?,
        group: row.get::<_, Option<[u8; 16]>>(10)?.map(CommitId),
        extensions: match blob(row, 11)? {
            Some(encoded) => format::decode_extensions(&encoded)?,
            None => Vec::new(),
        },
        events: Vec::new(),
    })
}

/// Finds a commit of a stream by its id, for [`receipt`].
pub const SELECT_RECEIPT: &str =
    "SELECT number, revision, count, position, recorded_at, digest FROM commits WHERE stream = ?1 AND id = ?2";

/// Reads the receipt of a commit that was written before.
pub fn receipt(row: &Row<'_>, commit: CommitId, usage: Usage) -> Worked<Appended> {
    let first = number(row, 1)?;
    Ok(Appended {
        commit,
        number: CommitNumber(number(row, 0)?),
        first: Revision(first),
        last: Revision((first + number(row, 2)?).saturating_sub(1)),
        position: Some(Position(number(row, 3)?)),
        recorded_at: Timestamp(row.get(4)?),
        digest: ContentDigest(row.get(5)?),
        repeated: true,
        usage,
    })
}

fn blob(row: &Row<'_>, column: usize) -> Worked<Option<Bytes>> {
    let found = row.get_ref(column)?.as_blob_or_null().map_err(rusqlite::Error::from)?;
    Ok(found.map(Bytes::copy_from_slice))
}

/// Reads a snapshot; its checksum is verified.
pub fn snapshot(row: &Row<'_>, stream: StreamId) -> Worked<Snapshot> {
    let data = row.get::<_, Vec<u8>>(6)?;
    verify(&data, row.get(7)?)?;
    Ok(Snapshot {
        stream,
        revision: Revision(number(row, 0)?),
        number: CommitNumber(number(row, 1)?),
        commit: CommitId(row.get(2)?),
        schema: u32::try_from(number(row, 3)?).map_err(|_| corrupt("a schema number is out of bounds"))?,
        content_type: valid(ContentType::new(row.get::<_, String>(4)?))?,
        data: data.into(),
        taken_at: Timestamp(row.get(5)?),
    })
}

/// Reads a small record; its checksum is verified.
pub fn record(row: &Row<'_>, key: RecordKey) -> Worked<Record> {
    let value = blob(row, 3)?;
    verify(value.as_deref().unwrap_or_default(), row.get(4)?)?;
    Ok(Record {
        key,
        number: RecordNumber(number(row, 0)?),
        epoch: Epoch(number(row, 1)?),
        value,
        updated_at: Timestamp(row.get(2)?),
    })
}

/// The checksum that is kept beside bytes that have none of their own.
pub fn checksum(bytes: &[u8]) -> i64 {
    i64::from(crc32fast::hash(bytes))
}

fn verify(bytes: &[u8], stored: i64) -> Worked<()> {
    if checksum(bytes) == stored { Ok(()) } else { Err(corrupt("stored bytes fail their checksum").into()) }
}

/// A name that came out of the file: one that is not valid was not written by us.
pub fn valid<T>(name: evstore_api::Result<T>) -> Worked<T> {
    Ok(name.map_err(|cause| corrupt("a stored name is not valid").caused_by(cause))?)
}

pub fn corrupt(message: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_found_with_the_columns_that_a_list_has() {
        assert!(SELECT_STREAM.starts_with(&format!("SELECT {STREAM_COLUMNS}\n")));
    }
}
