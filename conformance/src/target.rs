//! What is held to the catalog.

use evstore_api::{Provider, Settings};
use std::ffi::OsString;
use std::path::PathBuf;

/// A provider, the settings of a store beside which scratch stores are made, and how to start processes that know it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The provider.
    pub provider: Provider,
    /// Settings of the store. The store itself is never written to.
    pub settings: Settings,
    /// How to start another process that can open the same stores. None where there is no way: checks that need several
    /// processes are then not run.
    pub worker: Option<WorkerCommand>,
}

/// A command whose process ends in [`crate::worker::main`].
#[derive(Clone, Debug)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl Target {
    /// A target without other processes.
    #[must_use]
    pub fn new(provider: Provider, settings: Settings) -> Self {
        Self { provider, settings, worker: None }
    }

    /// The same, with other processes.
    #[must_use]
    pub fn with_worker(mut self, worker: WorkerCommand) -> Self {
        self.worker = Some(worker);
        self
    }
}
