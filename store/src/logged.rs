//! How errors are logged: never with the key of a stream, which may be a person's, and never with a payload.

use crate::api::{Error, StreamId};
use std::fmt;

/// An error without its cause, whose text is the engine's, and without the facts that name a stream.
pub(crate) struct Logged<'a>(pub &'a Error);

/// Facts that have the key of a stream in them.
const NAMING: [&str; 3] = ["stream", "key", "given"];

impl fmt::Display for Logged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind().name(), self.0.message())?;
        for (name, value) in self.0.context().iter().filter(|(name, _)| !NAMING.contains(name)) {
            write!(f, ", {name}: {value}")?;
        }
        Ok(())
    }
}

/// What stands before the key of a stream's name; none where the name is a key by itself.
pub(crate) fn category(stream: &StreamId) -> Option<&str> {
    stream.name.as_str().split_once('-').map(|(category, _)| category)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ErrorKind;

    #[test]
    fn an_error_is_logged_without_keys_and_without_its_cause() {
        let error = Error::new(ErrorKind::Conflict, "the aggregate is at another revision")
            .with("stream", "person-ada")
            .with("actual", 3)
            .caused_by("duplicate key (person-ada)");
        assert_eq!(Logged(&error).to_string(), "conflict: the aggregate is at another revision, actual: 3");
    }
}
