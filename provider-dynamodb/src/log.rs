//! The feed: a chain of records, each under its first position, which is one behind the last position of the record before it. So
//! the next record's key is the one place on which every append, from whatever process, is decided: a writer puts its record
//! there under the condition that there is none, in the transaction that writes its commits. Positions are total and have no gap
//! because the chain has none.
//!
//! The chain is the fence too. A change of the store's record puts a barrier at that key, in its own transaction, and a writer may
//! replace the barrier only if it has read the changed record: each record of the log says by its token which one its writer had
//! read, and a writer takes the end of the chain and its token from the same item. What a fence costs an append is nothing.
//!
//! A writer that keeps losing the race for that key puts a claim there, which is a barrier with its name: others let it go first for a
//! while. It keeps the slow from starving, and nothing rests on it.

use crate::codec::{self, Ref, corrupt};
use crate::link::{Condition, Link, Order, Part, Range};
use crate::tables::{
    BARRIER, Item, LAST, LOG, NUMBER, OWNER, PROGRESS, STUBS, TOKEN, Table, VALUE, bytes, bytes_of, number, number_of,
    numbered, with,
};
use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use evstore_api::{Deadline, Error, ErrorKind, Position, Result, Usage};
use std::time::{Duration, Instant};

/// How long another's claim is respected: far longer than it takes to read some streams and write.
const CLAIM_PATIENCE: Duration = Duration::from_secs(1);

/// Where the chain ends, and which record of the store its last writer had read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The last position that was given.
    pub end: Position,
    /// How often the store's record was changed.
    pub token: u64,
    /// Who holds the next place for itself.
    pub claim: Option<Owner>,
    /// How far the sequencer had read by then, where there is one: every record and barrier passes on what it found.
    pub progress: Option<Bytes>,
}

/// Another's claim of the next place, since when it is seen.
#[derive(Debug, Default)]
pub struct Claimed(Option<(Tail, Instant)>);

impl Claimed {
    /// Whether another has claimed the place behind this end, and is to be let go first still.
    pub fn sees(&mut self, tail: &Tail, own: Owner) -> bool {
        let claimed = tail.claim.is_some_and(|owner| owner != own);
        let since = match &self.0 {
            Some((known, since)) if known == tail => *since,
            _ => Instant::now(),
        };
        self.0 = claimed.then_some((tail.clone(), since));
        claimed && since.elapsed() < CLAIM_PATIENCE
    }
}

/// Identity of a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(pub [u8; 16]);

/// A record of the log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its first position.
    pub first: Position,
    /// Its last.
    pub last: Position,
    /// The commits that stand there, in order; none where the range was removed before it came here.
    pub commits: Vec<Ref>,
}

/// A record as it is put.
pub fn entry(first: Position, last: Position, token: u64, progress: Option<&Bytes>, commits: &[Ref]) -> Item {
    let item = with(numbered(LOG, first.0), LAST, number(last.0));
    let item = with(item, TOKEN, number(token));
    let item = with_progress(item, progress);
    with(item, VALUE, bytes(codec::encode_refs(first, last, commits)))
}

fn with_progress(item: Item, progress: Option<&Bytes>) -> Item {
    match progress {
        Some(progress) => with(item, PROGRESS, bytes(progress.to_vec())),
        None => item,
    }
}

/// The mark of a change of the store's record.
pub fn barrier(tail: &Tail) -> Item {
    let item = with(numbered(LOG, tail.end.0 + 1), TOKEN, number(tail.token));
    let item = with_progress(with(item, BARRIER, AttributeValue::Bool(true)), tail.progress.as_ref());
    match tail.claim {
        Some(owner) => with(item, OWNER, bytes(owner.0)),
        None => item,
    }
}

/// That nothing stands there but the barrier of the record of the store that the writer has read, and no claim but its own and one that
/// it has waited for long enough.
pub fn free(token: u64, own: Owner, outwaited: Option<Owner>) -> Condition {
    Condition {
        expression: "attribute_not_exists(k) OR (attribute_exists(b) AND t = :t AND (attribute_not_exists(o) OR o IN (:o, :w)))",
        values: vec![(":t", number(token)), (":o", bytes(own.0)), (":w", bytes(outwaited.unwrap_or(own).0))],
    }
}

/// That nothing stands there but a barrier.
pub fn free_for_barrier() -> Condition {
    Condition { expression: "attribute_not_exists(k) OR attribute_exists(b)", values: Vec::new() }
}

