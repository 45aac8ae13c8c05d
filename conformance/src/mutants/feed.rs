//! What can be wrong with the feed.

use super::Mutant;
use super::defect::{Defect, lock, mutant};
use async_trait::async_trait;
use evstore_api::{
    Append, Appended, Commit, CommitId, Cursor, Deadline, Error, ErrorKind, EventStore, FeedFilter, FeedHead, FeedItem,
    FeedPage, FeedStart, FindCommit, Lag, Position, ReadFeed, Result, WaitFeed, Waited,
};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<SkipsAhead>(
        "feed.skips-ahead",
        "the place of a page that is not the last lies one position behind what it holds",
        &[
            "feed.a-tailing-reader-skips-nothing",
            "feed.readers-at-any-speed-see-the-same",
            "feed.resumes-from-every-place",
            "feed.events-of-one-moment-all-come",
            "feed.every-position-is-accounted-for",
        ],
    ),
    mutant::<FilteredReadsJump>(
        "feed.filtered-reads-jump",
        "the place of a filtered page is the end of the feed",
        &["feed.resumes-from-every-place"],
    ),
    mutant::<HoldsWhileStalled>(
        "feed.a-stalled-caller-holds-a-lock",
        "an append takes a lock that its caller has to ask it again to let go",
        &["feed.a-stalled-caller-holds-up-nobody"],
    ),
    mutant::<HeadAhead>(
        "feed.the-head-is-ahead",
        "the head of the feed is one position behind its last item",
        &[
            "feed.cursors-print-parse-and-compare",
            "feed.an-empty-store-has-a-place",
            "feed.lag-is-reported",
            "feed.every-position-is-accounted-for",
        ],
    ),
    mutant::<HeadFlutters>(
        "feed.the-head-flutters",
        "every third answer about the head is one position older",
        &["feed.the-head-never-moves-back"],
    ),
    mutant::<AlwaysBehind>(
        "feed.is-always-behind",
        "the head says that a commit is missing",
        &["feed.lag-is-reported"],
    ),
    mutant::<PositionIsInclusive>(
        "feed.a-position-is-inclusive",
        "a read after a position begins at it",
        &["feed.resumes-after-every-position"],
    ),
    mutant::<CutsCommits>(
        "feed.cuts-commits",
        "a page has exactly as many events as its limit, and the rest of a commit comes with the next",
        &["feed.pages-hold-whole-commits", "feed.the-order-holds-under-load"],
    ),
    mutant::<BytesOfAPage<0>>(
        "feed.a-page-of-no-bytes-is-empty",
        "a page that may hold no bytes holds no commit, and goes on where it began",
        &["feed.pages-hold-whole-commits"],
    ),
    mutant::<BytesOfAPage<{ u64::MAX }>>(
        "feed.the-most-bytes-wrap",
        "a page of the most bytes that can be asked for holds one commit",
        &["feed.pages-hold-whole-commits"],
    ),
    mutant::<InParts>(
        "feed.commits-appear-in-parts",
        "a reader that comes in the moment of an append gets the first event of its commit, and the rest with the next page",
        &["feed.a-tailing-reader-skips-nothing", "concurrency.histories-of-threads-are-serial"],
    ),
    mutant::<NewHandlesPass>(
        "feed.new-handles-trust-the-head",
        "a handle waits for the commits that were begun since it was opened, and passes over those that were on their way then",
        &["feed.a-tailing-reader-skips-nothing"],
    ),
    mutant::<BrokenOffReads>(
        "feed.reads-that-are-broken-off-hide-a-commit",
        "a reader that stops waiting in the middle of a read has noted what it did not come to do, and the next commit never comes into the feed",
        &["feed.a-tailing-reader-skips-nothing"],
    ),
    mutant::<WaitsForFirst>(
        "feed.waits-for-the-first-position",
        "the feed of a store whose first append was refused waits for it for ever",
        &["feed.a-tailing-reader-skips-nothing"],
    ),
    mutant::<RepeatsAtTheEnd>(
        "feed.repeats-at-the-end",
        "a read at the end gives the last item once more",
        &["feed.the-end-is-empty-then-live"],
    ),
    mutant::<TakesForeignCursors>(
        "feed.takes-foreign-cursors",
        "of a cursor only its position is looked at",
        &["feed.foreign-cursors-are-refused", "feed.lost-history-stops-a-consumer"],
    ),
    mutant::<FindsWithoutPosition>(
        "feed.a-found-commit-has-no-position",
        "a commit that is found by its id has no position",
        &["feed.receipts-agree-with-it"],
    ),
    mutant::<AnyLimit>(
        "feed.takes-any-limit",
        "a limit of nothing or of more than is declared is moved to what can be given",
        &["feed.limits-of-a-page-are-kept"],
    ),
    mutant::<EqualTimesAreOne>(
        "feed.equal-times-are-one",
        "of several commits of one millisecond a page has the first",
        &["feed.events-of-one-moment-all-come"],
    ),
    mutant::<PagesByTime>(
        "feed.pages-by-time",
        "the next page begins behind the time of the last commit, and not behind the commit",
        &["feed.events-of-one-moment-all-come"],
    ),
    mutant::<EndsBeforeTheNewest>(
        "feed.ends-before-the-newest",
        "the first reader after an append is told that the feed ends before it, and the next one is given it",
        &["append.a-receipt-has-a-position-as-declared", "feed.is-as-fast-as-declared"],
    ),
    mutant::<ReplaysMiss>(
        "feed.replays-miss-what-is-new",
        "who reads from the beginning while others append is not given a commit that has just come, but those after it",
        &["concurrency.histories-of-threads-are-serial"],
    ),
    mutant::<OrderedByClock>(
        "feed.ordered-by-clock",
        "the commits of a page are in the order of their times",
        &["feed.clocks-do-not-order-it"],
    ),
    mutant::<HidesRemoved>(
        "feed.hides-removed-ranges",
        "removed ranges are left out",
        &["feed.every-position-is-accounted-for", "deletion.the-feed-shows-what-is-gone"],
    ),
    mutant::<StopsBehindRanges>(
        "feed.stops-behind-removed-ranges",
        "a feed can't be read on from a position that holds nothing",
        &["copies.removed-ranges-keep-their-place"],
    ),
    mutant::<BeginsAtZero>(
        "feed.every-page-begins-at-zero",
        "every page says that it begins before the first position",
        &["feed.every-position-is-accounted-for"],
    ),
    mutant::<GivesUpEarly>(
        "feed.a-wait-gives-up-at-once",
        "a wait with nothing to read ends before its deadline",
        &["feed.a-wait-ends-with-an-append"],
    ),
    mutant::<MissesWakeUps>(
        "feed.a-wait-misses-appends",
        "a wait that began is not woken by appends",
        &["feed.a-wait-ends-with-an-append", "lifecycle.waiting-readers-starve-nobody"],
    ),
];

