//! Walks that are longer than a page of any engine: properties 66, 67, 78, 108 and 127.

use super::feed::catch_up;
use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::{Context, Fresh, PAGE_BYTES, event_type};
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    CommitNumber, Error, Expected, FeedFilter, FeedStart, ListRecords, ListStreams, NamespaceFilter, NewEvent,
    PutRecord, ReadCommits, ReadFeed, ReadStream, RecordExpected, RecordKey, RecordKind, RecordName, Revision,
    StreamId, StreamStart,
};

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "pages.no-walk-ends-early",
        "a stream, its slots, the feed, the list of streams and that of records are walked whole, beyond every page of an engine",
        [66, 67, 78, 108, 127],
        no_walk_ends_early
    ),
    check!(
        "pages.limits-of-slots-are-kept",
        "a page of slots begins where it was asked to, holds one at least and no more than asked, and refuses what is no limit",
        [65, 66, 69, 194],
        limits_of_slots_are_kept
    ),
];

/// Commits of one stream, streams, and records: more than a thousand, which is the page of many engines.
const COUNT: usize = 1_100;
/// Bytes of each event, so that the feed is larger than two megabytes.
const BYTES: usize = 1_024;
/// Callers that make them.
const TASKS: usize = 32;

async fn no_walk_ends_early(context: Context) -> Result<Outcome, Broken> {
    let (fresh, stream) = (context.fresh().await?, context.stream());
    let answers = context
        .together(TASKS, |task| {
            let (context, fresh, stream) = (context.clone(), fresh.clone(), stream.clone());
            async move {
                for number in (task..COUNT).step_by(TASKS) {
                    make(&context, &fresh, &stream, number).await?;
                }
                Ok::<(), Error>(())
            }
        })
        .await?;
    answers.into_iter().collect::<Result<Vec<_>, Error>>()?;
    catch_up(&context, &*fresh.admin).await?;
    context.settle().await;
    context.settle_lists().await;
    let most = context.capabilities().limits.page_items;
    let mut limits: Vec<u32> = [999, 1_000, 1_001, most].into_iter().filter(|limit| *limit <= most).collect();
    limits.dedup();
    for limit in limits {
        walk_stream(&context, &fresh, &stream, limit).await?;
        walk_slots(&context, &fresh, &stream, limit).await?;
        walk_feed(&context, &fresh, limit).await?;
        walk_lists(&context, &fresh, limit).await?;
    }
    Ok(Outcome::Held)
}

async fn limits_of_slots_are_kept(context: Context) -> Result<Outcome, Broken> {
    let (stream, missing) = (context.stream(), context.stream());
    for _ in 0..4 {
        // Commits of two events of 50 bytes: neither events nor bytes are what a limit counts here.
        let events = (0..2).map(|_| NewEvent::new(event_type("Tried"), vec![7; 50])).collect();
        context.append_events(&stream, Expected::Any, events).await?;
    }
    let page = async |stream: &StreamId, from, limit, max_bytes| {
        let (stream, deadline) = (stream.clone(), context.deadline());
        let request = ReadCommits { stream, from: CommitNumber(from), limit, max_bytes, deadline };
        let page = context.admin().read_commits(request).await?;
        let numbers = page.commits.iter().map(|commit| commit.number.0).collect();
        Ok::<(Vec<u64>, Option<u64>), Error>((numbers, page.next.map(|next| next.0)))
    };
    let most = context.capabilities().limits.page_items;
    for stream in [&stream, &missing] {
        ensure_kind!(page(stream, 1, 0, PAGE_BYTES).await, Invalid, "a page of no slot");
        ensure_kind!(page(stream, 0, 1, PAGE_BYTES).await, Invalid, "a page from slot 0");
        if let Some(beyond) = most.checked_add(1) {
            ensure_kind!(page(stream, 1, beyond, PAGE_BYTES).await, Invalid, "a page of one slot more than declared");
        }
        for far in [5, NUMBER_MAX, NUMBER_MAX + 1, u64::MAX] {
            ensure_eq!(page(stream, far, 3, PAGE_BYTES).await?, (vec![], None), "slots from {far} on, of four or none");
        }
    }
    ensure_eq!(page(&missing, 1, most, PAGE_BYTES).await?, (vec![], None), "slots of a missing stream");
    for (from, limit, max_bytes, slots, next) in [
        (1, most, PAGE_BYTES, vec![1, 2, 3, 4], None),
        (1, most, u64::MAX, vec![1, 2, 3, 4], None),
        (1, 3, PAGE_BYTES, vec![1, 2, 3], Some(4)),
        (2, 1, PAGE_BYTES, vec![2], Some(3)),
        (4, 1, PAGE_BYTES, vec![4], None),
        (1, most, 0, vec![1], Some(2)),
        (2, most, 99, vec![2], Some(3)),
        (2, most, 200, vec![2, 3], Some(4)),
    ] {
        let (found, goes_on) = page(&stream, from, limit, max_bytes).await?;
        let what = format!("a page of {limit} slots and {max_bytes} bytes from {from} on");
        ensure_eq!(found, slots, "slots of {what}");
        // At the end it may be left to the next page to say so.
        let ends = next.is_none() && goes_on == Some(5);
        ensure!(goes_on == next || ends, "{what} says to go on at {goes_on:?}, wanted {next:?}");
    }
    Ok(Outcome::Held)
}

