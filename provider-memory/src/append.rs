//! Writing a commit or a marker under the lock, and finding one again by its id.

use crate::codec;
use crate::schema::{Placed, Tables};
use crate::store::Client;
use evstore_api::{Append, Appended, Delete, Deleted, Event, FindCommit, Head, Result, Truncate, Truncated, Usage};
use evstore_kit::decide::{self, Decision, Situation, Wanted};
use evstore_kit::limits;

/// Appends a commit.
pub fn append(client: &Client, request: Append) -> Result<Appended> {
    let prepared = limits::check_append(client.limits(), request)?;
    let wanted = Wanted::append(&prepared);
    let mut tables = client.enter(prepared.deadline)?;
    let head = tables.head(&wanted.stream, client.own());
    let found = found(client, &tables, &wanted);
    let decision = decide::append(&situation(client, &tables, &head), &wanted, found)?;
    Ok(write(client, &mut tables, &wanted, decision, prepared.events).0)
}

/// Strips the beginning of a stream, and writes the marker.
pub fn truncate(client: &Client, request: &Truncate) -> Result<Truncated> {
    let wanted = Wanted::truncation(request);
    let mut tables = client.enter(request.deadline)?;
    let head = tables.head(&wanted.stream, client.own());
    let found = found(client, &tables, &wanted);
    let decision = decide::truncate(&situation(client, &tables, &head), &wanted, request.before, found)?;
    let (marker, written) = write(client, &mut tables, &wanted, decision, Vec::new());
    if written == Written::Now {
        tables.strip(&wanted.stream, request.before);
    }
    Ok(Truncated { marker, first_retained: tables.head(&wanted.stream, client.own()).first_retained })
}

/// Deletes a stream: the tombstone, its events, its snapshot.
pub fn delete(client: &Client, request: &Delete) -> Result<Deleted> {
    let wanted = Wanted::deletion(request);
    let mut tables = client.enter(request.deadline)?;
    let head = tables.head(&wanted.stream, client.own());
    let found = found(client, &tables, &wanted);
    let decision = decide::delete(&situation(client, &tables, &head), &wanted, found)?;
    let (tombstone, written) = write(client, &mut tables, &wanted, decision, Vec::new());
    if written == Written::Now {
        tables.strip(&wanted.stream, head.revision.next());
        tables.snapshots.remove(&wanted.stream);
    }
    Ok(tombstone)
}

/// Finds a commit or a marker by its id.
pub fn find_commit(client: &Client, request: &FindCommit) -> Result<Option<Appended>> {
    let tables = client.enter(request.deadline)?;
    let found = tables.find(&request.stream, request.commit, client.window());
    Ok(found.map(|commit| decide::repeated(commit, Usage::default())))
}

/// What the lock keeps as it is while a decision is made.
pub fn situation<'a>(client: &'a Client, tables: &'a Tables, head: &'a Head) -> Situation<'a> {
    Situation {
        meta: &tables.meta,
        own: client.own(),
        head,
        last_position: Some(tables.last_position),
        now: client.now(),
    }
}

fn found(client: &Client, tables: &Tables, wanted: &Wanted) -> Option<Appended> {
    let found = tables.find(&wanted.stream, wanted.commit, client.window())?;
    Some(decide::repeated(found, Usage::default()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Now,
    Before,
}

fn write(
    client: &Client,
    tables: &mut Tables,
    wanted: &Wanted,
    decision: Decision,
    events: Vec<Event>,
) -> (Appended, Written) {
    let slot = match decision {
        Decision::Repeated(receipt) => return (receipt, Written::Before),
        Decision::Write(slot) => slot,
    };
    let commit = codec::commit(wanted, &slot, events);
    let last = tables.last_position.plus(commit.positions());
    tables.place(last, Placed::Commit(commit.stream.clone(), commit.number));
    tables.push(commit);
    client.ring();
    (slot.receipt(wanted, Usage::default()), Written::Now)
}
