//! Following the feed: from a place up to its end, and then whatever is appended.

use crate::api::{
    Advice, Category, Commit, Cursor, Deadline, Error, ErrorKind, Event, EventRef, EventStore, EventType, FeedFilter,
    FeedItem, FeedPage, FeedStart, Namespace, NamespaceFilter, Position, ReadFeed, Result, Revision, StreamId,
    WaitFeed, Waited,
};
use crate::backoff::Backoff;
use crate::checkpoint::{LastCommit, check_reached};
use crate::context::Context;
use crate::domain_event::{DomainEvent, decode_event};
use crate::logged::Logged;
use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Most events of a page, where nothing else was said and the store allows as many.
const PAGE_EVENTS_MAX: u32 = 512;
/// Most bytes of a page.
const PAGE_BYTES_MAX: u64 = 4 << 20;
/// How long one read may take.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to rely on being told of new events before looking for oneself.
const POLL: Duration = Duration::from_secs(1);
/// Pauses after an error of the store, and after being told too early that there is more.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Where a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first event of the store.
    First,
    /// After what is there now.
    Now,
    /// After this place.
    After(Cursor),
}

/// A subscription to be opened: where it begins, and what it lets pass.
///
/// ```
/// # use evstore::{Delivery, Start, Subscribe};
/// # async fn example(events: std::sync::Arc<dyn evstore::EventStore>) -> Result<(), evstore::api::Error> {
/// let mut orders = Subscribe::to(events, Start::First).category("order").open().await?;
/// while let Some(delivery) = orders.next().await? {
///     match delivery {
///         Delivery::Batch(batch) => {
///             for event in batch.events() {
///                 println!("{} {} {}", event.stream(), event.revision(), event.event().event_type);
///             }
///         }
///         Delivery::CaughtUp => println!("waiting for more"),
///         Delivery::FellBehind => println!("more than fits a page at once"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a subscription begins when it is opened"]
pub struct Subscribe {
    events: Arc<dyn EventStore>,
    start: Start,
    interest: Interest,
    page_events: u32,
    poll: Duration,
}

/// What to let pass, as text until it is checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interest {
    pub namespace: Option<Namespace>,
    pub categories: Vec<String>,
    pub types: Vec<String>,
}

impl Interest {
    pub fn filter(&self) -> Result<FeedFilter> {
        Ok(FeedFilter {
            namespace: self.namespace.clone().map_or(NamespaceFilter::All, NamespaceFilter::One),
            categories: self.categories.iter().map(Category::new).collect::<Result<_>>()?,
            types: self.types.iter().map(EventType::new).collect::<Result<_>>()?,
        })
    }
}

impl Subscribe {
    /// To a store's feed.
    pub fn to(events: Arc<dyn EventStore>, start: Start) -> Self {
        Self { events, start, interest: Interest::default(), page_events: PAGE_EVENTS_MAX, poll: POLL }
    }

    /// Only streams of this category, or of any that is named.
    pub fn category(mut self, category: impl Into<String>) -> Self {
        self.interest.categories.push(category.into());
        self
    }

    /// Only events of these types, or of any that are named.
    pub fn types<T: Into<String>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.interest.types.extend(types.into_iter().map(Into::into));
        self
    }

    /// Only streams of this namespace.
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.interest.namespace = Some(namespace);
        self
    }

    /// Most events that are held at a time: those of one page. A larger commit comes whole.
    pub fn page_events(mut self, events: u32) -> Self {
        self.page_events = events;
        self
    }

    /// How late an event may come whose notification was lost. A second where nothing is said.
    pub fn poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    pub(crate) fn interest(mut self, interest: Interest) -> Self {
        self.interest = interest;
        self
    }

    /// Finds the place to begin at.
    ///
    /// # Errors
    /// `Invalid` for a name in the filter; `HistoryLost` when the feed ends before the place; and what reading fails with.
    pub async fn open(self) -> Result<Subscription> {
        let filter = self.interest.filter()?;
        let deadline = Deadline::within(READ_TIMEOUT);
        let after = match self.start {
            Start::First => None,
            Start::Now => Some(self.events.feed_head(deadline).await?.cursor),
            Start::After(cursor) => {
                check_reached(&*self.events, &cursor, deadline).await?;
                Some(cursor)
            }
        };
        let page_events = self.page_events.clamp(1, self.events.capabilities().limits.page_items);
        Ok(Subscription {
            events: self.events,
            filter,
            page_events,
            page_now: page_events,
            poll: self.poll,
            after,
            phase: Phase::CatchingUp,
            due: None,
            idle: Idle::No,
            doubted: false,
            stopper: Stopper::new(),
            pauses: pauses(),
        })
    }
}

