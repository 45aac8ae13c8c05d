//! What becomes of a write: a repeat, a refusal, or a slot. Pure: a provider calls these inside the atomic step that
//! writes, with what it read in that step, and does what the answer says.

use crate::limits::Prepared;
use crate::refusal;
use evstore_api::capabilities::Window;
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    Appended, Commit, CommitId, CommitKind, CommitNumber, ContentDigest, Delete, Error, ErrorKind, Expected, Head,
    Meta, MetaSwapped, Position, PutRecord, Record, RecordKind, RecordNumber, Result, Revision, Snapshot, StoreName,
    StoreState, StreamId, StreamState, SwapMeta, Timestamp, Truncate, Usage, format,
};

/// A commit or a marker that somebody wants written.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The stream.
    pub stream: StreamId,
    /// The id.
    pub commit: CommitId,
    /// Events or a marker.
    pub kind: CommitKind,
    /// How many events; 0 for a marker.
    pub events: u32,
    /// Digest of the content.
    pub digest: ContentDigest,
    /// What has to be true of the stream.
    pub expected: Expected,
}

impl Wanted {
    /// What an append wants.
    #[must_use]
    pub fn append(prepared: &Prepared) -> Self {
        Self {
            stream: prepared.stream.clone(),
            commit: prepared.commit,
            kind: CommitKind::Events,
            // `Events` holds no more than a u32 counts.
            events: prepared.events.len() as u32,
            digest: prepared.digest,
            expected: prepared.expected,
        }
    }

    /// What a truncation wants.
    #[must_use]
    pub fn truncation(request: &Truncate) -> Self {
        Self::marker(&request.stream, request.commit, CommitKind::Truncated { before: request.before }, Expected::Any)
    }

    /// What a deletion wants.
    #[must_use]
    pub fn deletion(request: &Delete) -> Self {
        Self::marker(&request.stream, request.commit, CommitKind::Deleted, request.expected)
    }

    fn marker(stream: &StreamId, commit: CommitId, kind: CommitKind, expected: Expected) -> Self {
        let digest = format::digest(stream, commit, &kind, &[]);
        Self { stream: stream.clone(), commit, kind, events: 0, digest, expected }
    }
}

/// What a provider read in the step that decides.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The store's record.
    pub meta: &'a Meta,
    /// The store's own name.
    pub own: &'a StoreName,
    /// The head of the stream.
    pub head: &'a Head,
    /// The last position that was given, where the append gives them.
    pub last_position: Option<Position>,
    /// The present moment.
    pub now: Timestamp,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Nothing: it is there already.
    Repeated(Appended),
    /// Write it into this slot.
    Write(Slot),
}

/// The numbers and the time of a commit that is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its commit number.
    pub number: CommitNumber,
    /// Revision of its first event; for a marker the one that the next event would take.
    pub first: Revision,
    /// Position of its first event, where the append gives them.
    pub position: Option<Position>,
    /// When the store took it.
    pub recorded_at: Timestamp,
}

impl Slot {
    /// The receipt of what was written into it.
    #[must_use]
    pub fn receipt(&self, wanted: &Wanted, usage: Usage) -> Appended {
        Appended {
            commit: wanted.commit,
            number: self.number,
            first: self.first,
            last: Revision(self.first.0 + u64::from(wanted.events) - 1),
            position: self.position,
            recorded_at: self.recorded_at,
            digest: wanted.digest,
            repeated: false,
            usage,
        }
    }
}

/// The receipt of a commit that was found again.
#[must_use]
pub fn repeated(commit: &Commit, usage: Usage) -> Appended {
    Appended {
        commit: commit.id,
        number: commit.number,
        first: commit.first_revision,
        last: commit.last_revision(),
        position: commit.first_position,
        recorded_at: commit.recorded_at,
        digest: commit.digest,
        repeated: true,
        usage,
    }
}

/// Whether the commit in this slot is still recognised by its id.
#[must_use]
pub fn in_window(window: Window, head: CommitNumber, number: CommitNumber) -> bool {
    match window {
        Window::Forever => true,
        Window::Commits(commits) => head.0.saturating_sub(number.0) < commits,
    }
}

/// Decides an append. `found` is the commit of the same id inside the window.
///
/// # Errors
/// `IdReused`, then the states of store and stream, then `Conflict`, then `TooLarge` past the last number. Nothing may be
/// written.
pub fn append(situation: &Situation<'_>, wanted: &Wanted, found: Option<Appended>) -> Result<Decision> {
    let decided = match repeat(wanted, found)? {
        Some(receipt) => return Ok(Decision::Repeated(receipt)),
        None => check_states(situation).and_then(|()| check_expected(situation.head, wanted.expected)),
    };
    decided.and_then(|()| slot(situation, wanted)).map(Decision::Write).map_err(|error| of(error, wanted))
}

