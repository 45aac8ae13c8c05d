//! What the service's and the connection's failures mean to a caller: the only place that knows them.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use evstore_api::{Error, ErrorKind};
use evstore_aws::cause;
use std::error::Error as StdError;

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Nothing: repeating it is harmless.
    Read,
    /// It may write: without an answer nobody knows.
    Write,
}

/// The code of a refusal, where the service gave one.
pub fn code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    error.as_service_error().and_then(ProvideErrorMetadata::code)
}

/// Whether others write the same items just now: neither a conflict of the caller's nor a fault.
pub fn is_contention(code: &str) -> bool {
    matches!(
        code,
        "TransactionConflict"
            | "TransactionConflictException"
            | "TransactionInProgressException"
            | "ReplicatedWriteConflictException"
    )
}

/// Whether the service asks for a slower pace.
pub fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "ProvisionedThroughputExceeded"
            | "ProvisionedThroughputExceededException"
            | "ThrottlingError"
            | "ThrottlingException"
            | "Throttling"
            | "RequestLimitExceeded"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "LimitExceededException"
    )
}

/// The service asks for a slower pace.
pub fn throttled(code: &str) -> Error {
    Error::new(ErrorKind::Throttled, "the service asks for a slower pace").with("code", code)
}

/// A failure of a call that has no answer of its own for the caller.
pub fn failed<E>(error: &SdkError<E, HttpResponse>, purpose: Purpose) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
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
        SdkError::ServiceError(refusal) => refused(refusal.err(), refusal.raw().status().as_u16(), purpose),
        // Timeouts, broken connections and answers that are none.
        _ => match purpose {
            Purpose::Read => {
                Error::new(ErrorKind::Unavailable, "the service did not answer").caused_by(cause::chain(error))
            }
            Purpose::Write => unanswered().caused_by(cause::chain(error)),
        },
    }
}

fn refused(error: &dyn ProvideErrorMetadata, status: u16, purpose: Purpose) -> Error {
    let code = error.code().unwrap_or("none").to_owned();
    let refused = |kind, message| Error::new(kind, message).with("code", &code);
    let said = error.message().unwrap_or_default();
    match code.as_str() {
        _ if is_throttling(&code) => throttled(&code),
        _ if is_contention(&code) => refused(ErrorKind::Throttled, "others write the same items just now"),
        "AccessDeniedException"
        | "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "InvalidClientTokenId"
        | "IncompleteSignature"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "OptInRequired" => {
            refused(ErrorKind::Denied, "the service does not allow this with these credentials").caused_by(said)
        }
        "ResourceNotFoundException" => {
            refused(ErrorKind::Schema, "the store's tables are not there; apply the schema, or set auto_create")
        }
        "ResourceInUseException" => refused(ErrorKind::Unavailable, "a table is being made or changed just now"),
        "ItemCollectionSizeLimitExceededException" => {
            refused(ErrorKind::TooLarge, "the items of one key are too large together")
        }
        // The service tells this only in words.
        "ValidationException" if said.contains("size has exceeded") => {
            refused(ErrorKind::TooLarge, "an item is larger than the service takes")
        }
        "ValidationException" | "SerializationException" => {
            refused(ErrorKind::Invalid, "the service does not take the request").caused_by(said)
        }
        _ if status >= 500 && purpose == Purpose::Write => unanswered().with("code", &code),
        _ => refused(ErrorKind::Unavailable, "the service refused the request").caused_by(said),
    }
}

/// Sent, and no answer came.
pub fn unanswered() -> Error {
    Error::new(ErrorKind::Indeterminate, "the service did not confirm the write")
}

/// The deadline passed while an answer was awaited.
pub fn late(purpose: Purpose) -> Error {
    match purpose {
        Purpose::Read => Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before the service answered"),
        Purpose::Write => unanswered(),
    }
}
