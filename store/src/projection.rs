//! Projections: read models that are fed by a subscription and keep their place under their name.
//!
//! How one runs is in `runner` (at least once, with its checkpoint in the store) and `read_model` (exactly once, with its
//! checkpoint in the read model's own transaction); `mark` keeps the checkpoint, `parking` what a handler could not take.

mod mark;
mod parking;
mod read_model;
mod runner;

use crate::api::capabilities::Positioned;
use crate::api::{
    Appended, Cursor, Deadline, Error, ErrorKind, EventStore, FindCommit, Namespace, Position, Result, StreamId,
};
use crate::checkpoint::Checkpoint;
use crate::repository::Executed;
use crate::subscription::{FeedEvent, Interest, Start, Stopper, Subscribe};
use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

pub use parking::Parked;
pub use read_model::ReadModel;

/// An error of an application.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How often the checkpoint is kept, where nothing else was said.
const KEEP_EVENTS: u32 = 256;
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// Longest name of a projection, in bytes: names of what it parks are longer.
const NAME_BYTES_MAX: usize = 200;
/// Pauses between looks for a position that a sequencer has yet to give.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How long a question to the store may take inside of longer waits.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A projection to be run: its name, what it is fed with, and what happens when it fails.
///
/// ```
/// # use evstore::{EventStore, Executed, FeedEvent, Project};
/// # use std::{collections::HashMap, sync::{Arc, Mutex}, time::Duration};
/// # async fn example(events: Arc<dyn EventStore>, executed: Executed) -> Result<(), Box<dyn std::error::Error>> {
/// let counts: Arc<Mutex<HashMap<String, u64>>> = Arc::default();
/// let shared = counts.clone();
/// let projection = Project::new(events, "order-counts")
///     .category("order")
///     .run(move |event: FeedEvent| {
///         let shared = shared.clone();
///         async move {
///             *shared.lock().map_err(|_| "poisoned")?.entry(event.key().to_owned()).or_default() += 1;
///             Ok::<_, &str>(())
///         }
///     })
///     .await?;
///
/// // Read your own writes: wait until the projection has seen what a command appended.
/// projection.wait_for(&executed, Duration::from_secs(2)).await?;
/// projection.stop().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a projection begins when it is run"]
pub struct Project {
    events: Arc<dyn EventStore>,
    running: RunningNames,
    name: String,
    interest: Interest,
    keep: Keep,
    on_error: OnError,
    rivals: Rivals,
    poll: Duration,
}

/// What happens when a handler fails. Pauses between tries double, from a tenth of a second to half a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// Try again for ever: nothing is lost, and everything behind the event waits.
    Retry,
    /// Stop the projection when this many tries have failed.
    StopAfter(u32),
    /// Set the stream aside when this many tries have failed: its event is kept with the cause, its later events are kept
    /// back behind it, so that their order holds, and other streams go on. See [`Projection::retry_parked`].
    ParkAfter(u32),
}

/// What happens when two processes run a projection of one name. Whoever moves the checkpoint first has it; the other's
/// write is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rivals {
    /// The newest takes over; one that was running stops with [`StopReason::Rival`].
    TakeOver,
    /// One runs, the others stand by, and one of them takes over when the checkpoint has not been touched for so long or
    /// its owner stopped. For a projection that is started on every node.
    StandBy(Duration),
}

/// How often the checkpoint is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    pub events: u32,
    pub every: Duration,
}

/// What takes the events of a projection, one after another.
///
/// A closure from a [`FeedEvent`] to a future is one. An event may come again: after a crash, those since the last
/// checkpoint do; after an error, the one that failed.
pub trait Handler: Send + 'static {
    /// Takes one event.
    ///
    /// # Errors
    /// Anything; [`OnError`] says what happens then.
    fn handle(&mut self, event: FeedEvent) -> impl Future<Output = Result<(), BoxError>> + Send;
}

