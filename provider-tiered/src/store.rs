//! The store that applications hold: the one in front, with the archive behind its reads.

use crate::archive::Archive;
use crate::{copied, note, read};
use async_trait::async_trait;
use evstore_api::{
    Append, Appended, Capabilities, Deadline, DeleteSnapshot, Error, ErrorKind, EventStore, FeedHead, FeedPage,
    FindCommit, Head, ListRecords, ListStreams, PutRecord, PutSnapshot, ReadFeed, ReadHead, ReadRecord, ReadSnapshot,
    ReadStream, Record, RecordKey, RecordPut, RecordsPage, Result, Snapshot, SnapshotPut, StreamPage, StreamsPage,
    WaitFeed, Waited,
};
use std::sync::Arc;

/// Whether a record is one of the archive's.
fn is_own(key: &RecordKey) -> bool {
    note::is(key) || copied::is(key)
}

/// A tiered store.
#[derive(Debug)]
pub struct Tiered {
    hot: Arc<dyn EventStore>,
    archive: Arc<Archive>,
    capabilities: Capabilities,
}

impl Tiered {
    /// Puts an archive behind a store.
    ///
    /// # Errors
    /// `Unsupported` for a store that can't stand before one.
    pub fn new(hot: Arc<dyn EventStore>, archive: Arc<Archive>) -> Result<Self> {
        let capabilities = crate::capabilities::of(hot.capabilities())?;
        Ok(Self { hot, archive, capabilities })
    }
}

#[async_trait]
impl EventStore for Tiered {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn append(&self, request: Append) -> Result<Appended> {
        self.hot.append(request).await
    }

    async fn find_commit(&self, request: FindCommit) -> Result<Option<Appended>> {
        self.hot.find_commit(request).await
    }

    async fn head(&self, request: ReadHead) -> Result<Head> {
        self.hot.head(request).await
    }

    async fn read_stream(&self, request: ReadStream) -> Result<StreamPage> {
        read::stream(&*self.hot, &self.archive, request).await
    }

    async fn read_feed(&self, request: ReadFeed) -> Result<FeedPage> {
        read::feed(&*self.hot, &self.archive, request, self.capabilities.limits.page_items).await
    }

    async fn wait_feed(&self, request: WaitFeed) -> Result<Waited> {
        self.hot.wait_feed(request).await
    }

    async fn feed_head(&self, deadline: Deadline) -> Result<FeedHead> {
        self.hot.feed_head(deadline).await
    }

    async fn list_streams(&self, request: ListStreams) -> Result<StreamsPage> {
        self.hot.list_streams(request).await
    }

    async fn put_snapshot(&self, request: PutSnapshot) -> Result<SnapshotPut> {
        self.hot.put_snapshot(request).await
    }

    async fn read_snapshot(&self, request: ReadSnapshot) -> Result<Option<Snapshot>> {
        self.hot.read_snapshot(request).await
    }

    async fn delete_snapshot(&self, request: DeleteSnapshot) -> Result<()> {
        self.hot.delete_snapshot(request).await
    }

    async fn put_record(&self, request: PutRecord) -> Result<RecordPut> {
        if is_own(&request.key) {
            return Err(
                Error::new(ErrorKind::Invalid, "the record is the archive's own").with("record", &request.key.name)
            );
        }
        self.hot.put_record(request).await
    }

    async fn read_record(&self, request: ReadRecord) -> Result<Option<Record>> {
        if is_own(&request.key) { Ok(None) } else { self.hot.read_record(request).await }
    }

    /// Without the notes of the archive; as many more are asked for as were in the way.
    async fn list_records(&self, request: ListRecords) -> Result<RecordsPage> {
        let mut page = self.hot.list_records(request.clone()).await?;
        // Each of the two is in the way once.
        for _ in 0..2 {
            let found = page.records.len();
            page.records.retain(|record| !is_own(&record.key));
            let hidden = found - page.records.len();
            if hidden == 0 {
                break;
            }
            let Some(after) = page.next.take() else { break };
            let ask = ListRecords { after: Some(after), limit: hidden as u32, ..request.clone() };
            let rest = self.hot.list_records(ask).await?;
            page.usage += rest.usage;
            page.records.extend(rest.records);
            page.next = rest.next;
        }
        Ok(page)
    }

    async fn close(&self) -> Result<()> {
        self.hot.close().await
    }
}
