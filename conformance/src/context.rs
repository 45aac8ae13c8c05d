//! What a check works with: stores to try, names of its own, and random numbers that can be repeated.

use crate::check::Broken;
use crate::seed::Seed;
use crate::target::{Target, WorkerCommand};
use crate::trace::{Trace, Traced};
use evstore_api::{
    Append, Appended, Capabilities, Category, CommitId, Deadline, Epoch, EventStore, EventType, Events, Expected,
    FeedFilter, FeedStart, FindCommit, Head, Meta, MetaSwapped, NewCommit, NewEvent, ReadFeed, ReadHead, ReadStream,
    Result, Revision, Settings, StoreAdmin, StoreState, StreamId, StreamPage, StreamStart, SwapMeta,
    capabilities::{Consistency, Positioned},
};
use evstore_api::{Cursor, Direction, FeedPage};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longest time that one call of a check may take. Far above what any store needs: a check is no benchmark.
const CALL_MAX: Duration = Duration::from_secs(30);
/// Events in a page, where a check does not care.
const PAGE: u32 = 500;
/// Events in a page of a store that may allow fewer, where a check does not care.
pub(crate) fn page_of(capabilities: &Capabilities) -> u32 {
    PAGE.min(capabilities.limits.page_items)
}
/// Bytes in a page, where a check does not care.
pub(crate) const PAGE_BYTES: u64 = 16 << 20;

/// What a check works with. Cheap to clone; tasks of one check share it.
#[derive(Clone, Debug)]
pub struct Context {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: Target,
    scratch: Settings,
    store: Arc<dyn EventStore>,
    admin: Arc<dyn StoreAdmin>,
    capabilities: Capabilities,
    seed: u64,
    tag: String,
    effort: u64,
    names: AtomicU64,
    trace: Trace,
    fresh: Mutex<Vec<Settings>>,
    remarks: Mutex<Vec<String>>,
}

/// A scratch store of one check's own, empty at first.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// Its settings, for opening it once more and for other processes.
    pub settings: Settings,
    /// The application's side.
    pub store: Arc<dyn EventStore>,
    /// The administrative side.
    pub admin: Arc<dyn StoreAdmin>,
}

impl Fresh {
    /// Closes both sides.
    pub(crate) async fn close(&self) -> Result<()> {
        self.store.close().await?;
        self.admin.close().await
    }

    /// Changes the store's record, which nothing else changes meanwhile; gives the new one.
    pub(crate) async fn swap_meta(&self, context: &Context, change: impl FnOnce(&mut Meta)) -> Result<Meta, Broken> {
        let expected = self.admin.read_meta(context.deadline()).await?;
        let mut new = expected.clone();
        change(&mut new);
        let request = SwapMeta { expected, new: new.clone(), deadline: context.deadline() };
        match self.admin.swap_meta(request).await? {
            MetaSwapped::Done => Ok(new),
            MetaSwapped::Differs(found) => {
                Err(Broken::new(format!("a record that was just read is said to differ: {found:?}")))
            }
        }
    }

    /// Closes the store in the next epoch, in this state.
    pub(crate) async fn enter(&self, context: &Context, state: StoreState) -> Result<Meta, Broken> {
        self.swap_meta(context, |meta| {
            meta.epoch = Epoch(meta.epoch.0 + 1);
            meta.state = state;
        })
        .await
    }
}

impl Context {
    /// A context for one check, in a scratch store that it shares with others. `tag` is the check's own part of names.
    pub(crate) fn new(
        target: Target,
        scratch: Settings,
        store: Arc<dyn EventStore>,
        admin: Arc<dyn StoreAdmin>,
        tag: String,
        seed: u64,
        effort: u64,
    ) -> Self {
        let trace = Trace::default();
        let capabilities = store.capabilities().clone();
        let store: Arc<dyn EventStore> = Arc::new(Traced::new(store, trace.clone()));
        let names = AtomicU64::new(0);
        let (fresh, remarks) = (Mutex::default(), Mutex::default());
        let shared =
            Shared { target, scratch, store, admin, capabilities, seed, tag, effort, names, trace, fresh, remarks };
        Self { shared: Arc::new(shared) }
    }

