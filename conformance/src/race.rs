//! Clients that race: each makes random calls and records every call and answer. Then what was there at the end.

use crate::context::page_of;
use crate::history::record::{
    Append as AppendRecord, AppendOutcome, Call, Consistency as ReadConsistency, Event as EventRecord,
    Expected as ExpectedRecord, FeedEntry, FeedItem as FeedItemRecord, FinalBody, FinalCommit, FinalFeed, FinalStream,
    LoadOutcome, Moment, Operation, Read, ReadOutcome, Receipt, Returned, SaveOutcome, SaveSnapshot, Seen, chain,
};
use crate::history::{self, record::Digest};
use crate::seed::Seed;
use evstore_api::capabilities::{Consistency, FeedOrder, Positioned, Positions, RealTime, Window};
use evstore_api::{
    Append, Appended, Capabilities, CommitId, CommitNumber, Deadline, Direction, Error, ErrorKind, EventRef,
    EventStore, EventType, Events, Expected, FeedFilter, FeedItem, FeedStart, NewCommit, NewEvent, PutSnapshot,
    ReadCommits, ReadFeed, ReadSnapshot, ReadStream, Result, Revision, Snapshot, SnapshotPut, StoreAdmin, StreamId,
    StreamPage, StreamStart, Timestamp, WaitFeed, Written,
};
use std::collections::HashSet;
use std::time::Duration;

/// Longest time of one call.
const CALL_MAX: Duration = Duration::from_secs(20);
/// Bytes read at a time.
const PAGE_BYTES: u64 = 8 << 20;
/// How much longer than declared a subscriber of a race may wait for an event. It shares a busy machine with writers that go
/// as fast as they can: what is judged is that a feed goes on, not how fast. `feed.is-as-fast-as-declared` measures that.
const LAG_MORE: Duration = Duration::from_secs(60);
/// How long a turn is in which all clients that append send the same commit.
const TURN_NANOS: u64 = 20_000_000;
/// How often a commit is repeated whose fate is not known.
const REPEATS_MAX: u32 = 5;
/// Commits that a client remembers for repeating them later: well inside the smallest window that a store may have.
const REMEMBERED_MAX: usize = 8;

/// Where recorded calls go.
pub(crate) trait Sink: Send + Sync {
    /// Keeps a call: once before it is made, as if no answer came, and again with its answer.
    fn operation(&self, operation: Operation);
}

/// What one client does.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Number of the client in the whole history.
    pub(crate) client: u64,
    /// The streams that all clients share.
    pub(crate) streams: Vec<StreamId>,
    /// How many calls it makes.
    pub(crate) calls: u64,
    /// Seed of its choices.
    pub(crate) seed: u64,
    /// Seed that all clients of the race have in common, in all processes: of the commits that they send at the same time.
    pub(crate) shared: u64,
}

