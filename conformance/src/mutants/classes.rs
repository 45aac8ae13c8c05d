//! Honest stores of the classes that a store in memory is not, made by wrapping one: positions that a sequencer gives a little
//! later, and feeds in partitions without positions. A check has to hold on them, and a defect may stand on top of them.

use super::Mutant;
use super::defect::{Defect, lock, mutant};
use super::honesty::without_limits;
use async_trait::async_trait;
use evstore_api::capabilities::{Capabilities, FeedOrder, Positioned, Positions, RealTime, Support};
use evstore_api::cursor::Place;
use evstore_api::{
    AdvanceFeed, Append, Appended, Commit, CommitsPage, Cursor, Deadline, Delete, Deleted, Error, ErrorKind,
    EventStore, FeedAdvanced, FeedFilter, FeedHead, FeedItem, FeedPage, FeedStart, FindCommit, Lag, ListRecords,
    ListStreams, Opener, Position, ReadCommits, ReadFeed, ReadStream, RecordsPage, Replica, Replicate, Replicated,
    Result, Settings, StoreAdmin, StreamId, StreamPage, StreamsPage, Truncate, Truncated, WaitFeed, Waited,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Whole stores with nothing wrong.
pub(super) static HONEST: &[Mutant] = &[
    mutant::<Late>("class.by-sequencer", "a sequencer gives positions a little later", &[]),
    mutant::<Partitioned<InOrder>>("class.per-partition", "the feed is in partitions, without positions", &[]),
    Mutant {
        name: "class.best-effort",
        defect: "an index orders commits a little later, without positions",
        killed_by: &[],
        wrap: |inner| (INDEXED.wrap)((SEQUENCED.wrap)(inner)),
    },
    mutant::<WithoutDeletion>("class.without-deletion", "nothing can be truncated or deleted", &[]),
    Mutant {
        name: "class.without-limits",
        defect: "no limits are declared, and there are none",
        killed_by: &[],
        wrap: |inner| Arc::new(WithKeys { inner: (UNLIMITED.wrap)(inner), keys: LARGE_KEYS }),
    },
    Mutant {
        name: "class.smallest-limits",
        defect: "every limit is the least that a store may have, and reads say what they cost",
        killed_by: &[],
        wrap: |inner| Arc::new(WithKeys { inner: (SMALLEST.wrap)(inner), keys: SMALL_KEYS }),
    },
];

static UNLIMITED: Mutant = mutant::<Unlimited>("", "", &[]);
static SMALLEST: Mutant = mutant::<Smallest>("", "", &[]);
static SEQUENCED: Mutant = mutant::<Late>("", "", &[]);
static WHEN_ASKED: Mutant = mutant::<WhenAsked>("", "", &[]);
static INDEXED: Mutant = mutant::<Partitioned<Merged>>("", "", &[]);
static PAST_THE_END: Mutant = mutant::<PastTheEnd>("", "", &[]);

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<WhenAsked>(
        "feed.late-behind-its-word",
        "a feed moves on when an operator asks for it, and says that it does by itself",
        &["feed.is-as-fast-as-declared"],
    ),
    Mutant {
        name: "feed.numbers-past-the-end",
        defect: "a sequencer goes on behind the last position that there is",
        killed_by: &["append.numbers-end-below-2-to-the-53"],
        wrap: |inner| (PAST_THE_END.wrap)((SEQUENCED.wrap)(inner)),
    },
    mutant::<Partitioned<Reordering>>(
        "feed.partitions-reorder",
        "large pages give the commits of a partition in another order than small ones",
        &["feed.the-order-holds-under-load"],
    ),
    mutant::<Partitioned<PassesLate>>(
        "feed.passes-what-comes-late",
        "an index shows some commits a little later, and its readers do not wait until what may come late has come",
        &["feed.a-tailing-reader-skips-nothing", "concurrency.histories-of-threads-are-serial"],
    ),
    mutant::<Partitioned<SuccessorsFirst>>(
        "feed.gives-what-follows-first",
        "an index has shown a commit before the one that it follows in its stream, and its readers are given it so",
        &["feed.the-order-holds-under-load", "feed.resumes-from-every-place"],
    ),
    mutant::<Partitioned<TwiceWhereLate>>(
        "feed.gives-late-commits-twice",
        "what came into an index late is given in its place, and where the reader was when it came",
        &["feed.every-event-appears-once"],
    ),
    Mutant {
        name: "feed.settles-later-than-it-says",
        defect: "an index shows what was appended when an operator asks for it, and says within which time it does",
        killed_by: &["feed.is-as-fast-as-declared"],
        wrap: |inner| (INDEXED.wrap)((WHEN_ASKED.wrap)(inner)),
    },
    mutant::<Partitioned<SkippingOne>>(
        "feed.restarts-skip-one",
        "a reader that goes on from a place misses the next commit of its partition",
        &["concurrency.histories-of-threads-are-serial", "feed.resumes-from-every-place"],
    ),
];

