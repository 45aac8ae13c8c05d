//! Counts and times every call through the `metrics` crate. Nothing is kept unless the application installs a recorder.

use super::layered::Layer;
use super::request::Request;
use evstore_api::{ErrorKind, EventStore, Result, StoreName, Usage};
use metrics::{SharedString, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use std::time::Instant;

/// Calls, by `store`, `operation` and `outcome` (`ok` or the name of an error's kind).
const CALLS: &str = "evstore_calls";
/// Seconds from a call to its answer, repeats included, by `store` and `operation`.
const SECONDS: &str = "evstore_seconds";
/// Bytes of data and metadata, by `store`, `operation` and `direction` (`sent`, `received`), of calls that succeeded.
const BYTES: &str = "evstore_bytes";
/// Round trips to the engine, by `store` and `operation`, of calls that succeeded.
const REQUESTS: &str = "evstore_requests";
/// Units as the engine bills them, by `store`, `operation` and `direction` (`read`, `write`), of calls that succeeded.
const UNITS: &str = "evstore_units";
/// Repeats, by `store`, `operation` and `reason` (the name of an error's kind).
const RETRIES: &str = "evstore_retries";
/// Commits that were acknowledged and were not in the feed yet when its end was last asked for, by `store`.
const LAG_COMMITS: &str = "evstore_feed_lag_commits";
/// Age of the oldest of them in seconds, by `store`.
const LAG_SECONDS: &str = "evstore_feed_lag_seconds";

/// Tells the recorder what the metrics are, once it is installed.
///
/// `evstore_calls`, `evstore_seconds`, `evstore_bytes`, `evstore_requests`, `evstore_units` and `evstore_retries`: each by `store` and
/// `operation`; calls also by `outcome`, bytes and units by `direction`, retries by `reason`. By `store` alone `evstore_feed_lag_commits` and
/// `evstore_feed_lag_seconds`, as of the last time that the end of the feed was asked for, as projections do; what holds a feed
/// back is said by `evstore doctor`. And of projections
/// `evstore_projection_lag`, `evstore_projection_events`, `evstore_projection_failures` and `evstore_projection_parked`, each
/// by `projection`.
pub fn describe() {
    crate::projection::describe_metrics();
    describe_counter!(CALLS, Unit::Count, "Calls, by outcome: ok or the kind of the error.");
    describe_histogram!(SECONDS, Unit::Seconds, "Time from a call to its answer, repeats included.");
    describe_counter!(BYTES, Unit::Bytes, "Data and metadata of calls that succeeded, by direction: sent, received.");
    describe_counter!(REQUESTS, Unit::Count, "Round trips to the engine of calls that succeeded.");
    describe_counter!(UNITS, Unit::Count, "Units that the engine bills, rounded up, by direction: read, write.");
    describe_gauge!(LAG_COMMITS, Unit::Count, "Commits that are not in the feed yet.");
    describe_gauge!(LAG_SECONDS, Unit::Seconds, "Age of the oldest commit that is not in the feed yet.");
    describe_counter!(RETRIES, Unit::Count, "Repeats, by reason: the kind of the error before.");
}

/// The layer.
pub struct Measure {
    store: SharedString,
}

impl Measure {
    pub fn new(store: &StoreName) -> Self {
        Self { store: label(store) }
    }

    fn count_success(&self, operation: &'static str, sent: u64, received: u64, usage: Usage) {
        let bytes = [("sent", sent), ("received", received)];
        for (direction, bytes) in bytes.into_iter().filter(|(_, bytes)| *bytes > 0) {
            counter!(BYTES, "store" => self.store.clone(), "operation" => operation, "direction" => direction)
                .increment(bytes);
        }
        counter!(REQUESTS, "store" => self.store.clone(), "operation" => operation).increment(usage.requests.into());
        let units = [("read", usage.read_units), ("write", usage.write_units)];
        for (direction, units) in units.into_iter().filter(|(_, units)| *units > 0.0) {
            counter!(UNITS, "store" => self.store.clone(), "operation" => operation, "direction" => direction)
                .increment(units.ceil() as u64);
        }
    }
}

impl Layer for Measure {
    const NAME: &'static str = "measure";

    async fn call<R: Request>(&self, store: &dyn EventStore, request: R) -> Result<R::Answer> {
        let (began, sent) = (Instant::now(), request.sent_bytes());
        let answer = request.send(store).await;
        let outcome = match &answer {
            Ok(answer) => {
                self.count_success(R::OPERATION, sent, R::received_bytes(answer), R::usage(answer));
                if let Some(lag) = R::lag(answer) {
                    gauge!(LAG_COMMITS, "store" => self.store.clone()).set(lag.commits as f64);
                    gauge!(LAG_SECONDS, "store" => self.store.clone()).set(lag.age.as_secs_f64());
                }
                "ok"
            }
            Err(error) => error.kind().name(),
        };
        counter!(CALLS, "store" => self.store.clone(), "operation" => R::OPERATION, "outcome" => outcome).increment(1);
        histogram!(SECONDS, "store" => self.store.clone(), "operation" => R::OPERATION).record(began.elapsed());
        answer
    }
}

/// Counts a repeat: only the layer that makes it knows of it.
pub fn count_retry(store: &StoreName, operation: &'static str, reason: ErrorKind) {
    counter!(RETRIES, "store" => label(store), "operation" => operation, "reason" => reason.name()).increment(1);
}

fn label(store: &StoreName) -> SharedString {
    store.as_str().to_owned().into()
}
