//! The handle that applications hold, and what it shares with the administrative one.

use crate::codec::{Events, corrupt};
use crate::config::Config;
use crate::dictionary::Dictionaries;
use crate::index::Index;
use crate::known::{Last, Memory};
use crate::lane::{Done, Lane, Work};
use crate::link::Link;
use crate::log::Owner;
use crate::place::Place;
use crate::queue::{self, Queue};
use crate::schema::{self, StoredMeta};
use crate::sequencer::{self, Sequencer};
use crate::slots::Slots;
use crate::source::{Source, TableChanges};
use crate::together::Together;
use crate::{append, capabilities, read, record, snapshot};
use async_trait::async_trait;
use evstore_api::capabilities::Limits;
use evstore_api::{
    Append, Appended, Capabilities, Clock, CommitId, ContentDigest, Deadline, DeleteSnapshot, EventStore, FeedHead,
    FeedPage, FindCommit, Head, ListRecords, ListStreams, Meta, PutRecord, PutSnapshot, ReadFeed, ReadHead, ReadRecord,
    ReadSnapshot, ReadStream, Record, RecordPut, RecordsPage, Result, Snapshot, SnapshotPut, StoreName, StreamPage,
    StreamsPage, Timestamp, Usage, WaitFeed, Waited,
};
use evstore_kit::refusal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::{RwLock as Gate, RwLockReadGuard, watch};
use tokio::task::JoinHandle;

/// One handle's way to a store.
#[derive(Debug)]
pub struct Client {
    config: Config,
    capabilities: Capabilities,
    clock: Arc<dyn Clock>,
    link: Link,
    memory: Memory,
    /// Seals that are asked for at the same time.
    together: Together,
    /// What this handle's claims are known by.
    owner: Owner,
    /// The store's record as it was read last. What it decides is decided by the table.
    meta: RwLock<Option<Arc<StoredMeta>>>,
    bell: watch::Sender<()>,
    /// With a feed that comes about behind the appends.
    sequencer: Option<Sequencer>,
    /// With a feed that comes through a queue.
    queue: Option<Arc<dyn Queue>>,
    /// With a feed that is an index.
    index: Option<Index>,
    dictionaries: Dictionaries,
    closed: AtomicBool,
    /// Held by every call, and by closing, which so waits for those that began.
    gate: Gate<()>,
}

impl Client {
    /// Connects. Nothing is sent to the tables yet.
    ///
    /// # Errors
    /// `Invalid` for settings that do not go together.
    pub async fn new(config: Config, clock: Arc<dyn Clock>) -> Result<Self> {
        let queue = match &config.queue {
            Some(queue) => Some(queue::connect(queue, config.request_timeout).await?),
            None => None,
        };
        let sequencer = match config.feed.sequencer() {
            Some(_) => {
                let source: Arc<dyn Source> = Arc::new(TableChanges::new(&config).await?);
                Some(Sequencer::new(&source, queue.clone()))
            }
            None => None,
        };
        let index = config.feed.index().map(|_| Index::new(clock.clone()));
        Ok(Self {
            sequencer,
            queue,
            capabilities: capabilities::of(&config),
            link: Link::new(&config, index.as_ref().map(Index::time)).await?,
            index,
            dictionaries: Dictionaries::new(config.dictionary),
            clock,
            memory: Memory::new(),
            together: Together::default(),
            owner: Owner(CommitId::generate().0),
            meta: RwLock::default(),
            bell: watch::channel(()).0,
            closed: AtomicBool::new(false),
            gate: Gate::default(),
            config,
        })
    }

    /// What the store promises.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The bounds of a request.
    pub fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// The store's name in markers.
    pub fn own(&self) -> &StoreName {
        &self.config.own
    }

    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many commits of a stream are recognised.
    pub fn window(&self) -> u64 {
        self.config.window
    }

    /// The way to the tables.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// What is known of streams.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Seals that are asked for at the same time.
    pub fn together(&self) -> &Together {
        &self.together
    }

    /// The sequencer, where there is one.
    pub fn sequencer(&self) -> Option<&Sequencer> {
        self.sequencer.as_ref()
    }

