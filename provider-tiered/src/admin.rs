//! The side of a tiered store that operators hold. What is truncated or deleted is taken out of the archive too.

use crate::archive::Archive;
use crate::archiver::Archiver;
use crate::config::Config;
use crate::note::{self, Note};
use crate::{copied, read};
use async_trait::async_trait;
use evstore_api::capabilities::Support;
use evstore_api::{
    AdvanceFeed, Capabilities, CommitId, CommitKind, CommitsPage, Content, Deadline, Delete, Deleted, Error, ErrorKind,
    EventStore, FeedAdvanced, FeedFilter, FeedStart, Finding, Meta, MetaSwapped, OpenStream, Position, Provider,
    ReadCommits, ReadFeed, ReadHead, RecordNumber, Release, Released, Replica, Replicate, Replicated, Result, Revision,
    SchemaPlan, SealStream, Settings, StoreAdmin, StoreState, StreamId, StreamOpened, StreamSealed, StreamState,
    SwapMeta, Truncate, Truncated, Usage,
};
use evstore_kit::{copy, refusal};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Most bytes of a page of the feed of the store in front that is looked through.
const PAGE_BYTES: u64 = 4 << 20;

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
    async fn forget(&self, stream: &StreamId, before: Option<Revision>, deadline: Deadline) -> Result<()> {
        let store = self.store().await?.clone();
        if note::read(&*store, deadline).await?.is_none() {
            return Ok(());
        }
        let archiver = Archiver::new(store, self.hot.clone(), self.archive.clone(), &self.config);
        archiver.forget(stream, before, deadline).await
    }

    /// The same for what copies have taken out of the store in front, as that has it now.
    async fn forget_as_in_front(&self, stream: &StreamId, deadline: Deadline) -> Result<()> {
        let head = self.store().await?.head(ReadHead { stream: stream.clone(), deadline }).await?;
        let before = (head.state != StreamState::Deleted).then_some(head.first_retained);
        self.forget(stream, before, deadline).await
    }

    /// Tells the archive what a copy has taken away, and what others have of which it does not know, and notes how far that went.
    async fn tell_archive(
        &self,
        (known, number): (Position, RecordNumber),
        streams: BTreeSet<StreamId>,
        range: Option<(Position, Position)>,
        deadline: Deadline,
    ) -> Result<()> {
        for stream in streams {
            self.forget_as_in_front(&stream, deadline).await?;
        }
        let Some((first, last)) = range.filter(|(_, last)| *last > known) else { return Ok(()) };
        let through = if first <= known.next() { last } else { self.forget_behind(known, deadline).await? };
        copied::raise(&**self.store().await?, number, through, deadline).await
    }

    /// Tells the archive what was taken away behind a position, by the markers in the feed; gives where that ends.
    async fn forget_behind(&self, known: Position, deadline: Deadline) -> Result<Position> {
        let (store, mut streams, mut after) = (self.store().await?, BTreeSet::new(), known);
        loop {
            let (from, filter) = (FeedStart::AfterPosition(after), FeedFilter::none());
            let limit = self.capabilities.limits.page_items;
            let page = store.read_feed(ReadFeed { from, filter, limit, max_bytes: PAGE_BYTES, deadline }).await?;
            streams
                .extend(page.commits().filter(|commit| takes_away(&commit.kind)).map(|commit| commit.stream.clone()));
            after = page.next.position().unwrap_or_default().max(after);
            if page.end {
                break;
            }
        }
        for stream in streams {
            self.forget_as_in_front(&stream, deadline).await?;
        }
        Ok(after)
    }

    /// Refuses ranges without content where something stands that only the archive has: to the store in front they are without it.
    async fn check_removed(&self, request: &Replicate, noted: &Note) -> Result<()> {
        let store = self.store().await?;
        let ranges = request.items.iter().filter_map(removed);
        for (first, last) in ranges.filter(|(first, last)| first <= last && first.0 <= noted.through) {
            let mut after = Position(first.0.saturating_sub(1));
            while after < last {
                let (from, filter) = (FeedStart::AfterPosition(after), FeedFilter::none());
                let ask = ReadFeed { from, filter, limit: 1, max_bytes: 1, deadline: request.deadline };
                let page = read::feed(&**store, &self.archive, ask, self.capabilities.limits.page_items).await?;
                let found = page.commits().find_map(|commit| commit.first_position);
                if found.is_some_and(|found| found <= last) {
                    return copy::removed(first, last, last, false).map(drop);
                }
                match page.next.position() {
                    Some(next) if next > after && !page.end && found.is_none() => after = next,
                    _ => break,
                }
            }
        }
        Ok(())
    }
}