/// Longest time for a look at the feed.
const LOOK_MAX: Duration = Duration::from_secs(20);

/// The same place so many positions further on; places of partitions stay.
fn moved(cursor: &Cursor, by: i64) -> Cursor {
    match cursor.position() {
        Some(position) => Cursor::total(cursor.incarnation(), Position(position.0.saturating_add_signed(by))),
        None => cursor.clone(),
    }
}

#[derive(Debug, Default)]
struct SkipsAhead;

#[async_trait]
impl Defect for SkipsAhead {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let mut page = store.read_feed(request).await?;
        if !page.end {
            page.next = moved(&page.next, 1);
        }
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct FilteredReadsJump;

#[async_trait]
impl Defect for FilteredReadsJump {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let (filtered, deadline) = (request.filter != FeedFilter::none(), request.deadline);
        let mut page = store.read_feed(request).await?;
        if filtered {
            page.next = store.feed_head(deadline).await?.cursor;
        }
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct HoldsWhileStalled(tokio::sync::Mutex<()>);

#[async_trait]
impl Defect for HoldsWhileStalled {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let _held = self.0.lock().await;
        tokio::task::yield_now().await;
        store.append(request).await
    }
}

#[derive(Debug, Default)]
struct HeadAhead;

#[async_trait]
impl Defect for HeadAhead {
    async fn feed_head(&self, store: &dyn EventStore, deadline: Deadline) -> Result<FeedHead> {
        let mut head = store.feed_head(deadline).await?;
        head.cursor = moved(&head.cursor, 1);
        head.position = head.position.map(Position::next);
        Ok(head)
    }
}

#[derive(Debug, Default)]
struct HeadFlutters(AtomicU64);

#[async_trait]
impl Defect for HeadFlutters {
    async fn feed_head(&self, store: &dyn EventStore, deadline: Deadline) -> Result<FeedHead> {
        let mut head = store.feed_head(deadline).await?;
        if self.0.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
            head.cursor = moved(&head.cursor, -1);
        }
        Ok(head)
    }
}

