//! Small records: checkpoints and presence. They are part of the state, values and all.

use crate::store::{Client, Handle};
use crate::tables::Effect;
use evstore_api::{ListRecords, PutRecord, ReadRecord, Record, RecordKey, RecordPut, RecordsPage, Result, Usage};
use evstore_kit::{decide, limits};
use std::ops::Bound;

/// Changes a record.
pub async fn put(handle: &Handle, request: PutRecord) -> Result<RecordPut> {
    let client = &handle.client;
    limits::check_put_record(client.limits(), &request)?;
    let _open = client.enter(request.deadline).await?;
    let bytes = request.value.as_ref().map_or(0, |value| value.len());
    let written = handle.lane.write(bytes, request.deadline, move |draft| {
        let kept = draft.tables().records.get(&request.key);
        let record = decide::put_record(draft.meta(), kept, request.clone(), draft.now())?;
        let number = record.number;
        draft.add(Effect::Record(record))?;
        Ok(number)
    });
    let (number, usage) = written.await?;
    Ok(RecordPut { number, usage })
}

/// Reads a record.
pub async fn read(client: &Client, request: &ReadRecord) -> Result<Option<Record>> {
    let _open = client.enter(request.deadline).await?;
    let mut usage = Usage::default();
    client.look(request.deadline, &mut usage, |tables| Ok(tables.records.get(&request.key).cloned())).await
}

/// Lists the records of a kind that have a value.
pub async fn list(client: &Client, request: &ListRecords) -> Result<RecordsPage> {
    limits::check_page(client.limits(), request.limit)?;
    let _open = client.enter(request.deadline).await?;
    let mut usage = Usage::default();
    let after = request.after.as_ref().map(|name| RecordKey { kind: request.kind, name: name.clone() });
    let (records, next) = client
        .look(request.deadline, &mut usage, |tables| {
            let after = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let records = tables.records.range((after, Bound::Unbounded)).map(|(_, record)| record);
            let mut found = records.filter(|record| record.key.kind == request.kind && record.value.is_some());
            let records: Vec<_> = found.by_ref().take(request.limit as usize).cloned().collect();
            let next = found.next().and_then(|_| records.last()).map(|last| last.key.name.clone());
            Ok((records, next))
        })
        .await?;
    Ok(RecordsPage { records, next, usage })
}