/// Decides a deletion, by the rules of an append.
///
/// # Errors
/// As [`append`].
pub fn delete(situation: &Situation<'_>, wanted: &Wanted, found: Option<Appended>) -> Result<Decision> {
    append(situation, wanted, found)
}

/// Decides a truncation before a revision.
///
/// # Errors
/// `IdReused`, the states of store and stream, `NotFound` for a missing stream, `Invalid` for a revision out of bounds.
/// Nothing may be written.
pub fn truncate(
    situation: &Situation<'_>,
    wanted: &Wanted,
    before: Revision,
    found: Option<Appended>,
) -> Result<Decision> {
    let decided = match repeat(wanted, found)? {
        Some(receipt) => return Ok(Decision::Repeated(receipt)),
        None => check_states(situation).and_then(|()| check_before(situation.head, before)),
    };
    decided.and_then(|()| slot(situation, wanted)).map(Decision::Write).map_err(|error| of(error, wanted))
}

fn of(error: Error, wanted: &Wanted) -> Error {
    error.with("stream", &wanted.stream).of_commit(wanted.commit)
}

fn repeat(wanted: &Wanted, found: Option<Appended>) -> Result<Option<Appended>> {
    match found {
        None => Ok(None),
        Some(found) if found.digest == wanted.digest => Ok(Some(Appended { repeated: true, ..found })),
        Some(_) => Err(refusal::id_reused(wanted.commit).with("stream", &wanted.stream)),
    }
}

/// Refuses a write to a stream that the store or the stream is closed for.
///
/// # Errors
/// `Moved`, `Fenced`, `Gone`.
fn check_states(situation: &Situation<'_>) -> Result<()> {
    check_writable(situation.meta)?;
    match (&situation.head.state, &situation.meta.state) {
        (StreamState::Missing | StreamState::Open, _) => Ok(()),
        (StreamState::Sealed { to, .. }, StoreState::Leaving { .. }) => {
            Err(Error::new(ErrorKind::Fenced, "the stream is sealed, and the rest of its store is about to be")
                .with("to", to))
        }
        (StreamState::Sealed { to, .. }, _) if to == situation.own => {
            Err(Error::new(ErrorKind::Fenced, "the stream is still being copied into this store"))
        }
        (StreamState::Sealed { to, .. }, _) => {
            Err(Error::new(ErrorKind::Moved, "the stream lives in another store").with("to", to).to_store(to.clone()))
        }
        (StreamState::Deleted, _) => Err(Error::new(ErrorKind::Gone, "the stream was deleted for good")),
    }
}

fn check_expected(head: &Head, expected: Expected) -> Result<()> {
    if expected.holds(head.revision) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "the stream is not as expected")
        .with("expected", expected)
        .with("actual", head.revision)
        .at_head(head.clone()))
}

fn check_before(head: &Head, before: Revision) -> Result<()> {
    if head.state == StreamState::Missing {
        return Err(missing());
    }
    if before < Revision(2) || before.0 > head.revision.0 + 1 {
        return Err(Error::new(
            ErrorKind::Invalid,
            "a stream is truncated before a revision from 2 to one above its head",
        )
        .with("before", before)
        .with("head", head.revision));
    }
    Ok(())
}

/// Decides whether events may be released to an archive: while the store takes appends. Whoever copies it wants all of it.
///
/// # Errors
/// `Moved` and `Fenced` as for an append. Nothing may be written.
pub fn release(meta: &Meta) -> Result<()> {
    check_writable(meta)
}

fn missing() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such stream")
}

/// The next slot of the stream and of the feed.
fn slot(situation: &Situation<'_>, wanted: &Wanted) -> Result<Slot> {
    let head = situation.head;
    let positions = u64::from(wanted.events.max(1));
    let last_position = situation.last_position.map_or(0, |last| last.0);
    let numbered = [(head.revision.0, u64::from(wanted.events) + 1), (head.number.0, 1), (last_position, positions)];
    if numbered.iter().any(|(last, more)| last + more > NUMBER_MAX) {
        return Err(Error::new(ErrorKind::TooLarge, "the store has no numbers left for this commit"));
    }
    Ok(Slot {
        number: head.number.next(),
        first: head.revision.next(),
        position: situation.last_position.map(Position::next),
        recorded_at: head.recorded_at.map_or(situation.now, |last| last.max(situation.now)),
    })
}

/// Decides a change of the store's record. None: it may be written.
///
/// # Errors
/// `Invalid` for a step that no protocol makes.
pub fn swap_meta(found: &Meta, request: &SwapMeta) -> Result<Option<MetaSwapped>> {
    request.expected.check_next(&request.new)?;
    if *found == request.new {
        return Ok(Some(MetaSwapped::Done));
    }
    if *found != request.expected {
        return Ok(Some(MetaSwapped::Differs(Box::new(found.clone()))));
    }
    Ok(None)
}