#[derive(Debug, Default)]
struct AlwaysBehind;

#[async_trait]
impl Defect for AlwaysBehind {
    async fn feed_head(&self, store: &dyn EventStore, deadline: Deadline) -> Result<FeedHead> {
        let lag = Lag { commits: 1, age: Duration::from_millis(1) };
        Ok(FeedHead { lag, ..store.feed_head(deadline).await? })
    }
}

#[derive(Debug, Default)]
struct PositionIsInclusive;

#[async_trait]
impl Defect for PositionIsInclusive {
    async fn read_feed(&self, store: &dyn EventStore, mut request: ReadFeed) -> Result<FeedPage> {
        if let FeedStart::AfterPosition(position) = &mut request.from {
            position.0 = position.0.saturating_sub(1);
        }
        store.read_feed(request).await
    }
}

#[derive(Debug, Default)]
struct CutsCommits;

#[async_trait]
impl Defect for CutsCommits {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        // Three at most, whatever is asked for, so that large pages are cut too.
        let mut left = (request.limit as usize).min(3);
        let mut page = store.read_feed(request).await?;
        for at in 0..page.items.len() {
            let FeedItem::Commit(commit) = &mut page.items[at] else { continue };
            if commit.events.len() <= left {
                left -= commit.events.len();
                continue;
            }
            let gone = commit.events.split_off(left);
            let first = commit.first_position.zip(gone.first());
            if let Some((position, event)) = first.filter(|(position, _)| position.0 > 0) {
                let last = Position(position.0 + u64::from(event.ordinal) - 1);
                page.next = Cursor::total(page.next.incarnation(), last);
            }
            let kept = if left == 0 { at } else { at + 1 };
            page.items.truncate(kept);
            page.end = false;
            break;
        }
        Ok(page)
    }
}

/// Takes one number of bytes for none.
#[derive(Debug, Default)]
struct BytesOfAPage<const WRONG: u64>;

#[async_trait]
impl<const WRONG: u64> Defect for BytesOfAPage<WRONG> {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        if request.max_bytes != WRONG {
            return store.read_feed(request).await;
        }
        let page = store.read_feed(ReadFeed { max_bytes: 0, ..request.clone() }).await?;
        if WRONG == 0 && !page.end {
            let next = match request.from {
                FeedStart::After(cursor) => cursor,
                FeedStart::First | FeedStart::AfterPosition(_) => {
                    Cursor::total(page.next.incarnation(), page.before.unwrap_or_default())
                }
            };
            return Ok(FeedPage { items: Vec::new(), next, ..page });
        }
        Ok(page)
    }
}

/// When each commit was appended.
#[derive(Debug, Default)]
struct InParts(Mutex<HashMap<CommitId, Instant>>);

#[async_trait]
impl Defect for InParts {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        lock(&self.0).insert(request.commit.id, Instant::now());
        let receipt = store.append(request).await;
        // A reader gets the time to come in that moment.
        tokio::time::sleep(Duration::from_millis(1)).await;
        receipt
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let mut page = store.read_feed(request).await?;
        let fresh = |commit: &Commit| {
            lock(&self.0).get(&commit.id).is_some_and(|since| since.elapsed() < Duration::from_millis(5))
        };
        let incarnation = page.next.incarnation();
        let found = page.items.iter().position(|item| match item {
            FeedItem::Commit(commit) => commit.events.len() > 1 && commit.is_whole() && fresh(commit),
            FeedItem::Removed { .. } => false,
        });
        let Some(at) = found else { return Ok(page) };
        page.items.truncate(at + 1);
        if let Some(FeedItem::Commit(commit)) = page.items.last_mut() {
            commit.events.truncate(1);
            page.next = Cursor::total(incarnation, commit.first_position.unwrap_or_default());
            page.end = false;
        }
        Ok(page)
    }
}

