//! Repeats what failed for the moment, by the error's advice: the same request with the same commit id, never a new one.

use super::layered::Layer;
use super::measure;
use super::request::{Effect, Request};
use super::settings::LayerSettings;
use crate::backoff::Backoff;
use evstore_api::{Advice, Deadline, Error, ErrorKind, EventStore, Result, StoreName};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The layer.
pub struct Retry {
    store: StoreName,
    retries_max: u64,
    pause_min: Duration,
    pause_max: Duration,
    /// Where pauses get their spread from: drawn when the store is opened, then counted.
    seed: AtomicU64,
}

impl Retry {
    pub fn new(store: &StoreName, settings: &LayerSettings) -> Self {
        Self {
            store: store.clone(),
            retries_max: settings.retries_max,
            pause_min: settings.retry_pause_min.min(settings.retry_pause_max),
            pause_max: settings.retry_pause_max,
            seed: AtomicU64::new(RandomState::new().hash_one(store)),
        }
    }

    fn backoff(&self) -> Backoff {
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        Backoff::new(self.pause_min, self.pause_max, &seed.to_le_bytes())
    }
}

impl Layer for Retry {
    const NAME: &'static str = "retry";

    async fn call<R: Request>(&self, store: &dyn EventStore, request: R) -> Result<R::Answer> {
        let mut tries = Tries { backoff: self.backoff(), retries_left: self.retries_max, made: 0, unanswered: false };
        loop {
            let error = match request.clone().send(store).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match tries.next(R::EFFECT, request.deadline(), &error) {
                Some(pause) => {
                    tracing::debug!(operation = R::OPERATION, kind = error.kind().name(), ?pause, "repeating");
                    measure::count_retry(&self.store, R::OPERATION, error.kind());
                    tokio::time::sleep(pause).await;
                    // A sleep may last longer than it was asked to. What is known is then still the last answer.
                    if request.deadline().has_passed() {
                        return Err(tries.verdict(&request, error));
                    }
                }
                None => return Err(tries.verdict(&request, error)),
            }
        }
    }
}

/// The tries of one call.
struct Tries {
    backoff: Backoff,
    retries_left: u64,
    made: u64,
    /// Whether a try that may have written got no answer.
    unanswered: bool,
}

impl Tries {
    /// How long to wait before the next try, none where there is no next one.
    fn next(&mut self, effect: Effect, deadline: Deadline, error: &Error) -> Option<Duration> {
        self.made += 1;
        self.unanswered |= error.kind() == ErrorKind::Indeterminate;
        let repeats = match error.advice() {
            Advice::RetryLater => true,
            Advice::RepeatSameCommit => effect != Effect::WriteOnce,
            Advice::MendRequest
            | Advice::DecideAgain
            | Advice::Accept
            | Advice::Follow
            | Advice::AllowMoreTime
            | Advice::AskOperator
            | Advice::MendSetup
            | Advice::Reopen => false,
        };
        if !repeats {
            return None;
        }
        // A fence opens when a move is done or given up, and that is no failure of the store: only the time bounds it.
        if error.kind() != ErrorKind::Fenced {
            self.retries_left = self.retries_left.checked_sub(1)?;
        }
        let pause = self.backoff.pause().max(error.pause().unwrap_or_default());
        (pause < deadline.remaining()).then_some(pause)
    }

    /// What the caller is told: what is known of all tries, not of the last alone.
    fn verdict<R: Request>(&self, request: &R, last: Error) -> Error {
        let error = if self.unanswered && last.kind() != ErrorKind::Indeterminate && !request.is_settled_by(&last) {
            Error::new(ErrorKind::Indeterminate, "an earlier try may have been written, and no later one could tell")
                .caused_by(last)
        } else {
            last
        };
        let error = if self.made > 1 { error.with("tries", self.made) } else { error };
        match (error.commit(), request.commit()) {
            (None, Some(commit)) => error.of_commit(commit),
            (Some(_), _) | (None, None) => error,
        }
    }
}
