//! A running system that is moved: nodes are processes that share nothing but the stores, the migrator is the command, killed again
//! and again, and the history checker judges all that the nodes saw.

// Each test program uses a part of it; and a test may fail by a panic, also in its helpers.
#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout)]

use evstore::api::{Commit, NamespaceFilter, ReadHead};
use evstore::{
    Append, CommitId, Config, Deadline, Delivery, Direction, EventType, Events, Expected, FeedFilter, FeedStart,
    NewCommit, NewEvent, ReadFeed, ReadStream, Registry, Sources, Start, Store, StoreName, StreamId, StreamStart,
};
use evstore_conformance::history::feed::FeedClaims;
use evstore_conformance::history::lines::{self, Line, write_line};
use evstore_conformance::history::record as seen;
use evstore_conformance::history::stream::{Removal, Sessions, StreamClaims};
use evstore_conformance::history::{Claims, FeedClaim, check};
use evstore_conformance::seed::Seed;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Streams that all writers share.
const STREAMS: u64 = 6;
/// Longest time of one call: an append rides through a hand-over within it.
const CALL_MAX: Duration = Duration::from_secs(20);
/// Longest that anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(90);
/// What a node is told.
const ROLE: &str = "MOVER_ROLE";

/// The present moment of this machine's monotonic clock, comparable between its processes.
fn now() -> seen::Moment {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    seen::Moment(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

fn stream(number: u64) -> StreamId {
    StreamId::new(format!("race-{number}")).unwrap()
}

/// What a process does that the test started; nothing where it was started by somebody else.
pub fn work_if_told() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let parts: Vec<&str> = role.split(' ').collect();
    let [kind, config, client] = parts.as_slice() else { panic!("{role}") };
    let client: u64 = client.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let config = PathBuf::from(config);
        let stop = config.with_file_name("stop");
        let config =
            Config::load(&Sources::new(config.parent().unwrap(), evstore::Environment::default()).with_file(&config))
                .unwrap();
        let store = Registry::builtin().open(&config, config.default_store().unwrap()).await.unwrap();
        match *kind {
            "write" => write(&store, client, &stop, u64::MAX).await,
            "fill" => write(&store, client, &stop, 600).await,
            "follow" => follow(&store, client, &stop).await,
            other => panic!("{other}"),
        }
        store.close().await.unwrap();
    });
}

fn line(line: &Line) {
    let mut out = std::io::stdout().lock();
    write_line(&mut out, line).and_then(|()| out.flush()).unwrap();
}

/// Appends and reads until it is told to stop.
async fn write(store: &Store, client: u64, stop: &Path, calls: u64) {
    let mut seed = Seed(client.wrapping_mul(0x9e37_79b9) ^ u64::from(std::process::id()));
    for operation in 0..calls {
        if stop.exists() {
            return;
        }
        let number = seed.below(STREAMS);
        if seed.below(100) < 70 {
            append(store, client, operation, number, &mut seed).await
        } else {
            read(store, client, operation, number).await
        }
        if calls == u64::MAX {
            tokio::time::sleep(Duration::from_millis(seed.below(8))).await;
        }
    }
}