const WITHIN: Duration = Duration::from_millis(20);

/// A sequencer that gives positions a little later.
type Late = Sequenced<true>;
/// One that gives them when an operator asks for it.
type WhenAsked = Sequenced<false>;

/// Up to where the feed is given positions, and when each position became known to be taken.
#[derive(Debug, Default)]
struct Sequenced<const BY_ITSELF: bool>(Mutex<Sequence>);

#[derive(Debug, Default)]
struct Sequence {
    mark: Position,
    taken: VecDeque<(Position, Instant)>,
}

impl<const BY_ITSELF: bool> Sequenced<BY_ITSELF> {
    /// The last position that the feed has now.
    async fn mark(&self, store: &dyn EventStore, deadline: Deadline) -> Result<(Position, FeedHead)> {
        let head = store.feed_head(deadline).await?;
        let end = head.position.unwrap_or_default();
        let mut state = lock(&self.0);
        if state.taken.back().map_or(state.mark, |(last, _)| *last) < end {
            state.taken.push_back((end, Instant::now()));
        }
        while BY_ITSELF && state.taken.front().is_some_and(|(_, since)| since.elapsed() >= WITHIN / 2) {
            state.mark = state.taken.pop_front().map_or(state.mark, |(position, _)| position);
        }
        Ok((state.mark, head))
    }

    fn seen(&self, receipt: Appended) -> Appended {
        let mark = lock(&self.0).mark;
        Appended { position: receipt.position.filter(|position| *position <= mark), ..receipt }
    }
}

fn last_position(item: &FeedItem) -> Position {
    match item {
        FeedItem::Commit(commit) => commit.last_position().unwrap_or_default(),
        FeedItem::Removed { last, .. } => *last,
    }
}