impl crate::Store {
    /// A subscription to this store's feed; it begins when it is opened.
    pub fn subscribe(&self, start: Start) -> Subscribe {
        Subscribe::to(self.events().clone(), start)
    }
}

fn pauses() -> Backoff {
    Backoff::new(PAUSE_FIRST, PAUSE_MAX, b"subscription")
}

/// Events of the feed in its order: first what is there, then what comes.
///
/// One page is held at a time and the next is read when it is asked for, so that a slow consumer slows nothing but itself.
/// Events of one stream come in their order, each once as long as the subscription lives.
#[derive(Debug)]
pub struct Subscription {
    events: Arc<dyn EventStore>,
    filter: FeedFilter,
    page_events: u32,
    /// What is asked for now: less where a page did not come. One that is never read in time would be asked for as it is for ever.
    page_now: u32,
    poll: Duration,
    after: Option<Cursor>,
    phase: Phase,
    /// What to say before reading on.
    due: Option<Delivery>,
    idle: Idle,
    /// Whether the store failed since the place was last compared with the end of its feed: it may be another one by now.
    doubted: bool,
    stopper: Stopper,
    pauses: Backoff,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    CatchingUp,
    Live,
}

/// Whether there was more when the feed was last read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Idle {
    /// There was.
    No,
    /// There was not: wait for it.
    Yes,
    /// There was not although the store had said so: pause, then wait.
    Misled,
}

/// What a subscription gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    /// The next part of the feed. Without events where the filter dropped all of it: its cursor is worth keeping.
    Batch(Batch),
    /// The end was reached; what comes from now on is new. Said once, and once more after each `FellBehind`.
    CaughtUp,
    /// More was appended than fits a page since the end was reached.
    FellBehind,
}

/// Commits of the feed that were read together.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    after: Option<Cursor>,
    commits: Vec<Arc<Commit>>,
    removed: Vec<RangeInclusive<Position>>,
    next: Cursor,
}

impl Batch {
    fn new(after: Option<Cursor>, page: FeedPage) -> Self {
        let mut batch = Self { after, ..Self::empty(page.next) };
        for item in page.items {
            match item {
                FeedItem::Commit(commit) => batch.commits.push(Arc::new(commit)),
                FeedItem::Removed { first, last } => batch.removed.push(first..=last),
            }
        }
        batch
    }

    /// One that only leads to a place.
    pub(crate) fn empty(next: Cursor) -> Self {
        Self { after: None, commits: Vec::new(), removed: Vec::new(), next }
    }

    /// The place after which it begins; none where that is the beginning of the feed.
    #[must_use]
    pub fn after(&self) -> Option<&Cursor> {
        self.after.as_ref()
    }

    /// The place at which it ends. What to keep once all of it is handled, together with what handling it made.
    #[must_use]
    pub fn cursor(&self) -> &Cursor {
        &self.next
    }

    /// The commits and markers, in feed order.
    #[must_use]
    pub fn commits(&self) -> &[Arc<Commit>] {
        &self.commits
    }

    /// The events, in feed order.
    pub fn events(&self) -> impl Iterator<Item = FeedEvent> {
        self.commits.iter().flat_map(FeedEvent::of)
    }

    /// Positions in it whose events were truncated or deleted. Told only where nothing is filtered.
    #[must_use]
    pub fn removed(&self) -> &[RangeInclusive<Position>] {
        &self.removed
    }

    /// The place directly after a commit, where the order is total; elsewhere only a page's end is a place.
    pub(crate) fn cursor_after(&self, commit: &Commit) -> Option<Cursor> {
        self.next.position()?;
        Some(Cursor::total(self.next.incarnation(), commit.last_position()?))
    }

    /// The last commit in it.
    pub(crate) fn last(&self) -> Option<LastCommit> {
        self.commits.last().and_then(|commit| LastCommit::of(commit))
    }

