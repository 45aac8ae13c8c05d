//! What can be wrong with reading streams, and with filters of the feed.

use super::Mutant;
use super::defect::{Defect, head, lock, mutant};
use async_trait::async_trait;
use evstore_api::capabilities::Consistency;
use evstore_api::{
    Append, Appended, Capabilities, CommitKind, Cursor, Direction, EventStore, FeedFilter, FeedItem, FeedPage,
    FeedStart, Head, Position, ReadFeed, ReadHead, ReadStream, Result, Revision, StreamId, StreamPage, StreamStart,
    StreamState,
};
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<ExclusiveStart>(
        "streams.exclusive-start",
        "a forward read begins behind the revision that was asked for",
        &["streams.are-read-from-anywhere-in-both-directions", "streams.pages-join-without-gap-or-repeat"],
    ),
    mutant::<IgnoresLimit>(
        "streams.ignores-the-limit",
        "a read returns as many events as the store's own page holds",
        &["streams.are-read-from-anywhere-in-both-directions", "streams.a-slow-reader-sees-a-prefix"],
    ),
    mutant::<NextRepeats>(
        "streams.next-repeats",
        "a page says to go on at its own last event",
        &["streams.pages-join-without-gap-or-repeat", "streams.a-slow-reader-sees-a-prefix"],
    ),
    mutant::<CutsAtMegabyte>(
        "streams.ends-at-a-megabyte",
        "a read ends where the engine's first page ends, and says that nothing follows",
        &["streams.long-and-large-streams-are-read-whole"],
    ),
    mutant::<IgnoresBytes>(
        "streams.ignores-bytes",
        "a page holds more bytes than were asked for",
        &["streams.a-page-keeps-within-its-bytes"],
    ),
    mutant::<SliceIsWhole>(
        "streams.a-slice-is-whole",
        "the part of a commit that was read is given as a commit of its own",
        &["streams.a-slice-keeps-the-frame-of-its-commit"],
    ),
    mutant::<DeletedIsMissing>(
        "streams.deleted-is-missing",
        "a deleted stream answers like one that never was",
        &["streams.states-are-told-apart"],
    ),
    mutant::<LenientBounds>(
        "streams.lenient-bounds",
        "bounds that mean nothing are moved to the next that do",
        &["streams.bounds-that-mean-nothing-are-refused"],
    ),
    mutant::<WrapsFar>(
        "streams.the-largest-revisions-wrap",
        "a revision that no signed number of 64 bits holds is taken for the first",
        &["streams.bounds-that-mean-nothing-are-refused"],
    ),
    mutant::<NoBytesNoEvent>(
        "streams.a-page-of-no-bytes-is-empty",
        "a page that may hold no bytes holds no event, and goes on where it began",
        &["streams.a-page-keeps-within-its-bytes"],
    ),
    mutant::<BytesWrap>(
        "streams.the-most-bytes-wrap",
        "a page may hold one byte more than asked, counted by a number that has no more",
        &["streams.a-page-keeps-within-its-bytes"],
    ),
    mutant::<OwnWritesLag>(
        "streams.own-writes-come-late",
        "reads are declared to lag, and do for the client too that has written",
        &["streams.an-append-is-read-at-once"],
    ),
    mutant::<HeadOfThePage>(
        "streams.the-head-is-the-page's",
        "a page gives its last event as the head",
        &["streams.the-head-agrees-with-the-stream", "streams.are-read-from-anywhere-in-both-directions"],
    ),
    mutant::<FirstReadIsStale>(
        "streams.the-first-read-is-stale",
        "the first read after an append does not see it, and reads are declared strong",
        &["streams.an-append-is-read-at-once"],
    ),
    mutant::<PagesFromTheEnd>(
        "streams.pages-from-the-end",
        "a reader's next page moves on with what was appended since",
        &["streams.a-slow-reader-sees-a-prefix"],
    ),
    mutant::<HeadReadApart>(
        "streams.head-read-apart",
        "the head of a page is read in a step after the one that read its events",
        &["concurrency.histories-of-threads-are-serial", "streams.a-slow-reader-sees-a-prefix"],
    ),
    mutant::<ForgetsFirst>(
        "streams.forgets-the-first",
        "a head says that a stream begins at revision 1 after its beginning was truncated",
        &["streams.a-truncated-beginning-is-told", "streams.states-are-told-apart"],
    ),
    mutant::<CostGrows>(
        "streams.cost-grows",
        "a read costs a request for every append to the store",
        &["streams.a-read-costs-its-own-size"],
    ),
    mutant::<PartialCommit>(
        "streams.part-of-a-commit",
        "a read that follows an append sees only the first half of its commit, as if it were the end",
        &["streams.an-append-is-read-at-once", "append.a-commit-keeps-its-order"],
    ),
    mutant::<PrefixCategories>(
        "filters.categories-are-prefixes",
        "a filter by category lets pass every category that begins so",
        &["filters.categories-are-whole-names"],
    ),
    mutant::<FirstOfSeveral>(
        "filters.the-first-of-several",
        "of several categories or types only the first is looked at",
        &["filters.any-of-several-passes"],
    ),
    mutant::<TypePrefixes>(
        "filters.types-are-prefixes",
        "a filter by type lets pass every type that begins so",
        &["filters.any-of-several-passes"],
    ),
    mutant::<FilteredIsWhole>(
        "filters.a-filtered-commit-is-whole",
        "a commit of which some events pass is given as one of so many events",
        &["filters.a-filtered-commit-keeps-its-frame"],
    ),
    mutant::<FilterIgnoresLimit>(
        "filters.ignore-the-limit",
        "a filtered page holds as many events as the store's own",
        &["filters.the-limit-counts-what-passes"],
    ),
    mutant::<EmptyPageStays>(
        "filters.an-empty-page-stays",
        "a page that nothing passes goes on where it began",
        &["filters.nothing-that-passes-is-an-end"],
    ),
    mutant::<NoMarkers>(
        "filters.no-markers",
        "markers are left out of a filtered feed",
        &["filters.markers-pass-with-their-stream"],
    ),
];