#[async_trait]
impl<const BY_ITSELF: bool> Defect for Sequenced<BY_ITSELF> {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        Capabilities { positioned: Positioned::BySequencer { within: WITHIN }, ..inner.clone() }
    }

    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let receipt = store.append(request).await?;
        // It is made: neither a deadline of the caller's nor a close meanwhile may turn that into an error.
        let _ = self.mark(store, Deadline::within(Duration::from_secs(20))).await;
        Ok(if receipt.repeated { self.seen(receipt) } else { Appended { position: None, ..receipt } })
    }

    async fn truncate(&self, admin: &dyn StoreAdmin, request: Truncate) -> Result<Truncated> {
        let mut truncated = admin.truncate(request).await?;
        truncated.marker.position = None;
        Ok(truncated)
    }

    async fn delete(&self, admin: &dyn StoreAdmin, request: Delete) -> Result<Deleted> {
        let mut deleted = admin.delete(request).await?;
        deleted.position = None;
        Ok(deleted)
    }

    async fn find_commit(&self, store: &dyn EventStore, request: FindCommit) -> Result<Option<Appended>> {
        let deadline = request.deadline;
        self.mark(store, deadline).await?;
        Ok(store.find_commit(request).await?.map(|receipt| self.seen(receipt)))
    }

    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let (mark, _) = self.mark(store, request.deadline).await?;
        let mut page = store.read_stream(request).await?;
        for commit in &mut page.commits {
            commit.first_position = commit.first_position.filter(|position| *position <= mark);
        }
        Ok(page)
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let (mark, head) = self.mark(store, request.deadline).await?;
        let mut page = store.read_feed(request).await?;
        let kept = page.items.iter().take_while(|item| last_position(item) <= mark).count();
        let cut = kept < page.items.len();
        page.items.truncate(kept);
        if page.next.position() > Some(mark) || cut {
            let before = page.before.unwrap_or_default();
            let incarnation = head.cursor.incarnation();
            page.next = Cursor::total(incarnation, mark.max(before.min(page.next.position().unwrap_or_default())));
            page.end = true;
        }
        Ok(page)
    }

    async fn feed_head(&self, store: &dyn EventStore, deadline: Deadline) -> Result<FeedHead> {
        let (mark, head) = self.mark(store, deadline).await?;
        let behind = head.position.unwrap_or_default().0 - mark.0;
        let age = lock(&self.0).taken.front().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let lag = Lag { commits: behind, age: if behind == 0 { Duration::ZERO } else { age } };
        let cursor = Cursor::total(head.cursor.incarnation(), mark);
        Ok(FeedHead { cursor, position: Some(mark), lag, ..head })
    }

    async fn wait_feed(&self, store: &dyn EventStore, request: WaitFeed) -> Result<Waited> {
        loop {
            // Whether the cursor is this store's is for the store to say.
            let now = Deadline::within(Duration::ZERO);
            store.wait_feed(WaitFeed { after: request.after.clone(), deadline: now }).await?;
            let (mark, _) = self.mark(store, Deadline::within(Duration::from_secs(20))).await?;
            if Some(mark) > request.after.position() {
                return Ok(Waited::More);
            }
            if request.deadline.has_passed() {
                return Ok(Waited::DeadlinePassed);
            }
            tokio::time::sleep(request.deadline.remaining().min(Duration::from_millis(1))).await;
        }
    }

    async fn advance_feed(&self, admin: &dyn StoreAdmin, request: AdvanceFeed) -> Result<FeedAdvanced> {
        let advanced = admin.advance_feed(request).await?;
        let mut state = lock(&self.0);
        state.mark = advanced.head.position.unwrap_or_default();
        let mark = state.mark;
        state.taken.retain(|(position, _)| *position > mark);
        Ok(advanced)
    }
}

/// How a partitioned feed gives what it has.
pub(super) trait Giving: Default + std::fmt::Debug + Send + Sync + 'static {
    /// How many partitions there are.
    const PARTITIONS: u32 = 4;
    /// The order that is declared.
    const ORDER: FeedOrder = FeedOrder::PerPartition;

    /// Changes the commits of one partition that stand behind a reader's place.
    fn arrange(&self, _partition: u32, _after: Position, _limit: u32, _commits: &mut VecDeque<(Position, FeedItem)>) {}
}

#[derive(Debug, Default)]
struct InOrder;

impl Giving for InOrder {}

#[derive(Debug, Default)]
struct Reordering;

impl Giving for Reordering {
    fn arrange(&self, _: u32, _: Position, limit: u32, commits: &mut VecDeque<(Position, FeedItem)>) {
        if limit <= 100 {
            return;
        }
        let stream = |item: &FeedItem| match item {
            FeedItem::Commit(commit) => Some(commit.stream.clone()),
            FeedItem::Removed { .. } => None,
        };
        for at in (1..commits.len()).step_by(2) {
            if stream(&commits[at - 1].1) != stream(&commits[at].1) {
                commits.swap(at - 1, at);
            }
        }
    }
}

#[derive(Debug, Default)]
struct SkippingOne;

impl Giving for SkippingOne {
    fn arrange(&self, _: u32, after: Position, limit: u32, commits: &mut VecDeque<(Position, FeedItem)>) {
        // Only small pages, and not from the beginning: a replay has everything.
        if after.0 > 0 && limit <= 12 && commits.len() > 1 {
            commits.pop_front();
        }
    }
}

/// All of it in one order that nobody promises, as readers of an index have it who wait until what may come late has come.
#[derive(Debug, Default)]
struct Merged;

impl Giving for Merged {
    const PARTITIONS: u32 = 1;
    const ORDER: FeedOrder = FeedOrder::BestEffort;
}

/// Commits that an index shows a little later than those around them.
#[derive(Debug, Default)]
struct PassesLate(Mutex<BTreeMap<Position, Instant>>);