    fn is_empty(&self) -> bool {
        self.commits.is_empty() && self.removed.is_empty()
    }
}

/// One event, of the feed or of a stream, with the commit that it stands in. Clones are cheap.
#[derive(Clone, Debug)]
pub struct FeedEvent {
    commit: Arc<Commit>,
    at: usize,
}

impl FeedEvent {
    /// The events of a commit, as far as they are there.
    pub(crate) fn of(commit: &Arc<Commit>) -> impl Iterator<Item = Self> + use<> {
        let commit = commit.clone();
        (0..commit.events.len()).map(move |at| Self { commit: commit.clone(), at })
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.commit.events[self.at]
    }

    /// Its commit.
    #[must_use]
    pub fn commit(&self) -> &Commit {
        &self.commit
    }

    /// Its stream.
    #[must_use]
    pub fn stream(&self) -> &StreamId {
        &self.commit.stream
    }

    /// What stands behind the category in the stream's name: the key of the aggregate.
    #[must_use]
    pub fn key(&self) -> &str {
        self.commit.stream.name.as_str().split_once('-').map_or("", |(_, key)| key)
    }

    /// Its number in its stream.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.as_ref().revision()
    }

    /// Its place in the feed, where the order is total.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.as_ref().position()
    }

    /// What it says. None where the type is unknown and to be skipped.
    ///
    /// # Errors
    /// As [`DomainEvent::decode`].
    pub fn decode<E: DomainEvent>(&self) -> Result<Option<E>> {
        decode_event(self.as_ref())
    }

    /// Where it comes from; to pass on, see [`Context::following`].
    ///
    /// # Errors
    /// As [`Context::of`].
    pub fn context(&self) -> Result<Context> {
        Context::of(self.event())
    }

    /// As the contract has it.
    #[must_use]
    pub fn as_ref(&self) -> EventRef<'_> {
        EventRef { commit: &self.commit, event: self.event() }
    }
}

/// Stops a subscription from elsewhere. Clones stop the same one; stopping again is harmless.
#[derive(Clone, Debug)]
pub struct Stopper(watch::Sender<bool>);

impl Stopper {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Ends it after what it is doing: `next` gives `None` from then on.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is stopped.
    pub async fn stopped(&self) {
        // The sender lives in `self`, so that the wait can't fail.
        let _ = self.0.subscribe().wait_for(|stopped| *stopped).await;
    }

    /// Waits for `work`, or for being stopped.
    pub(crate) async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.stopped() => None,
            done = work => Some(done),
        }
    }
}