fn not_forgotten(failed: Error, commit: CommitId) -> Error {
    let message = "the marker is written, and the archive does not know of it yet; repeat the call";
    Error::new(ErrorKind::Indeterminate, message).caused_by(failed).of_commit(commit)
}

/// Whether a marker takes events away.
fn takes_away(kind: &CommitKind) -> bool {
    match kind {
        CommitKind::Truncated { .. } | CommitKind::Deleted => true,
        CommitKind::Events | CommitKind::MovedOut { .. } | CommitKind::MovedIn { .. } => false,
    }
}

/// The streams that a request takes events from.
fn taken_from(request: &Replicate) -> BTreeSet<StreamId> {
    let commits = request.items.iter().filter_map(|item| match item {
        Replica::Commit(commit) => Some(commit),
        Replica::Removed { .. } | Replica::Snapshot(_) | Replica::Record(_) => None,
    });
    commits.filter(|commit| takes_away(&commit.kind)).map(|commit| commit.stream.clone()).collect()
}

/// The first and the last position of what is in a request; none where it has none.
fn range_of(request: &Replicate) -> Option<(Position, Position)> {
    let ranges = request.items.iter().filter_map(|item| match item {
        Replica::Commit(commit) => commit.first_position.zip(commit.last_position()),
        Replica::Removed { first, last } => Some((*first, *last)),
        Replica::Snapshot(_) | Replica::Record(_) => None,
    });
    ranges.reduce(|(first, last), (begin, end)| (first.min(begin), last.max(end)))
}

fn removed(item: &Replica) -> Option<(Position, Position)> {
    match item {
        Replica::Removed { first, last } => Some((*first, *last)),
        Replica::Commit(_) | Replica::Snapshot(_) | Replica::Record(_) => None,
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
        let opens =
            matches!(request.expected.state, StoreState::Importing { .. }) && request.new.state == StoreState::Open;
        if !opens {
            return self.hot.swap_meta(request).await;
        }
        // A copier may have been killed between its last copy and the archive. Nobody reads as the owner's what is not opened yet.
        let (store, deadline) = (self.store().await?, request.deadline);
        let known = copied::read(&**store, deadline).await?;
        if let Some((known, _)) = known {
            self.forget_behind(known, deadline).await?;
        }
        let swapped = self.hot.swap_meta(request).await?;
        if known.is_some() && swapped == MetaSwapped::Done {
            // A place that stays behind costs a longer look the next time.
            if let Err(failed) = copied::end(&**store, deadline).await {
                tracing::debug!(%failed, "the note about copies was left behind");
            }
        }
        Ok(swapped)
    }

    async fn seal_stream(&self, request: SealStream) -> Result<StreamSealed> {
        self.hot.seal_stream(request).await
    }

    async fn open_stream(&self, request: OpenStream) -> Result<StreamOpened> {
        self.hot.open_stream(request).await
    }

    async fn replicate(&self, request: Replicate) -> Result<Replicated> {
        let (store, deadline) = (self.store().await?, request.deadline);
        let Some(noted) = note::read(&**store, deadline).await? else { return self.hot.replicate(request).await };
        copy::check_importing(&self.hot.read_meta(deadline).await?, request.epoch, request.origin)?;
        self.check_removed(&request, &noted).await?;
        let known = copied::begun(&**store, deadline).await?;
        let (streams, range) = (taken_from(&request), range_of(&request));
        let replicated = self.hot.replicate(request).await?;
        self.tell_archive(known, streams, range, deadline).await.map_err(|failed| {
            let message = "the request is written, and the archive does not know of what it takes away; repeat it";
            Error::new(ErrorKind::Indeterminate, message).caused_by(failed)
        })?;
        Ok(replicated)
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
        let forgotten = self.forget(&stream, Some(truncated.first_retained), deadline).await;
        forgotten.map_err(|failed| not_forgotten(failed, commit))?;
        Ok(truncated)
    }

    async fn release(&self, request: Release) -> Result<Released> {
        self.hot.read_meta(request.deadline).await?;
        Err(refusal::unsupported("release", "archive", Support::Refused))
    }

    async fn delete(&self, request: Delete) -> Result<Deleted> {
        let (stream, commit, deadline) = (request.stream.clone(), request.commit, request.deadline);
        let deleted = self.hot.delete(request).await?;
        self.forget(&stream, None, deadline).await.map_err(|failed| not_forgotten(failed, commit))?;
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
