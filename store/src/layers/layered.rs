//! A store in one layer. The only place that forwards the methods of the contract.

use super::request::{ReadFeedHead, Request};
use async_trait::async_trait;
use evstore_api::{
    Append, Appended, Capabilities, Deadline, DeleteSnapshot, EventStore, FeedHead, FeedPage, FindCommit, Head,
    ListRecords, ListStreams, PutRecord, PutSnapshot, ReadFeed, ReadHead, ReadRecord, ReadSnapshot, ReadStream, Record,
    RecordPut, RecordsPage, Result, Snapshot, SnapshotPut, StreamPage, StreamsPage, WaitFeed, Waited,
};
use std::fmt;
use std::sync::Arc;

/// What a layer does around a call, whichever it is.
pub trait Layer: Send + Sync + 'static {
    /// What it is called in the order of layers.
    const NAME: &'static str;

    /// Passes the request on to the store below, or answers itself.
    fn call<R: Request>(&self, store: &dyn EventStore, request: R) -> impl Future<Output = Result<R::Answer>> + Send;

    /// Lets go of what it has opened itself.
    fn close(&self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }
}

/// A store in a layer.
pub struct Layered<L> {
    layer: L,
    store: Arc<dyn EventStore>,
}

impl<L: Layer> Layered<L> {
    /// Puts a store in a layer.
    pub fn around(store: Arc<dyn EventStore>, layer: L) -> Arc<dyn EventStore> {
        Arc::new(Self { layer, store })
    }
}

/// The order of the layers: `trace > measure > …` and the store.
impl<L: Layer> fmt::Debug for Layered<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {:?}", L::NAME, self.store)
    }
}

#[async_trait]
impl<L: Layer> EventStore for Layered<L> {
    fn capabilities(&self) -> &Capabilities {
        self.store.capabilities()
    }

    async fn append(&self, request: Append) -> Result<Appended> {
        self.layer.call(&*self.store, request).await
    }

    async fn find_commit(&self, request: FindCommit) -> Result<Option<Appended>> {
        self.layer.call(&*self.store, request).await
    }

    async fn head(&self, request: ReadHead) -> Result<Head> {
        self.layer.call(&*self.store, request).await
    }

    async fn read_stream(&self, request: ReadStream) -> Result<StreamPage> {
        self.layer.call(&*self.store, request).await
    }

    async fn read_feed(&self, request: ReadFeed) -> Result<FeedPage> {
        self.layer.call(&*self.store, request).await
    }

    async fn wait_feed(&self, request: WaitFeed) -> Result<Waited> {
        self.layer.call(&*self.store, request).await
    }

    async fn feed_head(&self, deadline: Deadline) -> Result<FeedHead> {
        self.layer.call(&*self.store, ReadFeedHead { deadline }).await
    }

    async fn list_streams(&self, request: ListStreams) -> Result<StreamsPage> {
        self.layer.call(&*self.store, request).await
    }

    async fn put_snapshot(&self, request: PutSnapshot) -> Result<SnapshotPut> {
        self.layer.call(&*self.store, request).await
    }

    async fn read_snapshot(&self, request: ReadSnapshot) -> Result<Option<Snapshot>> {
        self.layer.call(&*self.store, request).await
    }

    async fn delete_snapshot(&self, request: DeleteSnapshot) -> Result<()> {
        self.layer.call(&*self.store, request).await
    }

    async fn put_record(&self, request: PutRecord) -> Result<RecordPut> {
        self.layer.call(&*self.store, request).await
    }

    async fn read_record(&self, request: ReadRecord) -> Result<Option<Record>> {
        self.layer.call(&*self.store, request).await
    }

    async fn list_records(&self, request: ListRecords) -> Result<RecordsPage> {
        self.layer.call(&*self.store, request).await
    }

    /// It takes as long as what was taken needs.
    async fn close(&self) -> Result<()> {
        let opened = self.layer.close().await;
        self.store.close().await.and(opened)
    }
}
