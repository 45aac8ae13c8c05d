//! The same move on servers, by the real binary: SQLite to Postgres and back, to Redis and back, and DynamoDB to SQLite and back. The servers are
//! those that `EVSTORE_TEST_POSTGRES_URL`, `EVSTORE_TEST_REDIS_URL` and `EVSTORE_TEST_DYNAMODB_URL` name; `cargo xtask test` starts them.

// A test may fail by a panic, also in its helpers.
#![allow(clippy::unwrap_used)]

mod mover;

use evstore::api::{Opener, Settings};
use evstore::{Registry, StoreName};
use std::sync::Arc;

/// What a server may promise less of than a file.
const START: &str = "migrate start --accept failover --accept durability --accept event_bytes --accept commit_bytes";

/// Nothing but for the tests that start nodes: then it is one of them.
#[test]
fn a_node() {
    mover::work_if_told();
}

/// A store on a server, gone with this.
struct Scratch {
    opener: Arc<dyn Opener>,
    settings: Settings,
    provider: &'static str,
}

impl Scratch {
    fn new(provider: &'static str, variable: &str, tag: &str) -> Self {
        Self::with(provider, variable, tag, "url", &[])
    }

    /// One whose address has a key of this name, with settings besides.
    fn with(provider: &'static str, variable: &str, tag: &str, address: &str, more: &[(&str, &str)]) -> Self {
        let url = std::env::var(variable)
            .unwrap_or_else(|_| panic!("{variable} names a server; `cargo xtask test` starts one"));
        let known = Registry::builtin().get(provider).unwrap().clone();
        let name = StoreName::new("made").unwrap();
        let more = more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let given = more.chain([(address.to_owned(), url)]);
        let settings = Settings::new(name, known.keys, given).unwrap();
        let tag = format!("{tag}{}", std::process::id());
        let settings = run(known.opener.make_scratch(&settings, &tag)).unwrap();
        Self { opener: known.opener, settings, provider }
    }

    /// Its table in a config.
    fn table(&self) -> String {
        let values = self.settings.values().map(|(key, value)| format!("{key} = {value:?}"));
        std::iter::once(format!("provider = {:?}", self.provider)).chain(values).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The server is thrown away too.
        let _ = run(self.opener.drop_scratch(&self.settings));
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn a_system_under_load_is_moved_from_sqlite_to_postgres_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Scratch::new("postgres", "EVSTORE_TEST_POSTGRES_URL", "mvp");
    let system =
        mover::System::new(folder.path(), "a_node", "provider = \"sqlite\"\npath = \"a.db\"", &postgres.table());
    mover::there_and_back_and_for_good(system, START, 4);
}

#[test]
fn a_system_under_load_is_moved_from_sqlite_to_redis_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let redis = Scratch::new("redis", "EVSTORE_TEST_REDIS_URL", "mvr");
    let system = mover::System::new(folder.path(), "a_node", "provider = \"sqlite\"\npath = \"a.db\"", &redis.table());
    mover::there_and_back_and_for_good(system, START, 4);
}

/// The other way round: DynamoDB recognises repeats for a shorter time than a file, so that a move to it is refused.
#[test]
fn a_system_under_load_is_moved_from_dynamodb_to_sqlite_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let local = [("region", "local"), ("access_key_id", "AKIDEVSTORETEST"), ("secret_access_key", "not-looked-at")];
    let dynamodb = Scratch::with("dynamodb", "EVSTORE_TEST_DYNAMODB_URL", "mvd", "endpoint", &local);
    let system =
        mover::System::new(folder.path(), "a_node", &dynamodb.table(), "provider = \"sqlite\"\npath = \"b.db\"");
    mover::there_and_back_and_for_good(system, "migrate start --accept processes", 2);
}
