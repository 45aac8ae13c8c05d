//! Projections: read models that are fed by a subscription and keep their place under their name.
//!
//! This file says what is to run; `running` is the handle of one that does. How one runs is in `runner` (at least once, with
//! its checkpoint in the store) and `read_model` (exactly once, with its checkpoint in the read model's own transaction);
//! `mark` keeps the checkpoint and decides between rivals.

mod mark;
mod measure;
mod read_model;
mod runner;
mod running;

use crate::api::{Cursor, Deadline, Error, ErrorKind, EventStore, Namespace, Result, StreamId};
use crate::checkpoint::{Checkpoint, Parked};
use crate::logged::Logged;
use crate::subscription::{FeedEvent, Interest, Start, Stopper, Subscribe, Subscription};
use measure::Measure;
use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use measure::describe as describe_metrics;
pub use read_model::{Move, ReadModel};
pub use running::{Awaited, Phase, Projection, RetryError, Status, StopReason, WaitError};

/// An error of an application.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How often the checkpoint is kept, where nothing else was said.
const KEEP_EVENTS: u32 = 256;
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// How long those that stand by wait, where nothing else was said, and at least.
const STAND_BY: Duration = Duration::from_secs(10);
const STAND_BY_MIN: Duration = Duration::from_secs(1);
/// How long a question to the store may take before a projection runs.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a look at the end of the feed may take, which only tells how far behind one is.
const LAG_TIMEOUT: Duration = Duration::from_secs(2);

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
    start: Start,
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
    /// Set the stream aside when this many tries have failed: the checkpoint keeps the event's revision and the cause, later
    /// events of the stream are held back behind it, so that their order holds, and other streams go on. See
    /// [`Projection::retry_parked`]. At most 100 streams, and no more than fit the store's largest record: when one more
    /// fails, more is wrong than single events, and the projection stops with `TooLarge`.
    ParkAfter(u32),
}

/// What happens when two processes run a projection of one name. Whoever moves the checkpoint first has it; the other's
/// write is refused. It is touched three times in the time that others wait, also while a handler is slow or fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rivals {
    /// One runs, the others stand by, and one of them takes over when the checkpoint has not been touched for so long or
    /// its owner stopped. At least a second. For a projection that is started on every node.
    StandBy(Duration),
    /// The newest takes over at once; one that was running stops with [`StopReason::Rival`]. For a projection that only one
    /// process runs at a time: it need not wait for one that crashed.
    TakeOver,
}

