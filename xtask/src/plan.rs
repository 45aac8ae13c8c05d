//! What there is to test, as data: steps, the lane that each belongs to, and the engines that each needs.

use crate::engines::{dynamodb, faketime, postgres, redis, s3};
use crate::page;
use crate::run::{EVERYTHING, cargo, evstore, evstore_release, root, run, run_apart, target};
use crate::setup::{PREPARED, Setup, Shown};
use crate::tidy;
use anyhow::{Result, anyhow, ensure};
use std::process::Command;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

/// When a step is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Always: on every change.
    Always,
    /// With `--all`: long, resumable, before a release.
    All,
}

/// Something whose success shows something.
pub struct Step {
    /// What it shows.
    pub name: &'static str,
    /// When it is run.
    pub lane: Lane,
    /// Does it.
    pub run: fn(Run) -> Result<()>,
}

/// What a run of steps was given.
#[derive(Clone, Copy)]
pub struct Run {
    /// The seed of every random choice.
    pub seed: u64,
    /// When nothing more is to be begun.
    pub until: Option<SystemTime>,
}

/// Rounds of a race in the catalog, in hundredths of the usual: on every change, on a set-up that is not a provider's default.
const FEWER: u64 = 20;
/// The usual.
const USUAL: u64 = 100;
/// Before a release, on the embedded stores.
const TENFOLD: u64 = 1000;

/// How often a migrator is killed in each part of a move, before a release.
const KILLS: &str = "20";

/// Every step, in the order of running. A provider's default set-up is held to the whole catalog on every change. Of the others
/// every change sees each engine's other release, and each topology and each persistence once, on one release or the other,
/// with fewer rounds; a release sees them all.
pub const STEPS: &[Step] = &[
    Step {
        name: "unit, integration and catalog tests, on every provider's engine",
        lane: Lane::Always,
        run: |_| tests(),
    },
    Step { name: "examples in the documentation", lane: Lane::Always, run: |_| doc_tests() },
    Step {
        name: "the catalog from the command line",
        lane: Lane::Always,
        run: |run| catalog(EMBEDDED, run.seed, USUAL),
    },
    Step { name: "other set-ups, with fewer rounds", lane: Lane::Always, run: |run| catalog(OTHERS, run.seed, FEWER) },
    Step { name: "the report of a comparison, in a browser", lane: Lane::Always, run: |_| page::check() },
    Step { name: "a third party's provider, from outside", lane: Lane::Always, run: |_| own_provider() },
    Step {
        name: "the catalog with ten times the rounds",
        lane: Lane::All,
        run: |run| catalog(EMBEDDED, run.seed, TENFOLD),
    },
    Step { name: "every set-up", lane: Lane::All, run: |run| catalog(EVERY, run.seed, USUAL) },
    Step {
        name: "an archive behind Postgres, Redis and DynamoDB, busy all the time",
        lane: Lane::All,
        run: |_| archives(),
    },
    Step { name: "each feature alone, and its dependencies", lane: Lane::All, run: |_| tidy::features_alone() },
    Step { name: "accidents on Postgres 15", lane: Lane::All, run: |_| older_postgres() },
    Step { name: "accidents on Redis 7", lane: Lane::All, run: |_| older_redis() },
    Step { name: "kill -9 of an appending process, 100 times", lane: Lane::All, run: kill },
    Step { name: "DynamoDB's sequencers, killed 50 times under load", lane: Lane::All, run: |_| sequencers() },
    Step {
        name: "64 tasks in four processes on one stream and on a thousand of DynamoDB, where a fifth of the answers is lost",
        lane: Lane::All,
        run: |_| races(),
    },
    Step { name: "the models of a move, in their largest scopes", lane: Lane::All, run: |_| models() },
    Step {
        name: "a system under load, moved between every pair of stores by a migrator that is killed 20 times",
        lane: Lane::All,
        run: moves,
    },
    Step { name: "the whole incident log, there and back, on every provider", lane: Lane::All, run: |_| incidents() },
];

