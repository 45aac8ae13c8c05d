//! Concurrent clients, in tasks, on threads and in processes: properties 35, 39 and 43 to 50.

use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::{Context, Fresh, page_of, revisions};
use crate::history::record::{Append, AppendOutcome, Call, Operation, PrefixPoll, SubscriptionRun};
use crate::history::{self, History};
use crate::race::{self, Plan, Sink};
use crate::tail::{poll, tail};
use crate::target::WorkerCommand;
use crate::worker::Job;
use evstore_api::capabilities::{Durability, Processes};
use evstore_api::{
    Appended, CommitId, CommitNumber, Error, ErrorKind, EventStore, Expected, FeedPage, FindCommit, ListStreams,
    NamespaceFilter, NewEvent, ReadHead, Revision, StreamId,
};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::task::JoinHandle;

pub(crate) static CHECKS: &[Check] = &[
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
        [35, 39, 43, 44, 50, 72, 78, 79, 80, 99],
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
        [32, 36, 38],
        killed_processes_lose_nothing_acknowledged
    ),
];

/// How long an append may wait for one whose caller does not go on with it, before it is asked again.
const STALL_MAX: Duration = Duration::from_secs(2);
/// Callers of the small races: more than the cores of any test machine's half, few enough to read their trace.
const CALLERS: usize = 8;

async fn append_to(
    context: &Context,
    store: &dyn EventStore,
    stream: &StreamId,
    expected: Expected,
    count: u32,
) -> Result<Appended, Error> {
    store.append(context.request(stream, expected, context.commit_id(), context.events(count))?).await
}