/// Whether a read was broken off since the last append, and what is hidden.
#[derive(Debug, Default)]
struct BrokenOffReads {
    broken_off: AtomicBool,
    hidden: Mutex<HashSet<CommitId>>,
}

/// Says so when it is dropped.
struct Reading<'a>(&'a AtomicBool);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Defect for BrokenOffReads {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let receipt = store.append(request).await?;
        if !receipt.repeated && self.broken_off.swap(false, Ordering::SeqCst) {
            lock(&self.hidden).insert(receipt.commit);
        }
        Ok(receipt)
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let reading = Reading(&self.broken_off);
        tokio::time::sleep(Duration::from_millis(2)).await;
        // It came to its end.
        std::mem::forget(reading);
        let mut page = store.read_feed(request).await?;
        let hidden = lock(&self.hidden);
        page.items.retain(|item| !matches!(item, FeedItem::Commit(commit) if hidden.contains(&commit.id)));
        Ok(page)
    }
}

/// Commits on their way, and when each handle was opened. A handle is known by the store that it has inside.
#[derive(Debug, Default)]
struct NewHandlesPass {
    under_way: Mutex<HashMap<CommitId, Instant>>,
    opened: Mutex<HashMap<usize, Instant>>,
    turns: tokio::sync::Mutex<()>,
}

fn handle_of(store: &dyn EventStore) -> usize {
    std::ptr::from_ref(store).cast::<()>().addr()
}

#[async_trait]
impl Defect for NewHandlesPass {
    async fn opened(&self, store: &dyn EventStore) -> Result<()> {
        lock(&self.opened).insert(handle_of(store), Instant::now());
        Ok(())
    }

    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let id = request.commit.id;
        if super::defect::find(store, &request).await?.is_some() {
            return store.append(request).await;
        }
        lock(&self.under_way).insert(id, Instant::now());
        // The writer of a stream waits for the one before, as it would for a lock on its rows.
        let turn = self.turns.lock().await;
        let result = store.append(request).await;
        drop(turn);
        if result.is_ok() {
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
        lock(&self.under_way).remove(&id);
        result
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let under_way = lock(&self.under_way).clone();
        let opened = lock(&self.opened).get(&handle_of(store)).copied();
        let mut page = store.read_feed(request).await?;
        let began = |item: &FeedItem| match item {
            FeedItem::Commit(commit) => under_way.get(&commit.id).copied(),
            FeedItem::Removed { .. } => None,
        };
        let waits = |item: &FeedItem| began(item).is_some_and(|began| opened.is_none_or(|opened| began >= opened));
        if let Some(at) = page.items.iter().position(waits) {
            page.items.truncate(at);
            let last = page.items.last().and_then(|item| match item {
                FeedItem::Commit(commit) => commit.last_position(),
                FeedItem::Removed { last, .. } => Some(*last),
            });
            let place = last.or(page.before).unwrap_or_default();
            page.next = Cursor::total(page.next.incarnation(), place);
            page.end = true;
        }
        page.items.retain(|item| began(item).is_none());
        Ok(page)
    }
}

/// Whether the first append of the store was refused.
#[derive(Debug, Default)]
struct WaitsForFirst(OnceLock<bool>);

#[async_trait]
impl Defect for WaitsForFirst {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let result = store.append(request).await;
        self.0.get_or_init(|| result.is_err());
        result
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let page = store.read_feed(request).await?;
        if self.0.get() != Some(&true) {
            return Ok(page);
        }
        let next = Cursor::total(page.next.incarnation(), Position(0));
        Ok(FeedPage { items: Vec::new(), next, end: true, ..page })
    }
}

#[derive(Debug, Default)]
struct RepeatsAtTheEnd(Mutex<Option<FeedItem>>);