/// Beside the defaults, Postgres 18, a Valkey 9 that syncs what it acknowledges and snapshots apart on DynamoDB: the pairs of release and set-up of which
/// every release, topology, persistence and partitioning is in one. Those that take longest come first.
const OTHERS: &[Setup] = &[
    Setup::DynamoDb("snapshots=interleaved"),
    Setup::DynamoDb("feed=transactional"),
    Setup::Postgres(postgres::Release::Distribution),
    Setup::PgBouncer(postgres::Release::Newest),
    Setup::Redis(redis::Release::Distribution, redis::Setup::EverySecond, ""),
    Setup::Redis(redis::Release::Newest, redis::Setup::Memory, "partitions=3"),
    Setup::Redis(redis::Release::Distribution, redis::Setup::Sentinel, ""),
    Setup::Redis(redis::Release::Newest, redis::Setup::Partitions, ""),
];

/// Those that need no engine.
const EMBEDDED: &[Setup] = &[Setup::Sqlite, Setup::Memory];

/// All that need one.
const EVERY: &[Setup] = &[
    Setup::Postgres(postgres::Release::Newest),
    Setup::Postgres(postgres::Release::Distribution),
    Setup::PgBouncer(postgres::Release::Newest),
    Setup::Redis(redis::Release::Newest, redis::Setup::Always, ""),
    Setup::Redis(redis::Release::Newest, redis::Setup::EverySecond, ""),
    Setup::Redis(redis::Release::Newest, redis::Setup::Memory, ""),
    Setup::Redis(redis::Release::Newest, redis::Setup::Sentinel, ""),
    Setup::Redis(redis::Release::Newest, redis::Setup::Cluster, ""),
    Setup::Redis(redis::Release::Newest, redis::Setup::Partitions, ""),
    Setup::Redis(redis::Release::Distribution, redis::Setup::Always, ""),
    Setup::Redis(redis::Release::Distribution, redis::Setup::EverySecond, ""),
    Setup::Redis(redis::Release::Distribution, redis::Setup::Memory, ""),
    Setup::Redis(redis::Release::Distribution, redis::Setup::Sentinel, ""),
    Setup::Redis(redis::Release::Distribution, redis::Setup::Cluster, ""),
    Setup::Redis(redis::Release::Distribution, redis::Setup::Partitions, ""),
    Setup::DynamoDb(""),
    Setup::DynamoDb("snapshots=interleaved"),
    Setup::DynamoDb("feed=transactional"),
    Setup::DynamoDb("feed=transactional;snapshots=interleaved"),
    Setup::DynamoDb("dictionary=true"),
    Setup::DynamoDb("feed=sqs-fifo"),
    Setup::DynamoDb("feed=sharded-index;settling=200ms"),
    Setup::DynamoDb("feed=sharded-index;shards=1;settling=200ms;snapshots=interleaved"),
    Setup::S3,
];

/// Where the tests of the Postgres provider find a server; one that is set is used, and none is started.
const POSTGRES_URL: &str = "EVSTORE_TEST_POSTGRES_URL";
/// Where tests find the library that sets a clock off.
const FAKETIME: &str = "EVSTORE_TEST_FAKETIME";
/// The same for Redis.
const REDIS_URL: &str = "EVSTORE_TEST_REDIS_URL";
/// The same for DynamoDB: an endpoint. With a real account's, `EVSTORE_TEST_DYNAMODB_SETTINGS` has its region and credentials.
const DYNAMODB_URL: &str = "EVSTORE_TEST_DYNAMODB_URL";
/// The same for S3.
const S3_URL: &str = "EVSTORE_TEST_S3_URL";
/// The same for SQS, whose region and credentials are DynamoDB's.
const SQS_URL: &str = "EVSTORE_TEST_SQS_URL";

/// Everything in one build, because what is built for one package alone is built again. `cargo nextest` where it is there, because
/// it shows each test by itself; else `cargo test`, which needs nothing.
fn tests() -> Result<()> {
    let nextest = cargo(&["nextest", "--version"]).output().is_ok_and(|output| output.status.success());
    let threads = threads()?.to_string();
    let arguments: &[&str] = if nextest {
        &["nextest", "run", "--workspace", "--no-fail-fast", "--test-threads", &threads]
    } else {
        &["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"]
    };
    on_engines(postgres::Release::Newest, redis::Release::Newest, cargo(arguments).args(["--features", EVERYTHING]))
}

/// Most of a test is waiting, for an engine or for a time to pass: two for each processor keep it busy.
fn threads() -> Result<usize> {
    Ok(2 * std::thread::available_parallelism()?.get())
}

