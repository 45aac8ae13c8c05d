//! Small records that stand in the stores of a move beside its two records, and decide nothing: up to where a copy was compared, whether it
//! is paused, how long pauses were, who the owner is. Each may be missing or old, and is of one store: none is carried.

use crate::deadline;
use crate::side::Side;
use bytes::Bytes;
use evstore_api::{
    ErrorKind, Meta, Position, PutRecord, ReadRecord, RecordExpected, RecordKey, RecordKind, RecordName, Result,
    StoreName,
};
use serde_json::{Value, json};
use std::time::Duration;

/// Up to where the store that holds it was compared.
const COMPARED: &str = "evstore-migrate";
/// Whether the copy is paused; in the source.
const PAUSED: &str = "evstore-migrate-paused";
/// How long no store took appends, each time that the store that holds it took over or was closed for a rehearsal.
const PAUSES: &str = "evstore-migrate-pauses";
/// The name of the store that took over from the one that holds it, for nodes that may only read. The layer that follows moves reads it.
const OWNER: &str = "evstore-owner";
/// Names the archive that has events of the store which holds it. The tiered store keeps it.
const ARCHIVE: &str = "evstore-archive";
/// Pauses that are remembered.
const PAUSES_MAX: usize = 100;

async fn read_bytes(side: &Side, name: &str) -> Result<Option<Bytes>> {
    let key = RecordKey { kind: RecordKind::Presence, name: RecordName::new(name)? };
    let record = side.store.read_record(ReadRecord { key, deadline: deadline() }).await;
    Ok(record.map_err(|error| side.named(error))?.and_then(|record| record.value))
}

/// Whether events of a store are in an archive: they are not in it any more, and a copy of it would lack them.
pub(crate) async fn is_archived(side: &Side) -> Result<bool> {
    Ok(read_bytes(side, ARCHIVE).await?.is_some())
}

async fn read(side: &Side, name: &str) -> Result<Value> {
    let value = read_bytes(side, name).await?;
    Ok(value.and_then(|value| serde_json::from_slice(&value).ok()).unwrap_or_default())
}

async fn write(side: &Side, name: &str, value: &Value) -> Result<()> {
    write_bytes(side, name, Some(value.to_string().into())).await
}

async fn write_bytes(side: &Side, name: &str, value: Option<Bytes>) -> Result<()> {
    let key = RecordKey { kind: RecordKind::Presence, name: RecordName::new(name)? };
    let request = PutRecord { key, expected: RecordExpected::Any, value, deadline: deadline() };
    match side.store.put_record(request).await {
        // What another migrator says is as good, and what is too old only costs work.
        Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Indeterminate) => Ok(()),
        put => put.map(drop).map_err(|error| side.named(error)),
    }
}

/// Up to where a store was compared since it has the histories that it has. With each that it begins or takes over it may have lost what
/// was compared, and have got something else: then it is compared from its beginning.
pub(crate) async fn compared(side: &Side, filled: &Meta) -> Result<Position> {
    let note = read(side, COMPARED).await?;
    let holds = note["histories"].as_u64() == Some(filled.lineage.len() as u64);
    Ok(Position(note["compared"].as_u64().filter(|_| holds).unwrap_or_default()))
}

/// `filled` is the record as it was before anything was compared.
pub(crate) async fn set_compared(side: &Side, filled: &Meta, compared: Position) -> Result<()> {
    write(side, COMPARED, &json!({ "compared": compared.0, "histories": filled.lineage.len() })).await
}

pub(crate) async fn is_paused(source: &Side) -> Result<bool> {
    Ok(read(source, PAUSED).await?["paused"] == true)
}

pub(crate) async fn set_paused(source: &Side, paused: bool) -> Result<()> {
    write(source, PAUSED, &json!({ "paused": paused })).await
}

pub(crate) async fn pauses(side: &Side) -> Result<Vec<Duration>> {
    let value = read(side, PAUSES).await?;
    let times = value["pauses_ms"].as_array().into_iter().flatten().filter_map(Value::as_u64);
    Ok(times.map(Duration::from_millis).collect())
}

/// Remembers one more; what is lost of it by a race is a number in a report.
pub(crate) async fn add_pause(side: &Side, pause: Duration) -> Result<()> {
    let mut all = pauses(side).await?;
    all.push(pause);
    let kept = &all[all.len().saturating_sub(PAUSES_MAX)..];
    let times: Vec<_> = kept.iter().map(|pause| pause.as_millis() as u64).collect();
    write(side, PAUSES, &json!({ "pauses_ms": times })).await
}

/// Tells in a store who took over from it, or that it is the owner.
pub(crate) async fn set_owner(side: &Side, owner: Option<&StoreName>) -> Result<()> {
    let value = owner.map(|owner| Bytes::from(owner.as_str().to_owned()));
    if read_bytes(side, OWNER).await? == value { Ok(()) } else { write_bytes(side, OWNER, value).await }
}
