//! The handle that operators and migrations hold.

use crate::capabilities::FENCE;
use crate::store::Handle;
use crate::tables::Effect;
use crate::{append, examine, read, replicate, schema};
use async_trait::async_trait;
use evstore_api::capabilities::Support;
use evstore_api::{
    AdvanceFeed, Capabilities, CommitsPage, Deadline, Delete, Deleted, FeedAdvanced, Finding, Meta, MetaSwapped,
    OpenStream, ReadCommits, Release, Released, Replicate, Replicated, Result, SchemaPlan, SealStream, StoreAdmin,
    StreamOpened, StreamSealed, SwapMeta, Truncate, Truncated, Usage,
};
use evstore_kit::{decide, refusal};

/// The administrative side of a store on S3.
#[derive(Debug)]
pub struct S3Admin(pub Handle);

#[async_trait]
impl StoreAdmin for S3Admin {
    fn capabilities(&self) -> &Capabilities {
        self.0.client.capabilities()
    }

    async fn read_meta(&self, deadline: Deadline) -> Result<Meta> {
        let client = &self.0.client;
        let _open = client.enter(deadline).await?;
        client.look(deadline, &mut Usage::default(), |tables| Ok(tables.meta().clone())).await
    }

    /// The record stands in the log: what is answered behind the change was decided behind it.
    async fn swap_meta(&self, request: SwapMeta) -> Result<MetaSwapped> {
        let client = &self.0.client;
        let _open = client.enter(request.deadline).await?;
        let deadline = request.deadline;
        let swap = move |draft: &mut crate::draft::Draft<'_>| {
            if let Some(swapped) = decide::swap_meta(draft.meta(), &request)? {
                return Ok(swapped);
            }
            draft.add(Effect::Meta(request.new.clone()))?;
            Ok(MetaSwapped::Done)
        };
        Ok(self.0.lane.write(0, deadline, swap).await?.0)
    }

    async fn seal_stream(&self, request: SealStream) -> Result<StreamSealed> {
        let _open = self.0.client.enter(request.deadline).await?;
        Err(refusal::unsupported("seal_stream", "fence", FENCE).of_commit(request.commit))
    }

    async fn open_stream(&self, request: OpenStream) -> Result<StreamOpened> {
        let _open = self.0.client.enter(request.deadline).await?;
        Err(refusal::unsupported("open_stream", "fence", FENCE).of_commit(request.commit))
    }

    async fn replicate(&self, request: Replicate) -> Result<Replicated> {
        replicate::replicate(&self.0, request).await
    }

    async fn read_commits(&self, request: ReadCommits) -> Result<CommitsPage> {
        read::read_commits(&self.0.client, &request).await
    }

    async fn truncate(&self, request: Truncate) -> Result<Truncated> {
        append::truncate(&self.0, &request).await
    }

    /// What it would make room for lies in the same place as an archive.
    async fn release(&self, request: Release) -> Result<Released> {
        let _open = self.0.client.enter(request.deadline).await?;
        Err(refusal::unsupported("release", "archive", Support::Refused))
    }

    async fn delete(&self, request: Delete) -> Result<Deleted> {
        append::delete(&self.0, &request).await
    }

    async fn advance_feed(&self, request: AdvanceFeed) -> Result<FeedAdvanced> {
        Ok(FeedAdvanced { head: read::feed_head(&self.0.client, request.deadline).await? })
    }

    async fn plan_schema(&self, deadline: Deadline) -> Result<SchemaPlan> {
        let _open = self.0.client.enter(deadline).await?;
        schema::plan(&self.0.client, deadline).await
    }

    async fn apply_schema(&self, deadline: Deadline) -> Result<SchemaPlan> {
        let _open = self.0.client.enter(deadline).await?;
        let planned = schema::apply(&self.0.client, deadline).await?;
        // What a removal that was broken off left is taken out now.
        crate::blank::finish(&self.0, deadline, &mut Usage::default()).await;
        Ok(planned)
    }

    async fn check_schema(&self, deadline: Deadline) -> Result<()> {
        let client = &self.0.client;
        let _open = client.enter(deadline).await?;
        client.look(deadline, &mut Usage::default(), |tables| tables.meta().format.check_write()).await
    }

    async fn examine(&self, deadline: Deadline) -> Result<Vec<Finding>> {
        let _open = self.0.client.enter(deadline).await?;
        examine::examine(&self.0.client, deadline).await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await;
        Ok(())
    }
}