#[async_trait]
impl Defect for RepeatsAtTheEnd {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let mut page = store.read_feed(request).await?;
        let mut last = lock(&self.0);
        match page.items.last() {
            Some(item) => *last = Some(item.clone()),
            None => page.items.extend(last.clone()),
        }
        Ok(page)
    }

    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let (stream, commit, deadline) = (request.stream.clone(), request.commit.id, request.deadline);
        let receipt = store.append(request).await?;
        // What the last item is, also for those who have not read it.
        let from = FeedStart::AfterPosition(Position(receipt.position.map_or(0, |first| first.0 - 1)));
        let (filter, limit, max_bytes) = (FeedFilter::none(), 1, u64::MAX);
        let page = store.read_feed(ReadFeed { from, filter, limit, max_bytes, deadline }).await?;
        let item = page.items.into_iter().find(|item| match item {
            FeedItem::Commit(found) => found.stream == stream && found.id == commit,
            FeedItem::Removed { .. } => false,
        });
        *lock(&self.0) = item;
        Ok(receipt)
    }
}

/// The place of a cursor in the present history of a store, whichever it comes from.
async fn at_home(store: &dyn EventStore, cursor: &Cursor, deadline: Deadline) -> Result<Cursor> {
    let incarnation = store.feed_head(deadline).await?.cursor.incarnation();
    Ok(Cursor::total(incarnation, cursor.position().unwrap_or_default()))
}

#[derive(Debug, Default)]
struct TakesForeignCursors;

#[async_trait]
impl Defect for TakesForeignCursors {
    async fn read_feed(&self, store: &dyn EventStore, mut request: ReadFeed) -> Result<FeedPage> {
        if let FeedStart::After(cursor) = &request.from {
            request.from = FeedStart::After(at_home(store, cursor, request.deadline).await?);
        }
        store.read_feed(request).await
    }

    async fn wait_feed(&self, store: &dyn EventStore, mut request: WaitFeed) -> Result<Waited> {
        request.after = at_home(store, &request.after, request.deadline).await?;
        store.wait_feed(request).await
    }
}

#[derive(Debug, Default)]
struct FindsWithoutPosition;

#[async_trait]
impl Defect for FindsWithoutPosition {
    async fn find_commit(&self, store: &dyn EventStore, request: FindCommit) -> Result<Option<Appended>> {
        let found = store.find_commit(request).await?;
        Ok(found.map(|receipt| Appended { position: None, ..receipt }))
    }
}

#[derive(Debug, Default)]
struct AnyLimit;

#[async_trait]
impl Defect for AnyLimit {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let limit = request.limit.clamp(1, store.capabilities().limits.page_items);
        store.read_feed(ReadFeed { limit, ..request }).await
    }
}

#[derive(Debug, Default)]
struct EqualTimesAreOne;

