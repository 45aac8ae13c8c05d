//! Stores that are wrong as a whole: one that does nothing, one that begins deleted streams anew, and feeds that lose,
//! repeat or reorder what is whole in the streams.

use super::Mutant;
use super::defect::{Defect, lock, mutant};
use async_trait::async_trait;
use evstore_api::{
    Append, Appended, Commit, CommitNumber, CommitsPage, Content, ContentDigest, Cursor, Deadline, Delete, Deleted,
    EventStore, FeedHead, FeedItem, FeedPage, FindCommit, Head, Lag, ListRecords, ListStreams, MetaSwapped, PutRecord,
    PutSnapshot, ReadCommits, ReadFeed, ReadHead, ReadRecord, ReadSnapshot, ReadStream, Record, RecordNumber,
    RecordPut, RecordsPage, Replicate, Replicated, Result, Revision, Snapshot, SnapshotPut, StoreAdmin, StreamId,
    StreamPage, StreamsPage, SwapMeta, Timestamp, Usage, WaitFeed, Waited,
};
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

pub(super) static MUTANTS: &[Mutant] = &[
    mutant::<DoesNothing>(
        DOES_NOTHING,
        "every call is answered and nothing is done",
        &[
            "append.one-event-reads-back",
            "streams.pages-join-without-gap-or-repeat",
            "listing.every-stream-is-listed-once",
        ],
    ),
    mutant::<BeginsAnew>(
        "deletion.begins-anew",
        "a deleted stream can be appended to and its revisions are given again",
        &["streams.states-are-told-apart", "idempotency.a-repeat-is-recognised-after-deletion"],
    ),
    mutant::<FeedDropsEveryThird>(
        "feed.drops-every-third",
        "commits at every third position are not in the feed",
        &["feed.every-event-appears-once", "append.every-name-is-its-own-stream"],
    ),
    mutant::<FeedRepeats>(
        "feed.repeats",
        "the first commit of a page of the feed is there twice",
        &["feed.every-event-appears-once", "append.a-receipt-has-a-position-as-declared"],
    ),
    mutant::<StuckFeed>(
        "feed.stuck-unnoticed",
        "the feed ends after the third commit and says that it is not behind",
        &["health.a-stuck-feed-is-told-from-an-idle-one", "feed.lag-is-reported"],
    ),
    mutant::<BecomeStubs>(
        "history.payloads-become-stubs",
        "every fifth commit of a stream loses its events once others stand behind it, and nobody asked for that",
        &["concurrency.histories-of-threads-are-serial"],
    ),
    mutant::<IdleGrowsOld>(
        "feed.idle-grows-old",
        "the age of what a feed is behind is the age of its last commit",
        &["health.a-stuck-feed-is-told-from-an-idle-one"],
    ),
    mutant::<FeedReorders>(
        "feed.reorders-across-streams",
        "neighbours of different streams change places in the feed",
        &["feed.the-order-holds-under-load"],
    ),
];

/// Name of the store that does nothing, which every check that wants something done has to notice.
pub const DOES_NOTHING: &str = "store.does-nothing";

#[derive(Debug, Default)]
struct DoesNothing;

#[async_trait]
impl Defect for DoesNothing {
    async fn append(&self, _: &dyn EventStore, request: Append) -> Result<Appended> {
        Ok(Appended {
            commit: request.commit.id,
            number: CommitNumber(1),
            first: Revision(1),
            last: Revision(request.commit.events.count().into()),
            position: None,
            recorded_at: Timestamp(0),
            digest: ContentDigest([0; 16]),
            repeated: false,
            usage: Usage::default(),
        })
    }

    async fn find_commit(&self, _: &dyn EventStore, _: FindCommit) -> Result<Option<Appended>> {
        Ok(None)
    }

    async fn head(&self, _: &dyn EventStore, _: ReadHead) -> Result<Head> {
        Ok(Head::missing())
    }

    async fn read_stream(&self, _: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        let (commits, direction) = (Vec::new(), request.direction);
        Ok(StreamPage { head: Head::missing(), commits, direction, next: None, usage: Usage::default() })
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let next = store.feed_head(request.deadline).await?.cursor;
        Ok(FeedPage { items: Vec::new(), before: None, next, end: true, usage: Usage::default() })
    }

    /// Does not even wait for long, so that trying every check on it takes no time.
    async fn wait_feed(&self, _: &dyn EventStore, request: WaitFeed) -> Result<Waited> {
        tokio::time::sleep(request.deadline.remaining().min(Duration::from_millis(200))).await;
        Ok(Waited::DeadlinePassed)
    }

    async fn feed_head(&self, store: &dyn EventStore, deadline: Deadline) -> Result<FeedHead> {
        let cursor = Cursor::total(store.feed_head(deadline).await?.cursor.incarnation(), evstore_api::Position(0));
        let lag = Lag { commits: 0, age: Duration::ZERO };
        Ok(FeedHead { cursor, position: Some(evstore_api::Position(0)), lag, usage: Usage::default() })
    }

    async fn list_streams(&self, _: &dyn EventStore, _: ListStreams) -> Result<StreamsPage> {
        Ok(StreamsPage { streams: Vec::new(), next: None, usage: Usage::default() })
    }

    async fn put_snapshot(&self, _: &dyn EventStore, _: PutSnapshot) -> Result<SnapshotPut> {
        Ok(SnapshotPut::Stored { usage: Usage::default() })
    }

    async fn read_snapshot(&self, _: &dyn EventStore, _: ReadSnapshot) -> Result<Option<Snapshot>> {
        Ok(None)
    }

