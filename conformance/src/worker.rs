//! What a process does that a check started: it opens the store that it is told, races, and writes what it saw, line by
//! line, so that what it saw is there also when it is killed.

use crate::history::lines::{Line, write_line};
use crate::history::record::Operation;
use crate::race::{self, Plan, Sink};
use crate::target::WorkerCommand;
use evstore_api::{Provider, Settings, StoreName, StreamId};
use serde::{Deserialize, Serialize};
use std::io::{Read as _, Write as _};
use std::process::{ExitCode, Stdio};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

/// What a worker is told, as one JSON document on its standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Name of the provider.
    provider: String,
    /// Name of the store.
    store: String,
    /// Its settings.
    settings: Vec<(String, String)>,
    /// The streams that all clients share.
    streams: Vec<String>,
    /// Number of its first client in the whole history.
    first_client: u64,
    /// How many clients it has.
    clients: u64,
    /// How many calls each makes.
    calls: u64,
    /// Seed of their choices.
    seed: u64,
}

impl Job {
    /// A job in a store of these settings.
    pub(crate) fn new(provider: &Provider, settings: &Settings, streams: &[StreamId], seed: u64) -> Self {
        Self {
            provider: provider.name.into(),
            store: settings.store().to_string(),
            settings: settings.values().map(|(name, value)| (name.into(), value.into())).collect(),
            streams: streams.iter().map(|stream| stream.name.to_string()).collect(),
            first_client: 0,
            clients: 1,
            calls: 1,
            seed,
        }
    }

    /// The same with clients of these numbers that make so many calls each.
    pub(crate) fn with_clients(mut self, first: u64, count: u64, calls: u64) -> Self {
        (self.first_client, self.clients, self.calls) = (first, count, calls);
        self
    }

    /// Starts a process that does it. It is killed when the handle is dropped.
    pub(crate) async fn start(&self, command: &WorkerCommand) -> std::io::Result<Child> {
        let mut child = Command::new(&command.program)
            .args(&command.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()?;
        let job = serde_json::to_vec(self)?;
        let mut stdin = child.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        stdin.write_all(&job).await?;
        Ok(child)
    }
}

/// The `main` of such a process. It reads its job from standard input and writes lines of a history to standard output.
///
/// The first argument of [`crate::target::WorkerCommand`] tells a program to call this and nothing else.
pub async fn main(providers: &[Provider]) -> ExitCode {
    match work(providers).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // Standard error is the parent's: a failed worker is otherwise silent.
            let _ = writeln!(std::io::stderr(), "conformance worker: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn work(providers: &[Provider]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let job: Job = serde_json::from_str(&text)?;
    let provider = providers.iter().find(|provider| provider.name == job.provider);
    let provider = provider.ok_or_else(|| format!("no provider {}", job.provider))?;
    let settings = Settings::new(StoreName::new(&job.store)?, provider.keys, job.settings.clone())?;
    let store = provider.opener.open(&settings).await?;
    let streams = job.streams.iter().map(StreamId::new).collect::<Result<Vec<_>, _>>()?;
    let mut clients = Vec::new();
    for client in job.first_client..job.first_client + job.clients {
        let plan = Plan { client, streams: streams.clone(), calls: job.calls, seed: job.seed ^ (client << 32) };
        let store = store.clone();
        clients.push(tokio::spawn(async move { race::run(&*store, plan, &Lines).await }));
    }
    for client in clients {
        client.await?;
    }
    store.close().await?;
    Ok(())
}

/// Writes each call to standard output before it is made and after it is answered.
struct Lines;

impl Sink for Lines {
    fn operation(&self, operation: Operation) {
        let mut out = std::io::stdout().lock();
        // The parent is gone when this fails, and nobody needs the line.
        let _ = write_line(&mut out, &Line::Operation(operation)).and_then(|()| out.flush());
    }
}
