//! Makes up histories of a store that keeps every promise, from a seed: for testing checkers, and as a base to break.

use std::collections::HashMap;

use super::record::{
    Append, AppendOutcome, Call, CommitId, Consistency, Delivery, Digest, Event, EventId, Expected, FeedEntry,
    FeedItem, FinalBody, FinalCommit, FinalFeed, FinalStream, History, LoadOutcome, Moment, Operation, PrefixPoll,
    Read, ReadOutcome, Receipt, Returned, RunEnd, SaveOutcome, SaveSnapshot, Seen, SubscriptionRun, chain, feed_chain,
};
use crate::seed::Seed;

/// How large a made-up history is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Clients that call at the same time.
    pub clients: u64,
    /// Streams that they call.
    pub streams: u64,
    /// Calls, all clients together.
    pub operations: u64,
    /// Subscribers of the feed.
    pub subscribers: u64,
}

/// The only incarnation of a made-up store.
pub const INCARNATION: &str = "made-up";

/// A call takes at most twice this long, in nanoseconds.
const REACH_NS: u64 = 2_000;

/// Makes up a history in which every promise is kept.
///
/// # Panics
/// Without a client or without a stream.
pub fn generate(size: Size, seed: &mut Seed) -> History {
    let mut store = Store::new(size);
    for _ in 0..size.operations {
        store.step(seed);
    }
    store.barriers(seed);
    let mut history = History { operations: store.operations, ..History::default() };
    for subscriber in 0..size.subscribers {
        history.runs.extend(subscribe(subscriber, &store.feed, &mut seed.fork()));
    }
    history.polls = polls(&store.feed, &mut seed.fork());
    history.final_streams = store.streams.into_iter().map(Stream::finished).collect();
    let entries = store.feed.into_iter().map(|(_, entry)| entry).collect();
    history.final_feed = Some(FinalFeed { incarnation: INCARNATION.to_owned(), entries });
    history
}

/// A store whose calls happen one after the other, each at a moment inside the time it takes.
struct Store {
    now: u64,
    streams: Vec<Stream>,
    clients: Vec<Client>,
    /// The feed, with the moment at which each entry came to be.
    feed: Vec<(u64, FeedEntry)>,
    operations: Vec<Operation>,
}

struct Stream {
    name: String,
    commits: Vec<FinalCommit>,
    receipts: HashMap<CommitId, Receipt>,
    events: Vec<Event>,
    /// By revision.
    chain: Vec<Digest>,
    /// Revisions at which a commit ends, and 0.
    ends: Vec<u64>,
    snapshot: u64,
}

struct Client {
    free_at: u64,
    calls: u64,
    /// An append whose answer was lost: its stream, call, attempt and content.
    unanswered: Option<(usize, u64, u32, Append)>,
    /// By stream, the revision that the client knows of.
    knows: Vec<u64>,
}

/// When a call begins and ends.
struct Times {
    invoked_at: Moment,
    returned_at: Returned,
}

impl Store {
    fn new(size: Size) -> Self {
        let stream = |number| Stream {
            name: format!("made-{number}"),
            commits: Vec::new(),
            receipts: HashMap::new(),
            events: Vec::new(),
            chain: vec![Digest::default()],
            ends: vec![0],
            snapshot: 0,
        };
        let streams: Vec<Stream> = (0..size.streams).map(stream).collect();
        let knows = vec![0; streams.len()];
        let client = |_| Client { free_at: 0, calls: 0, unanswered: None, knows: knows.clone() };
        // One client more than was asked for: it appends the barriers.
        let clients = (0..=size.clients).map(client).collect();
        Store { now: REACH_NS, streams, clients, feed: Vec::new(), operations: Vec::new() }
    }

    fn step(&mut self, seed: &mut Seed) {
        let client = seed.below(self.clients.len() as u64 - 1) as usize;
        let stream = seed.below(self.streams.len() as u64) as usize;
        self.now = (self.now + seed.below(REACH_NS / 4)).max(self.clients[client].free_at);
        if let Some((stream, call, attempt, append)) = self.clients[client].unanswered.take() {
            return self.append(client, stream, (call, attempt + 1), append, seed);
        }
        self.clients[client].calls += 1;
        let call = self.clients[client].calls;
        match seed.below(100) {
            0..60 => {
                let append = self.ask(client, stream, seed);
                self.append(client, stream, (call, 1), append, seed);
            }
            60..85 => self.read(client, stream, call, seed),
            85..93 => self.save(client, stream, call, seed),
            _ => self.load(client, stream, call, seed),
        }
    }

