//! What became of a request that was not answered as it should have been, whichever service it was for. What a service's own refusals mean
//! is told by who knows the service.

use crate::cause;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use evstore_api::{Deadline, Error, ErrorKind, Result};

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Nothing: repeating it is harmless.
    Read,
    /// It may write: without an answer nobody knows.
    Write,
}

/// A failure of a call that has no answer of its own for the caller. `refused` tells what a refusal means, from its HTTP status.
#[must_use]
pub fn failed<E>(error: &SdkError<E, HttpResponse>, purpose: Purpose, refused: impl FnOnce(&E, u16) -> Error) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    match error {
        SdkError::ConstructionFailure(_) => {
            Error::new(ErrorKind::Invalid, "the request can't be made of these settings").caused_by(cause::chain(error))
        }
        SdkError::DispatchFailure(_) if cause::is_without_credentials(error) => {
            Error::new(ErrorKind::Denied, "there are no credentials").caused_by(cause::chain(error))
        }
        SdkError::DispatchFailure(_) if cause::was_never_sent(error) => {
            Error::new(ErrorKind::Unavailable, "the service could not be reached").caused_by(cause::chain(error))
        }
        SdkError::ServiceError(refusal) => refused(refusal.err(), refusal.raw().status().as_u16()),
        // Timeouts, broken connections and answers that are none.
        _ => match purpose {
            Purpose::Read => {
                Error::new(ErrorKind::Unavailable, "the service did not answer").caused_by(cause::chain(error))
            }
            Purpose::Write => unanswered().caused_by(cause::chain(error)),
        },
    }
}

/// Sent, and no answer came.
#[must_use]
pub fn unanswered() -> Error {
    Error::new(ErrorKind::Indeterminate, "the service did not confirm the write")
}

/// The deadline passed while an answer was awaited.
#[must_use]
pub fn late(purpose: Purpose) -> Error {
    match purpose {
        Purpose::Read => Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before the service answered"),
        Purpose::Write => unanswered(),
    }
}

/// Waits for an answer until the deadline; a request that has none ends when its caller stops waiting.
///
/// # Errors
/// `DeadlineExceeded` where nothing was sent, or it was a read; else `Indeterminate`.
pub async fn bounded<T>(request: impl Future<Output = T>, deadline: Deadline, purpose: Purpose) -> Result<T> {
    // Before anything is sent it is certain that nothing was written.
    if deadline.has_passed() {
        return Err(late(Purpose::Read));
    }
    tokio::time::timeout_at(deadline.0.into(), request).await.map_err(|_| late(purpose))
}
