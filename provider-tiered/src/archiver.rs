//! Moving commits into the archive, and what is to be done there: taking out what is gone, putting small segments together.
//!
//! The order makes every step repeatable, wherever it is cut off: a segment is put, read back and compared; a catalog that has it is put
//! under the next number, which one archiver wins; the note in the hot store names that catalog; only then are the events released, and
//! always by what the catalog says. Whoever loses the number throws its segment away and begins anew with what the other wrote.

use crate::archive::Archive;
use crate::catalog::{self, Catalog, Filter, Gone, Segment};
use crate::config::Config;
use crate::error;
use crate::feed::Cold;
use crate::note::{self, Note};
use crate::opener;
use crate::segment::{self, Builder, Content, Made};
use bytes::Bytes;
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    Clock as _, Commit, CommitKind, Deadline, Error, ErrorKind, EventStore, FeedFilter, FeedItem, FeedPage, FeedStart,
    Position, Provider, ReadFeed, ReadHead, ReadSnapshot, Release, Result, Revision, Settings, StoreAdmin, StreamId,
    SystemClock, Usage,
};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How long one call to the hot store or the archive may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Events and bytes of a page of the hot feed.
const PAGE_EVENTS: u32 = 2_000;
const PAGE_BYTES: u64 = 4 << 20;
/// Streams that are released at a time: appends to a SQLite file wait for some 50 ms then. With more it is faster, because streams share
/// pages of the file (60,000 events/s with 2,000 at a time, 52,000 with 500).
const RELEASED_AT_ONCE: usize = 1_000;
/// Times that a run begins anew because another changed the catalog.
const TRIES_MAX: u32 = 16;
/// Objects that no catalog names are removed when they are this old: before, their catalog may be on its way.
const ORPHAN_AGE: Duration = Duration::from_secs(3_600);
/// Catalogs that are kept, so that a hot store which was restored finds the one that it knows, or one not far behind.
const CATALOGS_KEPT: u64 = 64;

/// What is archived. All that is set has to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Commits that were taken longer ago.
    pub older_than: Option<Duration>,
    /// All but so many events at the end of the feed.
    pub keep_last: Option<u64>,
    /// Commits that the snapshot of their stream has folded in.
    pub below_snapshot: bool,
}

impl Policy {
    /// Refuses a policy that says nothing: it would archive everything.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn check(&self) -> Result<()> {
        if *self == Self::default() {
            return Err(Error::new(ErrorKind::Invalid, "nothing says what is to be archived")
                .with("known", "older_than keep_last below_snapshot"));
        }
        Ok(())
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Positions that were looked at.
    pub done: u64,
    /// Positions that there are to look at.
    pub of: u64,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Commits that were archived.
    pub commits: u64,
    /// Events that were.
    pub events: u64,
    /// Segments that were made.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The last position that is archived.
    pub through: u64,
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Segments that were rewritten.
    pub rewritten: u64,
    /// Segments that took their place.
    pub made: u64,
    /// Commits that were taken out.
    pub removed_commits: u64,
    /// Objects that were removed.
    pub removed_objects: u64,
}

/// Moves commits of a tiered store into its archive.
#[derive(Clone, Debug)]
pub struct Archiver {
    pub(crate) hot: Arc<dyn EventStore>,
    admin: Arc<dyn StoreAdmin>,
    pub(crate) archive: Arc<Archive>,
    policy: Policy,
    segment_bytes: u64,
}

pub(crate) fn soon() -> Deadline {
    Deadline::within(PATIENCE)
}

impl Archiver {
    /// Opens both sides of a tiered store; neither is made where it is missing.
    ///
    /// # Errors
    /// As opening the store in front; `Invalid` for settings that do not go together.
    pub async fn open(settings: &Settings, providers: &[Provider]) -> Result<Self> {
        let parts = opener::parts(settings, providers).await?;
        let existing = opener::existing(&parts.provider, &parts.settings)?;
        let hot = parts.provider.opener.open(&existing).await?;
        crate::capabilities::of(hot.capabilities())?;
        let admin = parts.provider.opener.open_admin(&existing).await?;
        Ok(Self::new(hot, admin, parts.archive, &parts.config))
    }

