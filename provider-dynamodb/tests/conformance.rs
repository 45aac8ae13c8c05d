//! The DynamoDB provider is held to the whole catalog, on the endpoint that `EVSTORE_TEST_DYNAMODB_URL` names, and to harder races: 64 tasks in
//! four processes, on one stream and on many, with each of its feeds, through a proxy that a fifth of the answers do not pass.
//!
//! `EVSTORE_TEST_DYNAMODB_SETTINGS` adds settings to it, as `key=value` separated by semicolons: another place for snapshots, or region
//! and credentials, without which those of a local engine are given, which does not look at them. `EVSTORE_TEST_RACE_CALLS` says how many calls
//! each of the 64 makes, and `EVSTORE_TEST_RACE_STREAMS` how many many streams are: more before a release.

#[path = "engine/mod.rs"]
#[expect(dead_code, reason = "of what tests share, this uses the proxy only")]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]
mod engine;

use engine::{Fate, Proxy, refusal};
use evstore_api::{Settings, StoreName};
use evstore_conformance::{Arena, Target, test_main_with};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

/// Each of the feeds, with settings that say so. Requests that are held up by a busy machine are late for an index that settles sooner, and clients
/// repeat commits of theirs that many others followed on the one stream.
const FEEDS: [(&str, &str); 4] = [
    ("sequencer", "feed=sequencer;idempotency_commits=1000"),
    ("transactional", "feed=transactional;idempotency_commits=1000"),
    ("sharded-index", "feed=sharded-index;settling=2s;idempotency_commits=1000"),
    ("sqs-fifo", "feed=sqs-fifo;idempotency_commits=1000"),
];
const PROCESSES: u64 = 4;
const CLIENTS: u64 = 16;
/// Calls of each, and how many streams are many: few on every change. With more than 20 calls the one stream would have more
/// commits than are recognised.
const CALLS: u64 = 2;
const STREAMS: u64 = 20;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    let proxy = runtime.block_on(Proxy::start());
    lose_a_fifth(&proxy);
    let told = |name, usual| std::env::var(name).map_or(usual, |told| told.parse().expect("a number"));
    let (calls, many) = (told("EVSTORE_TEST_RACE_CALLS", CALLS), told("EVSTORE_TEST_RACE_STREAMS", STREAMS));
    let mut races = Vec::new();
    for (feed, settings) in FEEDS {
        for (name, streams) in [("one-stream", 1), ("many-streams", many as usize)] {
            let otherwise = vec![("endpoint", proxy.url.clone())];
            let arena = Arena { processes: PROCESSES, clients: CLIENTS, streams, calls, otherwise };
            races.push((format!("race.{feed}.{name}"), target(settings), arena));
        }
    }
    let more = std::env::var("EVSTORE_TEST_DYNAMODB_SETTINGS").unwrap_or_default();
    test_main_with(target(&more), races)
}

fn target(more: &str) -> Target {
    let provider = evstore_dynamodb::provider();
    let store = StoreName::new("dynamodb").expect("a fixed name is valid");
    let url = engine::url();
    let local = [
        ("endpoint", url.as_str()),
        ("region", "local"),
        ("access_key_id", "AKIDEVSTORETEST"),
        ("secret_access_key", "not-looked-at"),
    ];
    let queues = engine::queues_url();
    let local = local.into_iter().chain([("queue_endpoint", queues.as_str())]);
    let mut given: BTreeMap<String, String> = local.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let more = more.split(';').filter_map(|pair| pair.split_once('='));
    given.extend(more.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let settings = Settings::new(store, provider.keys, given);
    Target::new(provider, settings.expect("the settings fit the provider's keys"))
}

/// Of what is asked while a store is open: answers that are lost, with what they answer done, and refusals of two kinds.
fn lose_a_fifth(proxy: &Proxy) {
    let count = AtomicU32::new(0);
    proxy.decide(move |message| {
        let opens = matches!(message.operation().as_str(), "DescribeTable" | "DescribeTimeToLive" | "GetItem");
        match count.fetch_add(1, Ordering::Relaxed) % 20 {
            _ if opens => Fate::Pass,
            3 | 11 => Fate::LoseAnswer,
            7 => refusal("ThrottlingException"),
            13 => refusal("InternalServerError"),
            _ => Fate::Pass,
        }
    });
}
