//! Walks over everything in a store, in feed order, up to where the feed ended when the walk began: commits with their
//! events, markers, stubs of what was stripped, and removed ranges. What `export` writes and `verify` checks.

use crate::deadline;
use crate::pages::Streams;
use evstore_api::{
    AdvanceFeed, Commit, CommitNumber, Content, Error, ErrorKind, EventStore, FeedFilter, FeedItem, FeedPage,
    FeedStart, Position, ReadCommits, ReadFeed, Result, StoreAdmin, StreamId, StreamState,
};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most bytes of data and metadata in a page.
const PAGE_BYTES: u64 = 4 << 20;
/// Events of the first page. A slow store under load would not give a large one in time, and a quick one soon gives larger ones.
const LIMIT_FIRST: u32 = 256;
/// Pages that come sooner grow, and those that come later shrink.
const QUICK: Duration = Duration::from_millis(500);
const SLOW: Duration = Duration::from_secs(2);
/// How fast pages shrink where damage is met, and grow behind it.
const LIMIT_FACTOR: u32 = 32;
/// Stubs that are kept in memory at a time, over all streams; each stream has at least one.
const STUBS_MAX: usize = 65_536;

/// What to do about damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Stop there: what is left out would be taken for what is not there.
    Stops,
    /// Go on behind it and tell of it.
    IsPassedOver,
}

/// Whether an error says that stored bytes are not what they were.
#[must_use]
pub fn is_damage(error: &Error) -> bool {
    error.kind() == ErrorKind::Corrupt
}

/// A walk that is under way.
pub struct Walk {
    store: Arc<dyn EventStore>,
    admin: Arc<dyn StoreAdmin>,
    /// None until something without content is met.
    stubs: Option<Stubs>,
    from: Option<FeedStart>,
    /// The last place that was read or passed over.
    at: Position,
    through: Option<Position>,
    limit: u32,
}

/// What a walk that passes over damage comes upon.
pub enum Step {
    /// Items, at least one.
    Items(Vec<FeedItem>),
    /// Positions that can't be read, both ends included; none where the rest of the feed can't be.
    Unreadable(Option<(Position, Position)>, Error),
    /// The end.
    End,
}

impl Walk {
    /// Begins at the first position.
    ///
    /// # Errors
    /// As the store's feed and list of streams.
    pub async fn begin(store: Arc<dyn EventStore>, admin: Arc<dyn StoreAdmin>, damage: Damage) -> Result<Self> {
        let head = admin.advance_feed(AdvanceFeed { deadline: deadline() }).await?.head;
        let stubs = Some(Stubs::find(&*store, &*admin, Position(0), damage).await?);
        let limit = first_limit(&*store);
        let from = Some(FeedStart::First);
        Ok(Self { store, admin, stubs, from, at: Position(0), through: head.position, limit })
    }

    /// Goes from behind a position up to another, both of a feed that is known to reach there. Streams are looked through for
    /// stubs only where something without content is met.
    #[must_use]
    pub fn between(store: Arc<dyn EventStore>, admin: Arc<dyn StoreAdmin>, after: Position, through: Position) -> Self {
        let limit = first_limit(&*store);
        let from = (after < through).then_some(FeedStart::AfterPosition(after));
        Self { store, admin, stubs: None, from, at: after, through: Some(through), limit }
    }

    /// The last position of the walk; none where the store has no positions.
    #[must_use]
    pub fn through(&self) -> Option<Position> {
        self.through
    }

    /// What was damaged about truncated and deleted streams, since this was last asked.
    pub fn damaged_stubs(&mut self) -> Vec<Error> {
        self.stubs.as_mut().map(|stubs| std::mem::take(&mut stubs.damaged)).unwrap_or_default()
    }

