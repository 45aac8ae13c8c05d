//! Walks over everything in a store, in feed order, up to where the feed ended when the walk began: commits with their
//! events, markers, stubs of what was stripped, and removed ranges. What `export` writes and `verify` checks.

use crate::failure::Result;
use crate::session::deadline;
use evstore_api::{
    AdvanceFeed, Commit, CommitNumber, Content, Error, ErrorKind, EventStore, FeedFilter, FeedItem, FeedStart,
    ListStreams, NamespaceFilter, Position, ReadCommits, ReadFeed, StoreAdmin, StreamId, StreamState,
};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

/// Most bytes of data and metadata in a page.
const PAGE_BYTES: u64 = 4 << 20;
/// Stubs that are kept in memory at a time, over all streams; each stream has at least one.
const STUBS_MAX: usize = 65_536;

/// A walk that is under way.
pub struct Walk {
    store: Arc<dyn EventStore>,
    admin: Arc<dyn StoreAdmin>,
    stubs: Stubs,
    from: Option<FeedStart>,
    through: Option<Position>,
}

impl Walk {
    /// Begins at the first position.
    ///
    /// # Errors
    /// As the store's feed and list of streams.
    pub async fn begin(store: Arc<dyn EventStore>, admin: Arc<dyn StoreAdmin>) -> Result<Self> {
        let head = admin.advance_feed(AdvanceFeed { deadline: deadline() }).await?.head;
        let stubs = Stubs::find(&*store, &*admin, Position(0)).await?;
        Ok(Self { store, admin, stubs, from: Some(FeedStart::First), through: head.position })
    }

    /// The last position of the walk; none where the store has no positions.
    #[must_use]
    pub fn through(&self) -> Option<Position> {
        self.through
    }

    /// The next items, at least one; none at the end.
    ///
    /// # Errors
    /// As the store's feed.
    pub async fn next(&mut self) -> Result<Option<Vec<FeedItem>>> {
        while let Some(from) = self.from.take() {
            let request = ReadFeed {
                from,
                filter: FeedFilter::none(),
                limit: self.store.capabilities().limits.page_items,
                max_bytes: PAGE_BYTES,
                deadline: deadline(),
            };
            let page = self.store.read_feed(request).await?;
            let mut items = Vec::with_capacity(page.items.len());
            let mut ended = page.end;
            for item in page.items {
                if self.is_past_end(&item) {
                    ended = true;
                    break;
                }
                self.add(item, &mut items).await?;
            }
            if !ended {
                self.from = Some(FeedStart::After(page.next));
            }
            if !items.is_empty() {
                return Ok(Some(items));
            }
        }
        Ok(None)
    }

    /// Whether an item was written after the walk began.
    fn is_past_end(&self, item: &FeedItem) -> bool {
        let first = match item {
            FeedItem::Commit(commit) => commit.first_position,
            FeedItem::Removed { first, .. } => Some(*first),
        };
        matches!((first, self.through), (Some(first), Some(through)) if first > through)
    }

    /// Adds an item; a removed range as the stubs in it and what is left of it.
    async fn add(&mut self, item: FeedItem, items: &mut Vec<FeedItem>) -> Result {
        let (first, last) = match item {
            FeedItem::Commit(commit) => {
                if let Some(position) = commit.first_position {
                    self.stubs.drop_through(&*self.admin, position).await?;
                }
                items.push(FeedItem::Commit(commit));
                return Ok(());
            }
            FeedItem::Removed { first, last } => (first, self.through.map_or(last, |through| last.min(through))),
        };
        let mut found = self.stubs.take_range(&*self.admin, first, last).await?;
        if !covers(&found, first, last) && self.has_changed().await? {
            // Something was truncated or deleted since the walk began: its stubs are not among those that were found.
            self.stubs = Stubs::find(&*self.store, &*self.admin, first).await?;
            found = self.stubs.take_range(&*self.admin, first, last).await?;
        }
        fill(found, first, last, items);
        Ok(())
    }

    async fn has_changed(&self) -> Result<bool> {
        Ok(self.store.feed_head(deadline()).await?.position != self.through)
    }
}

/// Whether stubs take every position of a range.
fn covers(stubs: &[Commit], first: Position, last: Position) -> bool {
    stubs.iter().map(Commit::positions).sum::<u64>() == last.0 - first.0 + 1
}

/// Puts stubs in order, and between them the positions that no stub takes.
fn fill(stubs: Vec<Commit>, first: Position, last: Position, items: &mut Vec<FeedItem>) {
    let mut next = first;
    for stub in stubs {
        let (Some(begin), Some(end)) = (stub.first_position, stub.last_position()) else { continue };
        if begin > next {
            items.push(FeedItem::Removed { first: next, last: Position(begin.0 - 1) });
        }
        next = end.next();
        items.push(FeedItem::Commit(stub));
    }
    if next <= last {
        items.push(FeedItem::Removed { first: next, last });
    }
}

