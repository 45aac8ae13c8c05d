//! Both sides of an open store: what runs on the writer, what on a reader, and in which order.

use crate::append::{self, find_commit, find_stream};
use crate::capabilities::capabilities;
use crate::config::{Config, Missing};
use crate::place::Place;
use crate::reader::{Reader, Readers};
use crate::schema::{self, Use};
use crate::wait::Waiters;
use crate::writer::{Transaction, Writer};
use crate::{admin, examine, read, record, snapshot};
use async_trait::async_trait;
use evstore_api::{
    AdvanceFeed, Append, Appended, Capabilities, Clock, CommitsPage, Deadline, Delete, DeleteSnapshot, Deleted, Error,
    ErrorKind, EventStore, FeedAdvanced, FeedHead, FeedPage, FindCommit, Finding, Head, ListRecords, ListStreams, Meta,
    MetaSwapped, OpenStream, PutRecord, PutSnapshot, ReadCommits, ReadFeed, ReadHead, ReadRecord, ReadSnapshot,
    ReadStream, Record, RecordPut, RecordsPage, Release, Released, Replica, Replicate, Replicated, Result, SchemaPlan,
    SealStream, Snapshot, SnapshotPut, StoreAdmin, StreamOpened, StreamPage, StreamSealed, StreamsPage, SwapMeta,
    Truncate, Truncated, WaitFeed, Waited,
};
use evstore_kit::decide::Wanted;
use evstore_kit::{limits, refusal, stream_page};
use std::sync::Arc;

/// What a small request counts in the writer's queue.
const SMALL_BYTES: usize = 256;

/// An open SQLite file.
#[derive(Debug)]
pub struct Sqlite {
    config: Config,
    place: Place,
    capabilities: Capabilities,
    clock: Arc<dyn Clock>,
    writer: Writer,
    readers: Readers,
    waiters: Waiters,
}

impl Sqlite {
    /// Opens a store for an application, making it first where that is wanted.
    ///
    /// # Errors
    /// `Schema` when the tables are missing or not what they should be; `Unavailable`, `Denied`.
    pub fn open(config: Config, clock: Arc<dyn Clock>) -> Result<Self> {
        if config.missing == Missing::Make && schema::is_missing(&config.path)? {
            schema::apply(&mut schema::connect(&config.path, Use::Make)?, &Meta::new(clock.now()))?;
        }
        let place = Place::new(config.path.clone());
        schema::check(&place.connect(Use::Write)?)?;
        Self::start(config, place, clock)
    }

    /// Opens the administrative side; the tables may still be missing.
    ///
    /// # Errors
    /// `Unavailable` when there is no thread to be had.
    pub fn open_admin(config: Config, clock: Arc<dyn Clock>) -> Result<Self> {
        let place = Place::new(config.path.clone());
        Self::start(config, place, clock)
    }

    fn start(config: Config, place: Place, clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(Self {
            capabilities: capabilities(config.limits),
            writer: Writer::start(&config, place.clone(), clock.clone())?,
            readers: Readers::new(&config, place.clone()),
            waiters: Waiters::new(),
            place,
            config,
            clock,
        })
    }

    /// Looks at or changes the tables on a thread that may block, through a connection of its own.
    async fn with_schema<R: Send + 'static>(
        &self,
        deadline: Deadline,
        work: impl FnOnce(&Place, Meta) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        self.writer.check_open()?;
        refusal::check_deadline(deadline)?;
        let (place, meta) = (self.place.clone(), Meta::new(self.clock.now()));
        let gone =
            |cause| Err(Error::new(ErrorKind::Unavailable, "the schema could not be looked at").caused_by(cause));
        tokio::task::spawn_blocking(move || {
            place.check()?;
            work(&place, meta)
        })
        .await
        .unwrap_or_else(gone)
    }

    async fn read_feed_end(&self, deadline: Deadline) -> Result<FeedHead> {
        self.readers.run(deadline, |reader| read::feed_head(&reader.connection)).await
    }
}