    /// The next items, at least one; none at the end.
    ///
    /// # Errors
    /// As the store's feed. The walk stands where it stood.
    pub async fn next(&mut self) -> Result<Option<Vec<FeedItem>>> {
        while let Some(from) = self.from.clone() {
            let asked_at = Instant::now();
            let page = match self.read(from, self.limit).await {
                // What does not come in time as a whole comes in parts.
                Err(error) if error.kind() == ErrorKind::DeadlineExceeded && self.limit > 1 => {
                    self.limit = (self.limit / 4).max(1);
                    continue;
                }
                page => page?,
            };
            self.limit = match asked_at.elapsed() {
                took if took < QUICK => self.limit.saturating_mul(2).min(self.store.capabilities().limits.page_items),
                took if took > SLOW => (self.limit / 2).max(1),
                _ => self.limit,
            };
            let mut items = Vec::with_capacity(page.items.len());
            let mut ended = page.end;
            for item in page.items {
                if self.is_past_end(&item) {
                    ended = true;
                    break;
                }
                self.add(item, &mut items).await?;
            }
            self.at = page.next.position().unwrap_or(self.at);
            self.from = (!ended).then_some(FeedStart::After(page.next));
            if !items.is_empty() {
                return Ok(Some(items));
            }
        }
        Ok(None)
    }

