//! Concurrent clients, in tasks, on threads and in processes: properties 35, 39 and 43 to 50.

use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::{Context, Fresh, revisions};
use crate::history::record::Operation;
use crate::history::{self, History, lines};
use crate::race::{self, Plan, Sink};
use crate::tail::tail;
use crate::worker::Job;
use evstore_api::capabilities::Processes;
use evstore_api::{Error, ErrorKind, Expected, Revision, StreamId};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;

pub(crate) const CHECKS: &[Check] = &[
    check!(
        "concurrency.one-append-wins-each-revision",
        "of several appends that expect the same head exactly one is made, and the others conflict with the head it made",
        [20, 43],
        one_append_wins_each_revision
    ),
    check!(
        "concurrency.unconditional-appends-all-succeed",
        "appends that expect nothing all succeed, each with revisions of its own and none between",
        [39, 44],
        unconditional_appends_all_succeed
    ),
    check!(
        "concurrency.streams-do-not-conflict",
        "appends to different streams never conflict",
        [45],
        streams_do_not_conflict
    ),
    check!(
        "concurrency.identical-appends-are-made-once",
        "the same commit sent by several callers at once is made once, and all get the same receipt",
        [31],
        identical_appends_are_made_once
    ),
    check!(
        "concurrency.clients-see-each-other",
        "two clients of one store see each other's appends, and race on the same heads",
        [46, 71],
        clients_see_each_other
    ),
    check!(
        "concurrency.decisions-under-contention-are-serial",
        "read, decide and append, repeated after each conflict, ends under contention with what a serial run gives",
        [47],
        decisions_under_contention_are_serial
    ),
    check!(
        "concurrency.a-stalled-writer-conflicts",
        "a writer that stalls while its head moves on conflicts, and nothing of its commit is ever read",
        [48],
        a_stalled_writer_conflicts
    ),
    check!(
        "concurrency.the-expectation-is-checked-at-the-commit",
        "an expectation that holds when an append begins and no longer when it is made is a conflict",
        [19],
        the_expectation_is_checked_at_the_commit
    ),
    check!(
        "concurrency.histories-of-threads-are-serial",
        "whatever tasks on several threads do, there is one order of all commits that explains every answer and the feed",
        [35, 39, 43, 44, 50, 72, 78, 79, 80, 81, 82, 99, 100],
        histories_of_threads_are_serial
    ),
    check!(
        "concurrency.histories-of-processes-are-serial",
        "whatever several processes do, there is one order of all commits that explains every answer and the feed",
        [35, 39, 43, 44, 46, 50, 78, 79, 80],
        histories_of_processes_are_serial
    ),
    check!(
        "concurrency.killed-processes-lose-nothing-acknowledged",
        "after processes are killed in the middle of appending every acknowledged commit is there, whole, once",
        [32, 36, 38, 82, 84],
        killed_processes_lose_nothing_acknowledged
    ),
];

/// Callers of the small races: more than the cores of any test machine's half, few enough to read their trace.
const CALLERS: usize = 8;

async fn one_append_wins_each_revision(context: Context) -> Result<Outcome, Broken> {
    for _ in 0..context.rounds(20) {
        let stream = context.stream();
        for head in 0..3 {
            let answers = context
                .together(CALLERS, |_| {
                    let (context, stream) = (context.clone(), stream.clone());
                    async move { context.append(&stream, Expected::At(Revision(head)), 1).await }
                })
                .await?;
            let won = answers.iter().filter(|answer| answer.is_ok()).count();
            ensure_eq!(won, 1, "winners of {CALLERS} appends that expect head {head}");
            for error in answers.into_iter().filter_map(Result::err) {
                let error = ensure_kind!(Err::<(), _>(error), Conflict, "a loser at head {head}");
                ensure_eq!(error.head().map(|head| head.revision), Some(Revision(head + 1)), "the head that beat it");
            }
        }
        ensure_eq!(revisions(&context.read(&stream).await?), [1, 2, 3].map(Revision), "revisions after three races");
    }
    Ok(Outcome::Held)
}