/// The present moment of this machine's monotonic clock, comparable between its processes.
pub(crate) fn now() -> Moment {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Moment(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// One client at work.
struct Client<'a> {
    store: &'a dyn EventStore,
    sink: &'a dyn Sink,
    plan: Plan,
    seed: Seed,
    operation: u64,
    remembered: Vec<(StreamId, Expected, NewCommit)>,
}

/// Makes the calls of a plan, one after the other.
pub(crate) async fn run(store: &dyn EventStore, plan: Plan, sink: &dyn Sink) {
    let seed = Seed(plan.seed);
    let mut client = Client { store, sink, plan, seed, operation: 0, remembered: Vec::new() };
    for _ in 0..client.plan.calls {
        client.step().await;
    }
}

impl Client<'_> {
    async fn step(&mut self) {
        let stream = self.seed.pick(&self.plan.streams).clone();
        match self.seed.below(100) {
            0..52 => self.append(stream).await,
            52..60 => self.append_twin(stream).await,
            60..70 => self.repeat_earlier().await,
            70..85 => drop(self.read(&stream).await),
            85..92 => self.save_snapshot(&stream).await,
            _ => self.load_snapshot(&stream).await,
        }
    }

    /// Appends under an expectation that mostly holds, or held a moment ago.
    async fn append(&mut self, stream: StreamId) {
        let expected = match self.seed.below(100) {
            0..50 => match self.read(&stream).await {
                Some(page) => Expected::At(page.head.revision),
                None => Expected::Any,
            },
            50..75 => Expected::Any,
            75..85 => Expected::Exists,
            85..90 => Expected::NoStream,
            _ => Expected::At(Revision(self.seed.below(20))),
        };
        let events = (0..1 + self.seed.below(4)).map(|_| new_event(&mut self.seed)).collect();
        let events = Events::new(events).expect("one event at least, and no id is supplied");
        let commit = NewCommit { id: CommitId(self.seed.bytes()), events };
        self.operation += 1;
        self.append_until_known(stream, expected, commit).await;
    }

    /// Sends a commit that other clients, also of other processes, send at the same moment: it must be made once.
    async fn append_twin(&mut self, stream: StreamId) {
        if self.store.capabilities().idempotency != Window::Forever {
            // One that was held up may come when many others have appended since, and be outside the window.
            return self.append(stream).await;
        }
        let turn = now().0 / TURN_NANOS + 1;
        let begins = Duration::from_nanos((turn * TURN_NANOS).saturating_sub(now().0));
        tokio::time::sleep(begins).await;
        let (stream, commit) = twin(self.plan.shared, turn, &self.plan.streams);
        self.operation += 1;
        self.append_until_known(stream, Expected::Any, commit).await;
    }

    /// Sends a commit once more that was sent before: it must be recognised.
    async fn repeat_earlier(&mut self) {
        if self.remembered.is_empty() {
            return;
        }
        let (stream, expected, commit) = self.seed.pick(&self.remembered).clone();
        self.operation += 1;
        self.append_until_known(stream, expected, commit).await;
    }

    async fn append_until_known(&mut self, stream: StreamId, expected: Expected, commit: NewCommit) {
        for attempt in 0..=REPEATS_MAX {
            let outcome = self.append_once(&stream, expected, &commit, attempt).await;
            match outcome {
                AppendOutcome::Ambiguous => {}
                AppendOutcome::Ok(_) => {
                    if self.remembered.len() == REMEMBERED_MAX {
                        self.remembered.remove(0);
                    }
                    self.remembered.push((stream, expected, commit));
                    return;
                }
                _ => return,
            }
        }
    }

    async fn append_once(
        &self,
        stream: &StreamId,
        expected: Expected,
        commit: &NewCommit,
        attempt: u32,
    ) -> AppendOutcome {
        let call = |outcome| {
            let recorded = commit.clone().recorded().expect("no id stands twice");
            Call::Append(AppendRecord {
                commit: commit.id.0.into(),
                expected: expected_record(expected),
                events: recorded.iter().map(event_record).collect(),
                outcome,
            })
        };
        let invoked_at = self.begin(stream, attempt, call(AppendOutcome::Ambiguous));
        let request =
            Append { stream: stream.clone(), expected, commit: commit.clone(), deadline: Deadline::within(CALL_MAX) };
        let outcome = append_outcome(&self.store.append(request).await);
        self.end(stream, attempt, invoked_at, call(outcome));
        outcome
    }

    /// Reads a whole stream.
    async fn read(&mut self, stream: &StreamId) -> Option<StreamPage> {
        self.operation += 1;
        let consistency = match self.store.capabilities().reads {
            Consistency::Strong => ReadConsistency::Strong,
            Consistency::Eventual { .. } => ReadConsistency::Eventual,
        };
        let call = |outcome| Call::Read(Read { consistency, outcome });
        let invoked_at = self.begin(stream, 0, call(ReadOutcome::Failed));
        let result = read_whole(self.store, stream).await;
        let outcome = result.as_ref().map_or(ReadOutcome::Failed, read_outcome);
        self.end(stream, 0, invoked_at, call(outcome));
        result.ok()
    }

    /// Saves what a fold of the whole stream gives.
    async fn save_snapshot(&mut self, stream: &StreamId) {
        let Some(page) = self.read(stream).await else { return };
        let Some(last) = page.commits.last() else { return };
        let state = fold(&page);
        let snapshot = Snapshot {
            stream: stream.clone(),
            revision: last.last_revision(),
            number: last.number,
            commit: last.id,
            schema: 1,
            content_type: evstore_api::ContentType::bytes(),
            data: state.0.to_vec().into(),
            taken_at: Timestamp(0),
        };
        self.operation += 1;
        let revision = snapshot.revision.0;
        let call = |outcome| Call::SaveSnapshot(SaveSnapshot { revision, state, outcome });
        let invoked_at = self.begin(stream, 0, call(SaveOutcome::Ambiguous));
        let request = PutSnapshot { snapshot, deadline: Deadline::within(CALL_MAX) };
        let outcome = match self.store.put_snapshot(request).await {
            Ok(SnapshotPut::Stored { .. }) => SaveOutcome::Stored,
            Ok(SnapshotPut::Superseded { by, .. }) => SaveOutcome::Superseded { by: by.0 },
            Err(error) if error.written() == Written::No => SaveOutcome::DefiniteFail,
            Err(_) => SaveOutcome::Ambiguous,
        };
        self.end(stream, 0, invoked_at, call(outcome));
    }

    async fn load_snapshot(&mut self, stream: &StreamId) {
        self.operation += 1;
        let call = |outcome| Call::LoadSnapshot(outcome);
        let invoked_at = self.begin(stream, 0, call(LoadOutcome::Failed));
        let request = ReadSnapshot { stream: stream.clone(), deadline: Deadline::within(CALL_MAX) };
        let outcome = match self.store.read_snapshot(request).await {
            Ok(None) => LoadOutcome::Absent,
            Ok(Some(found)) => {
                let state = Digest(found.data.as_ref().try_into().unwrap_or_default());
                LoadOutcome::Found { revision: found.revision.0, state }
            }
            Err(_) => LoadOutcome::Failed,
        };
        self.end(stream, 0, invoked_at, call(outcome));
    }

    fn begin(&self, stream: &StreamId, attempt: u32, call: Call) -> Moment {
        let invoked_at = now();
        self.record(stream, attempt, invoked_at, Returned::Never, call);
        invoked_at
    }

    fn end(&self, stream: &StreamId, attempt: u32, invoked_at: Moment, call: Call) {
        let unknown = matches!(&call, Call::Append(append) if append.outcome == AppendOutcome::Ambiguous);
        // A call whose fate is unknown may take effect at any later time.
        let returned_at = if unknown { Returned::Never } else { Returned::At(now()) };
        self.record(stream, attempt, invoked_at, returned_at, call);
    }

    fn record(&self, stream: &StreamId, attempt: u32, invoked_at: Moment, returned_at: Returned, call: Call) {
        self.sink.operation(Operation {
            client: self.plan.client,
            operation: self.operation,
            attempt,
            stream: stream.to_string(),
            invoked_at,
            returned_at,
            call,
        });
    }
}

