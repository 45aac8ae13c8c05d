//! What a store promises, as enums and numbers. No field has a default: every provider fills every one, with its source.

use std::fmt;
use std::time::Duration;

/// A bound, or the absence of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// At most this; one more is refused before anything is written.
    Max(u64),
    /// The store has no bound of its own.
    None,
}

impl Limit {
    /// Whether `value` keeps it.
    #[must_use]
    pub fn allows(self, value: u64) -> bool {
        match self {
            Self::Max(max) => value <= max,
            Self::None => true,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max(max) => max.fmt(f),
            Self::None => f.write_str("none"),
        }
    }
}

/// What an acknowledged commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Nothing: it is gone with the process.
    Memory,
    /// A crash of the process, not of the machine.
    ProcessCrash,
    /// A power cut.
    PowerLoss,
    /// The loss of a machine.
    ReplicaQuorum,
}

/// What a failover to another machine may take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    /// There is no other machine.
    None,
    /// No acknowledged commit.
    KeepsAcknowledged,
    /// Acknowledged commits; it is noticed, and a new incarnation begins.
    MayLoseAcknowledged,
}

/// In which order the feed gives commits. The order within a stream always holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FeedOrder {
    /// By stream only, late arrivals possible inside a declared bound.
    BestEffort,
    /// By stream only, nothing arrives late.
    PerStream,
    /// One order in each partition.
    PerPartition,
    /// One order.
    Total,
}

/// Whether the feed's order agrees with time: what was acknowledged before something began stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealTime {
    /// It does.
    Kept,
    /// It may not.
    NotKept,
}

/// What kind of numbers positions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Every number is accounted for.
    Contiguous,
    /// They rise, with holes.
    Increasing,
    /// There are none, only cursors.
    Opaque,
}

/// Who gives a commit its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positioned {
    /// The append: the receipt has it, and the feed has the commit before the receipt is given.
    ByAppend,
    /// A sequencer, later: the receipt has none.
    BySequencer {
        /// Within how long, while a sequencer runs; measured as p99.
        within: Duration,
    },
    /// Nobody: positions are opaque.
    Never {
        /// How late a commit may arrive in the feed.
        settling: Duration,
    },
}

/// What a read sees of acknowledged writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// All of them, from any client.
    Strong,
    /// All but the most recent.
    Eventual {
        /// How recent.
        staleness: Duration,
    },
}

/// How far back a repeated commit is recognised, counted in commits of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// For ever.
    Forever,
    /// The last so many, at least 64.
    Commits(u64),
}

/// Where event ids are unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventIds {
    /// In their commit; across commits that is the caller's business.
    PerCommit,
    /// In their stream.
    PerStream,
    /// In the store.
    PerStore,
}

/// How many processes may have a store open at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processes {
    /// One.
    One,
    /// Many, on one machine.
    ManyLocal,
    /// Many, anywhere.
    Many,
}

/// What closes in one atomic step for a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// The whole store: every append checks the record in the step that writes.
    Store,
    /// Each partition.
    Partition,
    /// Each stream, by a marker in its next slot; creation is guarded apart.
    Stream,
}

/// Whether an operation is there. What is refused fails with `Unsupported` and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It works.
    Promised,
    /// It is refused.
    Refused,
}

/// The bounds of one store. Each is tested on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest stream name, in bytes of UTF-8; at most what [`crate::name::STREAM_NAME_BYTES_MAX`] says.
    pub stream_name_bytes: u64,
    /// Longest event type, in bytes of UTF-8; at most what [`crate::name::EVENT_TYPE_BYTES_MAX`] says.
    pub event_type_bytes: u64,
    /// Most bytes of data and metadata of one event.
    pub event_bytes: Limit,
    /// Most bytes of a commit, as [`crate::format::content_bytes`] counts them.
    pub commit_bytes: Limit,
    /// Most events in a commit.
    pub commit_events: Limit,
    /// Most bytes of a snapshot's data.
    pub snapshot_bytes: Limit,
    /// Most bytes of a small record's value.
    pub record_bytes: Limit,
    /// Most events, streams or records in a page: a higher `limit` is `Invalid`.
    pub page_items: u32,
}

/// What one store promises, computed from its config and, where the server decides, from the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Capabilities {
    /// The contract that it keeps.
    pub contract: u32,
    /// The provider's name.
    pub provider: &'static str,
    /// The engine and its version, as it says itself.
    pub engine: String,
    /// What `Ok` means.
    pub durability: Durability,
    /// What a failover may take.
    pub failover: Failover,
    /// The feed's order.
    pub order: FeedOrder,
    /// Whether it agrees with time.
    pub real_time: RealTime,
    /// What positions are.
    pub positions: Positions,
    /// Who gives them.
    pub positioned: Positioned,
    /// What stream reads and heads see.
    pub reads: Consistency,
    /// What lists of streams see.
    pub lists: Consistency,
    /// How far back repeats are recognised.
    pub idempotency: Window,
    /// Where event ids are unique.
    pub event_ids: EventIds,
    /// Who may open it.
    pub processes: Processes,
    /// What closes for a move.
    pub fence: Fence,
    /// Truncation and deletion.
    pub deletion: Support,
    /// Being the target of a copy.
    pub replication: Support,
    /// Being the hot store in front of an archive: letting go of events that are archived.
    pub archive: Support,
    /// The smallest difference between two times that it keeps.
    pub time_precision: Duration,
    /// Its bounds.
    pub limits: Limits,
}

impl Capabilities {
    /// What can take acknowledged commits from the store, each as what happens, in the order of how often it does. A disk or a
    /// machine that is destroyed is not among them: it takes what is on it from every store that is not on another one too.
    #[must_use]
    pub fn risks(&self) -> Vec<&'static str> {
        let outage: &[&str] = match self.durability {
            Durability::Memory => &["the end of the process that keeps them", "a power cut"],
            Durability::ProcessCrash => &["a power cut"],
            Durability::PowerLoss | Durability::ReplicaQuorum => &[],
        };
        let failover = match self.failover {
            Failover::MayLoseAcknowledged => Some("a failover to a replica that lacks them"),
            Failover::None | Failover::KeepsAcknowledged => None,
        };
        outage.iter().copied().chain(failover).collect()
    }
}
