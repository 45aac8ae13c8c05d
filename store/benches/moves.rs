//! `cargo bench -p evstore --features postgres,dynamodb --bench moves -- [--events N] [--streams N] [--seconds S]
//! [--only copy|foreground|cutover] [--from sqlite|postgres|dynamodb]`
//!
//! What a move costs: how fast a copy goes, what is left for appends meanwhile, and how long they wait at a cutover, in open loop from
//! their intended start, each beside a control without a move. Between two files, between a file and Postgres and back where
//! `EVSTORE_TEST_POSTGRES_URL` names a server, and from DynamoDB with a sequencer, whose streams are sealed one by one, where
//! `EVSTORE_TEST_DYNAMODB_URL` does. Prints what it measured; asserts nothing.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]

use evstore::api::Settings;
use evstore::{
    Append, CommitId, Config, Deadline, EventType, Events, Expected, NewCommit, NewEvent, Registry, Store, StoreName,
    StreamId,
};
use evstore_migrate::{Migration, Pace, Settled, Side, spread};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PAYLOAD_BYTES: usize = 256;
/// Callers that fill a store, and of the foreground load.
const FILLERS: u64 = 64;
const CALLERS: u64 = 8;
/// Appends per second of the open loop.
const RATE: u64 = 200;
const POSTGRES_URL: &str = "EVSTORE_TEST_POSTGRES_URL";
const DYNAMODB_URL: &str = "EVSTORE_TEST_DYNAMODB_URL";
const WAIT: Duration = Duration::from_secs(60);

struct Options {
    events: u64,
    streams: u64,
    seconds: f64,
    only: Option<String>,
    from: Option<String>,
}

/// A pair of empty stores.
struct Pair {
    name: String,
    registry: Registry,
    config: Config,
    _folder: tempfile::TempDir,
    scratch: Vec<Settings>,
}

fn main() {
    let options = options();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut kinds = vec![("sqlite", "sqlite")];
    if cfg!(feature = "postgres") && std::env::var_os(POSTGRES_URL).is_some() {
        kinds.extend([("sqlite", "postgres"), ("postgres", "sqlite")]);
    }
    if cfg!(feature = "dynamodb") && std::env::var_os(DYNAMODB_URL).is_some() {
        kinds.push(("dynamodb", "sqlite"));
    }
    kinds.retain(|(from, _)| options.from.as_deref().is_none_or(|wanted| wanted == *from));
    let is_wanted = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    for (a, b) in kinds {
        runtime.block_on(async {
            if is_wanted("copy") {
                let pair = Pair::new(a, b).await;
                copy(&pair, &options).await;
                pair.end().await;
            }
            if is_wanted("foreground") {
                let pair = Pair::new(a, b).await;
                foreground(&pair, &options).await;
                pair.end().await;
            }
            if is_wanted("cutover") {
                let pair = Pair::new(a, b).await;
                cutover(&pair, &options).await;
                pair.end().await;
            }
        });
    }
}

fn options() -> Options {
    let mut options = Options { events: 200_000, streams: 1_000, seconds: 5.0, only: None, from: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap();
        match argument.as_str() {
            "--events" => options.events = value().parse().unwrap(),
            "--seconds" => options.seconds = value().parse().unwrap(),
            "--streams" => options.streams = value().parse().unwrap(),
            "--from" => options.from = Some(value()),
            "--only" => options.only = Some(value()),
            "--bench" => {}
            other => panic!("{other}"),
        }
    }
    options
}

impl Pair {
    async fn new(a: &str, b: &str) -> Self {
        let (registry, folder) = (Registry::builtin(), tempfile::tempdir().unwrap());
        let (mut scratch, mut text) =
            (Vec::new(), String::from("default_store = \"a\"\n[migrate]\ntargets = [\"b\"]\n"));
        for (name, kind) in [("a", a), ("b", b)] {
            let lines = match kind {
                "sqlite" => file(folder.path(), name),
                "dynamodb" => tables(name),
                _ => server(&registry, kind, name, &mut scratch).await,
            };
            text.push_str(&format!("[stores.{name}]\nprovider = {kind:?}\n{lines}\n"));
        }
        let config = Config::parse(&text).unwrap();
        Self { name: format!("{a} to {b}"), registry, config, _folder: folder, scratch }
    }

