//! What can be wrong with small records.

use super::Mutant;
use super::defect::{Defect, lock, mutant};
use async_trait::async_trait;
use evstore_api::capabilities::Limit;
use evstore_api::{
    Error, ErrorKind, EventStore, ListRecords, PutRecord, ReadRecord, Record, RecordExpected, RecordKey, RecordKind,
    RecordName, RecordPut, RecordsPage, Result,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<EmptyIsDeleted>(
        "records.an-empty-value-deletes",
        "a record with an empty value is deleted",
        &["records.value-reads-back"],
    ),
    mutant::<BeginsAnew>(
        "records.begin-anew-after-deletion",
        "a deleted record is forgotten, and the next one of its name counts from 1",
        &[
            "records.changes-are-counted",
            "records.deleting-is-repeatable",
            "records.a-stale-writer-loses-after-deletion",
        ],
    ),
    mutant::<CutsNames>(
        "records.names-are-cut",
        "the name of a record is known by its first 200 bytes",
        &["records.names-are-independent"],
    ),
    mutant::<FoldsCase>(
        "records.names-fold-case",
        "names are compared without case",
        &["records.names-are-independent"],
    ),
    mutant::<OneKind>(
        "records.kinds-are-one",
        "presence stands among the checkpoints",
        &["records.names-are-independent", "records.list-is-complete"],
    ),
    mutant::<LastWriterWins>(
        "records.the-last-writer-wins",
        "what a change expects is not looked at",
        &[
            "records.a-stale-writer-is-refused",
            "records.a-stale-writer-loses-after-deletion",
            "records.one-of-many-changes-wins",
            "records.clients-see-each-other",
        ],
    ),
    mutant::<LooksThenWrites>(
        "records.looks-then-writes",
        "what a change expects is looked at in a step of its own",
        &["records.one-of-many-changes-wins"],
    ),
    mutant::<LooksPerHandle>(
        "records.looks-then-writes-per-handle",
        "changes of one handle take turns, and what a change expects is looked at in a step of its own",
        &["records.one-of-many-changes-wins"],
    ),
    mutant::<BareConflict>(
        "records.a-bare-conflict",
        "a conflict does not say the actual number",
        &["records.a-stale-writer-is-refused"],
    ),
    mutant::<ReadsOneBehind>(
        "records.reads-are-one-behind",
        "a read gives what the read before it found",
        &["records.clients-see-each-other", "records.value-reads-back"],
    ),
    mutant::<SkipsAtPages>(
        "records.list-skips-at-pages",
        "the first record of every later page is left out",
        &["records.list-is-complete"],
    ),
    mutant::<AnyLimit>(
        "records.list-takes-any-limit",
        "a limit of nothing or of more than is declared is moved to what can be given",
        &["records.list-limits-are-kept"],
    ),
    mutant::<CutsValues>(
        "records.cut-to-the-limit",
        "a value that is too long is cut",
        &["records.value-limit-is-kept"],
    ),
];

#[derive(Debug, Default)]
struct EmptyIsDeleted;

#[async_trait]
impl Defect for EmptyIsDeleted {
    async fn put_record(&self, store: &dyn EventStore, request: PutRecord) -> Result<RecordPut> {
        let value = request.value.filter(|value| !value.is_empty());
        store.put_record(PutRecord { value, ..request }).await
    }
}

/// How often each record was deleted; it is another record of the inner store each time.
#[derive(Debug, Default)]
struct BeginsAnew(Mutex<HashMap<RecordKey, u32>>);

impl BeginsAnew {
    fn life(&self, key: &RecordKey) -> RecordKey {
        let lives = lock(&self.0).get(key).copied().unwrap_or_default();
        let name = if lives == 0 { key.name.to_string() } else { format!("{}~{lives}", key.name) };
        RecordKey { kind: key.kind, name: RecordName::new(name).unwrap_or_else(|_| key.name.clone()) }
    }
}

#[async_trait]
impl Defect for BeginsAnew {
    async fn put_record(&self, store: &dyn EventStore, request: PutRecord) -> Result<RecordPut> {
        let (key, deletes) = (request.key.clone(), request.value.is_none());
        let put = store.put_record(PutRecord { key: self.life(&key), ..request }).await?;
        if deletes {
            *lock(&self.0).entry(key).or_default() += 1;
        }
        Ok(put)
    }

    async fn read_record(&self, store: &dyn EventStore, request: ReadRecord) -> Result<Option<Record>> {
        let found = store.read_record(ReadRecord { key: self.life(&request.key), ..request.clone() }).await?;
        Ok(found.map(|record| Record { key: request.key, ..record }))
    }
}

#[derive(Debug, Default)]
struct FoldsCase;

fn folded(key: &RecordKey) -> RecordKey {
    let name = RecordName::new(key.name.as_str().to_ascii_lowercase());
    RecordKey { kind: key.kind, name: name.unwrap_or_else(|_| key.name.clone()) }
}

#[async_trait]
impl Defect for FoldsCase {
    async fn put_record(&self, store: &dyn EventStore, request: PutRecord) -> Result<RecordPut> {
        store.put_record(PutRecord { key: folded(&request.key), ..request }).await
    }

    async fn read_record(&self, store: &dyn EventStore, request: ReadRecord) -> Result<Option<Record>> {
        store.read_record(ReadRecord { key: folded(&request.key), ..request }).await
    }
}

