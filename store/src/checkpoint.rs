//! What a consumer keeps in the store: how far it came, which commit it stood on, and who moved it last.

use crate::api::{
    Commit, CommitId, ContentDigest, Cursor, Deadline, Error, ErrorKind, EventStore, FeedFilter, FeedItem, FeedStart,
    Position, ReadFeed, ReadRecord, Record, RecordKey, RecordKind, RecordName, Result,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How far a consumer came, as the value of its checkpoint record.
///
/// Kept as a JSON object. Members that a release does not know are passed over, and the plain text of a cursor is read as
/// well, so that a checkpoint can be set by hand.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Everything up to here is handled; none before the first event.
    pub cursor: Option<Cursor>,
    /// The last commit before `cursor` that the consumer saw. None before the first, and where positions are opaque.
    pub last: Option<LastCommit>,
    /// Who moved it last and still runs; none after a clean stop.
    pub owner: Option<CommitId>,
}

/// A commit by which a checkpoint recognises its history: a restore that the server can't show has another one there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastCommit {
    /// Its first position.
    pub position: Position,
    /// Digest of its content.
    pub digest: ContentDigest,
}

/// The members of the JSON object.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
}

impl Checkpoint {
    /// One at a cursor, by nobody.
    #[must_use]
    pub fn at(cursor: Cursor) -> Self {
        Self { cursor: Some(cursor), last: None, owner: None }
    }

    /// The key of a consumer's checkpoint.
    ///
    /// # Errors
    /// `Invalid` when the name is.
    pub fn key(consumer: impl AsRef<str>) -> Result<RecordKey> {
        Ok(RecordKey { kind: RecordKind::Checkpoint, name: RecordName::new(consumer)? })
    }

    /// As the value of a record.
    ///
    /// # Errors
    /// `Invalid` when it cannot be written, which does not happen with cursors that a store gave.
    pub fn to_value(&self) -> Result<Bytes> {
        let stored = Stored {
            cursor: self.cursor.as_ref().map(Cursor::to_string),
            position: self.last.map(|last| last.position.0),
            digest: self.last.map(|last| last.digest.to_string()),
            owner: self.owner.map(|owner| owner.to_string()),
        };
        let refused = |cause| Error::new(ErrorKind::Invalid, "checkpoint cannot be written as JSON").caused_by(cause);
        serde_json::to_vec(&stored).map(Bytes::from).map_err(refused)
    }

    /// Reads the value of a record.
    ///
    /// # Errors
    /// `CursorRefused` when it is neither such an object nor a cursor.
    pub fn from_value(value: &[u8]) -> Result<Self> {
        match serde_json::from_slice::<Stored>(value) {
            Ok(stored) => Self::from_stored(&stored),
            Err(_) => Ok(Self::at(String::from_utf8_lossy(value).trim().parse()?)),
        }
    }

    fn from_stored(stored: &Stored) -> Result<Self> {
        let last = match (stored.position, &stored.digest) {
            (Some(position), Some(digest)) => {
                Some(LastCommit { position: Position(position), digest: digest.parse()? })
            }
            (_, _) => None,
        };
        let owner = stored.owner.as_deref().map(str::parse).transpose()?;
        let cursor = stored.cursor.as_deref().map(str::parse).transpose()?;
        Ok(Self { cursor, last, owner })
    }

    /// Reads a consumer's record and what it says; none where the consumer has not begun.
    ///
    /// # Errors
    /// As reading a record and [`from_value`](Self::from_value).
    pub(crate) async fn read(
        events: &dyn EventStore,
        key: &RecordKey,
        deadline: Deadline,
    ) -> Result<(Option<Record>, Option<Self>)> {
        let record = events.read_record(ReadRecord { key: key.clone(), deadline }).await?;
        let value = record.as_ref().and_then(|record| record.value.as_deref());
        let named = |error: Error| error.with("consumer", &key.name);
        let checkpoint = value.map(Self::from_value).transpose().map_err(named)?;
        Ok((record, checkpoint))
    }

    /// Checks that the commit on which it stands is still the same one.
    ///
    /// # Errors
    /// `HistoryLost` when it is another one or is not there: the store lost or replaced what this consumer has seen.
    pub(crate) async fn check_history(&self, events: &dyn EventStore, deadline: Deadline) -> Result<()> {
        let Some(last) = self.last else { return Ok(()) };
        let request = ReadFeed {
            from: FeedStart::AfterPosition(Position(last.position.0.saturating_sub(1))),
            filter: FeedFilter::none(),
            limit: 1,
            max_bytes: 1,
            deadline,
        };
        let page = match events.read_feed(request).await {
            // The checkpoint was carried to a store without positions: its cursor decides alone.
            Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(()),
            page => page?,
        };
        let lost = |found: &str| {
            Err(Error::new(ErrorKind::HistoryLost, "the commit that this checkpoint stands on is not there any more")
                .with("position", last.position)
                .with("digest", last.digest)
                .with("found", found))
        };
        match page.items.first() {
            Some(FeedItem::Commit(commit)) if commit.first_position != Some(last.position) => lost("another commit"),
            Some(FeedItem::Commit(commit)) if commit.digest != last.digest => lost("other content"),
            Some(FeedItem::Commit(_) | FeedItem::Removed { .. }) => Ok(()),
            None => lost("the end of the feed"),
        }
    }
}

impl LastCommit {
    /// Of a commit, where it has a position.
    pub(crate) fn of(commit: &Commit) -> Option<Self> {
        commit.first_position.map(|position| Self { position, digest: commit.digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Incarnation;

    fn cursor() -> Cursor {
        Cursor::total(Incarnation([7; 16]), Position(42))
    }

    #[test]
    fn a_checkpoint_reads_back() {
        let last = LastCommit { position: Position(40), digest: ContentDigest([3; 16]) };
        let full = Checkpoint { cursor: Some(cursor()), last: Some(last), owner: Some(CommitId([9; 16])) };
        let begun = Checkpoint { cursor: None, last: None, owner: Some(CommitId([9; 16])) };
        for checkpoint in [full, begun, Checkpoint::at(cursor())] {
            assert_eq!(Checkpoint::from_value(&checkpoint.to_value().unwrap()).unwrap(), checkpoint);
        }
    }

    #[test]
    fn the_plain_text_of_a_cursor_and_members_of_a_later_release_are_read() {
        let plain = format!("{}\n", cursor());
        assert_eq!(Checkpoint::from_value(plain.as_bytes()).unwrap(), Checkpoint::at(cursor()));
        let later = format!(r#"{{"cursor":"{}","later":[1]}}"#, cursor());
        assert_eq!(Checkpoint::from_value(later.as_bytes()).unwrap(), Checkpoint::at(cursor()));
    }

    #[test]
    fn what_is_not_a_checkpoint_is_refused() {
        for bad in ["", "42", r#"{"cursor":"x"}"#] {
            assert_eq!(Checkpoint::from_value(bad.as_bytes()).unwrap_err().kind(), ErrorKind::CursorRefused, "{bad}");
        }
    }
}
