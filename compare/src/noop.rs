//! Stores that promise nothing: one that does nothing and says that it did, so that what is measured against it is what the measuring
//! costs; and the bare client of an engine, which is the floor under a store.

use crate::contender::{Contender, Part};
use async_trait::async_trait;
use evstore_api::capabilities::{
    Consistency, Durability, EventIds, Failover, FeedOrder, Fence, Limit, Limits, Positioned, Positions, Processes,
    RealTime, Support, Window,
};
use evstore_api::*;
use evstore_kit::floor::{Bare, Floor, Put};
use std::sync::Arc;
use std::time::Duration;

/// The name of the rows that show what the measuring costs.
pub const NAME: &str = "harness";

/// The store that does nothing, as a contender: driven as the others are, and called by a bare loop.
#[must_use]
pub fn contenders() -> [Contender; 2] {
    let provider = Provider { name: NAME, sentence: "does nothing", keys: &[], opener: Arc::new(Noop::new()) };
    let store = StoreName::new(NAME).expect("it is short and plain");
    let settings = Settings::new(store, &[], []).expect("there is no key");
    let driven = Contender { name: NAME.into(), provider, settings, part: Part::Harness };
    let called = Contender { name: format!("{NAME}:bare"), part: Part::Calls, ..driven.clone() };
    [driven, called]
}

/// The bare client of a store's engine, as a contender: on scratch stores that are made as the store's are.
#[must_use]
pub fn floor(store: &Contender, floor: Arc<dyn Floor>) -> Contender {
    let part = Part::Floor { of: store.name.clone(), loads: floor.loads() };
    let opener = Arc::new(Below { inner: store.provider.opener.clone(), floor });
    let provider = Provider { opener, ..store.provider.clone() };
    Contender { name: format!("{}:bare", store.name), provider, settings: store.settings.clone(), part }
}

/// Makes scratch stores as a provider does, and opens them with the bare client.
struct Below {
    inner: Arc<dyn Opener>,
    floor: Arc<dyn Floor>,
}

#[async_trait]
impl Opener for Below {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        Ok(Arc::new(Noop { client: Some(self.floor.connect(settings).await?), ..Noop::new() }))
    }

    async fn open_admin(&self, _: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        Ok(Arc::new(Noop::new()))
    }

    fn scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        self.inner.scratch(settings, tag)
    }

    async fn make_scratch(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        self.inner.make_scratch(settings, tag).await
    }

    async fn drop_scratch(&self, scratch: &Settings) -> Result<()> {
        self.inner.drop_scratch(scratch).await
    }

    async fn list_scratch(&self, settings: &Settings) -> Result<Vec<String>> {
        self.inner.list_scratch(settings).await
    }
}

/// The number at the end of a stream's name.
fn number_of(stream: &StreamId) -> Result<u64> {
    let number = stream.name.as_str().rsplit('-').next().and_then(|number| number.parse().ok());
    number.ok_or_else(|| Error::new(ErrorKind::Invalid, "the bare client knows streams by numbers"))
}

async fn append_below(client: &dyn Bare, request: Append, before: u64) -> Result<Usage> {
    let stream = number_of(&request.stream)?;
    let (id, count) = (request.commit.id, request.commit.events.count());
    let events = format::encode_events(id, &request.commit.recorded()?).into();
    client.append(Put { stream, slot: before / u64::from(count) + 1, count, id, events }).await
}

/// Answers at once, or when the bare client has done it, with receipts that agree with what was asked.
#[derive(Clone, Debug)]
struct Noop {
    capabilities: Capabilities,
    cursor: Cursor,
    client: Option<Arc<dyn Bare>>,
}

impl Noop {
    fn new() -> Self {
        let limits = Limits {
            stream_name_bytes: 512,
            event_type_bytes: 256,
            event_bytes: Limit::None,
            commit_bytes: Limit::None,
            commit_events: Limit::None,
            snapshot_bytes: Limit::None,
            record_bytes: Limit::None,
            page_items: 10_000,
        };
        let capabilities = Capabilities {
            contract: CONTRACT,
            provider: NAME,
            engine: "none".into(),
            durability: Durability::Memory,
            failover: Failover::None,
            order: FeedOrder::BestEffort,
            real_time: RealTime::NotKept,
            positions: Positions::Opaque,
            positioned: Positioned::Never { settling: Duration::ZERO },
            reads: Consistency::Strong,
            lists: Consistency::Strong,
            idempotency: Window::Commits(64),
            event_ids: EventIds::PerCommit,
            processes: Processes::One,
            fence: Fence::Store,
            deletion: Support::Refused,
            replication: Support::Refused,
            archive: Support::Refused,
            time_precision: Duration::from_micros(1),
            limits,
        };
        Self { capabilities, cursor: Cursor::total(Incarnation([1; 16]), Position(0)), client: None }
    }
}

fn refused<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, "the store that does nothing does not do that either"))
}

#[async_trait]
impl Opener for Noop {
    async fn open(&self, _: &Settings) -> Result<Arc<dyn EventStore>> {
        Ok(Arc::new(self.clone()))
    }

