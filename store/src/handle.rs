//! The application's handle of a store: the store in its layers, under its name.

use crate::layers::{self, LayerSettings};
use crate::projection::RunningNames;
use evstore_api::{Capabilities, Deadline, EventStore, Result, StoreName};
use std::sync::Arc;
use std::time::Duration;

/// An open store. Clones are cheap and are the same store.
#[derive(Clone, Debug)]
pub struct Store {
    name: StoreName,
    events: Arc<dyn EventStore>,
    layers: LayerSettings,
    /// Shared by all clones, so that a projection runs once among them.
    pub(crate) projections: RunningNames,
}

impl Store {
    /// Puts a store in its layers.
    #[must_use]
    pub fn new(name: StoreName, store: Arc<dyn EventStore>, settings: &LayerSettings) -> Self {
        let events = layers::wrap(&name, store, settings);
        Self { name, events, layers: settings.clone(), projections: RunningNames::default() }
    }

    /// Its name in the config.
    #[must_use]
    pub fn name(&self) -> &StoreName {
        &self.name
    }

    /// What it promises.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        self.events.capabilities()
    }

    /// The contract over bytes, in its layers.
    #[must_use]
    pub fn events(&self) -> &Arc<dyn EventStore> {
        &self.events
    }

    /// A deadline for a call whose caller names none: `call_timeout` from now.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        Deadline::within(self.call_timeout())
    }

    /// How long a call may take in all where its caller does not say.
    #[must_use]
    pub fn call_timeout(&self) -> Duration {
        self.layers.call_timeout
    }

    /// Answers what was taken and lets go of connections, for all clones. Closing again is success.
    ///
    /// # Errors
    /// As the provider's.
    pub async fn close(&self) -> Result<()> {
        self.events.close().await
    }
}
