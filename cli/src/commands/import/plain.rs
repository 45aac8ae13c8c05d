//! Appends a log: many streams at a time, each in its order, so that a store can put many commits into one write.

use super::Imported;
use super::incoming::{Incoming, Numbered};
use crate::failure::{Failure, Result};
use crate::line::{Body, EventLine};
use crate::session::{Session, deadline};
use evstore_api::capabilities::Window;
use evstore_api::{
    Append, CommitId, CommitKind, ContentDigest, Direction, Error, ErrorKind, EventStore, Events, Expected, NewCommit,
    ReadStream, Revision, StreamId, StreamStart, format,
};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Appends that are under way at a time. A stream always takes the same lane, so its order holds.
const LANES: usize = 256;
/// Commits that wait in a lane.
const LANE_WAITING_MAX: usize = 16;
/// Most bytes of one page while a stream that was there before is looked through.
const PAGE_BYTES: u64 = 4 << 20;

/// A commit that is ready to be appended.
#[derive(Debug)]
struct Ready {
    line: u64,
    stream: StreamId,
    expected: Expected,
    commit: NewCommit,
}

/// What the lanes report.
#[derive(Debug, Default)]
struct Tally {
    added: AtomicU64,
    present: AtomicU64,
    /// The failure of the earliest line.
    failed: Mutex<Option<(u64, Error)>>,
}

