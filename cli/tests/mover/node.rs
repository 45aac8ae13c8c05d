//! What the processes of a moved system do: write, read, fill, race for new streams, snapshot, consume. Each tells all that it asked
//! and was answered, line by line, on its standard output.

use crate::proxy::MARK;
use evstore::api::{
    Commit, CommitKind, CommitNumber, ContentType, PutRecord, PutSnapshot, ReadHead, ReadRecord, ReadSnapshot,
    RecordExpected, Snapshot, SnapshotPut,
};
use evstore::{
    Append, Appended, Checkpoint, CommitId, Config, Deadline, Delivery, Direction, Error, ErrorKind, EventType, Events,
    Expected, NewCommit, NewEvent, Position, ReadStream, Registry, Sources, Start, Store, StreamId, StreamStart,
    Timestamp,
};
use evstore_conformance::history::lines::{Line, write_line};
use evstore_conformance::history::record as seen;
use evstore_conformance::seed::Seed;
use futures::future::Either;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Streams that all writers share.
const STREAMS: u64 = 6;
/// The stream that is appended to all the time.
pub const HOT: &str = "hot-1";
/// Longest time of one call: an append rides through a hand-over within it.
pub const CALL_MAX: Duration = Duration::from_secs(25);
/// What a node is told.
pub const ROLE: &str = "MOVER_ROLE";
/// The variable that says among how many of a stream's last commits one is recognised that is sent again; always without it.
pub const WINDOW: &str = "MOVER_WINDOW";
/// Commits that others may append to a stream while one is sent again.
const WINDOW_MARGIN: u64 = 500;
/// Commits that a writer remembers, to send them again later.
const REMEMBERED: usize = 50;
/// Callers that fill a store at the same time.
const FILLERS: u64 = 50;
/// How long a consumer that sees nothing waits before it looks whether all is over.
const QUIET: Duration = Duration::from_millis(100);
/// More than a reader may be behind an owner that has changed (`BELIEVED` in `store/src/layers/route.rs`).
const BELIEVED_MAX: Duration = Duration::from_millis(750);
/// The file that tells nodes that all is over, and the one that tells consumers that nobody appends any more.
pub const STOP: &str = "stop";
pub const DRAIN: &str = "drain";

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Appends and reads until it is told to stop. Some commits are sent again long after they were answered.
    Write,
    /// Tells of everything that is there, as if it had appended it.
    Recall,
    /// Appends so many commits, by many callers at a time, each to a stream of its own.
    Fill(u64),
    /// Appends so many commits to the streams that writers share.
    Burst(u64),
    /// Appends to one stream, so many times a second whatever that takes, until it is told to stop.
    Hot(u64),
    /// Appends to streams that nobody has made yet, whose names other nodes of this kind try at the same time; with a pause of so many
    /// milliseconds after each.
    Create(u64),
    /// Appends, saves snapshots and loads them.
    Snapshot,
    /// Follows the feed under a name, with a checkpoint in the store; so many runs were before this one.
    Consume(u32),
    /// Appends until it is refused for good, and tells why.
    UntilRefused,
}

impl Role {
    fn words(self) -> (&'static str, u64) {
        match self {
            Self::Write => ("write", 0),
            Self::Recall => ("recall", 0),
            Self::Fill(count) => ("fill", count),
            Self::Burst(count) => ("burst", count),
            Self::Hot(rate) => ("hot", rate),
            Self::Create(pause) => ("create", pause),
            Self::Snapshot => ("snapshot", 0),
            Self::Consume(run) => ("consume", run.into()),
            Self::UntilRefused => ("until-refused", 0),
        }
    }

    /// What a process is told that is to do this.
    pub fn told(self, config: &Path, client: u64, seed: u64) -> String {
        let (word, number) = self.words();
        format!("{word} {number} {client} {seed} {}", config.display())
    }