async fn unconditional_appends_all_succeed(context: Context) -> Result<Outcome, Broken> {
    for _ in 0..context.rounds(10) {
        let stream = context.stream();
        let answers = context
            .together(CALLERS, |caller| {
                let (context, stream) = (context.clone(), stream.clone());
                async move { context.append(&stream, Expected::Any, 1 + caller as u32 % 3).await }
            })
            .await?;
        let receipts = answers.into_iter().collect::<Result<Vec<_>, Error>>()?;
        let page = context.read(&stream).await?;
        let total: u64 = receipts.iter().map(|receipt| receipt.last.0 - receipt.first.0 + 1).sum();
        ensure_eq!(revisions(&page), (1..=total).map(Revision).collect::<Vec<_>>(), "revisions of the stream");
        for receipt in receipts {
            let commit = page.commits.iter().find(|commit| commit.id == receipt.commit);
            let stands = commit.map(|commit| (commit.first_revision, commit.last_revision(), commit.number));
            ensure_eq!(stands, Some((receipt.first, receipt.last, receipt.number)), "place of an acknowledged commit");
        }
    }
    Ok(Outcome::Held)
}

async fn streams_do_not_conflict(context: Context) -> Result<Outcome, Broken> {
    for _ in 0..context.rounds(5) {
        let streams: Vec<_> = (0..CALLERS).map(|_| context.stream()).collect();
        let answers = context
            .together(CALLERS, |caller| {
                let (context, stream) = (context.clone(), streams[caller].clone());
                async move {
                    for head in 0..5 {
                        context.append(&stream, Expected::At(Revision(head)), 1).await?;
                    }
                    Ok::<(), Error>(())
                }
            })
            .await?;
        for answer in answers {
            answer?;
        }
        for stream in &streams {
            let head = context.read(stream).await?.head.revision;
            ensure_eq!(head, Revision(5), "head of a stream after five appends");
        }
    }
    Ok(Outcome::Held)
}

async fn identical_appends_are_made_once(context: Context) -> Result<Outcome, Broken> {
    for _ in 0..context.rounds(10) {
        let stream = context.stream();
        let request = context.request(&stream, Expected::Any, context.commit_id(), context.events(2))?;
        let answers = context
            .together(CALLERS, |_| {
                let (context, request) = (context.clone(), request.clone());
                async move { context.store().append(request).await }
            })
            .await?;
        let receipts = answers.into_iter().collect::<Result<Vec<_>, Error>>()?;
        let first = receipts.iter().filter(|receipt| !receipt.repeated).count();
        ensure_eq!(first, 1, "receipts that are not repeated");
        for receipt in &receipts {
            let numbers = (receipt.first, receipt.last, receipt.number.0, receipt.digest, receipt.recorded_at);
            let wanted = (Revision(1), Revision(2), 1, receipts[0].digest, receipts[0].recorded_at);
            ensure_eq!(numbers, wanted, "receipt of the same commit");
        }
        ensure_eq!(revisions(&context.read(&stream).await?), [1, 2].map(Revision), "revisions of the stream");
    }
    Ok(Outcome::Held)
}

async fn clients_see_each_other(context: Context) -> Result<Outcome, Broken> {
    let other = context.another_client().await?;
    let stream = context.stream();
    for round in 0..context.rounds(20) {
        context.append(&stream, Expected::At(Revision(round * 2)), 1).await?;
        let head = other.head(evstore_api::ReadHead { stream: stream.clone(), deadline: context.deadline() }).await?;
        ensure_eq!(head.revision, Revision(round * 2 + 1), "head that the other client sees");
        let request = context.request(&stream, Expected::At(head.revision), context.commit_id(), context.events(1))?;
        other.append(request).await?;
        let stale = context.append(&stream, Expected::At(head.revision), 1).await;
        ensure_kind!(stale, Conflict, "an append that does not know of the other client's");
    }
    other.close().await?;
    Ok(Outcome::Held)
}

async fn decisions_under_contention_are_serial(context: Context) -> Result<Outcome, Broken> {
    let (stream, each) = (context.stream(), context.rounds(5));
    let answers = context
        .together(CALLERS, |_| {
            let (context, stream) = (context.clone(), stream.clone());
            async move {
                let mut conflicts = 0_u64;
                for _ in 0..each {
                    let mut head = context.read(&stream).await?.head.revision;
                    while let Err(error) = context.append(&stream, Expected::At(head), 1).await {
                        match (error.kind(), error.head()) {
                            (ErrorKind::Conflict, Some(found)) => head = found.revision,
                            _ => return Err(error),
                        }
                        conflicts += 1;
                    }
                }
                Ok(conflicts)
            }
        })
        .await?;
    for answer in answers {
        answer?;
    }
    let head = context.read(&stream).await?.head.revision;
    ensure_eq!(head, Revision(CALLERS as u64 * each), "head after every decision was appended");
    Ok(Outcome::Held)
}

