//! The side of a tiered store that operators hold. What is truncated or deleted is taken out of the archive too.

use crate::archive::Archive;
use crate::archiver::Archiver;
use crate::config::Config;
use crate::{note, read};
use async_trait::async_trait;
use evstore_api::capabilities::Support;
use evstore_api::{
    AdvanceFeed, Capabilities, CommitId, CommitKind, CommitsPage, Content, Deadline, Delete, Deleted, Error, ErrorKind,
    EventStore, FeedAdvanced, Finding, Meta, MetaSwapped, OpenStream, Provider, ReadCommits, Release, Released,
    Replicate, Replicated, Result, Revision, SchemaPlan, SealStream, Settings, StoreAdmin, StreamId, StreamOpened,
    StreamSealed, SwapMeta, Truncate, Truncated, Usage,
};
use evstore_kit::refusal;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The administrative side.
pub struct TieredAdmin {
    hot: Arc<dyn StoreAdmin>,
    provider: Provider,
    settings: Settings,
    /// The other side of the store in front, opened when it is first wanted: before its schema is applied there is none.
    store: OnceCell<Arc<dyn EventStore>>,
    archive: Arc<Archive>,
    config: Config,
    capabilities: Capabilities,
}

impl std::fmt::Debug for TieredAdmin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TieredAdmin").field("archive", &self.archive.place().name()).finish_non_exhaustive()
    }
}

impl TieredAdmin {
    /// Puts an archive behind the administrative side of a store.
    ///
    /// # Errors
    /// `Unsupported` for a store that can't stand before one.
    pub fn new(
        hot: Arc<dyn StoreAdmin>,
        provider: Provider,
        settings: Settings,
        archive: Arc<Archive>,
        config: Config,
    ) -> Result<Self> {
        let capabilities = crate::capabilities::of(hot.capabilities())?;
        Ok(Self { hot, provider, settings, store: OnceCell::new(), archive, config, capabilities })
    }

    async fn store(&self) -> Result<&Arc<dyn EventStore>> {
        self.store.get_or_try_init(|| self.provider.opener.open(&self.settings)).await
    }

    /// Sees to it that nobody reads from the archive what is gone, and takes it out.
    async fn forget(
        &self,
        stream: &StreamId,
        before: Option<Revision>,
        id: CommitId,
        deadline: Deadline,
    ) -> Result<()> {
        let forget = async {
            let store = self.store().await?.clone();
            if note::read(&*store, deadline).await?.is_none() {
                return Ok(());
            }
            let archiver = Archiver::new(store, self.hot.clone(), self.archive.clone(), &self.config);
            archiver.forget(stream, before, deadline).await
        };
        forget.await.map_err(|failed: Error| {
            let message = "the marker is written, and the archive does not know of it yet; repeat the call";
            Error::new(ErrorKind::Indeterminate, message).caused_by(failed).of_commit(id)
        })
    }
}

#[async_trait]
impl StoreAdmin for TieredAdmin {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn read_meta(&self, deadline: Deadline) -> Result<Meta> {
        self.hot.read_meta(deadline).await
    }

    async fn swap_meta(&self, request: SwapMeta) -> Result<MetaSwapped> {
        self.hot.swap_meta(request).await
    }

    async fn seal_stream(&self, request: SealStream) -> Result<StreamSealed> {
        self.hot.seal_stream(request).await
    }

    async fn open_stream(&self, request: OpenStream) -> Result<StreamOpened> {
        self.hot.open_stream(request).await
    }

    async fn replicate(&self, request: Replicate) -> Result<Replicated> {
        // The refusals that come first come first here too.
        self.hot.read_meta(request.deadline).await?;
        Err(refusal::unsupported("replicate", "replication", self.capabilities.replication))
    }

