//! What a history consists of: calls and their answers, feed deliveries, and what was there at the end. Reading and
//! writing it as lines is in `lines.rs`; judging it is in the other files.

use serde::{Deserialize, Serialize};

pub use super::ids::{CommitId, Digest, EventId};

/// Everything recorded about one run against one store, from all of its clients.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// Calls of all clients, in any order.
    pub operations: Vec<Operation>,
    /// Runs of all subscribers, in any order.
    pub runs: Vec<SubscriptionRun>,
    /// Repeated reads of the beginning of the feed.
    pub polls: Vec<PrefixPoll>,
    /// What each stream held after the run was quiet. A stream without a final log held nothing.
    pub final_streams: Vec<FinalStream>,
    /// The feed replayed from its beginning after the run was quiet.
    pub final_feed: Option<FinalFeed>,
}

/// A moment in nanoseconds of the host's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

/// When a call gave its answer. Every moment sorts before `Never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Returned {
    /// At this moment.
    At(Moment),
    /// Not at all: the caller gave up, was killed, or does not know what became of it.
    Never,
}

impl Returned {
    /// True if the answer was there before `moment`.
    pub fn is_before(self, moment: Moment) -> bool {
        self < Returned::At(moment)
    }
}

/// One attempt of one call.
///
/// # Behavior
/// A recorder that may be killed writes the attempt before the call, without an answer, and again with the answer: of two
/// lines with the same client, operation and attempt the later counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who called. A client makes one call at a time; its number is its own in the whole history.
    pub client: u64,
    /// Number of the call at its client.
    pub operation: u64,
    /// Number of the attempt at this call.
    pub attempt: u32,
    /// The stream that was called.
    pub stream: String,
    /// The moment before the call.
    pub invoked_at: Moment,
    /// The moment after the answer.
    pub returned_at: Returned,
    /// What was asked and what was answered.
    pub call: Call,
}

/// A call with its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Appends one commit.
    Append(Append),
    /// Reads the head or events.
    Read(Read),
    /// Saves a snapshot.
    SaveSnapshot(SaveSnapshot),
    /// Loads the latest snapshot.
    LoadSnapshot(LoadOutcome),
    /// Deletes the snapshot. It returns `Never` unless it was acknowledged.
    DeleteSnapshot,
}

/// One attempt to write a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append {
    /// The same in every attempt at one commit. All attempts lie inside the store's window for repeats.
    pub commit: CommitId,
    /// What the caller required of the head.
    pub expected: Expected,
    /// The events, in order; at least one.
    pub events: Vec<Event>,
    /// The answer.
    pub outcome: AppendOutcome,
}

/// An event as far as a checker needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Event {
    /// The event's id.
    pub id: EventId,
    /// Hash over everything else that has to come back unchanged: payload, type, metadata.
    pub digest: Digest,
}

/// What an append requires of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// Nothing.
    Any,
    /// No event was ever appended.
    NoStream,
    /// At least one event was appended.
    Exists,
    /// The head is at this revision; `At(0)` equals `NoStream`.
    At(u64),
}

impl Expected {
    /// True if a stream whose head is at `head` meets the requirement.
    pub fn holds_at(self, head: u64) -> bool {
        match self {
            Expected::Any => true,
            Expected::NoStream => head == 0,
            Expected::Exists => head > 0,
            Expected::At(revision) => head == revision,
        }
    }
}

/// What became of one attempt to append, as far as the caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppendOutcome {
    /// The commit is in the stream.
    Ok(Receipt),
    /// The requirement was not met.
    Conflict {
        /// The head that did not meet it.
        actual: u64,
    },
    /// Refused: the stream holds other content under this commit id.
    OtherContent,
    /// Refused for another reason, and never applied: too large, throttled before it was sent, sealed.
    DefiniteFail,
    /// Not known: timed out, cut off, answered with a server error, killed. It may be applied at any later time.
    Ambiguous,
}

/// What the store says about a commit that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Revision of the first event.
    pub first: u64,
    /// Revision of the last event.
    pub last: u64,
    /// The commit's number in its stream, markers counted.
    pub number: u64,
    /// Position of the first event in the feed; none where a sequencer gives it later.
    pub position: Option<u64>,
    /// True if the commit was there before this attempt.
    pub repeated: bool,
}

/// One read of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// What the store promises for this read.
    pub consistency: Consistency,
    /// The answer.
    pub outcome: ReadOutcome,
}

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// It shows every append that returned before it was invoked.
    Strong,
    /// It shows the stream as it was at some time.
    Eventual,
}

/// What a read showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadOutcome {
    /// The stream up to a head.
    Ok {
        /// The head at the moment of the read; 0 when nothing was there.
        head: u64,
        /// What was read of the content.
        seen: Seen,
    },
    /// Nothing: an error, or no answer.
    Failed,
}

/// How much of the content a read showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// None of it: only the head was asked for.
    Head,
    /// Every event from the first to the head, folded with [`chain`].
    Chain(Digest),
    /// Some events, ascending and without a hole.
    Events {
        /// Revision of the first of them.
        from: u64,
        /// The events.
        events: Vec<Event>,
    },
}

/// One attempt to save a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveSnapshot {
    /// The revision that it holds the state of.
    pub revision: u64,
    /// The state: every event up to the revision, folded with [`chain`].
    pub state: Digest,
    /// The answer.
    pub outcome: SaveOutcome,
}

