//! Appending, inside the write transaction: what is read for the decision, and the rows that the decision writes.

use crate::checksum::{self, CommitSum, StreamSum};
use crate::codec::{self, SELECT_RECEIPT, SELECT_STREAM, StreamRow};
use crate::error::Result as Worked;
use crate::writer::Transaction;
use evstore_api::{
    Appended, CommitId, CommitKind, CommitNumber, ContentDigest, Epoch, Head, Position, Revision, StreamId, Timestamp,
    Usage,
};
use evstore_kit::decide::{self, Decision, Situation, Slot, Wanted};
use rusqlite::{Connection, Statement, params};

/// What every call costs: one request, to an engine that lives in this process.
pub const USAGE: Usage = Usage { requests: 1, read_units: 0.0, write_units: 0.0 };

/// Decides an append and writes it. `events` are encoded.
pub fn append(transaction: &mut Transaction<'_>, wanted: &Wanted, events: &[u8]) -> Worked<Appended> {
    let found = stream_by(transaction.statement(Frequent::FindStream)?, &wanted.stream)?;
    let repeat = match &found {
        Some(found) => commit_by(transaction.statement(Frequent::FindCommit)?, found, wanted.commit)?,
        None => None,
    };
    let head = head_of(transaction, found.as_ref());
    match decide::append(&situation(transaction, &head), wanted, repeat)? {
        Decision::Repeated(receipt) => Ok(receipt),
        Decision::Write(slot) => write(transaction, found, wanted, &slot, Some(events)),
    }
}

/// The statements that nearly every append runs: prepared once for a batch, as finding them by their text each time takes a
/// tenth of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frequent {
    /// Finds a stream.
    FindStream,
    /// Finds a commit by its id.
    FindCommit,
    /// Moves a stream's head.
    UpdateStream,
    /// Writes a commit.
    InsertCommit,
}

impl Frequent {
    /// How many there are.
    pub const COUNT: usize = 4;

    /// Its text.
    pub fn text(self) -> &'static str {
        match self {
            Self::FindStream => SELECT_STREAM,
            Self::FindCommit => SELECT_RECEIPT,
            Self::UpdateStream => {
                "UPDATE streams SET revision = ?1, number = ?2, first_retained = ?3, recorded_at = ?4, last_id = ?5,
                last_marker = ?6, last_imported = ?7, checksum = ?8 WHERE key = ?9"
            }
            Self::InsertCommit => {
                "INSERT INTO commits (position, stream, number, revision, count, recorded_at, id, digest, marker,
                imported, grouped, extensions, events_checksum, checksum, events)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)"
            }
        }
    }
}

/// Finds a stream's row.
pub fn find_stream(connection: &Connection, stream: &StreamId) -> Worked<Option<StreamRow>> {
    let mut select = connection.prepare_cached(SELECT_STREAM)?;
    stream_by(&mut select, stream)
}

fn stream_by(select: &mut Statement<'_>, stream: &StreamId) -> Worked<Option<StreamRow>> {
    let mut rows = select.query([stream.namespace.as_str(), stream.name.as_str()])?;
    rows.next()?.map(|row| codec::stream(row, stream)).transpose()
}

/// The receipt of the commit with this id, if there is one.
pub fn find_commit(connection: &Connection, stream: Option<&StreamRow>, commit: CommitId) -> Worked<Option<Appended>> {
    let Some(stream) = stream else { return Ok(None) };
    let mut select = connection.prepare_cached(SELECT_RECEIPT)?;
    commit_by(&mut select, stream, commit)
}

fn commit_by(select: &mut Statement<'_>, stream: &StreamRow, commit: CommitId) -> Worked<Option<Appended>> {
    let mut rows = select.query(params![stream.key, commit.0])?;
    rows.next()?.map(|row| codec::receipt(row, stream, commit, USAGE)).transpose()
}

/// The head of a stream, or of there being none.
pub fn head_of(transaction: &Transaction<'_>, found: Option<&StreamRow>) -> Head {
    found.map_or_else(Head::missing, |found| found.head(transaction.meta(), transaction.own()))
}

/// What a decision hangs on.
pub fn situation<'a>(transaction: &'a Transaction<'_>, head: &'a Head) -> Situation<'a> {
    Situation {
        meta: transaction.meta(),
        own: transaction.own(),
        head,
        last_position: Some(transaction.end()),
        now: transaction.now(),
    }
}