#[derive(Debug, Default)]
struct OneKind;

fn checkpoint(key: &RecordKey) -> RecordKey {
    RecordKey { kind: RecordKind::Checkpoint, name: key.name.clone() }
}

#[async_trait]
impl Defect for OneKind {
    async fn put_record(&self, store: &dyn EventStore, request: PutRecord) -> Result<RecordPut> {
        store.put_record(PutRecord { key: checkpoint(&request.key), ..request }).await
    }

    async fn read_record(&self, store: &dyn EventStore, request: ReadRecord) -> Result<Option<Record>> {
        store.read_record(ReadRecord { key: checkpoint(&request.key), ..request }).await
    }

    async fn list_records(&self, store: &dyn EventStore, request: ListRecords) -> Result<RecordsPage> {
        store.list_records(ListRecords { kind: RecordKind::Checkpoint, ..request }).await
    }
}

#[derive(Debug, Default)]
struct LastWriterWins;

#[async_trait]
impl Defect for LastWriterWins {
    async fn put_record(&self, store: &dyn EventStore, request: PutRecord) -> Result<RecordPut> {
        store.put_record(PutRecord { expected: RecordExpected::Any, ..request }).await
    }
}

#[derive(Debug, Default)]
struct LooksThenWrites;

#[async_trait]
impl Defect for LooksThenWrites {
    async fn put_record(&self, store: &dyn EventStore, request: PutRecord) -> Result<RecordPut> {
        let look = ReadRecord { key: request.key.clone(), deadline: request.deadline };
        let holds = request.expected.holds(store.read_record(look).await?.as_ref());
        tokio::time::sleep(Duration::from_micros(500)).await;
        let expected = if holds { RecordExpected::Any } else { request.expected };
        store.put_record(PutRecord { expected, ..request }).await
    }
}

/// One lock for each handle, which is known by the store that it has inside.
#[derive(Debug, Default)]
struct LooksPerHandle(Mutex<HashMap<usize, Arc<tokio::sync::Mutex<()>>>>);

#[async_trait]
impl Defect for LooksPerHandle {
    async fn put_record(&self, store: &dyn EventStore, request: PutRecord) -> Result<RecordPut> {
        let handle = std::ptr::from_ref(store).cast::<()>().addr();
        let turn = lock(&self.0).entry(handle).or_default().clone();
        let _turn = turn.lock().await;
        LooksThenWrites.put_record(store, request).await
    }
}

#[derive(Debug, Default)]
struct BareConflict;

#[async_trait]
impl Defect for BareConflict {
    async fn put_record(&self, store: &dyn EventStore, request: PutRecord) -> Result<RecordPut> {
        store.put_record(request).await.map_err(|error| match error.kind() {
            ErrorKind::Conflict => Error::new(ErrorKind::Conflict, "the record is not as expected"),
            _ => error,
        })
    }
}

#[derive(Debug, Default)]
struct ReadsOneBehind(Mutex<HashMap<RecordKey, Option<Record>>>);

#[async_trait]
impl Defect for ReadsOneBehind {
    async fn read_record(&self, store: &dyn EventStore, request: ReadRecord) -> Result<Option<Record>> {
        let key = request.key.clone();
        let found = store.read_record(request).await?;
        let before = lock(&self.0).insert(key, found.clone());
        Ok(before.unwrap_or(found))
    }
}

#[derive(Debug, Default)]
struct SkipsAtPages;

#[async_trait]
impl Defect for SkipsAtPages {
    async fn list_records(&self, store: &dyn EventStore, request: ListRecords) -> Result<RecordsPage> {
        let later = request.after.is_some();
        let mut page = store.list_records(request).await?;
        if later && page.records.len() > 1 {
            page.records.remove(0);
        }
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct AnyLimit;

#[async_trait]
impl Defect for AnyLimit {
    async fn list_records(&self, store: &dyn EventStore, request: ListRecords) -> Result<RecordsPage> {
        let limit = request.limit.clamp(1, store.capabilities().limits.page_items);
        store.list_records(ListRecords { limit, ..request }).await
    }
}

#[derive(Debug, Default)]
struct CutsValues;

#[async_trait]
impl Defect for CutsValues {
    async fn put_record(&self, store: &dyn EventStore, request: PutRecord) -> Result<RecordPut> {
        let value = match (store.capabilities().limits.record_bytes, request.value) {
            (Limit::Max(max), Some(value)) => Some(value.slice(..value.len().min(max as usize))),
            (_, value) => value,
        };
        store.put_record(PutRecord { value, ..request }).await
    }
}

#[derive(Debug, Default)]
struct CutsNames;

fn cut(key: &RecordKey) -> RecordKey {
    let name = RecordName::new(super::append::cut(key.name.as_str(), 200));
    RecordKey { kind: key.kind, name: name.unwrap_or(key.name.clone()) }
}

#[async_trait]
impl Defect for CutsNames {
    async fn put_record(&self, store: &dyn EventStore, request: PutRecord) -> Result<RecordPut> {
        store.put_record(PutRecord { key: cut(&request.key), ..request }).await
    }

    async fn read_record(&self, store: &dyn EventStore, request: ReadRecord) -> Result<Option<Record>> {
        let key = request.key.clone();
        let found = store.read_record(ReadRecord { key: cut(&key), ..request }).await?;
        Ok(found.map(|record| Record { key, ..record }))
    }
}