    async fn node(&self) -> Store {
        self.registry.open(&self.config, self.config.default_store().unwrap()).await.unwrap()
    }

    async fn migration(&self) -> Migration {
        let side = |name: &'static str| async move {
            let name = StoreName::new(name).unwrap();
            let configured = self.registry.settings(&self.config, &name).unwrap();
            let store = configured.provider.opener.open(&configured.settings).await.unwrap();
            Side { name, store, admin: configured.open_admin().await.unwrap() }
        };
        Migration::new(side("a").await, side("b").await).unwrap()
    }

    async fn end(self) {
        for settings in &self.scratch {
            let provider = self.registry.get("postgres").unwrap().clone();
            provider.opener.drop_scratch(settings).await.unwrap();
        }
    }
}

fn file(folder: &Path, name: &str) -> String {
    format!("path = {:?}", folder.join(format!("{name}.db")))
}

/// Tables of its own in the engine, which somebody throws away.
fn tables(name: &str) -> String {
    let (endpoint, table) = (std::env::var(DYNAMODB_URL).unwrap(), format!("moves-{}-{name}", CommitId::generate()));
    format!(
        "endpoint = {endpoint:?}\nregion = \"local\"\naccess_key_id = \"AKIDEVSTORETEST\"\nsecret_access_key = \"not-looked-at\"\n\
         feed = \"sequencer\"\nauto_create = true\ntable = {table:?}"
    )
}

/// A scratch store on the server.
async fn server(registry: &Registry, kind: &str, name: &str, scratch: &mut Vec<Settings>) -> String {
    let provider = registry.get(kind).unwrap().clone();
    let url = std::env::var(POSTGRES_URL).unwrap();
    let settings = Settings::new(StoreName::new(name).unwrap(), provider.keys, [("url".to_owned(), url)]).unwrap();
    let tag = format!("mv{}{name}", std::process::id());
    let settings = provider.opener.make_scratch(&settings, &tag).await.unwrap();
    let lines = settings.values().map(|(key, value)| format!("{key} = {value:?}")).collect::<Vec<_>>().join("\n");
    scratch.push(settings);
    lines
}

fn append(number: u64, streams: u64) -> Append {
    let event = NewEvent::new(EventType::new("happened").unwrap(), vec![b'x'; PAYLOAD_BYTES]);
    let commit = NewCommit { id: CommitId::generate(), events: Events::new(vec![event]).unwrap() };
    let stream = StreamId::new(format!("load-{}", number % streams)).unwrap();
    Append { stream, expected: Expected::Any, commit, deadline: Deadline::within(WAIT) }
}

/// Appends so many events, one in a commit.
async fn fill(store: &Store, events: u64, streams: u64) {
    let next = Arc::new(AtomicU64::new(0));
    let fillers = (0..FILLERS).map(|_| {
        let (events_of, next) = (store.events().clone(), next.clone());
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= events {
                    return;
                }
                events_of.append(append(number, streams)).await.unwrap();
            }
        })
    });
    for filler in fillers.collect::<Vec<_>>() {
        filler.await.unwrap();
    }
}

async fn copy(pair: &Pair, options: &Options) {
    let node = pair.node().await;
    fill(&node, options.events, options.streams).await;
    let migration = pair.migration().await;
    migration.start().await.unwrap();
    let began = Instant::now();
    migration.catch_up(Pace::default(), None).await.unwrap();
    let took = began.elapsed();
    let compares = Instant::now();
    assert_eq!(migration.verify(None).await.unwrap().count(), 0);
    println!(
        "{}: copy of {} events of {PAYLOAD_BYTES} bytes: {:.0} events/s; comparing them: {:.0} events/s",
        pair.name,
        options.events,
        options.events as f64 / took.as_secs_f64(),
        options.events as f64 / compares.elapsed().as_secs_f64()
    );
}

