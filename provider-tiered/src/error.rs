//! What is wrong with an archive, in words that name the object.

use evstore_api::{Error, ErrorKind};

/// An object of the archive is not there, though the catalog has it.
pub fn missing(object: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "an object of the archive is missing").with("object", object)
}

/// Bytes of an object are not what was written.
pub fn damaged(object: &str, message: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, "an object of the archive is damaged").with("object", object).with("why", message)
}

/// A newer release wrote it.
pub fn newer(object: &str) -> Error {
    Error::new(ErrorKind::Schema, "an object of the archive is of a format that this release does not know")
        .with("object", object)
}

/// An error of a request for an object, with the object's name.
pub fn of(object: &str, error: Error) -> Error {
    if error.context().iter().any(|(name, _)| *name == "object") { error } else { error.with("object", object) }
}
