//! What becomes of something that is replicated: written, there already, or refused. Pure, as `decide` is; what the content
//! itself has to keep is checked before, by `limits`.

use crate::decide::check_reached;
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    Commit, Content, Epoch, Error, ErrorKind, Head, Meta, Origin, Position, Record, RecordKind, Result, Snapshot,
    StoreState, StreamState,
};

/// What to do with a copied item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Write it.
    Write,
    /// Nothing: it is there, or something newer is.
    Present,
}

/// What to do with a copied commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFate {
    /// Write it with its own numbers and this position.
    Write {
        /// The position of its first event. The feed goes on behind the commit, unless it lies in what is removed already.
        first: Position,
    },
    /// Nothing: it is there.
    Present,
}

/// What a store has at the positions that an item claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Nothing yet: they begin directly behind the last position.
    Next,
    /// They are part of what was removed.
    Removed,
    /// Something else, or they leave a gap.
    Otherwise,
}

/// Refuses copies into a store that is not being filled in this epoch, and those of another history than its present one.
///
/// # Errors
/// `Fenced`.
pub fn check_importing(meta: &Meta, epoch: Epoch, origin: Origin) -> Result<()> {
    match (&meta.state, origin) {
        (StoreState::Importing { .. }, Origin::Move { history })
            if meta.epoch == epoch && meta.incarnation() != history =>
        {
            Err(Error::new(ErrorKind::Fenced, "the store is being filled in another history by now")
                .with("history", meta.incarnation())
                .with("given", history))
        }
        (StoreState::Importing { .. }, Origin::Move { .. } | Origin::Restore) if meta.epoch == epoch => Ok(()),
        (state, _) => Err(Error::new(ErrorKind::Fenced, "the store is not importing in this epoch")
            .with("state", state.name())
            .with("epoch", meta.epoch)
            .with("given", epoch)),
    }
}

/// What a commit carries once it is copied.
#[must_use]
pub fn imported(origin: Origin, epoch: Epoch) -> Option<Epoch> {
    match origin {
        Origin::Move { .. } => Some(epoch),
        Origin::Restore => None,
    }
}

/// Decides a commit. `found` is what stands in its slot, if the slot is taken; `last` the last position that was given;
/// `claimed` what is known of the positions that it names.
///
/// # Behavior
/// A commit of a store without positions takes the next one. A stripped commit may lie in a range that came as `Removed`
/// before: a feed shows stripped commits so, and only a read of the stream tells their slots.
///
/// Writing has effects beyond the slot. `Truncated` strips what lies before its revision, `Deleted` everything, the snapshot
/// included, and a stripped commit what stands before it in its stream, as its source had stripped that too.
///
/// # Errors
/// `Conflict` for a gap, or for a slot or position that holds something else; `TooLarge` past the last position.
pub fn commit(
    item: &Commit,
    head: &Head,
    found: Option<&Commit>,
    last: Position,
    claimed: Claimed,
) -> Result<CommitFate> {
    if let Some(found) = found {
        return if same(found, item) {
            Ok(CommitFate::Present)
        } else {
            Err(differs(item, "a slot holds another commit"))
        };
    }
    let follows = item.number.0 == head.number.0 + 1 && item.first_revision.0 == head.revision.0 + 1;
    if !follows || head.state == StreamState::Deleted {
        return Err(differs(item, "a commit does not follow the head of its stream").at_head(head.clone()));
    }
    let stripped = item.content == Content::Stripped && !item.kind.is_marker();
    let first = match (item.first_position, claimed) {
        (None, _) | (Some(_), Claimed::Next) => Position(last.0 + 1),
        (Some(first), Claimed::Removed) if stripped => return Ok(CommitFate::Write { first }),
        (Some(_), Claimed::Removed | Claimed::Otherwise) => {
            return Err(differs(item, "a commit does not follow the end of the feed").with("last", last));
        }
    };
    if last.0 + item.positions() > NUMBER_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "the store has no positions left for this commit"));
    }
    Ok(CommitFate::Write { first })
}

