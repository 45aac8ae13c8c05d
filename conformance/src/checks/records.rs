//! Small records, checkpoints and presence: properties 127 and 128.

use super::payload::STATE_BEYOND;
use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::Context;
use bytes::Bytes;
use evstore_api::capabilities::Limit;
use evstore_api::name::RECORD_NAME_BYTES_MAX;
use evstore_api::{
    Error, EventStore, ListRecords, PutRecord, ReadRecord, Record, RecordExpected, RecordKey, RecordKind, RecordName,
    RecordNumber, RecordPut,
};

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "records.value-reads-back",
        "a small record reads back with the same bytes, empty ones among them; one that never was reads as none",
        [127],
        value_reads_back
    ),
    check!(
        "records.changes-are-counted",
        "every change of a record, deletions among them, takes the next number, from 1",
        [127, 128],
        changes_are_counted
    ),
    check!(
        "records.deleting-is-repeatable",
        "a deleted record has no value and keeps its number, and deleting it again or one that never was succeeds",
        [127],
        deleting_is_repeatable
    ),
    check!(
        "records.names-are-independent",
        "records whose names differ by case, form, spaces, separators or the last sign of many, and records of the two kinds, do not \
         touch",
        [127],
        names_are_independent
    ),
    check!(
        "records.a-stale-writer-is-refused",
        "a change that expects another number than the record's conflicts with the actual one and changes nothing",
        [128],
        a_stale_writer_is_refused
    ),
    check!(
        "records.a-stale-writer-loses-after-deletion",
        "a change that expects the number from before a deletion conflicts, and absence is expected of what is deleted",
        [128],
        a_stale_writer_loses_after_deletion
    ),
    check!(
        "records.one-of-many-changes-wins",
        "of several changes that expect the same number exactly one is made",
        [128, 133],
        one_of_many_changes_wins
    ),
    check!(
        "records.clients-see-each-other",
        "a record that one client changed is what the next client reads, and the first one's number is stale then",
        [46, 128],
        clients_see_each_other
    ),
    check!(
        "records.list-is-complete",
        "the list of a kind has every record with a value once, by name, whatever the pages",
        [127],
        list_is_complete
    ),
    check!(
        "records.list-limits-are-kept",
        "a list of limit 0 or above the declared one is refused; the declared one is taken",
        [69, 194],
        list_limits_are_kept
    ),
    check!(
        "records.value-limit-is-kept",
        "a value of the declared length is kept, and one byte more is refused and changes nothing",
        [37, 194],
        value_limit_is_kept
    ),
];

/// Longest value that a check makes to reach a limit.
const VALUE_BYTES_MAX: u64 = 64 << 20;
/// Callers at a time.
const CALLERS: usize = 8;

/// A key that no other check has.
fn key(context: &Context, kind: RecordKind, name: &str) -> Result<RecordKey, Error> {
    Ok(RecordKey { kind, name: RecordName::new(format!("{}{name}", context.category()))? })
}

/// A request to change a record.
pub(super) fn put_request(
    context: &Context,
    key: &RecordKey,
    expected: RecordExpected,
    value: Option<&str>,
) -> PutRecord {
    let value = value.map(|value| Bytes::from(value.to_owned()));
    PutRecord { key: key.clone(), expected, value, deadline: context.deadline() }
}

async fn put(
    context: &Context,
    key: &RecordKey,
    expected: RecordExpected,
    value: Option<&str>,
) -> Result<RecordPut, Error> {
    context.store().put_record(put_request(context, key, expected, value)).await
}

async fn read(context: &Context, key: &RecordKey) -> Result<Option<Record>, Error> {
    read_from(context, &**context.store(), key).await
}

/// What a client reads of a record.
pub(super) async fn read_from(
    context: &Context,
    store: &dyn EventStore,
    key: &RecordKey,
) -> Result<Option<Record>, Error> {
    context.settle().await;
    store.read_record(ReadRecord { key: key.clone(), deadline: context.deadline() }).await
}

/// What matters of a record: its number and its value.
fn state(record: Option<Record>) -> Option<(u64, Option<Bytes>)> {
    record.map(|record| (record.number.0, record.value))
}

fn text(value: &str) -> Option<Bytes> {
    Some(Bytes::from(value.to_owned()))
}

const KINDS: [RecordKind; 2] = [RecordKind::Checkpoint, RecordKind::Presence];

