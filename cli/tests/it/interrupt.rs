//! Ctrl-C: a command that follows, and one that waits for its input, stop at once and cleanly. And kill -9, of a sequencer.
#![cfg(unix)]
// A test may fail by a panic, also in its helpers.
use crate::evstore::Folder;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

/// What Ctrl-C sends.
fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn following_the_feed_shows_what_comes_and_stops_at_ctrl_c() {
    let folder = Folder::new();
    folder.ok("append a-1 --type first");
    let mut child = folder.command("feed -f -o jsonl").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut shown = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(shown.next().unwrap().unwrap().contains("first"));
    folder.ok("append a-1 --type second");
    assert!(shown.next().unwrap().unwrap().contains("second"));
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&error["kind"], &error["written"]), (&"interrupted".into(), &"no".into()));
}

#[test]
fn an_interrupted_catalog_leaves_no_scratch_store() {
    let folder = Folder::new();
    let names = || std::fs::read_dir(folder.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let scratch = || names().any(|name| name.to_string_lossy().contains("scratch"));
    let mut child = folder.command("conformance -q").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !scratch() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!scratch());
}

#[test]
fn a_command_that_waits_for_its_reader_stops_too() {
    let folder = Folder::new();
    folder.ok(&format!("import {} -q", crate::evstore::PERMITS));
    for signal in ["-INT", "-TERM"] {
        let mut child = folder.command("feed -o jsonl").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // One line shows that it runs; nobody reads the rest.
        let mut reader = BufReader::with_capacity(16, child.stdout.take().unwrap());
        reader.read_line(&mut String::new()).unwrap();
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(130));
    }
}

/// What a sequencer is killed in the middle of: writers that append to the same streams while it gives positions.
#[cfg(feature = "engine-tests")]
mod sequencer {
    use crate::evstore::Folder;
    use evstore_api::{
        Append, CommitId, Deadline, EventStore, EventType, Events, Expected, FeedFilter, FeedStart, NewCommit,
        NewEvent, Position, ReadFeed, Settings, StoreName, StreamId,
    };
    use std::collections::{HashMap, HashSet};
    use std::process::{Child, Stdio};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    const WRITERS: usize = 4;
    /// One takes the place of one that was killed after four seconds, on a busy machine.
    const COMES_ON_WITHIN: Duration = Duration::from_secs(60);

    /// How often one is killed: more before a release.
    fn kills() -> u32 {
        std::env::var("EVSTORE_TEST_SEQUENCER_KILLS").map_or(1, |kills| kills.parse().unwrap())
    }

    fn deadline() -> Deadline {
        Deadline::within(Duration::from_secs(30))
    }

