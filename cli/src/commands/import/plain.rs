//! Appends a log, in the order of its lines and many at a time, so that a store can put many commits into one write.
//!
//! Each append expects exactly the revision that the one before it in its stream gives. So a stream never has its lines out
//! of order, whatever fails and whatever order a store takes them in; and a store that takes them as they come gives its
//! feed the order of the file.

use super::Imported;
use super::incoming::{Incoming, Numbered};
use crate::failure::{Failure, Result};
use crate::line::{Body, EventLine};
use crate::session::{Session, deadline};
use evstore_api::{
    Append, CommitId, CommitKind, ContentDigest, Direction, Error, ErrorKind, EventStore, Events, Expected, Namespace,
    NewCommit, ReadHead, ReadStream, Revision, StreamId, StreamStart, format,
};
use futures::future::BoxFuture;
use futures::stream::{self, FuturesUnordered};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, poll};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::oneshot;

/// Appends that are under way at a time.
const APPENDS_MAX: usize = 1024;
/// Lines whose streams are looked up together.
const LOOK_AHEAD: usize = 512;
/// Streams that are looked up at a time.
const LOOK_UPS_MAX: usize = 16;
/// Most bytes of one page while a stream that was there before is looked through.
const PAGE_BYTES: u64 = 4 << 20;

/// A commit that was read.
#[derive(Debug)]
struct Ready {
    line: u64,
    stream: StreamId,
    /// The revision that its first event has to get, where the line says so.
    revision: Option<Revision>,
    /// Whether the lines gave it an id, which others of the file may have too.
    named: bool,
    commit: NewCommit,
}

/// Appends every line.
pub async fn run(mut incoming: Incoming, dry_run: bool, session: &mut Session) -> Result<Imported> {
    let mut assembly = Assembly { namespace: session.namespace().cloned().unwrap_or_default(), ..Assembly::default() };
    let mut appends = match dry_run {
        false => Appends::new(Some(session.open_store_to_append().await?), Mode::Append),
        true => Appends::new(session.open_store_if_there().await?, Mode::Plan),
    };
    let read = append_all(&mut assembly, &mut incoming, &mut appends).await;
    // What is on its way is finished before anything is said.
    while appends.finish_one().await {}
    let added = appends.added;
    let told = |error: Error| error.with("events_added_before", added);
    if let Some((line, error)) = appends.failed.take() {
        return Err(told(incoming.at(error, line)).into());
    }
    read.map_err(|failure| match failure {
        Failure::Store(error) => told(error).into(),
        other => other,
    })?;
    Ok(assembly.imported(&incoming, appends.added, appends.present))
}

async fn append_all(assembly: &mut Assembly, incoming: &mut Incoming, appends: &mut Appends) -> Result {
    loop {
        let mut batch = Vec::new();
        let mut ended = Ok(false);
        while batch.len() < LOOK_AHEAD && (batch.is_empty() || incoming.has_waiting()) {
            match appends.beside(assembly.next(incoming)).await {
                Ok(Some(ready)) => batch.push(ready),
                Ok(None) => ended = Ok(true),
                // The good lines before a bad one are stored: the next run goes on from there either way.
                Err(failure) => ended = Err(failure),
            }
            if !matches!(ended, Ok(false)) {
                break;
            }
        }
        appends.look_up(&batch).await?;
        for ready in batch {
            assembly.events += u64::from(ready.commit.events.count());
            appends.begin(ready).await;
            if appends.failed.is_some() {
                return Ok(());
            }
        }
        if ended? {
            return Ok(());
        }
    }
}

/// What is known of a stream of the file.
struct StreamState {
    /// Its last revision, once everything that was begun is stored.
    revision: Revision,
    /// Commits that were there before the import, and those of the file that others of it could repeat.
    known: HashMap<CommitId, ContentDigest>,
    /// Tells the revision that the append that was begun last left; gone without a word when it failed.
    last: Option<oneshot::Receiver<Revision>>,
}

impl StreamState {
    fn missing() -> Self {
        Self { revision: Revision(0), known: HashMap::new(), last: None }
    }
}

/// How an append ended.
struct Ended {
    line: u64,
    events: u64,
    /// Whether it was written.
    result: Result<bool, Error>,
}

/// What is done with a commit that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Append,
    /// It is counted only.
    Plan,
}

