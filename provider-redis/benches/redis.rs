//! `EVSTORE_TEST_REDIS_URL=… EVSTORE_TEST_REDIS_BENCHMARK=/path/to/redis-benchmark cargo bench -p evstore-redis --features
//! engine-tests -- [--only appends|growth|reads] [--rounds N] [--seconds S]`, or `cargo xtask bench redis`
//!
//! Appends of 256 bytes by several callers, beside the rate at which the server's own benchmark tool drives the same script
//! with the same arguments: over as many connections, and over one connection with as many calls in flight, which is how
//! callers share ours. Then the rate at 10,000 and at a million events, the feed, one stream, and stored bytes per event. Prints
//! what it measured; asserts nothing.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]

use evstore_api::*;
use redis::{Connection, Value};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const WRITE: &str =
    concat!("#!lua\n", include_str!("../src/scripts/commits.lua"), include_str!("../src/scripts/write.lua"));
const CALLERS: [usize; 3] = [1, 8, 32];
const PAYLOAD_BYTES: usize = 256;

fn main() {
    let (mut rounds, mut seconds, mut only) = (3, 3.0, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--only" => only = arguments.next(),
            "--rounds" => rounds = arguments.next().unwrap().parse().unwrap(),
            "--seconds" => seconds = arguments.next().unwrap().parse().unwrap(),
            _ => {}
        }
    }
    let url = std::env::var("EVSTORE_TEST_REDIS_URL").unwrap();
    let mut server = redis::Client::open(url.as_str()).unwrap().get_connection().unwrap();
    server.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    for callers in CALLERS.into_iter().filter(|_| wanted("appends")) {
        let mut ratios = Vec::new();
        for round in 1..=rounds {
            let ours = runtime.block_on(ours(&url, callers, seconds));
            let wide = tool(&url, &mut server, callers, 1, seconds);
            let deep = tool(&url, &mut server, 1, callers, seconds);
            println!(
                "{callers} callers, round {round}: ours {:.0}/s p50 {:?} p99 {:?}; tool over {callers} connections {:.0}/s \
                 (ratio {:.2}), p99 {:.3} ms; {callers} in flight over one {:.0}/s (ratio {:.2}), p99 {:.3} ms",
                ours.rate,
                ours.p50,
                ours.p99,
                wide.rate,
                ours.rate / wide.rate,
                wide.p99_ms,
                deep.rate,
                ours.rate / deep.rate,
                deep.p99_ms
            );
            ratios.push((ours.rate / deep.rate, ours.p99.as_secs_f64() * 1e3 / deep.p99_ms));
        }
        let (rate, p99) = (middle(ratios.iter().map(|one| one.0)), middle(ratios.iter().map(|one| one.1)));
        println!("{callers} callers, of the tool with as many in flight over one connection: rate {rate}, p99 {p99}");
    }
    if wanted("growth") {
        let rates = (0..rounds).map(|_| runtime.block_on(growth(&url, &mut server, seconds))).collect::<Vec<_>>();
        println!("rate at a million events, of that at 10,000: {}", middle(rates.into_iter()));
    }
    if wanted("reads") {
        runtime.block_on(reads(&url, &mut server));
    }
}

/// The median, and from where to where.
fn middle(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (least, most) = (values.first().unwrap(), values.last().unwrap());
    format!("{:.2} ({least:.2} to {most:.2})", values[values.len() / 2])
}

/// The rate of 32 callers on a store of a million events, of one to a commit, as a part of that on one of 10,000.
async fn growth(url: &str, server: &mut Connection, seconds: f64) -> f64 {
    const FEW: usize = 10_000;
    const MANY: usize = 1_000_000;
    with_store(url, "growth", async |store| {
        let empty = used(server);
        fill(&store, FEW).await;
        let small = rate(&store, seconds).await;
        let there = position(&store).await;
        fill(&store, MANY - there).await;
        let bytes = (used(server) - empty) / MANY as f64;
        let large = rate(&store, seconds).await;
        println!(
            "{small:.0}/s at {FEW} events, {large:.0}/s at {MANY}; stored bytes per event of {PAYLOAD_BYTES}, one to a commit, \
             1,000 streams: {bytes:.0}"
        );
        large / small
    })
    .await
}