/// The stubs of all streams that have some, by position. The feed shows them as removed ranges only.
struct Stubs {
    page: u32,
    streams: Vec<StubsOfStream>,
    /// Position of the next stub of each stream, and the stream.
    order: BinaryHeap<Reverse<(Position, usize)>>,
}

struct StubsOfStream {
    stream: StreamId,
    waiting: VecDeque<Commit>,
    next: Option<CommitNumber>,
}

impl Stubs {
    /// Finds the streams that were truncated or deleted, and their first stubs from a position on.
    async fn find(store: &dyn EventStore, admin: &dyn StoreAdmin, from: Position) -> Result<Self> {
        let mut streams = Vec::new();
        let mut request = ListStreams {
            namespace: NamespaceFilter::All,
            category: None,
            prefix: String::new(),
            after: None,
            limit: store.capabilities().limits.page_items,
            deadline: deadline(),
        };
        loop {
            request.deadline = deadline();
            let page = store.list_streams(request.clone()).await?;
            let stripped = page
                .streams
                .into_iter()
                .filter(|listed| listed.head.first_retained.0 > 1 || listed.head.state == StreamState::Deleted);
            streams.extend(stripped.map(|listed| StubsOfStream {
                stream: listed.stream,
                waiting: VecDeque::new(),
                next: Some(CommitNumber(1)),
            }));
            match page.next {
                Some(next) => request.after = Some(next),
                None => break,
            }
        }
        let most = store.capabilities().limits.page_items as usize;
        let page = (STUBS_MAX / streams.len().max(1)).clamp(1, most) as u32;
        let mut stubs = Self { page, streams, order: BinaryHeap::new() };
        for index in 0..stubs.streams.len() {
            stubs.advance(admin, index).await?;
        }
        if from.0 > 1 {
            stubs.drop_through(admin, Position(from.0 - 1)).await?;
        }
        Ok(stubs)
    }

    /// Puts the next stub of a stream into the order, reading more of it where none waits.
    async fn advance(&mut self, admin: &dyn StoreAdmin, index: usize) -> Result {
        let of_stream = &mut self.streams[index];
        while of_stream.waiting.is_empty() {
            let Some(from) = of_stream.next else { return Ok(()) };
            let request = ReadCommits {
                stream: of_stream.stream.clone(),
                from,
                limit: self.page,
                max_bytes: PAGE_BYTES,
                deadline: deadline(),
            };
            let page = admin.read_commits(request).await?;
            of_stream.next = page.next;
            for commit in page.commits {
                match commit.content {
                    Content::Stripped if commit.first_position.is_none() => {
                        return Err(Error::new(
                            ErrorKind::Unsupported,
                            "a store without positions can't be walked once something was truncated or deleted",
                        )
                        .with("stream", &of_stream.stream)
                        .into());
                    }
                    Content::Stripped => of_stream.waiting.push_back(commit),
                    Content::Kept if commit.kind.is_marker() => {}
                    // Stripping goes from the beginning: what comes after a kept commit is kept.
                    Content::Kept => {
                        of_stream.next = None;
                        break;
                    }
                }
            }
        }
        if let Some(position) = of_stream.waiting.front().and_then(|stub| stub.first_position) {
            self.order.push(Reverse((position, index)));
        }
        Ok(())
    }

    /// Takes the stub at the front.
    async fn pop(&mut self, admin: &dyn StoreAdmin) -> Result<Option<Commit>> {
        let Some(Reverse((_, index))) = self.order.pop() else { return Ok(None) };
        let stub = self.streams[index].waiting.pop_front();
        self.advance(admin, index).await?;
        Ok(stub)
    }

    fn front(&self) -> Option<Position> {
        self.order.peek().map(|Reverse((position, _))| *position)
    }

    /// Passes over stubs up to a position, which the feed has shown by itself.
    async fn drop_through(&mut self, admin: &dyn StoreAdmin, last: Position) -> Result {
        while self.front().is_some_and(|front| front <= last) {
            self.pop(admin).await?;
        }
        Ok(())
    }

    /// Takes the stubs from one position to another, both included.
    async fn take_range(&mut self, admin: &dyn StoreAdmin, first: Position, last: Position) -> Result<Vec<Commit>> {
        let mut taken = Vec::new();
        while self.front().is_some_and(|front| front <= last) {
            taken.extend(self.pop(admin).await?.filter(|stub| stub.first_position >= Some(first)));
        }
        Ok(taken)
    }
}