impl<F, R, E> Handler for F
where
    F: FnMut(FeedEvent) -> R + Send + 'static,
    R: Future<Output = Result<(), E>> + Send,
    E: Into<BoxError>,
{
    async fn handle(&mut self, event: FeedEvent) -> Result<(), BoxError> {
        self(event).await.map_err(Into::into)
    }
}

impl Project {
    /// A projection of a store's feed under a name, which is the name of its checkpoint.
    ///
    /// Only projections that were made from one [`Store`](crate::Store) know of each other's names.
    pub fn new(events: Arc<dyn EventStore>, name: impl Into<String>) -> Self {
        Self::among(RunningNames::default(), events, name.into())
    }

    pub(crate) fn among(running: RunningNames, events: Arc<dyn EventStore>, name: String) -> Self {
        Self {
            events,
            running,
            name,
            interest: Interest::default(),
            keep: Keep { events: KEEP_EVENTS, every: KEEP_EVERY },
            on_error: OnError::Retry,
            rivals: Rivals::TakeOver,
            poll: Duration::from_secs(1),
        }
    }

    /// Only streams of this category, or of any that is named.
    pub fn category(mut self, category: impl Into<String>) -> Self {
        self.interest.categories.push(category.into());
        self
    }

    /// Only events of these types, or of any that are named: `OrderEvent::TYPES`, for instance.
    pub fn types<T: Into<String>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.interest.types.extend(types.into_iter().map(Into::into));
        self
    }

    /// Only streams of this namespace.
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.interest.namespace = Some(namespace);
        self
    }

    /// Keeps the checkpoint after so many events or so much time, whichever comes first: what a crash repeats at most. Also
    /// the most events that are held at a time.
    pub fn checkpoint_every(mut self, events: u32, time: Duration) -> Self {
        self.keep = Keep { events: events.max(1), every: time };
        self
    }

    /// What happens when the handler fails; it is tried again for ever where nothing is said.
    pub fn on_error(mut self, policy: OnError) -> Self {
        self.on_error = policy;
        self
    }

    /// What happens when it runs elsewhere too; the newest takes over where nothing is said.
    pub fn rivals(mut self, policy: Rivals) -> Self {
        self.rivals = policy;
        self
    }

    /// How late an event may come whose notification was lost. A second where nothing is said.
    pub fn poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// Runs it at least once: each event is handled, then the checkpoint is kept in the store.
    ///
    /// # Errors
    /// `Invalid` for a name; `Conflict` when one of this name runs in this process; `HistoryLost` when the store lost what
    /// its checkpoint stands on; and what reading the checkpoint fails with.
    pub async fn run(self, handler: impl Handler) -> Result<Projection> {
        let (guard, parts) = self.begin()?;
        let (_, checkpoint) =
            Checkpoint::read(&*parts.events, &Checkpoint::key(&parts.name)?, Deadline::within(CALL_TIMEOUT)).await?;
        if let Some(checkpoint) = checkpoint {
            checkpoint.check_history(&*parts.events, Deadline::within(CALL_TIMEOUT)).await?;
        }
        parts.parking.load().await?;
        Ok(parts.spawn(guard, |parts, retries| runner::run(parts, handler, retries)))
    }

    /// Runs it exactly once: the read model keeps the cursor in the transaction that changes it, and the store keeps none.
    ///
    /// # Errors
    /// As [`run`](Self::run); `Unsupported` for [`OnError::ParkAfter`], because a batch is taken whole or not at all.
    pub async fn run_into(self, model: impl ReadModel) -> Result<Projection> {
        if let OnError::ParkAfter(_) = self.on_error {
            return Err(Error::new(ErrorKind::Unsupported, "a read model takes a batch whole and parks nothing"));
        }
        let (guard, parts) = self.begin()?;
        Ok(parts.spawn(guard, |parts, _| read_model::run(parts, model)))
    }

    /// Checks what can be checked without the store, and takes the name.
    fn begin(self) -> Result<(NameGuard, Parts)> {
        if self.name.len() > NAME_BYTES_MAX {
            return Err(Error::new(ErrorKind::Invalid, "the name of a projection is too long")
                .with("bytes_max", NAME_BYTES_MAX));
        }
        Checkpoint::key(&self.name)?;
        self.interest.filter()?;
        let guard = self.running.take(&self.name)?;
        let parking = parking::Parking::new(self.events.clone(), &self.name);
        let parts = Parts {
            events: self.events,
            name: self.name,
            interest: self.interest,
            keep: self.keep,
            on_error: self.on_error,
            rivals: self.rivals,
            poll: self.poll,
            parking,
            stopper: Stopper::new(),
            status: watch::Sender::new(Status { phase: Phase::CatchingUp, cursor: None, events: 0 }),
        };
        Ok((guard, parts))
    }
}

