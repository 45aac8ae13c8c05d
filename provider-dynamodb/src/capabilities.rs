//! What a store promises: what the service says of its tables, and what each way to the feed gives.

use crate::config::{Config, Feed};
use crate::sequencer::IDLE_POLLS;
use evstore_api::CONTRACT;
use evstore_api::capabilities::{
    Capabilities, Consistency, Durability, EventIds, Failover, FeedOrder, Fence, Positioned, Positions, Processes,
    RealTime, Support,
};
use std::time::Duration;

/// How much later than its next look a sequencer has a commit in the feed: p99 of `feed.is-as-fast-as-declared` on a local engine,
/// 2026-11-27, two busy cores. What AWS's own change streams take on top, less than a second mostly, was not measured.
const SEQUENCED_BEHIND_LOOK: Duration = Duration::from_millis(300);

/// How much later one has it whose sequencer sends it through a queue: the same check, 2026-11-28, with ministack 1.5.33 as the queue.
/// What AWS's own queues take was not measured.
const QUEUED_MORE: Duration = Duration::from_millis(200);

impl Feed {
    /// What closes in one step. With the feed in the append's transaction the next position is taken under a condition that no change of
    /// the store's record came between; behind the appends nothing but the stream's own next slot is looked at.
    pub fn fence(self) -> Fence {
        match self {
            Self::Sequencer { .. } | Self::SqsFifo { .. } | Self::ShardedIndex { .. } => Fence::Stream,
            Self::Transactional => Fence::Store,
        }
    }
}

/// What a store of this config promises.
pub fn of(config: &Config) -> Capabilities {
    let (engine, durability, failover) = if config.access.is_aws() {
        // Three zones, and two have it before the answer:
        // https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.html, 2026-11-20.
        ("DynamoDB 2012-08-10", Durability::ReplicaQuorum, Failover::KeepsAcknowledged)
    } else {
        // Nothing is known of an engine that speaks alike: most keep their tables in memory.
        ("an engine that speaks as DynamoDB 2012-08-10", Durability::Memory, Failover::None)
    };
    let (positioned, real_time) = match config.feed {
        // Who appends may be ahead by half of what commits may be late, who reads waits for twice that, and may be behind by half of it.
        Feed::ShardedIndex { settling, .. } => (Positioned::Never { settling: settling * 3 }, RealTime::NotKept),
        // Parts of the table are read one after the other, so that what was acknowledged first may come later.
        Feed::Sequencer { poll, .. } => {
            (Positioned::BySequencer { within: poll * IDLE_POLLS + SEQUENCED_BEHIND_LOOK }, RealTime::NotKept)
        }
        Feed::SqsFifo { poll, .. } => {
            let within = poll * IDLE_POLLS + SEQUENCED_BEHIND_LOOK + QUEUED_MORE;
            (Positioned::BySequencer { within }, RealTime::NotKept)
        }
        // Each transaction takes the place directly behind the last one that there was.
        Feed::Transactional => (Positioned::ByAppend, RealTime::Kept),
    };
    let indexed = config.feed.index().is_some();
    Capabilities {
        contract: CONTRACT,
        provider: crate::NAME,
        engine: engine.to_owned(),
        durability,
        failover,
        order: if indexed { FeedOrder::BestEffort } else { FeedOrder::Total },
        real_time,
        positions: if indexed { Positions::Opaque } else { Positions::Contiguous },
        positioned,
        // Every read but a waiting reader's look is strongly consistent.
        reads: Consistency::Strong,
        lists: Consistency::Strong,
        idempotency: config.idempotency(),
        event_ids: EventIds::PerCommit,
        processes: Processes::Many,
        fence: config.feed.fence(),
        deletion: Support::Promised,
        // A copy brings positions that an index has no place for.
        replication: if indexed { Support::Refused } else { Support::Promised },
        archive: Support::Promised,
        time_precision: Duration::from_micros(1),
        limits: config.limits,
    }
}