    fn times(&mut self, client: usize, seed: &mut Seed) -> Times {
        let begin = self.now.saturating_sub(seed.below(REACH_NS)).max(self.clients[client].free_at);
        let end = self.now + 1 + seed.below(REACH_NS);
        self.clients[client].free_at = end + 1;
        Times { invoked_at: Moment(begin), returned_at: Returned::At(Moment(end)) }
    }

    fn ask(&self, client: usize, stream: usize, seed: &mut Seed) -> Append {
        let known = self.clients[client].knows[stream];
        let expected = match seed.below(10) {
            0..4 => Expected::Any,
            4..7 => Expected::At(self.streams[stream].head()),
            7 => Expected::At(known),
            8 => Expected::Exists,
            _ => Expected::NoStream,
        };
        let event = |seed: &mut Seed| Event { id: EventId(seed.bytes()), digest: Digest(seed.bytes()) };
        let events = (0..=seed.below(3)).map(|_| event(seed)).collect();
        Append { commit: CommitId(seed.bytes()), expected, events, outcome: AppendOutcome::Ambiguous }
    }

    fn append(
        &mut self,
        client: usize,
        stream: usize,
        (call, attempt): (u64, u32),
        mut append: Append,
        seed: &mut Seed,
    ) {
        let mut times = self.times(client, seed);
        let fate = seed.below(100);
        append.outcome = match fate {
            0..2 => AppendOutcome::DefiniteFail,
            2..6 => AppendOutcome::Ambiguous,
            _ => self.apply(stream, &append),
        };
        if (6..12).contains(&fate) {
            append.outcome = AppendOutcome::Ambiguous;
        }
        match append.outcome {
            AppendOutcome::Ambiguous => {
                times.returned_at = Returned::Never;
                self.clients[client].unanswered = Some((stream, call, attempt, append.clone()));
            }
            AppendOutcome::Ok(receipt) => self.learn(client, stream, receipt.last),
            AppendOutcome::Conflict { .. } | AppendOutcome::OtherContent | AppendOutcome::DefiniteFail => {}
        }
        self.record(client, stream, (call, attempt), times, Call::Append(append));
    }

    fn apply(&mut self, stream: usize, append: &Append) -> AppendOutcome {
        let place = &mut self.streams[stream];
        if let Some(receipt) = place.receipts.get(&append.commit) {
            return AppendOutcome::Ok(Receipt { repeated: true, ..*receipt });
        }
        let head = place.head();
        if !append.expected.holds_at(head) {
            return AppendOutcome::Conflict { actual: head };
        }
        let receipt = Receipt {
            first: head + 1,
            last: head + append.events.len() as u64,
            number: place.commits.len() as u64 + 1,
            position: Some(self.feed.len() as u64 + 1),
            repeated: false,
        };
        for (event, revision) in append.events.iter().zip(receipt.first..) {
            let (stream, commit, event) = (place.name.clone(), append.commit, *event);
            let item = FeedItem::Event { stream, revision, commit, event };
            self.feed.push((self.now, FeedEntry { position: self.feed.len() as u64 + 1, item }));
        }
        place.take(append, receipt);
        AppendOutcome::Ok(receipt)
    }

    fn read(&mut self, client: usize, stream: usize, call: u64, seed: &mut Seed) {
        let times = self.times(client, seed);
        let place = &self.streams[stream];
        let known = place.ends.partition_point(|end| *end < self.clients[client].knows[stream]);
        let (consistency, head) = if seed.chance(25) {
            (Consistency::Eventual, *seed.pick(&place.ends[known..]))
        } else {
            (Consistency::Strong, place.head())
        };
        let seen = match seed.below(3) {
            0 => Seen::Head,
            1 => Seen::Chain(place.chain[head as usize]),
            _ => {
                let from = seed.below(head + 1) + 1;
                let last = head.min(from + 2);
                Seen::Events { from, events: place.events[from as usize - 1..last as usize].to_vec() }
            }
        };
        self.learn(client, stream, head);
        let read = Read { consistency, outcome: ReadOutcome::Ok { head, seen } };
        self.record(client, stream, (call, 1), times, Call::Read(read));
    }

