//! What every store gets, whoever provides it: wrappers that hold a store and are one. Their order is [`wrap`].
//!
//! Each layer says once what it does around any call; the calls themselves are in `request`, one type each, and
//! `layered` is the one place that forwards the methods of the contract.

mod bound;
mod check;
mod layered;
mod measure;
mod presence;
mod request;
mod retry;
mod route;
mod settings;
mod time_out;
mod trace;

pub use measure::describe as describe_metrics;
pub use settings::{LAYER_KEYS, LayerSettings};

use crate::config::Config;
use crate::registry::Registry;
use evstore_api::{EventStore, StoreName};
use layered::Layered;
use std::sync::Arc;

/// Puts a store in its layers. From the outermost to the store:
///
/// 1. `trace` and 2. `measure` see what the caller sees, refusals and repeats included.
/// 3. `bound` gives the call its last moment, before anything that waits.
/// 4. `check` refuses what the store does not take, before anything is sent and once for all tries.
/// 5. `retry` is outside of 6. `time_out`, so that each try has its own time and a try without an answer is repeated.
///
/// A store of a config ([`Registry::open`]) has `route` between 3 and 4: it follows a move to another store of the config, which has
/// its own 4 to 6 there.
#[must_use]
pub fn wrap(name: &StoreName, store: Arc<dyn EventStore>, settings: &LayerSettings) -> Arc<dyn EventStore> {
    outer(name, inner(name, store, settings).store, settings)
}

/// The same, with a route through the stores of a config.
pub(crate) fn wrap_routed(
    name: &StoreName,
    store: Arc<dyn EventStore>,
    settings: &LayerSettings,
    registry: &Registry,
    config: &Config,
) -> Arc<dyn EventStore> {
    let inner = inner(name, store, settings);
    let route = route::Route::new(name, inner.clone(), registry, config);
    outer(name, Layered::around(inner.store, route), settings)
}

/// A store in the layers that are its own.
#[derive(Clone)]
struct Inner {
    /// With its checks, repeats and times.
    store: Arc<dyn EventStore>,
    /// With its times only.
    once: Arc<dyn EventStore>,
}

fn inner(name: &StoreName, store: Arc<dyn EventStore>, settings: &LayerSettings) -> Inner {
    let once = Layered::around(store, time_out::TimeOut::new(settings));
    let store = Layered::around(once.clone(), retry::Retry::new(name, settings));
    Inner { store: Layered::around(store, check::Check), once }
}

fn outer(name: &StoreName, store: Arc<dyn EventStore>, settings: &LayerSettings) -> Arc<dyn EventStore> {
    let store = Layered::around(store, bound::Bound::new(settings));
    let store = Layered::around(store, measure::Measure::new(name));
    Layered::around(store, trace::Trace::new(name))
}