impl Tally {
    fn fail(&self, line: u64, error: Error) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.as_ref().is_none_or(|(earlier, _)| line < *earlier) {
            *failed = Some((line, error));
        }
    }

    fn has_failed(&self) -> bool {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Appends every line.
pub async fn run(mut incoming: Incoming, dry_run: bool, session: &mut Session) -> Result<Imported> {
    let mut assembly = Assembly::default();
    if dry_run {
        while let Some(ready) = assembly.next(&mut incoming).await? {
            assembly.events += u64::from(ready.commit.events.count());
        }
        return Ok(assembly.imported(&incoming, &Tally::default()));
    }
    let store = session.open_store().await?;
    let tally = Arc::new(Tally::default());
    let mut tasks = JoinSet::new();
    let mut lanes = Vec::with_capacity(LANES);
    for _ in 0..LANES {
        let (sender, receiver) = mpsc::channel(LANE_WAITING_MAX);
        tasks.spawn(append_lane(store.clone(), receiver, tally.clone()));
        lanes.push(sender);
    }
    let fed = feed_lanes(&mut assembly, &mut incoming, &lanes, &tally).await;
    // What is on its way is finished before anything is said.
    drop(lanes);
    while tasks.join_next().await.is_some() {}
    let failed = tally.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((line, error)) = failed {
        return Err(told(incoming.at(error, line), &tally));
    }
    fed?;
    Ok(assembly.imported(&incoming, &tally))
}

/// What was done before it failed is done: saying so spares the question.
fn told(error: Error, tally: &Tally) -> Failure {
    error.with("events_added_before", tally.added.load(Ordering::Relaxed)).into()
}

async fn feed_lanes(
    assembly: &mut Assembly,
    incoming: &mut Incoming,
    lanes: &[mpsc::Sender<Ready>],
    tally: &Tally,
) -> Result {
    while !tally.has_failed() {
        let ready = match assembly.next(incoming).await {
            Ok(Some(ready)) => ready,
            Ok(None) => break,
            Err(Failure::Store(error)) => return Err(told(error, tally)),
            Err(other) => return Err(other),
        };
        assembly.events += u64::from(ready.commit.events.count());
        let mut hasher = DefaultHasher::new();
        ready.stream.hash(&mut hasher);
        let lane = &lanes[(hasher.finish() % LANES as u64) as usize];
        if lane.send(ready).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn append_lane(store: Arc<dyn EventStore>, mut receiver: mpsc::Receiver<Ready>, tally: Arc<Tally>) {
    let mut known = Known::default();
    while let Some(ready) = receiver.recv().await {
        // Later lines of a stream must not be stored without the earlier one; other streams need not go on either.
        if tally.has_failed() {
            continue;
        }
        let (line, events) = (ready.line, u64::from(ready.commit.events.count()));
        match known.append(&*store, ready).await {
            Ok(true) => drop(tally.added.fetch_add(events, Ordering::Relaxed)),
            Ok(false) => drop(tally.present.fetch_add(events, Ordering::Relaxed)),
            Err(error) => tally.fail(line, error),
        }
    }
}

/// What was in a stream before, for stores that recognise only the most recent commits by their ids.
#[derive(Default)]
struct Known {
    streams: HashMap<StreamId, HashMap<CommitId, ContentDigest>>,
}

impl Known {
    /// Appends a commit unless it is there; says whether it was written.
    async fn append(&mut self, store: &dyn EventStore, ready: Ready) -> Result<bool, Error> {
        if store.capabilities().idempotency != Window::Forever && self.has(store, &ready).await? {
            return Ok(false);
        }
        let Ready { stream, expected, commit, .. } = ready;
        let id = commit.id;
        let request = Append { stream: stream.clone(), expected, commit, deadline: deadline() };
        match store.append(request).await {
            Ok(receipt) => Ok(!receipt.repeated),
            Err(error) if error.kind() == ErrorKind::IdReused => Err(changed(&stream, id)),
            Err(error) => Err(error.with("stream", stream)),
        }
    }

    async fn has(&mut self, store: &dyn EventStore, ready: &Ready) -> Result<bool, Error> {
        if !self.streams.contains_key(&ready.stream) {
            let commits = commits_of(store, &ready.stream).await?;
            self.streams.insert(ready.stream.clone(), commits);
        }
        let Some(stored) = self.streams.get(&ready.stream).and_then(|commits| commits.get(&ready.commit.id)) else {
            return Ok(false);
        };
        let events = ready.commit.clone().recorded()?;
        let digest = format::digest(&ready.stream, ready.commit.id, &CommitKind::Events, &events);
        if digest == *stored { Ok(true) } else { Err(changed(&ready.stream, ready.commit.id)) }
    }
}

fn changed(stream: &StreamId, commit: CommitId) -> Error {
    Error::new(ErrorKind::IdReused, "a line differs from what was imported before; give it an id of its own, or undo the change")
        .with("stream", stream)
        .of_commit(commit)
}

/// Every commit of a stream, with its digest.
async fn commits_of(store: &dyn EventStore, stream: &StreamId) -> Result<HashMap<CommitId, ContentDigest>, Error> {
    let mut commits = HashMap::new();
    let mut from = StreamStart::First;
    loop {
        let request = ReadStream {
            stream: stream.clone(),
            from,
            direction: Direction::Forward,
            limit: store.capabilities().limits.page_items,
            max_bytes: PAGE_BYTES,
            deadline: deadline(),
        };
        let page = store.read_stream(request).await?;
        commits.extend(page.commits.iter().map(|commit| (commit.id, commit.digest)));
        match page.next {
            Some(next) => from = StreamStart::At(next),
            None => return Ok(commits),
        }
    }
}

/// Makes commits of lines.
#[derive(Default)]
struct Assembly {
    /// How many lines of each stream there were.
    ordinals: HashMap<StreamId, u64>,
    events: u64,
}

impl Assembly {
    /// The next commit.
    async fn next(&mut self, incoming: &mut Incoming) -> Result<Option<Ready>> {
        let Some(first) = incoming.next().await? else { return Ok(None) };
        let number = first.number;
        let first = event_of(first).map_err(|error| incoming.at(error, number))?;
        let ordinal = self.ordinal(&first.stream);
        let id = first.commit.unwrap_or_else(|| derived_commit(&first, ordinal));
        let expected = first.revision.map_or(Expected::Any, |revision| Expected::At(Revision(revision.0 - 1)));
        let (stream, given, mut revision) = (first.stream, first.commit, first.revision);
        let mut events = vec![first.event];
        while given.is_some() && continues(incoming.peek().await?, &stream, id) {
            let Some(next) = incoming.next().await? else { break };
            let number = next.number;
            let next = event_of(next).map_err(|error| incoming.at(error, number))?;
            self.ordinal(&stream);
            revision = next_revision(revision, next.revision).map_err(|error| incoming.at(error, number))?;
            events.push(next.event);
        }
        let events = Events::new(events).map_err(|error| incoming.at(error, number))?;
        Ok(Some(Ready { line: number, stream, expected, commit: NewCommit { id, events } }))
    }

    /// How many lines of this stream there were before.
    fn ordinal(&mut self, stream: &StreamId) -> u64 {
        match self.ordinals.get_mut(stream) {
            Some(ordinal) => {
                *ordinal += 1;
                *ordinal
            }
            None => {
                self.ordinals.insert(stream.clone(), 0);
                0
            }
        }
    }

    fn imported(&self, incoming: &Incoming, tally: &Tally) -> Imported {
        Imported {
            lines: incoming.lines(),
            events: self.events,
            added: tally.added.load(Ordering::Relaxed),
            present: tally.present.load(Ordering::Relaxed),
            streams: self.ordinals.len() as u64,
            restored: false,
        }
    }
}

fn event_of(line: Numbered) -> Result<EventLine, Error> {
    match line.line.body {
        Body::Event(event) if line.line.export.is_none() => Ok(event),
        Body::Event(_) | Body::Bare(_) | Body::Removed { .. } | Body::Snapshot(_) | Body::Checkpoint(_) => {
            Err(Error::new(
                ErrorKind::Invalid,
                "a line is part of an export, and the file does not begin as one; restore the whole export, or leave \
                 this line out to append the events as new",
            ))
        }
    }
}

/// A line has an identity of its own, so that it is stored once however often the file is imported.
fn derived_commit(line: &EventLine, ordinal: u64) -> CommitId {
    let (namespace, name) = (line.stream.namespace.as_str().as_bytes(), line.stream.name.as_str().as_bytes());
    match line.event.id {
        Some(id) => CommitId::derive(&[b"import event", namespace, name, &id.0]),
        None => CommitId::derive(&[b"import line", namespace, name, &ordinal.to_le_bytes()]),
    }
}

/// Whether a line belongs to the commit of the line before.
fn continues(next: Option<&Numbered>, stream: &StreamId, id: CommitId) -> bool {
    next.is_some_and(|next| match &next.line.body {
        Body::Event(event) => event.commit == Some(id) && event.stream == *stream,
        Body::Bare(_) | Body::Removed { .. } | Body::Snapshot(_) | Body::Checkpoint(_) => false,
    })
}

/// The events of a commit take neighbouring revisions.
fn next_revision(before: Option<Revision>, given: Option<Revision>) -> Result<Option<Revision>, Error> {
    let wanted = before.map(Revision::next);
    match given {
        Some(given) if Some(given) != wanted => {
            let wanted = wanted.map_or("none".into(), |wanted| wanted.to_string());
            Err(Error::new(ErrorKind::Invalid, "a revision does not follow the one before in its commit")
                .with("given", given)
                .with("wanted", wanted))
        }
        _ => Ok(wanted),
    }
}
