//! Tiered stores are held to the whole catalog while everything but the last event of each is archived all the time.
//!
//! In front is SQLite and the archive is a folder, unless `EVSTORE_TEST_TIERED_HOT` says `postgres`, `redis` or `dynamodb`, on the engine
//! that the variable of that provider's own tests names. With `EVSTORE_TEST_TIERED_ARCHIVE` at `s3` the archive is on the endpoint of
//! `EVSTORE_TEST_S3_URL`.

mod eager;

use evstore_api::{Provider, Settings, StoreName};
use evstore_conformance::{Target, test_main};
use std::process::ExitCode;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} names the engine to test"))
}

/// The provider in front, and its settings.
fn hot(folder: &std::path::Path) -> (Provider, Vec<(&'static str, String)>) {
    let schema = format!("evstore_tiered_{}", std::process::id());
    match std::env::var("EVSTORE_TEST_TIERED_HOT").as_deref() {
        Err(_) | Ok("sqlite") => {
            let path = folder.join("live.db").display().to_string();
            (evstore_sqlite::provider(), vec![("path", path)])
        }
        Ok("postgres") => {
            // Every handle has an archiver beside it, with connections of its own, and a server has a hundred.
            let given = vec![
                ("url", variable("EVSTORE_TEST_POSTGRES_URL")),
                ("schema", schema),
                ("auto_create", "true".into()),
                ("pool_max", "3".into()),
            ];
            (evstore_postgres::provider(), given)
        }
        Ok("redis") => (evstore_redis::provider(), vec![("url", variable("EVSTORE_TEST_REDIS_URL"))]),
        Ok("dynamodb") => {
            let given = vec![
                ("endpoint", variable("EVSTORE_TEST_DYNAMODB_URL")),
                ("region", "local".into()),
                ("access_key_id", "AKIDEVSTORETEST".into()),
                ("secret_access_key", "not-looked-at".into()),
            ];
            (evstore_dynamodb::provider(), given)
        }
        Ok(other) => panic!("no tiered store is tested with {other} in front"),
    }
}

fn main() -> ExitCode {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (hot, given) = hot(folder.path());
    let given = given.into_iter().map(|(key, value)| (key.to_owned(), value));
    let store = StoreName::new("hot").expect("a fixed name is valid");
    let hot_settings = Settings::new(store, hot.keys, given).expect("the settings fit the provider's keys");
    let settings = match std::env::var("EVSTORE_TEST_TIERED_ARCHIVE").as_deref() {
        Ok("s3") => {
            let endpoint = variable("EVSTORE_TEST_S3_URL");
            let more = [
                ("endpoint", endpoint.as_str()),
                ("region", "us-east-1"),
                ("access_key_id", "AKIDEVSTORETEST"),
                ("secret_access_key", "not-looked-at"),
            ];
            let archive = format!("s3://evstore-test/tiered-{}", std::process::id());
            eager::settings(&hot, &hot_settings, &archive, &more)
        }
        _ => eager::settings(&hot, &hot_settings, &format!("file:{}", folder.path().join("archive").display()), &[]),
    };
    test_main(Target::new(eager::provider(hot), settings))
}