fn older_postgres() -> Result<()> {
    let mut command = cargo(&["test", "--no-fail-fast", "-p", "evstore-postgres", "--features", "engine-tests"]);
    on_engines(postgres::Release::Distribution, redis::Release::Newest, &mut command)
}

fn older_redis() -> Result<()> {
    let mut command = cargo(&["test", "--no-fail-fast", "-p", "evstore-redis", "--features", "engine-tests"]);
    on_engines(postgres::Release::Newest, redis::Release::Distribution, &mut command)
}

/// Runs tests on servers of their own. An address in the environment takes a server's place; the programs with which tests start
/// servers that they kill are told all the same.
fn on_engines(postgres: postgres::Release, redis: redis::Release, command: &mut Command) -> Result<()> {
    let postgres = postgres::Postgres::start(postgres, &PREPARED)?;
    let redis = redis::Redis::start(redis, redis::Setup::Always)?;
    let dynamodb = dynamodb::DynamoDb::start()?;
    let s3 = s3::S3::start()?;
    command.envs(postgres.environment()).envs(redis.environment()?).envs(dynamodb.environment()).envs(s3.environment());
    command.env(FAKETIME, faketime::library()?);
    for address in [POSTGRES_URL, REDIS_URL, DYNAMODB_URL, S3_URL, SQS_URL] {
        command.envs(std::env::var_os(address).map(|given| (address, given)));
    }
    run("tests", command)
}

/// On every change SQLite is in front, among the tests; a release sees the others, one of them with its archive on S3.
fn archives() -> Result<()> {
    for (hot, archive) in [("postgres", "folder"), ("redis", "folder"), ("dynamodb", "s3")] {
        let arguments = ["test", "-p", "evstore-tiered", "--features", "engine-tests", "--test", "conformance"];
        let mut command = cargo(&arguments);
        command.env("EVSTORE_TEST_TIERED_HOT", hot).env("EVSTORE_TEST_TIERED_ARCHIVE", archive);
        on_engines(postgres::Release::Newest, redis::Release::Newest, &mut command)?;
    }
    Ok(())
}

fn doc_tests() -> Result<()> {
    let arguments = ["test", "--workspace", "--doc", "--quiet", "--features", EVERYTHING];
    run("examples in the documentation", &mut cargo(&arguments))
}

/// Set-ups held to the catalog by the command that a user types, some at a time: most of it is waiting. What was not run is listed by it.
fn catalog(setups: &[Setup], seed: u64, effort: u64) -> Result<()> {
    let evstore = evstore()?;
    let reports = target().join("conformance");
    std::fs::create_dir_all(&reports)?;
    let hold = |setup: &Setup| {
        let name = setup.name();
        let shown = Shown::start(&[("tested", *setup)])?;
        let mut command = Command::new(&evstore);
        shown.tell(&mut command);
        command.current_dir(shown.folder()).args(["conformance", "tested", "--seed", &seed.to_string()]);
        command.args(["--effort", &effort.to_string(), "--report"]).arg(reports.join(format!("{name}.json")));
        run_apart(&format!("the catalog on {name}"), &mut command)
    };
    let waiting = Mutex::new(setups.iter());
    let next = || waiting.lock().map_or(None, |mut waiting| waiting.next());
    let work = || std::iter::from_fn(next).filter_map(|setup| hold(setup).err()).collect::<Vec<_>>();
    let threads = threads()?;
    let failed: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|_| vec![anyhow!("a thread ended")]))
            .collect()
    });
    ensure!(failed.is_empty(), "{}", failed.iter().map(|error| format!("{error:#}")).collect::<Vec<_>>().join("\n  "));
    Ok(())
}

/// A workspace of its own, as a third party has it, in the same target folder: the dependencies are the same.
fn own_provider() -> Result<()> {
    let mut command = cargo(&["test", "--quiet"]);
    command.current_dir(root().join("examples/own-provider")).env("CARGO_TARGET_DIR", target());
    run("a third party's provider", &mut command)
}

fn kill(given: Run) -> Result<()> {
    let arguments =
        ["run", "--release", "-p", "evstore-sqlite", "--example", "kill9", "--", "--rounds", "100", "--seed"];
    run("kill -9", cargo(&arguments).arg(given.seed.to_string()))
}

