//! How fast the incident log is archived out of a SQLite file into a folder, what it takes there, how much memory that wants, and how
//! long a cold stream takes. `--times N` archives it N times over, as streams of other names.

#![allow(clippy::print_stdout, reason = "it prints what it measured")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails has nothing to say")]

use evstore_api::*;
use evstore_tiered::{Archiver, Policy};
use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/data/incidents.jsonl.gz");

#[derive(serde::Deserialize)]
struct Line<'a> {
    stream: String,
    r#type: String,
    time: String,
    #[serde(borrow)]
    data: &'a serde_json::value::RawValue,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let times = arguments.iter().position(|one| one == "--times").and_then(|at| arguments.get(at + 1)?.parse().ok());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure(times.unwrap_or(1)));
}

fn deadline() -> Deadline {
    Deadline::within(Duration::from_secs(600))
}

async fn measure(times: usize) {
    let folder = tempfile::tempdir_in(".").unwrap();
    let hot = evstore_sqlite::provider();
    let path = folder.path().join("hot.db").display().to_string();
    let hot_settings = Settings::new(StoreName::new("hot").unwrap(), hot.keys, [("path".into(), path)]).unwrap();
    let tiered = evstore_tiered::provider([hot.clone()]);
    let archive = format!("file:{}", folder.path().join("archive").display());
    let given = [("hot".to_owned(), "hot".to_owned()), ("archive".into(), archive)];
    let settings = Settings::new(StoreName::new("tiered").unwrap(), tiered.keys, given).unwrap();
    let settings = evstore_tiered::with_hot(settings, &hot, &hot_settings).unwrap();
    let store = tiered.opener.open(&settings).await.unwrap();
    let json_bytes = import(&store, times).await * times as u64;
    // Memory from here on is the archiver's, but for what the store in front has by now.
    let before = memory("VmRSS:");
    let archiver = Archiver::open(&settings, &[hot]).await.unwrap();
    let archiver = archiver.with_policy(Policy { keep_last: Some(0), ..Policy::default() });
    let began = Instant::now();
    let ran = archiver.run(&|_| {}).await.unwrap();
    let took = began.elapsed();
    println!(
        "archived {} events in {:.2} s: {:.0} events/s; {} segments of {} bytes, {:.2} times smaller than the log's {json_bytes} bytes of JSON",
        ran.events,
        took.as_secs_f64(),
        ran.events as f64 / took.as_secs_f64(),
        ran.segments,
        ran.bytes,
        json_bytes as f64 / ran.bytes as f64,
    );
    println!("memory: {} MiB before, {} MiB at most", before >> 10, memory("VmHWM:") >> 10);
    cold(&tiered, &settings).await;
}

/// Appends the log, each line as a commit, as `evstore import` does; gives its bytes.
async fn import(store: &Arc<dyn EventStore>, times: usize) -> u64 {
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(LOG).unwrap()).read_to_string(&mut text).unwrap();
    for round in 0..times {
        let mut waiting = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line: Line<'_> = serde_json::from_str(line).unwrap();
            let mut event = NewEvent::new(EventType::new(line.r#type).unwrap(), line.data.get().as_bytes().to_vec());
            event.content_type = ContentType::json();
            let time: jiff::Timestamp = line.time.parse().unwrap();
            event.occurred_at = Some(Timestamp(time.as_microsecond()));
            let stream = if round == 0 { line.stream } else { format!("{}-{round}", line.stream) };
            let commit = CommitId::derive(&[&(round as u64).to_le_bytes(), &(number as u64).to_le_bytes()]);
            let request = Append {
                stream: StreamId::new(stream).unwrap(),
                expected: Expected::Any,
                commit: NewCommit { id: commit, events: Events::new(vec![event]).unwrap() },
                deadline: deadline(),
            };
            let store = store.clone();
            waiting.push(tokio::spawn(async move { store.append(request).await.unwrap() }));
            // Of one stream the next is appended when the last was: what waits is small, and a stream's lines lie together.
            if waiting.len() == 1_000 {
                for one in waiting.drain(..) {
                    one.await.unwrap();
                }
            }
        }
        for one in waiting {
            one.await.unwrap();
        }
    }
    text.len() as u64
}

/// How much memory the process has, in KiB.
fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(what));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

/// Loads some cold streams, each by a handle that knows nothing, then once more.
async fn cold(tiered: &Provider, settings: &Settings) {
    let (mut first, mut again) = (Vec::new(), Vec::new());
    let any = tiered.opener.open(settings).await.unwrap();
    let list = ListStreams {
        namespace: NamespaceFilter::All,
        category: None,
        prefix: String::new(),
        after: None,
        limit: 2_000,
        deadline: deadline(),
    };
    let streams = any.list_streams(list).await.unwrap().streams;
    for listed in streams.iter().step_by(100) {
        let store = tiered.opener.open(settings).await.unwrap();
        for times in [&mut first, &mut again] {
            let request = ReadStream {
                stream: listed.stream.clone(),
                from: StreamStart::First,
                direction: Direction::Forward,
                limit: 1_000,
                max_bytes: u64::MAX,
                deadline: deadline(),
            };
            let began = Instant::now();
            let page = store.read_stream(request).await.unwrap();
            times.push((began.elapsed(), page.usage.requests));
        }
    }
    for (what, mut times) in [("the first time", first), ("again", again)] {
        times.sort_unstable();
        let requests = times.iter().map(|(_, requests)| *requests).max().unwrap_or(0);
        println!(
            "a cold stream {what}: {:?} in the middle, {requests} requests to both at most",
            times[times.len() / 2].0
        );
    }
}
