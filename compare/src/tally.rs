//! What one caller counts, and what comes of several put together.

use crate::check::Kept;
use evstore_api::{Error, Usage};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// Shortest and longest latency that is told apart, in nanoseconds; a longer one counts as the longest.
const LATENCY_NANOS_MAX: u64 = 120_000_000_000;
/// Digits of a latency that count: one in a hundred.
const DIGITS: u8 = 2;

/// Latencies.
pub type Latencies = Histogram<u64>;

/// An empty histogram of latencies.
#[must_use]
pub fn latencies() -> Latencies {
    Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, DIGITS).expect("the bounds are right")
}

/// Counts a latency.
pub fn count(latencies: &mut Latencies, latency: Duration) {
    latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1));
}

/// What was counted.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Operations that were answered.
    pub done: u64,
    /// Those answered within the workload's bound.
    pub within: u64,
    /// Events that were written or read.
    pub events: u64,
    /// Attempts that conflicted; each was made again.
    pub conflicts: u64,
    /// Operations that failed, by the kind of the error.
    pub errors: BTreeMap<&'static str, u64>,
    /// What the first of them said.
    pub first_error: Option<String>,
    /// How long each operation that was answered took.
    pub latency: Latencies,
    /// What the engine said that they cost, where it does.
    pub cost: Cost,
    /// Reads through another node that did not show what was acknowledged before.
    pub stale: u64,
    /// Reads through another node.
    pub read_back: u64,
    /// How long it took until such a read showed it.
    pub stale_for: Latencies,
    /// What is looked for afterwards, where the workload is checked.
    pub kept: Kept,
}

/// What receipts say that calls cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Requests to the engine.
    pub requests: f64,
    /// Read units.
    pub read_units: f64,
    /// Write units.
    pub write_units: f64,
}

impl Cost {
    /// Adds what a receipt says.
    pub fn add(&mut self, usage: Usage) {
        self.requests += f64::from(usage.requests);
        self.read_units += usage.read_units;
        self.write_units += usage.write_units;
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            done: 0,
            within: 0,
            events: 0,
            conflicts: 0,
            errors: BTreeMap::new(),
            first_error: None,
            latency: latencies(),
            cost: Cost::default(),
            stale: 0,
            read_back: 0,
            stale_for: latencies(),
            kept: Kept::default(),
        }
    }
}

impl Tally {
    /// Counts an operation that was answered.
    pub fn answered(&mut self, latency: Duration, bound: Option<Duration>) {
        self.done += 1;
        self.within += u64::from(bound.is_some_and(|bound| latency <= bound));
        count(&mut self.latency, latency);
    }

    /// Counts one that failed.
    pub fn failed(&mut self, error: &Error) {
        *self.errors.entry(error.kind().name()).or_default() += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: Self) {
        self.done += other.done;
        self.within += other.within;
        self.events += other.events;
        self.conflicts += other.conflicts;
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        self.first_error = self.first_error.take().or(other.first_error);
        self.latency += other.latency;
        self.cost.requests += other.cost.requests;
        self.cost.read_units += other.cost.read_units;
        self.cost.write_units += other.cost.write_units;
        self.stale += other.stale;
        self.read_back += other.read_back;
        self.stale_for += other.stale_for;
        self.kept.merge(other.kept);
    }

    /// Forgets what was measured and keeps what has to be looked for: what a warm-up leaves.
    #[must_use]
    pub fn warm(self) -> Self {
        Self { kept: self.kept.without_lags(), ..Self::default() }
    }
}
