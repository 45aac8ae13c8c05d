//! A projection that runs: how it is doing, waiting for it, stopping it.

use super::{BoxError, NameGuard, Parts, Retry};
use crate::api::capabilities::Positioned;
use crate::api::{Appended, Cursor, Deadline, Error, ErrorKind, FindCommit, Position, Result, Revision, StreamId};
use crate::checkpoint::Parked;
use crate::logged::{Logged, category};
use crate::repository::Executed;
use crate::subscription::{Stopper, passes};
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinError};

/// Pauses between looks for a position that a sequencer has yet to give.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// A running projection.
///
/// It stops by itself when something fails that does not pass; whoever runs it watches for that:
///
/// ```
/// # use evstore::{Projection, StopReason};
/// # async fn example(projection: Projection) {
/// tokio::spawn(async move {
///     match &*projection.stopped().await {
///         StopReason::Asked => {}
///         // A process that cannot project is one that the supervisor should replace.
///         reason => panic!("{} stopped: {reason}", projection.name()),
///     }
/// });
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping it stops it; see `detach`"]
pub struct Projection {
    parts: Parts,
    /// None where nothing is ever parked.
    retries: Option<mpsc::Sender<Retry>>,
    work: AbortHandle,
    stops_on_drop: bool,
}

/// How a projection is doing.
#[derive(Clone, Debug)]
pub struct Status {
    /// What it is doing.
    pub phase: Phase,
    /// Up to where everything is handled, or parked; none before the first event.
    pub cursor: Option<Cursor>,
    /// Events that were handled or parked since it was started here.
    pub events: u64,
    /// How many positions lay between `cursor` and the end of the feed when it last looked, every few seconds; none before,
    /// while standing by, and where positions are opaque.
    pub lag: Option<u64>,
    /// The streams that are set aside. While standing by: as the one that runs has kept them.
    pub parked: Arc<[Parked]>,
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
        at: Option<(StreamId, Revision)>,
        /// What it said last.
        cause: BoxError,
    },
    /// The handler panicked, with this text.
    Panicked(String),
    /// It was cut off: by [`Projection::stop_within`], or because the runtime shut down.
    Cancelled,
}

/// Why a wait for a projection ended without it.
#[derive(Debug)]
pub enum WaitError {
    /// It has not come so far in time.
    TimedOut,
    /// It has stopped.
    Stopped(Arc<StopReason>),
    /// The stream is parked from one of the events on: they are kept, and not handled.
    Parked,
    /// The store could not say where the commit stands.
    Store(Error),
}

/// Why a parked stream is parked still.
#[derive(Debug)]
pub enum RetryError {
    /// The projection runs no more.
    Stopped,
    /// Another process runs the projection: ask there.
    StandingBy,
    /// The stream is not parked.
    NotParked,
    /// The handler failed again.
    Handler(BoxError),
    /// The store failed.
    Store(Error),
}

/// What a wait is for: what a command appended, or a commit that was appended by hand, with its stream.
///
/// The stream belongs to it because a receipt does not name it, and without it nobody could tell that it is parked.
#[derive(Clone, Copy, Debug)]
pub struct Awaited<'a> {
    stream: &'a StreamId,
    receipt: Option<&'a Appended>,
}

impl<'a> From<&'a Executed> for Awaited<'a> {
    fn from(executed: &'a Executed) -> Self {
        Self { stream: &executed.stream, receipt: executed.commit.as_ref() }
    }
}

impl<'a> From<(&'a StreamId, &'a Appended)> for Awaited<'a> {
    fn from((stream, receipt): (&'a StreamId, &'a Appended)) -> Self {
        Self { stream, receipt: Some(receipt) }
    }
}

impl Status {
    pub(super) fn new() -> Self {
        Self { phase: Phase::CatchingUp, cursor: None, events: 0, lag: None, parked: Arc::default() }
    }

    fn stopped(&self) -> Option<Arc<StopReason>> {
        match &self.phase {
            Phase::Stopped(reason) => Some(reason.clone()),
            Phase::StandingBy | Phase::CatchingUp | Phase::Live => None,
        }
    }
}

impl Projection {
    /// Runs the work in a task of its own, so that a handler that panics ends the projection and nothing else.
    pub(super) fn spawn(
        guard: NameGuard,
        parts: Parts,
        retries: Option<mpsc::Sender<Retry>>,
        work: impl Future<Output = StopReason> + Send + 'static,
    ) -> Self {
        let work = tokio::spawn(work);
        let handle = work.abort_handle();
        let (name, status) = (parts.name.clone(), parts.status.clone());
        tokio::spawn(async move {
            let reason = work.await.unwrap_or_else(StopReason::of);
            drop(guard);
            reason.log(&name);
            status.send_modify(|status| status.phase = Phase::Stopped(Arc::new(reason)));
        });
        Self { parts, retries, work: handle, stops_on_drop: true }
    }

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

