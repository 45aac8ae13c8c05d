//! Small records: checkpoints and presence. A checkpoint is written in one transaction with a look at the store's record, so that
//! none is acknowledged behind a fence.

use crate::codec::{self, corrupt};
use crate::lane::jittered;
use crate::link::sleep;
use crate::link::{Condition, Order, Range, Transacted, Write, Written};
use crate::schema;
use crate::store::Client;
use crate::tables::{
    COUNT, Item, META, NAME, Table, VALUE, bytes, bytes_of, named, number, records, text, text_of, with,
};
use evstore_api::{
    Error, ErrorKind, ListRecords, PutRecord, ReadRecord, Record, RecordKey, RecordKind, RecordName, RecordPut,
    RecordsPage, Result, Usage,
};
use evstore_kit::{decide, limits};
use std::time::Duration;

/// Tries of one change: each but the first met another writer.
const TRIES_MAX: u32 = 64;
/// Pause after the service said that others write the same items; a part of it is chance.
const CONTENDED_PAUSE: Duration = Duration::from_millis(20);

/// Changes a record.
pub async fn put(client: &Client, request: &PutRecord) -> Result<RecordPut> {
    limits::check_put_record(client.limits(), request)?;
    let _open = client.enter(request.deadline).await?;
    let (key, deadline) = (&request.key, request.deadline);
    let mut usage = Usage::default();
    for _ in 0..TRIES_MAX {
        let meta = schema::read_meta(client, deadline, &mut usage).await?;
        let found = client.link().get(Table::Names, place(key), deadline, &mut usage).await?;
        let kept = found.as_ref().map(|item| decode(item, key.clone())).transpose()?;
        let record = decide::put_record(&meta.meta, kept.as_ref(), request.clone(), client.now())?;
        let condition = match &kept {
            Some(kept) => Condition::counted(kept.number.0),
            None => Condition::absent(),
        };
        let item = item(&record);
        let written = match key.kind {
            RecordKind::Presence => match client.link().put(Table::Names, item, condition, deadline, &mut usage).await?
            {
                Written::Done => Transacted::Done,
                Written::Refused(_) => Transacted::Refused(Vec::new()),
                Written::Contended => Transacted::Contended,
            },
            RecordKind::Checkpoint => {
                let fence = Write::check(Table::Names, named(META, META), Condition::counted(meta.token));
                let change = Write::put(Table::Names, item, Some(condition));
                client.link().transact(vec![fence, change], deadline, &mut usage).await?
            }
        };
        match written {
            Transacted::Done => return Ok(RecordPut { number: record.number, usage }),
            Transacted::Refused(_) => {}
            Transacted::Contended => sleep(jittered(CONTENDED_PAUSE), deadline).await?,
        }
    }
    Err(Error::new(ErrorKind::Throttled, "too many write this record at once").with("record", &key.name))
}

/// A record as it is put.
pub fn item(record: &Record) -> Item {
    let item = with(place(&record.key), COUNT, number(record.number.0));
    with(item, VALUE, bytes(codec::encode_record(record)))
}

/// Where a record stands.
pub fn place(key: &RecordKey) -> Item {
    named(records(key.kind), key.name.as_str())
}

/// Reads a record.
pub async fn read(client: &Client, request: &ReadRecord) -> Result<Option<Record>> {
    let _open = client.enter(request.deadline).await?;
    let mut usage = Usage::default();
    let found = client.link().get(Table::Names, place(&request.key), request.deadline, &mut usage).await?;
    found.map(|item| decode(&item, request.key.clone())).transpose()
}

/// Lists the records of a kind that have a value.
pub async fn list(client: &Client, request: &ListRecords) -> Result<RecordsPage> {
    limits::check_page(client.limits(), request.limit)?;
    let _open = client.enter(request.deadline).await?;
    let wanted = request.limit as usize + 1;
    let range = Range {
        table: Table::Names,
        key: records(request.kind).to_owned(),
        from: request.after.as_ref().map(|after| text(after.as_str())),
        to: None,
        order: Order::Rising,
        only: None,
    };
    let mut records: Vec<Record> = Vec::new();
    let mut usage = Usage::default();
    let mut start = None;
    loop {
        // The one that the page begins after comes too.
        let missing = (wanted - records.len() + 1) as u32;
        let part = client.link().query(&range, start, missing, request.deadline, &mut usage).await?;
        for item in &part.items {
            let wrong = || corrupt("the list of records holds something else");
            let name = text_of(item, NAME).ok_or_else(wrong)?;
            let name = RecordName::new(name).map_err(|_| wrong())?;
            if request.after.as_ref().is_some_and(|after| *after == name) {
                continue;
            }
            let record = decode(item, RecordKey { kind: request.kind, name })?;
            records.extend(Some(record).filter(|record| record.value.is_some()));
        }
        start = part.next;
        if start.is_none() || records.len() >= wanted {
            break;
        }
    }
    let more = records.len() >= wanted;
    records.truncate(request.limit as usize);
    let next = records.last().filter(|_| more).map(|last| last.key.name.clone());
    Ok(RecordsPage { records, next, usage })
}

/// The record of an item.
///
/// # Errors
/// `Corrupt`, `Schema`.
pub fn decode(item: &Item, key: RecordKey) -> Result<Record> {
    let stored = bytes_of(item, VALUE).ok_or_else(|| corrupt("a small record is not one").with("record", &key.name))?;
    codec::decode_record(&stored, key)
}