/// A commit of the long stream, one of a stream of its own, and a record.
async fn make(context: &Context, fresh: &Fresh, stream: &StreamId, number: usize) -> Result<(), Error> {
    let own = StreamId::new(format!("{}-{number:05}", context.category()))?;
    for stream in [stream, &own] {
        let event = NewEvent::new(event_type("Tried"), vec![number as u8; BYTES]);
        fresh.store.append(context.request(stream, Expected::Any, context.commit_id(), vec![event])?).await?;
    }
    let key = RecordKey { kind: RecordKind::Checkpoint, name: RecordName::new(format!("walked-{number:05}"))? };
    let (expected, value) = (RecordExpected::Any, Some(format!("{number}").into()));
    fresh.store.put_record(PutRecord { key, expected, value, deadline: context.deadline() }).await?;
    Ok(())
}

async fn walk_stream(context: &Context, fresh: &Fresh, stream: &StreamId, limit: u32) -> Result<(), Broken> {
    let (mut from, mut found) = (StreamStart::First, Vec::new());
    loop {
        let request = ReadStream { limit, ..context.read_request(stream, from) };
        let page = fresh.store.read_stream(request).await?;
        found.extend(page.events().map(|event| event.revision().0));
        ensure!(found.len() <= COUNT, "a walk of limit {limit} gives more than the stream has");
        match page.next {
            Some(next) => from = StreamStart::At(next),
            None => break,
        }
    }
    let wanted: Vec<u64> = (1..=COUNT as u64).collect();
    ensure!(found == wanted, "a stream of {COUNT} events is walked in pages of {limit} as {} events", found.len());
    let last = ReadStream { limit, ..context.read_request(stream, StreamStart::At(Revision(COUNT as u64 - 1))) };
    ensure_eq!(fresh.store.read_stream(last).await?.events().count(), 2, "the last two events in a page of {limit}");
    Ok(())
}

async fn walk_slots(context: &Context, fresh: &Fresh, stream: &StreamId, limit: u32) -> Result<(), Broken> {
    for first in [1, 500] {
        let (mut next, mut found) = (Some(CommitNumber(first)), Vec::new());
        while let Some(from) = next {
            let (max_bytes, deadline) = (PAGE_BYTES, context.deadline());
            let request = ReadCommits { stream: stream.clone(), from, limit, max_bytes, deadline };
            let page = fresh.admin.read_commits(request).await?;
            found.extend(page.commits.iter().map(|commit| commit.number.0));
            ensure!(found.len() <= COUNT, "a walk of limit {limit} gives more slots than the stream has");
            next = page.next;
        }
        let wanted: Vec<u64> = (first..=COUNT as u64).collect();
        ensure!(found == wanted, "{COUNT} slots are walked from {first} in pages of {limit} as {}", found.len());
    }
    Ok(())
}

async fn walk_feed(context: &Context, fresh: &Fresh, limit: u32) -> Result<(), Broken> {
    let (mut from, mut found) = (FeedStart::First, 0);
    loop {
        let request = ReadFeed { limit, ..context.feed_request(from, FeedFilter::none()) };
        let page = fresh.store.read_feed(request).await?;
        found += page.events().count();
        ensure!(found <= 2 * COUNT, "a walk of limit {limit} gives more than the feed has");
        if page.end {
            break;
        }
        from = FeedStart::After(page.next);
    }
    ensure_eq!(found, 2 * COUNT, "events of the feed up to the page of limit {limit} that says that it is the last");
    Ok(())
}

async fn walk_lists(context: &Context, fresh: &Fresh, limit: u32) -> Result<(), Broken> {
    let (mut after, mut found) = (None, 0);
    loop {
        let (namespace, prefix, deadline) = (NamespaceFilter::All, String::new(), context.deadline());
        let page =
            fresh.store.list_streams(ListStreams { namespace, category: None, prefix, after, limit, deadline }).await?;
        found += page.streams.len();
        ensure!(found <= COUNT + 1, "a walk of limit {limit} gives more streams than there are");
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    ensure_eq!(found, COUNT + 1, "streams in lists of {limit}");
    let (mut after, mut found) = (None, 0);
    loop {
        let (kind, deadline) = (RecordKind::Checkpoint, context.deadline());
        let page = fresh.store.list_records(ListRecords { kind, after, limit, deadline }).await?;
        found += page.records.len();
        ensure!(found <= COUNT, "a walk of limit {limit} gives more records than there are");
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    ensure_eq!(found, COUNT, "records in lists of {limit}");
    Ok(())
}