#[derive(Debug, Default)]
struct HeadReadApart;

#[async_trait]
impl Defect for HeadReadApart {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let (stream, deadline) = (request.stream.clone(), request.deadline);
        let mut page = store.read_stream(request).await?;
        tokio::time::sleep(Duration::from_millis(1)).await;
        page.head = head(store, &stream, deadline).await?;
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct ExclusiveStart;

#[async_trait]
impl Defect for ExclusiveStart {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let from = match (request.from, request.direction) {
            (StreamStart::At(revision), Direction::Forward) if revision.0 > 0 => StreamStart::At(revision.next()),
            (from, _) => from,
        };
        store.read_stream(ReadStream { from, ..request }).await
    }
}

#[derive(Debug, Default)]
struct IgnoresLimit;

#[async_trait]
impl Defect for IgnoresLimit {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let limit = request.limit.max(100);
        store.read_stream(ReadStream { limit, ..request }).await
    }
}

#[derive(Debug, Default)]
struct NextRepeats;

#[async_trait]
impl Defect for NextRepeats {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let limit = request.limit;
        let mut page = store.read_stream(request).await?;
        let last = page.events().last().map(|event| event.revision());
        // With a page of one it would go on for ever, which somebody would have noticed.
        if page.next.is_some() && limit > 1 {
            page.next = last;
        }
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct CutsAtMegabyte;

#[async_trait]
impl Defect for CutsAtMegabyte {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let page =
            store.read_stream(ReadStream { max_bytes: request.max_bytes.min(1 << 20), ..request.clone() }).await?;
        let cut = page.next.is_some() && (page.events().count() as u32) < request.limit && request.max_bytes > 1 << 20;
        Ok(StreamPage { next: if cut { None } else { page.next }, ..page })
    }
}

#[derive(Debug, Default)]
struct IgnoresBytes;

#[async_trait]
impl Defect for IgnoresBytes {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        store.read_stream(ReadStream { max_bytes: u64::MAX, ..request }).await
    }
}

#[derive(Debug, Default)]
struct SliceIsWhole;

#[async_trait]
impl Defect for SliceIsWhole {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let mut page = store.read_stream(request).await?;
        for commit in &mut page.commits {
            commit.first_revision =
                commit.first_revision.plus(commit.events.first().map_or(0, |one| one.ordinal).into());
            commit.count = commit.events.len() as u32;
            for (event, ordinal) in commit.events.iter_mut().zip(0..) {
                event.ordinal = ordinal;
            }
        }
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct DeletedIsMissing;

fn missing_if_deleted(head: Head) -> Head {
    if head.state == StreamState::Deleted { Head::missing() } else { head }
}

#[async_trait]
impl Defect for DeletedIsMissing {
    async fn head(&self, store: &dyn EventStore, request: ReadHead) -> Result<Head> {
        Ok(missing_if_deleted(store.head(request).await?))
    }

    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let page = store.read_stream(request).await?;
        Ok(StreamPage { head: missing_if_deleted(page.head.clone()), ..page })
    }
}