/// The commit that clients of a race send in one turn, and its stream.
fn twin(shared: u64, turn: u64, streams: &[StreamId]) -> (StreamId, NewCommit) {
    let mut seed = Seed(shared ^ Seed(turn).next_u64());
    let stream = seed.pick(streams).clone();
    let events = (0..1 + seed.below(3)).map(|_| new_event(&mut seed)).collect();
    let events = Events::new(events).expect("one event at least, and no id is supplied");
    (stream, NewCommit { id: CommitId(seed.bytes()), events })
}

/// Sends every commit once more that clients of a race, who may be gone, have sent in turns: each must be made once, whether
/// its answer came or not.
pub(crate) async fn repeat_twins(store: &dyn EventStore, plan: Plan, sent: &[Operation], sink: &dyn Sink) {
    let moments = || sent.iter().map(|operation| operation.invoked_at.0);
    let (Some(first), Some(last)) = (moments().min(), moments().max()) else { return };
    let appends = sent.iter().filter_map(|operation| match &operation.call {
        Call::Append(append) => Some(append.commit),
        _ => None,
    });
    let ids: HashSet<_> = appends.collect();
    let seed = Seed(plan.seed);
    let mut client = Client { store, sink, plan, seed, operation: 0, remembered: Vec::new() };
    for turn in first / TURN_NANOS..=last / TURN_NANOS {
        let (stream, commit) = twin(client.plan.shared, turn, &client.plan.streams);
        if ids.contains(&commit.id.0.into()) {
            client.operation += 1;
            client.append_until_known(stream, Expected::Any, commit).await;
        }
    }
}

fn new_event(seed: &mut Seed) -> NewEvent {
    let event_type = EventType::new(*seed.pick(&["Placed", "Paid", "Shipped"])).expect("a fixed type is valid");
    let length = seed.below(300) as usize;
    let data: Vec<u8> = (0..length).map(|_| seed.next_u64() as u8).collect();
    let mut event = NewEvent::new(event_type, data);
    event.metadata = seed.bytes()[..seed.below(16) as usize].to_vec().into();
    event
}