const LATE: Duration = Duration::from_millis(30);

impl Giving for PassesLate {
    const PARTITIONS: u32 = 1;
    const ORDER: FeedOrder = FeedOrder::BestEffort;

    fn arrange(&self, _: u32, _: Position, _: u32, commits: &mut VecDeque<(Position, FeedItem)>) {
        let mut seen = lock(&self.0);
        commits.retain(|(last, _)| {
            let since = *seen.entry(*last).or_insert_with(Instant::now);
            last.0 % 3 != 1 || since.elapsed() >= LATE
        });
    }
}

#[derive(Debug, Default)]
struct SuccessorsFirst;

impl Giving for SuccessorsFirst {
    const PARTITIONS: u32 = 1;
    const ORDER: FeedOrder = FeedOrder::BestEffort;

    fn arrange(&self, _: u32, _: Position, _: u32, commits: &mut VecDeque<(Position, FeedItem)>) {
        let stream = |item: &FeedItem| match item {
            FeedItem::Commit(commit) => Some(commit.stream.clone()),
            FeedItem::Removed { .. } => None,
        };
        let followed = (0..commits.len()).find_map(|at| {
            let next = (at + 1..commits.len()).find(|next| stream(&commits[*next].1) == stream(&commits[at].1))?;
            Some((at, next))
        });
        if let Some((at, next)) = followed {
            let (one, another) = (commits[at].1.clone(), commits[next].1.clone());
            (commits[at].1, commits[next].1) = (another, one);
        }
    }
}

#[derive(Debug, Default)]
struct TwiceWhereLate;

impl Giving for TwiceWhereLate {
    const PARTITIONS: u32 = 1;
    const ORDER: FeedOrder = FeedOrder::BestEffort;

    fn arrange(&self, _: u32, _: Position, _: u32, commits: &mut VecDeque<(Position, FeedItem)>) {
        if let (Some(late), true) = (commits.front().cloned(), commits.len() > 2) {
            let end = commits.len();
            let at = commits[end - 1].0;
            commits.insert(end, (at, late.1));
        }
    }
}

/// A feed in partitions: the marks of a cursor are positions of the store inside, which nobody sees.
#[derive(Debug, Default)]
struct Partitioned<G> {
    giving: G,
    turns: AtomicUsize,
}

fn partition(stream: &StreamId, partitions: u32) -> u32 {
    stream.to_string().bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into())) % partitions
}

fn bare(commit: &mut Commit) {
    commit.first_position = None;
}

impl<G: Giving> Partitioned<G> {
    /// The marks of a place in the feed.
    async fn marks(
        &self,
        store: &dyn EventStore,
        from: &FeedStart,
        deadline: Deadline,
    ) -> Result<BTreeMap<u32, Position>> {
        let incarnation = store.feed_head(deadline).await?.cursor.incarnation();
        let cursor = match from {
            FeedStart::First => return Ok(BTreeMap::new()),
            FeedStart::After(cursor) => cursor,
            FeedStart::AfterPosition(_) => {
                return Err(Error::new(ErrorKind::Unsupported, "positions are opaque"));
            }
        };
        let refused = || Error::new(ErrorKind::CursorRefused, "cursor is not of this store");
        let Place::Parts(parts) = cursor.place() else { return Err(refused()) };
        if cursor.incarnation() != incarnation {
            return Err(refused());
        }
        let mark = |(partition, mark): &(u32, Vec<u8>)| {
            let mark: [u8; 8] = mark.as_slice().try_into().map_err(|_| refused())?;
            Ok((*partition, Position(u64::from_be_bytes(mark))))
        };
        parts.iter().map(mark).collect()
    }

    fn cursor(&self, store_head: &FeedHead, marks: &BTreeMap<u32, Position>) -> Result<Cursor> {
        let parts = marks.iter().map(|(partition, mark)| (*partition, mark.0.to_be_bytes().to_vec())).collect();
        Cursor::parts(store_head.cursor.incarnation(), parts)
    }

