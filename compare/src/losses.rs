//! What accidents take of what was acknowledged. The end of a process that appends is provoked: a process of its own appends, is killed,
//! and every commit that it was acknowledged is looked for, in its stream and in the feed. What a cut of the power takes is reckoned by a
//! model, because a process that is killed leaves what it wrote in the machine's memory. What is neither says which command measures it.

use crate::contender::{Contender, tag};
use crate::figures::{grouped, rate};
use crate::report::Report;
use crate::stage::{CALL_MAX, PAGE_BYTES};
use evstore_api::capabilities::{Consistency, Durability, Failover, Processes};
use evstore_api::{
    Append, Capabilities, CommitId, Deadline, Direction, Error, ErrorKind, EventStore, EventType, Events, Expected,
    FeedFilter, FeedStart, NewCommit, NewEvent, Provider, ReadFeed, ReadStream, Result, Settings, StoreName, StreamId,
    StreamStart,
};
use evstore_conformance::seed::Seed;
use evstore_conformance::target::WorkerCommand;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

/// How often a process is killed for each store.
pub const ROUNDS: u32 = 3;
/// Callers in the process.
const CALLERS: usize = 8;
/// Bytes of an event.
const EVENT_BYTES: usize = 256;
/// Longest time until a process has appended for the first time: it starts on a busy machine, too.
const FIRST_MAX: Duration = Duration::from_secs(20);
/// How long a process lives behind its first append, at least and at most.
const LIFE_MS: (u64, u64) = (150, 450);
/// How long the feed may take to have what was acknowledged.
const FEED_MAX: Duration = Duration::from_secs(15);
/// Longest time that what was acknowledged is looked for.
const LOOK_MAX: Duration = Duration::from_secs(60);

/// What one accident takes of one store.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Loss {
    /// The store.
    pub store: String,
    /// The accident.
    pub fault: Fault,
    /// Whether this was measured.
    pub how: How,
    /// How often it was provoked.
    pub rounds: u32,
    /// Commits that were acknowledged before.
    pub acknowledged: u64,
    /// Of them, those that are gone or never came in the feed.
    pub lost: u64,
    /// All of it in a sentence.
    pub said: String,
}

/// An accident.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// `kill -9` of a process that appends.
    Node,
    /// A cut of the power of the machine that keeps the commits.
    Power,
    /// A failover to another machine.
    Failover,
}

impl Fault {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "kill -9 of a process that appends",
            Self::Power => "a power cut",
            Self::Failover => "a failover",
        }
    }
}

/// How something is known.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It was provoked in this run.
    Measured,
    /// It is reckoned from what the store declares and the rates of this run.
    Model,
    /// It is not known from this run.
    NotMeasured,
}

impl Loss {
    /// Whether it is one that the store promises not to have: the end of one process of several takes nothing of any store's.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.how == How::Measured && self.fault == Fault::Node && self.lost > 0
    }
}

/// What the process is told, as one JSON document on its standard input.
#[derive(Deserialize, Serialize)]
struct Job {
    provider: String,
    store: String,
    settings: Vec<(String, String)>,
    round: u32,
    seed: u64,
}

/// Kills a process that appends to a scratch store beside the store, several times, and looks for what it was acknowledged.
///
/// # Errors
/// As the store's; when the process can't be started or does not append.
pub async fn killed(contender: &Contender, worker: &WorkerCommand, seed: u64) -> Result<Loss> {
    let opener = &contender.provider.opener;
    let scratch = opener.make_scratch(&contender.settings, &tag()).await?;
    let found = provoked(contender, &scratch, worker, seed).await;
    let dropped = opener.drop_scratch(&scratch).await;
    let loss = found?;
    dropped.map(|()| loss)
}

async fn provoked(contender: &Contender, scratch: &Settings, worker: &WorkerCommand, seed: u64) -> Result<Loss> {
    let store = contender.provider.opener.open(scratch).await?;
    let loss = |how, said: String| Loss {
        store: contender.name.clone(),
        fault: Fault::Node,
        how,
        rounds: 0,
        acknowledged: 0,
        lost: 0,
        said,
    };
    let found = match store.capabilities().processes {
        Processes::One => {
            let said = "it lives in the process of its application: the end of that takes everything";
            loss(How::Model, said.into())
        }
        Processes::ManyLocal | Processes::Many => {
            let mut seed = Seed(seed);
            let mut acknowledged = HashSet::new();
            for round in 0..ROUNDS {
                acknowledged.extend(one_life(contender, scratch, worker, round, &mut seed).await?);
            }
            let lost = missing(&store, &acknowledged).await?;
            let count = grouped(acknowledged.len() as u64);
            let said = match lost {
                0 => format!("{ROUNDS} times, none of {count} acknowledged commits is gone, and the feed has them all"),
                lost => format!(
                    "{ROUNDS} times, {} of {count} acknowledged commits are gone or not in the feed",
                    grouped(lost)
                ),
            };
            Loss { rounds: ROUNDS, acknowledged: acknowledged.len() as u64, lost, ..loss(How::Measured, said) }
        }
    };
    store.close().await?;
    Ok(found)
}

