//! Small records: checkpoints and presence.

use crate::store::Client;
use evstore_api::{ListRecords, PutRecord, ReadRecord, Record, RecordKey, RecordPut, RecordsPage, Result, Usage};
use evstore_kit::{decide, limits};
use std::ops::Bound;

/// Changes a record.
pub fn put(client: &Client, request: PutRecord) -> Result<RecordPut> {
    limits::check_put_record(client.limits(), &request)?;
    let mut tables = client.enter(request.deadline)?;
    let record = decide::put_record(&tables.meta, tables.records.get(&request.key), request, client.now())?;
    let number = record.number;
    tables.records.insert(record.key.clone(), record);
    Ok(RecordPut { number, usage: Usage::default() })
}

/// Reads a record.
pub fn read(client: &Client, request: &ReadRecord) -> Result<Option<Record>> {
    Ok(client.enter(request.deadline)?.records.get(&request.key).cloned())
}

/// Lists the records of a kind that have a value.
pub fn list(client: &Client, request: &ListRecords) -> Result<RecordsPage> {
    limits::check_page(client.limits(), request.limit)?;
    let tables = client.enter(request.deadline)?;
    let after = request.after.as_ref().map(|name| RecordKey { kind: request.kind, name: name.clone() });
    let after = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let records = tables.records.range((after, Bound::Unbounded)).map(|(_, record)| record);
    let mut found = records.filter(|record| record.key.kind == request.kind && record.value.is_some());
    let records: Vec<_> = found.by_ref().take(request.limit as usize).cloned().collect();
    let next = found.next().and_then(|_| records.last()).map(|last| last.key.name.clone());
    Ok(RecordsPage { records, next, usage: Usage::default() })
}
