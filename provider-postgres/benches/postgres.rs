//! `EVSTORE_TEST_POSTGRES_URL=… cargo bench -p evstore-postgres -- [--rounds N] [--seconds S]
//! [--only appends|idle|reads|feed|loads|import|growth] [--lanes N]
//! [--callers 1|8|32]`
//!
//! Appends beside their floor in the same run: one `INSERT` with a unique commit id a transaction, on our tables, through a
//! pool of the same size. Then the lag of the feed, the feed beside a plain scan, a stream of 100 events beside a plain select,
//! and an import beside COPY. Prints what it measured and the ratios; asserts nothing.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]

use evstore_api::*;
use sqlx::Row;
use sqlx::postgres::{PgPool, PgPoolOptions};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const STREAMS: u64 = 1_000;
const PAYLOAD_BYTES: usize = 256;
const CALLERS: [u64; 3] = [1, 8, 32];
const POOL: u32 = 16;
/// 1, 8 and 32 callers, from the project's bars.
const BARS: [f64; 3] = [0.75, 1.2, 1.5];

struct Options {
    rounds: usize,
    seconds: f64,
    only: Option<String>,
    url: String,
    lanes: Option<String>,
    callers: Option<u64>,
}

#[tokio::main]
async fn main() {
    let options = options();
    let (p50, p99) = fsync_latency();
    let bench = Bench::new(options).await;
    let (version, commit): (String, String) =
        sqlx::query_as("SELECT version(), current_setting('synchronous_commit')").fetch_one(&bench.pool).await.unwrap();
    let version = version.split(" on ").next().unwrap();
    println!(
        "{version}, synchronous_commit {commit}, fsync p50 {p50:?}, p99 {p99:?}, {PAYLOAD_BYTES} bytes, {STREAMS} streams"
    );
    let runs = |part: &str| bench.options.only.as_deref().is_none_or(|only| only == part);
    if runs("appends") {
        bench.appends(1).await;
        bench.appends(10).await;
    }
    if runs("idle") {
        bench.idle().await;
    }
    if runs("growth") {
        bench.growth().await;
    }
    if runs("reads") || runs("feed") || runs("loads") {
        bench.reads(runs("reads") || runs("feed"), runs("reads") || runs("loads")).await;
    }
    if runs("import") {
        bench.import().await;
    }
    bench.end().await;
}

fn options() -> Options {
    let url = std::env::var("EVSTORE_TEST_POSTGRES_URL").expect("EVSTORE_TEST_POSTGRES_URL names a server");
    let mut options = Options { rounds: 3, seconds: 2.0, only: None, url, lanes: None, callers: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap();
        match argument.as_str() {
            "--rounds" => options.rounds = value().parse().unwrap(),
            "--seconds" => options.seconds = value().parse().unwrap(),
            "--lanes" => options.lanes = Some(value()),
            "--callers" => options.callers = Some(value().parse().unwrap()),
            "--only" => options.only = Some(value()),
            // Cargo says that it is a benchmark.
            "--bench" => {}
            other => panic!("{other} is none of the options, which stand at the top of this file"),
        }
    }
    options
}

