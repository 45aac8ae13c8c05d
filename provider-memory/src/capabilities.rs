//! What the store promises. All of it follows from one lock around everything, and from there being nothing else.

use crate::config::Config;
use evstore_api::capabilities::{
    Capabilities, Consistency, Durability, EventIds, Failover, FeedOrder, Fence, Positioned, Positions, Processes,
    RealTime, Support,
};
use std::time::Duration;

/// The record closes the whole store: every write looks at it under the lock.
pub const FENCE: Fence = Fence::Store;

/// What a store of this config promises.
pub fn of(config: &Config) -> Capabilities {
    Capabilities {
        contract: evstore_api::CONTRACT,
        provider: crate::NAME,
        engine: concat!("evstore-memory ", env!("CARGO_PKG_VERSION")).to_owned(),
        durability: Durability::Memory,
        failover: Failover::None,
        order: FeedOrder::Total,
        real_time: RealTime::Kept,
        positions: Positions::Contiguous,
        positioned: Positioned::ByAppend,
        reads: Consistency::Strong,
        lists: Consistency::Strong,
        idempotency: config.window,
        event_ids: EventIds::PerCommit,
        processes: Processes::One,
        fence: FENCE,
        deletion: Support::Promised,
        replication: Support::Promised,
        archive: Support::Promised,
        // `Timestamp` counts microseconds, and they are kept as they are.
        time_precision: Duration::from_micros(1),
        limits: config.limits,
    }
}