/// All pages of a stream as one, with the head of the last. What earlier pages hold never changes, so that the whole is the
/// stream as it was when the last page was read.
async fn read_whole(store: &dyn EventStore, stream: &StreamId) -> Result<StreamPage> {
    let (mut from, mut commits) = (StreamStart::First, Vec::new());
    loop {
        let request = ReadStream {
            stream: stream.clone(),
            from,
            direction: Direction::Forward,
            limit: page_of(store.capabilities()),
            max_bytes: PAGE_BYTES,
            deadline: Deadline::within(CALL_MAX),
        };
        let mut page = store.read_stream(request).await?;
        commits.append(&mut page.commits);
        match page.next {
            Some(next) => from = StreamStart::At(next),
            None => return Ok(StreamPage { commits, ..page }),
        }
    }
}

fn expected_record(expected: Expected) -> ExpectedRecord {
    match expected {
        Expected::Any => ExpectedRecord::Any,
        Expected::NoStream => ExpectedRecord::NoStream,
        Expected::Exists => ExpectedRecord::Exists,
        Expected::At(revision) => ExpectedRecord::At(revision.0),
    }
}

/// An event as the checker sees it: its id, and a hash over everything else that has to come back unchanged.
pub(crate) fn event_record(event: &evstore_api::Event) -> EventRecord {
    let mut hasher = blake3::Hasher::new();
    for part in
        [event.event_type.as_str().as_bytes(), event.content_type.as_str().as_bytes(), &event.metadata, &event.data]
    {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.update(&event.schema.to_le_bytes());
    hasher.update(&event.occurred_at.map_or(i64::MIN, |time| time.0).to_le_bytes());
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    EventRecord { id: event.id.0.into(), digest: Digest(digest) }
}

fn append_outcome(result: &Result<Appended, Error>) -> AppendOutcome {
    match result {
        Ok(receipt) => AppendOutcome::Ok(Receipt {
            first: receipt.first.0,
            last: receipt.last.0,
            number: receipt.number.0,
            position: receipt.position.map(|first| first.0),
            repeated: receipt.repeated,
        }),
        Err(error) => match (error.kind(), error.head()) {
            (ErrorKind::Conflict, Some(head)) => AppendOutcome::Conflict { actual: head.revision.0 },
            (ErrorKind::IdReused, _) => AppendOutcome::OtherContent,
            _ if error.written() == Written::No => AppendOutcome::DefiniteFail,
            _ => AppendOutcome::Ambiguous,
        },
    }
}

fn read_outcome(page: &StreamPage) -> ReadOutcome {
    // The whole stream was read: its events have to be those up to the head, no more and no fewer.
    ReadOutcome::Ok { head: page.head.revision.0, seen: Seen::Chain(fold(page)) }
}

/// The state of a stream that was read whole: its events, folded.
fn fold(page: &StreamPage) -> Digest {
    page.events().fold(Digest::default(), |state, event| chain(state, &event_record(event.event)))
}

/// Appends a last commit to every stream at exactly its head, so that no call that is still under way can land any more, and
/// records it. Repeats until it has landed.
pub(crate) async fn barrier(store: &dyn EventStore, plan: Plan, sink: &dyn Sink) -> Result<()> {
    let streams = plan.streams.clone();
    let seed = Seed(plan.seed);
    let mut client = Client { store, sink, plan, seed, operation: 0, remembered: Vec::new() };
    for stream in streams {
        loop {
            let head =
                store.head(evstore_api::ReadHead { stream: stream.clone(), deadline: Deadline::within(CALL_MAX) });
            let expected = Expected::At(head.await?.revision);
            let events = Events::new(vec![new_event(&mut client.seed)])?;
            let commit = NewCommit { id: CommitId(client.seed.bytes()), events };
            client.operation += 1;
            client.append_until_known(stream.clone(), expected, commit).await;
            if client.remembered.last().is_some_and(|(landed, ..)| *landed == stream) {
                break;
            }
        }
    }
    Ok(())
}

/// What the streams hold.
pub(crate) async fn final_streams(admin: &dyn StoreAdmin, streams: &[StreamId]) -> Result<Vec<FinalStream>> {
    let mut finals = Vec::new();
    for stream in streams {
        let (mut commits, mut from) = (Vec::new(), Some(CommitNumber(1)));
        while let Some(number) = from {
            let deadline = Deadline::within(CALL_MAX);
            let request = ReadCommits {
                stream: stream.clone(),
                from: number,
                limit: page_of(admin.capabilities()),
                max_bytes: PAGE_BYTES,
                deadline,
            };
            let page = admin.read_commits(request).await?;
            commits.extend(page.commits.iter().map(final_commit));
            from = page.next;
        }
        finals.push(FinalStream { stream: stream.to_string(), commits });
    }
    Ok(finals)
}

fn final_commit(commit: &evstore_api::Commit) -> FinalCommit {
    let first = commit.first_revision.0;
    let body = match commit.content {
        _ if commit.kind.is_marker() => FinalBody::Marker,
        evstore_api::Content::Kept => {
            FinalBody::Events { first, events: commit.events.iter().map(event_record).collect() }
        }
        evstore_api::Content::Stripped => FinalBody::Removed { first, last: commit.last_revision().0 },
    };
    FinalCommit { id: commit.id.0.into(), number: commit.number.0, body }
}

/// Reads the whole feed, waiting until `events` of it are there.
pub(crate) async fn final_feed(store: &dyn EventStore, events: usize) -> Result<FinalFeed> {
    let deadline = Deadline::within(CALL_MAX);
    let mut from = FeedStart::First;
    let (mut entries, mut found) = (Vec::new(), 0);
    loop {
        let page = store.read_feed(feed_request(from, page_of(store.capabilities()))).await?;
        found += page.events().count();
        entries.extend(page.items.iter().flat_map(feed_entries));
        if page.end && (found >= events || deadline.has_passed()) {
            return Ok(FinalFeed { incarnation: page.next.incarnation().to_string(), entries });
        }
        if page.end {
            let deadline = Deadline::within(Duration::from_millis(200));
            store.wait_feed(WaitFeed { after: page.next.clone(), deadline }).await?;
        }
        from = FeedStart::After(page.next);
    }
}

pub(crate) fn feed_request(from: FeedStart, limit: u32) -> ReadFeed {
    ReadFeed { from, filter: FeedFilter::none(), limit, max_bytes: PAGE_BYTES, deadline: Deadline::within(CALL_MAX) }
}

/// What stands at each position of an item; position 0 where the store gives none.
pub(crate) fn feed_entries(item: &FeedItem) -> Vec<FeedEntry> {
    match item {
        FeedItem::Removed { first, last } => {
            vec![FeedEntry { position: first.0, item: FeedItemRecord::Removed { last: last.0 } }]
        }
        FeedItem::Commit(commit) if commit.kind.is_marker() => vec![FeedEntry {
            position: commit.first_position.map_or(0, |position| position.0),
            item: FeedItemRecord::Marker { stream: commit.stream.to_string(), number: commit.number.0 },
        }],
        FeedItem::Commit(commit) => commit.events().map(event_entry).collect(),
    }
}

fn event_entry(event: EventRef<'_>) -> FeedEntry {
    FeedEntry {
        position: event.position().map_or(0, |position| position.0),
        item: FeedItemRecord::Event {
            stream: event.stream().to_string(),
            revision: event.revision().0,
            commit: event.commit.id.0.into(),
            event: event_record(event.event),
        },
    }
}

/// What a history of this store has to show.
pub(crate) fn claims(capabilities: &Capabilities) -> history::Claims {
    use history::feed::{FeedClaims, FeedCommits, FeedLag, FeedOrder as Order, FeedPositions, FeedRealtime};
    let order = match capabilities.order {
        FeedOrder::Total => Order::Total,
        FeedOrder::PerPartition | FeedOrder::PerStream => Order::PerStream,
        FeedOrder::BestEffort => Order::BestEffort,
    };
    let positions = match capabilities.positions {
        Positions::Contiguous => FeedPositions::Contiguous,
        Positions::Increasing => FeedPositions::Increasing,
        Positions::Opaque => FeedPositions::Opaque,
    };
    let real_time = match capabilities.real_time {
        RealTime::Kept => FeedRealtime::Ordered,
        RealTime::NotKept => FeedRealtime::NotPromised,
    };
    let commits = FeedCommits::Whole;
    let within = match capabilities.positioned {
        Positioned::ByAppend => Duration::ZERO,
        Positioned::BySequencer { within } => within,
        Positioned::Never { settling } => settling,
    };
    let lag_ns = (within + LAG_MORE).as_nanos() as u64;
    let lag = FeedLag::Within { lag_ns, healed_at: Moment(0) };
    let feed = FeedClaims { order, positions, commits, real_time, lag };
    use history::stream::{Removal, Sessions, StreamClaims};
    history::Claims {
        // No race truncates, deletes or moves anything.
        streams: StreamClaims { sessions: Sessions::Guaranteed, removal: Removal::Never },
        feed: history::FeedClaim::Of(feed),
    }
}
