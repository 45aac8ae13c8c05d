//! From rows to the contract's types. Pure: it reads rows that it is given, and runs no statement.

use crate::capabilities::FENCE;
use crate::error::{Result as Worked, corrupt};
use bytes::Bytes;
use evstore_api::{
    Appended, Commit, CommitId, CommitKind, CommitNumber, Content, ContentDigest, ContentType, Epoch, Head, Meta,
    Namespace, Position, Record, RecordKey, RecordNumber, Result, Revision, Snapshot, StoreName, StreamId, StreamName,
    Timestamp, Usage, format,
};
use evstore_kit::state;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgRow, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Row, Type};

/// What a call of one statement costs.
pub const ONE_REQUEST: Usage = Usage { requests: 1, read_units: 0.0, write_units: 0.0 };

/// Oids of `uuid` and `uuid[]`, fixed in `pg_type.dat` of every release.
const UUID: Oid = Oid(2950);
const UUID_ARRAY: Oid = Oid(2951);

/// Sixteen bytes as Postgres keeps them: in a `uuid`, which is half as long as a `bytea` and aligns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(pub [u8; 16]);

impl Type<Postgres> for Id {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(UUID)
    }

    fn compatible(found: &PgTypeInfo) -> bool {
        found.oid() == Some(UUID)
    }
}

impl PgHasArrayType for Id {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(UUID_ARRAY)
    }
}

impl Encode<'_, Postgres> for Id {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }
}

impl<'r> Decode<'r, Postgres> for Id {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(Self(value.as_bytes()?.try_into()?))
    }
}

/// A number of the contract as Postgres keeps it: below 2⁵³, so it always fits.
pub fn integer(number: u64) -> i64 {
    i64::try_from(number).expect("numbers of the contract are below 2^53")
}

/// A value in a column of a type that the statement fixes.
pub fn get<'r, T: Decode<'r, Postgres>>(row: &'r PgRow, column: usize) -> Worked<T> {
    // Unchecked, because our statements name the types: a check compares descriptions for every value.
    Ok(row.try_get_unchecked(column)?)
}

/// The number in a column.
pub fn number(row: &PgRow, column: usize) -> Worked<u64> {
    let value: i64 = get(row, column)?;
    u64::try_from(value).map_err(|_| corrupt("a stored number is negative").into())
}

fn number_if_any(row: &PgRow, column: usize) -> Worked<Option<u64>> {
    let value: Option<i64> = get(row, column)?;
    value.map(|value| u64::try_from(value).map_err(|_| corrupt("a stored number is negative").into())).transpose()
}

fn blob(row: &PgRow, column: usize) -> Worked<Option<Bytes>> {
    let found: Option<&[u8]> = get(row, column)?;
    Ok(found.map(Bytes::copy_from_slice))
}

/// The store's record in a column; one that a newer release made unwritable for this one is refused.
pub fn meta(row: &PgRow, column: usize) -> Worked<Meta> {
    let meta = any_meta(row, column)?;
    meta.format.check_read()?;
    Ok(meta)
}

/// The store's record in a column, whichever release may write the store.
pub fn any_meta(row: &PgRow, column: usize) -> Worked<Meta> {
    let encoded = blob(row, column)?.ok_or_else(|| corrupt("the store's record is missing"))?;
    Ok(format::decode_meta(&encoded)?)
}

/// What stands last in a stream. What can be done with it also hangs on the store's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    /// What stands for the stream in the other tables.
    pub key: i64,
    /// Revision of the first event that is still there.
    pub first_retained: Revision,
    /// Revision of its last event.
    pub revision: Revision,
    /// Its last slot.
    pub number: CommitNumber,
    /// When its last commit was taken.
    pub recorded_at: Timestamp,
    /// Id of its last commit.
    pub id: CommitId,
    /// Kind of its last commit.
    pub kind: CommitKind,
    /// The epoch that copied its last commit here.
    pub imported: Option<Epoch>,
}

impl Last {
    /// The head of the stream, under this record of the store with this name.
    pub fn head(&self, meta: &Meta, own: &StoreName) -> Head {
        Head {
            revision: self.revision,
            number: self.number,
            first_retained: self.first_retained,
            commit: Some(self.id),
            recorded_at: Some(self.recorded_at),
            state: state::of_stream(&self.kind, self.imported, meta, FENCE, own),
        }
    }
}

