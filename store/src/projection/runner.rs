//! Runs a projection at least once: handle, then keep the checkpoint.

use super::mark::{Claim, Mark};
use super::{BoxError, Handler, OnError, Parts, Phase, Retry, RetryError, StopReason};
use crate::api::{Clock, Commit, Deadline, Direction, ReadStream, StreamId, StreamStart, SystemClock};
use crate::backoff::Backoff;
use crate::checkpoint::Parked;
use crate::logged::category;
use crate::subscription::{Batch, Delivery, FeedEvent, Subscription};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Pauses between tries of a handler.
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(100);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long keeping the last checkpoint may hold up a stop.
const RELEASE_WAIT_MAX: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const PAGE_BYTES_MAX: u64 = 4 << 20;
/// Most bytes of a cause that are kept.
const CAUSE_BYTES_MAX: usize = 200;

/// Wishes to try parked streams again.
pub(super) type Wishes = mpsc::Receiver<Retry>;

/// Runs until it is stopped or fails for good.
pub(super) async fn run(parts: Parts, handler: impl Handler, mut wishes: Wishes) -> StopReason {
    let mut handling = Handling { parts: parts.clone(), handler, ahead: HashMap::new() };
    loop {
        match run_once(&parts, &mut handling, &mut wishes).await {
            Ok(()) => return StopReason::Asked,
            Err(reason) if parts.stands_by_after(&reason) => {}
            Err(reason) => return reason,
        }
    }
}

/// Claims the mark and runs for as long as it is this runner's.
async fn run_once(parts: &Parts, handling: &mut Handling<impl Handler>, wishes: &mut Wishes) -> Result<(), StopReason> {
    let mut mark = claim(parts, wishes).await?;
    let outcome = follow(parts, &mut mark, handling, wishes).await;
    release(mark, outcome).await
}

/// Keeps the mark once more and gives it up, whatever the runner ended with, unless somebody else has it.
pub(super) async fn release(mark: Mark, outcome: Result<(), StopReason>) -> Result<(), StopReason> {
    if let Err(StopReason::Rival(_)) = outcome {
        return outcome;
    }
    match (outcome, tokio::time::timeout(RELEASE_WAIT_MAX, mark.release()).await) {
        (Ok(()) | Err(StopReason::Asked), Ok(Err(failed))) => Err(failed),
        // Not kept in time: what was handled since the last checkpoint comes again.
        (outcome, Ok(_) | Err(_)) => outcome,
    }
}

/// Stands by until the mark can be claimed.
async fn claim(parts: &Parts, wishes: &mut Wishes) -> Result<Mark, StopReason> {
    let mut claim = Claim::new(parts)?;
    loop {
        let found = claim.look().await?;
        let checkpoint = match found.checkpoint {
            Some(checkpoint) => checkpoint,
            None => parts.beginning().await?,
        };
        if found.changed {
            // Also where another runs it: what it says of how far it came is worth nothing where the history is another.
            parts.check_history(&checkpoint).await?;
            parts.report(|status| {
                status.cursor = checkpoint.cursor.clone();
                status.parked = checkpoint.parked.as_slice().into();
            });
        }
        if found.free {
            match claim.take(found.number, checkpoint).await? {
                Some(mark) => return Ok(mark),
                None => continue,
            }
        }
        parts.report(|status| status.phase = Phase::StandingBy);
        let pause = Instant::now() + claim.pause();
        loop {
            tokio::select! {
                biased;
                () = parts.stopper.stopped() => return Err(StopReason::Asked),
                Some(wish) = wishes.recv() => wish.answer(Err(RetryError::StandingBy)),
                () = tokio::time::sleep_until(pause) => break,
            }
        }
    }
}

async fn follow(
    parts: &Parts,
    mark: &mut Mark,
    handling: &mut Handling<impl Handler>,
    wishes: &mut Wishes,
) -> Result<(), StopReason> {
    // Another may have run it since, and a checkpoint may have been set by hand.
    handling.ahead.clear();
    parts.report(|status| {
        status.phase = Phase::CatchingUp;
        status.cursor = mark.cursor().cloned();
    });
    parts.report_parked(mark.parked());
    let mut subscription = parts.subscribe(mark.cursor()).await?;
    while let Some(delivery) = next(parts, mark, handling, wishes, &mut subscription).await? {
        match delivery {
            Delivery::Batch(batch) => take_batch(parts, mark, handling, &batch).await?,
            Delivery::CaughtUp => parts.report_live(),
            Delivery::FellBehind => parts.report(|status| status.phase = Phase::CatchingUp),
        }
        mark.keep_if_due().await?;
    }
    Ok(())
}

/// The next delivery; none when it was stopped. One read is waited for however often the mark is touched meanwhile.
async fn next(
    parts: &Parts,
    mark: &mut Mark,
    handling: &mut Handling<impl Handler>,
    wishes: &mut Wishes,
    subscription: &mut Subscription,
) -> Result<Option<Delivery>, StopReason> {
    let mut next = pin!(subscription.next());
    loop {
        tokio::select! {
            biased;
            () = parts.stopper.stopped() => return Ok(None),
            () = tokio::time::sleep_until(mark.due_at()) => mark.keep_if_due().await?,
            Some(wish) = wishes.recv() => {
                let outcome = handling.retry(mark, &wish.stream).await?;
                wish.answer(outcome);
            }
            delivery = &mut next => return delivery.map_err(StopReason::Store),
        }
    }
}