/// Starts a process that appends, kills it, and gives what it was acknowledged.
async fn one_life(
    contender: &Contender,
    scratch: &Settings,
    worker: &WorkerCommand,
    round: u32,
    seed: &mut Seed,
) -> Result<Vec<(StreamId, CommitId)>> {
    let failed = |cause: std::io::Error| {
        Error::new(ErrorKind::Unavailable, "a process that appends could not be started or read").caused_by(cause)
    };
    let job = Job {
        provider: contender.provider.name.into(),
        store: scratch.store().to_string(),
        settings: scratch.values().map(|(name, value)| (name.into(), value.into())).collect(),
        round,
        seed: seed.next_u64(),
    };
    let job = serde_json::to_vec(&job).map_err(|cause| failed(cause.into()))?;
    let mut child = Command::new(&worker.program)
        .args(&worker.arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let pipes = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(stdout)) = pipes else { return Err(failed(std::io::ErrorKind::BrokenPipe.into())) };
    stdin.write_all(&job).await.map_err(failed)?;
    drop(stdin);
    let mut lines = BufReader::new(stdout).lines();
    let late = |_| Error::new(ErrorKind::DeadlineExceeded, "the process that appends did not append in time");
    let first = tokio::time::timeout(FIRST_MAX, lines.next_line()).await.map_err(late)?.map_err(failed)?;
    let mut acknowledged: Vec<String> = first.into_iter().collect();
    let life = Duration::from_millis(LIFE_MS.0 + seed.below(LIFE_MS.1 - LIFE_MS.0));
    let end = tokio::time::Instant::now() + life;
    let mut alive = true;
    loop {
        tokio::select! {
            line = lines.next_line() => match line.map_err(failed)? {
                Some(line) => acknowledged.push(line),
                None => break,
            },
            () = tokio::time::sleep_until(end), if alive => {
                alive = false;
                child.kill().await.map_err(failed)?;
            }
        }
    }
    if alive {
        return Err(Error::new(ErrorKind::Unavailable, "the process that appends ended by itself"));
    }
    // The last line may be cut off in the middle: nobody heard it.
    Ok(acknowledged.iter().filter_map(|line| heard(line)).collect())
}

fn heard(line: &str) -> Option<(StreamId, CommitId)> {
    let (stream, commit) = line.split_once(' ')?;
    Some((StreamId::new(stream).ok()?, commit.parse().ok()?))
}

/// How many of these are not in their streams, or not in the feed.
async fn missing(store: &Arc<dyn EventStore>, acknowledged: &HashSet<(StreamId, CommitId)>) -> Result<u64> {
    if let Consistency::Eventual { staleness } = store.capabilities().reads {
        tokio::time::sleep(staleness).await;
    }
    let page_items = store.capabilities().limits.page_items.min(1_000);
    let look = Deadline::within(LOOK_MAX);
    let streams: HashSet<&StreamId> = acknowledged.iter().map(|(stream, _)| stream).collect();
    let mut gone: HashSet<CommitId> = acknowledged.iter().map(|(_, commit)| *commit).collect();
    for stream in streams {
        let mut from = Some(StreamStart::First);
        while let Some(start) = from.take() {
            let request = ReadStream {
                stream: stream.clone(),
                from: start,
                direction: Direction::Forward,
                limit: page_items,
                max_bytes: PAGE_BYTES,
                deadline: look,
            };
            let page = store.read_stream(request).await?;
            for commit in &page.commits {
                gone.remove(&commit.id);
            }
            from = page.next.map(StreamStart::At);
        }
    }
    let mut unseen: HashSet<CommitId> = acknowledged.iter().map(|(_, commit)| *commit).collect();
    let (mut from, until) = (FeedStart::First, Deadline::within(FEED_MAX));
    while !unseen.is_empty() && !until.has_passed() {
        let filter = FeedFilter::none();
        let request = ReadFeed { from, filter, limit: page_items, max_bytes: PAGE_BYTES, deadline: look };
        let page = store.read_feed(request).await?;
        for commit in page.commits() {
            unseen.remove(&commit.id);
        }
        if page.end {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        from = FeedStart::After(page.next);
    }
    Ok(gone.union(&unseen).count() as u64)
}

/// The `main` of the process: it reads its job from standard input, appends until it is killed, and writes each commit that it was
/// acknowledged to standard output.
///
/// # Errors
/// As the store's, and when its job is none.
pub async fn append_until_killed(providers: &[Provider]) -> Result<()> {
    let unread = |cause: std::io::Error| Error::new(ErrorKind::Invalid, "there is no job").caused_by(cause);
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(unread)?;
    let job: Job = serde_json::from_str(&text).map_err(|cause| unread(cause.into()))?;
    let provider = providers.iter().find(|provider| provider.name == job.provider);
    let provider = provider.ok_or_else(|| Error::new(ErrorKind::Invalid, "no such provider"))?;
    let settings = Settings::new(StoreName::new(&job.store)?, provider.keys, job.settings)?;
    let store = provider.opener.open(&settings).await?;
    let mut seed = Seed(job.seed);
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let stream = StreamId::new(format!("killed-{}-{caller}", job.round))?;
        callers.spawn(append_for_ever(store.clone(), stream, seed.fork()));
    }
    // Only a parent that is gone ends it.
    while let Some(ended) = callers.join_next().await {
        ended.unwrap_or_else(|cause| Err(Error::new(ErrorKind::Closed, "a call panicked").caused_by(cause)))?;
    }
    Ok(())
}