/// The head of a stream, or of there being none.
pub fn head_of(last: Option<&Last>, meta: &Meta, own: &StoreName) -> Head {
    last.map_or_else(Head::missing, |last| last.head(meta, own))
}

/// Reads the columns key, first retained, revision, number, time, id, marker, imported, from this one on; none for no stream.
pub fn last(row: &PgRow, at: usize) -> Worked<Option<Last>> {
    let Some(key) = get::<Option<i64>>(row, at)? else { return Ok(None) };
    Ok(Some(Last {
        key,
        first_retained: Revision(number(row, at + 1)?),
        revision: Revision(number(row, at + 2)?),
        number: CommitNumber(number(row, at + 3)?),
        recorded_at: Timestamp(get(row, at + 4)?),
        id: CommitId(get::<Id>(row, at + 5)?.0),
        kind: kind(row, at + 6)?,
        imported: number_if_any(row, at + 7)?.map(Epoch),
    }))
}

/// Reads the head of a stream's page: it stands in the columns of a commit, first retained in that of the position.
pub fn last_of_page(row: &PgRow) -> Worked<Option<Last>> {
    let Some(slot) = number_if_any(row, 1)? else { return Ok(None) };
    Ok(Some(Last {
        key: 0,
        first_retained: Revision(number(row, POSITION)?),
        revision: Revision(number(row, 0)?),
        number: CommitNumber(slot),
        recorded_at: Timestamp(get(row, 3)?),
        id: CommitId(get::<Id>(row, 4)?.0),
        kind: kind(row, 6)?,
        imported: number_if_any(row, 7)?.map(Epoch),
    }))
}

/// Reads what the append function says of a head: first retained, number, revision, time, id, marker, imported.
pub fn last_of_answer(row: &PgRow, at: usize) -> Worked<Option<Last>> {
    let Some(slot) = number_if_any(row, at + 1)? else { return Ok(None) };
    Ok(Some(Last {
        key: 0,
        first_retained: Revision(number(row, at)?),
        revision: Revision(number(row, at + 2)?),
        number: CommitNumber(slot),
        recorded_at: Timestamp(get(row, at + 3)?),
        id: CommitId(get::<Id>(row, at + 4)?.0),
        kind: kind(row, at + 5)?,
        imported: number_if_any(row, at + 6)?.map(Epoch),
    }))
}

fn kind(row: &PgRow, column: usize) -> Worked<CommitKind> {
    match blob(row, column)? {
        None => Ok(CommitKind::Events),
        Some(encoded) => Ok(format::decode_kind(&encoded)?),
    }
}

/// A kind as its columns keep it: a number for the append function, and what the marker says.
pub fn kind_columns(kind: &CommitKind) -> (i16, Option<Vec<u8>>) {
    let number = match kind {
        CommitKind::Events => 0,
        CommitKind::Truncated { .. } => 1,
        CommitKind::Deleted => 2,
        CommitKind::MovedOut { .. } => 3,
        CommitKind::MovedIn { .. } => 4,
    };
    (number, kind.is_marker().then(|| format::encode_kind(kind)))
}

/// Column of a commit's events, counted from its first.
pub const EVENTS: usize = 10;
/// Column of a commit's position, counted from its first.
pub const POSITION: usize = 11;

/// Reads a commit of a stream, whole; the checksum of its events is verified.
pub fn commit(row: &PgRow, at: usize, stream: StreamId) -> Worked<Commit> {
    let mut commit = frame(row, at, stream)?;
    if let Some(encoded) = blob(row, at + EVENTS)? {
        commit.events = format::decode_events(commit.id, &encoded)?;
        if !commit.is_whole() {
            return Err(corrupt("a commit's events are not as many as its row says").with("commit", commit.id).into());
        }
    }
    Ok(commit)
}