impl Rivals {
    /// How long others wait for a checkpoint to be touched.
    pub(crate) fn wait(self) -> Duration {
        match self {
            Self::StandBy(wait) => wait,
            Self::TakeOver => STAND_BY,
        }
    }
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
            start: Start::First,
            interest: Interest::default(),
            keep: Keep { events: KEEP_EVENTS, every: KEEP_EVERY },
            on_error: OnError::Retry,
            rivals: Rivals::StandBy(STAND_BY),
            poll: Duration::from_secs(1),
        }
    }

    /// Where it begins while it has no checkpoint, and only then; at the first event where nothing is said.
    ///
    /// A filter that is changed later does not go back: events that it let pass by stay passed. Give the projection another
    /// name, or delete its checkpoint and what it made, to build it anew.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
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

    /// What happens when it runs elsewhere too. Where nothing is said it stands by for as long as another runs it, and takes
    /// over 10 seconds after that one was last heard of.
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
    /// `Invalid` for a name or a wait; `Conflict` when one of this name runs in this process; `HistoryLost` when the store lost
    /// what its checkpoint stands on; and what reading the checkpoint fails with.
    pub async fn run(self, handler: impl Handler) -> Result<Projection> {
        let (guard, parts) = self.begin()?;
        let (_, checkpoint) =
            Checkpoint::read(&*parts.events, &Checkpoint::key(&parts.name)?, Deadline::within(CALL_TIMEOUT)).await?;
        if let Some(checkpoint) = checkpoint {
            checkpoint.check_history(&*parts.events, Deadline::within(CALL_TIMEOUT)).await?;
            parts.report(|status| {
                status.cursor = checkpoint.cursor.clone();
                status.parked = checkpoint.parked.into();
            });
        }
        let (retries, wishes) = mpsc::channel(1);
        Ok(Projection::spawn(guard, parts.clone(), Some(retries), runner::run(parts, handler, wishes)))
    }

    /// Runs it exactly once: the read model keeps its place in the transaction that changes it. The store's record says only
    /// who feeds it.
    ///
    /// A read model that lives in the memory of each process is another one in each: give each a name of its own, or
    /// [`Rivals::TakeOver`] where there is only one process.
    ///
    /// # Errors
    /// As [`run`](Self::run), but the read model's place is checked when it runs; `Unsupported` for [`OnError::ParkAfter`], because a batch is taken whole or not at all.
    pub async fn run_into(self, model: impl ReadModel) -> Result<Projection> {
        if let OnError::ParkAfter(_) = self.on_error {
            return Err(Error::new(ErrorKind::Unsupported, "a read model takes a batch whole and parks nothing"));
        }
        let (guard, parts) = self.begin()?;
        Ok(Projection::spawn(guard, parts.clone(), None, read_model::run(parts, model)))
    }

    /// Checks what can be checked without the store, and takes the name.
    fn begin(self) -> Result<(NameGuard, Parts)> {
        if self.rivals.wait() < STAND_BY_MIN {
            return Err(Error::new(ErrorKind::Invalid, "a projection stands by for too short a time")
                .with("given_ms", self.rivals.wait().as_millis())
                .with("min_ms", STAND_BY_MIN.as_millis()));
        }
        Checkpoint::key(&self.name)?;
        self.interest.filter()?;
        let guard = self.running.take(&self.name)?;
        let parts = Parts {
            measure: Measure::new(&self.name),
            events: self.events,
            name: self.name,
            start: self.start,
            interest: self.interest,
            keep: self.keep,
            on_error: self.on_error,
            rivals: self.rivals,
            poll: self.poll,
            stopper: Stopper::new(),
            status: watch::Sender::new(Status::new()),
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
    pub start: Start,
    pub interest: Interest,
    pub keep: Keep,
    pub on_error: OnError,
    pub rivals: Rivals,
    pub poll: Duration,
    pub stopper: Stopper,
    pub status: watch::Sender<Status>,
    measure: Measure,
}

/// A wish to try a parked stream again.
pub(crate) struct Retry {
    stream: StreamId,
    answer: oneshot::Sender<Result<(), RetryError>>,
}

impl Retry {
    fn answer(self, outcome: Result<(), RetryError>) {
        // Whoever asked may have gone.
        let _ = self.answer.send(outcome);
    }
}

impl Parts {
    /// Asks the store until it answers.
    pub async fn ask<T, F>(&self, call: impl Fn() -> F) -> Result<T, StopReason>
    where
        F: Future<Output = Result<T>>,
    {
        mark::until_answered(&self.stopper, &self.name, call).await
    }

    /// Where it begins while it has no checkpoint.
    pub async fn beginning(&self) -> Result<Checkpoint, StopReason> {
        match &self.start {
            Start::First => Ok(Checkpoint::default()),
            Start::After(cursor) => Ok(Checkpoint::at(cursor.clone())),
            Start::Now => {
                let head = self.ask(|| self.events.feed_head(Deadline::within(mark::CALL_TIMEOUT))).await?;
                Ok(Checkpoint::at(head.cursor))
            }
        }
    }

    pub async fn check_history(&self, checkpoint: &Checkpoint) -> Result<(), StopReason> {
        self.ask(|| checkpoint.check_history(&*self.events, Deadline::within(mark::CALL_TIMEOUT))).await
    }

    /// Opens its subscription.
    pub async fn subscribe(&self, after: Option<&Cursor>) -> Result<Subscription, StopReason> {
        self.ask(|| {
            let start = after.cloned().map_or(Start::First, Start::After);
            Subscribe::to(self.events.clone(), start)
                .interest(self.interest.clone())
                .page_events(self.keep.events)
                .poll(self.poll)
                .open()
        })
        .await
    }

    /// Whether a runner that ended for this reason waits for its turn again: another process has taken over.
    pub fn stands_by_after(&self, reason: &StopReason) -> bool {
        match (reason, self.rivals) {
            (StopReason::Rival(error), Rivals::StandBy(_)) => {
                tracing::warn!(projection = self.name, error = %Logged(error), "another process runs the projection");
                true
            }
            (_, Rivals::StandBy(_) | Rivals::TakeOver) => false,
        }
    }

    pub fn report(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }

    pub fn report_parked(&self, parked: &[Parked]) {
        self.report(|status| status.parked = parked.into());
        self.measure.parked(parked.len());
    }

    pub fn report_live(&self) {
        self.report(|status| {
            status.phase = Phase::Live;
            status.lag = Some(0);
        });
        self.measure.lag(0);
    }

    /// Says that so many events more are handled or parked, and up to where.
    pub fn report_events(&self, events: u64, cursor: Option<&Cursor>) {
        self.report(|status| {
            status.cursor = cursor.cloned();
            status.events += events;
        });
        self.measure.events(events);
    }

    pub fn count_failure(&self) {
        self.measure.failure();
    }

    /// Looks how far behind it is. Nothing depends on it, so that a store that does not say delays nothing.
    pub async fn measure_lag(&self) {
        let head = self.events.feed_head(Deadline::within(LAG_TIMEOUT));
        let Some(Ok(Ok(head))) = self.stopper.or(tokio::time::timeout(LAG_TIMEOUT, head)).await else { return };
        let Some(end) = head.position else { return };
        let cursor = self.status.borrow().cursor.clone();
        let lag = end.0.saturating_sub(cursor.and_then(|cursor| cursor.position()).map_or(0, |position| position.0));
        self.report(|status| status.lag = Some(lag));
        self.measure.lag(lag);
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
