//! What a projection tells the `metrics` crate. Nothing is kept unless the application installs a recorder.

use metrics::{SharedString, Unit, counter, describe_counter, describe_gauge, gauge};

/// Events between the place of a projection and the end of the feed, by `projection`.
const LAG: &str = "evstore_projection_lag";
/// Events that were handled or parked, by `projection`.
const EVENTS: &str = "evstore_projection_events";
/// Tries of a handler or a read model that failed, by `projection`.
const FAILURES: &str = "evstore_projection_failures";
/// Streams that are parked, by `projection`.
const PARKED: &str = "evstore_projection_parked";

/// Tells the recorder what they are.
pub(crate) fn describe() {
    describe_gauge!(LAG, Unit::Count, "Events between the place of a projection and the end of the feed.");
    describe_counter!(EVENTS, Unit::Count, "Events that a projection has handled or parked.");
    describe_counter!(FAILURES, Unit::Count, "Tries of a projection's handler that failed.");
    describe_gauge!(PARKED, Unit::Count, "Streams that a projection has parked.");
}

/// The metrics of one projection.
#[derive(Clone, Debug)]
pub(super) struct Measure(SharedString);

impl Measure {
    pub fn new(projection: &str) -> Self {
        Self(projection.to_owned().into())
    }

    pub fn lag(&self, events: u64) {
        gauge!(LAG, "projection" => self.0.clone()).set(events as f64);
    }

    pub fn events(&self, events: u64) {
        counter!(EVENTS, "projection" => self.0.clone()).increment(events);
    }

    pub fn failure(&self) {
        counter!(FAILURES, "projection" => self.0.clone()).increment(1);
    }

    pub fn parked(&self, streams: usize) {
        gauge!(PARKED, "projection" => self.0.clone()).set(streams as f64);
    }
}
