//! What a store promises: what the service says of its objects, and what one number for each group gives.

use crate::config::Config;
use evstore_api::CONTRACT;
use evstore_api::capabilities::{
    Capabilities, Consistency, Durability, EventIds, Failover, FeedOrder, Fence, Positioned, Positions, Processes,
    RealTime, Support,
};
use std::time::Duration;

/// The record's changes stand in the same log as the appends.
pub const FENCE: Fence = Fence::Store;

/// What a store of this config promises.
pub fn of(config: &Config) -> Capabilities {
    let (engine, durability, failover) = if config.access.is_aws() {
        // At least three zones before the answer, and reads that see every answered write:
        // https://docs.aws.amazon.com/AmazonS3/latest/userguide/Welcome.html, 2026-11-20.
        ("Amazon S3 2006-03-01", Durability::ReplicaQuorum, Failover::KeepsAcknowledged)
    } else {
        // Nothing is known of a server that speaks alike: some keep their objects in memory.
        ("a server that speaks as Amazon S3 2006-03-01", Durability::Memory, Failover::None)
    };
    Capabilities {
        contract: CONTRACT,
        provider: crate::NAME,
        engine: engine.to_owned(),
        durability,
        failover,
        order: FeedOrder::Total,
        // Each object takes the number directly behind the last one that there was.
        real_time: RealTime::Kept,
        positions: Positions::Contiguous,
        positioned: Positioned::ByAppend,
        // Every read looks for the end of the log first.
        reads: Consistency::Strong,
        lists: Consistency::Strong,
        idempotency: config.window,
        event_ids: EventIds::PerCommit,
        processes: Processes::Many,
        fence: FENCE,
        deletion: Support::Promised,
        replication: Support::Promised,
        // Its objects are where an archive would be.
        archive: Support::Refused,
        time_precision: Duration::from_micros(1),
        limits: config.limits,
    }
}