/// Refuses a store that this release must not write, or that takes no writes now.
fn check_writable(meta: &Meta) -> Result<()> {
    meta.format.check_write()?;
    meta.state.check_append()
}

/// Refuses to keep a snapshot of a stream that is missing or closed, or that has not come as far.
///
/// # Errors
/// `Gone`, `Moved`, `Fenced` as for an append, `NotFound`; `Conflict` with the head for a snapshot that is ahead of it. Nothing
/// may be written.
pub fn put_snapshot(situation: &Situation<'_>, snapshot: &Snapshot) -> Result<()> {
    let decided = check_states(situation).and_then(|()| match situation.head.state {
        StreamState::Missing => Err(missing()),
        StreamState::Open | StreamState::Sealed { .. } | StreamState::Deleted => {
            check_reached(snapshot, situation.head)
        }
    });
    decided.map_err(|error| error.with("stream", &snapshot.stream))
}

/// Refuses a snapshot that is ahead of its stream: of events that are not here, or that a failover took away.
///
/// # Errors
/// `Conflict` with the head.
pub(crate) fn check_reached(snapshot: &Snapshot, head: &Head) -> Result<()> {
    if snapshot.revision <= head.revision && snapshot.number <= head.number {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "the snapshot is ahead of its stream")
        .with("snapshot", snapshot.revision)
        .with("actual", head.revision)
        .at_head(head.clone()))
}

/// Refuses to remove a snapshot where another store answers for the stream. Where there is none, there is nothing to do.
///
/// # Errors
/// `Moved` and `Fenced` as for an append.
pub fn delete_snapshot(situation: &Situation<'_>) -> Result<()> {
    match situation.head.state {
        StreamState::Missing | StreamState::Deleted => check_writable(situation.meta),
        StreamState::Open | StreamState::Sealed { .. } => check_states(situation),
    }
}