#[async_trait]
impl EventStore for Sqlite {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn append(&self, request: Append) -> Result<Appended> {
        let prepared = limits::check_append(&self.capabilities.limits, request)?;
        let wanted = Wanted::append(&prepared);
        let (commit, deadline, events) = (prepared.commit, prepared.deadline, prepared.encoded);
        let bytes = events.len();
        let work = move |transaction: &mut Transaction<'_>| append::append(transaction, &wanted, &events);
        self.writer.run(deadline, bytes, work).await.map_err(|error| error.of_commit(commit))
    }

    async fn find_commit(&self, request: FindCommit) -> Result<Option<Appended>> {
        let find = move |reader: &mut Reader| {
            let found = find_stream(&reader.connection, &request.stream)?;
            find_commit(&reader.connection, found.as_ref(), request.commit)
        };
        self.readers.run(request.deadline, find).await
    }

    async fn head(&self, request: ReadHead) -> Result<Head> {
        let own = self.config.own.clone();
        self.readers.run(request.deadline, move |reader| read::head(&reader.connection, &own, &request.stream)).await
    }

    async fn read_stream(&self, request: ReadStream) -> Result<StreamPage> {
        limits::check_page_max(&self.capabilities.limits, request.limit)?;
        stream_page::check_start(request.from)?;
        let own = self.config.own.clone();
        self.readers.run(request.deadline, move |reader| read::stream(&reader.connection, &own, &request)).await
    }

    async fn read_feed(&self, request: ReadFeed) -> Result<FeedPage> {
        limits::check_page(&self.capabilities.limits, request.limit)?;
        let deadline = request.deadline;
        let read = move |reader: &mut Reader| read::feed(&reader.connection, &mut reader.names, &request);
        self.readers.run(deadline, read).await
    }

    async fn wait_feed(&self, request: WaitFeed) -> Result<Waited> {
        self.waiters.wait(&self.readers, self.writer.commits(), request).await
    }

    async fn feed_head(&self, deadline: Deadline) -> Result<FeedHead> {
        self.read_feed_end(deadline).await
    }

    async fn list_streams(&self, request: ListStreams) -> Result<StreamsPage> {
        limits::check_page(&self.capabilities.limits, request.limit)?;
        let own = self.config.own.clone();
        self.readers.run(request.deadline, move |reader| read::streams(&reader.connection, &own, &request)).await
    }