    pub(crate) fn new(
        hot: Arc<dyn EventStore>,
        admin: Arc<dyn StoreAdmin>,
        archive: Arc<Archive>,
        config: &Config,
    ) -> Self {
        Self { hot, admin, archive, policy: config.policy, segment_bytes: config.segment_bytes }
    }

    /// What the config says is archived.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The same with another policy.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// The provider of the store in front.
    #[must_use]
    pub fn hot_provider(&self) -> &'static str {
        self.hot.capabilities().provider
    }

    /// Where the archive lies, for people.
    #[must_use]
    pub fn place(&self) -> String {
        self.archive.place().name()
    }

    /// Lets go of the store in front.
    ///
    /// # Errors
    /// As closing it.
    pub async fn close(&self) -> Result<()> {
        self.hot.close().await?;
        self.admin.close().await
    }

    /// Archives what the policy says. It can be repeated, cut off anywhere, and run beside another.
    ///
    /// # Errors
    /// `Invalid` for a policy that says nothing; `Moved` and `Fenced` where the store in front takes no appends; `HistoryLost` where it
    /// has lost commits that are archived; as calls to either.
    pub async fn run(&self, progress: &(dyn Fn(Progress) + Sync)) -> Result<Ran> {
        self.policy.check()?;
        let mut ran = Ran::default();
        for _ in 0..TRIES_MAX {
            if self.run_once(&mut ran, progress).await? {
                return Ok(ran);
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "another archiver is always faster"))
    }

    /// The note and the last catalog; none before the first run.
    pub(crate) async fn current(&self) -> Result<Option<(Note, Arc<Catalog>)>> {
        let Some(noted) = note::read(&*self.hot, soon()).await? else { return Ok(None) };
        let mut catalog = self.archive.catalog(&noted, soon(), &mut Usage::default()).await?;
        // Who put a catalog may have been cut off before it noted that.
        while let Some(next) = self.archive.read_catalog(catalog.number + 1, soon(), &mut Usage::default()).await? {
            catalog = self.archive.keep(next);
        }
        Ok(Some((noted, catalog)))
    }

    /// The same, begun where it is missing.
    async fn begun(&self) -> Result<(Note, Arc<Catalog>)> {
        self.archive.place().make(soon()).await?;
        for _ in 0..TRIES_MAX {
            if let Some(current) = self.current().await? {
                return Ok(current);
            }
            let first = match self.archive.last_catalog(soon(), &mut Usage::default()).await? {
                None => Catalog::first(Uuid::now_v7().to_string(), Uuid::now_v7().to_string()),
                // Begun by one that was cut off before it noted that, or beside this one: there is nothing in it.
                Some(found) if found.number == 1 => found,
                // Whoever went on had noted the first one before.
                Some(_) if note::read(&*self.hot, soon()).await?.is_some() => continue,
                Some(_) => {
                    let message = "the archive has events of another store, or of this one before it was restored";
                    return Err(Error::new(ErrorKind::Schema, message).with("archive", self.place()));
                }
            };
            if self.put(&first).await?
                || self.archive.read_catalog(1, soon(), &mut Usage::default()).await?.as_ref() == Some(&first)
            {
                let new = Note { archive: first.archive.clone(), catalog: 1, through: 0, released: 0 };
                let noted = note::raise(&*self.hot, &new, soon()).await?;
                return Ok((noted, self.archive.keep(first)));
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "the archive is being begun by others all the time"))
    }

    /// Puts a catalog; false where another has its number.
    async fn put(&self, catalog: &Catalog) -> Result<bool> {
        let (key, bytes) = (catalog::key(catalog.number), Bytes::from(catalog.encode()));
        match self.archive.place().put_new(&key, bytes, soon(), &mut Usage::default()).await {
            Ok(true) => Ok(true),
            // It may have been put by this very call, whose answer was lost.
            Ok(false) => Ok(self.is_ours(catalog).await?),
            Err(failed) if failed.kind() == ErrorKind::Indeterminate => match self.is_ours(catalog).await {
                Ok(true) => Ok(true),
                Ok(false) | Err(_) => Err(failed),
            },
            Err(failed) => Err(failed),
        }
    }

    async fn is_ours(&self, catalog: &Catalog) -> Result<bool> {
        let found = self.archive.read_catalog(catalog.number, soon(), &mut Usage::default()).await?;
        Ok(found.is_some_and(|found| found.writer == catalog.writer))
    }

    /// Changes the catalog, however often another is faster.
    async fn change(&self, work: impl Fn(&mut Catalog) -> bool) -> Result<()> {
        for _ in 0..TRIES_MAX {
            let Some((_, catalog)) = self.current().await? else { return Ok(()) };
            let mut next = catalog.next(Uuid::now_v7().to_string());
            if !work(&mut next) {
                return Ok(());
            }
            if self.put(&next).await? {
                self.noted(next).await?;
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "the catalog of the archive changes all the time"))
    }

    /// Notes a catalog that was put: readers look at it from now on.
    async fn noted(&self, catalog: Catalog) -> Result<(Note, Arc<Catalog>)> {
        let new = Note {
            archive: catalog.archive.clone(),
            catalog: catalog.number,
            through: catalog.through().0,
            released: 0,
        };
        let noted = note::raise(&*self.hot, &new, soon()).await?;
        Ok((noted, self.archive.keep(catalog)))
    }

    /// False where another changed the catalog meanwhile.
    async fn run_once(&self, ran: &mut Ran, progress: &(dyn Fn(Progress) + Sync)) -> Result<bool> {
        evstore_kit::decide::release(&self.admin.read_meta(soon()).await?)?;
        let (noted, mut catalog) = self.begun().await?;
        self.release(&noted, &catalog).await?;
        ran.through = catalog.through().0;
        let end = self.hot.feed_head(soon()).await?.position.unwrap_or_default();
        if end < catalog.through() {
            return Err(Error::new(ErrorKind::HistoryLost, "the archive has commits that the store in front has lost")
                .with("archived", catalog.through())
                .with("feed", end));
        }
        let start = if self.policy.below_snapshot { 0 } else { catalog.looked_at };
        let until = Position(end.0.saturating_sub(self.policy.keep_last.unwrap_or(0)));
        if until.0 <= start {
            return Ok(true);
        }
        let oldest = self.policy.older_than.map(|age| {
            let micros = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
            SystemClock.now().0.saturating_sub(micros)
        });
        let mut chosen = Chosen::new(self.policy.below_snapshot, &*self.hot);
        let mut pages = Pages::new(self.hot.clone(), Position(start));
        let (mut builder, mut gone) = (Builder::default(), Vec::new());
        let mut at = start;
        'feed: while let Some(page) = pages.next().await? {
            for item in page.items {
                let FeedItem::Commit(commit) = item else { continue };
                let last = commit.last_position().unwrap_or_default();
                let young = oldest.is_some_and(|oldest| commit.recorded_at.0 > oldest);
                if last > until || young {
                    break 'feed;
                }
                match commit.kind {
                    CommitKind::Events if chosen.takes(&commit).await? => builder.add(&commit)?,
                    CommitKind::Deleted => gone.push((commit.stream, None)),
                    CommitKind::Truncated { .. } => {
                        let head = ReadHead { stream: commit.stream.clone(), deadline: soon() };
                        let first = self.hot.head(head).await?.first_retained;
                        gone.push((commit.stream, Some(first)));
                    }
                    CommitKind::Events | CommitKind::MovedOut { .. } | CommitKind::MovedIn { .. } => {}
                }
                at = last.0;
                if builder.bytes() >= self.segment_bytes {
                    let gone = std::mem::take(&mut gone);
                    let Some(next) = self.add(std::mem::take(&mut builder), &catalog, at, &gone, ran).await? else {
                        return Ok(false);
                    };
                    catalog = next;
                }
                progress(Progress { done: at - start, of: until.0 - start });
            }
        }
        let Some(_) = self.add(builder, &catalog, at, &gone, ran).await? else { return Ok(false) };
        progress(Progress { done: until.0 - start, of: until.0 - start });
        Ok(true)
    }

    /// Makes a segment of what was gathered, and releases what it holds. None where another changed the catalog meanwhile.
    async fn add(
        &self,
        builder: Builder,
        catalog: &Catalog,
        looked_at: u64,
        gone: &[(StreamId, Option<Revision>)],
        ran: &mut Ran,
    ) -> Result<Option<Arc<Catalog>>> {
        let mut next = catalog.next(Uuid::now_v7().to_string());
        next.looked_at = next.looked_at.max(looked_at);
        let made = self.store(builder, next.number).await?;
        if let Some(segment) = &made {
            next.segments.push(segment.clone());
            next.segments.sort_by_key(|segment| (segment.first, segment.last));
        }
        let mut changed = made.is_some();
        for (stream, before) in gone {
            changed |= next.note_gone(Gone::new(stream, *before), stream);
        }
        if !changed {
            return Ok(Some(Arc::new(catalog.clone())));
        }
        if !self.put(&next).await? {
            if let Some(segment) = made {
                self.throw_away(&segment.key).await;
            }
            return Ok(None);
        }
        let (noted, catalog) = self.noted(next).await?;
        self.release(&noted, &catalog).await?;
        if let Some(segment) = made {
            ran.commits += segment.commits;
            ran.events += segment.events;
            ran.segments += 1;
            ran.bytes += segment.bytes;
            ran.through = catalog.through().0;
        }
        Ok(Some(catalog))
    }

    /// Puts a segment, reads it back, and compares what is read with what was put in. None where there is nothing to put.
    async fn store(&self, builder: Builder, since: u64) -> Result<Option<Segment>> {
        let Some(made) = blocking(move || builder.finish()).await? else { return Ok(None) };
        let key = format!("segments/{:020}-{}.zst", made.first.0, Uuid::now_v7());
        if !self.archive.place().put_new(&key, made.object.clone(), soon(), &mut Usage::default()).await? {
            return Err(error::damaged(&key, "another object has its name"));
        }
        let fresh = self.archive.place().get(&key, None, soon(), &mut Usage::default()).await?;
        let fresh = fresh.ok_or_else(|| error::missing(&key))?;
        blocking(move || compare(key, &made, &fresh, since)).await.map(Some)
    }

    /// A segment that no catalog will name. What stays behind is found later by its age.
    async fn throw_away(&self, key: &str) {
        if let Err(failed) = self.archive.place().remove(key, soon(), &mut Usage::default()).await {
            tracing::warn!(key, %failed, "a segment that is not used could not be removed");
        }
    }

    /// Releases from the hot store what catalogs have that were not released yet.
    async fn release(&self, noted: &Note, catalog: &Catalog) -> Result<()> {
        if noted.released >= catalog.number {
            return Ok(());
        }
        if noted.catalog < catalog.number {
            self.noted(catalog.clone()).await?;
        }
        let due = catalog.segments.iter().filter(|segment| segment.since > noted.released);
        for segment in due {
            let index = self.archive.index(segment, soon(), &mut Usage::default()).await?;
            for entries in index.streams.chunks(RELEASED_AT_ONCE) {
                let streams = entries.iter().map(|entry| Ok((entry.id()?, segment::behind(entry))));
                let streams = streams.collect::<Result<Vec<_>>>()?;
                self.admin.release(Release { streams, deadline: soon() }).await?;
            }
        }
        let done = Note { released: catalog.number, ..noted.clone() };
        note::raise(&*self.hot, &done, soon()).await.map(drop)
    }

    /// Sees to it that nobody reads from the archive what was truncated or deleted, and takes it out as far as that is possible now.
    ///
    /// # Errors
    /// Where the catalog could not be changed. That bytes are left is no error: a compaction takes them out.
    pub(crate) async fn forget(&self, stream: &StreamId, before: Option<Revision>, deadline: Deadline) -> Result<()> {
        // The catalog is changed in any case: an archiver that has read what is gone now loses its number by that.
        self.change(|catalog| {
            catalog.note_gone(Gone::new(stream, before), stream);
            true
        })
        .await?;
        let erased = tokio::time::timeout_at(deadline.0.into(), self.rewrite(true)).await;
        match erased {
            Ok(Ok(done)) if done.rewritten > 0 => {
                tracing::info!(%stream, segments = done.rewritten, commits = done.removed_commits, "erased from the archive");
            }
            Ok(Ok(_)) => {}
            Ok(Err(failed)) => {
                tracing::warn!(%stream, %failed, "what is gone is hidden, and still has bytes in the archive");
            }
            Err(_) => tracing::warn!(%stream, "what is gone is hidden, and still has bytes in the archive"),
        }
        Ok(())
    }

    /// Puts small segments together, takes out what was truncated or deleted, and removes objects that nothing names.
    ///
    /// # Errors
    /// As calls to the archive; it can be repeated.
    pub async fn compact(&self) -> Result<Compacted> {
        let mut done = self.rewrite(false).await?;
        done.removed_objects += self.remove_orphans().await?;
        Ok(done)
    }

    async fn rewrite(&self, gone_only: bool) -> Result<Compacted> {
        let mut done = Compacted::default();
        let mut tries = 0;
        let mut passed: HashSet<String> = HashSet::new();
        while let Some((_, catalog)) = self.current().await? {
            let Some(group) = self.group(&catalog, gone_only, &passed).await? else { break };
            passed.extend(group.iter().map(|at| catalog.segments[*at].key.clone()));
            if self.rewrite_group(&catalog, &group, &mut done).await? {
                continue;
            }
            // Another changed the catalog: its segments may be others.
            passed.clear();
            tries += 1;
            if tries == TRIES_MAX {
                return Err(Error::new(ErrorKind::Unavailable, "the catalog of the archive changes all the time"));
            }
        }
        done.removed_objects += self.sweep().await?;
        Ok(done)
    }

    /// Segments that are to be rewritten as one: neighbours that are small, and each that has something that is gone.
    async fn group(&self, catalog: &Catalog, gone_only: bool, passed: &HashSet<String>) -> Result<Option<Vec<usize>>> {
        let mut group: Vec<usize> = Vec::new();
        let (mut bytes, mut dead) = (0, false);
        for (at, segment) in catalog.segments.iter().enumerate() {
            let has_gone = !self.gone_in(catalog, segment).await?.is_empty();
            let is_small = !gone_only && segment.bytes < self.segment_bytes / 2;
            let fits = bytes + segment.bytes <= self.segment_bytes;
            let wanted = (has_gone || is_small) && !passed.contains(&segment.key);
            if (group.len() > 1 || dead) && !(wanted && fits && !gone_only) {
                break;
            }
            if !wanted || !fits {
                (group, bytes, dead) = (Vec::new(), 0, false);
            }
            if wanted {
                group.push(at);
                bytes += segment.bytes;
                dead |= has_gone;
            }
        }
        if group.len() > 1 && !is_apart(catalog, &group) {
            // Streams of overlapping segments interleave: only what is gone is taken out of them, one by one.
            let alone = group.into_iter().next();
            let Some(at) = alone else { return Ok(None) };
            let has_gone = !self.gone_in(catalog, &catalog.segments[at]).await?.is_empty();
            return Ok(has_gone.then(|| vec![at]));
        }
        Ok((group.len() > 1 || dead).then_some(group))
    }

    /// What is gone and really in a segment: a filter alone may be wrong.
    async fn gone_in(&self, catalog: &Catalog, segment: &Segment) -> Result<Vec<Gone>> {
        let mut found = Vec::new();
        for gone in &catalog.gone {
            let Ok(stream) = StreamId::within(&gone.namespace, &gone.stream) else { continue };
            if !segment.filter.may_have(&stream) {
                continue;
            }
            let index = self.archive.index(segment, soon(), &mut Usage::default()).await?;
            let begins = index.stream(&stream).map(segment::StreamEntry::first);
            if begins.is_some_and(|first| gone.before.is_none_or(|before| first < before)) {
                found.push(gone.clone());
            }
        }
        Ok(found)
    }

    /// False where another changed the catalog meanwhile.
    async fn rewrite_group(&self, catalog: &Catalog, group: &[usize], done: &mut Compacted) -> Result<bool> {
        let old: Vec<Segment> = group.iter().map(|at| catalog.segments[*at].clone()).collect();
        let since = old.iter().map(|segment| segment.since).max().unwrap_or(0);
        let part = Arc::new(Catalog { segments: old.clone(), ..catalog.clone() });
        let mut cold = Cold::new(&self.archive, part, Position(1), Deadline::within(PATIENCE * 10));
        let mut builder = Builder::default();
        while let Some(commit) = cold.next(Position(1), Position(NUMBER_MAX), &mut Usage::default()).await? {
            builder.add(&commit)?;
        }
        let made = self.store(builder, since).await?;
        let kept = made.as_ref().map_or(0, |segment| segment.commits);
        let removed = old.iter().map(|segment| segment.commits).sum::<u64>().saturating_sub(kept);
        let mut next = catalog.next(Uuid::now_v7().to_string());
        next.segments.retain(|segment| !old.iter().any(|old| old.key == segment.key));
        next.segments.extend(made.clone());
        next.segments.sort_by_key(|segment| (segment.first, segment.last));
        next.garbage.extend(old.iter().map(|segment| segment.key.clone()));
        if !self.put(&next).await? {
            if let Some(segment) = made {
                self.throw_away(&segment.key).await;
            }
            return Ok(false);
        }
        self.noted(next).await?;
        done.rewritten += old.len() as u64;
        done.made += u64::from(made.is_some());
        done.removed_commits += removed;
        tracing::info!(segments = old.len(), commits = removed, "segments of the archive were rewritten");
        Ok(true)
    }

    /// Removes the objects that the catalog says are to be removed, and forgets what is nowhere any more.
    async fn sweep(&self) -> Result<u64> {
        let Some((_, catalog)) = self.current().await? else { return Ok(0) };
        for key in &catalog.garbage {
            self.archive.place().remove(key, soon(), &mut Usage::default()).await?;
        }
        let mut left: Vec<Gone> = Vec::new();
        for segment in &catalog.segments {
            left.extend(self.gone_in(&catalog, segment).await?);
        }
        let removed: HashSet<&String> = catalog.garbage.iter().collect();
        self.change(|next| {
            let before = (next.garbage.len(), next.gone.len());
            next.garbage.retain(|key| !removed.contains(key));
            // What came since was not looked for.
            next.gone.retain(|gone| left.contains(gone) || !catalog.gone.contains(gone));
            before != (next.garbage.len(), next.gone.len())
        })
        .await?;
        Ok(removed.len() as u64)
    }

    /// Removes segments that no catalog names, left by archivers that were killed, and catalogs of long ago.
    async fn remove_orphans(&self) -> Result<u64> {
        let Some((_, catalog)) = self.current().await? else { return Ok(0) };
        let place = self.archive.place();
        let mut due: Vec<String> = Vec::new();
        let named: HashSet<&str> = catalog.segments.iter().map(|segment| segment.key.as_str()).collect();
        for key in place.list("segments/", soon(), &mut Usage::default()).await? {
            if !named.contains(key.as_str()) && is_old(&key) {
                due.push(key);
            }
        }
        for key in place.list("catalog/", soon(), &mut Usage::default()).await? {
            if catalog::number_of(&key).is_some_and(|number| number + CATALOGS_KEPT < catalog.number) {
                due.push(key);
            }
        }
        for key in &due {
            place.remove(key, soon(), &mut Usage::default()).await?;
        }
        Ok(due.len() as u64)
    }

    /// Hands out every commit of the archive that is not gone, in the order of the feed, as a line of JSON for each event.
    ///
    /// # Errors
    /// As calls to the archive; what `each` fails with.
    pub async fn cat(&self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Some((_, catalog)) = self.current().await? else { return Ok(()) };
        let mut from = Position(1);
        loop {
            // A walk of its own for each part, so that it has not one deadline for all.
            let mut cold = Cold::new(&self.archive, catalog.clone(), from, soon());
            let mut lines = Vec::new();
            while let Some(commit) = cold.next(from, Position(NUMBER_MAX), &mut Usage::default()).await? {
                let position = commit.first_position.unwrap_or_default();
                crate::line::write(&commit, position, &mut lines);
                from = commit.last_position().unwrap_or(position).next();
                if lines.len() > segment::FRAME_BYTES {
                    break;
                }
            }
            if lines.is_empty() {
                return Ok(());
            }
            each(&lines)?;
        }
    }
}

