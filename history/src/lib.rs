//! The history checker: given every call of concurrent clients, every answer, and what the store held at the end, it says
//! whether the store kept its promises, or shows the few calls that prove that it did not. It knows no store.
//!
//! Record with [`record`], read and merge the parts with [`lines`], then [`check`].

mod eventual;
pub mod feed;
pub mod generate;
mod ids;
pub mod lines;
mod log;
pub mod record;
mod rule;
pub mod seed;
pub mod snapshot;
mod spread;
pub mod stream;
mod violation;

pub use log::Logs;
pub use record::History;
pub use rule::Rule;
pub use spread::Spread;
pub use violation::{KEPT_MAX, Violation, Violations};

use feed::{FeedClaims, FeedVerdict, check_feed};
use snapshot::check_snapshots;
use stream::{StreamClaims, StreamVerdict, check_streams};

/// What a store claims, as far as histories can show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claims {
    /// Of its streams.
    pub streams: StreamClaims,
    /// Of its feed.
    pub feed: FeedClaim,
}

/// Whether the feed is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedClaim {
    /// Against these claims.
    Of(FeedClaims),
    /// No: the store has none, or it was not recorded.
    NotChecked,
}

/// What a check of a whole history found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Of the streams.
    pub streams: StreamVerdict,
    /// Of the feed.
    pub feed: FeedVerdict,
    /// Of the snapshots.
    pub snapshots: Violations,
}

impl Verdict {
    /// True if no rule was broken.
    pub fn held(&self) -> bool {
        self.all().iter().all(|violations| violations.is_empty())
    }

    /// True if this rule was broken.
    pub fn breaks(&self, rule: Rule) -> bool {
        self.all().iter().any(|violations| violations.has(rule))
    }

    fn all(&self) -> [&Violations; 3] {
        [&self.streams.violations, &self.feed.violations, &self.snapshots]
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.all().iter().try_for_each(|violations| write!(formatter, "{violations}"))
    }
}

/// Checks a whole history.
pub fn check(history: &History, claims: &Claims) -> Verdict {
    let logs = Logs::of(history);
    let feed = match claims.feed {
        FeedClaim::Of(claims) => check_feed(&logs, &claims),
        FeedClaim::NotChecked => FeedVerdict::default(),
    };
    Verdict { streams: check_streams(&logs, &claims.streams), feed, snapshots: check_snapshots(&logs) }
}