async fn append(store: &Store, client: u64, operation: u64, number: u64, seed: &mut Seed) {
    let expected = match seed.below(3) {
        0 => Expected::Any,
        _ => {
            let head = store
                .events()
                .head(ReadHead { stream: stream(number), deadline: Deadline::within(CALL_MAX) })
                .await
                .unwrap();
            Expected::At(head.revision)
        }
    };
    let events =
        (0..1 + seed.below(3)).map(|_| NewEvent::new(EventType::new("made").unwrap(), seed.bytes().to_vec())).collect();
    let commit = NewCommit { id: CommitId(seed.bytes()), events: Events::new(events).unwrap() };
    let record = |outcome| {
        let events = commit.clone().recorded().unwrap().iter().map(event).collect();
        let expected = match expected {
            Expected::At(revision) => seen::Expected::At(revision.0),
            _ => seen::Expected::Any,
        };
        seen::Call::Append(seen::Append { commit: commit.id.0.into(), expected, events, outcome })
    };
    let invoked_at = now();
    let said = |returned_at, call| {
        let stream = stream(number).to_string();
        line(&Line::Operation(seen::Operation {
            client,
            operation,
            attempt: 0,
            stream,
            invoked_at,
            returned_at,
            call,
        }));
    };
    said(seen::Returned::Never, record(seen::AppendOutcome::Ambiguous));
    let request =
        Append { stream: stream(number), expected, commit: commit.clone(), deadline: Deadline::within(CALL_MAX) };
    let outcome = match store.events().append(request).await {
        Ok(receipt) => seen::AppendOutcome::Ok(seen::Receipt {
            first: receipt.first.0,
            last: receipt.last.0,
            number: receipt.number.0,
            position: receipt.position.map(|position| position.0),
            repeated: receipt.repeated,
        }),
        Err(error) => match error.head() {
            Some(head) => seen::AppendOutcome::Conflict { actual: head.revision.0 },
            None => panic!("an append failed: {error}"),
        },
    };
    said(seen::Returned::At(now()), record(outcome));
}

async fn read(store: &Store, client: u64, operation: u64, number: u64) {
    let invoked_at = now();
    let (mut from, mut folded) = (StreamStart::First, seen::Digest::default());
    let head = loop {
        let request = ReadStream {
            stream: stream(number),
            from,
            direction: Direction::Forward,
            limit: 1000,
            max_bytes: 4 << 20,
            deadline: Deadline::within(CALL_MAX),
        };
        let page = store.events().read_stream(request).await.unwrap();
        folded = page.events().fold(folded, |folded, one| seen::chain(folded, &event(one.event)));
        match page.next {
            Some(next) => from = StreamStart::At(next),
            None => break page.head.revision.0,
        }
    };
    // A node that only reads may notice a move a moment late; it never goes back behind what it saw itself.
    let outcome = seen::ReadOutcome::Ok { head, seen: seen::Seen::Chain(folded) };
    let call = seen::Call::Read(seen::Read { consistency: seen::Consistency::Eventual, outcome });
    let (stream, returned_at) = (stream(number).to_string(), seen::Returned::At(now()));
    line(&Line::Operation(seen::Operation { client, operation, attempt: 0, stream, invoked_at, returned_at, call }));
}

/// Follows the feed until everything is quiet.
async fn follow(store: &Store, subscriber: u64, stop: &Path) {
    let deadline = Deadline::within(CALL_MAX);
    let incarnation = store.events().feed_head(deadline).await.unwrap().cursor.incarnation().to_string();
    let run = 0;
    line(&Line::RunStarted { subscriber, run, incarnation, after: 0, at: now() });
    let mut feed = store.subscribe(Start::First).open().await.unwrap();
    loop {
        match tokio::time::timeout(Duration::from_secs(3), feed.next()).await {
            Ok(delivery) => {
                if let Some(Delivery::Batch(batch)) = delivery.unwrap() {
                    for entry in batch.commits().iter().flat_map(|commit| entries(commit)) {
                        line(&Line::Delivered { subscriber, run, at: now(), entry });
                    }
                }
            }
            Err(_) if stop.exists() => return line(&Line::RunDrained { subscriber, run }),
            Err(_) => {}
        }
    }
}

fn event(event: &evstore::Event) -> seen::Event {
    seen::Event { id: event.id.0.into(), digest: seen::Digest(event.data.as_ref().try_into().unwrap_or_default()) }
}