    /// Everything that the store inside has, by partition.
    async fn everything(
        &self,
        store: &dyn EventStore,
        deadline: Deadline,
    ) -> Result<BTreeMap<u32, VecDeque<(Position, FeedItem)>>> {
        let mut found: BTreeMap<u32, VecDeque<(Position, FeedItem)>> = BTreeMap::new();
        let mut from = FeedStart::First;
        loop {
            let (filter, limit, max_bytes) = (FeedFilter::none(), store.capabilities().limits.page_items, u64::MAX);
            let page = store.read_feed(ReadFeed { from, filter, limit, max_bytes, deadline }).await?;
            for mut item in page.items {
                let last = last_position(&item);
                if let FeedItem::Commit(commit) = &mut item {
                    bare(commit);
                    found.entry(partition(&commit.stream, G::PARTITIONS)).or_default().push_back((last, item));
                }
            }
            if page.end {
                return Ok(found);
            }
            from = FeedStart::After(page.next);
        }
    }
}

#[async_trait]
impl<G: Giving> Defect for Partitioned<G> {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        Capabilities {
            order: G::ORDER,
            real_time: RealTime::NotKept,
            positions: Positions::Opaque,
            positioned: Positioned::Never {
                settling: match inner.positioned {
                    Positioned::BySequencer { within } => within,
                    Positioned::ByAppend | Positioned::Never { .. } => Duration::from_millis(1),
                },
            },
            replication: Support::Refused,
            ..inner.clone()
        }
    }

    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        Ok(Appended { position: None, ..store.append(request).await? })
    }

    async fn truncate(&self, admin: &dyn StoreAdmin, request: Truncate) -> Result<Truncated> {
        let mut truncated = admin.truncate(request).await?;
        truncated.marker.position = None;
        Ok(truncated)
    }

    async fn delete(&self, admin: &dyn StoreAdmin, request: Delete) -> Result<Deleted> {
        let mut deleted = admin.delete(request).await?;
        deleted.position = None;
        Ok(deleted)
    }

    async fn find_commit(&self, store: &dyn EventStore, request: FindCommit) -> Result<Option<Appended>> {
        Ok(store.find_commit(request).await?.map(|receipt| Appended { position: None, ..receipt }))
    }

    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let mut page = store.read_stream(request).await?;
        page.commits.iter_mut().for_each(bare);
        Ok(page)
    }

    async fn read_commits(&self, admin: &dyn StoreAdmin, request: ReadCommits) -> Result<CommitsPage> {
        let mut page = admin.read_commits(request).await?;
        page.commits.iter_mut().for_each(bare);
        Ok(page)
    }

    async fn replicate(&self, _: &dyn StoreAdmin, _: Replicate) -> Result<Replicated> {
        Err(Error::new(ErrorKind::Unsupported, "the store takes no copies"))
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let mut marks = self.marks(store, &request.from, request.deadline).await?;
        // What is asked wrongly is refused by the store inside.
        let probe = ReadFeed { from: FeedStart::First, max_bytes: 1, ..request.clone() };
        let usage = store.read_feed(probe).await?.usage;
        let head = store.feed_head(request.deadline).await?;
        let mut all = self.everything(store, request.deadline).await?;
        let (mut items, mut events, mut bytes, mut full) = (Vec::new(), 0_u64, 0_u64, false);
        let turn = self.turns.fetch_add(1, Ordering::Relaxed) as u32;
        for partition in (0..G::PARTITIONS).map(|at| (at + turn) % G::PARTITIONS) {
            let after = marks.get(&partition).copied().unwrap_or_default();
            let Some(commits) = all.get_mut(&partition) else { continue };
            commits.retain(|(last, _)| *last > after);
            self.giving.arrange(partition, after, request.limit, commits);
            while let Some((last, item)) = commits.pop_front() {
                let FeedItem::Commit(commit) = item else { continue };
                if let Some(passes) = request.filter.apply(commit) {
                    let size = passes.events.len() as u64;
                    let weight: u64 =
                        passes.events.iter().map(|event| (event.data.len() + event.metadata.len()) as u64).sum();
                    let fits = events + size <= u64::from(request.limit) && bytes + weight <= request.max_bytes;
                    if !items.is_empty() && !fits {
                        full = true;
                        break;
                    }
                    (events, bytes) = (events + size, bytes + weight);
                    items.push(FeedItem::Commit(passes));
                }
                marks.insert(partition, last.max(after));
            }
            if full {
                break;
            }
        }
        let next = self.cursor(&head, &marks)?;
        Ok(FeedPage { items, before: None, next, end: !full, usage })
    }

    async fn feed_head(&self, store: &dyn EventStore, deadline: Deadline) -> Result<FeedHead> {
        let head = store.feed_head(deadline).await?;
        let last = |(partition, commits): (u32, VecDeque<(Position, FeedItem)>)| {
            commits.back().map(|(position, _)| (partition, *position))
        };
        let marks = self.everything(store, deadline).await?.into_iter().filter_map(last).collect();
        Ok(FeedHead { cursor: self.cursor(&head, &marks)?, position: None, ..head })
    }

    async fn wait_feed(&self, store: &dyn EventStore, request: WaitFeed) -> Result<Waited> {
        let long = Deadline::within(Duration::from_secs(20));
        let marks = self.marks(store, &FeedStart::After(request.after), long).await?;
        loop {
            let end = store.feed_head(long).await?.cursor;
            let all = self.everything(store, long).await?;
            let behind = |partition: &u32| marks.get(partition).copied().unwrap_or_default();
            if all.iter().any(|(partition, commits)| commits.iter().any(|(last, _)| *last > behind(partition))) {
                return Ok(Waited::More);
            }
            if store.wait_feed(WaitFeed { after: end, deadline: request.deadline }).await? == Waited::DeadlinePassed {
                return Ok(Waited::DeadlinePassed);
            }
        }
    }

    async fn advance_feed(&self, admin: &dyn StoreAdmin, request: AdvanceFeed) -> Result<FeedAdvanced> {
        let advanced = admin.advance_feed(request).await?;
        // The marks of an operator's head are for looking at: readers take theirs from the feed.
        let cursor = Cursor::parts(advanced.head.cursor.incarnation(), Vec::new())?;
        Ok(FeedAdvanced { head: FeedHead { cursor, position: None, ..advanced.head } })
    }
}