/// Whether a slot holds this commit. What may differ: `imported`, whether it was stripped, and a position where the
/// copied commit has none.
#[must_use]
pub fn same(found: &Commit, item: &Commit) -> bool {
    found.id == item.id
        && found.number == item.number
        && found.kind == item.kind
        && found.first_revision == item.first_revision
        && found.count == item.count
        && (item.first_position.is_none() || found.first_position == item.first_position)
        && found.recorded_at == item.recorded_at
        && found.digest == item.digest
        && found.group == item.group
        && found.extensions == item.extensions
}

fn differs(item: &Commit, message: &'static str) -> Error {
    let error = Error::new(ErrorKind::Conflict, message).with("stream", &item.stream).with("number", item.number);
    match item.first_position {
        Some(position) => error.with("position", position).of_commit(item.id),
        None => error.of_commit(item.id),
    }
}

/// Decides a range without content, where `last` is the last position that was given. `covered` says whether every position
/// of the range that was given already is without content here too.
///
/// # Errors
/// `Invalid` for a range that is none; `Conflict` for a gap or where content stands.
pub fn removed(first: Position, end: Position, last: Position, covered: bool) -> Result<Fate> {
    if first.0 == 0 || end < first || end.0 > NUMBER_MAX {
        return Err(Error::new(ErrorKind::Invalid, "a range of positions is not one")
            .with("first", first)
            .with("last", end));
    }
    if first.0 > last.0 + 1 || !covered {
        return Err(Error::new(ErrorKind::Conflict, "a range of positions does not agree with the feed")
            .with("first", first)
            .with("last", end)
            .with("feed", last));
    }
    Ok(if end <= last { Fate::Present } else { Fate::Write })
}

/// Decides a snapshot of a stream with this head. What was deleted does not come back with a late one.
///
/// # Errors
/// `Conflict` with the head for a snapshot that is ahead of it: the commits that it is of have to be copied first.
pub fn snapshot(item: &Snapshot, kept: Option<&Snapshot>, head: &Head) -> Result<Fate> {
    match (kept, &head.state) {
        (_, StreamState::Deleted) => Ok(Fate::Present),
        (Some(kept), _) if kept.revision > item.revision || kept == item => Ok(Fate::Present),
        (Some(_) | None, _) => {
            check_reached(item, head).map(|()| Fate::Write).map_err(|error| error.with("stream", &item.stream))
        }
    }
}