    /// Waits until events are handled, so that a read from the read model sees them: `&executed`, or `(&stream, &receipt)`.
    ///
    /// Works on every store: where the receipt has no position yet, the store is asked for it; where there are no
    /// positions, the end of the feed is waited for. While standing by, what the one that runs has kept counts.
    ///
    /// # Errors
    /// When the time is up, the projection has stopped, or has parked the stream at one of the events or before.
    pub async fn wait_for<'a>(&self, what: impl Into<Awaited<'a>>, timeout: Duration) -> Result<(), WaitError> {
        let Awaited { stream, receipt: Some(receipt) } = what.into() else { return Ok(()) };
        let deadline = Deadline::within(timeout);
        let waited = async {
            let target = self.target(stream, receipt, deadline).await.map_err(WaitError::Store)?;
            self.reach(&target, stream, receipt.last).await
        };
        match tokio::time::timeout_at(deadline.0.into(), waited).await {
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
        let Some(retries) = &self.retries else { return Err(RetryError::NotParked) };
        let (answer, answered) = oneshot::channel();
        let wish = Retry { stream: stream.clone(), answer };
        retries.send(wish).await.map_err(|_| RetryError::Stopped)?;
        answered.await.unwrap_or(Err(RetryError::Stopped))
    }

    /// Stops it: what is being handled is finished, however long that takes, and its checkpoint is kept, which takes 5 seconds
    /// at most.
    ///
    /// # Errors
    /// When it had stopped before for another reason.
    pub async fn stop(self) -> Result<(), Arc<StopReason>> {
        self.parts.stopper.stop();
        Self::as_asked(self.stopped().await)
    }

    /// As [`stop`](Self::stop), but cuts it off when the time is up: what was handled since the last checkpoint comes again.
    ///
    /// # Errors
    /// `Cancelled` when it was cut off, or why it had stopped before.
    pub async fn stop_within(self, timeout: Duration) -> Result<(), Arc<StopReason>> {
        self.parts.stopper.stop();
        if tokio::time::timeout(timeout, self.stopped()).await.is_err() {
            self.work.abort();
        }
        Self::as_asked(self.stopped().await)
    }

    /// Lets it run for as long as the process does; what is given back stops it.
    pub fn detach(mut self) -> Stopper {
        self.stops_on_drop = false;
        self.stopper()
    }

    /// Waits until it stops by itself, or is stopped, and says why.
    pub async fn stopped(&self) -> Arc<StopReason> {
        let mut status = self.parts.status.subscribe();
        // The sender lives in `self`, so that the wait can't fail.
        match status.wait_for(|status| status.stopped().is_some()).await {
            Ok(status) => status.stopped().unwrap_or_else(|| Arc::new(StopReason::Cancelled)),
            Err(_) => Arc::new(StopReason::Cancelled),
        }
    }

    /// What stops it from elsewhere.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.parts.stopper.clone()
    }

    fn as_asked(reason: Arc<StopReason>) -> Result<(), Arc<StopReason>> {
        match *reason {
            StopReason::Asked => Ok(()),
            StopReason::Store(_)
            | StopReason::Rival(_)
            | StopReason::Handler { .. }
            | StopReason::Panicked(_)
            | StopReason::Cancelled => Err(reason),
        }
    }

    async fn target(&self, stream: &StreamId, receipt: &Appended, deadline: Deadline) -> Result<Target> {
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
                let request = FindCommit { stream: stream.clone(), commit: receipt.commit, deadline };
                match self.parts.events.find_commit(request).await {
                    Ok(Some(found)) => {
                        if let Some(target) = last(&found) {
                            return Ok(target);
                        }
                    }
                    Ok(None) => {
                        let error = Error::new(ErrorKind::NotFound, "the commit is not in the store");
                        return Err(error.with("stream", stream).of_commit(receipt.commit));
                    }
                    Err(error) if passes(&error) => {}
                    Err(error) => return Err(error),
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            },
        }
    }

    async fn reach(&self, target: &Target, stream: &StreamId, last: Revision) -> Result<(), WaitError> {
        let mut status = self.parts.status.subscribe();
        let is_parked =
            |status: &Status| status.parked.iter().any(|parked| parked.stream == *stream && parked.revision <= last);
        // In one look, so that what is parked goes with the place up to which it counts.
        let done = |status: &Status| match (target.reached(status.cursor.as_ref()), status.stopped()) {
            (true, _) if is_parked(status) => Some(Err(WaitError::Parked)),
            (true, _) => Some(Ok(())),
            (false, Some(reason)) => Some(Err(WaitError::Stopped(reason))),
            (false, None) => None,
        };
        match status.wait_for(|status| done(status).is_some()).await {
            Ok(status) => done(&status).unwrap_or(Err(WaitError::TimedOut)),
            Err(_) => Err(WaitError::TimedOut),
        }
    }
}

impl Drop for Projection {
    fn drop(&mut self) {
        if self.stops_on_drop {
            self.parts.stopper.stop();
        }
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

impl StopReason {
    /// Of a task that did not end by itself.
    fn of(error: JoinError) -> Self {
        match error.try_into_panic() {
            Ok(panic) => Self::Panicked(text_of(&*panic)),
            Err(_) => Self::Cancelled,
        }
    }

    fn log(&self, projection: &str) {
        match self {
            Self::Asked => {}
            Self::Store(error) | Self::Rival(error) => {
                tracing::error!(projection, error = %Logged(error), "a projection has stopped");
            }
            Self::Handler { at, cause } => {
                let (category, revision) = at.as_ref().map(|(stream, revision)| (category(stream), revision.0)).unzip();
                let category = category.flatten();
                tracing::error!(projection, category, revision, %cause, "a projection has stopped");
            }
            Self::Panicked(text) => tracing::error!(projection, panic = text, "a projection has stopped"),
            Self::Cancelled => tracing::error!(projection, "a projection was cut off"),
        }
    }
}

/// What `panic!` was given.
fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no text").to_owned()
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
            Self::Panicked(text) => write!(f, "the handler panicked: {text}"),
            Self::Cancelled => f.write_str("it was cut off"),
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
            Self::StandingBy => f.write_str("another process runs the projection"),
            Self::NotParked => f.write_str("the stream is not parked"),
            Self::Handler(cause) => write!(f, "the handler failed again: {cause}"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StopReason {}
impl std::error::Error for WaitError {}
impl std::error::Error for RetryError {}
