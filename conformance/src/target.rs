//! What is held to the catalog.

use evstore_api::{Provider, Settings};
use serde::Serialize;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};

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

impl WorkerCommand {
    /// Starts its process, hands it its job as JSON on standard input, and gives what it writes. It is killed when the handle is dropped.
    ///
    /// # Errors
    /// When it can't be started, or does not take the job.
    pub async fn start(&self, job: &impl Serialize) -> std::io::Result<(Child, BufReader<ChildStdout>)> {
        let job = serde_json::to_vec(job)?;
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        stdin.write_all(&job).await?;
        let out = BufReader::new(child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?);
        Ok((child, out))
    }
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