impl crate::Store {
    /// A projection of this store's feed under a name; it begins when it is run.
    pub fn projection(&self, name: impl Into<String>) -> Project {
        Project::among(self.projections.clone(), self.events().clone(), name.into())
    }
}

/// What a running projection consists of, but for its handler.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub events: Arc<dyn EventStore>,
    pub name: String,
    pub interest: Interest,
    pub keep: Keep,
    pub on_error: OnError,
    pub rivals: Rivals,
    pub poll: Duration,
    pub parking: parking::Parking,
    pub stopper: Stopper,
    pub status: watch::Sender<Status>,
}

/// A wish to try a parked stream again.
pub(crate) struct Retry {
    stream: StreamId,
    answer: oneshot::Sender<Result<(), RetryError>>,
}

impl Parts {
    /// Runs in a task of its own, so that a handler that panics ends the projection and nothing else.
    fn spawn<R>(self, guard: NameGuard, run: impl FnOnce(Self, mpsc::Receiver<Retry>) -> R) -> Projection
    where
        R: Future<Output = StopReason> + Send + 'static,
    {
        let (retries, wishes) = mpsc::channel(1);
        let work = tokio::spawn(run(self.clone(), wishes));
        let status = self.status.clone();
        tokio::spawn(async move {
            let reason = work.await.unwrap_or(StopReason::Panicked);
            drop(guard);
            match &reason {
                StopReason::Asked => {}
                other => tracing::error!(reason = %other, "a projection has stopped"),
            }
            status.send_modify(|status| status.phase = Phase::Stopped(Arc::new(reason)));
        });
        Projection { parts: self, retries }
    }

    /// Opens its subscription.
    pub async fn subscribe(&self, after: Option<Cursor>) -> Result<crate::subscription::Subscription> {
        let start = after.map_or(Start::First, Start::After);
        Subscribe::to(self.events.clone(), start)
            .interest(self.interest.clone())
            .page_events(self.keep.events)
            .poll(self.poll)
            .open()
            .await
    }

    pub fn report(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }
}

/// A running projection. Dropping it stops it.
#[derive(Debug)]
pub struct Projection {
    parts: Parts,
    retries: mpsc::Sender<Retry>,
}

/// How a projection is doing.
#[derive(Clone, Debug)]
pub struct Status {
    /// What it is doing.
    pub phase: Phase,
    /// Up to where everything is handled, or parked; none before the first event.
    pub cursor: Option<Cursor>,
    /// Events that were handled or parked since it was started.
    pub events: u64,
}

/// What a projection is doing.
#[derive(Clone, Debug)]
pub enum Phase {
    /// It waits for the process that runs it to stop.
    StandingBy,
    /// It has not reached the end of the feed.
    CatchingUp,
    /// It has, and takes what comes.
    Live,
    /// It has stopped.
    Stopped(Arc<StopReason>),
}

/// Why a projection stopped.
#[derive(Debug)]
pub enum StopReason {
    /// It was asked to.
    Asked,
    /// The store failed in a way that does not pass: `HistoryLost` says what was lost.
    Store(Error),
    /// Another process took it over; nothing that it did not handle was marked as handled.
    Rival(Error),
    /// The handler, or the read model, failed as often as it may.
    Handler {
        /// The event; none for a batch.
        at: Option<(StreamId, crate::api::Revision)>,
        /// What it said last.
        cause: BoxError,
    },
    /// The handler panicked.
    Panicked,
}