/// Decides a checkpoint.
///
/// # Errors
/// `Invalid` for another kind of record, and for a number out of bounds; `Conflict` where the same number is another change.
pub fn record(item: &Record, kept: Option<&Record>) -> Result<Fate> {
    let refused = |kind, message| Err(Error::new(kind, message).with("record", &item.key.name));
    match item.key.kind {
        RecordKind::Checkpoint if (1..NUMBER_MAX).contains(&item.number.0) => {}
        RecordKind::Checkpoint => {
            return refused(ErrorKind::Invalid, "the changes of a record count from 1 and stay below 2^53");
        }
        RecordKind::Presence => return refused(ErrorKind::Invalid, "what a node says of itself is not copied"),
    }
    match kept {
        Some(kept) if kept.number > item.number || kept == item => Ok(Fate::Present),
        Some(kept) if kept.number == item.number => refused(ErrorKind::Conflict, "the record was changed here too"),
        Some(_) | None => Ok(Fate::Write),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::{
        CommitId, CommitKind, CommitNumber, ContentDigest, RecordKey, RecordName, RecordNumber, Revision, StreamId,
        Timestamp,
    };

    fn stub(number: u64, position: Option<u64>) -> Commit {
        Commit {
            stream: StreamId::new("s-1").unwrap(),
            id: CommitId([number as u8; 16]),
            number: CommitNumber(number),
            kind: CommitKind::Events,
            first_revision: Revision(number),
            count: 1,
            first_position: position.map(Position),
            recorded_at: Timestamp(0),
            digest: ContentDigest([0; 16]),
            imported: None,
            group: None,
            extensions: Vec::new(),
            content: Content::Stripped,
            events: Vec::new(),
        }
    }

    fn whole(number: u64, position: Option<u64>) -> Commit {
        Commit { content: Content::Kept, ..stub(number, position) }
    }

    fn decide(item: &Commit, claimed: Claimed) -> Result<CommitFate, ErrorKind> {
        let head = Head {
            revision: Revision(4),
            number: CommitNumber(4),
            first_retained: Revision(1),
            state: StreamState::Open,
            ..Head::missing()
        };
        let standing = stub(item.number.0, Some(item.number.0 + 10));
        let found = (item.number <= head.number).then_some(&standing);
        commit(item, &head, found, Position(20), claimed).map_err(|error| error.kind())
    }

    #[test]
    fn a_commit_takes_the_next_slot_and_position() {
        let write = Ok(CommitFate::Write { first: Position(21) });
        assert_eq!(decide(&whole(5, Some(21)), Claimed::Next), write);
        assert_eq!(decide(&whole(5, None), Claimed::Otherwise), write);
        assert_eq!(decide(&whole(6, Some(21)), Claimed::Next), Err(ErrorKind::Conflict));
        assert_eq!(decide(&whole(5, Some(22)), Claimed::Otherwise), Err(ErrorKind::Conflict));
    }

    #[test]
    fn a_taken_slot_holds_the_same_or_conflicts() {
        assert_eq!(decide(&whole(3, Some(13)), Claimed::Otherwise), Ok(CommitFate::Present));
        assert_eq!(decide(&stub(3, None), Claimed::Otherwise), Ok(CommitFate::Present));
        assert_eq!(decide(&whole(3, Some(14)), Claimed::Otherwise), Err(ErrorKind::Conflict));
        let other = Commit { digest: ContentDigest([1; 16]), ..whole(3, Some(13)) };
        assert_eq!(decide(&other, Claimed::Otherwise), Err(ErrorKind::Conflict));
    }

    #[test]
    fn only_a_stub_lies_in_what_was_removed() {
        assert_eq!(decide(&stub(5, Some(7)), Claimed::Removed), Ok(CommitFate::Write { first: Position(7) }));
        assert_eq!(decide(&whole(5, Some(7)), Claimed::Removed), Err(ErrorKind::Conflict));
    }

    #[test]
    fn a_range_follows_the_feed_or_repeats_what_is_gone() {
        let decide = |first, end, covered| {
            removed(Position(first), Position(end), Position(20), covered).map_err(|error| error.kind())
        };
        assert_eq!(decide(21, 30, true), Ok(Fate::Write));
        assert_eq!(decide(15, 30, true), Ok(Fate::Write));
        assert_eq!(decide(15, 20, true), Ok(Fate::Present));
        assert_eq!(decide(15, 20, false), Err(ErrorKind::Conflict));
        assert_eq!(decide(22, 30, true), Err(ErrorKind::Conflict));
        assert_eq!(decide(30, 22, true), Err(ErrorKind::Invalid));
    }

    #[test]
    fn an_older_record_is_passed_over_and_a_fork_is_found() {
        let record_of = |number, epoch| Record {
            key: RecordKey { kind: RecordKind::Checkpoint, name: RecordName::new("c").unwrap() },
            number: RecordNumber(number),
            epoch: Epoch(epoch),
            value: None,
            updated_at: Timestamp(0),
        };
        let kept = record_of(5, 0);
        assert_eq!(record(&record_of(4, 9), Some(&kept)).unwrap(), Fate::Present);
        assert_eq!(record(&kept, Some(&kept)).unwrap(), Fate::Present);
        assert_eq!(record(&record_of(6, 0), Some(&kept)).unwrap(), Fate::Write);
        assert_eq!(record(&record_of(5, 1), Some(&kept)).unwrap_err().kind(), ErrorKind::Conflict);
    }
}