async fn a_stalled_writer_conflicts(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    context.append(&stream, Expected::NoStream, 1).await?;
    let stalled = context.request(&stream, Expected::At(Revision(1)), context.commit_id(), context.events(3))?;
    let id = stalled.commit.id;
    context.append(&stream, Expected::At(Revision(1)), 1).await?;
    ensure_kind!(context.store().append(stalled).await, Conflict, "the stalled append");
    let page = context.read(&stream).await?;
    ensure!(page.commits.iter().all(|commit| commit.id != id), "the stalled commit is in the stream");
    ensure_eq!(revisions(&page), [1, 2].map(Revision), "revisions of the stream");
    Ok(Outcome::Held)
}

async fn the_expectation_is_checked_at_the_commit(context: Context) -> Result<Outcome, Broken> {
    let other = context.another_client().await?;
    for _ in 0..context.rounds(30) {
        let stream = context.stream();
        // Both begin while the head is 0; whichever is made second must see what the first made.
        let request = |count| context.request(&stream, Expected::NoStream, context.commit_id(), context.events(count));
        let (first, second) = (context.store().append(request(1)?), other.append(request(2)?));
        let (first, second) = futures::join!(first, second);
        let loser = match (first, second) {
            (Ok(_), Err(loser)) | (Err(loser), Ok(_)) => loser,
            (first, second) => return Err(Broken::new(format!("not one of two was made: {first:?}, {second:?}"))),
        };
        ensure_kind!(Err::<(), _>(loser), Conflict, "the second of two appends to a new stream");
    }
    other.close().await?;
    Ok(Outcome::Held)
}

/// Calls kept in memory.
#[derive(Debug, Default)]
struct Kept(Mutex<Vec<Operation>>);

impl Sink for Kept {
    fn operation(&self, operation: Operation) {
        let answered = operation.returned_at != history::record::Returned::Never;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The line before the call is only needed when no answer follows, and a task always gets one, unknown or not.
        if answered || matches!(operation.call, history::record::Call::Append(_)) {
            kept.push(operation);
        }
    }
}

impl Kept {
    /// Of several records of one attempt the last counts.
    fn take(&self) -> Vec<Operation> {
        let mut kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let key = |operation: &Operation| (operation.client, operation.operation, operation.attempt);
        kept.reverse();
        kept.sort_by_key(key);
        kept.dedup_by_key(|operation| key(operation));
        kept
    }
}

/// Streams of one race: few, so that clients meet.
fn arena(context: &Context, count: usize) -> Vec<StreamId> {
    (0..count).map(|_| context.stream()).collect()
}

async fn histories_of_threads_are_serial(context: Context) -> Result<Outcome, Broken> {
    for round in 0..context.rounds(3) {
        let fresh = context.fresh().await?;
        let (streams, kept) = (arena(&context, 3), Arc::new(Kept::default()));
        let seed = crate::seed::Seed(context.seed().0 ^ round).next_u64();
        let quiet = Arc::new(AtomicBool::new(false));
        let tails: Vec<_> = (0..2)
            .map(|number| tokio::spawn(tail(fresh.store.clone(), number, seed ^ number, quiet.clone())))
            .collect();
        context
            .together(CALLERS, |client| {
                let (store, kept, streams) = (fresh.store.clone(), kept.clone(), streams.clone());
                async move {
                    let plan = Plan { client: client as u64, streams, calls: 40, seed: seed ^ (client as u64) << 32 };
                    race::run(&*store, plan, &*kept).await;
                }
            })
            .await?;
        let history = History { operations: Vec::new(), ..History::default() };
        judge(&context, &fresh, streams, history, &kept, seed, (quiet, tails)).await?;
    }
    Ok(Outcome::Held)
}

type Tails = (Arc<AtomicBool>, Vec<tokio::task::JoinHandle<Result<Vec<history::record::SubscriptionRun>, Broken>>>);

/// Ends a race: barriers, what is there, what the subscribers got; then the whole history is checked.
async fn judge(
    context: &Context,
    fresh: &Fresh,
    streams: Vec<StreamId>,
    mut history: History,
    kept: &Kept,
    seed: u64,
    (quiet, tails): Tails,
) -> Result<(), Broken> {
    let plan = Plan { client: u64::from(u32::MAX), streams: streams.clone(), calls: 0, seed: !seed };
    race::barrier(&*fresh.store, plan, kept).await?;
    history.operations.extend(kept.take());
    history.final_streams = race::final_streams(&*fresh.admin, &streams).await?;
    let events = history.final_streams.iter().flat_map(|stream| &stream.commits).map(|commit| match &commit.body {
        history::record::FinalBody::Events { events, .. } => events.len(),
        _ => 0,
    });
    history.final_feed = Some(race::final_feed(&*fresh.store, events.sum()).await?);
    quiet.store(true, Ordering::SeqCst);
    for tail in tails {
        let runs = tail.await.map_err(|panic| Broken::new(format!("a subscriber panicked: {panic}")))?;
        history.runs.extend(runs?);
    }
    let verdict = history::check(&history, &race::claims(context.capabilities()));
    if verdict.held() {
        return Ok(());
    }
    let shown = verdict.to_string();
    let mut lines = shown.lines().map(str::to_owned);
    let message = lines.next().unwrap_or_default();
    Err(Broken::shown_by(format!("{message} (seed {seed})"), lines.take(60).collect()))
}

