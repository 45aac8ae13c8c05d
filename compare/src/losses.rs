//! What accidents take of what was acknowledged. The end of a process that appends is provoked: a process of its own appends, is killed,
//! and every commit that it was acknowledged is looked for, in its stream and in the feed. A failover is provoked by a command of the
//! operator's, if there is one, while such a process appends. What a cut of the power takes is reckoned by a model, because a process that
//! is killed leaves what it wrote in the machine's memory.

use crate::contender::{Contender, tag};
use crate::figures::{grouped, rate, time};
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
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::Instant;

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
/// How long a process appends before a failover is provoked.
const BEFORE: Duration = Duration::from_secs(1);
/// How long it appends at least behind the command that provokes one.
const BEHIND: Duration = Duration::from_secs(3);
/// How long appends may take to go on behind it: as long as the slowest service is known to take.
const BEHIND_MAX: Duration = Duration::from_mins(2);
/// Without an acknowledgement for so long appends do not go on.
const HUSH: Duration = Duration::from_millis(500);
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
    /// Whether the store promises that none is.
    #[serde(default)]
    pub promised: bool,
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
    /// What is known without provoking an accident.
    #[must_use]
    pub fn unprovoked(store: &str, fault: Fault, how: How, said: impl Into<String>) -> Self {
        let (rounds, acknowledged, lost, promised) = (0, 0, 0, false);
        Self { store: store.into(), fault, how, rounds, acknowledged, lost, promised, said: said.into() }
    }

    /// Whether it is one that the store promises not to have: the end of one process of several takes nothing of any store's.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.promised && self.lost > 0
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
    let found = killed_beside(contender, &scratch, worker, seed).await;
    let dropped = opener.drop_scratch(&scratch).await;
    let loss = found?;
    dropped.map(|()| loss)
}

async fn killed_beside(contender: &Contender, scratch: &Settings, worker: &WorkerCommand, seed: u64) -> Result<Loss> {
    let store = contender.provider.opener.open(scratch).await?;
    let found = match store.capabilities().processes {
        Processes::One => {
            let said = "it lives in the process of its application: the end of that takes everything";
            Loss::unprovoked(&contender.name, Fault::Node, How::Model, said)
        }
        Processes::ManyLocal | Processes::Many => {
            let mut seed = Seed(seed);
            let mut acknowledged = HashSet::new();
            for round in 0..ROUNDS {
                let mut appending = Appending::start(contender, scratch, worker, round, &mut seed).await?;
                let life = Duration::from_millis(LIFE_MS.0 + seed.below(LIFE_MS.1 - LIFE_MS.0));
                appending.listen_while(tokio::time::sleep(life)).await?;
                acknowledged.extend(appending.kill().await?);
            }
            let lost = missing(&store, &acknowledged, Deadline::within(LOOK_MAX)).await?;
            let said = format!("{ROUNDS} times, {}", outcome(acknowledged.len(), lost));
            Loss {
                rounds: ROUNDS,
                acknowledged: acknowledged.len() as u64,
                lost,
                promised: true,
                ..Loss::unprovoked(&contender.name, Fault::Node, How::Measured, said)
            }
        }
    };
    store.close().await?;
    Ok(found)
}

/// Lets a command of the operator provoke a failover while a process appends to a scratch store beside the store, and looks for what it was
/// acknowledged. The command is run by `sh`, and has to return when the failover has begun.
///
/// # Errors
/// As the store's; when the process can't be started or does not append; when the command fails, with what it said.
pub async fn failed_over(contender: &Contender, command: &str, worker: &WorkerCommand, seed: u64) -> Result<Loss> {
    let opener = &contender.provider.opener;
    let scratch = opener.make_scratch(&contender.settings, &tag()).await?;
    let found = failed_over_beside(contender, &scratch, command, worker, seed).await;
    let dropped = again_until(Instant::now() + LOOK_MAX, || opener.drop_scratch(&scratch)).await;
    let loss = found?;
    dropped.map(|()| loss)
}

async fn failed_over_beside(
    contender: &Contender,
    scratch: &Settings,
    command: &str,
    worker: &WorkerCommand,
    seed: u64,
) -> Result<Loss> {
    let opener = &contender.provider.opener;
    let store = opener.open(scratch).await?;
    let promised = store.capabilities().failover == Failover::KeepsAcknowledged;
    store.close().await?;
    let mut appending = Appending::start(contender, scratch, worker, 0, &mut Seed(seed)).await?;
    appending.listen_while(tokio::time::sleep(BEFORE)).await?;
    appending.longest = Duration::ZERO;
    appending.listen_while(provoke(command)).await??;
    let began = Instant::now();
    appending.listen_while(tokio::time::sleep(BEHIND)).await?;
    let mut goes_on = appending.has_just_heard();
    while !goes_on && began.elapsed() < BEHIND_MAX {
        appending.listen_while(tokio::time::sleep(HUSH)).await?;
        goes_on = appending.has_just_heard();
    }
    let longest = appending.longest.max(appending.last.elapsed());
    let acknowledged: HashSet<_> = appending.kill().await?.into_iter().collect();
    // What held it before the failover may hold another history; a store that is opened again has none to compare with.
    let look = Deadline::within(LOOK_MAX);
    let lost = again_until(Instant::now() + LOOK_MAX, || async {
        let store = opener.open(scratch).await?;
        let lost = missing(&store, &acknowledged, look).await?;
        store.close().await.map(|()| lost)
    })
    .await?;
    let waited = match goes_on {
        true => format!("nothing was acknowledged for {}", time(longest.as_secs_f64() * 1e6)),
        false => format!("appends did not go on within {} s", BEHIND_MAX.as_secs()),
    };
    let said = format!("once, {}; {waited}", outcome(acknowledged.len(), lost));
    Ok(Loss {
        rounds: 1,
        acknowledged: acknowledged.len() as u64,
        lost,
        promised,
        ..Loss::unprovoked(&contender.name, Fault::Failover, How::Measured, said)
    })
}