async fn blocking<R: Send + 'static>(work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    let gone = |cause| Err(Error::new(ErrorKind::Unavailable, "a segment could not be made").caused_by(cause));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(gone)
}

/// The entry of a segment in the catalog, if what was read back is what was put in.
fn compare(key: String, made: &Made, fresh: &Bytes, since: u64) -> Result<Segment> {
    let mut content = Content::default();
    let index = segment::read_whole(&key, fresh, |commit| {
        content.add(&commit);
        Ok(())
    })?;
    let (told, read) = (made.content.digest(), content.digest());
    if told != read || made.content.commits != content.commits || made.index != index {
        return Err(error::damaged(&key, "what was read back is not what was put"));
    }
    let streams = index.streams.iter().map(segment::StreamEntry::id).collect::<Result<Vec<_>>>()?;
    Ok(Segment {
        since,
        first: made.first.0,
        last: made.last.0,
        commits: content.commits,
        events: content.events,
        streams: streams.len() as u64,
        bytes: fresh.len() as u64,
        raw_bytes: made.raw_bytes,
        blake3: segment::hex(blake3::hash(fresh).as_bytes()),
        content: read,
        index: made.part.clone(),
        filter: Filter::new(streams.iter()),
        key,
    })
}

/// Whether no other segment has positions between those of a group.
fn is_apart(catalog: &Catalog, group: &[usize]) -> bool {
    let own = |at: &usize| group.contains(at);
    let first = group.iter().map(|at| catalog.segments[*at].first).min().unwrap_or(0);
    let last = group.iter().map(|at| catalog.segments[*at].last).max().unwrap_or(0);
    (0..catalog.segments.len()).filter(|at| !own(at)).all(|at| {
        let other = &catalog.segments[at];
        other.last < first || other.first > last
    })
}