async fn take_batch(
    parts: &Parts,
    mark: &mut Mark,
    handling: &mut Handling<impl Handler>,
    batch: &Batch,
) -> Result<(), StopReason> {
    for commit in batch.commits() {
        if parts.stopper.is_stopped() {
            return Ok(());
        }
        take_commit(mark, handling, commit).await?;
        mark.pass_commit(commit, commit.events.len() as u32, batch.cursor_after(commit));
        parts.report_events(commit.events.len() as u64, mark.cursor());
        mark.keep_if_due().await?;
    }
    mark.pass_to(batch.cursor().clone());
    parts.report_events(0, mark.cursor());
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
    /// What was handled ahead of the feed, when streams were taken up again after parking.
    ahead: HashMap<StreamId, RangeInclusive<u64>>,
}

impl<H: Handler> Handling<H> {
    /// Handles an event, or parks it, or says why the projection stops.
    async fn take(&mut self, mark: &mut Mark, event: FeedEvent) -> Result<(), StopReason> {
        if self.is_ahead(&event) || mark.holds(event.stream(), event.revision()) {
            return Ok(());
        }
        let stopper = self.parts.stopper.clone();
        let mut pauses = Backoff::new(PAUSE_FIRST, PAUSE_MAX, self.parts.name.as_bytes());
        for tries in 1.. {
            let Err(cause) = mark.hold_during(self.handler.handle(event.clone())).await? else { return Ok(()) };
            self.failed(&event, tries, &cause);
            match self.parts.on_error {
                OnError::StopAfter(tries_max) if tries >= tries_max => {
                    return Err(StopReason::Handler { at: Some((event.stream().clone(), event.revision())), cause });
                }
                OnError::ParkAfter(tries_max) if tries >= tries_max => return self.park(mark, &event, &cause).await,
                OnError::Retry | OnError::StopAfter(_) | OnError::ParkAfter(_) => {}
            }
            let Some(paused) = stopper.or(mark.hold_during(tokio::time::sleep(pauses.pause()))).await else {
                return Err(StopReason::Asked);
            };
            paused?;
            // Not again by two: whoever has taken over does it. And what is handled already does not come again.
            mark.keep().await?;
        }
        Ok(())
    }

    fn failed(&self, event: &FeedEvent, tries: u32, cause: &BoxError) {
        self.parts.count_failure();
        tracing::warn!(projection = self.parts.name, category = category(event.stream()), event = %event.event().id,
            revision = %event.revision(), tries, %cause, "a handler has failed");
    }

    async fn park(&mut self, mark: &mut Mark, event: &FeedEvent, cause: &BoxError) -> Result<(), StopReason> {
        let cause = cause.to_string();
        let parked = Parked {
            stream: event.stream().clone(),
            revision: event.revision(),
            cause: cause[..cause.floor_char_boundary(CAUSE_BYTES_MAX)].to_owned(),
            parked_at: SystemClock.now(),
        };
        mark.park(parked).await?;
        self.parts.report_parked(mark.parked());
        Ok(())
    }

    /// Whether an event was handled when its stream was taken up again. Forgotten once the feed has come so far.
    fn is_ahead(&mut self, event: &FeedEvent) -> bool {
        let Some(ahead) = self.ahead.get(event.stream()) else { return false };
        if event.revision().0 > *ahead.end() {
            self.ahead.remove(event.stream());
            return false;
        }
        ahead.contains(&event.revision().0)
    }

    /// Handles a parked stream to its end and lets it go on.
    async fn retry(&mut self, mark: &mut Mark, stream: &StreamId) -> Result<Result<(), RetryError>, StopReason> {
        let Some(parked) = mark.parked().iter().find(|parked| parked.stream == *stream).cloned() else {
            return Ok(Err(RetryError::NotParked));
        };
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
            let page = match mark.hold_during(self.parts.events.read_stream(request)).await? {
                Ok(page) => page,
                Err(error) => return Ok(Err(RetryError::Store(error))),
            };
            next = page.next;
            for commit in page.commits.into_iter().map(Arc::new) {
                // A page may begin inside of a commit.
                for event in FeedEvent::of(&commit).filter(|event| event.revision() >= parked.revision) {
                    if self.parts.stopper.is_stopped() {
                        return Ok(Err(RetryError::Stopped));
                    }
                    last = event.revision();
                    if let Err(failed) = self.retry_event(mark, event).await? {
                        return Ok(Err(failed));
                    }
                }
            }
        }
        self.ahead.insert(stream.clone(), parked.revision.0..=last.0);
        mark.release_stream(stream).await?;
        self.parts.report_parked(mark.parked());
        Ok(Ok(()))
    }

    async fn retry_event(&mut self, mark: &mut Mark, event: FeedEvent) -> Result<Result<(), RetryError>, StopReason> {
        let types = &self.parts.interest.types;
        if !types.is_empty() && !types.iter().any(|one| one == event.event().event_type.as_str()) {
            return Ok(Ok(()));
        }
        let outcome: Result<(), BoxError> = mark.hold_during(self.handler.handle(event.clone())).await?;
        if let Err(cause) = outcome {
            self.failed(&event, 1, &cause);
            self.park(mark, &event, &cause).await?;
            return Ok(Err(RetryError::Handler(cause)));
        }
        Ok(Ok(()))
    }
}