/// Why a wait for a projection ended without it.
#[derive(Debug)]
pub enum WaitError {
    /// It has not come so far in time.
    TimedOut,
    /// It has stopped.
    Stopped(Arc<StopReason>),
    /// The stream is parked: its event is kept, and not handled.
    Parked,
    /// The store could not say where the commit stands.
    Store(Error),
}

/// Why a parked stream is parked still.
#[derive(Debug)]
pub enum RetryError {
    /// The projection runs no more.
    Stopped,
    /// The stream is not parked.
    NotParked,
    /// The handler failed again.
    Handler(BoxError),
    /// The store failed.
    Store(Error),
}

impl Projection {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        self.parts.status.borrow().clone()
    }

    /// The streams that it has set aside.
    #[must_use]
    pub fn parked(&self) -> Vec<Parked> {
        self.parts.parking.list()
    }

    /// Waits until a command's events are handled, so that a read from the read model sees them.
    ///
    /// Works on every store: where the receipt has no position yet, the store is asked for it; where there are no
    /// positions, the end of the feed is waited for.
    ///
    /// # Errors
    /// When the time is up, the projection has stopped, or has parked the stream.
    pub async fn wait_for(&self, executed: &Executed, timeout: Duration) -> Result<(), WaitError> {
        let Some(receipt) = &executed.commit else { return Ok(()) };
        let deadline = Deadline::within(timeout);
        let waited = async {
            let target = self.target(executed, receipt, deadline).await.map_err(WaitError::Store)?;
            self.reach(&target).await
        };
        match tokio::time::timeout_at(deadline.0.into(), waited).await {
            Ok(Ok(())) if self.parts.parking.holds(&executed.stream) => Err(WaitError::Parked),
            Ok(Err(WaitError::Store(error))) if error.kind() == ErrorKind::DeadlineExceeded => Err(WaitError::TimedOut),
            Ok(outcome) => outcome,
            Err(_) => Err(WaitError::TimedOut),
        }
    }

    /// Handles a parked stream again, from the event that failed to its end, and lets it go on if that succeeds.
    ///
    /// # Errors
    /// When the handler fails again: the stream stays parked, from where it came to.
    pub async fn retry_parked(&self, stream: &StreamId) -> Result<(), RetryError> {
        let (answer, answered) = oneshot::channel();
        let wish = Retry { stream: stream.clone(), answer };
        self.retries.send(wish).await.map_err(|_| RetryError::Stopped)?;
        answered.await.unwrap_or(Err(RetryError::Stopped))
    }

    /// Stops it: what is being handled is finished and its checkpoint kept.
    ///
    /// # Errors
    /// When it had stopped before for another reason.
    pub async fn stop(self) -> Result<(), Arc<StopReason>> {
        self.parts.stopper.stop();
        let reason = self.stopped().await;
        match *reason {
            StopReason::Asked => Ok(()),
            StopReason::Store(_) | StopReason::Rival(_) | StopReason::Handler { .. } | StopReason::Panicked => {
                Err(reason)
            }
        }
    }

    /// Waits until it stops by itself, or is stopped, and says why.
    pub async fn stopped(&self) -> Arc<StopReason> {
        let mut status = self.parts.status.subscribe();
        let reason = |status: &Status| match &status.phase {
            Phase::Stopped(reason) => Some(reason.clone()),
            Phase::StandingBy | Phase::CatchingUp | Phase::Live => None,
        };
        // The sender lives in `self`, so that the wait can't fail.
        match status.wait_for(|status| reason(status).is_some()).await {
            Ok(status) => reason(&status).unwrap_or_else(|| Arc::new(StopReason::Panicked)),
            Err(_) => Arc::new(StopReason::Panicked),
        }
    }

    /// What stops it from elsewhere.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.parts.stopper.clone()
    }

    async fn target(&self, executed: &Executed, receipt: &Appended, deadline: Deadline) -> Result<Target> {
        let last = |receipt: &Appended| {
            receipt.position.map(|first| Target::Position(first.plus(receipt.last.0 - receipt.first.0)))
        };
        if let Some(target) = last(receipt) {
            return Ok(target);
        }
        match self.parts.events.capabilities().positioned {
            Positioned::Never { settling } => {
                tokio::time::sleep(settling).await;
                Ok(Target::Cursor(self.parts.events.feed_head(deadline).await?.cursor))
            }
            Positioned::ByAppend | Positioned::BySequencer { .. } => loop {
                let request = FindCommit { stream: executed.stream.clone(), commit: receipt.commit, deadline };
                match self.parts.events.find_commit(request).await?.as_ref().map(last) {
                    Some(Some(target)) => return Ok(target),
                    Some(None) => tokio::time::sleep(LOOK_PAUSE).await,
                    None => {
                        let error = Error::new(ErrorKind::NotFound, "the commit is not in the store");
                        return Err(error.with("stream", &executed.stream).of_commit(receipt.commit));
                    }
                }
            },
        }
    }

    async fn reach(&self, target: &Target) -> Result<(), WaitError> {
        let mut status = self.parts.status.subscribe();
        let done = |status: &Status| match (&status.phase, target.reached(status.cursor.as_ref())) {
            (_, true) => Some(Ok(())),
            (Phase::Stopped(reason), false) => Some(Err(WaitError::Stopped(reason.clone()))),
            (Phase::StandingBy | Phase::CatchingUp | Phase::Live, false) => None,
        };
        match status.wait_for(|status| done(status).is_some()).await {
            Ok(status) => done(&status).unwrap_or(Err(WaitError::TimedOut)),
            Err(_) => Err(WaitError::TimedOut),
        }
    }
}