/// Changes the settings of every scratch store, where the provider has such keys.
struct WithKeys {
    inner: Arc<dyn Opener>,
    keys: &'static [(&'static str, &'static str)],
}

const LARGE_KEYS: &[(&str, &str)] = &[
    ("commit_bytes_max", "1GiB"),
    ("event_bytes_max", "512MiB"),
    ("commit_events_max", "1000000"),
    ("snapshot_bytes_max", "1GiB"),
    ("record_bytes_max", "1GiB"),
];

const SMALL_KEYS: &[(&str, &str)] = &[
    ("event_bytes_max", "64KiB"),
    ("commit_bytes_max", "128KiB"),
    ("commit_events_max", "50"),
    ("snapshot_bytes_max", "64KiB"),
    ("record_bytes_max", "4KiB"),
];

impl WithKeys {
    /// The settings with those of the keys that the provider knows.
    fn with_keys(&self, settings: &Settings) -> Result<Settings> {
        let known = settings.keys();
        let mut settings = settings.clone();
        for (name, value) in self.keys.iter().filter(|(name, _)| known.iter().any(|key| key.name == *name)) {
            settings = settings.with(name, *value)?;
        }
        Ok(settings)
    }
}

#[async_trait]
impl Opener for WithKeys {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        self.inner.open(settings).await
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        self.inner.open_admin(settings).await
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        self.inner.scratch(&self.with_keys(settings)?, tag)
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        self.inner.make_scratch(&self.with_keys(settings)?, tag).await
    }

    async fn drop_scratch(&self, scratch: &Settings) -> Result<()> {
        self.inner.drop_scratch(scratch).await
    }

    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>> {
        self.inner.list_scratch(settings).await
    }
}

#[derive(Debug, Default)]
struct Unlimited;

impl Defect for Unlimited {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        Capabilities { limits: without_limits(&inner.limits), ..inner.clone() }
    }
}

#[derive(Debug, Default)]
struct WithoutDeletion;

