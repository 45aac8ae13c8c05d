//! Requests against the declared limits, before anything is sent. What an append needs later is made on the way, once.

use evstore_api::capabilities::{Limit, Limits};
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    Append, Commit, CommitId, CommitKind, Content, ContentDigest, Deadline, Error, ErrorKind, Event, Expected,
    Extension, NewCommit, PutRecord, PutSnapshot, ReadCommits, Record, Result, Revision, Snapshot, StreamId, format,
};

/// An append that keeps every limit, ready to be decided and written.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The stream.
    pub stream: StreamId,
    /// What has to be true of it.
    pub expected: Expected,
    /// The commit's id.
    pub commit: CommitId,
    /// Its events as they are stored, ids derived.
    pub events: Vec<Event>,
    /// The same, encoded by [`format::encode_events`].
    pub encoded: Vec<u8>,
    /// Digest of the content.
    pub digest: ContentDigest,
    /// When the caller stops waiting.
    pub deadline: Deadline,
}

/// Checks an append and encodes it.
///
/// # Errors
/// `TooLarge`; `Invalid` for an event id that stands twice or a critical extension. Nothing was written.
pub fn check_append(limits: &Limits, request: Append) -> Result<Prepared> {
    let Append { stream, expected, commit, deadline } = request;
    let id = commit.id;
    let (events, encoded) = record(limits, &stream, commit).map_err(|error| error.of_commit(id))?;
    let digest = format::digest_encoded(&stream, id, &CommitKind::Events, &encoded);
    Ok(Prepared { stream, expected, commit: id, events, encoded, digest, deadline })
}

fn record(limits: &Limits, stream: &StreamId, commit: NewCommit) -> Result<(Vec<Event>, Vec<u8>)> {
    check_name(limits, stream)?;
    let id = commit.id;
    let events = commit.recorded()?;
    for event in &events {
        check_extensions(&event.extensions, ErrorKind::Invalid)?;
    }
    check_events(limits, &events)?;
    let encoded = format::encode_events(id, &events);
    keep(limits.commit_bytes, encoded.len() as u64, "commit_bytes")?;
    Ok((events, encoded))
}

/// Checks the content of a commit that is to be copied, without looking at a store, and encodes its events.
///
/// # Errors
/// `Invalid` when its parts do not agree, `Schema` for a critical extension, `TooLarge`, `Corrupt` when its content is not
/// what its digest says. Nothing was written.
pub fn check_copy(limits: &Limits, commit: &Commit) -> Result<Vec<u8>> {
    let verdict = check_frame(commit).and_then(|()| check_content(limits, commit));
    verdict.map_err(|error| error.with("stream", &commit.stream).with("number", commit.number).of_commit(commit.id))
}

fn check_frame(commit: &Commit) -> Result<()> {
    let refused = |message| Err(Error::new(ErrorKind::Invalid, message));
    if commit.number.0 == 0 || commit.first_revision.0 == 0 || commit.first_position.is_some_and(|first| first.0 == 0) {
        return refused("revisions, commit numbers and positions count from 1");
    }
    if commit.kind.is_marker() != (commit.count == 0) {
        return refused("a commit has events and a marker has none");
    }
    let last = |first: u64, more: u64| first.checked_add(more).is_some_and(|last| last <= NUMBER_MAX);
    let first_position = commit.first_position.map_or(1, |first| first.0);
    if !last(commit.first_revision.0, u64::from(commit.count))
        || !last(commit.number.0, 0)
        || !last(first_position, commit.positions())
    {
        return refused("revisions, commit numbers and positions stay below 2^53");
    }
    let whole = match commit.content {
        Content::Kept => commit.is_whole(),
        Content::Stripped => commit.events.is_empty(),
    };
    if !whole || commit.events.iter().zip(0..).any(|(event, ordinal)| event.ordinal != ordinal) {
        return refused("a commit is copied whole or stripped");
    }
    Ok(())
}