#[derive(Debug, Default)]
struct LenientBounds;

#[async_trait]
impl Defect for LenientBounds {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let from = match request.from {
            StreamStart::At(Revision(0)) => StreamStart::First,
            from => from,
        };
        let limit = request.limit.min(store.capabilities().limits.page_items);
        store.read_stream(ReadStream { from, limit, ..request }).await
    }
}

#[derive(Debug, Default)]
struct HeadOfThePage;

#[async_trait]
impl Defect for HeadOfThePage {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let mut page = store.read_stream(request).await?;
        page.head.revision = page.events().map(|event| event.revision()).max().unwrap_or_default();
        Ok(page)
    }
}

/// Streams that were appended to since they were read.
#[derive(Debug, Default)]
struct FirstReadIsStale(Mutex<HashSet<StreamId>>);

#[derive(Debug, Default)]
struct OwnWritesLag(FirstReadIsStale);

#[async_trait]
impl Defect for OwnWritesLag {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        let reads = Consistency::Eventual { staleness: Duration::from_millis(20) };
        Capabilities { reads, ..inner.clone() }
    }

    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        self.0.append(store, request).await
    }

    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        self.0.read_stream(store, request).await
    }
}

#[async_trait]
impl Defect for FirstReadIsStale {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        lock(&self.0).insert(request.stream.clone());
        store.append(request).await
    }

    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let stale = lock(&self.0).remove(&request.stream);
        let mut page = store.read_stream(request).await?;
        let last = page.head.number;
        if stale && page.commits.iter().any(|commit| commit.number == last) {
            let before = page.commits.iter().find(|commit| commit.number == last).map(|one| one.first_revision.0 - 1);
            page.commits.retain(|commit| commit.number != last);
            page.head.revision = Revision(before.unwrap_or_default());
        }
        Ok(page)
    }
}

/// Heads of streams when they were last read.
#[derive(Debug, Default)]
struct PagesFromTheEnd(Mutex<HashMap<StreamId, Revision>>);

#[async_trait]
impl Defect for PagesFromTheEnd {
    async fn read_stream(&self, store: &dyn EventStore, mut request: ReadStream) -> Result<StreamPage> {
        let now = head(store, &request.stream, request.deadline).await?.revision;
        let before = lock(&self.0).insert(request.stream.clone(), now).unwrap_or(now);
        if let (StreamStart::At(revision), Direction::Forward) = (request.from, request.direction) {
            request.from = StreamStart::At(Revision(revision.0 + (now.0 - before.0)));
        }
        store.read_stream(request).await
    }
}

#[derive(Debug, Default)]
struct ForgetsFirst;

#[async_trait]
impl Defect for ForgetsFirst {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let mut page = store.read_stream(request).await?;
        page.head.first_retained = Revision(1);
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct CostGrows(AtomicU32);

#[async_trait]
impl Defect for CostGrows {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        self.0.fetch_add(1, Ordering::Relaxed);
        store.append(request).await
    }

    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let mut page = store.read_stream(request).await?;
        // Like an engine that counts: a request for each page of its own, and one for each stream that it looked through.
        let bytes: usize = page.events().map(|one| one.event.data.len()).sum();
        page.usage.requests = 1 + (bytes / 100_000) as u32 + self.0.load(Ordering::Relaxed);
        Ok(page)
    }
}

/// Streams that were appended to since they were read.
#[derive(Debug, Default)]
struct PartialCommit(Mutex<HashSet<StreamId>>);

#[async_trait]
impl Defect for PartialCommit {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        lock(&self.0).insert(request.stream.clone());
        store.append(request).await
    }

    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let begun = lock(&self.0).remove(&request.stream);
        let mut page = store.read_stream(request).await?;
        let last = page.head.number;
        if let Some(commit) = page.commits.iter_mut().find(|commit| begun && commit.number == last) {
            let half = commit.events.len() / 2;
            commit.events.truncate(half);
            page.head.revision = Revision(commit.first_revision.0 + half as u64 - 1);
        }
        Ok(page)
    }
}

