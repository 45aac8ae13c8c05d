//! The SQLite provider is held to the whole catalog, other processes included.

use evstore_api::{Settings, StoreName};
use evstore_conformance::{Target, test_main};
use std::process::ExitCode;

fn main() -> ExitCode {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let provider = evstore_sqlite::provider();
    let store = StoreName::new("sqlite").expect("a fixed name is valid");
    let path = folder.path().join("live.db").display().to_string();
    let settings = Settings::new(store, provider.keys, [("path".into(), path)]).expect("a path is all it needs");
    test_main(Target::new(provider, settings))
}
