//! Runs a projection exactly once: the read model keeps its place in the transaction that changes it.

use super::mark::{Claim, Mark};
use super::runner::{PAUSE_FIRST, PAUSE_MAX, release};
use super::{BoxError, OnError, Parts, Phase, StopReason};
use crate::api::{Error, ErrorKind};
use crate::backoff::Backoff;
use crate::checkpoint::Checkpoint;
use crate::subscription::{Batch, Delivery, Subscription};
use std::future::Future;
use std::pin::pin;
use tokio::time::Instant;

/// A read model that stores its place together with itself.
///
/// ```
/// use evstore::{Batch, BoxError, Move, ReadModel};
/// use std::collections::HashMap;
///
/// /// Stands for a table of counts and a table with one place, in one database.
/// #[derive(Clone, Default)]
/// struct Tables {
///     counts: HashMap<String, u64>,
///     place: Option<String>,
/// }
///
/// struct Counts(Tables);
///
/// impl ReadModel for Counts {
///     async fn checkpoint(&mut self) -> Result<Option<String>, BoxError> {
///         Ok(self.0.place.clone())
///     }
///
///     async fn apply(&mut self, batch: &Batch, place: &Move) -> Result<(), BoxError> {
///         let mut transaction = self.0.clone();
///         // UPDATE place SET at = $to WHERE at IS NOT DISTINCT FROM $from, and one row has to be changed.
///         if transaction.place != place.from {
///             return Err("another process is feeding this read model".into());
///         }
///         transaction.place = Some(place.to.clone());
///         for event in batch.events() {
///             *transaction.counts.entry(event.event().event_type.to_string()).or_default() += 1;
///         }
///         self.0 = transaction; // COMMIT
///         Ok(())
///     }
/// }
/// ```
pub trait ReadModel: Send + 'static {
    /// The place that was stored last, byte for byte; none before the first.
    ///
    /// # Errors
    /// Anything; it is asked again.
    fn checkpoint(&mut self) -> impl Future<Output = Result<Option<String>, BoxError>> + Send;

    /// Applies the events of a batch and moves the place, both in one transaction.
    ///
    /// # Behavior
    /// After an error the place is asked for: if it is where the move leads, the transaction was made although its answer was
    /// lost, and it is not applied again. A batch without events only moves the place.
    ///
    /// # Errors
    /// Anything; nothing of the batch may be stored then, or all of it. It has to fail where the stored place is not
    /// `place.from`: that is what keeps two processes from applying one batch.
    fn apply(&mut self, batch: &Batch, place: &Move) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// The move of a read model's place, to be made if it stands where the move begins. Places are opaque texts of one line, at
/// most 1,200 bytes long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Where it has to stand: as `checkpoint` gave it, or as it was moved last.
    pub from: Option<String>,
    /// Where it stands then.
    pub to: String,
}

/// Runs until it is stopped or fails for good.
pub(super) async fn run(parts: Parts, model: impl ReadModel) -> StopReason {
    let mut feeding = Feeding { model, parts: parts.clone() };
    loop {
        match feeding.run_once().await {
            Ok(()) => return StopReason::Asked,
            Err(reason) if parts.stands_by_after(&reason) => {}
            Err(reason) => return reason,
        }
    }
}

struct Feeding<M> {
    parts: Parts,
    model: M,
}

impl<M: ReadModel> Feeding<M> {
    /// Claims the mark and feeds for as long as it is this runner's. The mark saves work that would be in vain; the read
    /// model's own transaction decides.
    async fn run_once(&mut self) -> Result<(), StopReason> {
        let mut mark = self.claim().await?;
        let outcome = self.feed(&mut mark).await;
        release(mark, outcome).await
    }

    /// Stands by until the mark can be claimed.
    async fn claim(&mut self) -> Result<Mark, StopReason> {
        let parts = self.parts.clone();
        let mut claim = Claim::new(&parts)?;
        loop {
            let found = claim.look().await?;
            if found.free {
                match claim.take(found.number, found.checkpoint.unwrap_or_default()).await? {
                    Some(mark) => return Ok(mark),
                    None => continue,
                }
            }
            let checkpoint = self.stored().await?.as_deref().map(read).transpose()?.unwrap_or_default();
            if found.changed {
                parts.check_history(&checkpoint).await?;
            }
            parts.report(|status| {
                status.phase = Phase::StandingBy;
                status.cursor = checkpoint.cursor;
            });
            if parts.stopper.or(tokio::time::sleep(claim.pause())).await.is_none() {
                return Err(StopReason::Asked);
            }
        }
    }

