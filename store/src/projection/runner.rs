//! Runs a projection at least once: handle, then keep the checkpoint.

use super::mark::Mark;
use super::{BoxError, Handler, OnError, Parts, Phase, Retry, RetryError, Rivals, StopReason};
use crate::api::{Commit, Deadline, Direction, FeedItem, ReadStream, Result, Revision, StreamId, StreamStart};
use crate::backoff::Backoff;
use crate::subscription::{Batch, Delivery, FeedEvent};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Pauses between tries of a handler.
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(100);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long keeping the last checkpoint may hold up a stop.
const RELEASE_WAIT_MAX: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const PAGE_BYTES_MAX: u64 = 4 << 20;

/// Runs until it is stopped or fails for good.
pub(super) async fn run(parts: Parts, handler: impl Handler, mut retries: mpsc::Receiver<Retry>) -> StopReason {
    let mut handling = Handling { parts: parts.clone(), handler, ahead: HashMap::new() };
    loop {
        let reason = match parts.stopper.or(Mark::claim(&parts)).await {
            None => return StopReason::Asked,
            Some(Err(reason)) => reason,
            Some(Ok(mark)) => run_with(&parts, mark, &mut handling, &mut retries).await,
        };
        match (reason, parts.rivals) {
            (StopReason::Rival(error), Rivals::StandBy(_)) => {
                tracing::warn!(projection = parts.name, %error, "another process runs the projection");
            }
            (reason, _) => return reason,
        }
    }
}

/// Runs for as long as the mark is this runner's.
async fn run_with(
    parts: &Parts,
    mut mark: Mark,
    handling: &mut Handling<impl Handler>,
    retries: &mut mpsc::Receiver<Retry>,
) -> StopReason {
    let reason = match follow(parts, &mut mark, handling, retries).await {
        Ok(()) => StopReason::Asked,
        Err(reason) => reason,
    };
    if let StopReason::Rival(_) = reason {
        return reason;
    }
    match (reason, tokio::time::timeout(RELEASE_WAIT_MAX, mark.release()).await) {
        (StopReason::Asked, Ok(Err(failed))) => failed,
        // Not kept in time: what was handled since the last checkpoint comes again.
        (reason, Ok(_) | Err(_)) => reason,
    }
}