async fn value_reads_back(context: Context) -> Result<Outcome, Broken> {
    for kind in KINDS {
        let key = key(&context, kind, "value")?;
        ensure_eq!(read(&context, &key).await?, None, "a record that never was");
        let values: [&[u8]; 4] = [b"1.cursor", b"", b"\0\xff\x80 not text", &[0; 1000]];
        for (value, number) in values.into_iter().zip(1..) {
            let request = PutRecord {
                value: Some(Bytes::copy_from_slice(value)),
                ..put_request(&context, &key, RecordExpected::Any, None)
            };
            let receipt = context.store().put_record(request).await?;
            ensure_eq!(receipt.number, RecordNumber(number), "number in the receipt");
            let found = read(&context, &key).await?;
            ensure_eq!(found.as_ref().map(|record| &record.key), Some(&key), "key of the record");
            let wanted = Some((number, Some(Bytes::copy_from_slice(value))));
            ensure_eq!(state(found), wanted, "number and value of the record");
        }
    }
    Ok(Outcome::Held)
}

async fn changes_are_counted(context: Context) -> Result<Outcome, Broken> {
    let key = key(&context, RecordKind::Checkpoint, "counted")?;
    let epoch = context.admin().read_meta(context.deadline()).await?.epoch;
    for (value, number) in [Some("a"), Some("a"), None, Some("b"), None, None, Some("c")].into_iter().zip(1..) {
        let receipt = put(&context, &key, RecordExpected::Any, value).await?;
        ensure_eq!(receipt.number, RecordNumber(number), "number of change {number}");
        let found = read(&context, &key).await?;
        ensure_eq!(found.as_ref().map(|record| record.epoch), Some(epoch), "epoch of the change");
        ensure_eq!(state(found), Some((number, value.and_then(text))), "number and value after change {number}");
    }
    Ok(Outcome::Held)
}

async fn deleting_is_repeatable(context: Context) -> Result<Outcome, Broken> {
    for kind in KINDS {
        let key = key(&context, kind, "deleted")?;
        for _ in 0..2 {
            // The first time of one that never was, then of one that is deleted already.
            put(&context, &key, RecordExpected::Any, None).await?;
            let value = read(&context, &key).await?.and_then(|record| record.value);
            ensure_eq!(value, None, "value of a deleted record");
        }
        let written = put(&context, &key, RecordExpected::Any, Some("again")).await?;
        let deleted = put(&context, &key, RecordExpected::At(written.number), None).await?;
        ensure!(deleted.number > written.number, "a deletion took number {}", deleted.number);
        ensure_eq!(state(read(&context, &key).await?), Some((deleted.number.0, None)), "number and value once deleted");
    }
    Ok(Outcome::Held)
}

async fn names_are_independent(context: Context) -> Result<Outcome, Broken> {
    // The two forms of é are different names, as are all the others.
    let names = [
        "", "a", "A", "a ", " a", "a/b", "a%2Fb", "a:b", "a-b", "a_b", "a*", "a'--", "\u{e9}", "e\u{301}", "{a}", "ab",
    ];
    let mut keys = Vec::new();
    let own = context.category();
    let longest = ['🦀', '𝒳'].map(|last| super::append::longest(own.as_str(), RECORD_NAME_BYTES_MAX, last));
    for kind in KINDS {
        for name in names {
            keys.push((key(&context, kind, name)?, format!("{kind:?} {name}")));
        }
        for name in &longest {
            keys.push((RecordKey { kind, name: RecordName::new(name)? }, format!("{kind:?} {name}")));
        }
    }
    for (key, value) in &keys {
        let receipt = put(&context, key, RecordExpected::Absent, Some(value)).await?;
        ensure_eq!(receipt.number, RecordNumber(1), "number of the first change of {}", key.name);
    }
    let (deleted, kept) = keys.split_at(1);
    put(&context, &deleted[0].0, RecordExpected::Any, None).await?;
    for (key, value) in kept {
        ensure_eq!(state(read(&context, key).await?), Some((1, text(value))), "record {} of {:?}", key.name, key.kind);
    }
    Ok(Outcome::Held)
}

/// Ends a check as broken unless a change conflicted and says what number there is.
fn ensure_conflict(result: Result<RecordPut, Error>, actual: u64, what: &str) -> Result<(), Broken> {
    let error = ensure_kind!(result, Conflict, "{what}");
    let said = error.context().iter().find(|(name, _)| *name == "actual").map(|(_, value)| value.clone());
    ensure_eq!(said, Some(actual.to_string()), "the actual number that the conflict of {what} says");
    Ok(())
}

