//! Between rows and the contract's types. Pure: it reads rows that it is given, and runs no statement.

use crate::capabilities::FENCE;
use crate::checksum::{self, CommitSum, RecordSum, SnapshotSum, StreamSum};
use crate::error::{Result as Worked, Stop};
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
    "position, stream, number, revision, count, recorded_at, id, digest, marker, imported, grouped, extensions,
    events_checksum, checksum, events";

/// The same for [`frame`], which does not touch the events: SQLite answers their length from the row's header.
pub const FRAME_COLUMNS: &str =
    "position, stream, number, revision, count, recorded_at, id, digest, marker, imported, grouped, extensions,
    events_checksum, checksum, length(events)";

/// Column of the events in both.
pub const EVENTS: usize = 14;

/// The columns of a stream, in the order in which [`stream`] reads them.
pub const STREAM_COLUMNS: &str =
    "key, revision, number, first_retained, recorded_at, last_id, last_marker, last_imported, checksum";

/// Finds a stream by its name, for [`stream`]. Written out, as every append runs it.
pub const SELECT_STREAM: &str =
    "SELECT key, revision, number, first_retained, recorded_at, last_id, last_marker, last_imported, checksum
    FROM streams WHERE namespace = ?1 AND name = ?2";

/// The columns of a snapshot, in the order in which [`snapshot`] reads them.
pub const SNAPSHOT_COLUMNS: &str =
    "revision, number, id, schema, content_type, taken_at, data_checksum, checksum, data";

/// The columns of a small record, in the order in which [`record`] reads them.
pub const RECORD_COLUMNS: &str = "number, epoch, updated_at, value, checksum";

/// A stream's row: its key, and what stands last in it. What can be done with it also hangs on the store's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRow {
    /// What stands for the stream in the other tables. Never used again for another one.
    pub key: i64,
    /// Checksum of its name, which those of its commits cover.
    pub named: u32,
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
    unsigned(column, row.get(column)?)
}