impl Drop for Projection {
    fn drop(&mut self) {
        self.parts.stopper.stop();
    }
}

/// The place that a wait is for.
enum Target {
    Position(Position),
    Cursor(Cursor),
}

impl Target {
    fn reached(&self, cursor: Option<&Cursor>) -> bool {
        match (self, cursor) {
            (_, None) => false,
            (Self::Position(target), Some(cursor)) => cursor.position().is_some_and(|position| position >= *target),
            (Self::Cursor(target), Some(cursor)) => cursor >= target,
        }
    }
}

/// The names of the projections that run in one process over one store.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunningNames(Arc<Mutex<HashSet<String>>>);

/// Gives the name back when the projection has ended.
#[derive(Debug)]
struct NameGuard {
    running: RunningNames,
    name: String,
}

impl RunningNames {
    fn take(&self, name: &str) -> Result<NameGuard> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.insert(name.to_owned()) {
            let error = Error::new(ErrorKind::Conflict, "a projection of this name runs in this process");
            return Err(error.with("projection", name));
        }
        Ok(NameGuard { running: self.clone(), name: name.to_owned() })
    }
}

impl Drop for NameGuard {
    fn drop(&mut self) {
        self.running.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("stopped as asked"),
            Self::Store(error) => write!(f, "the store failed: {error}"),
            Self::Rival(error) => write!(f, "another process took over: {error}"),
            Self::Handler { at: Some((stream, revision)), cause } => {
                write!(f, "the handler failed (stream: {stream}, revision: {revision}): {cause}")
            }
            Self::Handler { at: None, cause } => write!(f, "the read model failed: {cause}"),
            Self::Panicked => f.write_str("the handler panicked"),
        }
    }
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("the projection has not come so far in time"),
            Self::Stopped(reason) => write!(f, "the projection has stopped: {reason}"),
            Self::Parked => f.write_str("the projection has parked the stream"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for RetryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("the projection has stopped"),
            Self::NotParked => f.write_str("the stream is not parked"),
            Self::Handler(cause) => write!(f, "the handler failed again: {cause}"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StopReason {}
impl std::error::Error for WaitError {}
impl std::error::Error for RetryError {}