/// Reads a commit of a stream without its events.
pub fn frame(row: &PgRow, at: usize, stream: StreamId) -> Worked<Commit> {
    let kind = kind(row, at + 6)?;
    let has_events = get::<Option<&[u8]>>(row, at + EVENTS)?.is_some();
    let count = number(row, at + 2)?;
    Ok(Commit {
        stream,
        id: CommitId(get::<Id>(row, at + 4)?.0),
        number: CommitNumber(number(row, at + 1)?),
        content: if has_events || kind.is_marker() { Content::Kept } else { Content::Stripped },
        kind,
        first_revision: Revision(number(row, at)?),
        count: u32::try_from(count).map_err(|_| corrupt("a commit's count is out of bounds"))?,
        first_position: number_if_any(row, at + POSITION)?.map(Position),
        recorded_at: Timestamp(get(row, at + 3)?),
        digest: ContentDigest(get::<Id>(row, at + 5)?.0),
        imported: number_if_any(row, at + 7)?.map(Epoch),
        group: get::<Option<Id>>(row, at + 8)?.map(|id| CommitId(id.0)),
        extensions: match blob(row, at + 9)? {
            Some(encoded) => format::decode_extensions(&encoded)?,
            None => Vec::new(),
        },
        events: Vec::new(),
    })
}

/// The identity of a stream in two columns.
pub fn stream_id(row: &PgRow, at: usize) -> Worked<StreamId> {
    let name = |cause: evstore_api::Error| corrupt("a stored name is not valid").caused_by(cause);
    Ok(StreamId {
        namespace: Namespace::new(get::<&str>(row, at)?).map_err(name)?,
        name: StreamName::new(get::<&str>(row, at + 1)?).map_err(name)?,
    })
}

/// Reads the receipt of a commit that was written before: number, revision, count, time, digest, position.
pub fn receipt(row: &PgRow, at: [usize; 6], commit: CommitId) -> Worked<Option<Appended>> {
    let Some(slot) = number_if_any(row, at[0])? else { return Ok(None) };
    let first = number(row, at[1])?;
    let count = number(row, at[2])?;
    Ok(Some(Appended {
        commit,
        number: CommitNumber(slot),
        first: Revision(first),
        last: Revision((first + count).saturating_sub(1)),
        position: number_if_any(row, at[5])?.map(Position),
        recorded_at: Timestamp(get(row, at[3])?),
        digest: ContentDigest(get::<Id>(row, at[4])?.0),
        repeated: true,
        usage: ONE_REQUEST,
    }))
}

/// Reads a snapshot; its checksum is verified.
pub fn snapshot(row: &PgRow, stream: StreamId) -> Worked<Snapshot> {
    let data: &[u8] = get(row, 7)?;
    verify(data, get(row, 4)?)?;
    let content_type = ContentType::new(get::<&str>(row, 6)?);
    Ok(Snapshot {
        stream,
        revision: Revision(number(row, 0)?),
        number: CommitNumber(number(row, 1)?),
        commit: CommitId(get::<Id>(row, 5)?.0),
        schema: u32::try_from(number(row, 3)?).map_err(|_| corrupt("a schema number is out of bounds"))?,
        content_type: content_type.map_err(|cause| corrupt("a stored name is not valid").caused_by(cause))?,
        data: Bytes::copy_from_slice(data),
        taken_at: Timestamp(get(row, 2)?),
    })
}

/// Reads a small record; its checksum is verified.
pub fn record(row: &PgRow, key: RecordKey) -> Worked<Record> {
    let value = blob(row, 4)?;
    verify(value.as_deref().unwrap_or_default(), get(row, 3)?)?;
    Ok(Record {
        key,
        number: RecordNumber(number(row, 0)?),
        epoch: Epoch(number(row, 1)?),
        value,
        updated_at: Timestamp(get(row, 2)?),
    })
}

/// The checksum that is kept beside bytes that have none of their own.
pub fn checksum(bytes: &[u8]) -> i64 {
    i64::from(crc32fast::hash(bytes))
}

fn verify(bytes: &[u8], stored: i64) -> Worked<()> {
    if checksum(bytes) == stored { Ok(()) } else { Err(corrupt("stored bytes fail their checksum").into()) }
}

/// What stands for a stream among advisory locks. Streams that share one only wait for each other.
pub fn lock_of(schema: &str, stream: &StreamId) -> i64 {
    let mut hasher = blake3::Hasher::new();
    for part in ["evstore stream lock v1", schema, stream.namespace.as_str(), stream.name.as_str()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    i64::from_le_bytes(bytes)
}