    /// The same, going on behind what is damaged. A store may also refuse what stands directly before damage.
    ///
    /// # Errors
    /// As the store's feed, for anything but damage.
    pub async fn step(&mut self) -> Result<Step> {
        loop {
            match self.next().await {
                Ok(Some(items)) => {
                    let most = self.store.capabilities().limits.page_items;
                    self.limit = self.limit.saturating_mul(LIMIT_FACTOR).min(most);
                    return Ok(Step::Items(items));
                }
                Ok(None) => return Ok(Step::End),
                // The page may hold much that is good before what is not.
                Err(error) if is_damage(&error) && self.limit > 1 => {
                    self.limit = (self.limit / LIMIT_FACTOR).max(1);
                }
                Err(error) if is_damage(&error) => return self.pass_over(error).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Finds the first place behind damage from which the feed can be read: steps that double find one, halving the first.
    async fn pass_over(&mut self, error: Error) -> Result<Step> {
        let Some(through) = self.through.filter(|through| self.at < *through) else {
            self.from = None;
            return Ok(Step::Unreadable(None, error));
        };
        let (first, mut bad, mut step) = (self.at.next(), self.at, 1);
        let mut good = loop {
            let place = Position(self.at.0.saturating_add(step).min(through.0));
            if place == through || self.can_be_read_after(place).await? {
                break place;
            }
            (bad, step) = (place, step.saturating_mul(2));
        };
        while good.0 - bad.0 > 1 {
            let middle = Position(bad.0 + (good.0 - bad.0) / 2);
            if self.can_be_read_after(middle).await? {
                good = middle;
            } else {
                bad = middle;
            }
        }
        self.at = good;
        self.from = (good < through).then_some(FeedStart::AfterPosition(good));
        Ok(Step::Unreadable(Some((first, good)), error))
    }

    async fn can_be_read_after(&self, place: Position) -> Result<bool> {
        match self.read(FeedStart::AfterPosition(place), 1).await {
            Ok(_) => Ok(true),
            Err(error) if is_damage(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn read(&self, from: FeedStart, limit: u32) -> Result<FeedPage> {
        let filter = FeedFilter::none();
        self.store.read_feed(ReadFeed { from, filter, limit, max_bytes: PAGE_BYTES, deadline: deadline() }).await
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
    async fn add(&mut self, item: FeedItem, items: &mut Vec<FeedItem>) -> Result<()> {
        let (first, last) = match item {
            FeedItem::Commit(commit) => {
                if let (Some(position), Some(stubs)) = (commit.first_position, &mut self.stubs) {
                    stubs.drop_through(&*self.admin, position).await?;
                }
                items.push(FeedItem::Commit(commit));
                return Ok(());
            }
            FeedItem::Removed { first, last } => (first, self.through.map_or(last, |through| last.min(through))),
        };
        let (mut stubs, found_now) = match self.stubs.take() {
            Some(stubs) => (stubs, false),
            None => (Stubs::find(&*self.store, &*self.admin, first, Damage::Stops).await?, true),
        };
        let mut found = stubs.take_range(&*self.admin, first, last).await?;
        if !found_now && !covers(&found, first, last) && self.has_changed(&stubs).await? {
            // Something was truncated or deleted since the walk began: its stubs are not among those that were found.
            stubs = Stubs::find(&*self.store, &*self.admin, first, stubs.damage).await?;
            found = stubs.take_range(&*self.admin, first, last).await?;
        }
        self.stubs = Some(stubs);
        fill(found, first, last, items);
        Ok(())
    }

    async fn has_changed(&self, stubs: &Stubs) -> Result<bool> {
        Ok(self.store.feed_head(deadline()).await?.position != stubs.at)
    }
}

fn first_limit(store: &dyn EventStore) -> u32 {
    store.capabilities().limits.page_items.min(LIMIT_FIRST)
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
    /// Where the feed ended before they were looked for.
    at: Option<Position>,
    page: u32,
    streams: Vec<StubsOfStream>,
    /// Position of the next stub of each stream, and the stream.
    order: BinaryHeap<Reverse<(Position, usize)>>,
    damage: Damage,
    damaged: Vec<Error>,
}

struct StubsOfStream {
    stream: StreamId,
    waiting: VecDeque<Commit>,
    next: Option<CommitNumber>,
}

impl Stubs {
    /// Finds the streams that were truncated or deleted, and their first stubs from a position on.
    async fn find(store: &dyn EventStore, admin: &dyn StoreAdmin, from: Position, damage: Damage) -> Result<Self> {
        let at = store.feed_head(deadline()).await?.position;
        let mut stubs =
            Self { at, page: 1, streams: Vec::new(), order: BinaryHeap::new(), damage, damaged: Vec::new() };
        let mut streams = Streams::all(store);
        loop {
            let page = match streams.next(store).await {
                Ok(Some(page)) => page,
                Ok(None) => break,
                // Whoever passes over damage reads the list by itself, and tells of it then.
                Err(error) if is_damage(&error) && damage == Damage::IsPassedOver => break,
                Err(error) => return Err(error),
            };
            let stripped = page
                .into_iter()
                .filter(|listed| listed.head.first_retained.0 > 1 || listed.head.state == StreamState::Deleted);
            stubs.streams.extend(stripped.map(|listed| StubsOfStream {
                stream: listed.stream,
                waiting: VecDeque::new(),
                next: Some(CommitNumber(1)),
            }));
        }
        let most = store.capabilities().limits.page_items as usize;
        stubs.page = (STUBS_MAX / stubs.streams.len().max(1)).clamp(1, most) as u32;
        for index in 0..stubs.streams.len() {
            stubs.advance(admin, index).await?;
        }
        if from.0 > 1 {
            stubs.drop_through(admin, Position(from.0 - 1)).await?;
        }
        Ok(stubs)
    }

    /// Puts the next stub of a stream into the order; of one that is damaged no more, where damage is passed over.
    async fn advance(&mut self, admin: &dyn StoreAdmin, index: usize) -> Result<()> {
        match self.read_more(admin, index).await {
            Err(error) if is_damage(&error) && self.damage == Damage::IsPassedOver => {
                self.streams[index].next = None;
                self.damaged.push(error);
                Ok(())
            }
            read => read,
        }
    }

    /// Puts the next stub of a stream into the order, reading more of it where none waits.
    async fn read_more(&mut self, admin: &dyn StoreAdmin, index: usize) -> Result<()> {
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
                        .with("stream", &of_stream.stream));
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
    async fn drop_through(&mut self, admin: &dyn StoreAdmin, last: Position) -> Result<()> {
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
