//! What the failures of S3 and of the connection to it mean to a caller: the only place that knows them.

use crate::failure;
pub use crate::failure::{Purpose, late, unanswered};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use evstore_api::{Error, ErrorKind};
use std::error::Error as StdError;

/// The code of a refusal and its status, where the service gave them.
#[must_use]
pub fn refusal<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<(&str, u16)> {
    match error {
        SdkError::ServiceError(refused) => {
            Some((refused.err().code().unwrap_or("none"), refused.raw().status().as_u16()))
        }
        _ => None,
    }
}

/// A failure of a call that has no answer of its own for the caller.
#[must_use]
pub fn failed<E>(error: &SdkError<E, HttpResponse>, purpose: Purpose) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    failure::failed(error, purpose, |refused, status| refused_as(refused, status, purpose))
}

fn refused_as(error: &dyn ProvideErrorMetadata, status: u16, purpose: Purpose) -> Error {
    let code = error.code().unwrap_or("none").to_owned();
    let refused = |kind, message| Error::new(kind, message).with("code", &code);
    let said = error.message().unwrap_or_default();
    match code.as_str() {
        "SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequests" => {
            refused(ErrorKind::Throttled, "the service asks for a slower pace")
        }
        "AccessDenied"
        | "AllAccessDisabled"
        | "AccountProblem"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "RequestTimeTooSkewed" => {
            refused(ErrorKind::Denied, "the service does not allow this with these credentials").caused_by(said)
        }
        "NoSuchBucket" => refused(ErrorKind::Schema, "the bucket is not there; apply the schema, or set auto_create"),
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            refused(ErrorKind::Invalid, "the bucket is in another region than the one given").caused_by(said)
        }
        "InvalidObjectState" => refused(
            ErrorKind::Unavailable,
            "an object is in a storage class from which it has to be restored before it can be read",
        ),
        "EntityTooLarge" => refused(ErrorKind::TooLarge, "an object is larger than the service takes"),
        _ if status >= 500 && purpose == Purpose::Write => unanswered().with("code", &code),
        _ if status >= 500 => refused(ErrorKind::Unavailable, "the service failed").caused_by(said),
        _ => refused(ErrorKind::Unavailable, "the service refused the request").caused_by(said),
    }
}
