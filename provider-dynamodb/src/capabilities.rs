//! What a store promises: what the service says of its tables, and what one transaction for each batch gives.

use crate::config::Config;
use evstore_api::CONTRACT;
use evstore_api::capabilities::{
    Capabilities, Consistency, Durability, EventIds, Failover, FeedOrder, Fence, Positioned, Positions, Processes,
    RealTime, Support,
};
use std::time::Duration;

/// The next position is taken under a condition that no change of the store's record came between.
pub const FENCE: Fence = Fence::Store;

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
    Capabilities {
        contract: CONTRACT,
        provider: crate::NAME,
        engine: engine.to_owned(),
        durability,
        failover,
        order: FeedOrder::Total,
        // Each transaction takes the place directly behind the last one that there was.
        real_time: RealTime::Kept,
        positions: Positions::Contiguous,
        positioned: Positioned::ByAppend,
        // Every read but a waiting reader's look is strongly consistent.
        reads: Consistency::Strong,
        lists: Consistency::Strong,
        idempotency: config.idempotency(),
        event_ids: EventIds::PerCommit,
        processes: Processes::Many,
        fence: FENCE,
        deletion: Support::Promised,
        replication: Support::Promised,
        archive: Support::Promised,
        time_precision: Duration::from_micros(1),
        limits: config.limits,
    }
}