fn entries(commit: &Commit) -> Vec<seen::FeedEntry> {
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

/// A folder with the two configs of a move, and the processes in it.
pub struct System {
    folder: PathBuf,
    test: &'static str,
    nodes: Vec<(Child, PathBuf)>,
    seed: Seed,
    /// How often the migrator was killed in each phase.
    killed: BTreeMap<String, u32>,
}

impl System {
    /// With two stores, `a` and `b`, whose tables in the config are these. `test` is the one that calls [`work_if_told`].
    pub fn new(folder: &Path, test: &'static str, a: &str, b: &str) -> Self {
        for (name, default) in [("old.toml", "a"), ("new.toml", "b")] {
            let text = format!(
                "default_store = \"{default}\"\n[stores.a]\n{a}\n[stores.b]\n{b}\n[migrate]\ntargets = [\"b\"]\n"
            );
            std::fs::write(folder.join(name), text).unwrap();
        }
        let seed = Seed(u64::from(std::process::id()) ^ now().0);
        println!("seed {}", seed.0);
        Self { folder: folder.to_owned(), test, nodes: Vec::new(), seed, killed: BTreeMap::new() }
    }

    /// Starts a node that writes, fills or follows, with the old config or the new one.
    pub fn node(&mut self, kind: &str, config: &str) {
        let client = self.nodes.len() as u64;
        let seen = self.folder.join(format!("node-{client}.jsonl"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", self.test, "--nocapture"])
            .env(ROLE, format!("{kind} {} {client}", self.folder.join(config).display()));
        let out = std::fs::File::create(&seen).unwrap();
        let errors = std::fs::File::create(self.folder.join(format!("node-{client}.txt"))).unwrap();
        let child = command.stdin(Stdio::null()).stdout(out).stderr(errors).spawn().unwrap();
        self.nodes.push((child, seen));
    }

    /// Waits for the node that was started last.
    pub fn wait_for_node(&mut self) {
        let (child, _) = self.nodes.last_mut().unwrap();
        assert!(child.wait().unwrap().success());
    }

    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evstore"));
        command.args(["-c", "old.toml"]).args(arguments.split(' ')).current_dir(&self.folder).stdin(Stdio::null());
        command.env_clear().env("HOME", &self.folder);
        command
    }

    pub fn ok(&self, arguments: &str) -> String {
        let output = self.command(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn phase(&self) -> String {
        let status: Value = serde_json::from_str(&self.ok("migrate status -o json")).unwrap();
        status["phase"].as_str().unwrap().to_owned()
    }

    /// Starts a verb of the migrator again and again and kills it, until the move is in one of these phases. Once it was killed
    /// `kills` times it is left alone.
    pub fn killed_until(&mut self, arguments: &str, kills: u32, phases: &[&str]) {
        let began = Instant::now();
        for round in 0.. {
            assert!(began.elapsed() < PATIENCE, "{arguments} does not come to an end; it is {}", self.phase());
            let mut child = self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            if round < kills {
                std::thread::sleep(Duration::from_millis(20 + self.seed.below(350)));
                child.kill().unwrap();
                child.wait().unwrap();
                let phase = self.phase();
                *self.killed.entry(phase.clone()).or_default() += 1;
                if phases.contains(&phase.as_str()) {
                    return;
                }
            } else {
                let end = child.wait().unwrap();
                let phase = self.phase();
                if phases.contains(&phase.as_str()) {
                    return;
                }
                println!("{arguments} ended with {end}: {phase}");
            }
        }
    }

    /// Lets a migrator run and kills it so many times.
    pub fn run_killed(&mut self, kills: u32) {
        for _ in 0..kills {
            let mut child = self.command("migrate run -q").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(30 + self.seed.below(400)));
            child.kill().unwrap();
            child.wait().unwrap();
            let phase = self.phase();
            *self.killed.entry(phase).or_default() += 1;
        }
    }

    /// Stops the nodes and judges what they saw against what the owner holds.
    pub fn judge(&mut self, owner: &str) {
        std::fs::write(self.folder.join("stop"), "").unwrap();
        for (node, (child, _)) in self.nodes.iter_mut().enumerate() {
            let ended = child.wait().unwrap();
            let said = std::fs::read_to_string(self.folder.join(format!("node-{node}.txt"))).unwrap();
            assert!(ended.success(), "node {node}: {said}");
        }
        let mut text = Vec::new();
        for (_, seen) in &self.nodes {
            let all = std::fs::read_to_string(seen).unwrap();
            // What the test program says around it is not of the history.
            let of_history = all.lines().filter_map(|line| line.find('{').map(|at| &line[at..]));
            of_history.for_each(|line| text.extend(format!("{line}\n").into_bytes()));
        }
        let mut history = lines::read(text.as_slice()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let file = self.folder.join("old.toml");
            let config =
                Config::load(&Sources::new(&self.folder, evstore::Environment::default()).with_file(&file)).unwrap();
            let name = StoreName::new(owner).unwrap();
            // The store itself, which follows no move.
            let store = Registry::builtin().settings(&config, &name).unwrap().open().await.unwrap();
            let (streams, feed) = finals(&store).await;
            history.final_streams = streams;
            history.final_feed = Some(feed);
            store.close().await.unwrap();
        });
        let appended = history.operations.iter().filter(|one| {
            matches!(&one.call, seen::Call::Append(append) if matches!(append.outcome, seen::AppendOutcome::Ok(_)))
        });
        println!(
            "killed by phase: {:?}; {} calls, {} commits acknowledged",
            self.killed,
            history.operations.len(),
            appended.count()
        );
        assert!(history.operations.iter().all(|one| one.returned_at != seen::Returned::Never), "a call got no answer");
        let streams = StreamClaims { sessions: Sessions::Guaranteed, removal: Removal::Never };
        let verdict = check(&history, &Claims { streams, feed: FeedClaim::Of(FeedClaims::STRICT) });
        assert!(verdict.held(), "{verdict}");
        self.nodes.clear();
    }
}

impl Drop for System {
    fn drop(&mut self) {
        for (child, _) in &mut self.nodes {
            // It may have ended; there is nothing more to do about it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the owner holds.
async fn finals(store: &Store) -> (Vec<seen::FinalStream>, seen::FinalFeed) {
    let mut streams: BTreeMap<String, Vec<seen::FinalCommit>> = BTreeMap::new();
    let (mut from, mut all) = (FeedStart::First, Vec::new());
    let incarnation = loop {
        let filter = FeedFilter { namespace: NamespaceFilter::All, ..FeedFilter::none() };
        let deadline = Deadline::within(CALL_MAX);
        let page = store
            .events()
            .read_feed(ReadFeed { from, filter, limit: 1000, max_bytes: 4 << 20, deadline })
            .await
            .unwrap();
        for commit in page.commits() {
            all.extend(entries(commit));
            let events = commit.events.iter().map(event).collect();
            let body = seen::FinalBody::Events { first: commit.first_revision.0, events };
            let id = commit.id.0.into();
            let of_stream = streams.entry(commit.stream.to_string()).or_default();
            of_stream.push(seen::FinalCommit { id, number: commit.number.0, body });
        }
        if page.end {
            break page.next.incarnation().to_string();
        }
        from = FeedStart::After(page.next);
    };
    let streams = streams.into_iter().map(|(stream, commits)| seen::FinalStream { stream, commits }).collect();
    (streams, seen::FinalFeed { incarnation, entries: all })
}

/// There, back, there again, and for good: with the migrator killed in the middle of every one.
///
/// `start` is the verb that begins it: what the target promises less of has to be accepted.
pub fn there_and_back_and_for_good(mut system: System, start: &str, kills: u32) {
    system.node("fill", "old.toml");
    system.wait_for_node();
    for config in ["old.toml", "old.toml", "old.toml"] {
        system.node("write", config);
    }
    system.node("follow", "old.toml");
    system.ok(start);
    // One that was deployed with the new config before anything was handed over, and its follower.
    system.node("write", "new.toml");
    system.node("follow", "new.toml");
    system.run_killed(kills);
    let taken_over = ["moved", "copying_back"];
    system.killed_until("migrate cutover -y", kills, &taken_over);
    // One that starts cold, with the old config, when the streams have left.
    system.node("write", "old.toml");
    system.run_killed(kills);
    system.killed_until("migrate rollback -y", kills, &["moved_back"]);
    system.ok(start);
    system.run_killed(kills / 2);
    system.killed_until("migrate cutover -y", kills, &taken_over);
    system.ok("migrate verify");
    system.ok("migrate finish -y");
    std::thread::sleep(Duration::from_millis(500));
    system.judge("b");
    system.ok("verify b");
    assert_eq!(system.phase(), "finished");
}
