//! The S3 provider is held to the whole catalog, on the endpoint that `EVSTORE_TEST_S3_URL` names.
//!
//! `EVSTORE_TEST_S3_SETTINGS` adds settings to it, as `key=value` separated by semicolons: a bucket, a region, credentials, without
//! which those of a local engine are given, which does not look at them.

use evstore_api::{Settings, StoreName};
use evstore_conformance::{Target, test_main};
use std::collections::BTreeMap;
use std::process::ExitCode;

fn main() -> ExitCode {
    let provider = evstore_s3::provider();
    let store = StoreName::new("s3").expect("a fixed name is valid");
    let url = std::env::var("EVSTORE_TEST_S3_URL").expect("EVSTORE_TEST_S3_URL names the endpoint to test");
    let local = [
        ("bucket", "evstore-test"),
        ("endpoint", url.as_str()),
        ("region", "us-east-1"),
        ("access_key_id", "AKIDEVSTORETEST"),
        ("secret_access_key", "not-looked-at"),
    ];
    let mut given: BTreeMap<String, String> = local.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let more = std::env::var("EVSTORE_TEST_S3_SETTINGS").unwrap_or_default();
    let more = more.split(';').filter_map(|pair| pair.split_once('='));
    given.extend(more.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let settings = Settings::new(store, provider.keys, given);
    test_main(Target::new(provider, settings.expect("the settings fit the provider's keys")))
}