async fn position(store: &Arc<dyn EventStore>) -> usize {
    let head = store.feed_head(Deadline::within(Duration::from_secs(20))).await.unwrap();
    head.position.unwrap().0 as usize
}

async fn fill(store: &Arc<dyn EventStore>, events: usize) {
    const AT_ONCE: usize = 128;
    let tasks = (0..AT_ONCE).map(|caller| {
        let store = store.clone();
        tokio::spawn(async move {
            for at in (caller..events).step_by(AT_ONCE) {
                append(&store, &format!("stream-{}", at % 1_000), 1).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

async fn rate(store: &Arc<dyn EventStore>, seconds: f64) -> f64 {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let tasks = (0..32).map(|caller| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut count = 0;
            while Instant::now() < end {
                append(&store, &format!("stream-{}", (caller * 31 + count * 7) % 1_000), 1).await;
                count += 1;
            }
            count
        })
    });
    let mut count = 0;
    for task in tasks.collect::<Vec<_>>() {
        count += task.await.unwrap();
    }
    count as f64 / seconds
}

struct Ours {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

fn settings(url: &str) -> Settings {
    let given = [("url", url), ("prefix", "bench"), ("durability", "server")];
    let given = given.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Settings::new(StoreName::new("bench").unwrap(), evstore_redis::KEYS, given).unwrap()
}

/// A scratch store, removed behind the work.
async fn with_store<R>(url: &str, tag: &str, work: impl AsyncFnOnce(Arc<dyn EventStore>) -> R) -> R {
    let opener = evstore_redis::provider().opener;
    let scratch = opener.make_scratch(&settings(url), tag).await.unwrap();
    let answer = work(opener.open(&scratch).await.unwrap()).await;
    opener.drop_scratch(&scratch).await.unwrap();
    answer
}

async fn ours(url: &str, callers: usize, seconds: f64) -> Ours {
    let tag = format!("ours{callers}");
    with_store(url, &tag, async |store| {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        let begun = Instant::now();
        let tasks: Vec<_> = (0..callers).map(|_| tokio::spawn(caller(store.clone(), end))).collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.unwrap());
        }
        let elapsed = begun.elapsed().as_secs_f64();
        times.sort();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        Ours { rate: times.len() as f64 / elapsed, p50: at(50), p99: at(99) }
    })
    .await
}

async fn caller(store: Arc<dyn EventStore>, end: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    while Instant::now() < end {
        let begun = Instant::now();
        append(&store, "stream-1", 1).await;
        times.push(begun.elapsed());
    }
    times
}

async fn append(store: &Arc<dyn EventStore>, name: &str, events: usize) {
    let event = NewEvent::new(EventType::new("happened").unwrap(), vec![b'x'; PAYLOAD_BYTES]);
    let commit = NewCommit { id: CommitId::generate(), events: Events::new(vec![event; events]).unwrap() };
    let deadline = Deadline::within(Duration::from_secs(20));
    let request = Append { stream: StreamId::new(name).unwrap(), expected: Expected::Any, commit, deadline };
    store.append(request).await.unwrap();
}

struct Tool {
    rate: f64,
    p99_ms: f64,
}

/// The same script with arguments of the same sizes, to one stream, each call with an id of its own.
fn tool(url: &str, server: &mut Connection, connections: usize, in_flight: usize, seconds: f64) -> Tool {
    let key = |kind: &str| format!("{{evs:tool:0}}:{kind}");
    let keys = [key("meta"), key("s::stream-1"), key("feed"), key("streams")];
    redis::cmd("UNLINK").arg(&keys).query::<()>(server).unwrap();
    redis::cmd("HSET").arg(&keys[0]).arg(&["token", "t", "position", "0", "record", "r"]).query::<()>(server).unwrap();
    let hash: String = redis::cmd("SCRIPT").arg("LOAD").arg(WRITE).query(server).unwrap();
    let info: redis::ConnectionInfo = redis::IntoConnectionInfo::into_connection_info(url).unwrap();
    let redis::ConnectionAddr::Tcp(host, port) = info.addr() else { panic!("the tool wants a host and a port") };
    // As many calls as the slowest set-up makes in the time that is given.
    let calls = (seconds * if connections * in_flight == 1 { 8_000.0 } else { 30_000.0 }) as usize;
    let mut command = Command::new(std::env::var_os("EVSTORE_TEST_REDIS_BENCHMARK").unwrap());
    command.args(["-h", host, "-p", &port.to_string(), "--csv", "-r", "2000000000"]);
    command.args(["-n", &calls.to_string(), "-c", &connections.to_string(), "-P", &in_flight.to_string()]);
    command.arg("EVALSHA").arg(hash).arg("4").args(&keys).args(["t", "i____rand_int__", &"a".repeat(32)]);
    command.args(["any", "1", "e", "1", "1790000000000000", &"s".repeat(72), &"x".repeat(PAYLOAD_BYTES + 27), ""]);
    command.args([" stream-1", "9007199254740991"]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let written: Value = redis::cmd("HGET").arg(&keys[0]).arg("position").query(server).unwrap();
    let written: usize = redis::from_redis_value(written).unwrap();
    assert!(written + written / 100 + 50 >= calls, "the tool wrote {written} of {calls}");
    redis::cmd("UNLINK").arg(&keys).query::<()>(server).unwrap();
    // "name","requests per second","average","min","p50","p95","p99","max", in milliseconds.
    let last = text.lines().last().unwrap();
    let fields: Vec<&str> = last.rsplit("\",\"").collect();
    Tool { rate: fields[6].parse().unwrap(), p99_ms: fields[1].parse().unwrap() }
}

async fn reads(url: &str, server: &mut Connection) {
    const STREAMS: usize = 500;
    const EVENTS: usize = 100;
    with_store(url, "reads", async |store| {
        let before = used(server);
        for stream in 0..STREAMS {
            for _ in 0..EVENTS / 2 {
                append(&store, &format!("stream-{stream}"), 2).await;
            }
        }
        let events = (STREAMS * EVENTS) as f64;
        println!("stored bytes per event of {PAYLOAD_BYTES}, two to a commit: {:.0}", (used(server) - before) / events);
        let begun = Instant::now();
        let (mut from, mut count) = (FeedStart::First, 0);
        loop {
            let (filter, deadline) = (FeedFilter::none(), Deadline::within(Duration::from_secs(20)));
            let page = ReadFeed { from, filter, limit: 1_000, max_bytes: 16 << 20, deadline };
            let page = store.read_feed(page).await.unwrap();
            count += page.events().count();
            if page.end {
                break;
            }
            from = FeedStart::After(page.next);
        }
        println!("feed: {:.0} events/s", count as f64 / begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        for stream in 0..STREAMS {
            let (stream, deadline) =
                (StreamId::new(format!("stream-{stream}")).unwrap(), Deadline::within(Duration::from_secs(20)));
            let (from, direction) = (StreamStart::First, Direction::Forward);
            let request = ReadStream { stream, from, direction, limit: 1_000, max_bytes: 16 << 20, deadline };
            assert_eq!(store.read_stream(request).await.unwrap().events().count(), EVENTS);
        }
        println!("a stream of {EVENTS} events: {:?}", begun.elapsed() / STREAMS as u32);
    })
    .await;
}

/// Bytes that the server uses, once it has let go of what was removed.
fn used(server: &mut Connection) -> f64 {
    loop {
        let info: String = redis::cmd("INFO").arg("memory").query(server).unwrap();
        let number = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        if number("lazyfree_pending_objects:") == "0" {
            return number("used_memory:").parse().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
