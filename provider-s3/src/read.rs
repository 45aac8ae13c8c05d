//! Reading: heads, streams, the feed and its end, lists, slots. What there is is told by the state; events are fetched for it.

use crate::payload::{Delivered, Entry, deliver};
use crate::store::Client;
use crate::tables::{Placed, Tables};
use evstore_api::{
    Commit, CommitsPage, Cursor, Deadline, Direction, Error, ErrorKind, FeedHead, FeedItem, FeedPage, Head, Lag,
    ListStreams, ListedStream, ReadCommits, ReadFeed, ReadHead, ReadStream, Result, StreamId, StreamPage, StreamsPage,
    Usage, WaitFeed, Waited,
};
use evstore_kit::feed_page::{self, Assembler, PASSED_OVER_ITEMS_MAX};
use evstore_kit::limits;
use evstore_kit::stream_page::{self, Slicer};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::time::Duration;

/// Times that a page is begun anew because something of it was removed while it was fetched.
const TRIES_MAX: u32 = 10;

fn disturbed() -> Error {
    Error::new(ErrorKind::Unavailable, "what is read is being removed just now")
}

/// Reads a stream's head.
pub async fn head(client: &Client, request: &ReadHead) -> Result<Head> {
    let _open = client.enter(request.deadline).await?;
    let mut usage = Usage::default();
    client.look(request.deadline, &mut usage, |tables| Ok(tables.head(&request.stream, client.own()))).await
}

/// Reads events of a stream.
pub async fn read_stream(client: &Client, request: &ReadStream) -> Result<StreamPage> {
    stream_page::check_start(request.from)?;
    limits::check_page_max(client.limits(), request.limit)?;
    let _open = client.enter(request.deadline).await?;
    let mut usage = Usage::default();
    for _ in 0..TRIES_MAX {
        let (mut page, entries) = client
            .look(request.deadline, &mut usage, |tables| {
                let page = Slicer::new(request, tables.head(&request.stream, client.own()));
                let entries = stream_entries(tables, request, &page);
                Ok((page, entries))
            })
            .await?;
        let push = |item| match item {
            FeedItem::Commit(commit) => page.push(commit),
            FeedItem::Removed { .. } => ControlFlow::Continue(()),
        };
        match deliver(client, &entries, request.max_bytes, request.deadline, &mut usage, push).await? {
            Delivered::Whole => return page.finish(usage),
            Delivered::Outdated => {}
        }
    }
    Err(disturbed())
}

/// The commits that a page may take, in the order of reading.
fn stream_entries(tables: &Tables, request: &ReadStream, page: &Slicer) -> Vec<Entry> {
    let (Some(start), Some((stream, found))) = (page.wants(), tables.streams.get_key_value(&request.stream)) else {
        return Vec::new();
    };
    let first = found.frames.partition_point(|frame| frame.last_revision() < start);
    let numbered = found.frames.iter().zip(1..).map(|(frame, number)| (evstore_api::CommitNumber(number), frame));
    // Of the first one perhaps only an event is wanted.
    let mut events = 0;
    let mut wanted = |(number, frame): (evstore_api::CommitNumber, &crate::tables::Frame)| {
        if events > u64::from(request.limit) {
            return None;
        }
        events += if events == 0 { 1 } else { u64::from(frame.count) };
        Some(Entry::Commit { stream: stream.clone(), number, frame: frame.clone() })
    };
    match request.direction {
        Direction::Forward => numbered.skip(first).map_while(&mut wanted).collect(),
        Direction::Backward => {
            let until: Vec<_> = numbered.take(first + 1).collect();
            until.into_iter().rev().map_while(&mut wanted).collect()
        }
    }
}

/// Reads the feed.
pub async fn read_feed(client: &Client, request: &ReadFeed) -> Result<FeedPage> {
    limits::check_page(client.limits(), request.limit)?;
    let _open = client.enter(request.deadline).await?;
    let mut usage = Usage::default();
    for _ in 0..TRIES_MAX {
        let (mut page, entries, incarnation, end) = client
            .look(request.deadline, &mut usage, |tables| {
                let after = feed_page::start(tables.meta(), &request.from)?;
                // Each is taken, or is among those that may be passed over; the page breaks at the next.
                let most = request.limit as usize + PASSED_OVER_ITEMS_MAX as usize + 1;
                let entries: Vec<Entry> = tables
                    .places_after(after)
                    .take(most)
                    .filter_map(|(first, place)| match &place.content {
                        Placed::Removed => Some(Entry::Removed { first, last: place.last }),
                        Placed::Commit(stream, number) => {
                            let frame = tables.frame(stream, *number)?.clone();
                            Some(Entry::Commit { stream: stream.clone(), number: *number, frame })
                        }
                    })
                    .collect();
                let page = Assembler::new(request, after);
                Ok((page, entries, tables.meta().incarnation(), tables.last_position))
            })
            .await?;
        let push = |item| page.push(item);
        match deliver(client, &entries, request.max_bytes, request.deadline, &mut usage, push).await? {
            Delivered::Whole => return Ok(page.finish(incarnation, end, usage)),
            Delivered::Outdated => {}
        }
    }
    Err(disturbed())
}