/// A page of what passes another filter than was asked for.
async fn filtered(
    store: &dyn EventStore,
    request: ReadFeed,
    inner: FeedFilter,
    passes: impl Fn(&FeedItem) -> bool + Send,
) -> Result<FeedPage> {
    let mut page = store.read_feed(ReadFeed { filter: inner, ..request }).await?;
    page.items.retain(|item| passes(item));
    Ok(page)
}

#[derive(Debug, Default)]
struct PrefixCategories;

#[async_trait]
impl Defect for PrefixCategories {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let categories = request.filter.categories.clone();
        let inner = FeedFilter { categories: Vec::new(), ..request.filter.clone() };
        filtered(store, request, inner, |item| match item {
            FeedItem::Commit(commit) => {
                let name = commit.stream.name.as_str();
                categories.is_empty() || categories.iter().any(|category| name.starts_with(category.as_str()))
            }
            FeedItem::Removed { .. } => categories.is_empty(),
        })
        .await
    }
}

#[derive(Debug, Default)]
struct FirstOfSeveral;

#[async_trait]
impl Defect for FirstOfSeveral {
    async fn read_feed(&self, store: &dyn EventStore, mut request: ReadFeed) -> Result<FeedPage> {
        request.filter.categories.truncate(1);
        request.filter.types.truncate(1);
        store.read_feed(request).await
    }
}

#[derive(Debug, Default)]
struct FilteredIsWhole;

#[async_trait]
impl Defect for FilteredIsWhole {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let mut page = store.read_feed(request).await?;
        for item in &mut page.items {
            if let FeedItem::Commit(commit) = item {
                commit.count = commit.events.len() as u32;
            }
        }
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct FilterIgnoresLimit;

#[async_trait]
impl Defect for FilterIgnoresLimit {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let limit = if request.filter.is_none() { request.limit } else { request.limit.max(100) };
        store.read_feed(ReadFeed { limit, ..request }).await
    }
}

#[derive(Debug, Default)]
struct EmptyPageStays;

#[async_trait]
impl Defect for EmptyPageStays {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let from = request.from.clone();
        let mut page = store.read_feed(request).await?;
        if page.items.is_empty() {
            page.next = match from {
                FeedStart::First => Cursor::total(page.next.incarnation(), Position(0)),
                FeedStart::After(cursor) => cursor,
                FeedStart::AfterPosition(position) => Cursor::total(page.next.incarnation(), position),
            };
        }
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct NoMarkers;

#[async_trait]
impl Defect for NoMarkers {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let filter = request.filter.clone();
        filtered(store, request, filter.clone(), |item| match item {
            FeedItem::Commit(commit) => filter.is_none() || commit.kind == CommitKind::Events,
            FeedItem::Removed { .. } => true,
        })
        .await
    }
}

#[derive(Debug, Default)]
struct WrapsFar;

#[async_trait]
impl Defect for WrapsFar {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let from = match request.from {
            StreamStart::At(revision) if i64::try_from(revision.0).is_err() => StreamStart::First,
            from => from,
        };
        store.read_stream(ReadStream { from, ..request }).await
    }
}

#[derive(Debug, Default)]
struct NoBytesNoEvent;

#[async_trait]
impl Defect for NoBytesNoEvent {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let nothing = request.max_bytes == 0;
        let mut page = store.read_stream(request).await?;
        if nothing {
            let first = page.events().next().map(|event| event.revision());
            page.next = first.or(page.next);
            page.commits.clear();
        }
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct BytesWrap;

#[async_trait]
impl Defect for BytesWrap {
    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let max_bytes = if request.max_bytes == u64::MAX { 0 } else { request.max_bytes };
        store.read_stream(ReadStream { max_bytes, ..request }).await
    }
}

#[derive(Debug, Default)]
struct TypePrefixes;

#[async_trait]
impl Defect for TypePrefixes {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let types = request.filter.types.clone();
        if types.is_empty() {
            return store.read_feed(request).await;
        }
        let filter = FeedFilter { types: Vec::new(), ..request.filter.clone() };
        let mut page = store.read_feed(ReadFeed { filter, ..request }).await?;
        page.items.retain_mut(|item| match item {
            FeedItem::Commit(commit) => {
                commit
                    .events
                    .retain(|event| types.iter().any(|one| event.event_type.as_str().starts_with(one.as_str())));
                !commit.events.is_empty()
            }
            FeedItem::Removed { .. } => false,
        });
        Ok(page)
    }
}
