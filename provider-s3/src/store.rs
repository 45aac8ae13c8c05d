//! The handle that applications hold, and what it shares with the administrative one: the state, and the way to the objects.

use crate::config::Config;
use crate::lane::Lane;
use crate::log;
use crate::payload::Cache;
use crate::tables::Tables;
use crate::{append, capabilities, read, record, snapshot};
use async_trait::async_trait;
use evstore_api::capabilities::{Limits, Window};
use evstore_api::{
    Append, Appended, Capabilities, Clock, CommitId, Deadline, DeleteSnapshot, EventStore, FeedHead, FeedPage,
    FindCommit, Head, ListRecords, ListStreams, PutRecord, PutSnapshot, ReadFeed, ReadHead, ReadRecord, ReadSnapshot,
    ReadStream, Record, RecordPut, RecordsPage, Result, Snapshot, SnapshotPut, StoreName, StreamPage, StreamsPage,
    Timestamp, Usage, WaitFeed, Waited,
};
use evstore_aws::s3::Link;
use evstore_kit::refusal;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Mutex as Turn, OnceCell, RwLock as Gate, RwLockReadGuard, watch};

/// One handle's way to a store.
pub struct Client {
    config: Config,
    capabilities: Capabilities,
    clock: Arc<dyn Clock>,
    link: Link,
    /// What this handle's objects are known by.
    writer: [u8; 16],
    /// The state. Never locked across a wait.
    tables: Mutex<Tables>,
    cache: Mutex<Cache>,
    opened: OnceCell<()>,
    /// Calls that asked for a look at the end of the log.
    pub tickets: AtomicU64,
    /// The last of them that came before a look began which found the end.
    pub seen: AtomicU64,
    /// Held by who looks.
    pub turn: Turn<()>,
    /// Whose object is waited for; none once it is there.
    pub awaited: Mutex<Option<[u8; 16]>>,
    /// The object of the last checkpoint that is known.
    pub checkpointed: AtomicU64,
    /// Held while this handle writes one.
    pub checkpointing: Arc<Turn<()>>,
    bell: watch::Sender<()>,
    closed: AtomicBool,
    /// Held by every call, and by closing, which so waits for those that began.
    gate: Gate<()>,
}

/// Without the state: names of streams are not for logs.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("link", &self.link).field("prefix", &self.config.prefix).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects. Nothing is sent yet.
    ///
    /// # Errors
    /// `Invalid` for settings that do not go together.
    pub async fn new(config: Config, clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(Self {
            capabilities: capabilities::of(&config),
            link: Link::new(&config.access, &config.bucket, config.request_timeout).await?,
            clock,
            writer: CommitId::generate().0,
            tables: Mutex::default(),
            cache: Mutex::new(Cache::new(config.cache_bytes)),
            opened: OnceCell::new(),
            tickets: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            turn: Turn::default(),
            awaited: Mutex::default(),
            checkpointed: AtomicU64::new(0),
            checkpointing: Arc::default(),
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

    /// How far back repeats are recognised.
    pub fn window(&self) -> Window {
        self.config.window
    }

    /// The way to the objects.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// What its keys begin with.
    pub fn prefix(&self) -> &str {
        &self.config.prefix
    }

    /// The key of an object of the log.
    pub fn slot(&self, number: u64) -> String {
        log::key(&self.config.prefix, number)
    }

    /// What this handle's objects are known by.
    pub fn writer(&self) -> [u8; 16] {
        self.writer
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The state.
    pub fn tables(&self) -> MutexGuard<'_, Tables> {
        // One that a call broke off in is marked as broken by itself; a draft is taken back by what it noted.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Objects in memory.
    pub fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Reads the store for the first time, unless that was done.
    ///
    /// # Errors
    /// As [`log::open`].
    pub async fn opened(&self, deadline: Deadline, usage: &mut Usage) -> Result<()> {
        self.opened.get_or_try_init(|| log::open(self, deadline, usage)).await.copied()
    }

    /// Looks at the state with everything in it that was answered before.
    ///
    /// # Errors
    /// As [`log::open`] and [`log::catch_up`], and what `look` refuses.
    pub async fn look<T>(
        &self,
        deadline: Deadline,
        usage: &mut Usage,
        look: impl FnOnce(&Tables) -> Result<T>,
    ) -> Result<T> {
        self.opened(deadline, usage).await?;
        log::catch_up(self, deadline, usage).await?;
        let tables = self.tables();
        log::check(self, &tables)?;
        look(&tables)
    }

    /// A bound for one request.
    pub fn patience(&self) -> Deadline {
        Deadline::within(self.config.request_timeout)
    }

    /// Hears of what this handle learns.
    pub fn listen(&self) -> watch::Receiver<()> {
        self.bell.subscribe()
    }

    /// Tells those who wait.
    pub fn ring(&self) {
        self.bell.send_replace(());
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
    /// The state and the way to the objects.
    pub client: Arc<Client>,
    /// The way of its writes.
    pub lane: Lane,
}

impl Handle {
    /// Starts the lane of a client.
    pub fn new(client: Client) -> Self {
        let client = Arc::new(client);
        let lane = Lane::start(client.clone());
        Self { client, lane }
    }

    /// Answers what was taken, and lets go.
    pub async fn close(&self) {
        self.client.close().await;
        self.lane.close();
        // One that was begun is finished: a process that lives for one call would never write any.
        let _finished =
            tokio::time::timeout_at(self.client.patience().0.into(), self.client.checkpointing.lock()).await;
    }
}

/// A store on S3.
#[derive(Debug)]
pub struct S3Store(pub Handle);

#[async_trait]
impl EventStore for S3Store {
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
        snapshot::put(&self.0, request).await
    }

    async fn read_snapshot(&self, request: ReadSnapshot) -> Result<Option<Snapshot>> {
        snapshot::read(&self.0.client, &request).await
    }

    async fn delete_snapshot(&self, request: DeleteSnapshot) -> Result<()> {
        snapshot::delete(&self.0, &request).await
    }

    async fn put_record(&self, request: PutRecord) -> Result<RecordPut> {
        record::put(&self.0, request).await
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
