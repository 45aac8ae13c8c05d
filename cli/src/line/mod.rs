//! One line of a log as text, both ways: what `import` takes, and what `export`, `read` and `feed` write.
//!
//! A line is a JSON object without a line break. An event has `stream`, `type`, `time` and `data`; what an export writes
//! also has all that the store gave it, so that a restore is exact. Pure: no file and no store is touched here.

mod parse;
mod payload;
mod print;

pub use parse::{parse, parse_event_of};
pub use print::{
    Detail, FirstLine, checkpoint, commit_lines, event, marker, nothing, removed, snapshot, snapshot_object,
};

use evstore_api::{
    CommitId, CommitKind, CommitNumber, Content, ContentDigest, Extension, NewEvent, Position, RecordName,
    RecordNumber, Revision, Snapshot, StreamId, Timestamp,
};

/// The format of exports that this release writes and reads.
pub const EXPORT_FORMAT: u32 = 1;

/// A line, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What the first line of an export says about the whole; none elsewhere.
    pub export: Option<ExportHead>,
    /// What the last line of an export says about the whole; none elsewhere.
    pub chain: Option<String>,
    /// What stands in the line.
    pub body: Body,
}

/// What the first line of an export says about the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportHead {
    /// The last position that the export holds; none where the store has no positions.
    pub through: Option<Position>,
}

/// What a line can be about.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// An event.
    Event(EventLine),
    /// A slot of a stream without events: a marker, or a commit that was stripped.
    Bare(BareLine),
    /// Positions without content, both ends included.
    Removed {
        /// The first.
        first: Position,
        /// The last.
        last: Position,
    },
    /// Nothing: an export of a store without a commit has to begin with something.
    Nothing,
    /// A snapshot.
    Snapshot(Snapshot),
    /// A consumer's checkpoint.
    Checkpoint(CheckpointLine),
}

/// An event, with as much of its commit as the line has.
#[derive(Clone, Debug, PartialEq)]
pub struct EventLine {
    /// Its stream.
    pub stream: StreamId,
    /// The event.
    pub event: NewEvent,
    /// Its commit. Neighbouring lines of one stream with the same one make one commit.
    pub commit: Option<CommitId>,
    /// The revision that it had, and has to get.
    pub revision: Option<Revision>,
    /// What the store gave the commit, on its first line in an export.
    pub frame: Option<Frame>,
}

/// What a store gives a commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Its slot.
    pub number: CommitNumber,
    /// How many events it was appended with; 0 for a marker.
    pub count: u32,
    /// Position of its first event.
    pub position: Option<Position>,
    /// When the store took it.
    pub recorded_at: Timestamp,
    /// Digest of its content.
    pub digest: ContentDigest,
    /// The commits of several streams that it belongs to.
    pub group: Option<CommitId>,
    /// Kept and copied.
    pub extensions: Vec<Extension>,
}

/// A slot without events.
#[derive(Clone, Debug, PartialEq)]
pub struct BareLine {
    /// Its stream.
    pub stream: StreamId,
    /// Its commit.
    pub commit: CommitId,
    /// Revision of its first event; for a marker the one that the next event would take.
    pub revision: Revision,
    /// Which marker, or events that were stripped.
    pub kind: CommitKind,
    /// Whether it was stripped.
    pub content: Content,
    /// The rest.
    pub frame: Frame,
}

/// A consumer's checkpoint. Its value names no incarnation, so that it fits the store that it is restored into.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointLine {
    /// The consumer.
    pub name: RecordName,
    /// How often the record was changed.
    pub number: RecordNumber,
    /// When it was changed last.
    pub updated_at: Timestamp,
    /// Its value, with [`INCARNATION`] in place of the store's incarnation.
    pub value: bytes::Bytes,
}

/// Stands for the incarnation of the store that a checkpoint is restored into.
pub const INCARNATION: &str = "{incarnation}";

#[cfg(test)]
mod tests;