async fn one_append_wins_each_revision(context: Context) -> Result<Outcome, Broken> {
    let clients = context.two_clients().await?;
    for _ in 0..context.rounds(20) {
        let stream = context.stream();
        for head in 0..3 {
            let answers = context
                .together(CALLERS, |caller| {
                    let (context, stream, store) = (context.clone(), stream.clone(), clients[caller % 2].clone());
                    async move { append_to(&context, &*store, &stream, Expected::At(Revision(head)), 1).await }
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
    clients[1].close().await?;
    Ok(Outcome::Held)
}

async fn unconditional_appends_all_succeed(context: Context) -> Result<Outcome, Broken> {
    let clients = context.two_clients().await?;
    for _ in 0..context.rounds(10) {
        let stream = context.stream();
        let answers = context
            .together(CALLERS, |caller| {
                let (context, stream, store) = (context.clone(), stream.clone(), clients[caller % 2].clone());
                async move { append_to(&context, &*store, &stream, Expected::Any, 1 + caller as u32 % 3).await }
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
    clients[1].close().await?;
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
    let clients = context.two_clients().await?;
    for _ in 0..context.rounds(10) {
        let stream = context.stream();
        let request = context.request(&stream, Expected::Any, context.commit_id(), context.events(2))?;
        let answers = context
            .together(CALLERS, |caller| {
                let (store, request) = (clients[caller % 2].clone(), request.clone());
                async move { store.append(request).await }
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
    clients[1].close().await?;
    Ok(Outcome::Held)
}

async fn clients_see_each_other(context: Context) -> Result<Outcome, Broken> {
    let other = context.another_client().await?;
    let stream = context.stream();
    for round in 0..context.rounds(20) {
        context.append(&stream, Expected::At(Revision(round * 2)), 1).await?;
        let head = other.head(ReadHead { stream: stream.clone(), deadline: context.deadline() }).await?;
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
    let clients = context.two_clients().await?;
    let (stream, each) = (context.stream(), context.rounds(5));
    let answers = context
        .together(CALLERS, |caller| {
            let (context, stream, store) = (context.clone(), stream.clone(), clients[caller % 2].clone());
            async move {
                for _ in 0..each {
                    let mut head = context.read_from(&*store, &stream).await?.head.revision;
                    while let Err(error) = decide(&context, &*store, &stream, head).await {
                        match (error.kind(), error.head()) {
                            (ErrorKind::Conflict, Some(found)) => head = found.revision,
                            _ => return Err(error),
                        }
                    }
                }
                Ok(())
            }
        })
        .await?;
    for answer in answers {
        answer?;
    }
    let page = context.read(&stream).await?;
    ensure_eq!(page.head.revision, Revision(CALLERS as u64 * each), "head after every decision was appended");
    for event in page.events() {
        let stands_behind = Revision(event.revision().0 - 1);
        let decided = &event.event.metadata;
        ensure_eq!(**decided, *decided_on(stands_behind), "what the event at {} was decided on", event.revision());
    }
    clients[1].close().await?;
    Ok(Outcome::Held)
}

/// Appends an event that says on which revision it was decided.
async fn decide(
    context: &Context,
    store: &dyn EventStore,
    stream: &StreamId,
    head: Revision,
) -> Result<Appended, Error> {
    let event = NewEvent { metadata: decided_on(head).into(), ..context.event() };
    store.append(context.request(stream, Expected::At(head), context.commit_id(), vec![event])?).await
}

fn decided_on(head: Revision) -> Vec<u8> {
    format!("decided on {head}").into_bytes()
}

async fn a_stalled_writer_conflicts(context: Context) -> Result<Outcome, Broken> {
    let other = context.another_client().await?;
    for _ in 0..context.rounds(5) {
        let stream = context.stream();
        context.append(&stream, Expected::NoStream, 1).await?;
        let request =
            |count| context.request(&stream, Expected::At(Revision(1)), context.commit_id(), context.events(count));
        let (stalled, quick, late) = (request(3)?, request(1)?, request(2)?);
        let ids = [stalled.commit.id, quick.commit.id, late.commit.id];
        // The first is under way, however far that is, while the second is made.
        let mut first = context.store().append(stalled);
        let begun = futures::poll!(&mut first);
        let second = tokio::time::timeout(STALL_MAX, other.append(quick.clone())).await;
        let first = match begun {
            Poll::Ready(answer) => answer,
            Poll::Pending => first.await,
        };
        let second = match second {
            Ok(answer) => answer,
            // It may wait for the first, which nobody went on with: whose turn it is then is as open.
            Err(_) => other.append(quick).await,
        };
        // One that begins when the head has moved on.
        let third = context.store().append(late).await;
        let answers = [first, second, third];
        let won: Vec<_> = (0..3).filter(|&at| answers[at].is_ok()).collect();
        ensure!(won.len() == 1 && won[0] < 2, "of a stalled, a quick and a late append these were made: {won:?}");
        let page = context.read(&stream).await?;
        let feed = context.feed_of_own_streams(page.events().count()).await?;
        for (at, answer) in answers.into_iter().enumerate().filter(|(at, _)| *at != won[0]) {
            ensure_kind!(answer, Conflict, "an append at a head that has moved on");
            let nowhere = context.find(&stream, ids[at]).await?.is_none()
                && page
                    .commits
                    .iter()
                    .chain(feed.iter().flat_map(FeedPage::commits))
                    .all(|commit| commit.id != ids[at]);
            ensure!(nowhere, "a commit that conflicted is there");
        }
        let last = Revision(if won[0] == 0 { 4 } else { 2 });
        ensure_eq!(revisions(&page).last(), Some(&last), "last revision of the stream");
    }
    other.close().await?;
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
        if answered || matches!(operation.call, Call::Append(_)) {
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
        let handles = [fresh.store.clone(), context.open(&fresh.settings).await?];
        let (streams, kept) = (arena(&context, 3), Arc::new(Kept::default()));
        let seed = crate::seed::Seed(context.seed().0 ^ round).next_u64();
        let mut readers = Readers::default();
        for (handle, number) in handles.iter().zip(0..) {
            readers.tail(handle, number, seed ^ number);
        }
        readers.poll(&handles[1]);
        context
            .together(CALLERS, |client| {
                let (store, kept, streams) = (handles[client % 2].clone(), kept.clone(), streams.clone());
                async move {
                    let client = client as u64;
                    let plan = Plan { client, streams, calls: 40, seed: seed ^ client << 32, shared: seed };
                    race::run(&*store, plan, &*kept).await;
                }
            })
            .await?;
        let history = History { operations: Vec::new(), ..History::default() };
        judge(&context, &fresh, streams, history, &kept, seed, readers).await?;
        handles[1].close().await?;
    }
    Ok(Outcome::Held)
}

/// Who reads the feed while others race: those who tail it, and one who begins again and again. They end once it is quiet.
#[derive(Default)]
struct Readers {
    quiet: Arc<AtomicBool>,
    tails: Vec<JoinHandle<Result<Vec<SubscriptionRun>, Broken>>>,
    polls: Vec<JoinHandle<Result<Vec<PrefixPoll>, Broken>>>,
}

impl Readers {
    fn tail(&mut self, store: &Arc<dyn EventStore>, number: u64, seed: u64) {
        self.tails.push(tokio::spawn(tail(store.clone(), number, seed, self.quiet.clone())));
    }

    fn poll(&mut self, store: &Arc<dyn EventStore>) {
        self.polls.push(tokio::spawn(poll(store.clone(), POLLER, self.quiet.clone())));
    }
}

/// Ends a race: barriers, what is there, what the subscribers got; then the whole history is checked.
async fn judge(
    context: &Context,
    fresh: &Fresh,
    streams: Vec<StreamId>,
    mut history: History,
    kept: &Kept,
    seed: u64,
    readers: Readers,
) -> Result<(), Broken> {
    let plan = Plan { client: BARRIER, streams: streams.clone(), calls: 0, seed: !seed, shared: seed };
    race::barrier(&*fresh.store, plan, kept).await?;
    history.operations.extend(kept.take());
    history.final_streams = race::final_streams(&*fresh.admin, &streams).await?;
    let events = history.final_streams.iter().flat_map(|stream| &stream.commits).map(|commit| match &commit.body {
        history::record::FinalBody::Events { events, .. } => events.len(),
        _ => 0,
    });
    history.final_feed = Some(race::final_feed(&*fresh.store, events.sum()).await?);
    readers.quiet.store(true, Ordering::SeqCst);
    for poll in readers.polls {
        let polls = poll.await.map_err(|panic| Broken::new(format!("a reader of the feed panicked: {panic}")))?;
        history.polls.extend(polls?);
    }
    for tail in readers.tails {
        let runs = tail.await.map_err(|panic| Broken::new(format!("a subscriber panicked: {panic}")))?;
        history.runs.extend(runs?);
    }
    let verdict = history::check(&history, &race::claims(context.capabilities()));
    if verdict.held() {
        let ms = |nanos: u64| nanos / 1_000_000;
        let lag = verdict.feed.lag;
        if lag.count > 0 {
            let (half, most, all) = (ms(lag.p50_ns), ms(lag.p99_ns), ms(lag.max_ns));
            context.remark(format!(
                "{} events in subscribers' hands within {half} ms (half), {most} ms (99 of 100), {all} ms (all)",
                lag.count
            ));
        }
        let stale = verdict.streams.staleness;
        if stale.count > 0 {
            context.remark(format!("reads were behind by at most {} ms", ms(stale.max_ns)));
        }
        return ensure_derived(context, fresh, &streams, &history).await;
    }
    let shown = verdict.to_string();
    let mut lines = shown.lines().map(str::to_owned);
    let message = lines.next().unwrap_or_default();
    Err(Broken::shown_by(format!("{message} (seed {seed})"), lines.take(60).collect()))
}

/// After a race, that everything that is kept beside the commits says the same as they do.
async fn ensure_derived(
    context: &Context,
    fresh: &Fresh,
    streams: &[StreamId],
    history: &History,
) -> Result<(), Broken> {
    let store = &*fresh.store;
    context.settle().await;
    context.settle_lists().await;
    let mut listed = HashMap::new();
    let mut after = None;
    loop {
        let (namespace, prefix) = (NamespaceFilter::All, context.category().as_str().to_owned());
        let (limit, deadline) = (page_of(context.capabilities()), context.deadline());
        let request = ListStreams { namespace, category: None, prefix, after, limit, deadline };
        let page = store.list_streams(request).await?;
        listed.extend(page.streams.into_iter().map(|one| (one.stream, one.head)));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    for stream in streams {
        let text = stream.to_string();
        let commits = history.final_streams.iter().find(|one| one.stream == text).map(|one| &one.commits[..]);
        let last = commits.and_then(<[_]>::last).map(|commit| (CommitNumber(commit.number), CommitId(commit.id.0)));
        let Some((number, id)) = last else {
            return Err(Broken::new(format!("{stream} has no commit after a race")));
        };
        let head = store.head(ReadHead { stream: stream.clone(), deadline: context.deadline() }).await?;
        ensure_eq!((head.number, head.commit), (number, Some(id)), "head of {stream} beside its last commit");
        let page = context.read_from(store, stream).await?;
        ensure_eq!(page.head, head, "head of a page of {stream}");
        ensure_eq!(listed.get(stream), Some(&head), "head of {stream} in the list");
        let found = store.find_commit(FindCommit { stream: stream.clone(), commit: id, deadline: context.deadline() });
        let found = found.await?.map(|receipt| (receipt.number, receipt.last));
        ensure_eq!(found, Some((number, head.revision)), "the last commit of {stream}, found by its id");
    }
    // Those whose receipts were lost are found as well, wherever the log has them.
    for operation in history.operations.iter().filter(|operation| is_acknowledged(operation)).take(FOUND_MAX) {
        let Call::Append(Append { commit, outcome: AppendOutcome::Ok(receipt), .. }) = &operation.call else {
            continue;
        };
        let Some(stream) = streams.iter().find(|stream| stream.to_string() == operation.stream) else { continue };
        let commit = CommitId(commit.0);
        let found = store.find_commit(FindCommit { stream: stream.clone(), commit, deadline: context.deadline() });
        let found = found.await?.map(|found| (found.number.0, found.first.0, found.last.0));
        let wanted = Some((receipt.number, receipt.first, receipt.last));
        ensure_eq!(found, wanted, "a commit of {stream} that was acknowledged in a race, found by its id");
    }
    let head = store.feed_head(context.deadline()).await?;
    ensure_eq!(head.lag.commits, 0, "commits that a feed is behind which has given all of them");
    Ok(())
}

/// Most acknowledged commits that are looked for after a race.
const FOUND_MAX: usize = 200;

/// Numbers of the clients that end a race; no process has so many.
const BARRIER: u64 = u32::MAX as u64;
const REPEATER: u64 = BARRIER - 1;
const POLLER: u64 = BARRIER - 2;

/// Why a check of several processes can't be run, if so.
pub(super) fn without_processes(context: &Context) -> Option<Outcome> {
    match (context.capabilities().processes, context.worker()) {
        (Processes::One, _) => Some(Outcome::NotApplicable("the store is open in one process at a time".into())),
        (_, None) => Some(without_worker()),
        (Processes::ManyLocal | Processes::Many, Some(_)) => None,
    }
}

fn without_worker() -> Outcome {
    Outcome::NotRun("there is no command to start another process with".into())
}

async fn histories_of_processes_are_serial(context: Context) -> Result<Outcome, Broken> {
    if let Some(outcome) = without_processes(&context) {
        return Ok(outcome);
    }
    let Some(command) = context.worker().cloned() else { return Ok(without_worker()) };
    for round in 0..context.rounds(2) {
        race_of_processes(&context, &command, Race { round, ..Race::few(PROCESSES) }).await?;
    }
    Ok(Outcome::Held)
}

async fn killed_processes_lose_nothing_acknowledged(context: Context) -> Result<Outcome, Broken> {
    if context.capabilities().durability == Durability::Memory {
        return Ok(Outcome::NotApplicable("what was acknowledged is gone with the process that keeps it".into()));
    }
    let Some(command) = context.worker().cloned() else { return Ok(without_worker()) };
    let (processes, kept_open) = match context.capabilities().processes {
        Processes::One => (1, 0),
        Processes::ManyLocal | Processes::Many => (PROCESSES, context.rounds(1)),
    };
    let rounds = kept_open + context.rounds(1);
    let mut unanswered = 0;
    for round in 0.. {
        let fate = Fate::Killed(if round < kept_open { Handles::Kept } else { Handles::Reopened });
        unanswered += race_of_processes(&context, &command, Race { round, fate, ..Race::few(processes) }).await?;
        if round + 1 >= rounds && unanswered > 0 {
            break;
        }
        ensure!(round < rounds + ROUNDS_MORE, "no process was killed in the middle of an append in {round} rounds");
    }
    context.remark(format!(
        "tried by killing processes; whether commits survive what else {:?} says is for the tests of its engine",
        context.capabilities().durability
    ));
    Ok(Outcome::Held)
}

/// What becomes of the processes of a race.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// Each does all of its calls.
    Ends,
    /// Each is killed at a random moment.
    Killed(Handles),
}

/// Who has the store open while processes are killed.
#[derive(Clone, Copy, PartialEq)]
enum Handles {
    /// The process that judges, with handles that it opened before.
    Kept,
    /// Nobody but them: it is opened anew, and finds what they left.
    Reopened,
}

/// One race.
#[derive(Clone, Copy)]
struct Race<'a> {
    round: u64,
    arena: &'a Arena,
    fate: Fate,
}

impl Race<'static> {
    /// The catalog's own, of so many processes that end by themselves.
    fn few(processes: u64) -> Self {
        static ARENAS: [Arena; PROCESSES as usize] = [Arena::few(1), Arena::few(2), Arena::few(3)];
        Self { round: 0, arena: &ARENAS[processes as usize - 1], fate: Fate::Ends }
    }
}

/// How large a race is. The catalog's are small; a provider may race its own stores harder.
#[derive(Clone, Debug)]
pub struct Arena {
    /// Processes that race.
    pub processes: u64,
    /// Clients in each, all of which share its handle.
    pub clients: u64,
    /// Streams that all of them share.
    pub streams: usize,
    /// Calls that each client makes.
    pub calls: u64,
    /// Settings that the processes have otherwise than who judges them: another way to the same store, say.
    pub otherwise: Vec<(&'static str, String)>,
}

impl Arena {
    const fn few(processes: u64) -> Self {
        Self { processes, clients: CLIENTS, streams: 4, calls: 40, otherwise: Vec::new() }
    }
}

/// Races once in an arena: whatever the processes do, there is one order of all commits that explains every answer and the feed.
///
/// # Errors
/// What shows that there is none, or why it could not be tried.
pub(crate) async fn race_in(context: &Context, arena: &Arena) -> Result<(), Broken> {
    let command = context.worker().cloned();
    let command = command.ok_or_else(|| Broken::new("there is no command to start another process with"))?;
    race_of_processes(context, &command, Race { round: 0, arena, fate: Fate::Ends }).await.map(drop)
}

/// Processes of one race, where several may have a store open.
const PROCESSES: u64 = 3;
/// Clients in each.
const CLIENTS: u64 = 3;
/// Rounds more, when no process of the others was killed in the middle of an append.
const ROUNDS_MORE: u64 = 8;

/// True for an append that was acknowledged.
pub(super) fn is_acknowledged(operation: &Operation) -> bool {
    matches!(&operation.call, Call::Append(Append { outcome: AppendOutcome::Ok(_), .. }))
}

/// Races once; gives how many appends had no answer when their process was killed.
async fn race_of_processes(context: &Context, command: &WorkerCommand, race: Race<'_>) -> Result<usize, Broken> {
    let mut fresh = context.fresh().await?;
    let Arena { processes, clients, .. } = *race.arena;
    let (streams, kept) = (arena(context, race.arena.streams), Kept::default());
    let mut random = crate::seed::Seed(context.seed().0 ^ race.round);
    let seed = random.next_u64();
    let mut readers = Readers::default();
    let reopens = race.fate == Fate::Killed(Handles::Reopened);
    if reopens {
        fresh.close().await?;
    } else {
        readers.tail(&fresh.store, 0, seed);
        readers.poll(&fresh.store);
    }
    let calls = if race.fate == Fate::Ends { race.arena.calls } else { u64::MAX };
    let mut settings = fresh.settings.clone();
    for (key, value) in &race.arena.otherwise {
        settings = settings.with(key, value)?;
    }
    let job = Job::new(&context.target().provider, &settings, &streams, seed);
    let (mut reading, fate) = (Vec::new(), race.fate);
    for process in 0..processes {
        let mut running = job.clone().with_clients(process * clients, clients, calls).start(command).await?;
        let life = Duration::from_millis(20 + random.below(300));
        reading.push(tokio::spawn(async move {
            if fate == Fate::Ends {
                return running.ended().await;
            }
            let begun = running.read_until(is_acknowledged).await?;
            ensure!(begun, "a process ended before anything that it appended was acknowledged");
            running.killed_after(life).await
        }));
    }
    let mut history = History::default();
    for process in reading {
        let part = process.await.map_err(|panic| Broken::new(format!("a reader panicked: {panic}")))??;
        history.operations.extend(part.operations);
    }
    context.note(format!("{} calls of {processes} processes, seed {seed}", history.operations.len()));
    ensure!(history.operations.iter().any(is_acknowledged), "nothing that the processes appended was acknowledged");
    let unanswered = |operation: &&Operation| {
        matches!(&operation.call, Call::Append(Append { outcome: AppendOutcome::Ambiguous, .. }))
    };
    let unanswered = history.operations.iter().filter(unanswered).count();
    if reopens {
        fresh = context.reopened(&fresh.settings).await?;
        readers.tail(&fresh.store, 0, seed);
    }
    let plan = Plan { client: REPEATER, streams: streams.clone(), calls: 0, seed, shared: seed };
    race::repeat_twins(&*fresh.store, plan, &history.operations, &kept).await;
    judge(context, &fresh, streams, history, &kept, seed, readers).await?;
    if reopens {
        fresh.close().await?;
    }
    Ok(unanswered)
}
