//! The handle that applications hold, and what it shares with the administrative one: the way to the tables.

use crate::capabilities;
use crate::config::Config;
use crate::error;
use crate::schema::{Database, Tables};
use crate::{append, read, record, snapshot};
use async_trait::async_trait;
use evstore_api::capabilities::{Limits, Window};
use evstore_api::{
    Append, Appended, Capabilities, Clock, Deadline, DeleteSnapshot, EventStore, FeedHead, FeedPage, FindCommit, Head,
    ListRecords, ListStreams, PutRecord, PutSnapshot, ReadFeed, ReadHead, ReadRecord, ReadSnapshot, ReadStream, Record,
    RecordPut, RecordsPage, Result, Snapshot, SnapshotPut, StoreName, StreamPage, StreamsPage, Timestamp, WaitFeed,
    Waited,
};
use evstore_kit::refusal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use tokio::sync::watch;

/// One handle's way to a database.
#[derive(Debug)]
pub struct Client {
    database: Arc<Database>,
    clock: Arc<dyn Clock>,
    config: Config,
    capabilities: Capabilities,
    closed: AtomicBool,
}

impl Client {
    /// A handle of its own.
    pub fn new(database: Arc<Database>, clock: Arc<dyn Clock>, config: Config) -> Self {
        let capabilities = capabilities::of(&config);
        Self { database, clock, config, capabilities, closed: AtomicBool::new(false) }
    }

    /// What the store promises.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The bounds of a request.
    pub fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// How far back repeats are recognised.
    pub fn window(&self) -> Window {
        self.config.window
    }

    /// The store's name in markers.
    pub fn own(&self) -> &StoreName {
        &self.config.store
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Locks the tables for a call. The deadline is looked at with the lock held: a call that waited for it too long does
    /// not begin.
    pub fn enter(&self, deadline: Deadline) -> Result<MutexGuard<'_, Tables>> {
        let tables = self.tables()?;
        refusal::check_deadline(deadline)?;
        Ok(tables)
    }

    /// Locks the tables, whatever the time.
    pub fn tables(&self) -> Result<MutexGuard<'_, Tables>> {
        let tables = error::lock(&self.database.tables)?;
        if self.closed.load(Ordering::Acquire) {
            return Err(refusal::closed());
        }
        Ok(tables)
    }

    /// Hears of every change from now on.
    pub fn listen(&self) -> watch::Receiver<()> {
        self.database.bell.subscribe()
    }

    /// Tells those who wait that something changed.
    pub fn ring(&self) {
        self.database.bell.send_replace(());
    }

    /// Refuses calls from now on. One that has the lock is answered first; who waits is told.
    pub fn close(&self) -> Result<()> {
        let tables = error::lock(&self.database.tables)?;
        self.closed.store(true, Ordering::Release);
        drop(tables);
        self.ring();
        Ok(())
    }
}

/// A store in memory.
#[derive(Debug)]
pub struct MemoryStore(pub Client);

#[async_trait]
impl EventStore for MemoryStore {
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    async fn append(&self, request: Append) -> Result<Appended> {
        append::append(&self.0, request)
    }

    async fn find_commit(&self, request: FindCommit) -> Result<Option<Appended>> {
        append::find_commit(&self.0, &request)
    }

    async fn head(&self, request: ReadHead) -> Result<Head> {
        read::head(&self.0, &request)
    }

    async fn read_stream(&self, request: ReadStream) -> Result<StreamPage> {
        read::read_stream(&self.0, &request)
    }

    async fn read_feed(&self, request: ReadFeed) -> Result<FeedPage> {
        read::read_feed(&self.0, &request)
    }

    async fn wait_feed(&self, request: WaitFeed) -> Result<Waited> {
        read::wait_feed(&self.0, &request).await
    }

    async fn feed_head(&self, deadline: Deadline) -> Result<FeedHead> {
        read::feed_head(&self.0, deadline)
    }

    async fn list_streams(&self, request: ListStreams) -> Result<StreamsPage> {
        read::list_streams(&self.0, &request)
    }

    async fn put_snapshot(&self, request: PutSnapshot) -> Result<SnapshotPut> {
        snapshot::put(&self.0, request)
    }

    async fn read_snapshot(&self, request: ReadSnapshot) -> Result<Option<Snapshot>> {
        snapshot::read(&self.0, &request)
    }

    async fn delete_snapshot(&self, request: DeleteSnapshot) -> Result<()> {
        snapshot::delete(&self.0, &request)
    }

    async fn put_record(&self, request: PutRecord) -> Result<RecordPut> {
        record::put(&self.0, request)
    }

    async fn read_record(&self, request: ReadRecord) -> Result<Option<Record>> {
        record::read(&self.0, &request)
    }

    async fn list_records(&self, request: ListRecords) -> Result<RecordsPage> {
        record::list(&self.0, &request)
    }

    async fn close(&self) -> Result<()> {
        self.0.close()
    }
}
