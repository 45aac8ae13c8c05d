//! Small records: consumers' checkpoints and nodes' presence.

use crate::codec::{self, ONE_REQUEST, integer};
use crate::error::{Result as Worked, corrupt};
use crate::store::Client;
use crate::transaction::Transaction;
use evstore_api::{
    ListRecords, PutRecord, ReadRecord, Record, RecordKey, RecordName, RecordPut, RecordsPage, Result, StreamId,
};
use evstore_kit::{decide, limits};

/// Changes a record if it is as expected.
pub async fn put(client: &Client, request: PutRecord) -> Result<RecordPut> {
    limits::check_put_record(client.limits(), &request)?;
    let deadline = request.deadline;
    client
        .write(deadline, async |transaction| {
            transaction.run(|statements| &statements.share_store).await?;
            lock(transaction, client.schema(), &request.key).await?;
            let meta = transaction.meta().await?;
            let found = read_in(transaction, &request.key).await?;
            let record = decide::put_record(&meta, found.as_ref(), request.clone(), transaction.now())?;
            write(transaction, &record).await?;
            Ok(RecordPut { number: record.number, usage: ONE_REQUEST })
        })
        .await
}

/// Keeps other writers of one record outside: a row that is not there yet can't be locked.
async fn lock(transaction: &mut Transaction, schema: &str, key: &RecordKey) -> Worked<()> {
    // A namespace that no stream can have, for its control character would be refused.
    let name = StreamId::within(key.kind.name(), key.name.as_str());
    let lock = name.map_or(0, |name| codec::lock_of(&format!("{schema} record"), &name));
    let lock = transaction.statements().lock_stream.query().bind(lock);
    transaction.execute(lock).await.map(drop)
}

/// Reads a record inside a transaction.
pub async fn read_in(transaction: &mut Transaction, key: &RecordKey) -> Worked<Option<Record>> {
    let select = transaction.statements().read_record.query().bind(key.kind.name()).bind(key.name.as_str().to_owned());
    let row = transaction.row(select).await?;
    row.map(|row| codec::record(&row, key.clone())).transpose()
}

/// Writes a record in place of what is there.
pub async fn write(transaction: &mut Transaction, record: &Record) -> Worked<()> {
    let insert = transaction
        .statements()
        .put_record
        .query()
        .bind(record.key.kind.name())
        .bind(record.key.name.as_str().to_owned())
        .bind(integer(record.number.0))
        .bind(integer(record.epoch.0))
        .bind(record.updated_at.0)
        .bind(codec::checksum(record.value.as_deref().unwrap_or_default()))
        .bind(record.value.as_deref().map(<[u8]>::to_vec));
    transaction.execute(insert).await.map(drop)
}

/// Reads a record, a deleted one too.
pub async fn read(client: &Client, request: &ReadRecord) -> Result<Option<Record>> {
    client
        .read(request.deadline, async |connection| {
            let select =
                client.statements.read_record.query().bind(request.key.kind.name()).bind(request.key.name.as_str());
            let rows = select.fetch_all(connection).await?;
            rows.first().map(|row| codec::record(row, request.key.clone())).transpose()
        })
        .await
}

/// A page of the records that have a value.
pub async fn list(client: &Client, request: &ListRecords) -> Result<RecordsPage> {
    limits::check_page(client.limits(), request.limit)?;
    client
        .read(request.deadline, async |connection| {
            let select = client
                .statements
                .list_records
                .query()
                .bind(request.kind.name())
                .bind(request.after.as_ref().map_or("", RecordName::as_str))
                .bind(i64::from(request.limit) + 1);
            let rows = select.fetch_all(connection).await?;
            let mut records = Vec::with_capacity(rows.len());
            for row in rows.iter().take(request.limit as usize) {
                let name = RecordName::new(codec::get::<&str>(row, 5)?)
                    .map_err(|cause| corrupt("a stored name is not valid").caused_by(cause))?;
                records.push(codec::record(row, RecordKey { kind: request.kind, name })?);
            }
            let more = rows.len() > records.len();
            let next = records.last().filter(|_| more).map(|last| last.key.name.clone());
            Ok(RecordsPage { records, next, usage: ONE_REQUEST })
        })
        .await
}
