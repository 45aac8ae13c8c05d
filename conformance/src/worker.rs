//! What a process does that a check started: it opens the store that it is told, races, and writes what it saw, line by
//! line, so that what it saw is there also when it is killed.

use crate::check::{Broken, ensure};
use crate::history::lines::{self, Line, write_line};
use crate::history::{History, record::Operation};
use crate::race::{self, Plan, Sink};
use crate::target::WorkerCommand;
use evstore_api::{Provider, Settings, StoreName, StreamId};
use serde::{Deserialize, Serialize};
use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout};

/// Longest time that a process may be silent while something is waited for: it starts on a busy machine, too.
const SILENT_MAX: Duration = Duration::from_secs(60);

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
    pub(crate) async fn start(&self, command: &WorkerCommand) -> Result<Running, Broken> {
        let (child, out) = command.start(self).await.map_err(unread)?;
        Ok(Running { child, out, text: Vec::new() })
    }
}

/// A process at work, and what it wrote so far.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
    text: Vec<u8>,
}

fn unread(error: std::io::Error) -> Broken {
    Broken::new(format!("a process could not be started or read: {error}"))
}

impl Running {
    /// Reads what it writes until an answer is of this kind; false when it ended or was silent for too long before.
    pub(crate) async fn read_until(&mut self, wanted: impl Fn(&Operation) -> bool) -> Result<bool, Broken> {
        loop {
            let begin = self.text.len();
            let line = self.out.read_until(b'\n', &mut self.text);
            let Ok(read) = tokio::time::timeout(SILENT_MAX, line).await else { return Ok(false) };
            if read.map_err(unread)? == 0 {
                return Ok(false);
            }
            if history(&self.text[begin..])?.operations.iter().any(&wanted) {
                return Ok(true);
            }
        }
    }

    /// Lets it go on for a while and kills it; gives all that it wrote until then.
    pub(crate) async fn killed_after(mut self, life: Duration) -> Result<History, Broken> {
        let Self { child, out, text } = &mut self;
        let killed = async {
            tokio::time::sleep(life).await;
            child.kill().await
        };
        let (read, killed) = futures::join!(out.read_to_end(text), killed);
        killed.and(read).map_err(unread)?;
        history(&self.text)
    }

    /// Waits until it ends by itself; gives all that it wrote.
    pub(crate) async fn ended(mut self) -> Result<History, Broken> {
        self.out.read_to_end(&mut self.text).await.map_err(unread)?;
        let status = self.child.wait().await.map_err(unread)?;
        ensure!(status.success(), "a process failed: {status}");
        history(&self.text)
    }
}

fn history(text: &[u8]) -> Result<History, Broken> {
    lines::read(text).map_err(|error| Broken::new(format!("a process wrote nonsense: {error}")))
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
        let seed = job.seed ^ (client << 32);
        let plan = Plan { client, streams: streams.clone(), calls: job.calls, seed, shared: job.seed };
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
