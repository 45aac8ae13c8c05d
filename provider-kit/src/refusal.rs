//! Refusals that every provider gives in the same words.

use evstore_api::{CommitId, Deadline, Error, ErrorKind, Result, Revision, StreamId};

/// The operation is not promised; `capability` names the field of `Capabilities` that says so, and `value` what it says.
#[must_use]
pub fn unsupported(operation: &'static str, capability: &'static str, value: impl std::fmt::Debug) -> Error {
    Error::new(ErrorKind::Unsupported, "the store does not promise this operation")
        .with("operation", operation)
        .with("capability", capability)
        .with("value", format!("{value:?}").to_lowercase())
}

/// The event was released to an archive, and the store is read without it.
#[must_use]
pub fn archived(stream: &StreamId, revision: Revision) -> Error {
    Error::new(
        ErrorKind::Schema,
        "the event is in an archive; read the stream through the tiered store that has this one in front",
    )
    .with("stream", stream)
    .with("revision", revision)
}

/// The handle was closed.
#[must_use]
pub fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the store was closed")
}

/// Refuses a request whose deadline has passed.
///
/// # Errors
/// `DeadlineExceeded`; nothing was written.
pub fn check_deadline(deadline: Deadline) -> Result<()> {
    if deadline.has_passed() {
        return Err(Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before anything was sent"));
    }
    Ok(())
}

/// The id stands in the stream for other content.
#[must_use]
pub fn id_reused(commit: CommitId) -> Error {
    Error::new(ErrorKind::IdReused, "the commit id was used in this stream for other content").of_commit(commit)
}

/// The same refusal once more, for each of several calls that wait for one answer; its cause goes along as text.
#[must_use]
pub fn again(error: &Error) -> Error {
    let copied = Error::new(error.kind(), error.message());
    let copied = error.context().iter().fold(copied, |copied, (name, value)| copied.with(name, value));
    let copied = match std::error::Error::source(error) {
        Some(cause) => copied.caused_by(cause.to_string()),
        None => copied,
    };
    let copied = match error.head() {
        Some(head) => copied.at_head(head.clone()),
        None => copied,
    };
    match error.moved_to() {
        Some(store) => copied.to_store(store.clone()),
        None => copied,
    }
}