async fn append_for_ever(store: Arc<dyn EventStore>, stream: StreamId, mut seed: Seed) -> Result<()> {
    loop {
        let id = CommitId(seed.bytes());
        let event = NewEvent::new(EventType::new("happened")?, vec![b'x'; EVENT_BYTES]);
        let commit = NewCommit { id, events: Events::new(vec![event])? };
        let deadline = Deadline::within(CALL_MAX);
        let request = Append { stream: stream.clone(), expected: Expected::Any, commit, deadline };
        if store.append(request).await.is_err() {
            // What has no answer is nobody's.
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        let mut out = std::io::stdout().lock();
        let told = writeln!(out, "{} {id}", stream.name).and_then(|()| out.flush());
        if told.is_err() {
            return Ok(());
        }
    }
}

/// What was not provoked: reckoned from what stores declare and from the rates of this run, or named with the command that measures it.
#[must_use]
pub fn by_model(report: &Report, capabilities: &[Capabilities]) -> Vec<Loss> {
    let mut all = Vec::new();
    for (store, capabilities) in report.stores.iter().zip(capabilities) {
        let loss = |fault, how, said: String| Loss {
            store: store.name.clone(),
            fault,
            how,
            rounds: 0,
            acknowledged: 0,
            lost: 0,
            said,
        };
        if report.losses.iter().all(|known| known.store != store.name || known.fault != Fault::Node) {
            let why = "not measured here: the run was interrupted, or left it out (--no-kill)";
            all.push(loss(Fault::Node, How::NotMeasured, why.into()));
        }
        let most = report.store_rows().filter(|row| row.store == store.name && row.workload.starts_with("append"));
        let most = most.map(|row| row.per_second.median).fold(0.0, f64::max);
        let said = match capabilities.durability {
            Durability::ReplicaQuorum => "nothing: an acknowledgement waits for several machines".to_owned(),
            Durability::PowerLoss => "nothing: an acknowledgement waits for the disk".to_owned(),
            Durability::ProcessCrash if most > 0.0 => format!(
                "what was not synced yet: at the rate of this run {} commits for each second between two syncs",
                rate(most)
            ),
            Durability::ProcessCrash => "what was not synced yet".to_owned(),
            Durability::Memory => "everything: it is kept in memory".to_owned(),
        };
        all.push(loss(Fault::Power, How::Model, said));
        all.push(match capabilities.failover {
            Failover::None => {
                loss(Fault::Failover, How::Model, "there is no other machine: the store is away until its own is back".into())
            }
            Failover::KeepsAcknowledged => {
                loss(Fault::Failover, How::Model, "nothing, as it declares; not measured here".into())
            }
            Failover::MayLoseAcknowledged => {
                // Where a program provokes one.
                let command = match store.provider.as_str() {
                    "redis" => ": cargo xtask engine valkey -- cargo run --release -p evstore-redis --example losses -- --fault failover",
                    _ => "",
                };
                let said = format!("what the other machine lacks, as it declares; not measured here{command}");
                loss(Fault::Failover, How::NotMeasured, said)
            }
        });
    }
    all
}
