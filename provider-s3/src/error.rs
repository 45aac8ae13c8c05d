//! What is wrong with the objects of a store. What the service's failures mean is told by `evstore_aws::s3::error`.

use evstore_api::{Error, ErrorKind};
pub use evstore_aws::s3::error::{Purpose, failed, late, refusal, unanswered};

/// An object of the store is not there, though it was written.
pub fn missing(object: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "an object of the store is missing").with("object", object)
}

/// Bytes of an object are not what was written.
pub fn damaged(object: &str, cause: Error) -> Error {
    // What a newer release wrote is not damaged.
    let kind = if cause.kind() == ErrorKind::Schema { ErrorKind::Schema } else { ErrorKind::Corrupt };
    Error::new(kind, "an object of the store can't be understood").with("object", object).caused_by(cause)
}