#[async_trait]
impl Defect for WithoutDeletion {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        Capabilities { deletion: Support::Refused, ..inner.clone() }
    }

    async fn truncate(&self, _: &dyn StoreAdmin, _: Truncate) -> Result<Truncated> {
        Err(Error::new(ErrorKind::Unsupported, "the store truncates nothing"))
    }

    async fn delete(&self, _: &dyn StoreAdmin, _: Delete) -> Result<Deleted> {
        Err(Error::new(ErrorKind::Unsupported, "the store deletes nothing"))
    }
}

/// The bounds that no key sets.
const STREAM_NAME_BYTES: usize = 128;
const EVENT_TYPE_BYTES: usize = 64;
const PAGE_ITEMS: u32 = 100;

#[derive(Debug, Default)]
struct Smallest;

fn is_page(limit: u32) -> Result<()> {
    if limit <= PAGE_ITEMS {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, "the limit of a page is higher than the store takes"))
}

fn are_names<'a>(stream: &StreamId, mut types: impl Iterator<Item = &'a str>) -> Result<()> {
    if stream.name.as_str().len() <= STREAM_NAME_BYTES && types.all(|one| one.len() <= EVENT_TYPE_BYTES) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::TooLarge, "a limit of the store is exceeded"))
}

#[async_trait]
impl Defect for Smallest {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        let mut declared = inner.clone();
        declared.limits.stream_name_bytes = STREAM_NAME_BYTES as u64;
        declared.limits.event_type_bytes = EVENT_TYPE_BYTES as u64;
        declared.limits.page_items = PAGE_ITEMS;
        declared
    }

    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        let types = request.commit.events.as_slice().iter().map(|event| event.event_type.as_str());
        are_names(&request.stream, types).map_err(|error| error.of_commit(request.commit.id))?;
        store.append(request).await
    }

    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        is_page(request.limit)?;
        let mut page = store.read_stream(request).await?;
        // As of an engine whose pages hold so much.
        let bytes: usize = page.events().map(|one| one.event.data.len()).sum();
        page.usage.requests = 1 + (bytes / 100_000) as u32;
        Ok(page)
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        is_page(request.limit)?;
        store.read_feed(request).await
    }

    async fn list_streams(&self, store: &dyn EventStore, request: ListStreams) -> Result<StreamsPage> {
        is_page(request.limit)?;
        store.list_streams(request).await
    }

    async fn list_records(&self, store: &dyn EventStore, request: ListRecords) -> Result<RecordsPage> {
        is_page(request.limit)?;
        store.list_records(request).await
    }

    async fn read_commits(&self, admin: &dyn StoreAdmin, request: ReadCommits) -> Result<CommitsPage> {
        is_page(request.limit)?;
        admin.read_commits(request).await
    }

    async fn replicate(&self, admin: &dyn StoreAdmin, request: Replicate) -> Result<Replicated> {
        for item in &request.items {
            if let Replica::Commit(commit) = item {
                are_names(&commit.stream, commit.events.iter().map(|event| event.event_type.as_str()))?;
            }
        }
        admin.replicate(request).await
    }
}

/// Positions so far up that they are said to be those of a store whose sequencer began close to the last: they are given as
/// that many more than the store inside has them.
#[derive(Debug, Default)]
struct PastTheEnd(AtomicBool);

const MORE: u64 = 1_000;

#[async_trait]
impl Defect for PastTheEnd {
    async fn replicate(&self, admin: &dyn StoreAdmin, mut request: Replicate) -> Result<Replicated> {
        for item in &mut request.items {
            if let Replica::Removed { last, .. } = item
                && last.0 > 1 << 52
            {
                last.0 -= MORE;
                self.0.store(true, Ordering::SeqCst);
            }
        }
        admin.replicate(request).await
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let mut page = store.read_feed(request).await?;
        for item in &mut page.items {
            if let FeedItem::Commit(commit) = item
                && self.0.load(Ordering::SeqCst)
            {
                commit.first_position = commit.first_position.map(|first| Position(first.0 + MORE));
            }
        }
        Ok(page)
    }

    async fn feed_head(&self, store: &dyn EventStore, deadline: Deadline) -> Result<FeedHead> {
        let head = store.feed_head(deadline).await?;
        let more = if self.0.load(Ordering::SeqCst) { MORE } else { 0 };
        Ok(FeedHead { position: head.position.map(|position| Position(position.0 + more)), ..head })
    }
}