fn unsigned(column: usize, value: i64) -> rusqlite::Result<u64> {
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

/// Reads a stream's row; its checksum is verified.
pub fn stream(row: &Row<'_>, stream: &StreamId) -> Worked<StreamRow> {
    let found = StreamRow {
        key: row.get(0)?,
        named: checksum::of_name(stream),
        revision: Revision(number(row, 1)?),
        number: CommitNumber(number(row, 2)?),
        first_retained: Revision(number(row, 3)?),
        recorded_at: Timestamp(row.get(4)?),
        last_id: CommitId(row.get(5)?),
        last_kind: kind(row, 6)?,
        last_imported: epoch(row, 7)?,
    };
    let sum = StreamSum {
        named: found.named,
        revision: row.get(1)?,
        number: row.get(2)?,
        first_retained: row.get(3)?,
        recorded_at: row.get(4)?,
        last_id: &found.last_id.0,
        last_marker: bytes(row, 6)?,
        last_imported: row.get(7)?,
    };
    if row.get::<_, i64>(8)? != sum.checksum() {
        return Err(damaged(stream, found.number.0));
    }
    Ok(found)
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

/// Reads a commit of a stream, whole; all its checksums are verified.
pub fn commit(row: &Row<'_>, stream: StreamId) -> Worked<Commit> {
    let mut commit = frame(row, stream)?;
    if let Some(encoded) = blob(row, EVENTS)? {
        add_events(&mut commit, &encoded, row.get(EVENTS_CHECKSUM)?)?;
    }
    Ok(commit)
}

/// Gives a commit the events that its frame tells of by their checksum.
pub fn add_events(commit: &mut Commit, encoded: &Bytes, expected: Option<i64>) -> Worked<()> {
    commit.events = format::decode_events(commit.id, encoded)
        .map_err(|error| error.with("stream", &commit.stream).with("number", commit.number))?;
    if expected != checksum::of_events(encoded) || !commit.is_whole() {
        return Err(damaged(&commit.stream, commit.number.0));
    }
    Ok(())
}

/// Reads a commit of a stream without its events; the checksum of its row is verified.
pub fn frame(row: &Row<'_>, stream: StreamId) -> Worked<Commit> {
    let (id, digest) = (row.get(6)?, row.get(7)?);
    let sum = commit_sum(row, checksum::of_name(&stream), &id, &digest)?;
    let slot = unsigned(2, sum.number)?;
    let kind = match sum.marker {
        None => CommitKind::Events,
        Some(encoded) => format::decode_kind(&Bytes::copy_from_slice(encoded))?,
    };
    let has_events = row.get_ref(EVENTS)? != ValueRef::Null;
    let content = if has_events || kind.is_marker() { Content::Kept } else { Content::Stripped };
    let checksum = sum.checksum();
    let expected = if content == Content::Kept { checksum } else { checksum::of_stripped(checksum) };
    if row.get::<_, i64>(CHECKSUM)? != expected || (has_events && kind.is_marker()) {
        return Err(damaged(&stream, slot));
    }
    let group = sum.group.map(|group| group.try_into().map(CommitId)).transpose();
    Ok(Commit {
        stream,
        id: CommitId(id),
        number: CommitNumber(slot),
        content,
        kind,
        first_revision: Revision(unsigned(3, sum.revision)?),
        count: u32::try_from(sum.count).map_err(|_| corrupt("a commit's count is out of bounds"))?,
        first_position: Some(Position(unsigned(0, sum.position)?)),
        recorded_at: Timestamp(sum.recorded_at),
        digest: ContentDigest(digest),
        imported: sum.imported.map(|epoch| unsigned(9, epoch).map(Epoch)).transpose()?,
        group: group.map_err(|_| corrupt("a commit's group is not an id"))?,
        extensions: match sum.extensions {
            Some(encoded) => format::decode_extensions(&Bytes::copy_from_slice(encoded))?,
            None => Vec::new(),
        },
        events: Vec::new(),
    })
}

/// Column of the checksum of a commit's events.
pub const EVENTS_CHECKSUM: usize = 12;
/// Column of a commit's own checksum.
const CHECKSUM: usize = 13;

/// The columns of a commit that its checksum covers, read once for both.
fn commit_sum<'a>(row: &'a Row<'_>, named: u32, id: &'a [u8; 16], digest: &'a [u8; 16]) -> Worked<CommitSum<'a>> {
    Ok(CommitSum {
        named,
        position: row.get(0)?,
        stream: row.get(1)?,
        number: row.get(2)?,
        revision: row.get(3)?,
        count: row.get(4)?,
        recorded_at: row.get(5)?,
        id,
        digest,
        marker: bytes(row, 8)?,
        imported: row.get(9)?,
        group: bytes(row, 10)?,
        extensions: bytes(row, 11)?,
        events: row.get(EVENTS_CHECKSUM)?,
    })
}

/// Finds a commit of a stream by its id, for [`receipt`]. It does not touch the events.
pub const SELECT_RECEIPT: &str =
    "SELECT position, stream, number, revision, count, recorded_at, id, digest, marker, imported, grouped, extensions,
    events_checksum, checksum FROM commits WHERE stream = ?1 AND id = ?2";

/// Reads the receipt of a commit that was written before; the checksum of its row is verified.
pub fn receipt(row: &Row<'_>, stream: &StreamRow, commit: CommitId, usage: Usage) -> Worked<Appended> {
    let (id, digest) = (row.get(6)?, row.get(7)?);
    let sum = commit_sum(row, stream.named, &id, &digest)?;
    let (expected, found) = (sum.checksum(), row.get::<_, i64>(CHECKSUM)?);
    if found != expected && found != checksum::of_stripped(expected) {
        return Err(corrupt(DAMAGED).with("commit", commit).into());
    }
    let first = unsigned(3, sum.revision)?;
    Ok(Appended {
        commit,
        number: CommitNumber(unsigned(2, sum.number)?),
        first: Revision(first),
        last: Revision((first + unsigned(4, sum.count)?).saturating_sub(1)),
        position: Some(Position(unsigned(0, sum.position)?)),
        recorded_at: Timestamp(sum.recorded_at),
        digest: ContentDigest(digest),
        repeated: true,
        usage,
    })
}

fn bytes<'a>(row: &'a Row<'_>, column: usize) -> Worked<Option<&'a [u8]>> {
    Ok(row.get_ref(column)?.as_blob_or_null().map_err(rusqlite::Error::from)?)
}

fn blob(row: &Row<'_>, column: usize) -> Worked<Option<Bytes>> {
    Ok(bytes(row, column)?.map(Bytes::copy_from_slice))
}

/// Reads a snapshot; its checksums are verified.
pub fn snapshot(row: &Row<'_>, stream: StreamId) -> Worked<Snapshot> {
    let (revision, number) = snapshot_place(row, &stream)?;
    let data = row.get::<_, Vec<u8>>(8)?;
    if row.get::<_, i64>(6)? != checksum::of(&data) {
        return Err(damaged(&stream, number.0));
    }
    Ok(Snapshot {
        stream,
        revision,
        number,
        commit: CommitId(row.get(2)?),
        schema: u32::try_from(self::number(row, 3)?).map_err(|_| corrupt("a schema number is out of bounds"))?,
        content_type: valid(ContentType::new(row.get::<_, String>(4)?))?,
        data: data.into(),
        taken_at: Timestamp(row.get(5)?),
    })
}

/// Reads what a snapshot is of, without its data; the checksum of its row is verified.
pub fn snapshot_place(row: &Row<'_>, stream: &StreamId) -> Worked<(Revision, CommitNumber)> {
    let (revision, number) = (number(row, 0)?, number(row, 1)?);
    let content_type: String = row.get(4)?;
    let sum = SnapshotSum {
        named: checksum::of_name(stream),
        revision: row.get(0)?,
        number: row.get(1)?,
        id: &row.get(2)?,
        schema: row.get(3)?,
        content_type: &content_type,
        taken_at: row.get(5)?,
        data: row.get(6)?,
    };
    if row.get::<_, i64>(7)? != sum.checksum() {
        return Err(damaged(stream, number));
    }
    Ok((Revision(revision), CommitNumber(number)))
}

/// Reads a small record; its checksum is verified.
pub fn record(row: &Row<'_>, key: RecordKey) -> Worked<Record> {
    let value = blob(row, 3)?;
    let sum = RecordSum {
        kind: key.kind.name(),
        name: key.name.as_str(),
        number: row.get(0)?,
        epoch: row.get(1)?,
        updated_at: row.get(2)?,
        value: value.as_deref(),
    };
    if row.get::<_, i64>(4)? != sum.checksum() {
        return Err(corrupt(DAMAGED).with("record", &key.name).into());
    }
    Ok(Record {
        key,
        number: RecordNumber(number(row, 0)?),
        epoch: Epoch(number(row, 1)?),
        value,
        updated_at: Timestamp(row.get(2)?),
    })
}

const DAMAGED: &str = "a stored row fails its checksum";

fn damaged(stream: &StreamId, number: u64) -> Stop {
    corrupt(DAMAGED).with("stream", stream).with("number", number).into()
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