    /// The queue, where there is one.
    pub fn queue(&self) -> Option<&dyn Queue> {
        self.queue.as_deref()
    }

    /// The dictionaries that are known.
    pub fn dictionaries(&self) -> &Dictionaries {
        &self.dictionaries
    }

    /// Encoded events as this store keeps them.
    pub fn pack(&self, encoded: Vec<u8>) -> Events {
        match self.config.compressed {
            true => Events::new(encoded, self.dictionaries.newest().as_deref()),
            false => Events::plain(encoded),
        }
    }

    /// What is known of the feed's index, where there is one.
    pub fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// The place in the feed's index of a commit that is appended now behind the last one of its stream; none where there is no index.
    ///
    /// # Errors
    /// `Unavailable` where this machine's clock is too far off; `Corrupt` where the last commit has no place.
    pub fn place(&self, last: &Last, now: Timestamp, digest: ContentDigest) -> Result<Option<Place>> {
        let Some((_, settling)) = self.config.feed.index() else { return Ok(None) };
        if let Some(index) = &self.index {
            index.time().check(settling / 2)?;
        }
        if last.place.is_none() && !last.is_missing() {
            return Err(corrupt("a commit has no place in the feed's index").with("number", last.number));
        }
        Ok(Some(Place::behind(last.place, now, digest)))
    }

    /// What this handle's claims are known by.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Begins a call: closing waits for it.
    ///
    /// # Errors
    /// `Closed`, `DeadlineExceeded`.
    pub async fn enter(&self, deadline: Deadline) -> Result<RwLockReadGuard<'_, ()>> {
        let guard = self.gate.read().await;
        self.check_open()?;
        refusal::check_deadline(deadline)?;
        Ok(guard)
    }

    /// Refuses what comes after closing.
    ///
    /// # Errors
    /// `Closed`.
    pub fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(refusal::closed()) } else { Ok(()) }
    }

    /// A bound for a request that no caller bounds.
    pub fn patience(&self) -> Deadline {
        Deadline::within(self.config.request_timeout)
    }

    /// The record under which a stream's head is told: only that of a copied stream hangs on it, so that others are told without
    /// reading it.
    ///
    /// # Errors
    /// As reads have them.
    pub async fn meta_for(&self, last: &Last, deadline: Deadline, usage: &mut Usage) -> Result<Arc<StoredMeta>> {
        match self.known_meta() {
            Some(known) if !last.is_marked() => Ok(known),
            _ => schema::read_meta(self, deadline, usage).await,
        }
    }

    /// The record as it was read last.
    pub fn known_meta(&self) -> Option<Arc<StoredMeta>> {
        self.meta.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The head of a stream that ends so, under this record of the store.
    pub fn head(&self, last: &Last, meta: &Meta) -> Head {
        last.head(meta, self.own(), self.config.feed.fence())
    }

    /// Keeps the record as it was read.
    pub fn learn(&self, meta: Arc<StoredMeta>) {
        *self.meta.write().unwrap_or_else(PoisonError::into_inner) = Some(meta);
    }

    /// Hears of what this handle changes.
    pub fn listen(&self) -> watch::Receiver<()> {
        self.bell.subscribe()
    }

    /// Tells those who wait.
    pub fn ring(&self) {
        self.bell.send_replace(());
    }

    /// Tells those who wait, and the sequencer, that something was appended.
    pub fn appended(&self) {
        self.ring();
        if let Some(sequencer) = &self.sequencer {
            sequencer.nudge();
        }
    }

    /// Refuses calls from now on, and waits for those that began.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.ring();
        let _alone = self.gate.write().await;
    }
}

/// What both handles hold.
#[derive(Debug)]
pub struct Handle {
    /// The way to the store.
    pub client: Arc<Client>,
    /// The way of its writes.
    pub writer: Writer,
    /// Tells the background task that the handle is closed, or gone.
    closed: watch::Sender<bool>,
    /// That task, where the sequencer runs in this handle.
    task: Mutex<Option<JoinHandle<()>>>,
}

/// The way of a handle's writes.
#[derive(Debug)]
pub enum Writer {
    /// All of them one after the other, each with its place in the log.
    Lane(Lane),
    /// Each into its stream.
    Slots(Slots),
}