/// Appends that are under way.
struct Appends {
    /// None where it is not made yet, and is only looked at.
    store: Option<Arc<dyn EventStore>>,
    mode: Mode,
    streams: HashMap<StreamId, StreamState>,
    running: FuturesUnordered<BoxFuture<'static, Ended>>,
    added: u64,
    present: u64,
    /// The failure of the earliest line.
    failed: Option<(u64, Error)>,
}

impl Appends {
    fn new(store: Option<Arc<dyn EventStore>>, mode: Mode) -> Self {
        let (streams, running) = (HashMap::new(), FuturesUnordered::new());
        Self { store, mode, streams, running, added: 0, present: 0, failed: None }
    }

    /// Finds out what is in streams that were not met before.
    async fn look_up(&mut self, batch: &[Ready]) -> Result {
        let mut new: Vec<&StreamId> =
            batch.iter().map(|ready| &ready.stream).filter(|stream| !self.streams.contains_key(stream)).collect();
        new.sort_unstable();
        new.dedup();
        let Some(store) = self.store.clone() else {
            let new: Vec<_> = new.into_iter().map(|stream| (stream.clone(), StreamState::missing())).collect();
            self.streams.extend(new);
            return Ok(());
        };
        let look_ups = new.into_iter().map(|stream| state_of(store.clone(), stream.clone()));
        let look_ups = stream::iter(look_ups).buffer_unordered(LOOK_UPS_MAX);
        let found: Vec<_> = self.beside(look_ups.try_collect()).await?;
        self.streams.extend(found);
        Ok(())
    }

    /// Begins to append a commit, unless it is there.
    async fn begin(&mut self, ready: Ready) {
        let (line, events) = (ready.line, u64::from(ready.commit.events.count()));
        let Some(state) = self.streams.get_mut(&ready.stream) else { return };
        if let Some(stored) = state.known.get(&ready.commit.id) {
            let result = same(&ready, *stored).map(|()| false);
            return self.end(Ended { line, events, result });
        }
        if let Some(given) = ready.revision.filter(|given| *given != state.revision.next()) {
            let error = Error::new(ErrorKind::Conflict, "a line has another revision than its stream would give it");
            let error = error.with("stream", &ready.stream).with("given", given).with("next", state.revision.next());
            return self.end(Ended { line, events, result: Err(error) });
        }
        if ready.named {
            match digest_of(&ready) {
                Ok(digest) => state.known.insert(ready.commit.id, digest),
                Err(error) => return self.end(Ended { line, events, result: Err(error) }),
            };
        }
        let expected = state.revision;
        state.revision = expected.plus(events);
        let (Some(store), Mode::Append) = (self.store.clone(), self.mode) else {
            return self.end(Ended { line, events, result: Ok(true) });
        };
        let (done, when_done) = oneshot::channel();
        let before = state.last.replace(when_done);
        let mut append = append(store, ready, expected, before, done).boxed();
        // Asked once at its turn: that puts it into the store's queue, before those that come after it.
        match poll!(&mut append) {
            Poll::Ready(ended) => self.end(ended),
            Poll::Pending => self.running.push(append),
        }
        while self.running.len() >= APPENDS_MAX && self.finish_one().await {}
    }

    /// Waits for something else while appends go on. One that nobody asks how it is does nothing, and may hold a place in the store's queue
    /// that the other waits for.
    async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        loop {
            tokio::select! {
                found = &mut other => return found,
                Some(ended) = self.running.next() => self.end(ended),
            }
        }
    }

    /// Waits for one append; says whether there was one.
    async fn finish_one(&mut self) -> bool {
        match self.running.next().await {
            Some(ended) => {
                self.end(ended);
                true
            }
            None => false,
        }
    }

    fn end(&mut self, ended: Ended) {
        match ended.result {
            Ok(true) => self.added += ended.events,
            Ok(false) => self.present += ended.events,
            Err(error) => {
                if self.failed.as_ref().is_none_or(|(earlier, _)| ended.line < *earlier) {
                    self.failed = Some((ended.line, error));
                }
            }
        }
    }
}