async fn follow(
    parts: &Parts,
    mark: &mut Mark,
    handling: &mut Handling<impl Handler>,
    retries: &mut mpsc::Receiver<Retry>,
) -> Result<(), StopReason> {
    parts.parking.load().await.map_err(StopReason::Store)?;
    let cursor = mark.cursor().cloned();
    parts.report(|status| {
        status.phase = Phase::CatchingUp;
        status.cursor = cursor.clone();
    });
    let mut subscription = parts.subscribe(cursor).await.map_err(StopReason::Store)?;
    while !parts.stopper.is_stopped() {
        let due = mark.due_at();
        let delivery = tokio::select! {
            biased;
            () = sleep_until(due) => None,
            Some(retry) = retries.recv() => {
                let outcome = handling.retry(&retry.stream).await;
                // Whoever asked may have gone.
                let _ = retry.answer.send(outcome);
                None
            }
            delivery = parts.stopper.or(subscription.next()) => match delivery {
                Some(delivery) => delivery.map_err(StopReason::Store)?,
                None => return Ok(()),
            },
        };
        match delivery {
            Some(Delivery::Batch(batch)) => take_batch(parts, mark, handling, batch).await?,
            Some(Delivery::CaughtUp) => parts.report(|status| status.phase = Phase::Live),
            Some(Delivery::FellBehind) => parts.report(|status| status.phase = Phase::CatchingUp),
            None => {}
        }
        mark.keep_if_due().await?;
    }
    Ok(())
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn take_batch(
    parts: &Parts,
    mark: &mut Mark,
    handling: &mut Handling<impl Handler>,
    batch: Batch,
) -> Result<(), StopReason> {
    let end = batch.cursor().clone();
    let places: Vec<_> = batch.commits().map(|commit| batch.cursor_after(commit)).collect();
    let commits = batch.into_items().into_iter().filter_map(|item| match item {
        FeedItem::Commit(commit) => Some(Arc::new(commit)),
        FeedItem::Removed { .. } => None,
    });
    for (commit, place) in commits.zip(places) {
        if parts.stopper.is_stopped() {
            return Ok(());
        }
        take_commit(mark, handling, &commit).await?;
        mark.pass_commit(&commit, commit.events.len() as u32, place);
        parts.report(|status| {
            status.cursor = mark.cursor().cloned();
            status.events += commit.events.len() as u64;
        });
        mark.keep_if_due().await?;
    }
    mark.pass_to(end);
    parts.report(|status| status.cursor = mark.cursor().cloned());
    Ok(())
}

async fn take_commit(
    mark: &mut Mark,
    handling: &mut Handling<impl Handler>,
    commit: &Arc<Commit>,
) -> Result<(), StopReason> {
    for event in FeedEvent::of(commit) {
        handling.take(mark, event).await?;
    }
    Ok(())
}

/// The handler, and what is known of single streams.
struct Handling<H> {
    parts: Parts,
    handler: H,
    /// Up to where streams were handled ahead of the feed, when they were taken up again after parking.
    ahead: HashMap<StreamId, Revision>,
}

impl<H: Handler> Handling<H> {
    /// Handles an event, or parks it, or says why the projection stops.
    async fn take(&mut self, mark: &mut Mark, event: FeedEvent) -> Result<(), StopReason> {
        if self.is_ahead(&event) || self.parts.parking.holds(event.stream()) {
            return Ok(());
        }
        let mut pauses = Backoff::new(PAUSE_FIRST, PAUSE_MAX, self.parts.name.as_bytes());
        for tries in 1.. {
            let Err(cause) = self.handler.handle(event.clone()).await else { return Ok(()) };
            let at = Some((event.stream().clone(), event.revision()));
            tracing::warn!(projection = self.parts.name, stream = %event.stream(), revision = %event.revision(), tries, %cause,
                "a handler has failed");
            match self.parts.on_error {
                OnError::StopAfter(tries_max) if tries >= tries_max => return Err(StopReason::Handler { at, cause }),
                OnError::ParkAfter(tries_max) if tries >= tries_max => {
                    let parked = self.parts.parking.park(&event, &cause.to_string()).await;
                    return parked.map_err(StopReason::Store);
                }
                OnError::Retry | OnError::StopAfter(_) | OnError::ParkAfter(_) => {}
            }
            // This may take long: what is handled already shall not come again if the process ends meanwhile.
            mark.keep_if_moved().await?;
            if self.parts.stopper.or(tokio::time::sleep(pauses.pause())).await.is_none() {
                return Err(StopReason::Asked);
            }
        }
        Ok(())
    }

    /// Whether an event was handled when its stream was taken up again. Forgotten once the feed has come so far.
    fn is_ahead(&mut self, event: &FeedEvent) -> bool {
        match self.ahead.get(event.stream()) {
            Some(revision) if event.revision() <= *revision => true,
            Some(_) => {
                self.ahead.remove(event.stream());
                false
            }
            None => false,
        }
    }

    /// Handles a parked stream to its end and lets it go on.
    async fn retry(&mut self, stream: &StreamId) -> Result<(), RetryError> {
        let Some(parked) = self.parts.parking.get(stream) else { return Err(RetryError::NotParked) };
        let mut next = Some(parked.revision);
        let mut last = parked.revision;
        while let Some(from) = next {
            let request = ReadStream {
                stream: stream.clone(),
                from: StreamStart::At(from),
                direction: Direction::Forward,
                limit: self.parts.keep.events.min(self.parts.events.capabilities().limits.page_items),
                max_bytes: PAGE_BYTES_MAX,
                deadline: Deadline::within(READ_TIMEOUT),
            };
            let page = self.parts.events.read_stream(request).await.map_err(RetryError::Store)?;
            next = page.next;
            for commit in page.commits.into_iter().map(Arc::new) {
                for event in FeedEvent::of(&commit) {
                    last = event.revision();
                    self.retry_event(event).await?;
                }
            }
        }
        self.ahead.insert(stream.clone(), last);
        self.parts.parking.release(stream).await.map_err(RetryError::Store)
    }

    async fn retry_event(&mut self, event: FeedEvent) -> Result<(), RetryError> {
        let types = &self.parts.interest.types;
        if !types.is_empty() && !types.iter().any(|one| one == event.event().event_type.as_str()) {
            return Ok(());
        }
        let outcome: Result<(), BoxError> = self.handler.handle(event.clone()).await;
        if let Err(cause) = outcome {
            self.parts.parking.park(&event, &cause.to_string()).await.map_err(RetryError::Store)?;
            return Err(RetryError::Handler(cause));
        }
        Ok(())
    }
}