fn check_content(limits: &Limits, commit: &Commit) -> Result<Vec<u8>> {
    check_name(limits, &commit.stream)?;
    check_extensions(&commit.extensions, ErrorKind::Schema)?;
    for event in &commit.events {
        check_extensions(&event.extensions, ErrorKind::Schema)?;
    }
    check_events(limits, &commit.events)?;
    let encoded = format::encode_events(commit.id, &commit.events);
    keep(limits.commit_bytes, encoded.len() as u64, "commit_bytes")?;
    let digest = format::digest_encoded(&commit.stream, commit.id, &commit.kind, &encoded);
    // Nothing is left of a stripped commit that its digest could be compared with; a marker has nothing to strip.
    let verified = commit.content == Content::Kept || commit.kind.is_marker();
    if verified && digest != commit.digest {
        return Err(Error::new(ErrorKind::Corrupt, "a commit's content is not what its digest says"));
    }
    Ok(encoded)
}

/// Checks a snapshot.
///
/// # Errors
/// `Invalid` for revision 0, `TooLarge`; nothing was written.
pub fn check_snapshot(limits: &Limits, snapshot: &Snapshot) -> Result<()> {
    if snapshot.revision == Revision(0) {
        return Err(Error::new(ErrorKind::Invalid, "a snapshot is of revision 1 or later"));
    }
    keep(limits.snapshot_bytes, snapshot.data.len() as u64, "snapshot_bytes")
}

/// Checks a request to keep a snapshot.
///
/// # Errors
/// As [`check_snapshot`].
pub fn check_put_snapshot(limits: &Limits, request: &PutSnapshot) -> Result<()> {
    check_snapshot(limits, &request.snapshot).map_err(|error| error.with("stream", &request.snapshot.stream))
}

/// Checks a change of a small record.
///
/// # Errors
/// `TooLarge`; nothing was written.
pub fn check_put_record(limits: &Limits, request: &PutRecord) -> Result<()> {
    let bytes = request.value.as_ref().map_or(0, |value| value.len());
    keep(limits.record_bytes, bytes as u64, "record_bytes").map_err(|error| error.with("record", &request.key.name))
}

/// Checks a small record that is to be copied.
///
/// # Errors
/// `TooLarge`; nothing was written.
pub fn check_record(limits: &Limits, record: &Record) -> Result<()> {
    let bytes = record.value.as_ref().map_or(0, |value| value.len());
    keep(limits.record_bytes, bytes as u64, "record_bytes").map_err(|error| error.with("record", &record.key.name))
}

/// Checks the limit of a page, from 1 to what the store declares.
///
/// # Errors
/// `Invalid`.
pub fn check_page(limits: &Limits, limit: u32) -> Result<()> {
    if limit == 0 {
        return Err(Error::new(ErrorKind::Invalid, "the limit of a page is at least 1"));
    }
    check_page_max(limits, limit)
}

/// Checks the limit of a page that may be empty on purpose.
///
/// # Errors
/// `Invalid`.
pub fn check_page_max(limits: &Limits, limit: u32) -> Result<()> {
    if limit > limits.page_items {
        return Err(Error::new(ErrorKind::Invalid, "the limit of a page is higher than the store takes")
            .with("limit", limit)
            .with("max", limits.page_items));
    }
    Ok(())
}

/// Checks a read of slots.
///
/// # Errors
/// `Invalid` for slot 0 or a limit out of bounds.
pub fn check_read_commits(limits: &Limits, request: &ReadCommits) -> Result<()> {
    if request.from.0 == 0 {
        return Err(Error::new(ErrorKind::Invalid, "commit numbers count from 1"));
    }
    check_page(limits, request.limit)
}

fn check_name(limits: &Limits, stream: &StreamId) -> Result<()> {
    keep(Limit::Max(limits.stream_name_bytes), stream.name.as_str().len() as u64, "stream_name_bytes")
}

/// What needs no encoding is checked before it, so that something far too large costs nothing.
fn check_events(limits: &Limits, events: &[Event]) -> Result<()> {
    keep(limits.commit_events, events.len() as u64, "commit_events")?;
    let mut bytes = 0;
    for event in events {
        keep(Limit::Max(limits.event_type_bytes), event.event_type.as_str().len() as u64, "event_type_bytes")?;
        keep(limits.event_bytes, event_bytes(event), "event_bytes")?;
        bytes += event_bytes(event);
    }
    keep(limits.commit_bytes, bytes, "commit_bytes")
}

