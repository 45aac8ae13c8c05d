//! The Redis provider is held to the whole catalog, on the server that `EVSTORE_TEST_REDIS_URL` names.
//!
//! `EVSTORE_TEST_REDIS_SETTINGS` adds settings to it, as `key=value` separated by semicolons: another topology, partitions,
//! durability.

use evstore_api::{Settings, StoreName};
use evstore_conformance::{Target, test_main};
use std::process::ExitCode;

fn main() -> ExitCode {
    let provider = evstore_redis::provider();
    let store = StoreName::new("redis").expect("a fixed name is valid");
    let url = std::env::var("EVSTORE_TEST_REDIS_URL").expect("EVSTORE_TEST_REDIS_URL names the server to test");
    let more = std::env::var("EVSTORE_TEST_REDIS_SETTINGS").unwrap_or_default();
    let more =
        more.split(';').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned()));
    let settings = Settings::new(store, provider.keys, [("url".to_owned(), url)].into_iter().chain(more));
    test_main(Target::new(provider, settings.expect("the settings fit the provider's keys")))
}