impl Subscription {
    /// The next delivery; none once it was stopped. Waits for new events at the end of the feed.
    ///
    /// # Behavior
    /// Errors that pass are waited out, for as long as it takes. Being told of new events is only a hint: at the end of the
    /// feed it is read again after `poll` in any case.
    ///
    /// # Errors
    /// What does not pass by itself: `HistoryLost` with what was lost, `CursorRefused`, `Denied`, `Corrupt`, `Closed`. The
    /// subscription has stopped then and gives `None` from then on.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> Result<Option<Delivery>> {
        let stopper = self.stopper.clone();
        match stopper.or(self.deliver()).await {
            Some(Ok(delivery)) => Ok(Some(delivery)),
            Some(Err(error)) => {
                stopper.stop();
                Err(error)
            }
            None => Ok(None),
        }
    }

    /// The place after everything that was delivered; none at the beginning of the feed. A subscription that begins after it
    /// goes on without a gap.
    #[must_use]
    pub fn cursor(&self) -> Option<&Cursor> {
        match &self.due {
            // Read and not yet delivered.
            Some(Delivery::Batch(batch)) => batch.after(),
            Some(Delivery::CaughtUp | Delivery::FellBehind) | None => self.after.as_ref(),
        }
    }

    /// What stops it from elsewhere.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    async fn deliver(&mut self) -> Result<Delivery> {
        loop {
            if let Some(due) = self.due.take() {
                return Ok(due);
            }
            let told = self.wait_if_idle().await?;
            let page = self.read().await?;
            // Nothing is awaited from here on, so that a dropped future takes a page with it or changes nothing.
            let moved = self.after.as_ref() != Some(&page.next);
            self.idle = match (page.end, moved, told) {
                (_, false, Told::More) => Idle::Misled,
                (true, _, _) | (false, false, Told::Nothing) => Idle::Yes,
                (false, true, _) => Idle::No,
            };
            if moved {
                self.pauses = pauses();
            }
            let notice = self.notice(page.end);
            let batch = Batch::new(self.after.replace(page.next.clone()), page);
            // A page that neither moved nor holds anything says nothing.
            let delivery = (moved || !batch.is_empty()).then_some(Delivery::Batch(batch));
            match (notice, delivery) {
                (Some(Delivery::FellBehind), delivery) => {
                    self.due = delivery;
                    return Ok(Delivery::FellBehind);
                }
                (notice, Some(delivery)) => {
                    self.due = notice;
                    return Ok(delivery);
                }
                (Some(notice), None) => return Ok(notice),
                (None, None) => {}
            }
        }
    }

    /// What a page says of the place reached: that it is the end, or no longer.
    fn notice(&mut self, end: bool) -> Option<Delivery> {
        match (self.phase, end) {
            (Phase::CatchingUp, true) => {
                self.phase = Phase::Live;
                Some(Delivery::CaughtUp)
            }
            (Phase::Live, false) => {
                self.phase = Phase::CatchingUp;
                Some(Delivery::FellBehind)
            }
            (Phase::CatchingUp, false) | (Phase::Live, true) => None,
        }
    }

    async fn wait_if_idle(&mut self) -> Result<Told> {
        match self.idle {
            Idle::No => return Ok(Told::Nothing),
            Idle::Yes => {}
            Idle::Misled => tokio::time::sleep(self.pauses.pause().min(self.poll)).await,
        }
        let Some(after) = self.after.clone() else {
            tokio::time::sleep(self.poll).await;
            return Ok(Told::Nothing);
        };
        let told = match self.events.wait_feed(WaitFeed { after, deadline: Deadline::within(self.poll) }).await {
            Ok(Waited::More) => Told::More,
            Ok(Waited::DeadlinePassed) => Told::Nothing,
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                tokio::time::sleep(self.poll).await;
                Told::Nothing
            }
            Err(error) => {
                self.wait_out(error).await?;
                Told::Nothing
            }
        };
        Ok(told)
    }

    async fn read(&mut self) -> Result<FeedPage> {
        loop {
            if let (true, Some(after)) = (self.doubted, &self.after) {
                match check_reached(&*self.events, after, Deadline::within(READ_TIMEOUT)).await {
                    Ok(()) => self.doubted = false,
                    Err(error) => {
                        self.wait_out(error).await?;
                        continue;
                    }
                }
            }
            let request = ReadFeed {
                from: self.after.clone().map_or(FeedStart::First, FeedStart::After),
                filter: self.filter.clone(),
                limit: self.page_now,
                max_bytes: PAGE_BYTES_MAX,
                deadline: Deadline::within(READ_TIMEOUT),
            };
            match self.events.read_feed(request).await {
                Ok(page) => {
                    // Slowly: finding out what is too much costs a timeout each time.
                    self.page_now = (self.page_now + self.page_now / 8 + 1).min(self.page_events);
                    return Ok(page);
                }
                Err(error) => {
                    self.page_now = (self.page_now / 2).max(1);
                    self.wait_out(error).await?;
                }
            }
        }
    }

    /// Pauses after an error that passes; gives back one that does not.
    async fn wait_out(&mut self, error: Error) -> Result<()> {
        if !passes(&error) {
            return Err(error);
        }
        self.doubted = true;
        let pause = self.pauses.pause().max(error.pause().unwrap_or_default());
        tracing::warn!(error = %Logged(&error), ?pause, "a subscription waits for its store");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// What the store said before a page was read.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    More,
    Nothing,
}

/// Whether a read that failed so is worth repeating without anybody's doing.
pub(crate) fn passes(error: &Error) -> bool {
    match error.advice() {
        Advice::RetryLater | Advice::AllowMoreTime | Advice::RepeatSameCommit => true,
        Advice::MendRequest
        | Advice::DecideAgain
        | Advice::Accept
        | Advice::Follow
        | Advice::AskOperator
        | Advice::MendSetup
        | Advice::Reopen => false,
    }
}
