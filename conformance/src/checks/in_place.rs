//! Checks that only read, for a store with content of its own: what it holds has to agree with itself.
//!
//! They look at the beginning of the feed and at the streams in it, bounded by the effort of the run; `verify` reads all.

use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq};
use crate::context::{Context, PAGE_BYTES, page_of};
use evstore_api::capabilities::{FeedOrder, Positions};
use evstore_api::{
    Commit, Content, Direction, FeedFilter, FeedItem, FeedPage, FeedStart, ListStreams, NamespaceFilter, Position,
    ReadStream, Revision, StreamId, StreamStart,
};
use std::collections::BTreeMap;

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "in-place.the-feed-accounts-for-every-position",
        "every position from the first on is an event, a marker or removed, in order and once",
        [78, 79, 91],
        the_feed_accounts_for_every_position
    ),
    check!(
        "in-place.any-place-resumes-with-the-rest",
        "reading on after any place that a page gave is the same as never having stopped",
        [87, 99],
        any_place_resumes_with_the_rest
    ),
    check!(
        "in-place.streams-are-what-the-feed-shows",
        "a stream that is read by itself has the commits, numbers, times and bytes that the feed shows of it",
        [1, 3, 13],
        streams_are_what_the_feed_shows
    ),
    check!(
        "in-place.backward-is-forward-reversed",
        "a stream that is read backward has the events of one that is read forward, in the opposite order",
        [65],
        backward_is_forward_reversed
    ),
    check!(
        "in-place.repeats-would-be-recognised",
        "a commit of the feed is found by its id, with the numbers that the feed shows",
        [25, 90],
        repeats_would_be_recognised
    ),
    check!(
        "in-place.lists-are-complete-and-ordered",
        "every stream of the feed is listed, once, in the order of namespace and name, with its head",
        [70, 108],
        lists_are_complete_and_ordered
    ),
];

/// Pages of the feed that a check looks at in an ordinary run.
const PAGES: u64 = 40;
/// Streams that a check looks at in an ordinary run.
const STREAMS: u64 = 200;

/// The beginning of the feed.
async fn beginning(context: &Context, limit: u32) -> Result<Vec<FeedPage>, Broken> {
    let (mut pages, mut from) = (Vec::new(), FeedStart::First);
    for _ in 0..context.rounds(PAGES) {
        let mut request = context.feed_request(from, FeedFilter::none());
        request.limit = limit;
        let page = context.store().read_feed(request).await?;
        let (next, end) = (page.next.clone(), page.end);
        pages.push(page);
        if end {
            break;
        }
        from = FeedStart::After(next);
    }
    Ok(pages)
}

/// The streams at the beginning of the feed, each with its commits there.
async fn streams(context: &Context) -> Result<Vec<(StreamId, Vec<Commit>)>, Broken> {
    let mut streams: BTreeMap<StreamId, Vec<Commit>> = BTreeMap::new();
    for commit in beginning(context, page_of(context.capabilities()))
        .await?
        .into_iter()
        .flat_map(|page| page.items)
        .filter_map(commit_of)
    {
        streams.entry(commit.stream.clone()).or_default().push(commit);
    }
    Ok(streams.into_iter().take(context.rounds(STREAMS) as usize).collect())
}

fn commit_of(item: FeedItem) -> Option<Commit> {
    match item {
        FeedItem::Commit(commit) => Some(commit),
        FeedItem::Removed { .. } => None,
    }
}

async fn the_feed_accounts_for_every_position(context: Context) -> Result<Outcome, Broken> {
    if context.capabilities().positions == Positions::Opaque {
        return Ok(Outcome::NotApplicable("positions are opaque".into()));
    }
    let contiguous = context.capabilities().positions == Positions::Contiguous;
    let mut last = Position(0);
    for item in beginning(&context, page_of(context.capabilities())).await?.iter().flat_map(|page| &page.items) {
        let (first, end) = match item {
            FeedItem::Removed { first, last } => (*first, *last),
            FeedItem::Commit(commit) => match (commit.first_position, commit.last_position()) {
                (Some(first), Some(end)) => (first, end),
                _ => return Err(Broken::new(format!("commit {} of {} has no position", commit.number, commit.stream))),
            },
        };
        ensure!(first > last && first <= end, "position {first} follows {last}");
        ensure!(!contiguous || first == last.next(), "position {} is not accounted for", last.next());
        last = end;
    }
    Ok(Outcome::Held)
}

