//! What every store gets, whoever provides it: wrappers that hold a store and are one. Their order is [`wrap`].
//!
//! Each layer says once what it does around any call; the calls themselves are in `request`, one type each, and
//! `layered` is the one place that forwards the methods of the contract.

mod bound;
mod check;
mod layered;
mod measure;
mod request;
mod retry;
mod settings;
mod time_out;
mod trace;

pub use measure::describe as describe_metrics;
pub use settings::{LAYER_KEYS, LayerSettings};

use evstore_api::{EventStore, StoreName};
use layered::Layered;
use std::sync::Arc;

/// Puts a store in its layers. From the outermost to the store:
///
/// 1. `trace` and 2. `measure` see what the caller sees, refusals and repeats included.
/// 3. `bound` gives the call its last moment, before anything that waits.
/// 4. `check` refuses what the store does not take, before anything is sent and once for all tries.
/// 5. `retry` is outside of 6. `time_out`, so that each try has its own time and a try without an answer is repeated.
#[must_use]
pub fn wrap(name: &StoreName, store: Arc<dyn EventStore>, settings: &LayerSettings) -> Arc<dyn EventStore> {
    let store = Layered::around(store, time_out::TimeOut::new(settings));
    let store = Layered::around(store, retry::Retry::new(name, settings));
    let store = Layered::around(store, check::Check);
    let store = Layered::around(store, bound::Bound::new(settings));
    let store = Layered::around(store, measure::Measure::new(name));
    Layered::around(store, trace::Trace::new(name))
}
