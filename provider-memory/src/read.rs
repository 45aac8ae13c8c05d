//! Reading: heads, streams, the feed and its end, lists, slots.

use crate::schema::{Place, Placed, Tables};
use crate::store::Client;
use evstore_api::{
    Commit, CommitsPage, Cursor, Deadline, Direction, FeedHead, FeedItem, FeedPage, Head, Lag, ListStreams,
    ListedStream, Position, ReadCommits, ReadFeed, ReadHead, ReadStream, Result, Revision, StreamId, StreamPage,
    StreamsPage, Usage, WaitFeed, Waited,
};
use evstore_kit::feed_page::{self, Assembler};
use evstore_kit::limits;
use evstore_kit::stream_page::{self, Slicer};
use std::ops::{Bound, ControlFlow};
use std::time::Duration;

/// Reads a stream's head.
pub fn head(client: &Client, request: &ReadHead) -> Result<Head> {
    Ok(client.enter(request.deadline)?.head(&request.stream, client.own()))
}

/// Reads events of a stream.
pub fn read_stream(client: &Client, request: &ReadStream) -> Result<StreamPage> {
    stream_page::check_start(request.from)?;
    limits::check_page_max(client.limits(), request.limit)?;
    let tables = client.enter(request.deadline)?;
    let mut page = Slicer::new(request, tables.head(&request.stream, client.own()));
    if let (Some(start), Some(stream)) = (page.wants(), tables.streams.get(&request.stream)) {
        let _: ControlFlow<()> = match request.direction {
            Direction::Forward => {
                let first = place_of(&stream.commits, start);
                stream.commits[first..].iter().try_for_each(|commit| page.push(commit.clone()))
            }
            Direction::Backward => {
                let last = place_of(&stream.commits, start);
                stream.commits[..=last].iter().rev().try_for_each(|commit| page.push(commit.clone()))
            }
        };
    }
    page.finish(Usage::default())
}

/// Where the commit stands that holds an event.
fn place_of(commits: &[Commit], revision: Revision) -> usize {
    commits.partition_point(|commit| commit.last_revision() < revision)
}

/// Reads the feed.
pub fn read_feed(client: &Client, request: &ReadFeed) -> Result<FeedPage> {
    limits::check_page(client.limits(), request.limit)?;
    let tables = client.enter(request.deadline)?;
    let after = feed_page::start(&tables.meta, &request.from)?;
    let mut page = Assembler::new(request, after);
    let mut places = tables.places_after(after);
    let _: ControlFlow<()> = places.try_for_each(|(first, place)| match item(&tables, first, place) {
        Some(item) => page.push(item),
        None => ControlFlow::Continue(()),
    });
    Ok(page.finish(tables.meta.incarnation(), tables.last_position, Usage::default()))
}

fn item(tables: &Tables, first: Position, place: &Place) -> Option<FeedItem> {
    match &place.content {
        Placed::Commit(stream, number) => tables.commit(stream, *number).cloned().map(FeedItem::Commit),
        Placed::Removed => Some(FeedItem::Removed { first, last: place.last }),
    }
}

/// Waits until the feed has more. The deadline is an answer here, not an error.
pub async fn wait_feed(client: &Client, request: &WaitFeed) -> Result<Waited> {
    // Heard from before the first look, so that nothing rings unheard between a look and a wait.
    let mut bell = client.listen();
    loop {
        if has_more(client, &request.after)? {
            return Ok(Waited::More);
        }
        match tokio::time::timeout_at(request.deadline.0.into(), bell.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Ok(Waited::DeadlinePassed),
        }
    }
}

fn has_more(client: &Client, after: &Cursor) -> Result<bool> {
    let tables = client.tables()?;
    Ok(tables.last_position > tables.meta.position_of(after)?)
}

/// Reads the end of the feed, which is never behind the streams.
pub fn feed_head(client: &Client, deadline: Deadline) -> Result<FeedHead> {
    let tables = client.enter(deadline)?;
    Ok(FeedHead {
        cursor: Cursor::total(tables.meta.incarnation(), tables.last_position),
        position: Some(tables.last_position),
        lag: Lag { commits: 0, age: Duration::ZERO },
        usage: Usage::default(),
    })
}

/// Lists streams.
pub fn list_streams(client: &Client, request: &ListStreams) -> Result<StreamsPage> {
    limits::check_page(client.limits(), request.limit)?;
    let tables = client.enter(request.deadline)?;
    let after = request.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let listed = |stream: &StreamId| {
        request.namespace.covers(&stream.namespace)
            && request.category.as_ref().is_none_or(|category| stream.name.category() == *category)
            && stream.name.as_str().starts_with(&request.prefix)
    };
    let mut found = tables.streams.range((after, Bound::Unbounded)).filter(|(id, _)| listed(id));
    let streams: Vec<_> = found
        .by_ref()
        .take(request.limit as usize)
        .map(|(id, stream)| ListedStream { stream: id.clone(), head: stream.head(&tables.meta, client.own()) })
        .collect();
    let next = found.next().and_then(|_| streams.last()).map(|last| last.stream.clone());
    Ok(StreamsPage { streams, next, usage: Usage::default() })
}

/// Reads the slots of a stream.
pub fn read_commits(client: &Client, request: &ReadCommits) -> Result<CommitsPage> {
    limits::check_read_commits(client.limits(), request)?;
    let tables = client.enter(request.deadline)?;
    let mut commits: Vec<Commit> = Vec::new();
    let mut next = Some(request.from);
    let mut bytes_left = request.max_bytes;
    while let Some(commit) = next.and_then(|number| tables.commit(&request.stream, number)) {
        let bytes = commit.events.iter().map(limits::event_bytes).sum();
        let fits = commits.is_empty() || (commits.len() < request.limit as usize && bytes <= bytes_left);
        if !fits {
            return Ok(CommitsPage { commits, next, usage: Usage::default() });
        }
        bytes_left = bytes_left.saturating_sub(bytes);
        next = Some(commit.number.next());
        commits.push(commit.clone());
    }
    Ok(CommitsPage { commits, next: None, usage: Usage::default() })
}
