//! Small records beside the events: consumers' checkpoints and nodes' presence.

use crate::Usage;
use crate::deadline::Deadline;
use crate::name::RecordName;
use crate::number::{Epoch, RecordNumber, Timestamp};
use bytes::Bytes;

/// What a small record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// A consumer's cursor. Fenced and carried like a stream: refused where appends are.
    Checkpoint,
    /// What a node says of itself. Never carried; allowed whatever the store's state.
    Presence,
}

impl RecordKind {
    /// The name for programs and keys.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Presence => "presence",
        }
    }
}

/// Identity of a small record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// What it is for.
    pub kind: RecordKind,
    /// Its name.
    pub name: RecordName,
}

/// A small record. A deleted one keeps its number, so that a stale writer loses also after a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its identity.
    pub key: RecordKey,
    /// How often it was changed, deletions included.
    pub number: RecordNumber,
    /// The store's epoch when it was changed last.
    pub epoch: Epoch,
    /// Its value; none once it is deleted.
    pub value: Option<Bytes>,
    /// When it was changed last, by the provider's clock.
    pub updated_at: Timestamp,
}

/// What has to be true of a small record for a change to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordExpected {
    /// Anything.
    Any,
    /// It has no value: it never had one, or is deleted.
    Absent,
    /// Its number is exactly this.
    At(RecordNumber),
}

impl RecordExpected {
    /// Whether it holds of a record, or of there being none.
    #[must_use]
    pub fn holds(self, found: Option<&Record>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => found.is_none_or(|record| record.value.is_none()),
            Self::At(number) => found.map_or(RecordNumber(0), |record| record.number) == number,
        }
    }
}

/// Changes a small record, or deletes it.
#[derive(Clone, Debug)]
pub struct PutRecord {
    /// Which.
    pub key: RecordKey,
    /// What has to be true of it.
    pub expected: RecordExpected,
    /// Its new value; none deletes it.
    pub value: Option<Bytes>,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// The receipt of a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecordPut {
    /// The record's number now.
    pub number: RecordNumber,
    /// What this call cost.
    pub usage: Usage,
}

/// Reads a small record.
#[derive(Clone, Debug)]
pub struct ReadRecord {
    /// Which.
    pub key: RecordKey,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// Lists the small records of a kind that have a value, by name (bytes).
#[derive(Clone, Debug)]
pub struct ListRecords {
    /// Of which kind.
    pub kind: RecordKind,
    /// After this name, as [`RecordsPage::next`] gave it.
    pub after: Option<RecordName>,
    /// Most records to return, at least 1.
    pub limit: u32,
    /// When to stop waiting.
    pub deadline: Deadline,
}

/// A part of the list of small records.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordsPage {
    /// The records.
    pub records: Vec<Record>,
    /// Where to go on, none at the end.
    pub next: Option<RecordName>,
    /// What this call cost.
    pub usage: Usage,
}