    fn from(word: &str, number: u64) -> Self {
        let run = u32::try_from(number).unwrap_or_default();
        let all = [
            Self::Write,
            Self::Recall,
            Self::Fill(number),
            Self::Burst(number),
            Self::Hot(number),
            Self::Create(number),
            Self::Snapshot,
            Self::Consume(run),
            Self::UntilRefused,
        ];
        all.into_iter().find(|role| role.words().0 == word).unwrap()
    }
}

/// The present moment of this machine's monotonic clock, comparable between its processes.
pub fn now() -> seen::Moment {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    seen::Moment(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Does what a process is told that a test started.
pub fn work(told: &str) {
    let parts: Vec<&str> = told.splitn(5, ' ').collect();
    let [word, number, client, seed, config] = parts.as_slice() else { panic!("{told}") };
    let [number, client, seed] = [number, client, seed].map(|text| text.parse::<u64>().unwrap());
    let role = Role::from(word, number);
    let config = PathBuf::from(config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let stop = config.with_file_name(STOP);
        let sources = Sources::new(config.parent().unwrap(), evstore::Environment::default()).with_file(&config);
        let config = Config::load(&sources).unwrap();
        let store = Registry::builtin().open(&config, config.default_store().unwrap()).await.unwrap();
        let window = std::env::var(WINDOW).ok().map(|window| window.parse().unwrap());
        let mut node = Node { store, client, seed: Seed(seed), stop, operation: 0, window };
        match role {
            Role::Write => node.write().await,
            Role::Recall => node.recall().await,
            Role::Fill(count) => node.fill(count, |number| format!("filled-{number}")).await,
            Role::Burst(count) => node.fill(count, |number| format!("race-{}", number % STREAMS)).await,
            Role::Hot(rate) => node.hot(rate).await,
            Role::Create(pause) => node.create(Duration::from_millis(pause)).await,
            Role::Snapshot => node.snapshot().await,
            Role::Consume(run) => node.consume(run).await,
            Role::UntilRefused => node.until_refused().await,
        }
        node.store.close().await.unwrap();
    });
}

/// A process, while it works.
struct Node {
    store: Store,
    client: u64,
    seed: Seed,
    /// The file that says that all is over.
    stop: PathBuf,
    /// The number of its next call.
    operation: u64,
    /// Among how many of a stream's last commits one is recognised that is sent again.
    window: Option<u64>,
}

fn line(line: &Line) {
    let mut out = std::io::stdout().lock();
    write_line(&mut out, line).and_then(|()| out.flush()).unwrap();
}

fn stream(name: &str) -> StreamId {
    StreamId::new(name).unwrap()
}

fn deadline() -> Deadline {
    Deadline::within(CALL_MAX)
}

/// A commit of one to three events.
fn commit(seed: &mut Seed) -> NewCommit {
    let event = |seed: &mut Seed| NewEvent::new(EventType::new(MARK).unwrap(), seed.bytes().to_vec());
    let events = (0..1 + seed.below(3)).map(|_| event(seed)).collect();
    NewCommit { id: CommitId(seed.bytes()), events: Events::new(events).unwrap() }
}

/// A call that is under way, and told of before and after.
struct Call<'a> {
    client: u64,
    operation: u64,
    attempt: u32,
    stream: &'a str,
    invoked_at: seen::Moment,
}

impl<'a> Call<'a> {
    /// Tells of it before it is made, so that it is known although its process is killed.
    fn begin(client: u64, operation: u64, attempt: u32, stream: &'a str, unanswered: seen::Call) -> Self {
        let call = Self { client, operation, attempt, stream, invoked_at: now() };
        call.say(seen::Returned::Never, unanswered);
        call
    }

    fn end(self, answered: seen::Call) {
        self.say(seen::Returned::At(now()), answered);
    }

    fn say(&self, returned_at: seen::Returned, call: seen::Call) {
        let Self { client, operation, attempt, stream, invoked_at } = *self;
        let stream = stream.to_owned();
        line(&Line::Operation(seen::Operation { client, operation, attempt, stream, invoked_at, returned_at, call }));
    }
}

