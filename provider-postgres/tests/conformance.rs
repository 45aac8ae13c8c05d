//! The Postgres provider is held to the whole catalog, on the server at `EVSTORE_TEST_POSTGRES_URL`.

#![allow(clippy::print_stderr, reason = "says how it is run")]

use evstore_api::{Settings, StoreName};
use evstore_conformance::{Target, test_main};
use std::process::ExitCode;

fn main() -> ExitCode {
    let provider = evstore_postgres::provider();
    let store = StoreName::new("postgres").expect("a fixed name is valid");
    let Ok(url) = std::env::var("EVSTORE_TEST_POSTGRES_URL") else {
        eprintln!("EVSTORE_TEST_POSTGRES_URL is not set: `cargo xtask test` starts a throwaway server and sets it");
        return ExitCode::FAILURE;
    };
    let schema = format!("evstore_{}", std::process::id());
    // `cargo xtask engine pgbouncer` sets it.
    let pooler = std::env::var("EVSTORE_TEST_POSTGRES_POOLER").unwrap_or_else(|_| "false".into());
    let given = [
        ("url".into(), url),
        ("schema".into(), schema),
        ("auto_create".into(), "true".into()),
        ("transaction_pooler".into(), pooler),
    ];
    let settings = Settings::new(store, provider.keys, given).expect("a url is all it needs");
    test_main(Target::new(provider, settings))
}