/// Bytes of data and metadata, as limits of events and pages count them.
#[must_use]
pub fn event_bytes(event: &Event) -> u64 {
    (event.data.len() + event.metadata.len()) as u64
}

/// A critical extension that is stored makes its commit unreadable for this release, which knows no tag.
fn check_extensions(extensions: &[Extension], kind: ErrorKind) -> Result<()> {
    match extensions.iter().find(|extension| extension.critical) {
        None => Ok(()),
        Some(extension) => {
            Err(Error::new(kind, "an extension is critical and this release does not know it")
                .with("tag", extension.tag))
        }
    }
}

fn keep(limit: Limit, given: u64, name: &'static str) -> Result<()> {
    if limit.allows(given) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::TooLarge, "a limit of the store is exceeded")
        .with("limit", name)
        .with("max", limit)
        .with("given", given))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use evstore_api::{EventType, Events, NewEvent};
    use std::time::Duration;

    fn limits() -> Limits {
        Limits {
            stream_name_bytes: 512,
            event_type_bytes: 256,
            event_bytes: Limit::Max(10),
            commit_bytes: Limit::Max(60),
            commit_events: Limit::Max(2),
            snapshot_bytes: Limit::None,
            record_bytes: Limit::None,
            page_items: 5,
        }
    }

    fn append(data: &[usize]) -> Append {
        let event = |bytes: &usize| NewEvent::new(EventType::new("t").unwrap(), vec![0; *bytes]);
        Append {
            stream: StreamId::new("s-1").unwrap(),
            expected: Expected::Any,
            commit: NewCommit { id: CommitId([1; 16]), events: Events::new(data.iter().map(event).collect()).unwrap() },
            deadline: Deadline::within(Duration::from_secs(1)),
        }
    }

    fn exceeded(data: &[usize]) -> Option<String> {
        let error = check_append(&limits(), append(data)).err()?;
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert_eq!(error.commit(), Some(CommitId([1; 16])));
        Some(error.context()[0].1.clone())
    }

    #[test]
    fn every_limit_of_an_append_holds_on_both_sides() {
        assert_eq!(exceeded(&[10, 10]), None);
        assert_eq!(exceeded(&[11]).as_deref(), Some("event_bytes"));
        assert_eq!(exceeded(&[1, 1, 1]).as_deref(), Some("commit_events"));
        let encoded = check_append(&limits(), append(&[10, 10])).unwrap().encoded.len() as u64;
        for (max, fits) in [(encoded, true), (encoded - 1, false)] {
            let tight = Limits { commit_bytes: Limit::Max(max), ..limits() };
            assert_eq!(check_append(&tight, append(&[10, 10])).is_ok(), fits);
        }
    }

    #[test]
    fn what_is_prepared_agrees_with_the_format() {
        let prepared = check_append(&limits(), append(&[3, 4])).unwrap();
        let decoded = format::decode_events(prepared.commit, &Bytes::from(prepared.encoded)).unwrap();
        assert_eq!(decoded, prepared.events);
        let digest = format::digest(&prepared.stream, prepared.commit, &CommitKind::Events, &prepared.events);
        assert_eq!(prepared.digest, digest);
    }

    #[test]
    fn a_critical_extension_is_not_taken() {
        let extension = Extension { tag: 7, critical: true, value: Bytes::new() };
        let event =
            NewEvent { extensions: vec![extension], ..NewEvent::new(EventType::new("t").unwrap(), Bytes::new()) };
        let commit = NewCommit { id: CommitId([1; 16]), events: Events::new(vec![event]).unwrap() };
        let error = check_append(&limits(), Append { commit, ..append(&[1]) }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn page_limits_hold_on_both_sides() {
        let kind = |limit| check_page(&limits(), limit).map_err(|error| error.kind());
        assert_eq!(kind(0), Err(ErrorKind::Invalid));
        assert_eq!(kind(5), Ok(()));
        assert_eq!(kind(6), Err(ErrorKind::Invalid));
        assert!(check_page_max(&limits(), 0).is_ok());
    }
}