/// Appends one commit after the one before it in its stream.
async fn append(
    store: Arc<dyn EventStore>,
    ready: Ready,
    mut expected: Revision,
    before: Option<oneshot::Receiver<Revision>>,
    done: oneshot::Sender<Revision>,
) -> Ended {
    let events = u64::from(ready.commit.events.count());
    let request = |expected| Append {
        stream: ready.stream.clone(),
        expected: Expected::At(expected),
        commit: ready.commit.clone(),
        deadline: deadline(),
    };
    let is_conflict = |answer: &Result<_, Error>| matches!(answer, Err(error) if error.kind() == ErrorKind::Conflict);
    // One without an answer that is sent again before the one before it was stored does not find its place, and its first sending may
    // yet be taken: so that is not known either.
    let came_early = |answer: &Result<_, Error>| matches!(answer, Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Indeterminate));
    let mut answer = store.append(request(expected)).await;
    if came_early(&answer)
        && let Some(before) = before
        && let Ok(revision) = before.await
    {
        // The store took this one first, or the one before was there already. Now it has its turn: its id tells whether it was stored.
        expected = revision;
        answer = store.append(request(expected)).await;
    }
    if is_conflict(&answer) && is_there(&*store, &ready, expected).await {
        let _ = done.send(expected.plus(events));
        return Ended { line: ready.line, events, result: Ok(false) };
    }
    let result = match answer {
        Ok(receipt) => {
            // A repeat of what was stored somewhere else in the stream takes no revision here.
            let is_here = receipt.last == expected.plus(events);
            // Nobody waits where the file has no more of this stream.
            let _ = done.send(if is_here { expected.plus(events) } else { expected });
            Ok(!receipt.repeated)
        }
        Err(error) if error.kind() == ErrorKind::IdReused => Err(changed(&ready)),
        Err(error) if error.kind() == ErrorKind::Conflict => Err(Error::new(
            ErrorKind::Conflict,
            "someone else appended to a stream of the file; import it again to go on",
        )
        .with("stream", &ready.stream)
        .caused_by(error)),
        Err(error) => Err(error.with("stream", &ready.stream)),
    };
    Ended { line: ready.line, events, result }
}

/// Whether someone else imported the same line meanwhile: it is then just where it would have been put.
async fn is_there(store: &dyn EventStore, ready: &Ready, expected: Revision) -> bool {
    let request = ReadStream {
        stream: ready.stream.clone(),
        from: StreamStart::At(expected.next()),
        direction: Direction::Forward,
        limit: 1,
        max_bytes: PAGE_BYTES,
        deadline: deadline(),
    };
    // Where it can't be read, the conflict is what is told.
    let Ok(page) = store.read_stream(request).await else { return false };
    page.commits.first().is_some_and(|commit| {
        commit.id == ready.commit.id && digest_of(ready).is_ok_and(|digest| digest == commit.digest)
    })
}

/// Compares a line with the commit that was stored for it.
fn same(ready: &Ready, stored: ContentDigest) -> Result<(), Error> {
    if digest_of(ready)? == stored { Ok(()) } else { Err(changed(ready)) }
}

fn digest_of(ready: &Ready) -> Result<ContentDigest, Error> {
    let events = ready.commit.clone().recorded()?;
    Ok(format::digest(&ready.stream, ready.commit.id, &CommitKind::Events, &events))
}

fn changed(ready: &Ready) -> Error {
    Error::new(
        ErrorKind::IdReused,
        "a line differs from what was imported before; undo the change, or give it an id of its own",
    )
    .with("stream", &ready.stream)
    .of_commit(ready.commit.id)
}

/// What is in a stream. Its commits are remembered by id and digest, because a store need not recognise old ones by itself.
async fn state_of(store: Arc<dyn EventStore>, stream: StreamId) -> Result<(StreamId, StreamState), Error> {
    let head = store.head(ReadHead { stream: stream.clone(), deadline: deadline() }).await?;
    let mut state = StreamState { revision: head.revision, ..StreamState::missing() };
    let mut from = (head.revision.0 > 0).then_some(StreamStart::First);
    while let Some(start) = from {
        let request = ReadStream {
            stream: stream.clone(),
            from: start,
            direction: Direction::Forward,
            limit: store.capabilities().limits.page_items,
            max_bytes: PAGE_BYTES,
            deadline: deadline(),
        };
        let page = store.read_stream(request).await?;
        state.known.extend(page.commits.iter().map(|commit| (commit.id, commit.digest)));
        // Someone else may have appended since the head was read.
        let last = page.commits.last().map(|commit| Revision(commit.first_revision.0 + u64::from(commit.count) - 1));
        state.revision = state.revision.max(last.unwrap_or(head.revision));
        from = page.next.map(StreamStart::At);
    }
    Ok((stream, state))
}

/// Makes commits of lines.
#[derive(Default)]
struct Assembly {
    /// Of lines that name none.
    namespace: Namespace,
    /// How many lines of each stream there were.
    ordinals: HashMap<StreamId, u64>,
    events: u64,
}

