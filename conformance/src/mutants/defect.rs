//! The forwarding store of which each mutant changes a method or two.

use super::Mutant;
use async_trait::async_trait;
use evstore_api::{
    AdvanceFeed, Append, Appended, Capabilities, CommitId, CommitsPage, Deadline, Delete, DeleteSnapshot, Deleted,
    EventStore, Events, FeedAdvanced, FeedHead, FeedPage, FindCommit, Finding, Head, ListRecords, ListStreams, Meta,
    MetaSwapped, NewEvent, OpenStream, Opener, PutRecord, PutSnapshot, ReadCommits, ReadFeed, ReadHead, ReadRecord,
    ReadSnapshot, ReadStream, Record, RecordPut, RecordsPage, Replicate, Replicated, Result, SchemaPlan, SealStream,
    Settings, Snapshot, SnapshotPut, StoreAdmin, StreamId, StreamOpened, StreamPage, StreamSealed, StreamsPage,
    SwapMeta, Truncate, Truncated, WaitFeed, Waited,
};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a mutant does instead of forwarding a call. There is one value for each store, shared by all of its handles.
#[async_trait]
pub(super) trait Defect: Default + Debug + Send + Sync + 'static {
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        inner.clone()
    }

    /// A handle of the store was opened.
    async fn opened(&self, _: &dyn EventStore) -> Result<()> {
        Ok(())
    }

    async fn append(&self, store: &dyn EventStore, request: Append) -> Result<Appended> {
        store.append(request).await
    }

    async fn find_commit(&self, store: &dyn EventStore, request: FindCommit) -> Result<Option<Appended>> {
        store.find_commit(request).await
    }

    async fn head(&self, store: &dyn EventStore, request: ReadHead) -> Result<Head> {
        store.head(request).await
    }

    async fn read_stream(&self, store: &dyn EventStore, request: ReadStream) -> Result<StreamPage> {
        store.read_stream(request).await
    }

    async fn read_feed(&self, store: &dyn EventStore, request: ReadFeed) -> Result<FeedPage> {
        store.read_feed(request).await
    }

    async fn wait_feed(&self, store: &dyn EventStore, request: WaitFeed) -> Result<Waited> {
        store.wait_feed(request).await
    }

    async fn feed_head(&self, store: &dyn EventStore, deadline: Deadline) -> Result<FeedHead> {
        store.feed_head(deadline).await
    }

    async fn list_streams(&self, store: &dyn EventStore, request: ListStreams) -> Result<StreamsPage> {
        store.list_streams(request).await
    }

    async fn put_snapshot(&self, store: &dyn EventStore, request: PutSnapshot) -> Result<SnapshotPut> {
        store.put_snapshot(request).await
    }

    async fn read_snapshot(&self, store: &dyn EventStore, request: ReadSnapshot) -> Result<Option<Snapshot>> {
        store.read_snapshot(request).await
    }

    async fn delete_snapshot(&self, store: &dyn EventStore, request: DeleteSnapshot) -> Result<()> {
        store.delete_snapshot(request).await
    }

    async fn put_record(&self, store: &dyn EventStore, request: PutRecord) -> Result<RecordPut> {
        store.put_record(request).await
    }

    async fn read_record(&self, store: &dyn EventStore, request: ReadRecord) -> Result<Option<Record>> {
        store.read_record(request).await
    }

    async fn list_records(&self, store: &dyn EventStore, request: ListRecords) -> Result<RecordsPage> {
        store.list_records(request).await
    }

    async fn close(&self, store: &dyn EventStore) -> Result<()> {
        store.close().await
    }

    async fn read_meta(&self, admin: &dyn StoreAdmin, deadline: Deadline) -> Result<Meta> {
        admin.read_meta(deadline).await
    }

    async fn swap_meta(&self, admin: &dyn StoreAdmin, request: SwapMeta) -> Result<MetaSwapped> {
        admin.swap_meta(request).await
    }

    async fn seal_stream(&self, admin: &dyn StoreAdmin, request: SealStream) -> Result<StreamSealed> {
        admin.seal_stream(request).await
    }

    async fn open_stream(&self, admin: &dyn StoreAdmin, request: OpenStream) -> Result<StreamOpened> {
        admin.open_stream(request).await
    }

    async fn replicate(&self, admin: &dyn StoreAdmin, request: Replicate) -> Result<Replicated> {
        admin.replicate(request).await
    }

    async fn read_commits(&self, admin: &dyn StoreAdmin, request: ReadCommits) -> Result<CommitsPage> {
        admin.read_commits(request).await
    }

    async fn truncate(&self, admin: &dyn StoreAdmin, request: Truncate) -> Result<Truncated> {
        admin.truncate(request).await
    }

    async fn delete(&self, admin: &dyn StoreAdmin, request: Delete) -> Result<Deleted> {
        admin.delete(request).await
    }

    async fn advance_feed(&self, admin: &dyn StoreAdmin, request: AdvanceFeed) -> Result<FeedAdvanced> {
        admin.advance_feed(request).await
    }

    async fn plan_schema(&self, admin: &dyn StoreAdmin, deadline: Deadline) -> Result<SchemaPlan> {
        admin.plan_schema(deadline).await
    }

    async fn apply_schema(&self, admin: &dyn StoreAdmin, deadline: Deadline) -> Result<SchemaPlan> {
        admin.apply_schema(deadline).await
    }

    async fn check_schema(&self, admin: &dyn StoreAdmin, deadline: Deadline) -> Result<()> {
        admin.check_schema(deadline).await
    }

    async fn examine(&self, admin: &dyn StoreAdmin, deadline: Deadline) -> Result<Vec<Finding>> {
        admin.examine(deadline).await
    }

    async fn close_admin(&self, admin: &dyn StoreAdmin) -> Result<()> {
        admin.close().await
    }
}

