//! The processor time that an append takes in this process, beside that of the bare call of the SDK that writes the same items: what
//! the engine and the network take is left out of both. One caller, one event of 900 bytes, streams that the process knows; with a feed
//! behind the appends, which nobody makes meanwhile, and with one in their transaction.
//!
//! `cargo xtask bench dynamodb`. Figures mean nothing while the machine does something else.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark talks to the person who started it, and stops where it fails"
)]

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnConsumedCapacity, TransactWriteItem};
use evstore_api::{
    Append, CommitId, Deadline, EventType, Events, Expected, NewCommit, NewEvent, Settings, StoreName, StreamId,
};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

const ROUNDS: usize = 5;
const CALLS: u32 = 400;

/// Processor time of this process, all its threads together.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn payload(seed: u32) -> Vec<u8> {
    (0..223_u32).flat_map(|n| (n ^ seed).wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

#[tokio::main]
async fn main() {
    let url = std::env::var("EVSTORE_TEST_DYNAMODB_URL").expect("EVSTORE_TEST_DYNAMODB_URL names the endpoint");
    for feed in ["sequencer", "transactional"] {
        measure(&url, feed).await;
    }
}

async fn measure(url: &str, feed: &'static str) {
    println!("feed = {feed:?}");
    let given = [
        ("feed", feed),
        ("sequencer", "apart"),
        ("endpoint", url),
        ("region", "local"),
        ("access_key_id", "AKIDEVSTORETEST"),
        ("secret_access_key", "not-looked-at"),
    ];
    let given = given.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let provider = evstore_dynamodb::provider();
    let settings = Settings::new(StoreName::new("bench").unwrap(), provider.keys, given).unwrap();
    let tag = format!("b{:x}{}", std::process::id(), &feed[..1]);
    let settings = provider.opener.make_scratch(&settings, &tag).await.unwrap();
    let store = provider.opener.open(&settings).await.unwrap();
    let table = settings.text("table").unwrap().to_owned();
    let bare = bare_client(url);
    println!("{:>5} {:>16} {:>16} {:>7}", "round", "store us/append", "bare us/call", "ratio");
    let mut number = 0;
    for round in 0..=ROUNDS {
        let before = processor_time();
        for n in 0..CALLS {
            let event = NewEvent::new(EventType::new("Happened").unwrap(), payload(n));
            let commit = NewCommit { id: CommitId::generate(), events: Events::new(vec![event]).unwrap() };
            let stream = StreamId::new("order-2e9f0a6c5d1b4f7e8a90b1c2d3e4f5a6").unwrap();
            let deadline = Deadline::within(Duration::from_secs(10));
            store.append(Append { stream, expected: Expected::Any, commit, deadline }).await.unwrap();
        }
        let of_store = processor_time() - before;
        let before = processor_time();
        for n in 0..CALLS {
            number += 1;
            bare_call(&bare, &table, feed, number, n).await;
        }
        let of_bare = processor_time() - before;
        let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(CALLS);
        let ratio = of_store.as_secs_f64() / of_bare.as_secs_f64();
        let name = if round == 0 { "warm".to_owned() } else { round.to_string() };
        println!("{name:>5} {:>16.1} {:>16.1} {ratio:>7.2}", each(of_store), each(of_bare));
    }
    store.close().await.unwrap();
    provider.opener.drop_scratch(&settings).await.unwrap();
}

fn bare_client(url: &str) -> Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .retry_config(aws_sdk_dynamodb::config::retry::RetryConfig::disabled())
        .region(Region::new("local"))
        .endpoint_url(url)
        .credentials_provider(Credentials::new("AKIDEVSTORETEST", "not-looked-at", None, None, "bench"))
        .build();
    Client::from_conf(config)
}

/// The same item, or a transaction of the same two, under the same kind of condition, of bytes that are there already.
async fn bare_call(client: &Client, table: &str, feed: &str, number: u64, seed: u32) {
    const NAME: &str = "bare-2e9f0a6c5d1b4f7e8a90b1c2d3e4f5a6";
    if feed == "sequencer" {
        let put = client
            .put_item()
            .table_name(table)
            .item("k", AttributeValue::S(NAME.to_owned()))
            .item("n", AttributeValue::N(number.to_string()))
            .item("e", AttributeValue::B(Blob::new(payload(seed))))
            .condition_expression("attribute_not_exists(k)")
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        put.send().await.unwrap();
        return;
    }
    let put = |table: String, key: &str, value: Vec<u8>| {
        let put = Put::builder()
            .table_name(table)
            .item("k", AttributeValue::S(key.to_owned()))
            .item("n", AttributeValue::N(number.to_string()))
            .item("e", AttributeValue::B(Blob::new(value)))
            .condition_expression("attribute_not_exists(k)")
            .build();
        TransactWriteItem::builder().put(put.unwrap()).build()
    };
    let commit = put(table.to_owned(), NAME, payload(seed));
    let entry = put(format!("{table}-log"), "bare", vec![7; 60]);
    client
        .transact_write_items()
        .transact_items(entry)
        .transact_items(commit)
        .return_consumed_capacity(ReturnConsumedCapacity::Total)
        .send()
        .await
        .unwrap();
}
