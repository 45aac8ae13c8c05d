//! The handle that operators and migrations hold.

use crate::store::Client;
use crate::{append, examine, read, replicate, schema, server};
use async_trait::async_trait;
use evstore_api::{
    AdvanceFeed, Capabilities, CommitsPage, Deadline, Delete, Deleted, FeedAdvanced, Finding, Meta, MetaSwapped,
    OpenStream, ReadCommits, Release, Released, Replicate, Replicated, Result, SchemaPlan, SealStream, StoreAdmin,
    StreamOpened, StreamSealed, SwapMeta, Truncate, Truncated,
};
use evstore_kit::refusal;

/// The administrative side of a store on Redis or Valkey.
#[derive(Debug)]
pub struct RedisAdmin(pub Client);

#[async_trait]
impl StoreAdmin for RedisAdmin {
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    async fn read_meta(&self, deadline: Deadline) -> Result<Meta> {
        let _open = self.0.enter(deadline).await?;
        Ok(schema::read_meta(&self.0, deadline).await?.meta.clone())
    }

    async fn swap_meta(&self, request: SwapMeta) -> Result<MetaSwapped> {
        let _open = self.0.enter(request.deadline).await?;
        schema::swap_meta(&self.0, request).await
    }

    async fn seal_stream(&self, request: SealStream) -> Result<StreamSealed> {
        let _open = self.0.enter(request.deadline).await?;
        Err(refusal::unsupported("seal_stream", "fence", self.capabilities().fence).of_commit(request.commit))
    }

    async fn open_stream(&self, request: OpenStream) -> Result<StreamOpened> {
        let _open = self.0.enter(request.deadline).await?;
        Err(refusal::unsupported("open_stream", "fence", self.capabilities().fence).of_commit(request.commit))
    }

    async fn replicate(&self, request: Replicate) -> Result<Replicated> {
        replicate::replicate(&self.0, request).await
    }

    async fn read_commits(&self, request: ReadCommits) -> Result<CommitsPage> {
        read::read_commits(&self.0, &request).await
    }

    async fn truncate(&self, request: Truncate) -> Result<Truncated> {
        append::truncate(&self.0, &request).await
    }

    async fn release(&self, request: Release) -> Result<Released> {
        append::release(&self.0, &request).await
    }

    async fn delete(&self, request: Delete) -> Result<Deleted> {
        append::delete(&self.0, &request).await
    }

    async fn advance_feed(&self, request: AdvanceFeed) -> Result<FeedAdvanced> {
        Ok(FeedAdvanced { head: read::feed_head(&self.0, request.deadline).await? })
    }

    async fn plan_schema(&self, deadline: Deadline) -> Result<SchemaPlan> {
        let _open = self.0.enter(deadline).await?;
        schema::plan(&self.0, deadline).await
    }

    async fn apply_schema(&self, deadline: Deadline) -> Result<SchemaPlan> {
        let _open = self.0.enter(deadline).await?;
        schema::apply(&self.0, deadline).await
    }

    async fn check_schema(&self, deadline: Deadline) -> Result<()> {
        let _open = self.0.enter(deadline).await?;
        schema::check(&self.0, deadline).await?.check_write()
    }

    async fn examine(&self, deadline: Deadline) -> Result<Vec<Finding>> {
        let _open = self.0.enter(deadline).await?;
        let (mut findings, mut seen) = (Vec::new(), Vec::new());
        for partition in 0..self.0.keys().partitions() {
            let facts = self.0.facts(partition, deadline).await?;
            // Partitions may share a server.
            let server = server::field(&facts.info, "run_id");
            if server.is_some() && seen.contains(&server) {
                continue;
            }
            seen.push(server);
            let position = self.0.position(partition, deadline).await?;
            findings.extend(examine::examine(self.0.config(), &facts, position));
        }
        Ok(findings)
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await;
        Ok(())
    }
}