/// What became of a save, as far as the caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaveOutcome {
    /// It is the latest now.
    Stored,
    /// A newer one is kept, and this one was not written.
    Superseded {
        /// Revision of the one that is kept.
        by: u64,
    },
    /// It was never applied.
    DefiniteFail,
    /// Not known.
    Ambiguous,
}

/// What a load found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadOutcome {
    /// A snapshot.
    Found {
        /// The revision that it holds the state of.
        revision: u64,
        /// The state that it holds.
        state: Digest,
    },
    /// No snapshot.
    Absent,
    /// Nothing: an error, or no answer.
    Failed,
}

/// One life of a subscriber: from a checkpoint until it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionRun {
    /// The subscriber; the same over its restarts.
    pub subscriber: u64,
    /// Number of the run at its subscriber.
    pub run: u32,
    /// The store's incarnation that it read.
    pub incarnation: String,
    /// The checkpoint: it had everything up to this position; 0 for nothing.
    pub after: u64,
    /// The moment it started.
    pub started_at: Moment,
    /// How it ended.
    pub ended: RunEnd,
    /// What it was given, in that order.
    pub deliveries: Vec<Delivery>,
}

/// How a subscription run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnd {
    /// It was let run after the store was quiet until nothing more came, so it has to have everything.
    Drained,
    /// It was stopped or killed on the way.
    Cut,
}

/// One entry of the feed, given to a subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The moment it arrived.
    pub delivered_at: Moment,
    /// What arrived.
    pub entry: FeedEntry,
}

/// One entry of the feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedEntry {
    /// Its position, from 1; 0 where the feed has no total order.
    pub position: u64,
    /// What stands there.
    pub item: FeedItem,
}

/// What stands at a position of the feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedItem {
    /// An event.
    Event {
        /// Its stream.
        stream: String,
        /// Its revision.
        revision: u64,
        /// Its commit.
        commit: CommitId,
        /// The event.
        event: Event,
    },
    /// A marker: truncated, deleted, moved.
    Marker {
        /// Its stream.
        stream: String,
        /// Its commit number.
        number: u64,
    },
    /// Nothing any more, from the entry's position up to this one.
    Removed {
        /// The last removed position.
        last: u64,
    },
}

impl FeedEntry {
    /// The last position that the entry accounts for.
    pub fn end(&self) -> u64 {
        match self.item {
            FeedItem::Event { .. } | FeedItem::Marker { .. } => self.position,
            FeedItem::Removed { last } => last,
        }
    }
}

/// The feed from its beginning up to a position, read while the run was going on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixPoll {
    /// Who read it.
    pub client: u64,
    /// The store's incarnation that it read.
    pub incarnation: String,
    /// The moment before the read.
    pub invoked_at: Moment,
    /// Position of the last entry that was read.
    pub up_to: u64,
    /// How many entries were read.
    pub entries: u64,
    /// The entries, folded with [`feed_chain`].
    pub chain: Digest,
}

/// What a stream held after the run was quiet: healed, restarted, and a barrier commit appended and read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalStream {
    /// The stream.
    pub stream: String,
    /// Its commits, in order, markers included.
    pub commits: Vec<FinalCommit>,
}

/// One commit of a final log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalCommit {
    /// The commit's id.
    pub id: CommitId,
    /// Its number in the stream, from 1, markers counted.
    pub number: u64,
    /// What it holds.
    pub body: FinalBody,
}

/// What a commit of a final log holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalBody {
    /// Events.
    Events {
        /// Revision of the first.
        first: u64,
        /// The events, in order.
        events: Vec<Event>,
    },
    /// No events: truncated, deleted, moved.
    Marker,
    /// Events that were truncated or deleted: only their revisions are left.
    Removed {
        /// Revision of the first.
        first: u64,
        /// Revision of the last.
        last: u64,
    },
}

/// The feed, replayed from its beginning after the run was quiet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalFeed {
    /// The store's incarnation that was read.
    pub incarnation: String,
    /// Its entries, in the order in which they were read.
    pub entries: Vec<FeedEntry>,
}

/// Folds one more event of a stream into its chain; the chain before the first event is all zeros.
pub fn chain(before: Digest, event: &Event) -> Digest {
    let mut bytes = [0; 48];
    bytes[..16].copy_from_slice(&before.0);
    bytes[16..32].copy_from_slice(&event.id.0);
    bytes[32..].copy_from_slice(&event.digest.0);
    hash(&bytes)
}

/// Folds one more entry of the feed into its chain; the chain before the first entry is all zeros.
pub fn feed_chain(before: Digest, entry: &FeedEntry) -> Digest {
    let mut bytes = Vec::with_capacity(96);
    bytes.extend_from_slice(&before.0);
    bytes.extend_from_slice(&entry.position.to_le_bytes());
    match &entry.item {
        FeedItem::Event { stream, revision, commit, event } => {
            bytes.push(0);
            bytes.extend_from_slice(&revision.to_le_bytes());
            bytes.extend_from_slice(&commit.0);
            bytes.extend_from_slice(&event.id.0);
            bytes.extend_from_slice(&event.digest.0);
            bytes.extend_from_slice(stream.as_bytes());
        }
        FeedItem::Marker { stream, number } => {
            bytes.push(1);
            bytes.extend_from_slice(&number.to_le_bytes());
            bytes.extend_from_slice(stream.as_bytes());
        }
        FeedItem::Removed { last } => {
            bytes.push(2);
            bytes.extend_from_slice(&last.to_le_bytes());
        }
    }
    hash(&bytes)
}

fn hash(bytes: &[u8]) -> Digest {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    Digest(digest)
}
