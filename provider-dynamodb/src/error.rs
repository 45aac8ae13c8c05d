//! What the service's and the connection's failures mean to a caller: the only place that knows them.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use evstore_api::{Error, ErrorKind};
use evstore_aws::failure;
pub use evstore_aws::failure::{Purpose, late, unanswered};
use std::error::Error as StdError;

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
            // Too many messages of a queue are with those who received them.
            | "OverLimit"
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
    failure::failed(error, purpose, |refusal, status| refused(refusal, status, purpose))
}

fn refused(error: &dyn ProvideErrorMetadata, status: u16, purpose: Purpose) -> Error {
    let code = error.code().unwrap_or("none").to_owned();
    let refused = |kind, message| Error::new(kind, message).with("code", &code);
    let said = error.message().unwrap_or_default();
    match code.as_str() {
        _ if is_throttling(&code) => throttled(&code),
        _ if is_contention(&code) => refused(ErrorKind::Throttled, "others write the same items just now"),
        "AccessDenied"
        | "AccessDeniedException"
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
        "QueueNameExists" | "QueueAlreadyExists" => {
            refused(ErrorKind::Schema, "there is a queue of that name which is another one")
        }
        "QueueDeletedRecently" | "AWS.SimpleQueueService.QueueDeletedRecently" => {
            refused(ErrorKind::Unavailable, "a queue of that name was removed less than a minute ago")
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