/// The time of a version 7 UUID stands at its beginning.
fn is_old(key: &str) -> bool {
    let name = key.strip_suffix(".zst").unwrap_or(key);
    let uuid = name.len().checked_sub(36).and_then(|at| name.get(at..)).and_then(|text| Uuid::try_parse(text).ok());
    let Some((seconds, _)) = uuid.and_then(|uuid| uuid.get_timestamp()).map(|time| time.to_unix()) else {
        return false;
    };
    let now = SystemClock.now().0 / 1_000_000;
    now.saturating_sub(i64::try_from(seconds).unwrap_or(i64::MAX)) > ORPHAN_AGE.as_secs() as i64
}

/// Which commits are archived, where that hangs on snapshots.
struct Chosen<'a> {
    hot: &'a dyn EventStore,
    below_snapshot: bool,
    folded: HashMap<StreamId, u64>,
}

impl<'a> Chosen<'a> {
    fn new(below_snapshot: bool, hot: &'a dyn EventStore) -> Self {
        Self { hot, below_snapshot, folded: HashMap::new() }
    }

    async fn takes(&mut self, commit: &Commit) -> Result<bool> {
        if !self.below_snapshot {
            return Ok(true);
        }
        let folded = match self.folded.get(&commit.stream) {
            Some(folded) => *folded,
            None => {
                let request = ReadSnapshot { stream: commit.stream.clone(), deadline: soon() };
                let folded = self.hot.read_snapshot(request).await?.map_or(0, |snapshot| snapshot.revision.0);
                self.folded.insert(commit.stream.clone(), folded);
                folded
            }
        };
        Ok(commit.last_revision().0 <= folded)
    }
}

