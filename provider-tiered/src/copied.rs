//! Up to where the archive knows what copies have taken away, while a tiered store is filled: a small record in the store in front. A copy
//! is written there first. Whoever made it may be killed before the archive is told, and whoever goes on begins behind it.

use evstore_api::{
    Deadline, Error, ErrorKind, EventStore, Position, PutRecord, ReadRecord, RecordExpected, RecordKey, RecordKind,
    RecordName, RecordNumber, Result,
};

/// The record's name.
pub const NAME: &str = "evstore-archive-copied";

/// Whether a record is this one.
pub fn is(key: &RecordKey) -> bool {
    key.kind == RecordKind::Presence && key.name.as_str() == NAME
}

fn key() -> Result<RecordKey> {
    Ok(RecordKey { kind: RecordKind::Presence, name: RecordName::new(NAME)? })
}

/// The place, and the number of the record that says so; none where nothing was copied since the store was opened.
///
/// # Errors
/// As reading a record; `Corrupt` for one that says nothing.
pub async fn read(hot: &dyn EventStore, deadline: Deadline) -> Result<Option<(Position, RecordNumber)>> {
    let Some(record) = hot.read_record(ReadRecord { key: key()?, deadline }).await? else { return Ok(None) };
    let Some(value) = record.value else { return Ok(None) };
    let place = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
    let place = place.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the note about copies can't be understood"))?;
    Ok(Some((Position(place), record.number)))
}

/// The place; begun where nothing was copied yet, at the end of the store in front.
///
/// # Errors
/// As the store in front.
pub async fn begun(hot: &dyn EventStore, deadline: Deadline) -> Result<(Position, RecordNumber)> {
    if let Some(found) = read(hot, deadline).await? {
        return Ok(found);
    }
    let end = hot.feed_head(deadline).await?.position.unwrap_or_default();
    // Whoever is faster looked no later.
    put(hot, RecordExpected::Absent, Some(end), deadline).await?;
    let found = read(hot, deadline).await?;
    found.ok_or_else(|| Error::new(ErrorKind::Unavailable, "the note about copies was removed beside this copy"))
}

/// Notes another place, unless another copier has.
///
/// # Errors
/// As changing a record.
pub async fn raise(hot: &dyn EventStore, from: RecordNumber, to: Position, deadline: Deadline) -> Result<()> {
    put(hot, RecordExpected::At(from), Some(to), deadline).await
}

/// Forgets it, once the store is open.
///
/// # Errors
/// As changing a record.
pub async fn end(hot: &dyn EventStore, deadline: Deadline) -> Result<()> {
    put(hot, RecordExpected::Any, None, deadline).await
}

async fn put(hot: &dyn EventStore, expected: RecordExpected, to: Option<Position>, deadline: Deadline) -> Result<()> {
    let value = to.map(|to| to.to_string().into());
    match hot.put_record(PutRecord { key: key()?, expected, value, deadline }).await {
        // Another copier: what it noted is as good. A place that is too low only costs a look at what is known.
        Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Indeterminate) => Ok(()),
        put => put.map(drop),
    }
}
