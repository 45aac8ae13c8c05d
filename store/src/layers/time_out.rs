//! Gives each try its time, and says what is known of a try that got no answer.

use super::layered::Layer;
use super::request::{Effect, Request};
use super::settings::LayerSettings;
use evstore_api::{Deadline, Error, ErrorKind, EventStore, Result};
use std::time::Duration;

/// How long after a deadline the provider may still answer. It knows more: an append that was not yet sent is not written.
const GRACE: Duration = Duration::from_millis(100);

/// The layer.
pub struct TimeOut {
    append_timeout: Duration,
    read_timeout: Duration,
}

impl TimeOut {
    pub fn new(settings: &LayerSettings) -> Self {
        Self { append_timeout: settings.append_timeout, read_timeout: settings.read_timeout }
    }

    /// The end of a try that begins now, and when no answer to it is waited for any more.
    fn ends(&self, effect: Effect, deadline: Deadline) -> (Deadline, Deadline) {
        let timeout = match effect {
            Effect::Read => self.read_timeout,
            Effect::Write | Effect::WriteOnce => self.append_timeout,
            Effect::Wait => return (deadline, Deadline::within(deadline.remaining() + self.read_timeout)),
        };
        let end = deadline.min(Deadline::within(timeout));
        (end, Deadline(end.0 + GRACE))
    }
}

impl Layer for TimeOut {
    const NAME: &'static str = "time_out";

    async fn call<R: Request>(&self, store: &dyn EventStore, request: R) -> Result<R::Answer> {
        let (deadline, commit) = (request.deadline(), request.commit());
        if deadline.has_passed() && R::EFFECT != Effect::Wait {
            let error = Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before anything was sent");
            return Err(commit.into_iter().fold(error, Error::of_commit));
        }
        let (end, patience) = self.ends(R::EFFECT, deadline);
        let is_cut = end < deadline;
        match tokio::time::timeout_at(patience.0.into(), request.with_deadline(end).send(store)).await {
            // The try's time was up, not the caller's: there may be another.
            Ok(Err(error)) if is_cut && error.kind() == ErrorKind::DeadlineExceeded => {
                Err(Error::new(ErrorKind::Unavailable, "the time of one try passed before anything was sent")
                    .caused_by(error))
            }
            Ok(answer) => answer,
            Err(_) => R::late().ok_or_else(|| {
                let error = unanswered(R::EFFECT, is_cut).with("operation", R::OPERATION);
                commit.into_iter().fold(error, Error::of_commit)
            }),
        }
    }
}

fn unanswered(effect: Effect, is_cut: bool) -> Error {
    match (effect, is_cut) {
        (Effect::Write | Effect::WriteOnce, _) => {
            Error::new(ErrorKind::Indeterminate, "no answer came in time; it may have been written")
        }
        (Effect::Read | Effect::Wait, true) => {
            Error::new(ErrorKind::Unavailable, "no answer came within the time of one try")
        }
        (Effect::Read | Effect::Wait, false) => {
            Error::new(ErrorKind::DeadlineExceeded, "no answer came before the deadline")
        }
    }
}
