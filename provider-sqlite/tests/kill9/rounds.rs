//! Kills a process that appends, at random moments, and looks at what it left: the rounds and the process that is killed.

#![allow(clippy::unwrap_used, reason = "shared with an example, where nothing can go on after a failure")]

use evstore_api::*;
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Where the child finds its file and its seed.
const PATH: &str = "EVSTORE_KILL9_PATH";
const SEED: &str = "EVSTORE_KILL9_SEED";
/// Callers in the child; each appends to a stream of its own and to one that all share.
const CALLERS: u64 = 16;

/// What the rounds met.
#[derive(Debug, Default)]
pub struct Tally {
    /// Commits that were acknowledged before a kill.
    pub acknowledged: usize,
    /// Commits that were sent and not acknowledged, of which some were written.
    pub unacknowledged: usize,
    /// Unacknowledged commits that were there after all.
    pub written_unacknowledged: usize,
}

/// Whether this process is the one to be killed; it then appends for ever.
pub fn run_child() -> bool {
    let (Ok(path), Ok(seed)) = (std::env::var(PATH), std::env::var(SEED)) else { return false };
    let seed: u64 = seed.parse().unwrap();
    runtime().block_on(async {
        let store = open(Path::new(&path)).await;
        let callers: Vec<_> =
            (0..CALLERS).map(|caller| tokio::spawn(append_for_ever(store.clone(), seed, caller))).collect();
        for caller in callers {
            caller.await.unwrap();
        }
    });
    true
}

async fn append_for_ever(store: Arc<dyn EventStore>, seed: u64, caller: u64) {
    for turn in 0_u64.. {
        let commit = Planned { seed, caller, turn };
        say(&format!("try {caller} {turn}\n"));
        let receipt = store.append(commit.request()).await.unwrap();
        say(&format!("ack {caller} {turn} {} {}\n", receipt.first, receipt.position.unwrap()));
    }
}

/// One write for each line, so that a kill leaves whole lines but for the last.
fn say(line: &str) {
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

/// Kills the child in each round and checks what it left. `child` starts a process that calls [`run_child`].
///
/// # Panics
/// When anything acknowledged is missing, torn or doubled; the seed is in the message.
pub fn run(rounds: u64, seed: u64, path: &Path, child: impl Fn() -> Command) -> Tally {
    let mut random = Random(seed | 1);
    let mut tally = Tally::default();
    let mut known = Known::default();
    for round in 0..rounds {
        let child_seed = random.next();
        let pause = Duration::from_micros(2_000 + random.next() % 120_000);
        let lines = kill_after(child().env(PATH, path).env(SEED, child_seed.to_string()), pause);
        let said = Said::parse(child_seed, &lines);
        tally.acknowledged += said.acknowledged.len();
        tally.unacknowledged += said.unacknowledged.len();
        let written = runtime().block_on(check(path, &said, &mut known));
        tally.written_unacknowledged += written.unwrap_or_else(|what| panic!("seed {seed}, round {round}: {what}"));
    }
    tally
}

fn kill_after(command: &mut Command, pause: Duration) -> Vec<String> {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let lines =
        std::thread::spawn(move || out.split(b'\n').map_while(|line| String::from_utf8(line.ok()?).ok()).collect());
    std::thread::sleep(pause);
    // SIGKILL: nothing in the child runs any more.
    child.kill().unwrap();
    child.wait().unwrap();
    lines.join().unwrap()
}

/// What a child said before it died.
struct Said {
    acknowledged: HashMap<Planned, (u64, u64)>,
    unacknowledged: HashSet<Planned>,
}

impl Said {
    fn parse(seed: u64, lines: &[String]) -> Self {
        let mut said = Self { acknowledged: HashMap::new(), unacknowledged: HashSet::new() };
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
            let (Some(caller), Some(turn)) = (number(1), number(2)) else { continue };
            let commit = Planned { seed, caller, turn };
            match (words[0], number(3), number(4)) {
                ("try", None, None) => drop(said.unacknowledged.insert(commit)),
                ("ack", Some(first), Some(position)) => {
                    said.unacknowledged.remove(&commit);
                    said.acknowledged.insert(commit, (first, position));
                }
                // The test harness has lines of its own.
                _ => {}
            }
        }
        said
    }
}

/// What is in the file from earlier rounds.
#[derive(Default)]
struct Known {
    end: u64,
    revisions: HashMap<StreamId, u64>,
}

