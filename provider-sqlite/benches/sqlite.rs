//! `cargo bench -p evstore-sqlite -- [--rounds N] [--seconds S] [--folder PATH] [--only appends|reads] [--callers N]`
//!
//! Appends beside their floors in the same run: F1 is one commit for each transaction on the same tables with the same
//! statements, Fk has k of them. Then the feed, and one stream of 100 events in a small and a large store. Prints what it
//! measured and the ratios; asserts nothing.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]

use bytes::Bytes;
use evstore_api::*;
use evstore_kit::floor::Put;
use evstore_sqlite::floor;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const STREAMS: u64 = 1_000;
const PAYLOAD_BYTES: usize = 256;
const CALLERS: [usize; 3] = [1, 32, 256];

struct Options {
    rounds: usize,
    seconds: f64,
    folder: PathBuf,
    only: Option<String>,
    /// Only so many callers, beside one, which is the measure of all.
    callers: Option<usize>,
}

fn main() {
    let options = options();
    std::fs::create_dir_all(&options.folder).unwrap();
    let (p50, p99) = fsync_latency(&options.folder);
    println!(
        "SQLite {}, fsync p50 {p50:?}, p99 {p99:?}, {PAYLOAD_BYTES} bytes, {STREAMS} streams",
        rusqlite::version()
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if options.only.as_deref() != Some("reads") {
        appends(&options, &runtime);
    }
    if options.only.as_deref() != Some("appends") {
        reads(&options, &runtime);
    }
    let _ = std::fs::remove_dir_all(&options.folder);
}

fn options() -> Options {
    let mut options = Options {
        rounds: 3,
        seconds: 2.0,
        folder: std::env::temp_dir().join(format!("evstore-sqlite-bench-{}", std::process::id())),
        only: None,
        callers: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap();
        match argument.as_str() {
            "--rounds" => options.rounds = value().parse().unwrap(),
            "--seconds" => options.seconds = value().parse().unwrap(),
            "--folder" => options.folder = value().into(),
            "--only" => options.only = Some(value()),
            "--callers" => options.callers = Some(value().parse().unwrap()),
            _ => {}
        }
    }
    options
}

fn fsync_latency(folder: &Path) -> (Duration, Duration) {
    let path = folder.join("fsync");
    let mut file = std::fs::File::create(&path).unwrap();
    let once = |file: &mut std::fs::File| {
        file.write_all(&[7; 4096]).unwrap();
        let begin = Instant::now();
        file.sync_data().unwrap();
        begin.elapsed()
    };
    let mut times: Vec<_> = (0..300).map(|_| once(&mut file)).collect();
    times.sort();
    std::fs::remove_file(&path).unwrap();
    (times[150], times[297])
}

/// One cell for each count of callers, beside its floor, in every round.
fn appends(options: &Options, runtime: &tokio::runtime::Runtime) {
    let chosen: Vec<usize> =
        CALLERS.into_iter().filter(|one| options.callers.is_none_or(|wanted| *one == 1 || *one == wanted)).collect();
    let mut cells: Vec<(Vec<f64>, Vec<f64>)> = vec![Default::default(); chosen.len()];
    for round in 0..options.rounds {
        for (callers, cell) in chosen.iter().zip(&mut cells) {
            let path = |what: &str| options.folder.join(format!("{what}-{callers}-{round}.db"));
            cell.0.push(floor(runtime, &path("floor"), *callers, options.seconds));
            cell.1.push(called(runtime, &path("store"), *callers, options.seconds));
        }
    }
    let f1 = cells[0].0.clone();
    println!(
        "\ncallers  floor Fk/s (spread)      store/s (spread)         of F1   of Fk   of the bar (medians of the rounds' ratios)"
    );
    for (callers, (floors, stores)) in chosen.iter().zip(&cells) {
        // Round by round, as what else the machine does changes from one to the next.
        let ratio = |of: &dyn Fn(usize) -> f64| {
            median(&(0..stores.len()).map(|round| stores[round] / of(round)).collect::<Vec<_>>())
        };
        let bar = |round: usize| match callers {
            1 => 0.8 * f1[round],
            32 => (5.0 * f1[round]).min(0.6 * floors[round]),
            _ => (10.0 * f1[round]).min(0.6 * floors[round]),
        };
        let (of_f1, of_fk, of_bar) = (ratio(&|round| f1[round]), ratio(&|round| floors[round]), ratio(&bar));
        let verdict = if of_bar >= 1.0 { "held" } else { "MISSED" };
        let (floor, store) = (spread(floors), spread(stores));
        println!("{callers:7}  {floor:24} {store:24} {of_f1:5.2}   {of_fk:5.2}   {of_bar:.2} {verdict}");
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn spread(values: &[f64]) -> String {
    let (low, high) = values.iter().fold((f64::MAX, 0.0_f64), |(low, high), value| (low.min(*value), high.max(*value)));
    format!("{:.0} ({low:.0} to {high:.0})", median(values))
}

fn settings(path: &Path) -> Settings {
    let given = [("path".to_owned(), path.to_str().unwrap().to_owned())];
    Settings::new(StoreName::new("bench").unwrap(), evstore_sqlite::KEYS, given).unwrap()
}

async fn open(path: &Path) -> Arc<dyn EventStore> {
    evstore_sqlite::provider().opener.open(&settings(path)).await.unwrap()
}

fn event() -> NewEvent {
    NewEvent::new(EventType::new("order-placed").unwrap(), vec![b'x'; PAYLOAD_BYTES])
}

fn id(number: u64) -> CommitId {
    let mut bytes = [0; 16];
    // Spread like random ids are, so that the index by id is not filled in order.
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    bytes[8..].copy_from_slice(&number.to_le_bytes());
    CommitId(bytes)
}

/// Transactions of `batch` commits each, on our tables, in this thread.
fn floor(runtime: &tokio::runtime::Runtime, path: &Path, batch: usize, seconds: f64) -> f64 {
    runtime.block_on(async { open(path).await.close().await.unwrap() });
    let connection = floor::connect(path).unwrap();
    let encoded: Bytes = {
        let commit = NewCommit { id: id(1), events: Events::new(vec![event()]).unwrap() };
        format::encode_events(id(1), &commit.recorded().unwrap()).into()
    };
    let mut slots = vec![0_u64; STREAMS as usize];
    let (begin, mut commits) = (Instant::now(), 0_u64);
    while begin.elapsed().as_secs_f64() < seconds {
        let puts: Vec<Put> = (0..batch)
            .map(|_| {
                commits += 1;
                let stream = commits % STREAMS;
                let slot = &mut slots[stream as usize];
                *slot += 1;
                Put { stream, slot: *slot, count: 1, id: id(commits), events: encoded.clone() }
            })
            .collect();
        floor::transaction(&connection, &puts).unwrap();
    }
    commits as f64 / begin.elapsed().as_secs_f64()
}

/// Concurrent callers, each with streams of its own, each waiting for every answer.
fn called(runtime: &tokio::runtime::Runtime, path: &Path, callers: usize, seconds: f64) -> f64 {
    runtime.block_on(async {
        let store = open(path).await;
        let begin = Instant::now();
        let end = begin + Duration::from_secs_f64(seconds);
        let tasks: Vec<_> =
            (0..callers).map(|caller| tokio::spawn(call(store.clone(), caller, callers, end))).collect();
        let mut commits = 0;
        for task in tasks {
            commits += task.await.unwrap();
        }
        let rate = commits as f64 / begin.elapsed().as_secs_f64();
        store.close().await.unwrap();
        rate
    })
}

async fn call(store: Arc<dyn EventStore>, caller: usize, callers: usize, end: Instant) -> u64 {
    let streams: Vec<StreamId> = (0..STREAMS as usize)
        .filter(|stream| stream % callers == caller)
        .map(|stream| StreamId::new(format!("order-{stream}")).unwrap())
        .collect();
    let mut commits = 0_u64;
    while Instant::now() < end {
        let stream = streams[commits as usize % streams.len()].clone();
        let expected = Expected::At(Revision(commits / streams.len() as u64));
        let commit =
            NewCommit { id: id(commits * callers as u64 + caller as u64), events: Events::new(vec![event()]).unwrap() };
        let deadline = Deadline::within(Duration::from_secs(10));
        store.append(Append { stream, expected, commit, deadline }).await.unwrap();
        commits += 1;
    }
    commits
}

fn reads(options: &Options, runtime: &tokio::runtime::Runtime) {
    runtime.block_on(async {
        let mut stores = Vec::new();
        for streams in [1_000, 100_000] {
            let path = options.folder.join(format!("reads-{streams}.db"));
            let store = open(&path).await;
            let begin = Instant::now();
            fill(&store, streams).await;
            let events = store.feed_head(Deadline::within(Duration::from_secs(10))).await.unwrap().position.unwrap().0;
            println!("\n{streams} streams, {events} events, filled in {:.1} s", begin.elapsed().as_secs_f64());
            println!("feed: {} events/s", spread(&feed_rates(&store, options.rounds).await));
            stores.push(store);
        }
        // Turn by turn, as a read is short beside what else the machine does.
        let (mut rotation, mut again) = (Turns::default(), Turns::default());
        for _ in 0..options.rounds {
            rotation.add(stream_times(&stores[0]).await, stream_times(&stores[1]).await);
            again.add(one_stream_times(&stores[0]).await, one_stream_times(&stores[1]).await);
        }
        println!(
            "\na stream of 100 events in the small and in the large store, medians of a turn in µs, and their ratio"
        );
        println!("one after the other: {}", rotation.line());
        println!("the same again:      {}", again.line());
        for store in stores {
            store.close().await.unwrap();
        }
    });
}

/// What turns in a small and a large store took.
#[derive(Default)]
struct Turns {
    small: Vec<f64>,
    large: Vec<f64>,
    ratios: Vec<f64>,
}

impl Turns {
    fn add(&mut self, small: Vec<f64>, large: Vec<f64>) {
        let (small, large) = (median(&small), median(&large));
        self.small.push(small);
        self.large.push(large);
        self.ratios.push(large / small);
    }

    fn line(&self) -> String {
        let (low, high) =
            self.ratios.iter().fold((f64::MAX, 0.0_f64), |(low, high), one| (low.min(*one), high.max(*one)));
        let (small, large) = (spread(&self.small), spread(&self.large));
        format!("{small}, {large}: {:.2} times ({low:.2} to {high:.2})", median(&self.ratios))
    }
}

/// Streams that are read, in both stores; each has 100 events in 100 commits, written between all the others'.
const MEASURED: u64 = 1_000;
/// Events of the streams that make the other store large.
const OTHER_EVENTS: u64 = 10;

/// Writes round by round, so that no stream lies together.
async fn fill(store: &Arc<dyn EventStore>, streams: u64) {
    let (measured, others) = (MEASURED * 100, streams - MEASURED);
    let total = measured + others * OTHER_EVENTS;
    let next = Arc::new(AtomicU64::new(0));
    let task = |store: Arc<dyn EventStore>, next: Arc<AtomicU64>| async move {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= total {
                return;
            }
            let (before, after) = (number * measured / total, (number + 1) * measured / total);
            let name = match after > before {
                true => format!("measured-{}", before % MEASURED),
                false => format!("order-{}", (number - before) % others),
            };
            put(&store, &name, number).await;
        }
    };
    let tasks: Vec<_> = (0..256).map(|_| tokio::spawn(task(store.clone(), next.clone()))).collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn put(store: &Arc<dyn EventStore>, stream: &str, number: u64) {
    let commit = NewCommit { id: id(number), events: Events::new(vec![event()]).unwrap() };
    let deadline = Deadline::within(Duration::from_secs(60));
    let stream = StreamId::new(stream).unwrap();
    store.append(Append { stream, expected: Expected::Any, commit, deadline }).await.unwrap();
}

async fn feed_rates(store: &Arc<dyn EventStore>, rounds: usize) -> Vec<f64> {
    let mut rates = Vec::new();
    for _ in 0..rounds {
        let (begin, mut events, mut from) = (Instant::now(), 0, FeedStart::First);
        loop {
            let deadline = Deadline::within(Duration::from_secs(10));
            let request = ReadFeed { from, filter: FeedFilter::none(), limit: 1_000, max_bytes: 16 << 20, deadline };
            let page = store.read_feed(request).await.unwrap();
            events += page.events().count();
            if page.end {
                break;
            }
            from = FeedStart::After(page.next);
        }
        rates.push(events as f64 / begin.elapsed().as_secs_f64());
    }
    rates
}

/// Every measured stream, after a first round that fills the caches of the system.
async fn stream_times(store: &Arc<dyn EventStore>) -> Vec<f64> {
    let mut times = Vec::new();
    for number in (0..MEASURED).chain(0..MEASURED) {
        times.push(stream_time(store, number).await);
    }
    times.split_off(times.len() / 2)
}

/// The same stream again and again.
async fn one_stream_times(store: &Arc<dyn EventStore>) -> Vec<f64> {
    let mut times = Vec::new();
    for _ in 0..300 {
        times.push(stream_time(store, 0).await);
    }
    times
}

async fn stream_time(store: &Arc<dyn EventStore>, number: u64) -> f64 {
    let request = ReadStream {
        stream: StreamId::new(format!("measured-{number}")).unwrap(),
        from: StreamStart::First,
        direction: Direction::Forward,
        limit: 1_000,
        max_bytes: 16 << 20,
        deadline: Deadline::within(Duration::from_secs(10)),
    };
    let begin = Instant::now();
    let page = store.read_stream(request).await.unwrap();
    let micros = begin.elapsed().as_secs_f64() * 1e6;
    assert_eq!(page.events().count(), 100);
    micros
}
