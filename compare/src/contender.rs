//! A store that is measured, or rather the place beside it where a scratch store is made for each workload.

use evstore_api::{EventStore, Provider, Result, Settings, StoreAdmin};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A provider and the settings of a store. The store itself is never touched.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Its name in reports; the one in the config file.
    pub name: String,
    /// Who opens it.
    pub provider: Provider,
    /// What the provider is told.
    pub settings: Settings,
    /// What part it has.
    pub part: Part,
}

/// What part a contender has in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// It is measured.
    Store,
    /// It is the bare client of an engine, and so the floor under the store of this name.
    Floor {
        /// The store.
        of: String,
        /// Whether it reads streams too.
        loads: bool,
    },
    /// It does nothing, and so shows what the measuring costs. It takes part where a workload says `harness`.
    Harness,
    /// It does nothing either, and is called by a bare loop: what is left is what every application pays that makes these calls.
    Calls,
}

/// A scratch store, opened: once for each node of the workload, once for who watches, and its administrative side.
#[derive(Debug)]
pub struct Scratch {
    opener: Contender,
    settings: Settings,
    /// The clients that callers use.
    pub nodes: Vec<Arc<dyn EventStore>>,
    /// A client of its own, for what looks on.
    pub watcher: Arc<dyn EventStore>,
    /// The administrative side.
    pub admin: Arc<dyn StoreAdmin>,
}

impl Contender {
    /// Makes a scratch store beside the store, and opens it for so many nodes.
    ///
    /// # Errors
    /// As the provider's opener.
    pub async fn scratch(&self, nodes: u32) -> Result<Scratch> {
        let opener = &self.provider.opener;
        let settings = opener.make_scratch(&self.settings, &tag()).await?;
        match self.open(&settings, nodes).await {
            Ok(scratch) => Ok(scratch),
            Err(error) => {
                // Why it could not be opened is told; what is left of it is listed by `evstore doctor`.
                let _ = opener.drop_scratch(&settings).await;
                Err(error)
            }
        }
    }

    async fn open(&self, settings: &Settings, nodes: u32) -> Result<Scratch> {
        let opener = &self.provider.opener;
        let mut opened = Vec::new();
        for _ in 0..nodes {
            opened.push(opener.open(settings).await?);
        }
        let watcher = opener.open(settings).await?;
        let admin = opener.open_admin(settings).await?;
        Ok(Scratch { opener: self.clone(), settings: settings.clone(), nodes: opened, watcher, admin })
    }
}

impl Scratch {
    /// Closes every side and removes the scratch store with what is in it.
    ///
    /// # Errors
    /// As the provider's.
    pub async fn drop_all(self) -> Result<()> {
        for node in self.nodes.iter().chain([&self.watcher]) {
            node.close().await?;
        }
        self.admin.close().await?;
        self.opener.provider.opener.drop_scratch(&self.settings).await
    }
}

/// A tag that no other run has: the clock and the process make it new, and nothing that is measured depends on it.
pub(crate) fn tag() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("cmp{:08x}", (now.as_nanos() as u64 ^ (u64::from(std::process::id()) << 20)) as u32)
}
