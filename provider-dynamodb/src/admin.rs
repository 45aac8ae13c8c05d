//! The handle that operators and migrations hold.

use crate::store::Handle;
use crate::{append, examine, index, read, replicate, schema, seal};
use async_trait::async_trait;
use evstore_api::{
    AdvanceFeed, Capabilities, CommitsPage, Deadline, Delete, Deleted, FeedAdvanced, Finding, Meta, MetaSwapped,
    OpenStream, ReadCommits, Release, Released, Replicate, Replicated, Result, SchemaPlan, SealStream, StoreAdmin,
    StreamOpened, StreamSealed, SwapMeta, Truncate, Truncated, Usage,
};

/// The administrative side of a store on DynamoDB.
#[derive(Debug)]
pub struct DynamoAdmin(pub Handle);

#[async_trait]
impl StoreAdmin for DynamoAdmin {
    fn capabilities(&self) -> &Capabilities {
        self.0.client.capabilities()
    }

    async fn read_meta(&self, deadline: Deadline) -> Result<Meta> {
        let client = &self.0.client;
        let _open = client.enter(deadline).await?;
        Ok(schema::read_meta(client, deadline, &mut Usage::default()).await?.meta.clone())
    }

    async fn swap_meta(&self, request: SwapMeta) -> Result<MetaSwapped> {
        let _open = self.0.client.enter(request.deadline).await?;
        schema::swap_meta(&self.0.client, request).await
    }

    async fn seal_stream(&self, request: SealStream) -> Result<StreamSealed> {
        let _open = self.0.client.enter(request.deadline).await?;
        let sealed = seal::seal(&self.0.client, &request).await;
        sealed.map_err(|error| error.of_commit(request.commit))
    }

    async fn open_stream(&self, request: OpenStream) -> Result<StreamOpened> {
        let _open = self.0.client.enter(request.deadline).await?;
        let opened = seal::open(&self.0.client, &request).await;
        opened.map_err(|error| error.of_commit(request.commit))
    }

    async fn replicate(&self, request: Replicate) -> Result<Replicated> {
        replicate::replicate(&self.0.client, request).await
    }

    async fn read_commits(&self, request: ReadCommits) -> Result<CommitsPage> {
        read::read_commits(&self.0.client, &request).await
    }

    async fn truncate(&self, request: Truncate) -> Result<Truncated> {
        append::truncate(&self.0, &request).await
    }

    async fn release(&self, request: Release) -> Result<Released> {
        append::release(&self.0.client, &request).await
    }

    async fn delete(&self, request: Delete) -> Result<Deleted> {
        append::delete(&self.0, &request).await
    }

    async fn advance_feed(&self, request: AdvanceFeed) -> Result<FeedAdvanced> {
        let client = &self.0.client;
        let mut spent = Usage::default();
        if let Some(sequencer) = client.sequencer() {
            let _open = client.enter(request.deadline).await?;
            spent = sequencer.advance(client, request.deadline).await?.1;
        }
        if client.index().is_some() {
            let _open = client.enter(request.deadline).await?;
            index::settle(client, request.deadline).await?;
        }
        let mut head = read::feed_head(client, request.deadline).await?;
        head.usage += spent;
        Ok(FeedAdvanced { head })
    }

    async fn plan_schema(&self, deadline: Deadline) -> Result<SchemaPlan> {
        let _open = self.0.client.enter(deadline).await?;
        schema::plan(&self.0.client, deadline).await
    }

    async fn apply_schema(&self, deadline: Deadline) -> Result<SchemaPlan> {
        let _open = self.0.client.enter(deadline).await?;
        schema::apply(&self.0.client, schema::Commits::Perhaps, deadline).await
    }

    async fn check_schema(&self, deadline: Deadline) -> Result<()> {
        let _open = self.0.client.enter(deadline).await?;
        schema::check(&self.0.client, deadline).await?.meta.format.check_write()
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