fn receipt(receipt: &Appended) -> seen::Receipt {
    seen::Receipt {
        first: receipt.first.0,
        last: receipt.last.0,
        number: receipt.number.0,
        position: receipt.position.map(|position| position.0),
        repeated: receipt.repeated,
    }
}

/// Appends, and tells of it; gives the commit's number unless there was a conflict, and an error that is none.
async fn append(
    store: &Store,
    client: u64,
    operation: u64,
    attempt: u32,
    name: &str,
    expected: Expected,
    commit: &NewCommit,
) -> Result<Option<CommitNumber>, Error> {
    let record = |outcome| {
        let events = commit.clone().recorded().unwrap().iter().map(event).collect();
        let expected = match expected {
            Expected::At(revision) => seen::Expected::At(revision.0),
            Expected::NoStream => seen::Expected::NoStream,
            Expected::Any | Expected::Exists => seen::Expected::Any,
        };
        seen::Call::Append(seen::Append { commit: commit.id.0.into(), expected, events, outcome })
    };
    let call = Call::begin(client, operation, attempt, name, record(seen::AppendOutcome::Ambiguous));
    let request = Append { stream: stream(name), expected, commit: commit.clone(), deadline: deadline() };
    let (outcome, number) = match store.events().append(request).await {
        Ok(appended) => (seen::AppendOutcome::Ok(receipt(&appended)), Some(appended.number)),
        Err(error) => match error.head() {
            Some(head) => (seen::AppendOutcome::Conflict { actual: head.revision.0 }, None),
            None => return Err(error),
        },
    };
    call.end(record(outcome));
    Ok(number)
}

impl Node {
    fn is_over(&self) -> bool {
        self.stop.exists()
    }

    /// Appends: nothing but a conflict may come in between.
    async fn append(&mut self, name: &str, expected: Expected, commit: &NewCommit) -> Option<CommitNumber> {
        self.operation += 1;
        match append(&self.store, self.client, self.operation, 0, name, expected, commit).await {
            Ok(number) => number,
            Err(error) => panic!("an append failed: {error}"),
        }
    }

    /// Whether a commit can be sent again although others append meanwhile.
    async fn is_recognised(&self, name: &str, number: Option<CommitNumber>) -> bool {
        let Some(window) = self.window else { return true };
        let request = ReadHead { stream: stream(name), deadline: deadline() };
        let head = self.store.events().head(request).await.unwrap().number.0;
        number.is_none_or(|number| head.saturating_sub(number.0) + WINDOW_MARGIN < window)
    }

    async fn write(&mut self) {
        let mut sent: Vec<(u64, Option<CommitNumber>, String, Expected, NewCommit)> = Vec::new();
        while !self.is_over() {
            let name = format!("race-{}", self.seed.below(STREAMS));
            match self.seed.below(100) {
                0..60 => {
                    let expected = if self.seed.chance(33) { Expected::Any } else { self.expected(&name).await };
                    let commit = commit(&mut self.seed);
                    let number = self.append(&name, expected, &commit).await;
                    let place = if sent.len() < REMEMBERED { sent.len() } else { self.seed.below(50) as usize };
                    sent.truncate(REMEMBERED);
                    sent.insert(place, (self.operation, number, name, expected, commit));
                }
                60..70 if !sent.is_empty() => {
                    let (operation, number, name, expected, commit) = self.seed.pick(&sent).clone();
                    if !self.is_recognised(&name, number).await {
                        continue;
                    }
                    // The number of the attempt is that of the call: no other one has it.
                    self.operation += 1;
                    let attempt = u32::try_from(self.operation).unwrap();
                    append(&self.store, self.client, operation, attempt, &name, expected, &commit).await.unwrap();
                }
                _ => self.read(&name).await,
            }
            tokio::time::sleep(Duration::from_millis(self.seed.below(8))).await;
        }
    }

    async fn expected(&self, name: &str) -> Expected {
        let request = ReadHead { stream: stream(name), deadline: deadline() };
        Expected::At(self.store.events().head(request).await.unwrap().revision)
    }