/// Why a check of several processes can't be run, if so.
fn without_processes(context: &Context) -> Option<Outcome> {
    match (context.capabilities().processes, context.worker()) {
        (Processes::One, _) => Some(Outcome::Refused("the store is open in one process at a time".into())),
        (_, None) => Some(Outcome::NotRun("there is no command to start another process with".into())),
        (Processes::ManyLocal | Processes::Many, Some(_)) => None,
    }
}

async fn histories_of_processes_are_serial(context: Context) -> Result<Outcome, Broken> {
    match without_processes(&context) {
        Some(outcome) => Ok(outcome),
        None => race_of_processes(context, Fate::Ends).await,
    }
}

async fn killed_processes_lose_nothing_acknowledged(context: Context) -> Result<Outcome, Broken> {
    match without_processes(&context) {
        Some(outcome) => Ok(outcome),
        None => race_of_processes(context, Fate::Killed).await,
    }
}

/// What becomes of the processes of a race.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// Each does all of its calls.
    Ends,
    /// Each is killed at a random moment.
    Killed,
}

/// Processes of one race.
const PROCESSES: u64 = 3;
/// Clients in each.
const CLIENTS: u64 = 3;

async fn race_of_processes(context: Context, fate: Fate) -> Result<Outcome, Broken> {
    let Some(command) = context.worker().cloned() else {
        return Ok(Outcome::NotRun("there is no command to start another process with".into()));
    };
    let unstarted = |error: std::io::Error| Broken::new(format!("a process could not be started or read: {error}"));
    for round in 0..context.rounds(2) {
        let fresh = context.fresh().await?;
        let (streams, kept) = (arena(&context, 4), Kept::default());
        let mut random = crate::seed::Seed(context.seed().0 ^ round);
        let seed = random.next_u64();
        let quiet = Arc::new(AtomicBool::new(false));
        let tails = vec![tokio::spawn(tail(fresh.store.clone(), 0, seed, quiet.clone()))];
        let calls = if fate == Fate::Killed { u64::MAX } else { 40 };
        let job = Job::new(&context.target().provider, &fresh.settings, &streams, seed);
        let mut reading = Vec::new();
        for process in 0..PROCESSES {
            let job = job.clone().with_clients(process * CLIENTS, CLIENTS, calls);
            let mut child = job.start(&command).await.map_err(unstarted)?;
            let life = (fate == Fate::Killed).then(|| Duration::from_millis(150 + random.below(500)));
            reading.push(tokio::spawn(async move {
                let mut text = Vec::new();
                let mut out = child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
                let read = out.read_to_end(&mut text);
                match life {
                    None => drop(read.await?),
                    // What it wrote until it was killed is read to the end.
                    Some(life) => {
                        let killed = async {
                            tokio::time::sleep(life).await;
                            child.kill().await
                        };
                        let (read, killed) = futures::join!(read, killed);
                        killed?;
                        read?;
                    }
                }
                let status = child.wait().await?;
                Ok::<_, std::io::Error>((text, status))
            }));
        }
        let mut history = History::default();
        for process in reading {
            let ended = process.await.map_err(|panic| Broken::new(format!("a reader panicked: {panic}")))?;
            let (text, status) = ended.map_err(unstarted)?;
            ensure!(fate == Fate::Killed || status.success(), "a process failed: {status}");
            let part =
                lines::read(&*text).map_err(|error| Broken::new(format!("a process wrote nonsense: {error}")))?;
            history.operations.extend(part.operations);
        }
        context.note(format!("{} calls of {PROCESSES} processes, seed {seed}", history.operations.len()));
        ensure!(!history.operations.is_empty(), "the processes made no call at all");
        judge(&context, &fresh, streams, history, &kept, seed, (quiet, tails)).await?;
    }
    Ok(Outcome::Held)
}