impl Assembly {
    /// The next commit.
    async fn next(&mut self, incoming: &mut Incoming) -> Result<Option<Ready>> {
        let Some(first) = incoming.next().await? else { return Ok(None) };
        let number = first.number;
        let first = self.event_of(first).map_err(|error| incoming.at(error, number))?;
        let ordinal = self.ordinal(&first.stream);
        let named = first.commit.is_some() || first.event.id.is_some();
        let id = first.commit.unwrap_or_else(|| derived_commit(&first, ordinal));
        let wanted = first.revision;
        let (stream, given, mut revision) = (first.stream, first.commit, wanted);
        let mut events = vec![first.event];
        while given.is_some() && self.continues(incoming.peek().await?, &stream, id) {
            let Some(next) = incoming.next().await? else { break };
            let number = next.number;
            let next = self.event_of(next).map_err(|error| incoming.at(error, number))?;
            self.ordinal(&stream);
            revision = next_revision(revision, next.revision).map_err(|error| incoming.at(error, number))?;
            events.push(next.event);
        }
        let events = Events::new(events).map_err(|error| incoming.at(error, number))?;
        Ok(Some(Ready { line: number, stream, revision: wanted, named, commit: NewCommit { id, events } }))
    }

    fn event_of(&self, line: Numbered) -> Result<EventLine, Error> {
        let mut event = event_of(line)?;
        self.place(&mut event.stream);
        Ok(event)
    }

    /// Puts a stream into the namespace of lines that name none.
    fn place(&self, stream: &mut StreamId) {
        if stream.namespace == Namespace::default() {
            stream.namespace = self.namespace.clone();
        }
    }

