//! Snapshots of aggregates: when to take one, how its state becomes bytes, and when one is not to be trusted.

use crate::aggregate::Aggregate;
use crate::api::{ContentType, Error, ErrorKind, Head, Result, Revision, Snapshot};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cmp::Ordering;
use std::fmt;

/// When a repository takes a snapshot: after an append, of the state that the append made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotPolicy {
    /// Never. Snapshots that are there are still used.
    Never,
    /// Once this many events have been appended since the last one.
    EveryEvents(u64),
    /// Once the commits since the last one have more bytes than a snapshot would have, so that a snapshot at most doubles
    /// what a stream takes and a load reads at most about twice the state.
    WhenOutweighed,
}

/// What has been appended since the last snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    pub events: u64,
    /// Data and metadata of those events.
    pub bytes: u64,
    /// Bytes of the snapshot before the tail; none where there is none.
    pub snapshot_bytes: Option<u64>,
}

impl SnapshotPolicy {
    /// The encoded state, if it is to be kept now.
    pub(crate) fn due(self, tail: Tail, encode: impl FnOnce() -> Result<Bytes>) -> Result<Option<Bytes>> {
        match self {
            Self::Never => Ok(None),
            Self::EveryEvents(events) if tail.events < events => Ok(None),
            Self::EveryEvents(_) => encode().map(Some),
            // The last one's size stands in for the next one's, so that the state is not encoded after every append.
            Self::WhenOutweighed if tail.snapshot_bytes.is_some_and(|bytes| tail.bytes <= bytes) => Ok(None),
            Self::WhenOutweighed => encode().map(|state| (tail.bytes > state.len() as u64).then_some(state)),
        }
    }
}

/// Why a snapshot was passed over and the whole stream replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotRefused {
    /// Its state has an older schema number.
    OlderSchema,
    /// Its state has a newer schema number: a newer release works on the same streams, and its snapshots are left to it.
    NewerSchema,
    /// Its bytes fail their checksum or do not read as the state.
    Corrupt,
    /// It names a revision that the stream has not reached: the stream lost its end.
    AheadOfStream,
    /// The commit that it names is not at its place: another history, or another stream.
    Foreign,
    /// The store could not give it.
    Unreadable,
}

/// How a state becomes bytes and comes back. Only states that serde can handle have one.
pub(crate) struct StateCodec<A> {
    pub encode: fn(&A) -> Result<Bytes>,
    pub decode: fn(&Snapshot) -> Result<A, SnapshotRefused>,
}

impl<A> Clone for StateCodec<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for StateCodec<A> {}

impl<A> fmt::Debug for StateCodec<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateCodec")
    }
}

impl<A: Aggregate + Serialize + DeserializeOwned> StateCodec<A> {
    pub fn json() -> Self {
        Self { encode: encode_json, decode: decode_json }
    }
}

fn encode_json<A: Serialize>(state: &A) -> Result<Bytes> {
    let refused = |cause| Error::new(ErrorKind::Invalid, "state cannot be written as JSON").caused_by(cause);
    serde_json::to_vec(state).map(Bytes::from).map_err(refused)
}

fn decode_json<A: Aggregate + DeserializeOwned>(snapshot: &Snapshot) -> Result<A, SnapshotRefused> {
    match snapshot.schema.cmp(&A::SNAPSHOT_SCHEMA) {
        Ordering::Less => return Err(SnapshotRefused::OlderSchema),
        Ordering::Greater => return Err(SnapshotRefused::NewerSchema),
        Ordering::Equal => {}
    }
    if snapshot.content_type.as_str() != checked_type(&snapshot.data) {
        return Err(SnapshotRefused::Corrupt);
    }
    serde_json::from_slice(&snapshot.data).map_err(|_| SnapshotRefused::Corrupt)
}

/// JSON with its checksum. Not every store has one over snapshots, and a flipped digit would still be JSON.
fn checked_type(data: &[u8]) -> String {
    format!("application/json; crc32={:08x}", crc32fast::hash(data))
}

/// The content type that goes with encoded state.
pub(crate) fn content_type(data: &[u8]) -> Result<ContentType> {
    ContentType::new(checked_type(data))
}

/// Whether a stream with this head can have such a snapshot, as far as the head tells.
pub(crate) fn check_head(snapshot: &Snapshot, head: &Head) -> Result<(), SnapshotRefused> {
    if snapshot.revision == Revision(0) || snapshot.revision > head.revision || snapshot.number > head.number {
        return Err(SnapshotRefused::AheadOfStream);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(policy: SnapshotPolicy, tail: Tail) -> bool {
        policy.due(tail, || Ok(Bytes::from_static(b"0123456789"))).unwrap().is_some()
    }

    #[test]
    fn every_events_counts_since_the_last_one() {
        let tail = |events| Tail { events, ..Tail::default() };
        assert!(!due(SnapshotPolicy::EveryEvents(3), tail(2)));
        assert!(due(SnapshotPolicy::EveryEvents(3), tail(3)));
        assert!(!due(SnapshotPolicy::Never, tail(1000)));
    }

    #[test]
    fn a_snapshot_is_due_once_it_is_outweighed() {
        let tail = |bytes, snapshot_bytes| Tail { events: 1, bytes, snapshot_bytes };
        assert!(!due(SnapshotPolicy::WhenOutweighed, tail(10, None)));
        assert!(due(SnapshotPolicy::WhenOutweighed, tail(11, None)));
        assert!(!due(SnapshotPolicy::WhenOutweighed, tail(20, Some(20))));
        assert!(due(SnapshotPolicy::WhenOutweighed, tail(21, Some(20))));
    }

    #[test]
    fn a_tail_that_does_not_outweigh_the_last_one_is_not_encoded() {
        let tail = Tail { events: 1, bytes: 20, snapshot_bytes: Some(20) };
        let encoded = SnapshotPolicy::WhenOutweighed.due(tail, || panic!("the state is not to be encoded"));
        assert_eq!(encoded.unwrap(), None);
    }
}