/// Appends per second in closed loop for a while.
async fn closed_loop(store: &Store, seconds: f64, streams: u64) -> f64 {
    let (stop, done, began) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Instant::now());
    let callers = (0..CALLERS).map(|caller| {
        let (store, stop, done) = (store.events().clone(), stop.clone(), done.clone());
        tokio::spawn(async move {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                store.append(append(caller + CALLERS * number, streams)).await.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let rate = done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    rate
}

async fn foreground(pair: &Pair, options: &Options) {
    let node = pair.node().await;
    fill(&node, options.events, options.streams).await;
    let control = closed_loop(&node, options.seconds, options.streams).await;
    let migration = pair.migration().await;
    migration.start().await.unwrap();
    let runs = tokio::spawn({
        let migration = migration.clone();
        async move { migration.run(Pace::default(), None).await }
    });
    let before = migration.status().await.unwrap();
    let began = Instant::now();
    let during = closed_loop(&node, options.seconds, options.streams).await;
    let after = migration.status().await.unwrap();
    let copied = (after.target.1.0 - before.target.1.0) as f64 / began.elapsed().as_secs_f64();
    runs.abort();
    let lag = after.lag();
    println!(
        "{}: {CALLERS} callers: {control:.0} appends/s without a move, {during:.0} during the copy: {:.2}; it copied {copied:.0} events/s \
         and was {lag} behind in the end",
        pair.name,
        during / control
    );
}

/// Latencies from the intended start, at a fixed rate, whatever becomes of the ones before; for so long after something is done.
async fn open_loop(store: &Store, seconds: f64, streams: u64, until: impl Future) -> Vec<Duration> {
    let is_over = Arc::new(AtomicBool::new(false));
    let appends = async {
        let (began, mut appends) = (tokio::time::Instant::now(), Vec::new());
        for number in 0.. {
            let intended = began + Duration::from_micros(number * 1_000_000 / RATE);
            tokio::time::sleep_until(intended).await;
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            let store = store.events().clone();
            appends.push(tokio::spawn(async move {
                store.append(append(number, streams)).await.unwrap();
                intended.elapsed()
            }));
        }
        let mut times = Vec::new();
        for one in appends {
            times.push(one.await.unwrap());
        }
        times
    };
    let ends = async {
        until.await;
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(appends, ends).0
}

async fn cutover(pair: &Pair, options: &Options) {
    let node = pair.node().await;
    fill(&node, options.streams.max(options.events / 10), options.streams).await;
    let control = open_loop(&node, options.seconds, options.streams, std::future::ready(())).await;
    let migration = pair.migration().await;
    migration.start().await.unwrap();
    migration.catch_up(Pace::default(), None).await.unwrap();
    let runs = tokio::spawn({
        let migration = migration.clone();
        async move { migration.run(Pace::default(), None).await }
    });
    let half = Duration::from_secs_f64(options.seconds / 2.0);
    let mut settled = None;
    let hands_over = async {
        tokio::time::sleep(half).await;
        settled = Some(migration.cutover(WAIT, None).await.unwrap());
    };
    let times = open_loop(&node, options.seconds / 2.0, options.streams, hands_over).await;
    runs.abort();
    let Some(Settled::Done(done)) = settled else { panic!("{settled:?}") };
    let text = |times: &[Duration]| {
        let [p50, p99, max] = spread(times).unwrap().map(|time| time.as_secs_f64() * 1_000.0);
        format!("p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.0} ms")
    };
    println!(
        "{}: {RATE} appends/s: control {}; with a cutover {}; no store took appends for {} ms; {} appends, none failed",
        pair.name,
        text(&control),
        text(&times),
        done.pause.unwrap_or_default().as_millis(),
        times.len()
    );
}