/// Checks the file after a kill, then repeats what was not acknowledged; answers how much of that was there already.
async fn check(path: &Path, said: &Said, known: &mut Known) -> Result<usize, String> {
    let store = open(path).await;
    let before = read_rest(&store, known).await?;
    for (commit, (first, position)) in &said.acknowledged {
        match before.get(&commit.id()) {
            Some(found) if (found.first, found.position) == (*first, *position) => {}
            found => return Err(format!("{commit:?} was acknowledged at {first}, {position} and is {found:?}")),
        }
    }
    for id in before.keys() {
        let sent = said.acknowledged.keys().chain(&said.unacknowledged).any(|commit| commit.id() == *id);
        if !sent {
            return Err(format!("{id} is there and was never sent"));
        }
    }
    let mut again = HashSet::new();
    for commit in &said.unacknowledged {
        let receipt = store.append(commit.request()).await.map_err(|error| format!("{commit:?} repeated: {error}"))?;
        if receipt.repeated != before.contains_key(&commit.id()) {
            return Err(format!("{commit:?} was repeated as {receipt:?}"));
        }
        if !receipt.repeated {
            again.insert(commit.id());
        }
    }
    let after = read_rest(&store, known).await?;
    if after.keys().copied().collect::<HashSet<_>>() != again {
        return Err("the repeats are not there exactly once".to_owned());
    }
    store.close().await.map_err(|error| error.to_string())?;
    Ok(said.unacknowledged.len() - again.len())
}

/// A commit as the feed shows it.
#[derive(Debug)]
struct Found {
    first: u64,
    position: u64,
}

/// Reads the feed on from where it was known, and checks that it accounts for every position and that commits are whole.
async fn read_rest(store: &Arc<dyn EventStore>, known: &mut Known) -> Result<HashMap<CommitId, Found>, String> {
    let mut found = HashMap::new();
    loop {
        let request = ReadFeed {
            from: FeedStart::AfterPosition(Position(known.end)),
            filter: FeedFilter::none(),
            limit: 1_000,
            max_bytes: 16 << 20,
            deadline: soon(),
        };
        let page = store.read_feed(request).await.map_err(|error| format!("the feed: {error}"))?;
        for item in &page.items {
            let FeedItem::Commit(commit) = item else { return Err(format!("{item:?} was never removed")) };
            let position = commit.first_position.map_or(0, |position| position.0);
            let revision = known.revisions.entry(commit.stream.clone()).or_default();
            if position != known.end + 1 || commit.first_revision.0 != *revision + 1 || !commit.is_whole() {
                return Err(format!("after position {} and revision {revision} stands {commit:?}", known.end));
            }
            if commit.events().any(|event| event.event.data[..] != payload(commit.id, event.event.ordinal)[..]) {
                return Err(format!("{} has other bytes", commit.id));
            }
            *revision += u64::from(commit.count);
            known.end += commit.positions();
            if found.insert(commit.id, Found { first: commit.first_revision.0, position }).is_some() {
                return Err(format!("{} stands twice in the feed", commit.id));
            }
        }
        if page.end {
            return Ok(found);
        }
    }
}

/// A commit that the child sends: everything about it follows from these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Planned {
    seed: u64,
    caller: u64,
    turn: u64,
}

impl Planned {
    fn id(self) -> CommitId {
        CommitId::derive(&[&self.seed.to_le_bytes(), &self.caller.to_le_bytes(), &self.turn.to_le_bytes()])
    }

    fn request(self) -> Append {
        let name = if self.turn.is_multiple_of(4) { "shared-1".to_owned() } else { format!("own-{}", self.caller) };
        let event = |ordinal| NewEvent::new(EventType::new("t").unwrap(), payload(self.id(), ordinal));
        let events = (0..1 + (self.turn % 3) as u32).map(event).collect();
        Append {
            stream: StreamId::new(name).unwrap(),
            expected: Expected::Any,
            commit: NewCommit { id: self.id(), events: Events::new(events).unwrap() },
            deadline: soon(),
        }
    }
}

fn payload(commit: CommitId, ordinal: u32) -> Vec<u8> {
    let bytes = 64 + usize::from(commit.0[0]) * 8;
    commit.0.iter().cycle().map(|byte| byte.wrapping_add(ordinal as u8)).take(bytes).collect()
}

fn soon() -> Deadline {
    Deadline::within(Duration::from_secs(30))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn open(path: &Path) -> Arc<dyn EventStore> {
    let provider = evstore_sqlite::provider();
    let given = [("path".to_owned(), path.to_str().unwrap().to_owned())];
    let settings = Settings::new(StoreName::new("main").unwrap(), provider.keys, given).unwrap();
    provider.opener.open(&settings).await.unwrap()
}

/// A small generator, so that a seed replays the moments of the kills.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
