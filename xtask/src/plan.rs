//! What there is to test, as data: steps, the lane that each belongs to, and the engines that each needs.

use crate::engines::postgres::{Postgres, Release};
use crate::run::{cargo, evstore, evstore_release, root, run, target};
use anyhow::{Result, ensure};
use std::process::Command;

/// When a step is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Always: on every change.
    Always,
    /// With `--all`: long, resumable, before a release.
    All,
}

/// Something whose success shows something.
pub struct Step {
    /// What it shows.
    pub name: &'static str,
    /// When it is run.
    pub lane: Lane,
    /// Does it, given the seed of the run.
    pub run: fn(seed: u64) -> Result<()>,
}

/// Every step, in the order of running. Engines that a later provider needs are started by its own steps.
pub const STEPS: &[Step] = &[
    Step { name: "unit, integration and catalog tests", lane: Lane::Always, run: |_| tests() },
    Step { name: "examples in the documentation", lane: Lane::Always, run: |_| doc_tests() },
    // Postgres and Redis are being built: until they hold the whole catalog they stop nobody's change.
    Step { name: "Postgres 18, the catalog and accidents", lane: Lane::All, run: |_| postgres(Release::Newest) },
    Step { name: "Postgres 15, the same", lane: Lane::All, run: |_| postgres(Release::Distribution) },
    Step { name: "the catalog from the command line", lane: Lane::Always, run: |seed| catalog(seed, 100) },
    Step { name: "a third party's provider, from outside", lane: Lane::Always, run: |_| own_provider() },
    Step { name: "the catalog with ten times the rounds", lane: Lane::All, run: |seed| catalog(seed, 1000) },
    Step { name: "kill -9 of an appending process, 100 times", lane: Lane::All, run: kill },
    Step { name: "the whole incident log, there and back", lane: Lane::All, run: |_| incidents() },
];

/// `cargo nextest` where it is there, because it shows each test by itself; else `cargo test`, which needs nothing.
fn tests() -> Result<()> {
    let nextest = cargo(&["nextest", "--version"]).output().is_ok_and(|output| output.status.success());
    let arguments: &[&str] = if nextest {
        &["nextest", "run", "--workspace", "--no-fail-fast"]
    } else {
        &["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"]
    };
    run("tests", &mut cargo(arguments))
}

fn doc_tests() -> Result<()> {
    run("examples in the documentation", &mut cargo(&["test", "--workspace", "--doc", "--quiet"]))
}

/// The Postgres provider on a server of its own, or on the one that `EVSTORE_TEST_POSTGRES_URL` names.
fn postgres(release: Release) -> Result<()> {
    const URL: &str = "EVSTORE_TEST_POSTGRES_URL";
    let mut command = cargo(&["test", "--no-fail-fast", "-p", "evstore-postgres", "--features", "engine-tests"]);
    if std::env::var_os(URL).is_some() {
        return run("Postgres", &mut command);
    }
    // Orphan prepared transactions are among the accidents.
    let server = Postgres::start(release, &["max_prepared_transactions=10"])?;
    run("Postgres", command.envs(server.environment()))
}

/// Both embedded stores held to the catalog by the command that a user types. What was not run is listed by it.
fn catalog(seed: u64, effort: u64) -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("evstore.toml"), EMBEDDED)?;
    let reports = target().join("conformance");
    std::fs::create_dir_all(&reports)?;
    for store in ["embedded", "memory"] {
        let mut command = Command::new(evstore()?);
        let report = reports.join(format!("{store}.json"));
        command.current_dir(folder.path()).args(["conformance", store, "--seed", &seed.to_string()]);
        command.args(["--effort", &effort.to_string(), "--report"]).arg(report);
        run("the catalog from the command line", &mut command)?;
    }
    Ok(())
}

/// A config file with the stores that need nothing.
const EMBEDDED: &str = r#"
[stores.embedded]
provider = "sqlite"
path = "embedded.db"
[stores.restored]
provider = "sqlite"
path = "restored.db"
[stores.memory]
provider = "memory"
"#;

/// A workspace of its own, as a third party has it, in the same target folder: the dependencies are the same.
fn own_provider() -> Result<()> {
    let mut command = cargo(&["test", "--quiet"]);
    command.current_dir(root().join("examples/own-provider")).env("CARGO_TARGET_DIR", target());
    run("a third party's provider", &mut command)
}

fn kill(seed: u64) -> Result<()> {
    let arguments =
        ["run", "--release", "-p", "evstore-sqlite", "--example", "kill9", "--", "--rounds", "100", "--seed"];
    run("kill -9", cargo(&arguments).arg(seed.to_string()))
}

/// Imports the incident log, imports it again, exports, restores into a second store, and compares its export.
fn incidents() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("evstore.toml"), EMBEDDED)?;
    let evstore = evstore_release()?;
    let log = root().join("cli/data/incidents.jsonl.gz");
    let log = log.to_str().expect("the workspace's path is text");
    for arguments in [
        ["-s", "embedded", "import", log],
        ["-s", "embedded", "import", log],
        ["-s", "embedded", "export", "first.jsonl"],
        ["-s", "restored", "import", "first.jsonl"],
        ["-s", "restored", "export", "second.jsonl"],
        ["-s", "restored", "verify", "restored"],
    ] {
        run("the incident log", Command::new(&evstore).args(arguments).current_dir(folder.path()))?;
    }
    let read = |name: &str| std::fs::read(folder.path().join(name));
    ensure!(read("first.jsonl")? == read("second.jsonl")?, "the restored store's export differs");
    Ok(())
}