    fn save(&mut self, client: usize, stream: usize, call: u64, seed: &mut Seed) {
        let times = self.times(client, seed);
        let revision = self.clients[client].knows[stream];
        let place = &mut self.streams[stream];
        let outcome = if revision >= place.snapshot {
            place.snapshot = revision;
            SaveOutcome::Stored
        } else {
            SaveOutcome::Superseded { by: place.snapshot }
        };
        let save = SaveSnapshot { revision, state: place.chain[revision as usize], outcome };
        self.record(client, stream, (call, 1), times, Call::SaveSnapshot(save));
    }

    fn load(&mut self, client: usize, stream: usize, call: u64, seed: &mut Seed) {
        let times = self.times(client, seed);
        let place = &self.streams[stream];
        let outcome = match place.snapshot {
            0 => LoadOutcome::Absent,
            revision => LoadOutcome::Found { revision, state: place.chain[revision as usize] },
        };
        self.record(client, stream, (call, 1), times, Call::LoadSnapshot(outcome));
    }

    fn barriers(&mut self, seed: &mut Seed) {
        let client = self.clients.len() - 1;
        for stream in 0..self.streams.len() {
            self.now += 4 * REACH_NS;
            self.clients[client].calls += 1;
            let mut append = self.ask(client, stream, seed);
            append.expected = Expected::At(self.streams[stream].head());
            append.outcome = self.apply(stream, &append);
            let times = self.times(client, seed);
            let call = self.clients[client].calls;
            self.record(client, stream, (call, 1), times, Call::Append(append));
        }
    }

    fn learn(&mut self, client: usize, stream: usize, revision: u64) {
        let known = &mut self.clients[client].knows[stream];
        *known = revision.max(*known);
    }

    fn record(&mut self, client: usize, stream: usize, (operation, attempt): (u64, u32), times: Times, call: Call) {
        self.operations.push(Operation {
            client: client as u64,
            operation,
            attempt,
            stream: self.streams[stream].name.clone(),
            invoked_at: times.invoked_at,
            returned_at: times.returned_at,
            call,
        });
    }
}

impl Stream {
    fn head(&self) -> u64 {
        self.events.len() as u64
    }

    fn take(&mut self, append: &Append, receipt: Receipt) {
        for event in &append.events {
            let folded = chain(self.chain[self.events.len()], event);
            self.chain.push(folded);
            self.events.push(*event);
        }
        self.ends.push(receipt.last);
        self.receipts.insert(append.commit, receipt);
        let body = FinalBody::Events { first: receipt.first, events: append.events.clone() };
        self.commits.push(FinalCommit { id: append.commit, number: receipt.number, body });
    }

    fn finished(self) -> FinalStream {
        FinalStream { stream: self.name, commits: self.commits }
    }
}

/// A subscriber that is restarted now and then from a checkpoint that lags a little.
fn subscribe(subscriber: u64, feed: &[(u64, FeedEntry)], seed: &mut Seed) -> Vec<SubscriptionRun> {
    let start = |run, after, started_at| SubscriptionRun {
        subscriber,
        run,
        incarnation: INCARNATION.to_owned(),
        after,
        started_at: Moment(started_at),
        ended: RunEnd::Cut,
        deliveries: Vec::new(),
    };
    let mut runs = vec![start(0, 0, 0)];
    let mut now = 0;
    let mut next = 0;
    while let Some((came_at, entry)) = feed.get(next) {
        now = (now + 1).max(came_at + seed.below(4 * REACH_NS));
        let last = runs.len() - 1;
        runs[last].deliveries.push(Delivery { delivered_at: Moment(now), entry: entry.clone() });
        next += 1;
        if seed.below(200) == 0 {
            next -= seed.below(5).min(next as u64) as usize;
            runs.push(start(last as u32 + 1, next as u64, now));
        }
    }
    if let Some(last) = runs.last_mut() {
        last.ended = RunEnd::Drained;
    }
    runs
}

/// Some reads of the beginning of the feed while it grows.
fn polls(feed: &[(u64, FeedEntry)], seed: &mut Seed) -> Vec<PrefixPoll> {
    let mut folded = Digest::default();
    let mut polls = Vec::new();
    for (came_at, entry) in feed {
        folded = feed_chain(folded, entry);
        if seed.below(50) == 0 {
            polls.push(PrefixPoll {
                client: 0,
                incarnation: INCARNATION.to_owned(),
                invoked_at: Moment(*came_at),
                up_to: entry.position,
                entries: entry.position,
                chain: folded,
            });
        }
    }
    polls
}