    /// Appends so many commits, by many callers at a time; each is a client of its own.
    async fn fill(&mut self, count: u64, name: impl Fn(u64) -> String) {
        let (client, seed) = (self.client, &mut self.seed);
        let callers = (0..FILLERS).map(|caller| {
            let (store, mut seed) = (&self.store, seed.fork());
            let names: Vec<String> = (caller..count).step_by(FILLERS as usize).map(&name).collect();
            async move {
                for (operation, name) in names.into_iter().enumerate() {
                    let (client, commit) = (client * 1_000 + caller + 1_000, commit(&mut seed));
                    append(store, client, operation as u64, 0, &name, Expected::Any, &commit).await.unwrap();
                }
            }
        });
        futures::future::join_all(callers).await;
    }

    /// Open loop: an append begins when it is due, and not when the one before is answered. Callers are clients of their own.
    async fn hot(&mut self, rate: u64) {
        let (client, seed) = (self.client, &mut self.seed);
        let every = Duration::from_secs(FILLERS) / u32::try_from(rate).unwrap();
        let callers = (0..FILLERS).map(|caller| {
            let (store, stop, mut seed) = (&self.store, &self.stop, seed.fork());
            async move {
                let first = tokio::time::Instant::now() + every * u32::try_from(caller).unwrap() / FILLERS as u32;
                let mut due = tokio::time::interval_at(first, every);
                for operation in 0.. {
                    due.tick().await;
                    if stop.exists() {
                        return;
                    }
                    let (client, commit) = (client * 1_000 + caller + 1_000, commit(&mut seed));
                    append(store, client, operation, 0, HOT, Expected::Any, &commit).await.unwrap();
                }
            }
        });
        futures::future::join_all(callers).await;
    }

    async fn create(&mut self, pause: Duration) {
        for number in 0.. {
            if self.is_over() {
                return;
            }
            let commit = commit(&mut self.seed);
            self.append(&format!("born-{number}"), Expected::NoStream, &commit).await;
            tokio::time::sleep(pause).await;
        }
    }