async fn a_stale_writer_is_refused(context: Context) -> Result<Outcome, Broken> {
    for kind in KINDS {
        let key = key(&context, kind, "swapped")?;
        let at = |number| RecordExpected::At(RecordNumber(number));
        ensure_conflict(put(&context, &key, at(1), Some("no")).await, 0, "a change of a record that never was")?;
        ensure_eq!(read(&context, &key).await?, None, "a record after a refused change");
        put(&context, &key, at(0), Some("one")).await?;
        put(&context, &key, at(1), Some("two")).await?;
        for wrong in [at(0), at(1), at(3), at(100), RecordExpected::Absent] {
            for value in [Some("no"), None] {
                let what = format!("a change at number 2 that expects {wrong:?}");
                ensure_conflict(put(&context, &key, wrong, value).await, 2, &what)?;
            }
        }
        ensure_eq!(state(read(&context, &key).await?), Some((2, text("two"))), "a record after refused changes");
        // A rewind is a change as any other, as long as it is made knowingly.
        put(&context, &key, at(2), Some("one")).await?;
        ensure_eq!(state(read(&context, &key).await?), Some((3, text("one"))), "a record that was set back");
    }
    Ok(Outcome::Held)
}

async fn a_stale_writer_loses_after_deletion(context: Context) -> Result<Outcome, Broken> {
    let key = key(&context, RecordKind::Checkpoint, "gone")?;
    let at = |number| RecordExpected::At(RecordNumber(number));
    put(&context, &key, RecordExpected::Absent, Some("one")).await?;
    put(&context, &key, at(1), None).await?;
    for stale in [0, 1] {
        let what = format!("a change after the deletion that expects {stale}");
        ensure_conflict(put(&context, &key, at(stale), Some("no")).await, 2, &what)?;
    }
    put(&context, &key, RecordExpected::Absent, Some("two")).await?;
    ensure_conflict(
        put(&context, &key, at(1), Some("no")).await,
        3,
        "a change of the second life that expects the first",
    )?;
    put(&context, &key, at(3), None).await?;
    put(&context, &key, at(4), Some("three")).await?;
    ensure_eq!(state(read(&context, &key).await?), Some((5, text("three"))), "the record in the end");
    Ok(Outcome::Held)
}

async fn one_of_many_changes_wins(context: Context) -> Result<Outcome, Broken> {
    let key = key(&context, RecordKind::Checkpoint, "raced")?;
    let clients = context.two_clients().await?;
    for round in 0..context.rounds(10) {
        let expected = RecordExpected::At(RecordNumber(round));
        let answers = context
            .together(CALLERS, |caller| {
                let request = put_request(&context, &key, expected, Some(&format!("{round}:{caller}")));
                let store = clients[caller % 2].clone();
                async move { store.put_record(request).await }
            })
            .await?;
        let winners: Vec<_> = (0..CALLERS).filter(|&caller| answers[caller].is_ok()).collect();
        ensure_eq!(winners.len(), 1, "changes that were made at number {round}");
        for answer in answers.into_iter().filter(Result::is_err) {
            ensure_conflict(answer, round + 1, "a change that lost")?;
        }
        let wanted = Some((round + 1, text(&format!("{round}:{}", winners[0]))));
        ensure_eq!(state(read(&context, &key).await?), wanted, "the record after a race");
    }
    clients[1].close().await?;
    Ok(Outcome::Held)
}

async fn clients_see_each_other(context: Context) -> Result<Outcome, Broken> {
    let other = context.another_client().await?;
    let key = key(&context, RecordKind::Checkpoint, "shared")?;
    put(&context, &key, RecordExpected::Absent, Some("mine")).await?;
    ensure_eq!(
        state(read_from(&context, &*other, &key).await?),
        Some((1, text("mine"))),
        "what the other client reads"
    );
    other.put_record(put_request(&context, &key, RecordExpected::At(RecordNumber(1)), Some("theirs"))).await?;
    let stale = put(&context, &key, RecordExpected::At(RecordNumber(1)), Some("mine")).await;
    ensure_conflict(stale, 2, "a change that does not know of the other client's")?;
    ensure_eq!(state(read(&context, &key).await?), Some((2, text("theirs"))), "what the first client reads");
    other.close().await?;
    Ok(Outcome::Held)
}

