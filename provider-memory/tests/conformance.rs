//! The memory provider is held to the whole catalog.

use evstore_api::{Settings, StoreName};
use evstore_conformance::{Target, test_main};
use std::process::ExitCode;

fn main() -> ExitCode {
    let provider = evstore_memory::provider();
    let store = StoreName::new("memory").expect("a fixed name is valid");
    let settings = Settings::new(store, provider.keys, []).expect("every key has a default");
    test_main(Target::new(provider, settings))
}
