//! What a store in a SQLite file promises.

use evstore_api::CONTRACT;
use evstore_api::capabilities::{
    Capabilities, Consistency, Durability, EventIds, Failover, FeedOrder, Fence, Limits, Positioned, Positions,
    Processes, RealTime, Support, Window,
};
use std::time::Duration;

/// Every append reads the store's record in the transaction that writes.
pub const FENCE: Fence = Fence::Store;

/// The promises under these limits.
#[must_use]
pub fn capabilities(limits: Limits) -> Capabilities {
    Capabilities {
        contract: CONTRACT,
        provider: "sqlite",
        engine: format!("SQLite {}", rusqlite::version()),
        // `synchronous=FULL` syncs the WAL in every COMMIT: https://sqlite.org/pragma.html#pragma_synchronous, 2026-11-20.
        durability: Durability::PowerLoss,
        failover: Failover::None,
        // One writer at a time, under SQLite's lock, takes positions from a counter in the transaction that commits them.
        order: FeedOrder::Total,
        real_time: RealTime::Kept,
        positions: Positions::Contiguous,
        positioned: Positioned::ByAppend,
        // A read transaction that begins after a COMMIT sees it: https://sqlite.org/isolation.html, 2026-11-20.
        reads: Consistency::Strong,
        lists: Consistency::Strong,
        // Ids are rows of the commits, which are never removed.
        idempotency: Window::Forever,
        event_ids: EventIds::PerCommit,
        // The WAL's index is shared memory: https://sqlite.org/wal.html, 2026-11-20.
        processes: Processes::ManyLocal,
        fence: FENCE,
        deletion: Support::Promised,
        replication: Support::Promised,
        archive: Support::Promised,
        // Times are kept as microseconds.
        time_precision: Duration::from_micros(1),
        limits,
    }
}