    async fn until_refused(&mut self) {
        loop {
            self.operation += 1;
            let commit = commit(&mut self.seed);
            if let Err(error) =
                append(&self.store, self.client, self.operation, 0, "race-0", Expected::Any, &commit).await
            {
                eprintln!("refused: {:?}: {error}", error.kind());
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn read(&mut self, name: &str) {
        self.operation += 1;
        let read = |outcome| seen::Call::Read(seen::Read { consistency: seen::Consistency::Eventual, outcome });
        let call = Call::begin(self.client, self.operation, 0, name, read(seen::ReadOutcome::Failed));
        // A node that only reads may notice a move a moment late; it never goes back behind what it saw itself.
        let (head, folded, _) = self.state(name).await;
        call.end(read(seen::ReadOutcome::Ok { head, seen: seen::Seen::Chain(folded) }));
    }

    /// The last revision of a stream, all its events folded, and its last commit.
    async fn state(&self, name: &str) -> (u64, seen::Digest, Option<Commit>) {
        let (mut from, mut folded, mut last) = (StreamStart::First, seen::Digest::default(), None);
        loop {
            let request = ReadStream {
                stream: stream(name),
                from,
                direction: Direction::Forward,
                limit: 1000,
                max_bytes: 4 << 20,
                deadline: deadline(),
            };
            let page = self.store.events().read_stream(request).await.unwrap();
            folded = page.events().fold(folded, |folded, one| seen::chain(folded, &event(one.event)));
            last = page.commits.last().cloned().or(last);
            match page.next {
                Some(next) => from = StreamStart::At(next),
                None => return (page.head.revision.0, folded, last),
            }
        }
    }

    async fn snapshot(&mut self) {
        while !self.is_over() {
            let name = format!("race-{}", self.seed.below(STREAMS));
            if self.seed.chance(60) {
                let commit = commit(&mut self.seed);
                self.append(&name, Expected::Any, &commit).await;
                self.save_snapshot(&name).await;
            } else {
                self.load_snapshot(&name).await;
            }
            tokio::time::sleep(Duration::from_millis(self.seed.below(8))).await;
        }
    }

    async fn save_snapshot(&mut self, name: &str) {
        let (_, state, Some(last)) = self.state(name).await else { return };
        let revision = last.last_revision();
        let snapshot = Snapshot {
            stream: stream(name),
            revision,
            number: last.number,
            commit: last.id,
            schema: 1,
            content_type: ContentType::bytes(),
            data: state.0.to_vec().into(),
            taken_at: Timestamp(1),
        };
        self.operation += 1;
        let save = |outcome| seen::Call::SaveSnapshot(seen::SaveSnapshot { revision: revision.0, state, outcome });
        let call = Call::begin(self.client, self.operation, 0, name, save(seen::SaveOutcome::Ambiguous));
        let outcome = match self.store.events().put_snapshot(PutSnapshot { snapshot, deadline: deadline() }).await {
            Ok(SnapshotPut::Stored { .. }) => seen::SaveOutcome::Stored,
            Ok(SnapshotPut::Superseded { by, .. }) => seen::SaveOutcome::Superseded { by: by.0 },
            Err(error) => panic!("a snapshot could not be saved: {error}"),
        };
        call.end(save(outcome));
    }

    async fn load_snapshot(&mut self, name: &str) {
        self.operation += 1;
        let call =
            Call::begin(self.client, self.operation, 0, name, seen::Call::LoadSnapshot(seen::LoadOutcome::Failed));
        let request = ReadSnapshot { stream: stream(name), deadline: deadline() };
        let found = match self.store.events().read_snapshot(request).await.unwrap() {
            None => seen::LoadOutcome::Absent,
            Some(found) => seen::LoadOutcome::Found {
                revision: found.revision.0,
                state: seen::Digest(found.data.as_ref().try_into().unwrap()),
            },
        };
        call.end(seen::Call::LoadSnapshot(found));
    }

    /// Follows the feed until everything is quiet, from where the run before was.
    async fn consume(&mut self, run: u32) {
        let subscriber = self.client;
        let key = Checkpoint::key(format!("consumer-{subscriber}")).unwrap();
        let events = self.store.events();
        let kept = events.read_record(ReadRecord { key: key.clone(), deadline: deadline() }).await.unwrap();
        let cursor =
            kept.and_then(|record| record.value).and_then(|value| Checkpoint::from_value(&value).unwrap().cursor);
        let incarnation = events.feed_head(deadline()).await.unwrap().cursor.incarnation().to_string();
        let after = cursor.as_ref().and_then(|cursor| cursor.position()).unwrap_or_default().0;
        line(&Line::RunStarted { subscriber, run, incarnation, after, at: now() });
        let mut reached = cursor.as_ref().and_then(|cursor| cursor.position()).or(Some(Position(0)));
        let start = cursor.map_or(Start::First, Start::After);
        let mut feed = self.store.subscribe(start).open().await.unwrap();
        let mut told_at = None;
        loop {
            let delivery = {
                // Not dropped while it is quiet: a page may take longer than that.
                let mut next = std::pin::pin!(feed.next());
                loop {
                    match tokio::time::timeout(QUIET, &mut next).await {
                        Ok(delivery) => break delivery.unwrap(),
                        Err(_) if self.stop.with_file_name(DRAIN).exists() => {
                            // A reader may believe the owner before for a moment, and in the end that it has.
                            let told_at = *told_at.get_or_insert_with(tokio::time::Instant::now);
                            // Polled beside it: a read that waits for the owner's answer has others wait for that too.
                            let head = std::pin::pin!(events.feed_head(deadline()));
                            let end = match futures::future::select(next.as_mut(), head).await {
                                Either::Left((delivery, _)) => break delivery.unwrap(),
                                Either::Right((head, _)) => head.unwrap().position,
                            };
                            if end <= reached && told_at.elapsed() > BELIEVED_MAX {
                                return line(&Line::RunDrained { subscriber, run });
                            }
                        }
                        Err(_) => {}
                    }
                }
            };
            let Some(Delivery::Batch(batch)) = delivery else { continue };
            for entry in batch.commits().iter().flat_map(|commit| entries(commit)) {
                line(&Line::Delivered { subscriber, run, at: now(), entry });
            }
            reached = batch.cursor().position();
            let value = Some(Checkpoint::at(batch.cursor().clone()).to_value().unwrap());
            let (key, expected) = (key.clone(), RecordExpected::Any);
            match events.put_record(PutRecord { key, expected, value, deadline: deadline() }).await {
                // A checkpoint that may not be kept only means that more is delivered again.
                Err(error) if error.kind() == ErrorKind::Indeterminate => {}
                put => drop(put.unwrap()),
            }
        }
    }

    /// Tells of everything that is there, as if it had appended it.
    async fn recall(&mut self) {
        for commit in commits(&self.store).await.into_iter().filter(|commit| !is_seal(commit)) {
            let append = seen::Append {
                commit: commit.id.0.into(),
                expected: seen::Expected::Any,
                events: commit.events.iter().map(event).collect(),
                outcome: seen::AppendOutcome::Ok(seen::Receipt {
                    first: commit.first_revision.0,
                    last: commit.last_revision().0,
                    number: commit.number.0,
                    position: commit.first_position.map(|position| position.0),
                    repeated: false,
                }),
            };
            self.operation += 1;
            let (client, operation) = (self.client, self.operation);
            // Nothing is known of when it was made but that it is over.
            let stream = commit.stream.to_string();
            let call = Call { client, operation, attempt: 0, stream: &stream, invoked_at: seen::Moment(0) };
            call.end(seen::Call::Append(append));
        }
    }
}

/// All commits of a store, in the order of its feed.
pub async fn commits(store: &Store) -> Vec<Commit> {
    let (mut from, mut all) = (evstore::FeedStart::First, Vec::new());
    loop {
        let filter =
            evstore::FeedFilter { namespace: evstore::api::NamespaceFilter::All, ..evstore::FeedFilter::none() };
        let request = evstore::ReadFeed { from, filter, limit: 1000, max_bytes: 4 << 20, deadline: deadline() };
        let page = store.events().read_feed(request).await.unwrap();
        all.extend(page.commits().cloned());
        if page.end {
            return all;
        }
        from = evstore::FeedStart::After(page.next);
    }
}

/// An event as the checker knows it.
pub fn event(event: &evstore::Event) -> seen::Event {
    let mut hasher = blake3::Hasher::new();
    hasher.update(event.event_type.as_str().as_bytes()).update(&[0]).update(&event.metadata).update(&[0]);
    let digest = hasher.update(&event.data).finalize();
    let digest = digest.as_bytes()[..16].try_into().unwrap();
    seen::Event { id: event.id.0.into(), digest: seen::Digest(digest) }
}

/// Whether it is the mark of a stream that was sealed for a move.
pub fn is_seal(commit: &Commit) -> bool {
    matches!(commit.kind, CommitKind::MovedOut { .. })
}

/// The entries of a feed that a commit takes.
pub fn entries(commit: &Commit) -> Vec<seen::FeedEntry> {
    if is_seal(commit) {
        let item = seen::FeedItem::Marker { stream: commit.stream.to_string(), number: commit.number.0 };
        return vec![seen::FeedEntry { position: commit.first_position.unwrap().0, item }];
    }
    let entry = |one: evstore::EventRef<'_>| seen::FeedEntry {
        position: one.position().unwrap().0,
        item: seen::FeedItem::Event {
            stream: commit.stream.to_string(),
            revision: one.revision().0,
            commit: commit.id.0.into(),
            event: event(one.event),
        },
    };
    commit.events().map(entry).collect()
}
