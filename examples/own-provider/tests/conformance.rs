//! The provider is held to the whole catalog: one test for each check.

use evstore_api::{Settings, StoreName};
use evstore_conformance::{Target, test_main};
use std::process::ExitCode;

fn main() -> ExitCode {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let provider = own_provider::provider();
    let given = [("folder", folder.path().display().to_string()), ("tenant", "acme".to_owned())];
    let given = given.map(|(key, value)| (key.to_owned(), value));
    let settings = Settings::new(StoreName::new("own").expect("a name"), provider.keys, given).expect("settings");
    test_main(Target::new(provider, settings))
}