/// The hot feed, a page ahead: the next one is read while the last is packed.
struct Pages {
    hot: Arc<dyn EventStore>,
    ahead: Option<tokio::task::JoinHandle<Result<FeedPage>>>,
}

impl Pages {
    fn new(hot: Arc<dyn EventStore>, after: Position) -> Self {
        let mut pages = Self { hot, ahead: None };
        pages.fetch(after);
        pages
    }

    fn fetch(&mut self, after: Position) {
        let hot = self.hot.clone();
        self.ahead = Some(tokio::spawn(async move {
            let request = ReadFeed {
                from: FeedStart::AfterPosition(after),
                filter: FeedFilter::none(),
                limit: PAGE_EVENTS.min(hot.capabilities().limits.page_items),
                max_bytes: PAGE_BYTES,
                deadline: soon(),
            };
            hot.read_feed(request).await
        }));
    }

    async fn next(&mut self) -> Result<Option<FeedPage>> {
        let Some(ahead) = self.ahead.take() else { return Ok(None) };
        let gone = |cause| Err(Error::new(ErrorKind::Unavailable, "the feed could not be read").caused_by(cause));
        let page = ahead.await.unwrap_or_else(gone)?;
        match page.next.position() {
            Some(next) if !page.end => self.fetch(next),
            _ => {}
        }
        Ok(Some(page))
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Some(ahead) = &self.ahead {
            ahead.abort();
        }
    }
}