    async fn read_commits(&self, request: ReadCommits) -> Result<CommitsPage> {
        let page = self.hot.read_commits(request.clone()).await?;
        let stripped =
            |commit: &evstore_api::Commit| commit.content == Content::Stripped && commit.kind == CommitKind::Events;
        if !page.commits.iter().any(stripped) {
            return Ok(page);
        }
        read::commits(&**self.store().await?, &self.archive, request, page).await
    }

    async fn truncate(&self, request: Truncate) -> Result<Truncated> {
        let (stream, commit, deadline) = (request.stream.clone(), request.commit, request.deadline);
        let truncated = self.hot.truncate(request).await?;
        self.forget(&stream, Some(truncated.first_retained), commit, deadline).await?;
        Ok(truncated)
    }

    async fn release(&self, request: Release) -> Result<Released> {
        self.hot.read_meta(request.deadline).await?;
        Err(refusal::unsupported("release", "archive", Support::Refused))
    }

    async fn delete(&self, request: Delete) -> Result<Deleted> {
        let (stream, commit, deadline) = (request.stream.clone(), request.commit, request.deadline);
        let deleted = self.hot.delete(request).await?;
        self.forget(&stream, None, commit, deadline).await?;
        Ok(deleted)
    }

    async fn advance_feed(&self, request: AdvanceFeed) -> Result<FeedAdvanced> {
        self.hot.advance_feed(request).await
    }

    async fn plan_schema(&self, deadline: Deadline) -> Result<SchemaPlan> {
        self.hot.plan_schema(deadline).await
    }

    async fn apply_schema(&self, deadline: Deadline) -> Result<SchemaPlan> {
        let applied = self.hot.apply_schema(deadline).await?;
        self.archive.place().make(deadline).await?;
        Ok(applied)
    }

    async fn check_schema(&self, deadline: Deadline) -> Result<()> {
        self.hot.check_schema(deadline).await
    }

    async fn examine(&self, deadline: Deadline) -> Result<Vec<Finding>> {
        let mut findings = self.hot.examine(deadline).await?;
        findings.extend(self.examine_archive(deadline).await?);
        Ok(findings)
    }

    async fn close(&self) -> Result<()> {
        if let Some(store) = self.store.get() {
            store.close().await?;
        }
        self.hot.close().await
    }
}

impl TieredAdmin {
    /// Whether the archive is there, and is the one that the store in front knows.
    async fn examine_archive(&self, deadline: Deadline) -> Result<Option<Finding>> {
        const ABOUT: &str = "archive";
        // The schema's own check says where there is no store.
        let Ok(store) = self.store().await else { return Ok(None) };
        let Some(noted) = note::read(&**store, deadline).await? else {
            return Ok(Some(Finding::fine(ABOUT, "nothing is archived yet")));
        };
        let catalog = match self.archive.catalog(&noted, deadline, &mut Usage::default()).await {
            Ok(catalog) => catalog,
            Err(error) => {
                let mending = "bring the archive back: what it holds can't be read meanwhile; all else goes on";
                return Ok(Some(Finding::problem(ABOUT, format!("{}: {error}", self.archive.place().name()), mending)));
            }
        };
        let end = store.feed_head(deadline).await?.position;
        if end.is_some_and(|end| end < catalog.through()) {
            let found = format!("it ends at {}, behind the end of the store in front", catalog.through());
            return Ok(Some(Finding::problem(
                ABOUT,
                found,
                "the store in front has lost acknowledged commits: restore it",
            )));
        }
        if !catalog.gone.is_empty() || !catalog.garbage.is_empty() {
            let found = format!(
                "{} streams of which something was removed, and {} old objects, still have bytes in it",
                catalog.gone.len(),
                catalog.garbage.len()
            );
            return Ok(Some(Finding::warning(ABOUT, found, "run `evstore archive compact`, which takes them out")));
        }
        let events: u64 = catalog.segments.iter().map(|segment| segment.events).sum();
        Ok(Some(Finding::fine(ABOUT, format!("{events} events in {} segments", catalog.segments.len()))))
    }
}
