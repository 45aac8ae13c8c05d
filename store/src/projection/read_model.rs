//! Runs a projection exactly once: the read model keeps its place in the transaction that changes it.

use super::runner::{PAUSE_FIRST, PAUSE_MAX};
use super::{BoxError, OnError, Parts, Phase, Rivals, StopReason};
use crate::api::{Cursor, Error, ErrorKind, Result};
use crate::backoff::Backoff;
use crate::subscription::{Batch, Delivery};
use std::future::Future;
use tokio::time::Instant;

/// A read model that stores its place together with itself.
///
/// ```
/// use evstore::{Batch, BoxError, ReadModel, api::Cursor};
/// use std::collections::HashMap;
///
/// /// Stands for a table of counts and a table with one cursor, in one database.
/// #[derive(Clone, Default)]
/// struct Tables {
///     counts: HashMap<String, u64>,
///     cursor: Option<Cursor>,
/// }
///
/// struct Counts(Tables);
///
/// impl ReadModel for Counts {
///     async fn checkpoint(&mut self) -> Result<Option<Cursor>, BoxError> {
///         Ok(self.0.cursor.clone())
///     }
///
///     async fn apply(&mut self, batch: &Batch, cursor: &Cursor) -> Result<(), BoxError> {
///         let mut transaction = self.0.clone();
///         // Where two processes can run this, the place is compared before it is set, so that one of them fails:
///         // UPDATE place SET cursor = $cursor WHERE cursor IS NOT DISTINCT FROM $after
///         if transaction.cursor.as_ref() != batch.after() {
///             return Err("another process is feeding this read model".into());
///         }
///         for event in batch.events() {
///             *transaction.counts.entry(event.event.event_type.to_string()).or_default() += 1;
///         }
///         transaction.cursor = Some(cursor.clone());
///         self.0 = transaction; // COMMIT
///         Ok(())
///     }
/// }
/// ```
pub trait ReadModel: Send + 'static {
    /// The place that was stored last; none before the first.
    ///
    /// # Errors
    /// Anything; it is asked again.
    fn checkpoint(&mut self) -> impl Future<Output = Result<Option<Cursor>, BoxError>> + Send;

    /// Applies the events of a batch and stores the cursor, both in one transaction.
    ///
    /// # Behavior
    /// After an error the place is asked for: if it is the batch's, the transaction was made although its answer was lost,
    /// and it is not applied again. A batch without events only moves the cursor.
    ///
    /// # Errors
    /// Anything; nothing of the batch may be stored then, or all of it.
    fn apply(&mut self, batch: &Batch, cursor: &Cursor) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// Runs until it is stopped or fails for good.
pub(super) async fn run(parts: Parts, model: impl ReadModel) -> StopReason {
    let mut feeding = Feeding { model, parts: parts.clone() };
    loop {
        match (feeding.run().await, parts.rivals) {
            (Ok(()), _) => return StopReason::Asked,
            // The read model's own transaction decides who feeds it; this one waits and asks how far it came.
            (Err(StopReason::Rival(_)), Rivals::StandBy(wait)) => {
                parts.report(|status| status.phase = Phase::StandingBy);
                if parts.stopper.or(tokio::time::sleep(wait)).await.is_none() {
                    return StopReason::Asked;
                }
            }
            (Err(reason), _) => return reason,
        }
    }
}

struct Feeding<M> {
    parts: Parts,
    model: M,
}

impl<M: ReadModel> Feeding<M> {
    async fn run(&mut self) -> Result<(), StopReason> {
        let Some(mut stored) = self.checkpoint().await? else { return Ok(()) };
        self.parts.report(|status| {
            status.phase = Phase::CatchingUp;
            status.cursor = stored.clone();
        });
        let mut subscription = self.parts.subscribe(stored.clone()).await.map_err(StopReason::Store)?;
        let mut stored_at = Instant::now();
        loop {
            let Some(delivery) = self.parts.stopper.or(subscription.next()).await else { return Ok(()) };
            match delivery.map_err(StopReason::Store)? {
                None => return Ok(()),
                Some(Delivery::CaughtUp) => self.parts.report(|status| status.phase = Phase::Live),
                Some(Delivery::FellBehind) => self.parts.report(|status| status.phase = Phase::CatchingUp),
                Some(Delivery::Batch(mut batch)) => {
                    // A cursor alone is not worth a transaction each time that others append.
                    if batch.events().next().is_some() || stored_at.elapsed() >= self.parts.keep.every {
                        // Batches that were not applied lie between: this one begins where the read model stands.
                        batch.after = stored.take();
                        if !self.apply(&batch).await? {
                            return Ok(());
                        }
                        stored = Some(batch.cursor().clone());
                        stored_at = Instant::now();
                    }
                    self.parts.report(|status| {
                        status.cursor = Some(batch.cursor().clone());
                        status.events += batch.events().count() as u64;
                    });
                }
            }
        }
    }

    /// Applies a batch once. False when it was stopped before it could.
    async fn apply(&mut self, batch: &Batch) -> Result<bool, StopReason> {
        let mut pauses = Backoff::new(PAUSE_FIRST, PAUSE_MAX, self.parts.name.as_bytes());
        let mut tries = 1;
        while let Err(cause) = self.model.apply(batch, batch.cursor()).await {
            tracing::warn!(projection = self.parts.name, tries, %cause, "a read model has failed");
            let Some(found) = self.checkpoint().await? else { return Ok(false) };
            if found.as_ref() == Some(batch.cursor()) {
                return Ok(true);
            }
            if found.as_ref() != batch.after() {
                let error = Error::new(ErrorKind::Conflict, "the read model stands at another place");
                return Err(StopReason::Rival(error.with("projection", &self.parts.name)));
            }
            if self.is_last(tries) {
                return Err(StopReason::Handler { at: None, cause });
            }
            tries += 1;
            if self.parts.stopper.or(tokio::time::sleep(pauses.pause())).await.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Asks the read model for its place; none when it was stopped before it answered.
    async fn checkpoint(&mut self) -> Result<Option<Option<Cursor>>, StopReason> {
        let mut pauses = Backoff::new(PAUSE_FIRST, PAUSE_MAX, self.parts.name.as_bytes());
        let mut tries = 1;
        loop {
            match self.model.checkpoint().await {
                Ok(cursor) => return Ok(Some(cursor)),
                Err(cause) if self.is_last(tries) => return Err(StopReason::Handler { at: None, cause }),
                Err(cause) => tracing::warn!(projection = self.parts.name, tries, %cause, "a read model has failed"),
            }
            tries += 1;
            if self.parts.stopper.or(tokio::time::sleep(pauses.pause())).await.is_none() {
                return Ok(None);
            }
        }
    }

    fn is_last(&self, tries: u32) -> bool {
        match self.parts.on_error {
            OnError::StopAfter(tries_max) => tries >= tries_max,
            OnError::Retry | OnError::ParkAfter(_) => false,
        }
    }
}