/// The small record as a change leaves it.
///
/// # Errors
/// `Moved` and `Fenced` as for an append, for checkpoints; `Conflict` with the actual number; `TooLarge` past the last
/// number. Nothing may be written.
pub fn put_record(meta: &Meta, found: Option<&Record>, request: PutRecord, now: Timestamp) -> Result<Record> {
    match request.key.kind {
        RecordKind::Checkpoint => check_writable(meta)?,
        // What a node says of itself is no part of the log: a migration reads it in every state.
        RecordKind::Presence => meta.format.check_write()?,
    }
    let number = found.map_or(RecordNumber(0), |record| record.number);
    if !request.expected.holds(found) {
        return Err(Error::new(ErrorKind::Conflict, "the record is not as expected")
            .with("record", &request.key.name)
            .with("actual", number));
    }
    if number.0 >= NUMBER_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "the record has no numbers left").with("record", &request.key.name));
    }
    Ok(Record { key: request.key, number: number.next(), epoch: meta.epoch, value: request.value, updated_at: now })
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::{Deadline, Epoch};
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_000);

    fn name(name: &str) -> StoreName {
        StoreName::new(name).unwrap()
    }

    fn head(revision: u64) -> Head {
        Head {
            revision: Revision(revision),
            number: CommitNumber(revision + 3),
            first_retained: Revision(1),
            commit: Some(CommitId([9; 16])),
            recorded_at: Some(Timestamp(2_000)),
            state: StreamState::Open,
        }
    }

    fn wanted(expected: Expected, events: u32) -> Wanted {
        Wanted {
            stream: StreamId::new("s-1").unwrap(),
            commit: CommitId([1; 16]),
            kind: CommitKind::Events,
            events,
            digest: ContentDigest([2; 16]),
            expected,
        }
    }

    fn decide(state: StoreState, head: &Head, wanted: &Wanted, found: Option<Appended>) -> Result<Decision> {
        let meta = Meta { state, ..Meta::new(NOW) };
        let own = name("own");
        let last_position = Some(Position(40));
        append(&Situation { meta: &meta, own: &own, head, last_position, now: NOW }, wanted, found)
    }

    fn kind(decided: Result<Decision>) -> ErrorKind {
        decided.unwrap_err().kind()
    }

    #[test]
    fn a_slot_follows_the_head_and_time_never_falls() {
        let decided = decide(StoreState::Open, &head(7), &wanted(Expected::At(Revision(7)), 2), None).unwrap();
        let slot = Slot {
            number: CommitNumber(11),
            first: Revision(8),
            position: Some(Position(41)),
            recorded_at: Timestamp(2_000),
        };
        assert_eq!(decided, Decision::Write(slot));
        assert_eq!(slot.receipt(&wanted(Expected::Any, 2), Usage::default()).last, Revision(9));
        assert_eq!(slot.receipt(&wanted(Expected::Any, 0), Usage::default()).last, Revision(7));
    }

    #[test]
    fn the_id_is_looked_at_before_states_and_expectation() {
        let stale = wanted(Expected::NoStream, 1);
        let moved = StoreState::Retired { to: name("next") };
        let slot = Slot { number: CommitNumber(1), first: Revision(1), position: None, recorded_at: NOW };
        let receipt = slot.receipt(&stale, Usage::default());
        let decided = decide(moved.clone(), &head(7), &stale, Some(receipt.clone())).unwrap();
        assert_eq!(decided, Decision::Repeated(Appended { repeated: true, ..receipt.clone() }));
        let other = Appended { digest: ContentDigest([3; 16]), ..receipt };
        assert_eq!(kind(decide(moved.clone(), &head(7), &stale, Some(other))), ErrorKind::IdReused);
        let error = decide(moved, &head(7), &stale, None).unwrap_err();
        assert_eq!((error.kind(), error.moved_to()), (ErrorKind::Moved, Some(&name("next"))));
    }

    #[test]
    fn states_refuse_before_the_expectation() {
        let any = wanted(Expected::At(Revision(99)), 1);
        let in_state = |state| kind(decide(StoreState::Open, &Head { state, ..head(7) }, &any, None));
        assert_eq!(in_state(StreamState::Deleted), ErrorKind::Gone);
        assert_eq!(in_state(StreamState::Sealed { epoch: Epoch(1), to: name("next") }), ErrorKind::Moved);
        assert_eq!(in_state(StreamState::Sealed { epoch: Epoch(1), to: name("own") }), ErrorKind::Fenced);
        assert_eq!(in_state(StreamState::Open), ErrorKind::Conflict);
        let leaving = StoreState::Leaving { to: name("next") };
        assert!(decide(leaving.clone(), &Head::missing(), &wanted(Expected::NoStream, 1), None).is_ok());
        assert!(decide(leaving.clone(), &head(7), &wanted(Expected::Any, 1), None).is_ok());
        // It is sealed, and nothing is decided yet.
        let sealed = Head { state: StreamState::Sealed { epoch: Epoch(1), to: name("next") }, ..head(7) };
        assert_eq!(kind(decide(leaving, &sealed, &any, None)), ErrorKind::Fenced);
    }

    #[test]
    fn a_conflict_carries_the_head() {
        let error = decide(StoreState::Open, &head(7), &wanted(Expected::At(Revision(6)), 1), None).unwrap_err();
        assert_eq!(error.head(), Some(&head(7)));
        assert_eq!(error.commit(), Some(CommitId([1; 16])));
    }

    #[test]
    fn numbers_end_below_two_to_the_53() {
        let last = Head { revision: Revision(NUMBER_MAX - 2), number: CommitNumber(3), ..head(7) };
        assert!(decide(StoreState::Open, &last, &wanted(Expected::Any, 1), None).is_ok());
        assert_eq!(kind(decide(StoreState::Open, &last, &wanted(Expected::Any, 2), None)), ErrorKind::TooLarge);
    }

    #[test]
    fn a_window_has_two_edges() {
        let recognised = |number| in_window(Window::Commits(64), CommitNumber(100), CommitNumber(number));
        assert!(recognised(37));
        assert!(!recognised(36));
        assert!(in_window(Window::Forever, CommitNumber(100), CommitNumber(1)));
    }

    #[test]
    fn truncation_is_bounded_by_the_head() {
        let meta = Meta::new(NOW);
        let own = name("own");
        let bounded = |head: &Head, before| {
            let situation = Situation { meta: &meta, own: &own, head, last_position: None, now: NOW };
            truncate(&situation, &wanted(Expected::Any, 0), Revision(before), None).map_err(|error| error.kind())
        };
        assert_eq!(bounded(&head(7), 1), Err(ErrorKind::Invalid));
        assert!(bounded(&head(7), 2).is_ok());
        assert!(bounded(&head(7), 8).is_ok());
        assert_eq!(bounded(&head(7), 9), Err(ErrorKind::Invalid));
        assert_eq!(bounded(&Head::missing(), 2), Err(ErrorKind::NotFound));
    }

    #[test]
    fn a_record_is_swapped_once() {
        let old = Meta::new(NOW);
        let new = Meta { epoch: Epoch(1), ..old.clone() };
        let request =
            SwapMeta { expected: old.clone(), new: new.clone(), deadline: Deadline::within(Duration::from_secs(1)) };
        assert_eq!(swap_meta(&old, &request).unwrap(), None);
        assert_eq!(swap_meta(&new, &request).unwrap(), Some(MetaSwapped::Done));
        let other = Meta { epoch: Epoch(2), ..old };
        assert_eq!(swap_meta(&other, &request).unwrap(), Some(MetaSwapped::Differs(Box::new(other.clone()))));
    }
}