    /// The scratch store that all checks of a run share. Checks use streams of their own in it.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn EventStore> {
        &self.shared.store
    }

    /// The administrative side of the shared scratch store. A check never changes its record: see [`fresh`](Self::fresh).
    #[must_use]
    pub fn admin(&self) -> &Arc<dyn StoreAdmin> {
        &self.shared.admin
    }

    /// Settings of the shared scratch store.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.shared.scratch
    }

    /// What the store promises.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    /// What is held to the catalog.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.shared.target
    }

    /// How to start another process, if there is a way.
    #[must_use]
    pub fn worker(&self) -> Option<&WorkerCommand> {
        self.shared.target.worker.as_ref()
    }

    /// Another client of the shared scratch store, as another process would have it.
    ///
    /// # Errors
    /// As opening fails.
    pub async fn another_client(&self) -> Result<Arc<dyn EventStore>> {
        self.open(&self.shared.scratch).await
    }

    /// Two clients of the shared scratch store, for callers that race on both. The second is the check's to close.
    ///
    /// # Errors
    /// As opening fails.
    pub async fn two_clients(&self) -> Result<[Arc<dyn EventStore>; 2]> {
        Ok([self.store().clone(), self.another_client().await?])
    }

    /// Opens a scratch store once more.
    ///
    /// # Errors
    /// As opening fails.
    pub async fn open(&self, settings: &Settings) -> Result<Arc<dyn EventStore>> {
        let store = self.shared.target.provider.opener.open(settings).await?;
        Ok(Arc::new(Traced::new(store, self.shared.trace.clone())))
    }

    /// A new, empty scratch store of the check's own, dropped after it.
    ///
    /// # Errors
    /// As making one fails.
    pub async fn fresh(&self) -> Result<Fresh> {
        self.fresh_with(&[]).await
    }

    /// The same with some settings changed; those that the provider does not have are passed over.
    ///
    /// # Errors
    /// As making one fails.
    pub async fn fresh_with(&self, changes: &[(&str, &str)]) -> Result<Fresh> {
        let mut settings = self.shared.target.settings.clone();
        let known = settings.keys();
        for (name, value) in changes.iter().filter(|(name, _)| known.iter().any(|key| key.name == *name)) {
            settings = settings.with(name, *value)?;
        }
        let number = self.shared.names.fetch_add(1, Ordering::Relaxed);
        self.made(&settings, &letters(number)).await
    }

    /// A new, empty scratch store whose tag ends so: in digits, which those of [`fresh`](Self::fresh) never have there.
    pub(crate) async fn fresh_tagged(&self, end: &str) -> Result<Fresh> {
        self.made(&self.shared.target.settings, end).await
    }

    async fn made(&self, settings: &Settings, end: &str) -> Result<Fresh> {
        let opener = &self.shared.target.provider.opener;
        let settings = opener.make_scratch(settings, &format!("{}{end}", self.shared.tag)).await?;
        self.shared.fresh.lock().expect("no check panics while it holds this").push(settings.clone());
        self.reopened(&settings).await
    }

    /// A scratch store that exists, opened anew on both sides.
    pub(crate) async fn reopened(&self, settings: &Settings) -> Result<Fresh> {
        let store = self.open(settings).await?;
        let admin = self.shared.target.provider.opener.open_admin(settings).await?;
        Ok(Fresh { settings: settings.clone(), store, admin })
    }

    /// Scratch stores that the check made, for the runner to drop.
    pub(crate) fn take_fresh(&self) -> Vec<Settings> {
        std::mem::take(&mut self.shared.fresh.lock().expect("no check panics while it holds this"))
    }

    /// The last calls of the check, as lines.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.shared.trace.lines()
    }

    /// What the report says beside the verdict: what was measured, and how far the check reaches.
    pub fn remark(&self, line: impl Into<String>) {
        self.shared.remarks.lock().expect("no check panics while it holds this").push(line.into());
    }

    /// What the check remarked.
    pub(crate) fn take_remarks(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.remarks.lock().expect("no check panics while it holds this"))
    }

    /// A line of the check's own among its calls.
    pub fn note(&self, line: impl Into<String>) {
        self.shared.trace.push(line.into());
    }

    /// Random numbers, the same for the same seed.
    #[must_use]
    pub fn seed(&self) -> Seed {
        Seed(self.shared.seed)
    }

    /// How many rounds to make where `rounds` are made in an ordinary run.
    #[must_use]
    pub fn rounds(&self, rounds: u64) -> u64 {
        (rounds * self.shared.effort).div_ceil(100).max(1)
    }

    /// When a call has to end.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        Deadline::within(CALL_MAX)
    }

    /// A stream that no other check has, in a category that no other check has.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        let number = self.shared.names.fetch_add(1, Ordering::Relaxed);
        StreamId::new(format!("{}-{number}", self.category())).expect("it is short and has no control character")
    }

    /// The category of [`stream`](Self::stream).
    #[must_use]
    pub fn category(&self) -> Category {
        Category::new(&self.shared.tag).expect("a tag is a name")
    }

    /// A commit id that no other call gives.
    #[must_use]
    pub fn commit_id(&self) -> CommitId {
        let number = self.shared.names.fetch_add(1, Ordering::Relaxed);
        CommitId::derive(&[self.shared.tag.as_bytes(), &self.shared.seed.to_le_bytes(), &number.to_le_bytes()])
    }

    /// Appends `count` events of type `Tried` with data of their own, under a new commit id.
    ///
    /// # Errors
    /// As the append fails.
    pub async fn append(&self, stream: &StreamId, expected: Expected, count: u32) -> Result<Appended> {
        self.append_events(stream, expected, self.events(count)).await
    }

    /// Appends given events under a new commit id.
    ///
    /// # Errors
    /// As the append fails.
    pub async fn append_events(
        &self,
        stream: &StreamId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended> {
        self.store().append(self.request(stream, expected, self.commit_id(), events)?).await
    }

    /// A request, for checks that repeat one or send it to another client.
    ///
    /// # Errors
    /// `Invalid` when the events are.
    pub fn request(
        &self,
        stream: &StreamId,
        expected: Expected,
        commit: CommitId,
        events: Vec<NewEvent>,
    ) -> Result<Append> {
        let commit = NewCommit { id: commit, events: Events::new(events)? };
        Ok(Append { stream: stream.clone(), expected, commit, deadline: self.deadline() })
    }

    /// `count` events of type `Tried` whose data no other call gives.
    #[must_use]
    pub fn events(&self, count: u32) -> Vec<NewEvent> {
        (0..count).map(|_| self.event()).collect()
    }

    /// An event of type `Tried` whose data no other call gives.
    #[must_use]
    pub fn event(&self) -> NewEvent {
        let number = self.shared.names.fetch_add(1, Ordering::Relaxed);
        NewEvent::new(event_type("Tried"), format!("{}:{number}", self.shared.tag))
    }

    /// Reads a whole stream forward.
    ///
    /// # Errors
    /// As a read fails.
    pub async fn read(&self, stream: &StreamId) -> Result<StreamPage> {
        self.read_from(self.store().as_ref(), stream).await
    }

    /// Reads a whole stream forward from a given client, page by page.
    ///
    /// # Errors
    /// As a read fails.
    pub async fn read_from(&self, store: &dyn EventStore, stream: &StreamId) -> Result<StreamPage> {
        self.settle().await;
        let mut whole = store.read_stream(self.read_request(stream, StreamStart::First)).await?;
        while let Some(next) = whole.next {
            let page = store.read_stream(self.read_request(stream, StreamStart::At(next))).await?;
            whole.commits.extend(page.commits);
            whole.next = page.next;
        }
        Ok(whole)
    }

    /// Waits until reads see what was acknowledged, where the store declares that they lag.
    pub async fn settle(&self) {
        if let Consistency::Eventual { staleness } = self.capabilities().reads {
            tokio::time::sleep(staleness).await;
        }
    }

    /// Waits until lists see what was acknowledged, where the store declares that they lag.
    pub async fn settle_lists(&self) {
        if let Consistency::Eventual { staleness } = self.capabilities().lists {
            tokio::time::sleep(staleness).await;
        }
    }

    /// The head of a stream.
    ///
    /// # Errors
    /// As reading it fails.
    pub async fn head(&self, stream: &StreamId) -> Result<Head> {
        self.settle().await;
        self.store().head(ReadHead { stream: stream.clone(), deadline: self.deadline() }).await
    }

    /// A commit by its id.
    ///
    /// # Errors
    /// As looking for it fails.
    pub async fn find(&self, stream: &StreamId, commit: CommitId) -> Result<Option<Appended>> {
        self.store().find_commit(FindCommit { stream: stream.clone(), commit, deadline: self.deadline() }).await
    }

    /// A request for a page of a stream, forward.
    #[must_use]
    pub fn read_request(&self, stream: &StreamId, from: StreamStart) -> ReadStream {
        ReadStream {
            stream: stream.clone(),
            from,
            direction: Direction::Forward,
            limit: page_of(self.capabilities()),
            max_bytes: PAGE_BYTES,
            deadline: self.deadline(),
        }
    }

    /// A request for a page of the feed.
    #[must_use]
    pub fn feed_request(&self, from: FeedStart, filter: FeedFilter) -> ReadFeed {
        let limit = page_of(self.capabilities());
        ReadFeed { from, filter, limit, max_bytes: PAGE_BYTES, deadline: self.deadline() }
    }

    /// Everything that this check's own streams have in the feed, in feed order: pages one after the other until the end.
    /// Waits for a sequencer, where one gives positions, until `count` events are there or the call's time is up: else a page that
    /// says too early that it is the last is found out by what is missing.
    ///
    /// # Errors
    /// As a read fails.
    pub async fn feed_of_own_streams(&self, count: usize) -> Result<Vec<FeedPage>> {
        let filter = FeedFilter { categories: vec![self.category()], ..FeedFilter::none() };
        self.feed_until(self.store().as_ref(), FeedStart::First, filter, count).await
    }

    /// Pages of a feed from a place on, up to the end. Where appends do not order it: until `count` events are there, or the time
    /// is up.
    ///
    /// # Errors
    /// As a read fails.
    pub async fn feed_until(
        &self,
        store: &dyn EventStore,
        from: FeedStart,
        filter: FeedFilter,
        count: usize,
    ) -> Result<Vec<FeedPage>> {
        let waits = match self.capabilities().positioned {
            // It is there before the receipt is given: the first page that says that it is the last is taken at its word.
            Positioned::ByAppend => false,
            Positioned::BySequencer { .. } | Positioned::Never { .. } => true,
        };
        let deadline = self.deadline();
        let (mut pages, mut found, mut from) = (Vec::new(), 0, from);
        loop {
            // Others run between two pages, and the check can be ended, also when a feed never does.
            tokio::task::yield_now().await;
            let page = store.read_feed(self.feed_request(from, filter.clone())).await?;
            found += page.events().count();
            let (next, end) = (page.next.clone(), page.end);
            pages.push(page);
            if end && (!waits || found >= count || deadline.has_passed()) {
                return Ok(pages);
            }
            if end {
                // Bounded, so that a lost wake-up of the store costs a little time and not the check.
                let deadline = Deadline::within(Duration::from_millis(200));
                store.wait_feed(evstore_api::WaitFeed { after: next.clone(), deadline }).await?;
            }
            from = FeedStart::After(next);
        }
    }

    /// The end of the feed now.
    ///
    /// # Errors
    /// As reading it fails.
    pub async fn feed_end(&self) -> Result<Cursor> {
        Ok(self.store().feed_head(self.deadline()).await?.cursor)
    }

    /// Runs `count` tasks at the same moment on threads of their own and collects what they answer.
    ///
    /// # Errors
    /// When a task panics.
    pub async fn together<T, F, Work>(&self, count: usize, work: Work) -> Result<Vec<T>, Broken>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
        Work: Fn(usize) -> F,
    {
        let barrier = Arc::new(tokio::sync::Barrier::new(count));
        let tasks: Vec<_> = (0..count)
            .map(|index| {
                // Boxed, so that a task is compiled for each kind of answer, and not for each caller.
                let task: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(work(index));
                tokio::spawn(started(barrier.clone(), task))
            })
            .collect();
        let mut answers = Vec::with_capacity(count);
        for task in tasks {
            answers.push(task.await.map_err(|panic| Broken::new(format!("a call panicked: {panic}")))?);
        }
        Ok(answers)
    }
}

/// Work that begins when everybody is there.
async fn started<T>(barrier: Arc<tokio::sync::Barrier>, work: Pin<Box<dyn Future<Output = T> + Send>>) -> T {
    barrier.wait().await;
    work.await
}

/// An event type of a fixed text.
pub(crate) fn event_type(text: &'static str) -> EventType {
    EventType::new(text).expect("a fixed event type is valid")
}

/// The revision after which `count` more stand at `first + count - 1`.
pub(crate) fn revisions(page: &StreamPage) -> Vec<Revision> {
    page.events().map(evstore_api::EventRef::revision).collect()
}

/// A number in letters, so that a tag with a number behind it can't equal another tag.
fn letters(mut number: u64) -> String {
    let mut text = String::new();
    loop {
        text.push((b'g' + (number % 20) as u8) as char);
        number /= 20;
        if number == 0 {
            return text;
        }
    }
}