#[async_trait]
impl Defect for EqualTimesAreOne {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let mut page = store.read_feed(request).await?;
        let millisecond = |item: &mut FeedItem| match item {
            FeedItem::Commit(commit) => Some(commit.recorded_at.0 / 1_000),
            FeedItem::Removed { .. } => None,
        };
        page.items.dedup_by_key(millisecond);
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct OrderedByClock;

#[async_trait]
impl Defect for OrderedByClock {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let mut page = store.read_feed(request).await?;
        page.items.sort_by_key(|item| match item {
            FeedItem::Commit(commit) => commit.recorded_at.0,
            FeedItem::Removed { .. } => 0,
        });
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct HidesRemoved;

#[async_trait]
impl Defect for HidesRemoved {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let mut page = store.read_feed(request).await?;
        page.items.retain(|item| matches!(item, FeedItem::Commit(_)));
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct StopsBehindRanges;

#[async_trait]
impl Defect for StopsBehindRanges {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        if let FeedStart::AfterPosition(Position(after @ 1..)) = request.from {
            let sooner = ReadFeed { from: FeedStart::AfterPosition(Position(after - 1)), ..request.clone() };
            if let Some(FeedItem::Removed { .. }) = store.read_feed(sooner).await?.items.first() {
                return Err(Error::new(ErrorKind::Corrupt, "a defect"));
            }
        }
        store.read_feed(request).await
    }
}

#[derive(Debug, Default)]
struct BeginsAtZero;

#[async_trait]
impl Defect for BeginsAtZero {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let page = store.read_feed(request).await?;
        Ok(FeedPage { before: page.before.map(|_| Position(0)), ..page })
    }
}

#[derive(Debug, Default)]
struct GivesUpEarly;

#[async_trait]
impl Defect for GivesUpEarly {
    async fn wait_feed(&self, store: &dyn EventStore, request: WaitFeed) -> Result<Waited> {
        let deadline = Deadline::within(Duration::ZERO);
        store.wait_feed(WaitFeed { deadline, ..request }).await
    }
}

#[derive(Debug, Default)]
struct MissesWakeUps;

#[async_trait]
impl Defect for MissesWakeUps {
    async fn wait_feed(&self, store: &dyn EventStore, request: WaitFeed) -> Result<Waited> {
        let (from, filter) = (FeedStart::After(request.after), FeedFilter::none());
        let look = ReadFeed { from, filter, limit: 1, max_bytes: 1, deadline: Deadline::within(LOOK_MAX) };
        if !store.read_feed(look).await?.items.is_empty() {
            return Ok(Waited::More);
        }
        tokio::time::sleep(request.deadline.remaining()).await;
        Ok(Waited::DeadlinePassed)
    }
}

#[derive(Debug, Default)]
struct PagesByTime;

#[async_trait]
impl Defect for PagesByTime {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let again = ReadFeed { limit: 1, ..request.clone() };
        let mut page = store.read_feed(request).await?;
        let time = |page: &FeedPage| page.commits().last().map(|commit| commit.recorded_at);
        let last = time(&page);
        while !page.end {
            let from = FeedStart::After(page.next.clone());
            let behind = store.read_feed(ReadFeed { from, ..again.clone() }).await?;
            if last.is_none() || time(&behind) != last {
                break;
            }
            (page.next, page.end) = (behind.next, behind.end);
        }
        Ok(page)
    }
}

/// The last commit, until somebody has read the feed.
#[derive(Debug, Default)]
struct EndsBeforeTheNewest(Mutex<Option<CommitId>>);

#[async_trait]
impl Defect for EndsBeforeTheNewest {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let receipt = store.append(request).await?;
        *lock(&self.0) = Some(receipt.commit);
        Ok(receipt)
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let newest = lock(&self.0).take();
        let mut page = store.read_feed(request).await?;
        let is_newest = |item: &FeedItem| match item {
            FeedItem::Commit(commit) => Some(commit.id) == newest,
            FeedItem::Removed { .. } => false,
        };
        if let Some(at) = page.items.iter().position(is_newest) {
            let first = page.items[at..].iter().find_map(|item| match item {
                FeedItem::Commit(commit) => commit.first_position,
                FeedItem::Removed { first, .. } => Some(*first),
            });
            let before = Position(first.map_or(0, |first| first.0 - 1));
            page.next = Cursor::total(page.next.incarnation(), before);
            page.items.truncate(at);
            page.end = true;
        }
        Ok(page)
    }
}

/// How many appends are under way, and when each commit came.
#[derive(Debug, Default)]
struct ReplaysMiss {
    under_way: AtomicU64,
    came: Mutex<HashMap<CommitId, Instant>>,
}

/// Counts an append as long as it is kept, also where its caller goes away.
struct UnderWay<'a>(&'a AtomicU64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Defect for ReplaysMiss {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let _under_way = UnderWay(&self.under_way);
        let receipt = store.append(request).await?;
        lock(&self.came).insert(receipt.commit, Instant::now());
        // Long enough for those who read meanwhile.
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(receipt)
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        // Those who tail the feed take small pages: they are given everything.
        let replays = request.from == FeedStart::First && request.limit > 100;
        let mut page = store.read_feed(request).await?;
        if !replays || self.under_way.load(Ordering::SeqCst) == 0 {
            return Ok(page);
        }
        let came = lock(&self.came);
        let is_new = |item: &FeedItem| match item {
            FeedItem::Commit(commit) => {
                came.get(&commit.id).is_some_and(|since| since.elapsed() < Duration::from_millis(20))
            }
            FeedItem::Removed { .. } => false,
        };
        let but_the_last = page.items.len().saturating_sub(1);
        if let Some(at) = page.items[..but_the_last].iter().position(is_new) {
            page.items.remove(at);
        }
        drop(came);
        Ok(page)
    }
}