    /// Whether a line belongs to the commit of the line before.
    fn continues(&self, next: Option<&Numbered>, stream: &StreamId, id: CommitId) -> bool {
        next.is_some_and(|next| match &next.line.body {
            Body::Event(event) => {
                let mut placed = event.stream.clone();
                self.place(&mut placed);
                event.commit == Some(id) && placed == *stream
            }
            Body::Bare(_) | Body::Removed { .. } | Body::Nothing | Body::Snapshot(_) | Body::Checkpoint(_) => false,
        })
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

    fn imported(&self, incoming: &Incoming, added: u64, present: u64) -> Imported {
        Imported {
            lines: incoming.lines(),
            events: self.events,
            added,
            present,
            streams: self.ordinals.len() as u64,
            restored: false,
            left_out: 0,
        }
    }
}

fn event_of(line: Numbered) -> Result<EventLine, Error> {
    match line.line.body {
        Body::Event(event) if line.line.export.is_none() => Ok(event),
        Body::Event(_)
        | Body::Bare(_)
        | Body::Removed { .. }
        | Body::Nothing
        | Body::Snapshot(_)
        | Body::Checkpoint(_) => Err(Error::new(
            ErrorKind::Invalid,
            "a line is part of an export, and the file does not begin as one; restore the whole export, or leave \
                 this line out to append the events as new",
        )),
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

#[cfg(all(test, feature = "memory"))]
#[allow(clippy::unwrap_used, reason = "a test may fail by a panic")]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use evstore::{Config, Registry, Sources, StoreName};
    use evstore_api::{
        Appended, Capabilities, Deadline, DeleteSnapshot, EventType, FeedHead, FeedPage, FindCommit, Head, ListRecords,
        ListStreams, NewEvent, PutRecord, PutSnapshot, ReadFeed, ReadRecord, ReadSnapshot, Record, RecordPut,
        RecordsPage, Snapshot, SnapshotPut, StreamPage, StreamsPage, WaitFeed, Waited,
    };
    use std::collections::HashSet;
    use std::sync::Mutex;
    use std::time::Duration;
    use tokio::sync::{Semaphore, SemaphorePermit};

    /// A store behind a connection that carries one call at a time, and may break: of the first sending of each commit nothing is then known.
    /// It did not arrive, and sent again it was not at its turn.
    #[derive(Debug)]
    struct Narrow {
        inner: Arc<dyn EventStore>,
        place: Semaphore,
        breaks: bool,
        sent: Mutex<HashSet<CommitId>>,
    }

    impl Narrow {
        async fn new(breaks: bool) -> Arc<Self> {
            Arc::new(Self { inner: memory().await, place: Semaphore::new(1), breaks, sent: Mutex::default() })
        }

        async fn pass(&self) -> SemaphorePermit<'_> {
            let place = self.place.acquire().await.unwrap();
            tokio::task::yield_now().await;
            place
        }
    }

    macro_rules! passed_on {
        ($($name:ident($request:ty) -> $answer:ty;)*) => {
            #[async_trait]
            impl EventStore for Narrow {
                fn capabilities(&self) -> &Capabilities {
                    self.inner.capabilities()
                }

                async fn append(&self, request: Append) -> Result<Appended, Error> {
                    let _place = self.pass().await;
                    let is_first = self.sent.lock().unwrap().insert(request.commit.id);
                    if self.breaks && is_first && request.expected != Expected::At(Revision(0)) {
                        let early = Error::new(ErrorKind::Conflict, "the stream is not as expected");
                        return Err(Error::new(ErrorKind::Indeterminate, "no later try could tell").caused_by(early));
                    }
                    self.inner.append(request).await
                }

                async fn close(&self) -> Result<(), Error> {
                    self.inner.close().await
                }

                $(async fn $name(&self, request: $request) -> Result<$answer, Error> {
                    let _place = self.pass().await;
                    self.inner.$name(request).await
                })*
            }
        };
    }

    passed_on! {
        find_commit(FindCommit) -> Option<Appended>;
        head(ReadHead) -> Head;
        read_stream(ReadStream) -> StreamPage;
        read_feed(ReadFeed) -> FeedPage;
        wait_feed(WaitFeed) -> Waited;
        feed_head(Deadline) -> FeedHead;
        list_streams(ListStreams) -> StreamsPage;
        put_snapshot(PutSnapshot) -> SnapshotPut;
        read_snapshot(ReadSnapshot) -> Option<Snapshot>;
        delete_snapshot(DeleteSnapshot) -> ();
        put_record(PutRecord) -> RecordPut;
        read_record(ReadRecord) -> Option<Record>;
        list_records(ListRecords) -> RecordsPage;
    }

    async fn memory() -> Arc<dyn EventStore> {
        let folder = tempfile::tempdir().unwrap();
        let text = "default_store = \"a\"\n[stores.a]\nprovider = \"memory\"\n";
        let file = folder.path().join("evstore.toml");
        std::fs::write(&file, text).unwrap();
        let sources = Sources::new(folder.path(), evstore::Environment::default()).with_file(&file);
        let config = Config::load(&sources).unwrap();
        Registry::builtin().open(&config, &StoreName::new("a").unwrap()).await.unwrap().events().clone()
    }

    fn line(line: u64) -> Ready {
        line_of("a-1", line)
    }

    fn line_of(stream: &str, line: u64) -> Ready {
        let stream = StreamId::new(stream).unwrap();
        let events = Events::new(vec![NewEvent::new(EventType::new("made").unwrap(), vec![line as u8])]).unwrap();
        let commit = NewCommit { id: CommitId([line as u8; 16]), events };
        Ready { line, stream, revision: None, named: false, commit }
    }

    #[tokio::test]
    async fn appends_that_wait_for_a_connection_do_not_keep_it_from_the_look_at_the_next_streams() {
        let mut appends = Appends::new(Some(Narrow::new(false).await), Mode::Append);
        let both = async {
            for (number, stream) in [(1, "a-1"), (2, "a-2")] {
                let lines = [line_of(stream, number)];
                appends.look_up(&lines).await.unwrap();
                for line in lines {
                    appends.begin(line).await;
                }
            }
            while appends.finish_one().await {}
        };
        tokio::time::timeout(Duration::from_secs(60), both).await.expect("nothing goes on");
        assert_eq!((appends.added, appends.failed.is_none()), (2, true));
    }

    #[tokio::test]
    async fn a_line_of_which_nothing_is_known_is_sent_again_at_its_turn() {
        let store = Narrow::new(true).await;
        let mut appends = Appends::new(Some(store.clone()), Mode::Append);
        let lines: Vec<_> = (1..=20).map(line).collect();
        appends.look_up(&lines).await.unwrap();
        for line in lines {
            appends.begin(line).await;
        }
        while appends.finish_one().await {}
        assert!(appends.failed.is_none(), "{:?}", appends.failed);
        assert_eq!(appends.added, 20);
        let (stream, page) = state_of(store, StreamId::new("a-1").unwrap()).await.unwrap();
        assert_eq!((stream.name.as_str(), page.revision, page.known.len()), ("a-1", Revision(20), 20));
    }
}