    async fn put_record(&self, _: &dyn EventStore, _: PutRecord) -> Result<RecordPut> {
        Ok(RecordPut { number: RecordNumber(1), usage: Usage::default() })
    }

    async fn read_record(&self, _: &dyn EventStore, _: ReadRecord) -> Result<Option<Record>> {
        Ok(None)
    }

    async fn list_records(&self, _: &dyn EventStore, _: ListRecords) -> Result<RecordsPage> {
        Ok(RecordsPage { records: Vec::new(), next: None, usage: Usage::default() })
    }

    async fn swap_meta(&self, _: &dyn StoreAdmin, _: SwapMeta) -> Result<MetaSwapped> {
        Ok(MetaSwapped::Done)
    }

    async fn replicate(&self, _: &dyn StoreAdmin, request: Replicate) -> Result<Replicated> {
        Ok(Replicated { written: request.items.len() as u64, present: 0, usage: Usage::default() })
    }

    async fn read_commits(&self, _: &dyn StoreAdmin, _: ReadCommits) -> Result<CommitsPage> {
        Ok(CommitsPage { commits: Vec::new(), next: None, usage: Usage::default() })
    }
}

/// How often each stream was deleted; it is another stream of the inner store each time.
#[derive(Debug, Default)]
struct BeginsAnew(Mutex<HashMap<StreamId, u32>>);

impl BeginsAnew {
    fn life(&self, stream: &StreamId) -> StreamId {
        match lock(&self.0).get(stream) {
            None => stream.clone(),
            Some(lives) => StreamId::within(stream.namespace.as_str(), format!("{}~{lives}", stream.name))
                .unwrap_or_else(|_| stream.clone()),
        }
    }
}

#[async_trait]
impl Defect for BeginsAnew {
    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        store.append(Append { stream: self.life(&request.stream), ..request }).await
    }

    async fn head(&self, store: &dyn EventStore, request: ReadHead) -> Result<Head> {
        store.head(ReadHead { stream: self.life(&request.stream), ..request }).await
    }

    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        store.read_stream(ReadStream { stream: self.life(&request.stream), ..request }).await
    }

    async fn delete(&self, admin: &dyn StoreAdmin, request: Delete) -> Result<Deleted> {
        let stream = request.stream.clone();
        let deleted = admin.delete(Delete { stream: self.life(&stream), ..request }).await?;
        *lock(&self.0).entry(stream).or_default() += 1;
        Ok(deleted)
    }
}

#[derive(Debug, Default)]
struct FeedDropsEveryThird;

#[async_trait]
impl Defect for FeedDropsEveryThird {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let mut page = store.read_feed(request).await?;
        page.items.retain(|item| match item {
            FeedItem::Commit(commit) => commit.first_position.is_none_or(|first| !first.0.is_multiple_of(3)),
            FeedItem::Removed { .. } => true,
        });
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct FeedRepeats;

#[async_trait]
impl Defect for FeedRepeats {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let mut page = store.read_feed(request).await?;
        if let Some(first) = page.items.first().cloned() {
            page.items.insert(0, first);
        }
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct FeedReorders;

#[async_trait]
impl Defect for FeedReorders {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let mut page = store.read_feed(request).await?;
        let stream = |item: &FeedItem| match item {
            FeedItem::Commit(commit) => Some(commit.stream.clone()),
            FeedItem::Removed { .. } => None,
        };
        for at in (1..page.items.len()).step_by(2) {
            if stream(&page.items[at - 1]) != stream(&page.items[at]) {
                page.items.swap(at - 1, at);
            }
        }
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct StuckFeed;

#[async_trait]
impl Defect for StuckFeed {
    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        let mut page = store.read_feed(request).await?;
        page.items.retain(|item| match item {
            FeedItem::Commit(commit) => commit.first_position.is_none_or(|first| first.0 <= 3),
            FeedItem::Removed { .. } => true,
        });
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct BecomeStubs;

fn is_stub(commit: &Commit) -> bool {
    commit.number.0.is_multiple_of(5) && !commit.kind.is_marker()
}

#[async_trait]
impl Defect for BecomeStubs {
    async fn read_commits(&self, admin: &dyn StoreAdmin, request: ReadCommits) -> Result<CommitsPage> {
        let mut page = admin.read_commits(request).await?;
        for commit in page.commits.iter_mut().filter(|commit| is_stub(commit)) {
            commit.events.clear();
            commit.content = Content::Stripped;
        }
        Ok(page)
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        // Only a reader of large pages is behind everybody else.
        let late = request.limit > 100;
        let mut page = store.read_feed(request).await?;
        for item in page.items.iter_mut().filter(|_| late) {
            if let FeedItem::Commit(commit) = item
                && let (true, Some(first), Some(last)) =
                    (is_stub(commit), commit.first_position, commit.last_position())
            {
                *item = FeedItem::Removed { first, last };
            }
        }
        Ok(page)
    }
}

/// When the store was asked first.
#[derive(Debug, Default)]
struct IdleGrowsOld(OnceLock<Instant>);

#[async_trait]
impl Defect for IdleGrowsOld {
    async fn feed_head(&self, store: &dyn EventStore, deadline: Deadline) -> Result<FeedHead> {
        let since = self.0.get_or_init(Instant::now).elapsed();
        let head = store.feed_head(deadline).await?;
        Ok(FeedHead { lag: Lag { age: since, ..head.lag }, ..head })
    }
}
