//! Small records: checkpoints and presence. They are decided here and written by a script that takes nothing for granted.

use crate::codec;
use crate::error::{Purpose, corrupt};
use crate::link::Step;
use crate::schema::command;
use crate::script;
use crate::store::{Client, array, bytes_of};
use bytes::Bytes;
use evstore_api::{
    Error, ErrorKind, ListRecords, PutRecord, ReadRecord, Record, RecordKey, RecordName, RecordPut, RecordsPage,
    Result, Usage,
};
use evstore_kit::{decide, limits};
use redis::Value;

/// Tries of one change: each but the first met another writer of the same record.
const TRIES_MAX: u32 = 64;

/// Changes a record.
pub async fn put(client: &Client, request: &PutRecord) -> Result<RecordPut> {
    limits::check_put_record(client.limits(), request)?;
    let _open = client.enter(request.deadline).await?;
    let (meta, records) = (client.keys().meta(0), client.keys().records(request.key.kind));
    let names = client.keys().record_names(request.key.kind);
    let name = request.key.name.as_str();
    let mut requests = 0;
    for _ in 0..TRIES_MAX {
        let steps = [
            Step::Command(command("HGET", meta.clone(), &["record"])),
            Step::Command(command("HGET", records.clone(), &[name])),
        ];
        let found = client.read_all(0, &steps, request.deadline).await?;
        requests += 2;
        let known = client.record(found.first().and_then(bytes_of))?;
        let stored = found.get(1).and_then(bytes_of);
        let kept = stored.map(|stored| decode(stored, request.key.clone())).transpose()?;
        let record = decide::put_record(&known.meta, kept.as_ref(), request.clone(), client.now())?;
        let call = client.call(script::CHANGE).key(meta.clone()).key(records.clone()).key(names.clone()).number(2);
        let call = call.number(1).arg("token").arg("=").arg(known.token.as_str()).number(2).arg(name);
        let call = match stored {
            Some(stored) => call.arg("=").arg(stored),
            None => call.arg("-").arg(""),
        };
        let call = call.arg("set").number(2).arg(name).arg(codec::encode_record(&record));
        let call = match record.value {
            Some(_) => call.arg("place").number(3).number(0).arg(name),
            None => call.arg("unplace").number(3).arg(name),
        };
        if client.write(0, call, request.deadline).await? == Value::Int(1) {
            return Ok(RecordPut { number: record.number, usage: Usage { requests, ..Usage::default() } });
        }
    }
    Err(Error::new(ErrorKind::Throttled, "too many write this record at once").with("record", &request.key.name))
}

/// Reads a record.
pub async fn read(client: &Client, request: &ReadRecord) -> Result<Option<Record>> {
    let _open = client.enter(request.deadline).await?;
    let asked = command("HGET", client.keys().records(request.key.kind), &[request.key.name.as_str()]);
    let found = client.run(0, &Step::Command(asked), request.deadline, Purpose::Read).await?;
    bytes_of(&found).map(|stored| decode(stored, request.key.clone())).transpose()
}

/// Lists the records of a kind that have a value.
pub async fn list(client: &Client, request: &ListRecords) -> Result<RecordsPage> {
    limits::check_page(client.limits(), request.limit)?;
    let _open = client.enter(request.deadline).await?;
    let mut low = request.after.as_ref().map_or_else(|| "-".to_owned(), |after| format!("({after}"));
    let wanted = request.limit as usize + 1;
    let mut records: Vec<Record> = Vec::new();
    let mut requests = 0;
    // One that was deleted between the two reads is left out, and the page filled up.
    while records.len() < wanted {
        let missing = wanted - records.len();
        let mut range = redis::cmd("ZRANGE");
        range.arg(client.keys().record_names(request.kind)).arg(&low).arg("+").arg("BYLEX");
        range.arg("LIMIT").arg(0).arg(missing);
        let names = array(client.run(0, &Step::Command(range), request.deadline, Purpose::Read).await?);
        let complete = names.len() < missing;
        let names = names.iter().map(name).collect::<Result<Vec<_>>>()?;
        let Some(last) = names.last() else { break };
        low = format!("({last}");
        let fields: Vec<&str> = names.iter().map(RecordName::as_str).collect();
        let asked = Step::Command(command("HMGET", client.keys().records(request.kind), &fields));
        let values = array(client.run(0, &asked, request.deadline, Purpose::Read).await?);
        requests += 2;
        for (name, value) in names.into_iter().zip(&values) {
            if let Some(stored) = bytes_of(value) {
                let record = decode(stored, RecordKey { kind: request.kind, name })?;
                records.extend(Some(record).filter(|record| record.value.is_some()));
            }
        }
        if complete {
            break;
        }
    }
    let more = records.len() == wanted;
    records.truncate(request.limit as usize);
    let next = records.last().filter(|_| more).map(|last| last.key.name.clone());
    Ok(RecordsPage { records, next, usage: Usage { requests, ..Usage::default() } })
}

fn name(member: &Value) -> Result<RecordName> {
    let name = crate::server::text(member).and_then(|name| RecordName::new(name).ok());
    name.ok_or_else(|| corrupt("the list of records holds something else"))
}

fn decode(stored: &[u8], key: RecordKey) -> Result<Record> {
    let name = key.name.clone();
    codec::decode_record(&Bytes::copy_from_slice(stored), key).map_err(|error| error.with("record", name))
}
