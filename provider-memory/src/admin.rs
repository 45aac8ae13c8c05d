//! The handle that operators and migrations hold.

use crate::capabilities::FENCE;
use crate::store::Client;
use crate::{append, read, replicate};
use async_trait::async_trait;
use evstore_api::{
    AdvanceFeed, Capabilities, CommitsPage, Deadline, Delete, Deleted, FeedAdvanced, Finding, Meta, MetaSwapped,
    OpenStream, ReadCommits, Release, Released, Replicate, Replicated, Result, SchemaPlan, SealStream, StoreAdmin,
    StreamOpened, StreamSealed, SwapMeta, Truncate, Truncated, Usage,
};
use evstore_kit::{decide, refusal};

/// The administrative side of a store in memory.
#[derive(Debug)]
pub struct MemoryAdmin(pub Client);

#[async_trait]
impl StoreAdmin for MemoryAdmin {
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    async fn read_meta(&self, deadline: Deadline) -> Result<Meta> {
        Ok(self.0.enter(deadline)?.meta.clone())
    }

    async fn swap_meta(&self, request: SwapMeta) -> Result<MetaSwapped> {
        let mut tables = self.0.enter(request.deadline)?;
        if let Some(swapped) = decide::swap_meta(&tables.meta, &request)? {
            return Ok(swapped);
        }
        tables.meta = request.new;
        // A new history may refuse the cursors of those who wait.
        self.0.ring();
        Ok(MetaSwapped::Done)
    }

    async fn seal_stream(&self, request: SealStream) -> Result<StreamSealed> {
        drop(self.0.enter(request.deadline)?);
        Err(refusal::unsupported("seal_stream", "fence", FENCE).of_commit(request.commit))
    }

    async fn open_stream(&self, request: OpenStream) -> Result<StreamOpened> {
        drop(self.0.enter(request.deadline)?);
        Err(refusal::unsupported("open_stream", "fence", FENCE).of_commit(request.commit))
    }

    async fn replicate(&self, request: Replicate) -> Result<Replicated> {
        replicate::replicate(&self.0, request)
    }

    async fn read_commits(&self, request: ReadCommits) -> Result<CommitsPage> {
        read::read_commits(&self.0, &request)
    }

    async fn truncate(&self, request: Truncate) -> Result<Truncated> {
        append::truncate(&self.0, &request)
    }

    async fn release(&self, request: Release) -> Result<Released> {
        let mut tables = self.0.enter(request.deadline)?;
        decide::release(&tables.meta)?;
        for (stream, before) in &request.streams {
            tables.release(stream, *before);
        }
        Ok(Released { usage: Usage::default() })
    }

    async fn delete(&self, request: Delete) -> Result<Deleted> {
        append::delete(&self.0, &request)
    }

    async fn advance_feed(&self, request: AdvanceFeed) -> Result<FeedAdvanced> {
        Ok(FeedAdvanced { head: read::feed_head(&self.0, request.deadline)? })
    }

    /// Memory has no schema to make: a database is there as soon as it is opened.
    async fn plan_schema(&self, deadline: Deadline) -> Result<SchemaPlan> {
        self.check_schema(deadline).await?;
        Ok(SchemaPlan { changes: Vec::new() })
    }

    async fn apply_schema(&self, deadline: Deadline) -> Result<SchemaPlan> {
        self.plan_schema(deadline).await
    }

    async fn check_schema(&self, deadline: Deadline) -> Result<()> {
        self.0.enter(deadline)?.meta.format.check_write()
    }

    /// There is nothing around memory to look at.
    async fn examine(&self, deadline: Deadline) -> Result<Vec<Finding>> {
        drop(self.0.enter(deadline)?);
        Ok(Vec::new())
    }

    async fn close(&self) -> Result<()> {
        self.0.close()
    }
}
