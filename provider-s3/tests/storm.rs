//! Processes that append at once while the service refuses, conflicts and loses answers: one in ten of all puts of the log each way
//! together. The history of all calls is judged by the checker of the catalog; what was acknowledged is there once, in order.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]
#![expect(clippy::print_stdout, reason = "figures are for who reads the test's output, and processes answer by it")]

mod engine;

use engine::{Fate, Message, Proxy, Scratch, append_one, deadline, settings, url};
use evstore_api::{CommitId, ErrorKind, FeedFilter, FeedStart, ReadFeed, Settings, StoreName};
use evstore_conformance::target::WorkerCommand;
use evstore_conformance::{Runner, Target, test_main};
use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// First argument of the processes that this test starts.
const WORKER: &str = "storm-worker";
/// First argument of those that the catalog starts.
const CATALOG_WORKER: &str = "conformance-worker";
/// How many append at once, with so many callers each, which make so many commits each.
const PROCESSES: u64 = 8;
const CALLERS: u64 = 8;
const COMMITS: u64 = 12;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(CATALOG_WORKER) => test_main(Target::new(evstore_s3::provider(), settings(&url(), &[]))),
        Some(WORKER) => runtime().block_on(work()),
        _ => libtest_mimic::run(
            &Arguments::from_args(),
            vec![
                Trial::test("histories_under_faults_are_serial", || runtime().block_on(histories())),
                Trial::test("eight_processes_append_each_commit_once", || runtime().block_on(eight())),
            ],
        )
        .exit_code(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// Each tenth put of the log, on average, meets trouble: an even share of each kind.
fn trouble(counts: Arc<[AtomicU64; 5]>) -> impl Fn(&Message) -> Fate + Send + Sync + 'static {
    // A walk that meets every remainder, the same in each run: puts come in another order each time anyway.
    let turn = AtomicU64::new(0);
    move |message| {
        // Whoever makes a scratch store repeats nothing.
        if !message.is_put_of_log() || message.path().contains("/log/00000000000000000001") {
            return Fate::Pass;
        }
        let chance = turn.fetch_add(1, Ordering::Relaxed).wrapping_mul(2_654_435_761) >> 7;
        let (at, fate) = match chance % 40 {
            0 => (1, Fate::Refuse(503, "SlowDown")),
            1 => (2, Fate::Refuse(409, "ConditionalRequestConflict")),
            2 => (3, Fate::LoseAnswer),
            3 => (4, Fate::LoseRequest),
            _ => (0, Fate::Pass),
        };
        counts[at].fetch_add(1, Ordering::Relaxed);
        fate
    }
}

/// The races of the catalog, through the trouble.
async fn histories() -> Result<(), Failed> {
    let proxy = Proxy::start().await;
    let counts: Arc<[AtomicU64; 5]> = Arc::default();
    proxy.decide(trouble(counts.clone()));
    let program = std::env::current_exe()?;
    let target = Target::new(evstore_s3::provider(), settings(&proxy.url, &[("request_timeout", "2s")]))
        .with_worker(WorkerCommand { program, arguments: vec![CATALOG_WORKER.into()] });
    let mut runner = Runner::new(target, std::process::id().into());
    runner.only = vec!["concurrency.histories-of".into()];
    // One round of each: a put that is refused or unanswered is waited for many times in it.
    runner.effort = 1;
    let report = runner.run(|_| {}).await.map_err(|error| format!("{error:?}"))?;
    let told: Vec<u64> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    println!("puts passed, slowed, in conflict, unanswered, lost: {told:?}");
    if report.count("held") != 2 || told[1..].contains(&0) {
        return Err(Failed::from(report.text()));
    }
    Ok(())
}

async fn eight() -> Result<(), Failed> {
    let proxy = Proxy::start().await;
    let counts: Arc<[AtomicU64; 5]> = Arc::default();
    let scratch = Scratch::at(&proxy.url, &[("checkpoint_every", "16")]).await;
    proxy.decide(trouble(counts.clone()));
    let program = std::env::current_exe()?;
    let told: BTreeMap<_, _> = scratch.settings.values().collect();
    let told = told.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("\n");
    let children: Vec<_> = (0..PROCESSES)
        .map(|process| {
            let mut child = Command::new(&program)
                .args([WORKER, &process.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(told.as_bytes()).unwrap();
            tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
        })
        .collect();
    let mut acknowledged: HashMap<String, u64> = HashMap::new();
    for child in children {
        let output = child.await?;
        assert!(output.status.success(), "a process failed: {}", output.status);
        for line in String::from_utf8(output.stdout)?.lines() {
            let (id, position) = line.split_once(' ').unwrap();
            acknowledged.insert(id.to_owned(), position.parse()?);
        }
    }
    let puts = proxy.take_seen().iter().filter(|(method, _)| method == "PUT").count();
    proxy.decide(|_| Fate::Pass);
    let all = PROCESSES * CALLERS * COMMITS;
    assert_eq!(acknowledged.len() as u64, all, "every commit is acknowledged once");
    let store = scratch.open().await;
    let mut positions = 1..;
    let mut from = FeedStart::First;
    loop {
        let request =
            ReadFeed { from, filter: FeedFilter::none(), limit: 1_000, max_bytes: u64::MAX, deadline: deadline() };
        let page = store.read_feed(request).await.unwrap();
        for commit in page.commits() {
            let position = commit.first_position.unwrap().0;
            assert_eq!(Some(position), positions.next(), "the feed has no hole and nothing twice");
            assert_eq!(acknowledged.remove(&commit.id.to_string()), Some(position), "a receipt says where it stands");
        }
        if page.end {
            break;
        }
        from = FeedStart::After(page.next);
    }
    assert!(acknowledged.is_empty(), "what was acknowledged is in the feed");
    let told: Vec<u64> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    println!("puts of the log passed, slowed, in conflict, unanswered, lost: {told:?}");
    println!(
        "{PROCESSES} processes with {CALLERS} callers each: {:.1} commits for each of {puts} puts",
        all as f64 / puts as f64
    );
    scratch.end().await;
    Ok(())
}

/// One of the processes: it reads its settings, appends, and writes what was acknowledged.
async fn work() -> ExitCode {
    let process: u64 = std::env::args().nth(2).and_then(|number| number.parse().ok()).unwrap();
    let told = std::io::read_to_string(std::io::stdin()).unwrap();
    let given = told.lines().filter_map(|line| line.split_once('='));
    let given = given.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let settings = Settings::new(StoreName::new("s3").unwrap(), evstore_s3::KEYS, given).unwrap();
    let store = evstore_s3::provider().opener.open(&settings).await.unwrap();
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut told = Vec::new();
                for number in 0..COMMITS {
                    let parts = [process, caller, number].map(u64::to_le_bytes);
                    let id = CommitId::derive(&[&parts[0], &parts[1], &parts[2]]);
                    let name = format!("storm-{}", number % 4);
                    let receipt = loop {
                        match append_one(&store, &name, id).await {
                            Ok(receipt) => break receipt,
                            Err(error) => match error.kind() {
                                ErrorKind::Throttled | ErrorKind::Unavailable | ErrorKind::Indeterminate => {}
                                _ => panic!("{error:?}"),
                            },
                        }
                    };
                    told.push(format!("{id} {}", receipt.position.unwrap()));
                }
                told
            })
        })
        .collect();
    for caller in callers {
        for line in caller.await.unwrap() {
            println!("{line}");
        }
    }
    store.close().await.unwrap();
    ExitCode::SUCCESS
}