async fn any_place_resumes_with_the_rest(context: Context) -> Result<Outcome, Broken> {
    if context.capabilities().order == FeedOrder::BestEffort {
        return Ok(Outcome::NotApplicable("the feed's order is best effort".into()));
    }
    let whole = beginning(&context, page_of(context.capabilities())).await?;
    let places = |pages: &[FeedPage]| -> Vec<_> {
        pages.iter().flat_map(FeedPage::events).map(|event| (event.stream().clone(), event.revision())).collect()
    };
    let small = beginning(&context, 7).await?;
    let (whole, small) = (places(&whole), places(&small));
    let shared = whole.len().min(small.len());
    ensure_eq!(small[..shared], whole[..shared], "events of small pages beside those of large ones");
    Ok(Outcome::Held)
}

async fn streams_are_what_the_feed_shows(context: Context) -> Result<Outcome, Broken> {
    for (stream, commits) in streams(&context).await? {
        let page = context.read(&stream).await?;
        let read: BTreeMap<_, _> = page.commits.iter().map(|commit| (commit.number, commit)).collect();
        for commit in commits.iter().filter(|commit| !commit.kind.is_marker() && commit.content == Content::Kept) {
            let found = read.get(&commit.number).copied();
            // Truncated or deleted between the two reads: the feed was read first.
            if found.is_none() && page.head.first_retained > commit.first_revision {
                continue;
            }
            ensure_eq!(found, Some(commit), "commit {} of {stream}", commit.number);
        }
        let revisions: Vec<_> = page.events().map(|event| event.revision()).collect();
        let wanted: Vec<_> = (page.head.first_retained.0..=page.head.revision.0).map(Revision).collect();
        ensure_eq!(revisions, wanted, "revisions of {stream} up to its head");
    }
    Ok(Outcome::Held)
}

async fn backward_is_forward_reversed(context: Context) -> Result<Outcome, Broken> {
    for (stream, _) in streams(&context).await? {
        let request = |from, direction| ReadStream {
            stream: stream.clone(),
            from,
            direction,
            limit: page_of(context.capabilities()),
            max_bytes: PAGE_BYTES,
            deadline: context.deadline(),
        };
        let forward = context.store().read_stream(request(StreamStart::First, Direction::Forward)).await?;
        let Some(last) = forward.events().last().map(|event| event.revision()) else { continue };
        let backward = context.store().read_stream(request(StreamStart::At(last), Direction::Backward)).await?;
        let ids = |page: &evstore_api::StreamPage| -> Vec<_> {
            page.events().map(|event| (event.revision(), event.event.id)).collect()
        };
        let (forward, mut backward) = (ids(&forward), ids(&backward));
        backward.reverse();
        ensure_eq!(backward, forward, "events of {stream} read backward");
    }
    Ok(Outcome::Held)
}

async fn repeats_would_be_recognised(context: Context) -> Result<Outcome, Broken> {
    for (stream, commits) in streams(&context).await? {
        // The last one that was seen is inside every window, unless the stream went on far beyond it.
        let head = context.head(&stream).await?;
        let Some(commit) = commits.last().filter(|commit| head.number.0 < commit.number.0 + 64) else { continue };
        let found = context.find(&stream, commit.id).await?;
        let numbers = found.map(|receipt| (receipt.number, receipt.first, receipt.digest, receipt.recorded_at));
        let wanted = (commit.number, commit.first_revision, commit.digest, commit.recorded_at);
        ensure_eq!(numbers, Some(wanted), "receipt of commit {} of {stream}", commit.number);
    }
    Ok(Outcome::Held)
}

async fn lists_are_complete_and_ordered(context: Context) -> Result<Outcome, Broken> {
    let shown = streams(&context).await?;
    let mut missing: BTreeMap<_, _> = shown.into_iter().collect();
    let (mut after, mut before): (Option<StreamId>, Option<StreamId>) = (None, None);
    loop {
        let page = context
            .store()
            .list_streams(ListStreams {
                namespace: NamespaceFilter::All,
                category: None,
                prefix: String::new(),
                after,
                limit: page_of(context.capabilities()),
                deadline: context.deadline(),
            })
            .await?;
        for listed in page.streams {
            ensure!(before < Some(listed.stream.clone()), "{} is listed out of order or twice", listed.stream);
            if let Some(commits) = missing.remove(&listed.stream) {
                let shown = commits.iter().map(|commit| commit.number).max();
                ensure!(shown <= Some(listed.head.number), "{} is listed with an older head", listed.stream);
            }
            before = Some(listed.stream);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    match missing.into_keys().next() {
        None => Ok(Outcome::Held),
        Some(stream) => Err(Broken::new(format!("{stream} is in the feed and not in the list"))),
    }
}
