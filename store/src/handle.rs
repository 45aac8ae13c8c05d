//! The application's handle of a store: the store in its layers, under its name.

use crate::config::Config;
use crate::layers::{self, LayerSettings};
use crate::projection::RunningNames;
use crate::registry::Registry;
use evstore_api::{Capabilities, Deadline, EventStore, Result, StoreName};
#[cfg(feature = "sqlite")]
use evstore_api::{Error, ErrorKind};
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

    /// Puts a store of a config in its layers: calls follow a move to another store of the config.
    pub(crate) fn routed(
        name: StoreName,
        store: Arc<dyn EventStore>,
        settings: &LayerSettings,
        registry: &Registry,
        config: &Config,
    ) -> Self {
        let events = layers::wrap_routed(&name, store, settings, registry, config);
        Self { name, events, layers: settings.clone(), projections: RunningNames::default() }
    }

    /// A store in one file on SQLite, made where it is missing; named `main`, without a config.
    ///
    /// # Errors
    /// As the provider's opener.
    #[cfg(feature = "sqlite")]
    pub async fn sqlite(path: impl AsRef<std::path::Path>) -> Result<Self> {
        let Some(path) = path.as_ref().to_str() else {
            return Err(Error::new(ErrorKind::Invalid, "the path of a store is not UTF-8"));
        };
        Self::unnamed(&evstore_sqlite::provider(), [("path".to_owned(), path.to_owned())]).await
    }

    /// A new store in memory, gone with its last handle; named `main`, without a config.
    ///
    /// # Errors
    /// As the provider's opener.
    #[cfg(feature = "memory")]
    pub async fn memory() -> Result<Self> {
        Self::unnamed(&evstore_memory::provider(), []).await
    }

    #[cfg(any(feature = "sqlite", feature = "memory"))]
    async fn unnamed(
        provider: &evstore_api::Provider,
        given: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let name = StoreName::new("main")?;
        let settings = evstore_api::Settings::new(name.clone(), provider.keys, given)?;
        let store = provider.opener.open(&settings).await?;
        Ok(Self::new(name.clone(), store, &LayerSettings::new(&name, [])?))
    }

    /// Its name in the config.
    #[must_use]
    pub fn name(&self) -> &StoreName {
        &self.name
    }

    /// What it promises. After a move it is still what the store promises that was opened; the one that took over checks its own limits.
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