/// The end of a chain whose last item this is.
///
/// # Errors
/// `Corrupt`.
pub fn tail_of(item: &Item) -> Result<Tail> {
    let wrong = || corrupt("a record of the log is not one");
    let token = number_of(item, TOKEN).ok_or_else(wrong)?;
    let end = match item.contains_key(BARRIER) {
        true => number_of(item, NUMBER).and_then(|at| at.checked_sub(1)),
        false => number_of(item, LAST),
    };
    let claim = bytes_of(item, OWNER).and_then(|owner| owner.try_into().ok()).map(Owner);
    let progress = bytes_of(item, PROGRESS).map(Bytes::from);
    Ok(Tail { end: Position(end.ok_or_else(wrong)?), token, claim, progress })
}

/// Reads the end of the chain.
///
/// # Errors
/// `Schema` where there is none.
pub async fn tail(link: &Link, deadline: Deadline, usage: &mut Usage) -> Result<Tail> {
    let range = range(LOG, None, None, Order::Falling, Some("n, q, t, b, o, u"));
    let part = link.query(&range, None, 1, deadline, usage).await?;
    match part.items.first() {
        Some(item) => tail_of(item),
        None => {
            Err(Error::new(ErrorKind::Schema, "the store's log is not there; apply the schema, or set auto_create"))
        }
    }
}

/// Reads records from the one on that begins behind a position.
///
/// # Errors
/// As reads have them.
pub async fn after(
    link: &Link,
    position: Position,
    start: Option<Item>,
    limit: u32,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<Part> {
    let range = range(LOG, Some(position.0 + 1), None, Order::Rising, None);
    link.query(&range, start, limit, deadline, usage).await
}

/// Reads the record that a position lies in, if it was given.
///
/// # Errors
/// As reads have them.
pub async fn holding(link: &Link, position: Position, deadline: Deadline, usage: &mut Usage) -> Result<Option<Entry>> {
    before(link, LOG, position, deadline, usage).await.map(|found| found.filter(|entry| entry.last >= position))
}

/// Reads the stub, copied into a range without content, that reaches beyond a position and begins at or before another.
///
/// # Errors
/// As reads have them.
pub async fn stub_within(
    link: &Link,
    first: Position,
    last: Position,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<Option<Entry>> {
    before(link, STUBS, last, deadline, usage).await.map(|found| found.filter(|entry| entry.last >= first))
}

/// A stub that lies in a range without content, as it is put.
pub fn stub(one: Ref, first: Position, last: Position) -> Item {
    let item = with(numbered(STUBS, first.0), LAST, number(last.0));
    with(item, VALUE, bytes(codec::encode_refs(first, last, &[one])))
}

/// The record that begins last at or before a position.
async fn before(
    link: &Link,
    key: &str,
    position: Position,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<Option<Entry>> {
    let range = range(key, None, Some(position.0), Order::Falling, None);
    let part = link.query(&range, None, 1, deadline, usage).await?;
    part.items.first().map(entry_of).transpose().map(Option::flatten)
}

/// The record that an item is; none for a barrier.
///
/// # Errors
/// `Corrupt`, `Schema`.
pub fn entry_of(item: &Item) -> Result<Option<Entry>> {
    if item.contains_key(BARRIER) {
        return Ok(None);
    }
    let wrong = || corrupt("a record of the log is not one");
    let stored = bytes_of(item, VALUE).ok_or_else(wrong)?;
    let (first, last, commits) = codec::decode_refs(&stored)?;
    if number_of(item, NUMBER) != Some(first.0) || number_of(item, LAST) != Some(last.0) {
        return Err(wrong().with("position", first));
    }
    Ok(Some(Entry { first, last, commits }))
}

fn range(key: &str, from: Option<u64>, to: Option<u64>, order: Order, only: Option<&'static str>) -> Range {
    Range { table: Table::Log, key: key.to_owned(), from: from.map(number), to: to.map(number), order, only }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::{CommitNumber, StreamId};

    #[test]
    fn a_record_and_a_barrier_tell_where_the_chain_ends() {
        let one = Ref { stream: StreamId::new("s-1").unwrap(), number: CommitNumber(3), positions: 4 };
        let progress = Some(Bytes::from_static(b"there"));
        let item = entry(Position(7), Position(10), 2, progress.as_ref(), &[one]);
        let wanted = Tail { end: Position(10), token: 2, claim: None, progress: progress.clone() };
        assert_eq!(tail_of(&item).unwrap(), wanted);
        assert_eq!(entry_of(&item).unwrap().unwrap().last, Position(10));
        for claim in [None, Some(Owner([7; 16]))] {
            let tail = Tail { end: Position(10), token: 3, claim, progress: progress.clone() };
            let barrier = barrier(&tail);
            assert_eq!(tail_of(&barrier).unwrap(), tail);
            assert!(entry_of(&barrier).unwrap().is_none());
        }
        let moved = with(item, NUMBER, number(8));
        assert_eq!(entry_of(&moved).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
