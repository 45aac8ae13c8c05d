//! What a store in Postgres promises; what the server decides is read off the server.

use evstore_api::CONTRACT;
use evstore_api::capabilities::{
    Capabilities, Consistency, Durability, EventIds, Failover, FeedOrder, Fence, Limits, Positioned, Positions,
    Processes, RealTime, Support, Window,
};
use std::time::Duration;

/// Every append reads the store's record in the statement that writes, behind a lock that a change of it excludes.
pub const FENCE: Fence = Fence::Store;

/// p99 with 32 callers, a sequencer running: `cargo bench -p evstore-postgres`, 2026-11-20, 2 cores.
const SEQUENCED_WITHIN: Duration = Duration::from_millis(250);

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Its version, as it says itself.
    pub version: String,
    /// `fsync`.
    pub fsync: String,
    /// `full_page_writes`.
    pub full_page_writes: String,
    /// `synchronous_commit`, of our own sessions.
    pub synchronous_commit: String,
    /// `synchronous_standby_names`.
    pub synchronous_standby_names: String,
    /// Whether it is Aurora, whose storage keeps six copies.
    pub aurora: bool,
    /// Whether it follows another server and takes no writes.
    pub standby: bool,
}

impl Server {
    /// What `Ok` means: <https://www.postgresql.org/docs/18/runtime-config-wal.html>, 2026-11-20.
    fn durability(&self) -> Durability {
        if self.synchronous_commit == "off" {
            // The last moments are lost already when the server's process dies.
            return Durability::Memory;
        }
        if self.aurora {
            return Durability::ReplicaQuorum;
        }
        if self.fsync != "on" || self.full_page_writes != "on" {
            return Durability::ProcessCrash;
        }
        if self.is_synchronous() { Durability::ReplicaQuorum } else { Durability::PowerLoss }
    }

    /// A server can't know whether an asynchronous standby will be promoted, so only synchronous ones are relied on.
    fn failover(&self) -> Failover {
        if self.synchronous_commit != "off" && (self.aurora || self.is_synchronous()) {
            Failover::KeepsAcknowledged
        } else {
            Failover::MayLoseAcknowledged
        }
    }

    fn is_synchronous(&self) -> bool {
        !self.synchronous_standby_names.is_empty() && matches!(&*self.synchronous_commit, "on" | "remote_apply")
    }
}

/// The promises on this server under these limits.
pub fn capabilities(server: &Server, limits: Limits) -> Capabilities {
    Capabilities {
        contract: CONTRACT,
        provider: crate::NAME,
        engine: server.version.clone(),
        durability: server.durability(),
        failover: server.failover(),
        // A later commit is never visible without the earlier one of its stream or of its client, and a step numbers what is
        // visible: docs/decisions/0020-postgres-feed.md.
        order: FeedOrder::Total,
        real_time: RealTime::Kept,
        positions: Positions::Contiguous,
        positioned: Positioned::BySequencer { within: SEQUENCED_WITHIN },
        // All reads go to the server that takes the writes.
        reads: Consistency::Strong,
        lists: Consistency::Strong,
        // Ids are rows of the commits, which are never removed.
        idempotency: Window::Forever,
        event_ids: EventIds::PerCommit,
        processes: Processes::Many,
        fence: FENCE,
        deletion: Support::Promised,
        replication: Support::Promised,
        archive: Support::Promised,
        // Times are kept as microseconds.
        time_precision: Duration::from_micros(1),
        limits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(synchronous_commit: &str, fsync: &str, standbys: &str) -> Server {
        Server {
            fsync: fsync.into(),
            full_page_writes: "on".into(),
            synchronous_commit: synchronous_commit.into(),
            synchronous_standby_names: standbys.into(),
            ..Server::default()
        }
    }

    #[test]
    fn durability_is_what_the_server_is_set_to() {
        assert_eq!(server("on", "on", "").durability(), Durability::PowerLoss);
        assert_eq!(server("on", "on", "one").durability(), Durability::ReplicaQuorum);
        assert_eq!(server("local", "on", "one").durability(), Durability::PowerLoss);
        assert_eq!(server("on", "off", "one").durability(), Durability::ProcessCrash);
        assert_eq!(server("off", "on", "").durability(), Durability::Memory);
        assert_eq!(server("on", "on", "").failover(), Failover::MayLoseAcknowledged);
        assert_eq!(server("remote_apply", "on", "one").failover(), Failover::KeepsAcknowledged);
    }
}