    async fn put_snapshot(&self, request: PutSnapshot) -> Result<SnapshotPut> {
        limits::check_put_snapshot(&self.capabilities.limits, &request)?;
        let PutSnapshot { snapshot, deadline } = request;
        let bytes = snapshot.data.len();
        self.writer
            .run(deadline, bytes, move |transaction: &mut Transaction<'_>| snapshot::put(transaction, &snapshot))
            .await
    }

    async fn read_snapshot(&self, request: ReadSnapshot) -> Result<Option<Snapshot>> {
        self.readers.run(request.deadline, move |reader| snapshot::read(&reader.connection, &request.stream)).await
    }

    async fn delete_snapshot(&self, request: DeleteSnapshot) -> Result<()> {
        let DeleteSnapshot { stream, deadline } = request;
        self.writer
            .run(deadline, SMALL_BYTES, move |transaction: &mut Transaction<'_>| snapshot::delete(transaction, &stream))
            .await
    }

    async fn put_record(&self, request: PutRecord) -> Result<RecordPut> {
        limits::check_put_record(&self.capabilities.limits, &request)?;
        let deadline = request.deadline;
        let bytes = request.value.as_ref().map_or(0, |value| value.len());
        let put = move |transaction: &mut Transaction<'_>| record::put(transaction, &request);
        self.writer.run(deadline, bytes, put).await
    }

    async fn read_record(&self, request: ReadRecord) -> Result<Option<Record>> {
        self.readers.run(request.deadline, move |reader| record::read(&reader.connection, &request.key)).await
    }

    async fn list_records(&self, request: ListRecords) -> Result<RecordsPage> {
        limits::check_page(&self.capabilities.limits, request.limit)?;
        self.readers.run(request.deadline, move |reader| record::list(&reader.connection, &request)).await
    }

    async fn close(&self) -> Result<()> {
        self.writer.close().await;
        self.readers.close().await;
        Ok(())
    }
}

#[async_trait]
impl StoreAdmin for Sqlite {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn read_meta(&self, deadline: Deadline) -> Result<Meta> {
        self.readers.read_meta(deadline).await
    }

    async fn swap_meta(&self, request: SwapMeta) -> Result<MetaSwapped> {
        let deadline = request.deadline;
        let work = move |transaction: &mut Transaction<'_>| admin::swap_meta(transaction, &request);
        self.writer.run(deadline, SMALL_BYTES, work).await
    }

    async fn seal_stream(&self, _: SealStream) -> Result<StreamSealed> {
        Err(refusal::unsupported("seal_stream", "fence", self.capabilities.fence))
    }

    async fn open_stream(&self, _: OpenStream) -> Result<StreamOpened> {
        Err(refusal::unsupported("open_stream", "fence", self.capabilities.fence))
    }

    async fn replicate(&self, request: Replicate) -> Result<Replicated> {
        let (limits, deadline) = (self.capabilities.limits, request.deadline);
        let bytes = request.items.iter().map(replica_bytes).sum();
        let work = move |transaction: &mut Transaction<'_>| admin::replicate(transaction, &request, &limits);
        self.writer.run(deadline, bytes, work).await
    }

    async fn read_commits(&self, request: ReadCommits) -> Result<CommitsPage> {
        limits::check_read_commits(&self.capabilities.limits, &request)?;
        self.readers.run(request.deadline, move |reader| read::commits(&reader.connection, &request)).await
    }

    async fn truncate(&self, request: Truncate) -> Result<Truncated> {
        let (commit, deadline) = (request.commit, request.deadline);
        let work = move |transaction: &mut Transaction<'_>| admin::truncate(transaction, &request);
        self.writer.run(deadline, SMALL_BYTES, work).await.map_err(|error| error.of_commit(commit))
    }

    async fn release(&self, request: Release) -> Result<Released> {
        let deadline = request.deadline;
        let work = move |transaction: &mut Transaction<'_>| admin::release(transaction, &request);
        self.writer.run(deadline, SMALL_BYTES, work).await
    }

    async fn delete(&self, request: Delete) -> Result<Deleted> {
        let (commit, deadline) = (request.commit, request.deadline);
        let work = move |transaction: &mut Transaction<'_>| admin::delete(transaction, &request);
        self.writer.run(deadline, SMALL_BYTES, work).await.map_err(|error| error.of_commit(commit))
    }

    async fn advance_feed(&self, request: AdvanceFeed) -> Result<FeedAdvanced> {
        Ok(FeedAdvanced { head: self.read_feed_end(request.deadline).await? })
    }

    async fn plan_schema(&self, deadline: Deadline) -> Result<SchemaPlan> {
        self.with_schema(deadline, |place, _| schema::plan(place.path())).await
    }

    async fn apply_schema(&self, deadline: Deadline) -> Result<SchemaPlan> {
        self.with_schema(deadline, |place, meta| schema::apply(&mut place.connect(Use::Make)?, &meta)).await
    }

    async fn check_schema(&self, deadline: Deadline) -> Result<()> {
        let check = |place: &Place, _| schema::check(&place.connect(Use::Read)?)?.format.check_write();
        self.with_schema(deadline, check).await
    }

    async fn examine(&self, deadline: Deadline) -> Result<Vec<Finding>> {
        self.writer.check_open()?;
        refusal::check_deadline(deadline)?;
        let path = self.place.path().to_owned();
        let gone = |cause| Error::new(ErrorKind::Unavailable, "the disk could not be looked at").caused_by(cause);
        tokio::task::spawn_blocking(move || examine::examine(&path)).await.map_err(gone)
    }

    async fn close(&self) -> Result<()> {
        self.writer.close().await;
        self.readers.close().await;
        Ok(())
    }
}

fn replica_bytes(item: &Replica) -> usize {
    match item {
        Replica::Commit(commit) => commit.events.iter().map(|event| event.data.len() + event.metadata.len()).sum(),
        Replica::Snapshot(snapshot) => snapshot.data.len(),
        Replica::Record(record) => record.value.as_ref().map_or(0, |value| value.len()),
        Replica::Removed { .. } => 0,
    }
}