    async fn open_admin(&self, _: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        Ok(Arc::new(self.clone()))
    }

    fn scratch(&self, settings: &Settings, _: &str) -> Result<Settings> {
        Ok(settings.clone())
    }

    async fn make_scratch(&self, settings: &Settings, _: &str) -> Result<Settings> {
        Ok(settings.clone())
    }

    async fn drop_scratch(&self, _: &Settings) -> Result<()> {
        Ok(())
    }

    async fn list_scratch(&self, _: &Settings) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl EventStore for Noop {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn append(&self, request: Append) -> Result<Appended> {
        let before = match request.expected {
            Expected::At(revision) => revision.0,
            Expected::Any | Expected::NoStream | Expected::Exists => 0,
        };
        let (id, count) = (request.commit.id, request.commit.events.count());
        let usage = match &self.client {
            None => Usage::default(),
            // In a box of its own, so that what does nothing pays for no room.
            Some(client) => Box::pin(append_below(&**client, request, before)).await?,
        };
        Ok(Appended {
            commit: id,
            number: CommitNumber(before + 1),
            first: Revision(before + 1),
            last: Revision(before + u64::from(count)),
            position: None,
            recorded_at: Timestamp(0),
            digest: ContentDigest([0; 16]),
            repeated: false,
            usage,
        })
    }

    async fn find_commit(&self, _: FindCommit) -> Result<Option<Appended>> {
        Ok(None)
    }

    async fn head(&self, _: ReadHead) -> Result<Head> {
        Ok(Head::missing())
    }

    async fn read_stream(&self, request: ReadStream) -> Result<StreamPage> {
        let usage = match &self.client {
            None => Usage::default(),
            Some(client) => client.load(number_of(&request.stream)?).await?,
        };
        Ok(StreamPage { head: Head::missing(), commits: Vec::new(), direction: request.direction, next: None, usage })
    }

    async fn read_feed(&self, _: ReadFeed) -> Result<FeedPage> {
        let (items, next, usage) = (Vec::new(), self.cursor.clone(), Usage::default());
        Ok(FeedPage { items, before: None, next, end: true, usage })
    }

    async fn wait_feed(&self, _: WaitFeed) -> Result<Waited> {
        Ok(Waited::DeadlinePassed)
    }

    async fn feed_head(&self, _: Deadline) -> Result<FeedHead> {
        let lag = Lag { commits: 0, age: Duration::ZERO };
        Ok(FeedHead { cursor: self.cursor.clone(), position: None, lag, usage: Usage::default() })
    }

    async fn list_streams(&self, _: ListStreams) -> Result<StreamsPage> {
        Ok(StreamsPage { streams: Vec::new(), next: None, usage: Usage::default() })
    }

    async fn put_snapshot(&self, _: PutSnapshot) -> Result<SnapshotPut> {
        Ok(SnapshotPut::Stored { usage: Usage::default() })
    }

    async fn read_snapshot(&self, _: ReadSnapshot) -> Result<Option<Snapshot>> {
        Ok(None)
    }

    async fn delete_snapshot(&self, _: DeleteSnapshot) -> Result<()> {
        Ok(())
    }

    async fn put_record(&self, _: PutRecord) -> Result<RecordPut> {
        refused()
    }

    async fn read_record(&self, _: ReadRecord) -> Result<Option<Record>> {
        Ok(None)
    }

    async fn list_records(&self, _: ListRecords) -> Result<RecordsPage> {
        refused()
    }

    async fn close(&self) -> Result<()> {
        if let Some(client) = &self.client {
            client.close().await;
        }
        Ok(())
    }
}

#[async_trait]
impl StoreAdmin for Noop {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn read_meta(&self, _: Deadline) -> Result<Meta> {
        refused()
    }

    async fn swap_meta(&self, _: SwapMeta) -> Result<MetaSwapped> {
        refused()
    }

    async fn seal_stream(&self, _: SealStream) -> Result<StreamSealed> {
        refused()
    }

    async fn open_stream(&self, _: OpenStream) -> Result<StreamOpened> {
        refused()
    }

    async fn replicate(&self, _: Replicate) -> Result<Replicated> {
        refused()
    }

    async fn read_commits(&self, _: ReadCommits) -> Result<CommitsPage> {
        refused()
    }

    async fn truncate(&self, _: Truncate) -> Result<Truncated> {
        refused()
    }

    async fn release(&self, _: Release) -> Result<Released> {
        refused()
    }

    async fn delete(&self, _: Delete) -> Result<Deleted> {
        refused()
    }

    async fn advance_feed(&self, request: AdvanceFeed) -> Result<FeedAdvanced> {
        Ok(FeedAdvanced { head: self.feed_head(request.deadline).await? })
    }

    async fn plan_schema(&self, _: Deadline) -> Result<SchemaPlan> {
        Ok(SchemaPlan { changes: Vec::new() })
    }

    async fn apply_schema(&self, _: Deadline) -> Result<SchemaPlan> {
        Ok(SchemaPlan { changes: Vec::new() })
    }

    async fn check_schema(&self, _: Deadline) -> Result<()> {
        Ok(())
    }

    async fn examine(&self, _: Deadline) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