impl Writer {
    /// Writes something.
    ///
    /// # Errors
    /// As the way that it takes.
    pub async fn write(&self, work: Work, deadline: Deadline) -> Result<Done> {
        match self {
            Self::Lane(lane) => lane.write(work, deadline).await,
            Self::Slots(slots) => slots.write(work, deadline).await,
        }
    }
}

impl Handle {
    /// Begins to write for a client.
    pub fn new(client: Client) -> Self {
        let client = Arc::new(client);
        let writer = match client.config().feed.is_behind_appends() {
            true => Writer::Slots(Slots::new(client.clone())),
            false => Writer::Lane(Lane::start(client.clone())),
        };
        Self { client, writer, closed: watch::channel(false).0, task: Mutex::default() }
    }

    /// Runs the sequencer beside, where it is to run in handles of applications.
    pub fn with_sequencer(mut self) -> Self {
        if let Some((true, _)) = self.client.config().feed.sequencer() {
            let task = tokio::spawn(sequencer::run(self.client.clone(), self.closed.subscribe()));
            self.task = Mutex::new(Some(task));
        }
        self
    }

    /// Answers what was taken, and lets go.
    pub async fn close(&self) {
        self.closed.send_replace(true);
        self.client.close().await;
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        // So that the next one need not outwait its mark, and finds what it has out of a queue; where that can't be given back, it has to.
        let patience = self.client.patience().0.into();
        match (task, self.client.sequencer()) {
            (Some(task), _) => drop(tokio::time::timeout_at(patience, task).await),
            (None, Some(sequencer)) => drop(tokio::time::timeout_at(patience, sequencer.release(&self.client)).await),
            (None, None) => {}
        }
        if let Writer::Lane(lane) = &self.writer {
            lane.close();
        }
    }
}

/// A store on DynamoDB.
#[derive(Debug)]
pub struct DynamoStore(pub Handle);

#[async_trait]
impl EventStore for DynamoStore {
    fn capabilities(&self) -> &Capabilities {
        self.0.client.capabilities()
    }

    async fn append(&self, request: Append) -> Result<Appended> {
        append::append(&self.0, request).await
    }

    async fn find_commit(&self, request: FindCommit) -> Result<Option<Appended>> {
        append::find_commit(&self.0.client, &request).await
    }

    async fn head(&self, request: ReadHead) -> Result<Head> {
        read::head(&self.0.client, &request).await
    }

    async fn read_stream(&self, request: ReadStream) -> Result<StreamPage> {
        read::read_stream(&self.0.client, &request).await
    }

    async fn read_feed(&self, request: ReadFeed) -> Result<FeedPage> {
        read::read_feed(&self.0.client, &request).await
    }

    async fn wait_feed(&self, request: WaitFeed) -> Result<Waited> {
        read::wait_feed(&self.0.client, &request).await
    }

    async fn feed_head(&self, deadline: Deadline) -> Result<FeedHead> {
        read::feed_head(&self.0.client, deadline).await
    }

    async fn list_streams(&self, request: ListStreams) -> Result<StreamsPage> {
        read::list_streams(&self.0.client, &request).await
    }

    async fn put_snapshot(&self, request: PutSnapshot) -> Result<SnapshotPut> {
        snapshot::put(&self.0.client, &request).await
    }

    async fn read_snapshot(&self, request: ReadSnapshot) -> Result<Option<Snapshot>> {
        snapshot::read(&self.0.client, &request).await
    }

    async fn delete_snapshot(&self, request: DeleteSnapshot) -> Result<()> {
        snapshot::delete(&self.0.client, &request).await
    }

    async fn put_record(&self, request: PutRecord) -> Result<RecordPut> {
        record::put(&self.0.client, &request).await
    }

    async fn read_record(&self, request: ReadRecord) -> Result<Option<Record>> {
        record::read(&self.0.client, &request).await
    }

    async fn list_records(&self, request: ListRecords) -> Result<RecordsPage> {
        record::list(&self.0.client, &request).await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await;
        Ok(())
    }
}
