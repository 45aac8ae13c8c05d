//! Small records: consumers' checkpoints and nodes' presence.

use crate::append::USAGE;
use crate::checksum::RecordSum;
use crate::codec::{self, RECORD_COLUMNS};
use crate::error::Result as Worked;
use crate::writer::Transaction;
use evstore_api::{ListRecords, PutRecord, Record, RecordKey, RecordName, RecordPut, RecordsPage};
use evstore_kit::decide;
use rusqlite::{Connection, params};

/// Changes a record if it is as expected.
pub fn put(transaction: &Transaction<'_>, request: &PutRecord) -> Worked<RecordPut> {
    let found = read(transaction.connection, &request.key)?;
    let record = decide::put_record(transaction.meta(), found.as_ref(), request.clone(), transaction.now())?;
    write(transaction.connection, &record)?;
    Ok(RecordPut { number: record.number, usage: USAGE })
}

/// Writes a record in place of what is there.
pub fn write(connection: &Connection, record: &Record) -> Worked<()> {
    const REPLACE: &str = "INSERT OR REPLACE INTO records (kind, name, number, epoch, updated_at, value, checksum)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let sum = RecordSum {
        kind: record.key.kind.name(),
        name: record.key.name.as_str(),
        number: codec::integer(record.number.0)?,
        epoch: codec::integer(record.epoch.0)?,
        updated_at: record.updated_at.0,
        value: record.value.as_deref(),
    };
    let RecordSum { kind, name, number, epoch, updated_at, value } = sum;
    connection.prepare_cached(REPLACE)?.execute(params![
        kind,
        name,
        number,
        epoch,
        updated_at,
        value,
        sum.checksum()
    ])?;
    Ok(())
}

/// Reads a record, a deleted one too.
pub fn read(connection: &Connection, key: &RecordKey) -> Worked<Option<Record>> {
    let sql = format!("SELECT {RECORD_COLUMNS} FROM records WHERE kind = ?1 AND name = ?2");
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows = select.query([key.kind.name(), key.name.as_str()])?;
    rows.next()?.map(|row| codec::record(row, key.clone())).transpose()
}

/// A page of the records that have a value.
pub fn list(connection: &Connection, request: &ListRecords) -> Worked<RecordsPage> {
    let sql = format!(
        "SELECT {RECORD_COLUMNS}, name FROM records WHERE kind = ?1 AND name > ?2 AND value IS NOT NULL ORDER BY name LIMIT ?3"
    );
    let after = request.after.as_ref().map_or("", RecordName::as_str);
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows = select.query(params![request.kind.name(), after, i64::from(request.limit) + 1])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let name = codec::valid(RecordName::new(row.get::<_, String>(5)?))?;
        records.push(codec::record(row, RecordKey { kind: request.kind, name })?);
    }
    let more = records.len() > request.limit as usize;
    records.truncate(request.limit as usize);
    let next = if more { records.last().map(|last| last.key.name.clone()) } else { None };
    Ok(RecordsPage { records, next, usage: USAGE })
}