fn fsync_latency() -> (Duration, Duration) {
    let path = std::env::temp_dir().join(format!("evstore-fsync-{}", std::process::id()));
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

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn spread(values: &[f64]) -> String {
    let (low, high) = values.iter().fold((f64::MAX, 0.0_f64), |(low, high), value| (low.min(*value), high.max(*value)));
    format!("{:.0} ({low:.0} to {high:.0})", median(values))
}

fn id(number: u64) -> CommitId {
    CommitId::derive(&[&number.to_le_bytes(), &std::process::id().to_le_bytes()])
}

fn event() -> NewEvent {
    NewEvent::new(EventType::new("order-placed").unwrap(), vec![b'x'; PAYLOAD_BYTES])
}

fn encoded(count: usize) -> Vec<u8> {
    let commit = NewCommit { id: id(0), events: Events::new(vec![event(); count]).unwrap() };
    format::encode_events(id(0), &commit.recorded().unwrap())
}

fn soon() -> Deadline {
    Deadline::within(Duration::from_secs(60))
}

struct Bench {
    options: Options,
    pool: PgPool,
    opener: Arc<dyn Opener>,
    settings: Settings,
    tags: AtomicU64,
}

/// A store of its own.
struct Store {
    settings: Settings,
    store: Arc<dyn EventStore>,
}

impl Bench {
    async fn new(options: Options) -> Self {
        let pool =
            PgPoolOptions::new().max_connections(POOL).test_before_acquire(false).connect(&options.url).await.unwrap();
        let provider = evstore_postgres::provider();
        let schema = format!("bench_{}", std::process::id());
        let mut given = vec![("url".to_owned(), options.url.clone()), ("schema".to_owned(), schema)];
        given.extend(options.lanes.clone().map(|lanes| ("append_lanes_max".to_owned(), lanes)));
        let settings = Settings::new(StoreName::new("bench").unwrap(), provider.keys, given).unwrap();
        Self { options, pool, opener: provider.opener, settings, tags: AtomicU64::new(0) }
    }

    async fn store(&self) -> Store {
        let tag = format!("b{}", self.tags.fetch_add(1, Ordering::Relaxed));
        let settings = self.opener.make_scratch(&self.settings, &tag).await.unwrap();
        let store = self.opener.open(&settings).await.unwrap();
        Store { settings, store }
    }

    async fn drop(&self, store: Store) {
        store.store.close().await.unwrap();
        self.opener.drop_scratch(&store.settings).await.unwrap();
    }

    async fn end(&self) {
        for tag in self.opener.list_scratch(&self.settings).await.unwrap() {
            let schema = format!("{}_scratch_{tag}", self.settings.text("schema").unwrap());
            let scratch = self.settings.clone().with("schema", schema).unwrap();
            self.opener.drop_scratch(&scratch).await.unwrap();
        }
    }

    async fn appends(&self, events: usize) {
        let mut cells: Vec<(Vec<f64>, Vec<f64>, Vec<f64>)> = vec![Default::default(); CALLERS.len()];
        for _ in 0..self.options.rounds {
            for (callers, cell) in CALLERS.iter().zip(&mut cells).filter(|(callers, _)| self.wants(**callers)) {
                let store = self.store().await;
                cell.0.push(self.floor(&store, *callers, events).await);
                self.drop(store).await;
                let store = self.store().await;
                begin_streams(&store.store).await;
                let (rate, lag) = self.called(&store, *callers, events).await;
                cell.1.push(rate);
                cell.2.push(lag);
                self.drop(store).await;
            }
        }
        println!(
            "\n{events} events a commit\ncallers  floor commits/s          store commits/s          ratio   bar   feed lag p99"
        );
        let cells = CALLERS.iter().zip(&cells).zip(BARS).filter(|((callers, _), _)| self.wants(**callers));
        for ((callers, (floors, stores, lags)), bar) in cells {
            let ratio = median(stores) / median(floors);
            let verdict = if ratio >= bar { "held" } else { "MISSED" };
            let (floor, store, lag) = (spread(floors), spread(stores), median(lags));
            println!("{callers:7}  {floor:24} {store:24} {ratio:5.2}   {bar} {verdict}   {lag:.0} ms");
        }
    }

    fn wants(&self, callers: u64) -> bool {
        self.options.callers.is_none_or(|wanted| wanted == callers)
    }

    /// Callers that insert one row a transaction.
    async fn floor(&self, store: &Store, callers: u64, events: usize) -> f64 {
        let schema = store.settings.text("schema").unwrap();
        let insert: Arc<str> = evstore_postgres::floor::insert(schema).into();
        let end = Instant::now() + Duration::from_secs_f64(self.options.seconds);
        let begin = Instant::now();
        let tasks: Vec<_> = (0..callers)
            .map(|caller| {
                let (pool, insert, encoded) = (self.pool.clone(), insert.clone(), encoded(events));
                tokio::spawn(async move {
                    let mut commits = 0_u64;
                    while Instant::now() < end {
                        let stream = (commits * callers + caller) % STREAMS;
                        let number = (commits * callers + caller) / STREAMS + 1;
                        sqlx::query(&insert)
                            .bind(stream as i64)
                            .bind(number as i64)
                            .bind((number - 1) as i64 * events as i64 + 1)
                            .bind(commits as i64)
                            .bind(events as i64)
                            .bind(id(commits * callers + caller).to_string())
                            .bind(&encoded[..])
                            .execute(&pool)
                            .await
                            .unwrap();
                        commits += 1;
                    }
                    commits
                })
            })
            .collect();
        let mut commits = 0;
        for task in tasks {
            commits += task.await.unwrap();
        }
        commits as f64 / begin.elapsed().as_secs_f64()
    }

    /// Callers that append, each with streams of its own, while one reader follows the feed. Commits a second, and lag in ms.
    async fn called(&self, store: &Store, callers: u64, events: usize) -> (f64, f64) {
        let end = Instant::now() + Duration::from_secs_f64(self.options.seconds);
        let begin = Instant::now();
        let tasks: Vec<_> =
            (0..callers).map(|caller| tokio::spawn(call(store.store.clone(), caller, callers, events, end))).collect();
        let lag = tokio::spawn(lag(store.store.clone(), end));
        let mut commits = 0;
        for task in tasks {
            commits += task.await.unwrap();
        }
        let rate = commits as f64 / begin.elapsed().as_secs_f64();
        (rate, lag.await.unwrap())
    }

    /// From the answer to an append until a waiting reader of another handle is woken, when nothing else goes on.
    async fn idle(&self) {
        let store = self.store().await;
        let other = self.opener.open(&store.settings).await.unwrap();
        for (whose, reader) in [("its own process", &store.store), ("another process", &other)] {
            let mut times = Vec::new();
            for number in 0..100 {
                let after = reader.feed_head(soon()).await.unwrap().cursor;
                let waiting = {
                    let reader = reader.clone();
                    tokio::spawn(async move {
                        reader.wait_feed(WaitFeed { after, deadline: soon() }).await.unwrap();
                        Instant::now()
                    })
                };
                tokio::time::sleep(Duration::from_millis(30)).await;
                let stream = StreamId::new(format!("idle-{}", whose.len())).unwrap();
                put(&store.store, stream, Expected::Any, number + 1_000 * whose.len() as u64, 1).await;
                let answered = Instant::now();
                let woken = waiting.await.unwrap();
                times.push(woken.saturating_duration_since(answered).as_secs_f64() * 1e3);
            }
            times.sort_by(f64::total_cmp);
            println!("\nidle, seen by {whose}: p50 {:.1} ms, p99 {:.1} ms (bar 50 ms)", times[50], times[99]);
        }
        other.close().await.unwrap();
        self.drop(store).await;
    }

    /// Appends of 32 callers into a store of 10,000 events beside one of a million.
    async fn growth(&self) {
        let (small, large) = (self.filled(10_000).await, self.filled(1_000_000).await);
        let (mut smalls, mut larges) = (Vec::new(), Vec::new());
        for round in 0..self.options.rounds as u64 {
            for (store, rates) in [(&small, &mut smalls), (&large, &mut larges)] {
                let end = Instant::now() + Duration::from_secs_f64(self.options.seconds);
                let begin = Instant::now();
                let tasks: Vec<_> = (0..32)
                    .map(|caller| {
                        let store = store.store.clone();
                        tokio::spawn(async move {
                            let mut commits = 0;
                            while Instant::now() < end {
                                let number = (1 << 40) + ((round * 1_000_000) + commits) * 32 + caller;
                                let stream = StreamId::new(format!("order-{}", number * 7 % STREAMS)).unwrap();
                                put(&store, stream, Expected::Exists, number, 1).await;
                                commits += 1;
                            }
                            commits
                        })
                    })
                    .collect();
                let mut commits = 0;
                for task in tasks {
                    commits += task.await.unwrap();
                }
                rates.push(commits as f64 / begin.elapsed().as_secs_f64());
            }
        }
        let ratio = median(&larges) / median(&smalls);
        let (smalls, larges) = (spread(&smalls), spread(&larges));
        println!("\n10,000 events {smalls} commits/s, 1,000,000 events {larges}: {ratio:.2} (bar 0.8)");
        self.drop(small).await;
        self.drop(large).await;
    }

    /// A store that takes appends and holds so many commits of one event, in so many streams as always.
    async fn filled(&self, commits: u64) -> Store {
        let store = self.store().await;
        let admin = self.opener.open_admin(&store.settings).await.unwrap();
        let open = admin.read_meta(soon()).await.unwrap();
        let importing = Meta { state: StoreState::Importing { from: None }, epoch: Epoch(1), ..open.clone() };
        let swap = |expected: Meta, new: Meta| SwapMeta { expected, new, deadline: soon() };
        admin.swap_meta(swap(open.clone(), importing.clone())).await.unwrap();
        for from in (0..commits).step_by(5_000) {
            let items = (from..from + 5_000).map(|n| Replica::Commit(recorded(n))).collect();
            let request = Replicate { epoch: Epoch(1), origin: Origin::Restore, items, deadline: soon() };
            admin.replicate(request).await.unwrap();
        }
        let open = Meta { state: StoreState::Open, ..importing.clone() };
        admin.swap_meta(swap(importing, open)).await.unwrap();
        admin.close().await.unwrap();
        store
    }

    async fn reads(&self, feed: bool, loads: bool) {
        let store = self.store().await;
        let schema = store.settings.text("schema").unwrap().to_owned();
        let end = Instant::now() + Duration::from_secs(600);
        let fill: Vec<_> = (0..64)
            .map(|caller| {
                let store = store.store.clone();
                tokio::spawn(async move {
                    for number in 0..100_000 / 64 {
                        let commit = number * 64 + caller;
                        let stream = StreamId::new(format!("order-{}", commit % STREAMS)).unwrap();
                        put(&store, stream, Expected::Any, commit, 1).await;
                    }
                })
            })
            .collect();
        for task in fill {
            task.await.unwrap();
        }
        assert!(Instant::now() < end);
        sqlx::query(&format!("VACUUM ANALYZE {schema}.commits")).execute(&self.pool).await.unwrap();
        sqlx::query(&format!("VACUUM ANALYZE {schema}.feed")).execute(&self.pool).await.unwrap();
        if feed {
            let (mut scans, mut feeds) = (Vec::new(), Vec::new());
            for _ in 0..self.options.rounds {
                scans.push(self.scan(&schema).await);
                feeds.push(feed_rate(&store.store).await);
            }
            let ratio = median(&feeds) / median(&scans);
            println!("\nplain scan {} events/s, feed {}: {ratio:.2} (bar 0.8)", spread(&scans), spread(&feeds));
        }
        if loads {
            let (mut selects, mut loads) = (Vec::new(), Vec::new());
            for _ in 0..self.options.rounds {
                selects.push(self.select(&schema).await);
                loads.push(load_rate(&store.store).await);
            }
            let ratio = median(&loads) / median(&selects);
            let (selects, loads) = (spread(&selects), spread(&loads));
            println!("\nplain select {selects} /s, load of about 100 events {loads}: {ratio:.2} (bar 0.95)");
        }
        self.drop(store).await;
    }

    /// The same rows in one go, in no order, their bytes copied.
    async fn scan(&self, schema: &str) -> f64 {
        let sql =
            format!("SELECT ordering, stream, number, revision, recorded_at, count, id, events FROM {schema}.commits");
        let begin = Instant::now();
        let rows = sqlx::query(&sql).fetch_all(&self.pool).await.unwrap();
        let bytes: usize = rows.iter().map(|row| row.get::<Vec<u8>, _>(7).len()).sum();
        assert!(bytes > 0);
        rows.len() as f64 / begin.elapsed().as_secs_f64()
    }

    /// Plain selects of one stream's rows.
    async fn select(&self, schema: &str) -> f64 {
        let sql: Arc<str> = format!(
            "SELECT number, revision, recorded_at, count, events FROM {schema}.commits
             WHERE stream = (SELECT key FROM {schema}.streams WHERE namespace = '' AND name = $1) ORDER BY revision, number"
        )
        .into();
        let (begin, mut done) = (Instant::now(), 0);
        while begin.elapsed().as_secs_f64() < self.options.seconds {
            let name = format!("order-{}", done % STREAMS);
            let rows = sqlx::query(&sql).bind(name).fetch_all(&self.pool).await.unwrap();
            assert!(rows.iter().map(|row| row.get::<Vec<u8>, _>(4).len()).sum::<usize>() > 90 * PAYLOAD_BYTES);
            done += 1;
        }
        done as f64 / begin.elapsed().as_secs_f64()
    }

    async fn import(&self) {
        const COMMITS: u64 = 50_000;
        let (mut floors, mut imports) = (Vec::new(), Vec::new());
        for _ in 0..self.options.rounds {
            let source = self.store().await;
            let schema = source.settings.text("schema").unwrap().to_owned();
            let begin = Instant::now();
            let mut connection = self.pool.acquire().await.unwrap();
            let mut copy = connection
                .copy_in_raw(&format!("COPY {schema}.commits (stream, number, revision, recorded_at, ordering, count, id, digest, events) FROM STDIN"))
                .await
                .unwrap();
            let events: String = encoded(1).iter().map(|byte| format!("{byte:02x}")).collect();
            let mut text = String::new();
            for n in 0..COMMITS {
                let (stream, number, id) = (n % STREAMS, n / STREAMS + 1, id(n));
                text.push_str(&format!("{stream}\t{number}\t{number}\t0\t{n}\t1\t{id}\t{id}\t\\\\x{events}\n"));
                if text.len() > 1 << 18 {
                    copy.send(std::mem::take(&mut text).as_bytes()).await.unwrap();
                }
            }
            copy.send(text.as_bytes()).await.unwrap();
            copy.finish().await.unwrap();
            let mut copy = connection
                .copy_in_raw(&format!("COPY {schema}.feed (position, stream, revision, number, places) FROM STDIN"))
                .await
                .unwrap();
            let places: String = (0..COMMITS)
                .map(|n| format!("{}\t{}\t{}\t{}\t1\n", n + 1, n % STREAMS, n / STREAMS + 1, n / STREAMS + 1))
                .collect();
            copy.send(places.as_bytes()).await.unwrap();
            copy.finish().await.unwrap();
            floors.push(COMMITS as f64 / begin.elapsed().as_secs_f64());
            self.drop(source).await;
            imports.push(self.import_once(COMMITS).await);
        }
        let ratio = median(&imports) / median(&floors);
        println!("\nplain COPY {} commits/s, import {}: {ratio:.2} (bar 0.6)", spread(&floors), spread(&imports));
    }

    async fn import_once(&self, commits: u64) -> f64 {
        let target = self.store().await;
        let admin = self.opener.open_admin(&target.settings).await.unwrap();
        let meta = admin.read_meta(soon()).await.unwrap();
        let new = Meta { state: StoreState::Importing { from: None }, epoch: Epoch(1), ..meta.clone() };
        admin.swap_meta(SwapMeta { expected: meta, new, deadline: soon() }).await.unwrap();
        // Requests as large as `evstore import` makes them.
        let items = |from: u64| (from..commits.min(from + 4_096)).map(|n| Replica::Commit(recorded(n))).collect();
        let requests: Vec<Vec<Replica>> = (0..commits).step_by(4_096).map(items).collect();
        let begin = Instant::now();
        for items in requests {
            let request = Replicate { epoch: Epoch(1), origin: Origin::Restore, items, deadline: soon() };
            admin.replicate(request).await.unwrap();
        }
        let rate = commits as f64 / begin.elapsed().as_secs_f64();
        admin.close().await.unwrap();
        self.drop(target).await;
        rate
    }
}

fn recorded(n: u64) -> Commit {
    let stream = StreamId::new(format!("order-{}", n % STREAMS)).unwrap();
    let commit = NewCommit { id: id(n), events: Events::new(vec![event()]).unwrap() };
    let events = commit.recorded().unwrap();
    Commit {
        digest: format::digest(&stream, id(n), &CommitKind::Events, &events),
        stream,
        id: id(n),
        number: CommitNumber(n / STREAMS + 1),
        kind: CommitKind::Events,
        first_revision: Revision(n / STREAMS + 1),
        count: 1,
        first_position: Some(Position(n + 1)),
        recorded_at: Timestamp(0),
        imported: None,
        group: None,
        extensions: Vec::new(),
        content: Content::Kept,
        events,
    }
}

async fn put(store: &Arc<dyn EventStore>, stream: StreamId, expected: Expected, number: u64, events: usize) {
    let commit = NewCommit { id: id(number), events: Events::new(vec![event(); events]).unwrap() };
    store.append(Append { stream, expected, commit, deadline: soon() }).await.unwrap();
}

async fn call(store: Arc<dyn EventStore>, caller: u64, callers: u64, events: usize, end: Instant) -> u64 {
    let streams: Vec<StreamId> = (0..STREAMS)
        .filter(|stream| stream % callers == caller)
        .map(|stream| StreamId::new(format!("order-{stream}")).unwrap())
        .collect();
    let mut commits = 0_u64;
    while Instant::now() < end {
        let stream = streams[commits as usize % streams.len()].clone();
        // Each has one event from the beginning.
        let revision = 1 + commits / streams.len() as u64 * events as u64;
        put(&store, stream, Expected::At(Revision(revision)), commits * callers + caller, events).await;
        commits += 1;
    }
    commits
}

/// One event in each stream, as the floor's streams need nothing either to be there.
async fn begin_streams(store: &Arc<dyn EventStore>) {
    let tasks: Vec<_> = (0..STREAMS)
        .map(|stream| {
            let store = store.clone();
            let name = StreamId::new(format!("order-{stream}")).unwrap();
            tokio::spawn(async move { put(&store, name, Expected::NoStream, u64::MAX - stream, 1).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Age of commits when the background sequencer shows them, p99 in ms. Looks at the end of the feed only, as
/// `doctor` does, and seldom: each look counts what waits.
async fn lag(store: Arc<dyn EventStore>, end: Instant) -> f64 {
    let mut ages = Vec::new();
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
        ages.push(store.feed_head(soon()).await.unwrap().lag.age.as_secs_f64() * 1e3);
    }
    ages.sort_by(f64::total_cmp);
    ages[ages.len() * 99 / 100]
}

async fn feed_rate(store: &Arc<dyn EventStore>) -> f64 {
    let (begin, mut events, mut from) = (Instant::now(), 0, FeedStart::First);
    loop {
        let request =
            ReadFeed { from, filter: FeedFilter::none(), limit: 2_000, max_bytes: 16 << 20, deadline: soon() };
        let page = store.read_feed(request).await.unwrap();
        events += page.events().count();
        if page.end {
            return events as f64 / begin.elapsed().as_secs_f64();
        }
        from = FeedStart::After(page.next);
    }
}

async fn load_rate(store: &Arc<dyn EventStore>) -> f64 {
    let (begin, mut done) = (Instant::now(), 0);
    while begin.elapsed().as_secs_f64() < 2.0 {
        let request = ReadStream {
            stream: StreamId::new(format!("order-{}", done % STREAMS)).unwrap(),
            from: StreamStart::First,
            direction: Direction::Forward,
            limit: 1_000,
            max_bytes: 16 << 20,
            deadline: soon(),
        };
        assert!(store.read_stream(request).await.unwrap().events().count() > 90);
        done += 1;
    }
    done as f64 / begin.elapsed().as_secs_f64()
}