/// What became of what was acknowledged, in words.
fn outcome(acknowledged: usize, lost: u64) -> String {
    let count = grouped(acknowledged as u64);
    match lost {
        0 => format!("none of {count} acknowledged commits is gone, and the feed has them all"),
        lost => format!("{} of {count} acknowledged commits are gone or not in the feed", grouped(lost)),
    }
}

/// Runs a command of the operator to its end.
async fn provoke(command: &str) -> Result<()> {
    let failed = |why: String| {
        let error = Error::new(ErrorKind::Invalid, "the command that is to provoke a failover failed");
        error.with("command", command).with("why", why)
    };
    let ran = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let ran = ran.map_err(|cause| failed(cause.to_string()))?;
    match ran.status.success() {
        true => Ok(()),
        false => Err(failed(format!("{}: {}", ran.status, String::from_utf8_lossy(&ran.stderr).trim()))),
    }
}

/// Repeats what a failover may still refuse.
async fn again_until<T, F: Future<Output = Result<T>>>(until: Instant, call: impl Fn() -> F) -> Result<T> {
    loop {
        match call().await {
            Err(_) if Instant::now() < until => tokio::time::sleep(HUSH).await,
            done => return done,
        }
    }
}

/// A process that appends, and what it was acknowledged so far.
struct Appending {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    acknowledged: Vec<String>,
    /// When the last of it was heard.
    last: Instant,
    /// Longest time between two of it.
    longest: Duration,
}

impl Appending {
    /// Starts one, and waits for what it is acknowledged first.
    async fn start(
        contender: &Contender,
        scratch: &Settings,
        worker: &WorkerCommand,
        round: u32,
        seed: &mut Seed,
    ) -> Result<Self> {
        let job = Job {
            provider: contender.provider.name.into(),
            store: scratch.store().to_string(),
            settings: scratch.values().map(|(name, value)| (name.into(), value.into())).collect(),
            round,
            seed: seed.next_u64(),
        };
        let (child, out) = worker.start(&job).await.map_err(unread)?;
        let mut lines = out.lines();
        let late = |_| Error::new(ErrorKind::DeadlineExceeded, "the process that appends did not append in time");
        let first = tokio::time::timeout(FIRST_MAX, lines.next_line()).await.map_err(late)?.map_err(unread)?;
        let acknowledged = first.into_iter().collect();
        Ok(Self { child, lines, acknowledged, last: Instant::now(), longest: Duration::ZERO })
    }

    /// Hears what it is acknowledged until something else is done.
    async fn listen_while<T>(&mut self, other: impl Future<Output = T>) -> Result<T> {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                line = self.lines.next_line() => match line.map_err(unread)? {
                    Some(line) => self.hear(line),
                    None => {
                        return Err(Error::new(ErrorKind::Unavailable, "the process that appends ended by itself"));
                    }
                },
                done = &mut other => return Ok(done),
            }
        }
    }

    fn hear(&mut self, line: String) {
        self.acknowledged.push(line);
        self.longest = self.longest.max(self.last.elapsed());
        self.last = Instant::now();
    }

    /// Whether it appends.
    fn has_just_heard(&self) -> bool {
        self.last.elapsed() < HUSH
    }

    /// Kills it, and gives all that it was acknowledged.
    async fn kill(mut self) -> Result<Vec<(StreamId, CommitId)>> {
        self.child.kill().await.map_err(unread)?;
        while let Some(line) = self.lines.next_line().await.map_err(unread)? {
            self.acknowledged.push(line);
        }
        // The last line may be cut off in the middle: nobody heard it.
        Ok(self.acknowledged.iter().filter_map(|line| heard(line)).collect())
    }
}

fn unread(cause: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "a process that appends could not be started or read").caused_by(cause)
}

fn heard(line: &str) -> Option<(StreamId, CommitId)> {
    let (stream, commit) = line.split_once(' ')?;
    Some((StreamId::new(stream).ok()?, commit.parse().ok()?))
}

/// How many of these are not in their streams, or not in the feed.
async fn missing(
    store: &Arc<dyn EventStore>,
    acknowledged: &HashSet<(StreamId, CommitId)>,
    look: Deadline,
) -> Result<u64> {
    if let Consistency::Eventual { staleness } = store.capabilities().reads {
        tokio::time::sleep(staleness).await;
    }
    let page_items = store.capabilities().limits.page_items.min(1_000);
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
        let loss = |fault, how, said: &str| Loss::unprovoked(&store.name, fault, how, said);
        let is_known = |fault| report.losses.iter().any(|known| known.store == store.name && known.fault == fault);
        if !is_known(Fault::Node) {
            let why = "not measured here: the run was interrupted, or left it out (--no-kill)";
            all.push(loss(Fault::Node, How::NotMeasured, why));
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
        all.push(loss(Fault::Power, How::Model, &said));
        if is_known(Fault::Failover) {
            continue;
        }
        all.push(match capabilities.failover {
            Failover::None => {
                loss(Fault::Failover, How::Model, "there is no other machine: the store is away until its own is back")
            }
            Failover::KeepsAcknowledged => loss(
                Fault::Failover,
                How::Model,
                "nothing, as it declares; measured where --failover tells how to provoke one",
            ),
            Failover::MayLoseAcknowledged => {
                let said =
                    "what the other machine lacks, as it declares; measured where --failover tells how to provoke one";
                loss(Fault::Failover, How::NotMeasured, said)
            }
        });
    }
    all
}