/// A mutant whose stores have a defect of type `D`.
pub(super) const fn mutant<D: Defect>(
    name: &'static str,
    defect: &'static str,
    killed_by: &'static [&'static str],
) -> Mutant {
    Mutant { name, defect, killed_by, wrap: |inner| Arc::new(Opening::<D> { inner, defects: Mutex::default() }) }
}

/// Opens stores with a defect.
struct Opening<D> {
    inner: Arc<dyn Opener>,
    defects: Mutex<Vec<(Settings, Arc<D>)>>,
}

impl<D: Defect> Opening<D> {
    fn defect(&self, settings: &Settings) -> Arc<D> {
        let mut defects = self.defects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, defect)) = defects.iter().find(|(known, _)| known == settings) {
            return defect.clone();
        }
        let defect = Arc::new(D::default());
        defects.push((settings.clone(), defect.clone()));
        defect
    }
}

#[async_trait]
impl<D: Defect> Opener for Opening<D> {
    async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        let (inner, defect) = (self.inner.open(settings).await?, self.defect(settings));
        defect.opened(&*inner).await?;
        Ok(Arc::new(Store { capabilities: defect.capabilities(inner.capabilities()), inner, defect }))
    }

    async fn open_admin(&self, settings: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        let (inner, defect) = (self.inner.open_admin(settings).await?, self.defect(settings));
        Ok(Arc::new(Admin { capabilities: defect.capabilities(inner.capabilities()), inner, defect }))
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

#[derive(Debug)]
struct Store<D> {
    inner: Arc<dyn EventStore>,
    defect: Arc<D>,
    capabilities: Capabilities,
}

#[async_trait]
impl<D: Defect> EventStore for Store<D> {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn append(&self, request: Append) -> Result<Appended> {
        self.defect.append(&*self.inner, request).await
    }

    async fn find_commit(&self, request: FindCommit) -> Result<Option<Appended>> {
        self.defect.find_commit(&*self.inner, request).await
    }

    async fn head(&self, request: ReadHead) -> Result<Head> {
        self.defect.head(&*self.inner, request).await
    }

    async fn read_stream(&self, request: ReadStream) -> Result<StreamPage> {
        self.defect.read_stream(&*self.inner, request).await
    }

    async fn read_feed(&self, request: ReadFeed) -> Result<FeedPage> {
        self.defect.read_feed(&*self.inner, request).await
    }

    async fn wait_feed(&self, request: WaitFeed) -> Result<Waited> {
        self.defect.wait_feed(&*self.inner, request).await
    }

    async fn feed_head(&self, deadline: Deadline) -> Result<FeedHead> {
        self.defect.feed_head(&*self.inner, deadline).await
    }

    async fn list_streams(&self, request: ListStreams) -> Result<StreamsPage> {
        self.defect.list_streams(&*self.inner, request).await
    }

    async fn put_snapshot(&self, request: PutSnapshot) -> Result<SnapshotPut> {
        self.defect.put_snapshot(&*self.inner, request).await
    }

    async fn read_snapshot(&self, request: ReadSnapshot) -> Result<Option<Snapshot>> {
        self.defect.read_snapshot(&*self.inner, request).await
    }

    async fn delete_snapshot(&self, request: DeleteSnapshot) -> Result<()> {
        self.defect.delete_snapshot(&*self.inner, request).await
    }

    async fn put_record(&self, request: PutRecord) -> Result<RecordPut> {
        self.defect.put_record(&*self.inner, request).await
    }

    async fn read_record(&self, request: ReadRecord) -> Result<Option<Record>> {
        self.defect.read_record(&*self.inner, request).await
    }

    async fn list_records(&self, request: ListRecords) -> Result<RecordsPage> {
        self.defect.list_records(&*self.inner, request).await
    }

    async fn close(&self) -> Result<()> {
        self.defect.close(&*self.inner).await
    }
}

#[derive(Debug)]
struct Admin<D> {
    inner: Arc<dyn StoreAdmin>,
    defect: Arc<D>,
    capabilities: Capabilities,
}

#[async_trait]
impl<D: Defect> StoreAdmin for Admin<D> {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn read_meta(&self, deadline: Deadline) -> Result<Meta> {
        self.defect.read_meta(&*self.inner, deadline).await
    }

    async fn swap_meta(&self, request: SwapMeta) -> Result<MetaSwapped> {
        self.defect.swap_meta(&*self.inner, request).await
    }

    async fn seal_stream(&self, request: SealStream) -> Result<StreamSealed> {
        self.defect.seal_stream(&*self.inner, request).await
    }

    async fn open_stream(&self, request: OpenStream) -> Result<StreamOpened> {
        self.defect.open_stream(&*self.inner, request).await
    }

    async fn replicate(&self, request: Replicate) -> Result<Replicated> {
        self.defect.replicate(&*self.inner, request).await
    }

    async fn read_commits(&self, request: ReadCommits) -> Result<CommitsPage> {
        self.defect.read_commits(&*self.inner, request).await
    }

    async fn truncate(&self, request: Truncate) -> Result<Truncated> {
        self.defect.truncate(&*self.inner, request).await
    }

    async fn delete(&self, request: Delete) -> Result<Deleted> {
        self.defect.delete(&*self.inner, request).await
    }

    async fn advance_feed(&self, request: AdvanceFeed) -> Result<FeedAdvanced> {
        self.defect.advance_feed(&*self.inner, request).await
    }

    async fn plan_schema(&self, deadline: Deadline) -> Result<SchemaPlan> {
        self.defect.plan_schema(&*self.inner, deadline).await
    }

    async fn apply_schema(&self, deadline: Deadline) -> Result<SchemaPlan> {
        self.defect.apply_schema(&*self.inner, deadline).await
    }

    async fn check_schema(&self, deadline: Deadline) -> Result<()> {
        self.defect.check_schema(&*self.inner, deadline).await
    }

    async fn examine(&self, deadline: Deadline) -> Result<Vec<Finding>> {
        self.defect.examine(&*self.inner, deadline).await
    }

    async fn close(&self) -> Result<()> {
        self.defect.close_admin(&*self.inner).await
    }
}

/// The head of a stream.
pub(super) async fn head(store: &dyn EventStore, stream: &StreamId, deadline: Deadline) -> Result<Head> {
    store.head(ReadHead { stream: stream.clone(), deadline }).await
}

/// The commit of an append, if it is there already.
pub(super) async fn find(store: &dyn EventStore, request: &Append) -> Result<Option<Appended>> {
    let (stream, commit, deadline) = (request.stream.clone(), request.commit.id, request.deadline);
    store.find_commit(FindCommit { stream, commit, deadline }).await
}

/// The same append as somebody takes it who does not know its id.
pub(super) fn forgotten(mut request: Append) -> Append {
    request.commit.id = CommitId::generate();
    request
}

/// The same append with its events changed.
pub(super) fn with_events(mut request: Append, change: impl FnOnce(&mut Vec<NewEvent>)) -> Result<Append> {
    let mut events = request.commit.events.as_slice().to_vec();
    change(&mut events);
    request.commit.events = Events::new(events)?;
    Ok(request)
}

/// What several calls of one mutant share.
pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
