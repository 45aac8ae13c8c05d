//! What a consumer keeps in the store: how far it came, which commit it stood on, what it has set aside, and who moved it last.

use crate::api::{
    Commit, CommitId, ContentDigest, Cursor, Deadline, Error, ErrorKind, EventStore, FeedFilter, FeedItem, FeedStart,
    Position, ReadFeed, ReadRecord, Record, RecordKey, RecordKind, RecordName, Result, Revision, StreamId, Timestamp,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How far a consumer came, as the value of its checkpoint record.
///
/// Kept as a JSON object, which is also how it prints. Members that a release does not know are passed over, and the plain
/// text of a cursor is read as well, so that a checkpoint can be set by hand: what was parked is forgotten with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// Everything up to here is handled; none before the first event.
    pub cursor: Option<Cursor>,
    /// The last commit before `cursor` that the consumer saw. None before the first, and where positions are opaque.
    pub last: Option<LastCommit>,
    /// Who moved it last and still runs; none after a clean stop.
    pub owner: Option<CommitId>,
    /// Streams that are set aside. Kept here rather than beside it, so that whoever moves the cursor, and nobody else, says
    /// what lies behind it unhandled.
    pub parked: Vec<Parked>,
}

/// A stream that a projection has set aside, because its handler could not take one of the events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The stream.
    pub stream: StreamId,
    /// The event that the handler could not take. It and all later ones of the stream are not handled.
    pub revision: Revision,
    /// What the handler said, cut to 200 bytes.
    pub cause: String,
    /// When.
    pub parked_at: Timestamp,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parked: Vec<StoredParked>,
}

#[derive(Serialize, Deserialize)]
struct StoredParked {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    namespace: String,
    stream: String,
    revision: u64,
    cause: String,
    parked_at: i64,
}

impl Checkpoint {
    /// One at a cursor, by nobody.
    #[must_use]
    pub fn at(cursor: Cursor) -> Self {
        Self { cursor: Some(cursor), ..Self::default() }
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
        let refused = |cause| Error::new(ErrorKind::Invalid, "checkpoint cannot be written as JSON").caused_by(cause);
        serde_json::to_vec(&self.stored()).map(Bytes::from).map_err(refused)
    }

    fn stored(&self) -> Stored {
        Stored {
            cursor: self.cursor.as_ref().map(Cursor::to_string),
            position: self.last.map(|last| last.position.0),
            digest: self.last.map(|last| last.digest.to_string()),
            owner: self.owner.map(|owner| owner.to_string()),
            parked: self.parked.iter().map(StoredParked::from).collect(),
        }
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
        let parked = stored.parked.iter().map(Parked::try_from).collect::<Result<_>>()?;
        Ok(Self { cursor, last, owner, parked })
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

    /// Checks that the feed still has what it stands on: that it reaches as far, and that the last commit is the same one.
    ///
    /// # Errors
    /// `HistoryLost` when it does not: the store lost or replaced what this consumer has seen.
    pub(crate) async fn check_history(&self, events: &dyn EventStore, deadline: Deadline) -> Result<()> {
        if let Some(cursor) = &self.cursor {
            check_reached(events, cursor, deadline).await?;
        }
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

/// Checks that the feed reaches up to a place that it gave before.
///
/// A store that was restored from an older copy does not know that it was: a place beyond its end reads as the end, and what
/// is appended up to there would never be delivered. A feed may lag behind its streams, never behind what it has given out.
///
/// # Errors
/// `HistoryLost` with the place and the end.
pub(crate) async fn check_reached(events: &dyn EventStore, cursor: &Cursor, deadline: Deadline) -> Result<()> {
    let end = events.feed_head(deadline).await?.cursor;
    // Of another incarnation the store itself knows how far it is good.
    if cursor.incarnation() != end.incarnation() || *cursor <= end {
        return Ok(());
    }
    let number =
        |cursor: &Cursor| cursor.position().map_or_else(|| cursor.to_string(), |position| position.to_string());
    Err(Error::new(ErrorKind::HistoryLost, "the feed ends before this place: the store lost what was read from it")
        .with("place", number(cursor))
        .with("end", number(&end)))
}

/// The JSON object, in one line.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(&self.stored()).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

impl FromStr for Checkpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::from_value(text.as_bytes())
    }
}

impl From<&Parked> for StoredParked {
    fn from(parked: &Parked) -> Self {
        Self {
            namespace: parked.stream.namespace.to_string(),
            stream: parked.stream.name.to_string(),
            revision: parked.revision.0,
            cause: parked.cause.clone(),
            parked_at: parked.parked_at.0,
        }
    }
}

impl TryFrom<&StoredParked> for Parked {
    type Error = Error;

    fn try_from(stored: &StoredParked) -> Result<Self> {
        Ok(Self {
            stream: StreamId::within(&stored.namespace, &stored.stream)?,
            revision: Revision(stored.revision),
            cause: stored.cause.clone(),
            parked_at: Timestamp(stored.parked_at),
        })
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
        let parked = Parked {
            stream: StreamId::within("tenant", "order-1").unwrap(),
            revision: Revision(3),
            cause: "poison".into(),
            parked_at: Timestamp(5),
        };
        let owner = Some(CommitId([9; 16]));
        let full = Checkpoint { cursor: Some(cursor()), last: Some(last), owner, parked: vec![parked] };
        let begun = Checkpoint { owner, ..Checkpoint::default() };
        for checkpoint in [full, begun, Checkpoint::at(cursor())] {
            assert_eq!(Checkpoint::from_value(&checkpoint.to_value().unwrap()).unwrap(), checkpoint);
            assert_eq!(checkpoint.to_string().parse::<Checkpoint>().unwrap(), checkpoint);
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