    async fn write(store: Arc<dyn EventStore>, writer: usize, stop: Arc<AtomicBool>) -> Vec<CommitId> {
        let mut acknowledged = Vec::new();
        for n in 0.. {
            if stop.load(Ordering::Acquire) {
                break;
            }
            let name = if n % 2 == 0 { "hot-1".to_owned() } else { format!("cold-{writer}-{}", n / 10) };
            let event = NewEvent::new(EventType::new("Happened").unwrap(), b"{}".to_vec());
            let commit = NewCommit { id: CommitId::generate(), events: Events::new(vec![event]).unwrap() };
            let id = commit.id;
            let stream = StreamId::new(name).unwrap();
            store.append(Append { stream, expected: Expected::Any, commit, deadline: deadline() }).await.unwrap();
            acknowledged.push(id);
            // A load, and not all that the machine can do.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        acknowledged
    }

    /// Waits until the feed has come further than there.
    async fn comes_on(store: &dyn EventStore, from: Position) -> Position {
        let begun = Instant::now();
        loop {
            let now = store.feed_head(deadline()).await.unwrap().position.unwrap();
            if now > from {
                return now;
            }
            assert!(begun.elapsed() < COMES_ON_WITHIN, "the feed stays at {from}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The commits of the feed, after it was proved that no position is missing and each stream's stand in their order.
    async fn proved(store: &dyn EventStore) -> Vec<CommitId> {
        let (mut from, mut next, mut ids) = (FeedStart::First, 1, Vec::new());
        let mut last: HashMap<StreamId, u64> = HashMap::new();
        loop {
            let request =
                ReadFeed { from, filter: FeedFilter::none(), limit: 500, max_bytes: u64::MAX, deadline: deadline() };
            let page = store.read_feed(request).await.unwrap();
            for commit in page.commits() {
                assert_eq!(commit.first_position, Some(Position(next)));
                next += commit.positions();
                let before = last.insert(commit.stream.clone(), commit.number.0).unwrap_or_default();
                assert_eq!(commit.number.0, before + 1, "{}", commit.stream);
                ids.push(commit.id);
            }
            if page.end {
                return ids;
            }
            from = FeedStart::After(page.next);
        }
    }

    fn endpoint(variable: &str) -> String {
        std::env::var(variable).unwrap_or_else(|_| panic!("{variable} names the endpoint to test"))
    }

    #[test]
    fn one_that_is_killed_under_load_loses_nothing_and_repeats_nothing() {
        kill_under_load("k", &[("feed", "sequencer")]);
    }

    #[test]
    fn one_with_a_queue_that_is_killed_under_load_loses_nothing_and_repeats_nothing() {
        let queues = endpoint("EVSTORE_TEST_SQS_URL");
        kill_under_load("q", &[("feed", "sqs-fifo"), ("queue_endpoint", &queues)]);
    }

    fn kill_under_load(tag: &str, feed: &[(&str, &str)]) {
        let url = endpoint("EVSTORE_TEST_DYNAMODB_URL");
        let given = [
            ("endpoint", url.as_str()),
            ("region", "local"),
            ("access_key_id", "AKIDEVSTORETEST"),
            ("secret_access_key", "not-looked-at"),
            ("sequencer", "apart"),
        ];
        let given: Vec<_> = given.into_iter().chain(feed.iter().copied()).collect();
        let folder = Folder::bare();
        let start = || -> Child {
            folder.command("sequencer run -q").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let registry = ::evstore::Registry::builtin();
        let provider = registry.get("dynamodb").unwrap();
        let settings = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let settings = Settings::new(StoreName::new("main").unwrap(), provider.keys, settings).unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let settings =
                provider.opener.make_scratch(&settings, &format!("{tag}{}", std::process::id())).await.unwrap();
            let keys = given.iter().copied().chain([("table", settings.text("table").unwrap())]);
            let keys: String = keys.map(|(key, value)| format!("{key} = \"{value}\"\n")).collect();
            let config = format!("default_store = \"main\"\n[stores.main]\nprovider = \"dynamodb\"\n{keys}");
            folder.write("evstore.toml", &config);
            let store = provider.opener.open(&settings).await.unwrap();
            let stop = Arc::new(AtomicBool::new(false));
            let writers: Vec<_> =
                (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer, stop.clone()))).collect();
            let (mut at, mut killed) = (Position(0), 0);
            let mut running = start();
            while killed < kills() {
                at = comes_on(&*store, at).await;
                // Wherever it is then, between one step and another or in the middle of one.
                tokio::time::sleep(Duration::from_millis(u64::from(CommitId::generate().0[0]))).await;
                running.kill().unwrap();
                running.wait().unwrap();
                running = start();
                killed += 1;
            }
            stop.store(true, Ordering::Release);
            let mut acknowledged = Vec::new();
            for writer in writers {
                acknowledged.extend(writer.await.unwrap());
            }
            // The last one brings up what those before it left.
            let begun = Instant::now();
            while store.feed_head(deadline()).await.unwrap().lag.commits > 0 {
                assert!(begun.elapsed() < COMES_ON_WITHIN, "nobody took the place of the one that was killed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            running.kill().unwrap();
            running.wait().unwrap();
            let found = proved(&*store).await;
            let distinct: HashSet<_> = found.iter().collect();
            assert_eq!((found.len(), distinct.len()), (acknowledged.len(), acknowledged.len()));
            assert!(acknowledged.iter().all(|id| distinct.contains(id)), "an acknowledged commit is missing");
            assert!(acknowledged.len() > 20, "{} commits are no load", acknowledged.len());
            store.close().await.unwrap();
            provider.opener.drop_scratch(&settings).await.unwrap();
        });
    }
}
