//! What a store promises: what one script at a time gives, and what the server says of its disk and its replicas.

use crate::config::{Config, Topology};
use crate::server::{self, Facts};
use evstore_api::capabilities::{
    Capabilities, Consistency, Durability, EventIds, Failover, FeedOrder, Fence, Positioned, Positions, Processes,
    RealTime, Support, Window,
};
use evstore_api::{CONTRACT, Result};
use std::time::Duration;

/// Every partition has the record, and every write looks at it in the script that writes.
pub const FENCE: Fence = Fence::Partition;

/// With partitions a commit is in the feed before it is acknowledged; the contract has no shorter time than one that is.
const SETTLING: Duration = Duration::from_millis(1);

/// What a store of this config promises on this server.
///
/// # Errors
/// `Invalid` where the server keeps less than is wanted, and where it evicts.
pub fn of(config: &Config, facts: &Facts) -> Result<Capabilities> {
    let durability = server::durability_of(config, facts)?;
    let one = config.partitions == 1;
    Ok(Capabilities {
        contract: CONTRACT,
        provider: crate::NAME,
        engine: facts.engine.clone(),
        durability,
        failover: failover(config, facts),
        order: if one { FeedOrder::Total } else { FeedOrder::PerPartition },
        // A primary runs one script at a time: https://redis.io/docs/latest/develop/programmability/, 2026-11-20.
        real_time: if one { RealTime::Kept } else { RealTime::NotKept },
        positions: if one { Positions::Contiguous } else { Positions::Opaque },
        positioned: if one { Positioned::ByAppend } else { Positioned::Never { settling: SETTLING } },
        // Reads go to the primary.
        reads: Consistency::Strong,
        lists: Consistency::Strong,
        // Ids are fields of the streams, which are never removed.
        idempotency: Window::Forever,
        event_ids: EventIds::PerCommit,
        processes: Processes::Many,
        fence: if one { Fence::Store } else { FENCE },
        deletion: Support::Promised,
        // All of a request or nothing is what one script gives, and one script has one slot.
        replication: if one { Support::Promised } else { Support::Refused },
        archive: Support::Promised,
        time_precision: Duration::from_micros(1),
        limits: config.limits,
    })
}

/// Replication is asynchronous, and a promotion asks no majority of those who hold a commit: with `WAIT` nothing was lost
/// in our runs (0 of 16,916, `docs/REDIS.md`), which is not a promise.
fn failover(config: &Config, facts: &Facts) -> Failover {
    let alone = config.topology == Topology::Single && facts.replicas == 0;
    let survives = facts.durability == Some(Durability::PowerLoss) || config.wanted == crate::config::Wanted::PowerLoss;
    if alone && survives { Failover::None } else { Failover::MayLoseAcknowledged }
}