/// The names of a kind that belong to this check, as pages of a limit give them.
async fn listed(context: &Context, kind: RecordKind, limit: u32) -> Result<Vec<Record>, Broken> {
    let (mut after, mut found) = (None, Vec::new());
    loop {
        let request = ListRecords { kind, after: after.clone(), limit, deadline: context.deadline() };
        let page = context.store().list_records(request).await?;
        ensure!(page.records.len() <= limit as usize, "a list of limit {limit} has {} records", page.records.len());
        ensure!(page.next.is_none() || !page.records.is_empty(), "a list of limit {limit} is empty before its end");
        found.extend(page.records);
        match page.next {
            None => break,
            Some(next) => {
                ensure!(after.as_ref().is_none_or(|before| *before < next), "a list goes on at {next} again");
                after = Some(next);
            }
        }
    }
    found.retain(|record| record.key.name.as_str().starts_with(context.category().as_str()));
    Ok(found)
}

async fn list_is_complete(context: Context) -> Result<Outcome, Broken> {
    let names = ["b", "a", "B", "a/b", "ab", "\u{e9}", "", "z"];
    for kind in KINDS {
        for name in names.iter().chain(&["gone", "a-gone"]) {
            put(&context, &key(&context, kind, name)?, RecordExpected::Any, Some(name)).await?;
        }
        for name in ["gone", "a-gone"] {
            put(&context, &key(&context, kind, name)?, RecordExpected::Any, None).await?;
        }
    }
    put(&context, &key(&context, RecordKind::Presence, "node")?, RecordExpected::Any, Some("node")).await?;
    context.settle_lists().await;
    for kind in KINDS {
        let presence = (kind == RecordKind::Presence).then_some("node");
        let keys = names.iter().copied().chain(presence).map(|name| key(&context, kind, name));
        let mut wanted = keys.collect::<Result<Vec<_>, _>>()?;
        wanted.sort();
        for limit in [1, 2, 3, 7, 8, 9, 100] {
            let found = listed(&context, kind, limit).await?;
            let keys: Vec<_> = found.iter().map(|record| record.key.clone()).collect();
            ensure_eq!(keys, wanted, "records of {kind:?} in pages of {limit}");
            for record in found {
                let read = read(&context, &record.key).await?;
                ensure_eq!(Some(record), read, "a record of the list, as it reads");
            }
        }
    }
    Ok(Outcome::Held)
}

async fn list_limits_are_kept(context: Context) -> Result<Outcome, Broken> {
    let list = async |limit| {
        let request = ListRecords { kind: RecordKind::Checkpoint, after: None, limit, deadline: context.deadline() };
        context.store().list_records(request).await
    };
    let max = context.capabilities().limits.page_items;
    ensure_kind!(list(0).await, Invalid, "a list of limit 0");
    list(1).await?;
    list(max).await?;
    if max < u32::MAX {
        ensure_kind!(list(max + 1).await, Invalid, "a list of one more than the declared limit");
    }
    Ok(Outcome::Held)
}

async fn value_limit_is_kept(context: Context) -> Result<Outcome, Broken> {
    let Limit::Max(max) = context.capabilities().limits.record_bytes else {
        for kind in KINDS {
            let (key, value) = (key(&context, kind, "long")?, super::payload::incompressible(&context, STATE_BEYOND));
            let request =
                PutRecord { value: Some(value.clone()), ..put_request(&context, &key, RecordExpected::Absent, None) };
            context.store().put_record(request).await?;
            let found = read(&context, &key).await?.and_then(|record| record.value);
            ensure!(found == Some(value), "a value of 5 MiB is read with other bytes, and no limit is declared");
        }
        return Ok(Outcome::Held);
    };
    if max > VALUE_BYTES_MAX {
        return Ok(Outcome::NotRun(format!("the limit of {max} bytes is above what a check makes")));
    }
    for kind in KINDS {
        let key = key(&context, kind, "long")?;
        let of = |bytes: u64, expected| PutRecord {
            value: Some(vec![7; bytes as usize].into()),
            ..put_request(&context, &key, expected, None)
        };
        context.store().put_record(of(max, RecordExpected::Absent)).await?;
        let refused = context.store().put_record(of(max + 1, RecordExpected::At(RecordNumber(1)))).await;
        ensure_kind!(refused, TooLarge, "a value of {max} bytes and one");
        let found =
            read(&context, &key).await?.map(|record| (record.number.0, record.value.map_or(0, |v| v.len() as u64)));
        ensure_eq!(found, Some((1, max)), "number of the record, and length of its value");
    }
    Ok(Outcome::Held)
}