/// Every ordered pair of stores, one after the other: each is a load of its own. Those that are done are noted, so that a run with the
/// same seed goes on where one was stopped; with a budget the pairs that were not begun are listed as failed.
fn moves(given: Run) -> Result<()> {
    let mut command = cargo(&["test", "--workspace", "--features", EVERYTHING, "--test", "mover", "--"]);
    command.args(["moved", "--include-ignored", "--test-threads", "1"]);
    command.env("EVSTORE_TEST_KILLS", KILLS).env("EVSTORE_TEST_SEED", given.seed.to_string());
    let done = target().join("xtask");
    std::fs::create_dir_all(&done)?;
    command.env("EVSTORE_TEST_DONE", done.join(format!("moved-{}", given.seed)));
    if let Some(until) = given.until {
        command.env("EVSTORE_TEST_UNTIL", until.duration_since(UNIX_EPOCH)?.as_secs().to_string());
    }
    on_engines(postgres::Release::Newest, redis::Release::Newest, &mut command)
}

fn sequencers() -> Result<()> {
    let arguments = [
        "test",
        "-p",
        "evstore-dynamodb",
        "--features",
        "engine-tests",
        "--test",
        "accidents",
        "--",
        "sequencers_that_die",
    ];
    let (engine, queues) = (dynamodb::DynamoDb::start()?, s3::S3::start()?);
    let mut command = cargo(&arguments);
    command.envs(engine.environment()).envs(queues.environment()).env("EVSTORE_TEST_SEQUENCER_KILLS", "50");
    run("sequencers that are killed", &mut command)?;
    // Each takes four seconds until another takes its place.
    let processes =
        ["test", "-p", "evstore-cli", "--features", "engine-tests", "--test", "it", "--", "killed_under_load"];
    let mut command = cargo(&processes);
    command.envs(engine.environment()).envs(queues.environment()).env("EVSTORE_TEST_SEQUENCER_KILLS", "10");
    run("processes of sequencers that are killed", &mut command)
}

fn races() -> Result<()> {
    let arguments =
        ["test", "-p", "evstore-dynamodb", "--features", "engine-tests", "--test", "conformance", "--", "race."];
    let (engine, queues) = (dynamodb::DynamoDb::start()?, s3::S3::start()?);
    let mut command = cargo(&arguments);
    command.arg("--test-threads=1").envs(engine.environment()).envs(queues.environment());
    command.env("EVSTORE_TEST_RACE_CALLS", "20").env("EVSTORE_TEST_RACE_STREAMS", "1000");
    run("races on DynamoDB", &mut command)
}

fn models() -> Result<()> {
    run("models", &mut cargo(&["run", "--release", "-p", "evstore-models", "--", "--all"]))
}

/// Imports the incident log, imports it again, exports, restores into a store of every other provider, and compares their exports.
fn incidents() -> Result<()> {
    let shown = Shown::start(&[
        ("first", Setup::Sqlite),
        ("sqlite", Setup::Sqlite),
        ("postgres", Setup::Postgres(postgres::Release::Newest)),
        ("redis", Setup::Redis(redis::Release::Newest, redis::Setup::Always, "")),
        // Without a stream: with one, a write takes the local engine the longer the more records the stream has, 1 ms for each item after 20,000.
        ("dynamodb", Setup::DynamoDb("feed=transactional")),
    ])?;
    let evstore = evstore_release()?;
    let log = root().join("cli/data/incidents.jsonl.gz");
    let log = log.to_str().expect("the workspace's path is text");
    let type_in = |arguments: &[&str]| {
        let mut command = Command::new(&evstore);
        shown.tell(&mut command);
        run("the incident log", command.args(arguments).current_dir(shown.folder()))
    };
    type_in(&["-s", "first", "import", log])?;
    type_in(&["-s", "first", "import", log])?;
    type_in(&["-s", "first", "export", "first.jsonl"])?;
    let read = |name: &str| std::fs::read(shown.folder().join(name));
    let first = read("first.jsonl")?;
    for store in ["sqlite", "postgres", "redis", "dynamodb"] {
        let export = format!("{store}.jsonl");
        type_in(&["-s", store, "import", "first.jsonl"])?;
        type_in(&["-s", store, "export", &export])?;
        type_in(&["verify", store])?;
        ensure!(read(&export)? == first, "the export of {store}, which was restored, differs");
    }
    Ok(())
}