/// Writes this store's own commit or marker into the slot that was decided.
pub fn write(
    transaction: &mut Transaction<'_>,
    found: Option<StreamRow>,
    wanted: &Wanted,
    slot: &Slot,
    events: Option<&[u8]>,
) -> Worked<Appended> {
    let receipt = slot.receipt(wanted, USAGE);
    let after = StreamRow {
        key: found.as_ref().map_or(NO_KEY, |found| found.key),
        named: found.as_ref().map_or_else(|| checksum::of_name(&wanted.stream), |found| found.named),
        revision: receipt.last,
        number: slot.number,
        first_retained: found.map_or(Revision(1), |found| found.first_retained),
        recorded_at: slot.recorded_at,
        last_id: wanted.commit,
        last_kind: wanted.kind.clone(),
        last_imported: None,
    };
    let key = put_stream(transaction, &wanted.stream, &after)?;
    let position = transaction.take_positions(u64::from(wanted.events.max(1)))?;
    assert_eq!(Some(position), slot.position, "the position that was decided is the next one");
    put_commit(
        transaction,
        &CommitRow {
            position,
            stream: key,
            named: after.named,
            number: slot.number,
            revision: slot.first,
            count: wanted.events,
            recorded_at: slot.recorded_at,
            id: wanted.commit,
            digest: wanted.digest,
            kind: &wanted.kind,
            imported: None,
            group: None,
            extensions: None,
            events,
        },
    )?;
    Ok(receipt)
}

/// Key of a stream that has no row yet; SQLite counts from 1.
pub const NO_KEY: i64 = 0;

/// Writes a stream's row, a new one for [`NO_KEY`]; answers its key.
pub fn put_stream(transaction: &mut Transaction<'_>, stream: &StreamId, row: &StreamRow) -> Worked<i64> {
    const INSERT: &str =
        "INSERT INTO streams (revision, number, first_retained, recorded_at, last_id, last_marker, last_imported,
        checksum, namespace, name, category) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    let revision = codec::integer(row.revision.0)?;
    let number = codec::integer(row.number.0)?;
    let first_retained = codec::integer(row.first_retained.0)?;
    let (at, id) = (row.recorded_at.0, row.last_id.0);
    let marker = codec::marker(&row.last_kind);
    let imported = row.last_imported.map(|epoch| codec::integer(epoch.0)).transpose()?;
    let sum = StreamSum {
        named: row.named,
        revision,
        number,
        first_retained,
        recorded_at: at,
        last_id: &id,
        last_marker: marker.as_deref(),
        last_imported: imported,
    };
    let sum = sum.checksum();
    if row.key == NO_KEY {
        let (namespace, name, category) = (stream.namespace.as_str(), stream.name.as_str(), stream.name.category());
        let category = category.as_str();
        let values =
            params![revision, number, first_retained, at, id, marker, imported, sum, namespace, name, category];
        return Ok(transaction.connection.prepare_cached(INSERT)?.insert(values)?);
    }
    let values = params![revision, number, first_retained, at, id, marker, imported, sum, row.key];
    transaction.statement(Frequent::UpdateStream)?.execute(values)?;
    Ok(row.key)
}

/// A commit's row.
#[derive(Debug)]
pub struct CommitRow<'a> {
    /// Position of its first event, or of the marker.
    pub position: Position,
    /// Its stream's key.
    pub stream: i64,
    /// Checksum of its stream's name.
    pub named: u32,
    /// Its slot.
    pub number: CommitNumber,
    /// Revision of its first event.
    pub revision: Revision,
    /// How many events it was appended with.
    pub count: u32,
    /// When it was taken.
    pub recorded_at: Timestamp,
    /// Its identity.
    pub id: CommitId,
    /// Digest of its content.
    pub digest: ContentDigest,
    /// Events or a marker.
    pub kind: &'a CommitKind,
    /// The epoch that copied it.
    pub imported: Option<Epoch>,
    /// Its group.
    pub group: Option<CommitId>,
    /// Its encoded extensions; none where there are none.
    pub extensions: Option<Vec<u8>>,
    /// Its encoded events; none for a marker, and where they were stripped.
    pub events: Option<&'a [u8]>,
}

/// Writes a commit's row.
pub fn put_commit(transaction: &mut Transaction<'_>, row: &CommitRow<'_>) -> Worked<()> {
    let marker = codec::marker(row.kind);
    let sum = CommitSum {
        named: row.named,
        position: codec::integer(row.position.0)?,
        stream: row.stream,
        number: codec::integer(row.number.0)?,
        revision: codec::integer(row.revision.0)?,
        count: i64::from(row.count),
        recorded_at: row.recorded_at.0,
        id: &row.id.0,
        digest: &row.digest.0,
        marker: marker.as_deref(),
        imported: row.imported.map(|epoch| codec::integer(epoch.0)).transpose()?,
        group: row.group.as_ref().map(|group| &group.0[..]),
        extensions: row.extensions.as_deref(),
        events: row.events.and_then(checksum::of_events),
    };
    let kept = sum.checksum();
    let is_stub = row.events.is_none() && !row.kind.is_marker();
    transaction.statement(Frequent::InsertCommit)?.execute(params![
        sum.position,
        sum.stream,
        sum.number,
        sum.revision,
        sum.count,
        sum.recorded_at,
        sum.id,
        sum.digest,
        sum.marker,
        sum.imported,
        sum.group,
        sum.extensions,
        sum.events,
        if is_stub { checksum::of_stripped(kept) } else { kept },
        row.events,
    ])?;
    Ok(())
}