    async fn feed(&mut self, mark: &mut Mark) -> Result<(), StopReason> {
        let (mut stored, checkpoint) = self.checkpoint().await?;
        self.parts.report(|status| {
            status.phase = Phase::CatchingUp;
            status.cursor = checkpoint.cursor.clone();
        });
        let mut last = checkpoint.last;
        if let (None, Some(beginning)) = (&stored, &checkpoint.cursor) {
            // Kept at once: asked again later, the end of the feed is another place.
            let place = Move { from: None, to: checkpoint.to_string() };
            self.apply(mark, &Batch::empty(beginning.clone()), &place).await?;
            stored = Some(place.to);
        }
        let mut subscription = self.parts.subscribe(checkpoint.cursor.as_ref()).await?;
        let mut stored_at = Instant::now();
        while let Some(delivery) = next(&self.parts, mark, &mut subscription).await? {
            match delivery {
                Delivery::CaughtUp => self.parts.report_live(),
                Delivery::FellBehind => self.parts.report(|status| status.phase = Phase::CatchingUp),
                Delivery::Batch(batch) => {
                    let events = batch.events().count() as u64;
                    last = batch.last().or(last);
                    // A place alone is not worth a transaction each time that others append.
                    if events > 0 || stored_at.elapsed() >= self.parts.keep.every {
                        let to = Checkpoint { last, ..Checkpoint::at(batch.cursor().clone()) };
                        let place = Move { from: stored, to: to.to_string() };
                        self.apply(mark, &batch, &place).await?;
                        stored = Some(place.to);
                        stored_at = Instant::now();
                    }
                    self.parts.report_events(events, Some(batch.cursor()));
                }
            }
            mark.keep_if_due().await?;
        }
        Ok(())
    }

    /// Applies a batch once.
    async fn apply(&mut self, mark: &mut Mark, batch: &Batch, place: &Move) -> Result<(), StopReason> {
        let stopper = self.parts.stopper.clone();
        let mut pauses = Backoff::new(PAUSE_FIRST, PAUSE_MAX, self.parts.name.as_bytes());
        let mut tries = 1;
        while let Err(cause) = mark.hold_during(self.model.apply(batch, place)).await? {
            self.failed(tries, &cause);
            let found = self.stored().await?;
            if found.as_ref() == Some(&place.to) {
                return Ok(());
            }
            if found != place.from {
                let error = Error::new(ErrorKind::Conflict, "the read model stands at another place");
                return Err(StopReason::Rival(error.with("projection", &self.parts.name)));
            }
            if self.is_last(tries) {
                return Err(StopReason::Handler { at: None, cause });
            }
            tries += 1;
            let Some(paused) = stopper.or(mark.hold_during(tokio::time::sleep(pauses.pause()))).await else {
                return Err(StopReason::Asked);
            };
            paused?;
            mark.keep().await?;
        }
        Ok(())
    }

    /// Where the read model stands, as it says and as it reads, or where it is to begin. Checked before anything is built
    /// upon it.
    async fn checkpoint(&mut self) -> Result<(Option<String>, Checkpoint), StopReason> {
        let stored = self.stored().await?;
        let checkpoint = match &stored {
            Some(text) => read(text)?,
            None => self.parts.beginning().await?,
        };
        self.parts.check_history(&checkpoint).await?;
        Ok((stored, checkpoint))
    }

    /// Asks the read model for its place until it answers.
    async fn stored(&mut self) -> Result<Option<String>, StopReason> {
        let stopper = self.parts.stopper.clone();
        let mut pauses = Backoff::new(PAUSE_FIRST, PAUSE_MAX, self.parts.name.as_bytes());
        let mut tries = 1;
        loop {
            match stopper.or(self.model.checkpoint()).await {
                None => return Err(StopReason::Asked),
                Some(Ok(place)) => return Ok(place),
                Some(Err(cause)) if self.is_last(tries) => return Err(StopReason::Handler { at: None, cause }),
                Some(Err(cause)) => self.failed(tries, &cause),
            }
            tries += 1;
            if stopper.or(tokio::time::sleep(pauses.pause())).await.is_none() {
                return Err(StopReason::Asked);
            }
        }
    }

    fn failed(&self, tries: u32, cause: &BoxError) {
        self.parts.count_failure();
        tracing::warn!(projection = self.parts.name, tries, %cause, "a read model has failed");
    }

    fn is_last(&self, tries: u32) -> bool {
        match self.parts.on_error {
            OnError::StopAfter(tries_max) => tries >= tries_max,
            OnError::Retry | OnError::ParkAfter(_) => false,
        }
    }
}

/// The next delivery; none when it was stopped. One read is waited for however often the mark is touched meanwhile.
async fn next(parts: &Parts, mark: &mut Mark, subscription: &mut Subscription) -> Result<Option<Delivery>, StopReason> {
    let mut next = pin!(subscription.next());
    loop {
        tokio::select! {
            biased;
            () = parts.stopper.stopped() => return Ok(None),
            () = tokio::time::sleep_until(mark.due_at()) => mark.keep_if_due().await?,
            delivery = &mut next => return delivery.map_err(StopReason::Store),
        }
    }
}

fn read(place: &str) -> Result<Checkpoint, StopReason> {
    place.parse().map_err(StopReason::Store)
}
