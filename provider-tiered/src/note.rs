//! The note in the hot store: which archive belongs to it, which catalog is the last, and up to where events may be missing from it.
//! It is a small record of the kind that is never carried along; changing it is the moment from which readers go to the archive.

use evstore_api::{
    Deadline, Error, ErrorKind, EventStore, PutRecord, ReadRecord, RecordExpected, RecordKey, RecordKind, RecordName,
    RecordNumber, Result,
};
use serde::{Deserialize, Serialize};

/// The record's name.
pub const NAME: &str = "evstore-archive";
/// Tries of one change: each but the first met another's.
const TRIES_MAX: u32 = 16;

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Identity of the archive.
    pub archive: String,
    /// A catalog that is there; the last one, or nearly.
    pub catalog: u64,
    /// The last position that the archive holds.
    pub through: u64,
    /// Everything that catalogs up to this one have is released from the hot store.
    pub released: u64,
}

/// Whether a record is this one.
pub fn is(key: &RecordKey) -> bool {
    key.kind == RecordKind::Presence && key.name.as_str() == NAME
}

fn key() -> Result<RecordKey> {
    Ok(RecordKey { kind: RecordKind::Presence, name: RecordName::new(NAME)? })
}

/// Reads it; none before the first segment.
///
/// # Errors
/// As reading a record; `Corrupt` for one that says nothing.
pub async fn read(hot: &dyn EventStore, deadline: Deadline) -> Result<Option<Note>> {
    Ok(found(hot, deadline).await?.map(|(note, _)| note))
}

async fn found(hot: &dyn EventStore, deadline: Deadline) -> Result<Option<(Note, RecordNumber)>> {
    let Some(record) = hot.read_record(ReadRecord { key: key()?, deadline }).await? else { return Ok(None) };
    let Some(value) = record.value else { return Ok(None) };
    match serde_json::from_slice(&value) {
        Ok(note) => Ok(Some((note, record.number))),
        Err(cause) => {
            Err(Error::new(ErrorKind::Corrupt, "the note about the archive can't be understood").caused_by(cause))
        }
    }
}

/// Raises it to at least this.
///
/// # Errors
/// `Conflict` where it is of another archive; as changing a record.
pub async fn raise(hot: &dyn EventStore, note: &Note, deadline: Deadline) -> Result<Note> {
    for _ in 0..TRIES_MAX {
        let found = found(hot, deadline).await?;
        let (expected, new) = match &found {
            None => (RecordExpected::Absent, note.clone()),
            Some((old, _)) if old.archive != note.archive => return Err(other(&old.archive, &note.archive)),
            Some((old, number)) => {
                let new = Note {
                    archive: note.archive.clone(),
                    catalog: old.catalog.max(note.catalog),
                    through: old.through.max(note.through),
                    released: old.released.max(note.released),
                };
                if new == *old {
                    return Ok(new);
                }
                (RecordExpected::At(*number), new)
            }
        };
        let value = serde_json::to_vec(&new).unwrap_or_default().into();
        match hot.put_record(PutRecord { key: key()?, expected, value: Some(value), deadline }).await {
            Ok(_) => return Ok(new),
            // Another archiver, or this very change whose answer was lost: what is there says which.
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Indeterminate) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "the note about the archive changes all the time"))
}

/// The archive is not the one that the hot store knows.
pub fn other(noted: &str, found: &str) -> Error {
    Error::new(ErrorKind::Schema, "the archive is another than the one that the hot store has its events in")
        .with("noted", noted)
        .with("found", found)
}