/// Waits until the feed has more. The deadline is an answer here, not an error. Each look is one request; of those who wait on one
/// handle, those that look at the same time share it.
pub async fn wait_feed(client: &Client, request: &WaitFeed) -> Result<Waited> {
    // Heard from before the first look, so that nothing rings unheard between a look and a wait.
    let mut bell = client.listen();
    loop {
        bell.borrow_and_update();
        if has_more(client, &request.after).await? {
            return Ok(Waited::More);
        }
        if request.deadline.has_passed() {
            return Ok(Waited::DeadlinePassed);
        }
        let pause = client.config().feed_poll.min(request.deadline.remaining());
        // Whether it rang or it is time to look: both look.
        let _rang = tokio::time::timeout(pause, bell.changed()).await;
        client.check_open()?;
    }
}

async fn has_more(client: &Client, after: &Cursor) -> Result<bool> {
    let deadline = client.patience();
    let _open = client.enter(deadline).await?;
    let more = |tables: &Tables| Ok(tables.last_position > tables.meta().position_of(after)?);
    // What this handle knows is enough to say yes.
    let mut usage = Usage::default();
    client.opened(deadline, &mut usage).await?;
    if more(&client.tables())? {
        return Ok(true);
    }
    client.look(deadline, &mut usage, more).await
}

/// Reads the end of the feed, which is never behind the streams.
pub async fn feed_head(client: &Client, deadline: Deadline) -> Result<FeedHead> {
    let _open = client.enter(deadline).await?;
    let mut usage = Usage::default();
    let (incarnation, last) =
        client.look(deadline, &mut usage, |tables| Ok((tables.meta().incarnation(), tables.last_position))).await?;
    Ok(FeedHead {
        cursor: Cursor::total(incarnation, last),
        position: Some(last),
        lag: Lag { commits: 0, age: Duration::ZERO },
        usage,
    })
}

/// Lists streams.
pub async fn list_streams(client: &Client, request: &ListStreams) -> Result<StreamsPage> {
    limits::check_page(client.limits(), request.limit)?;
    let _open = client.enter(request.deadline).await?;
    let mut usage = Usage::default();
    let listed = |stream: &StreamId| {
        request.namespace.covers(&stream.namespace)
            && request.category.as_ref().is_none_or(|category| stream.name.category() == *category)
            && stream.name.as_str().starts_with(&request.prefix)
    };
    let (streams, next) = client
        .look(request.deadline, &mut usage, |tables| {
            let after = request.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let streams = tables.streams.range::<StreamId, _>((after, Bound::Unbounded));
            let mut found = streams.filter(|(id, _)| listed(id));
            let head = |stream: &crate::tables::Stream| stream.head(tables.meta(), client.own());
            let item = |(id, stream): (&Arc<StreamId>, _)| ListedStream { stream: (**id).clone(), head: head(stream) };
            let streams: Vec<_> = found.by_ref().take(request.limit as usize).map(item).collect();
            let next = found.next().and_then(|_| streams.last()).map(|last| last.stream.clone());
            Ok((streams, next))
        })
        .await?;
    Ok(StreamsPage { streams, next, usage })
}

/// Reads the slots of a stream.
pub async fn read_commits(client: &Client, request: &ReadCommits) -> Result<CommitsPage> {
    limits::check_read_commits(client.limits(), request)?;
    let _open = client.enter(request.deadline).await?;
    let mut usage = Usage::default();
    for _ in 0..TRIES_MAX {
        let (entries, more) = client
            .look(request.deadline, &mut usage, |tables| {
                let Some((stream, found)) = tables.streams.get_key_value(&request.stream) else {
                    return Ok((Vec::new(), false));
                };
                let first = usize::try_from(request.from.0 - 1).unwrap_or(usize::MAX);
                let rest = found.frames.get(first..).unwrap_or_default();
                let taken = rest.iter().take(request.limit as usize).zip(request.from.0..);
                let entry = |(frame, number): (&crate::tables::Frame, u64)| Entry::Commit {
                    stream: stream.clone(),
                    number: evstore_api::CommitNumber(number),
                    frame: frame.clone(),
                };
                Ok((taken.map(entry).collect::<Vec<_>>(), rest.len() > request.limit as usize))
            })
            .await?;
        let mut commits: Vec<Commit> = Vec::new();
        let mut bytes_left = request.max_bytes;
        let push = |item| {
            let FeedItem::Commit(commit) = item else { return ControlFlow::Continue(()) };
            let bytes = commit.events.iter().map(limits::event_bytes).sum();
            if !commits.is_empty() && bytes > bytes_left {
                return ControlFlow::Break(());
            }
            bytes_left = bytes_left.saturating_sub(bytes);
            commits.push(commit);
            ControlFlow::Continue(())
        };
        match deliver(client, &entries, request.max_bytes, request.deadline, &mut usage, push).await? {
            Delivered::Whole => {
                let cut = more || commits.len() < entries.len();
                let next = commits.last().filter(|_| cut).map(|last| last.number.next());
                return Ok(CommitsPage { commits, next, usage });
            }
            Delivered::Outdated => {}
        }
    }
    Err(disturbed())
}
