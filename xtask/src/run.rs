//! Starting programs, loudly: what is run is printed first, and a failure names it.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

/// A cargo command in the workspace's root.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    // What `cargo run` told this program of itself is not true of what it starts, and build scripts that look at it would run again.
    let told = std::env::vars_os().map(|(name, _)| name);
    for name in told.filter(|name| name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR") {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end and prints how long it took.
///
/// # Errors
/// When it can't be started or does not succeed.
pub fn run(what: &str, command: &mut Command) -> Result<()> {
    let line = line(command);
    println!("\n== {what}: {line}");
    let started = Instant::now();
    let status = command.status().with_context(|| format!("{what}: {line} could not be started"))?;
    println!("== {what}: {} s", started.elapsed().as_secs());
    if !status.success() {
        bail!("{what} failed ({status}): {line}");
    }
    Ok(())
}

/// The same beside others: what it prints is shown in one piece, once it has ended.
///
/// # Errors
/// As [`run`].
pub fn run_apart(what: &str, command: &mut Command) -> Result<()> {
    let line = line(command);
    let started = Instant::now();
    let output = command.output().with_context(|| format!("{what}: {line} could not be started"))?;
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("\n== {what}: {line}\n{said}{errors}== {what}: {} s", started.elapsed().as_secs());
    if !output.status.success() {
        bail!("{what} failed ({}): {line}", output.status);
    }
    Ok(())
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// What a command prints.
///
/// # Errors
/// When it can't be started, does not succeed, or prints other than UTF-8.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?} could not be started"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The features of a build that has everything, as CI's and a release's have.
pub const FULL: &str = "evstore-cli/full";

/// The same, and the tests that need an engine.
pub const EVERYTHING: &str = "evstore-cli/full,evstore-cli/engine-tests,evstore-postgres/engine-tests,evstore-redis/engine-tests,evstore-dynamodb/engine-tests,evstore-s3/engine-tests,evstore-tiered/engine-tests";

/// The `evstore` command, built with every feature that this release has, in one build with the tests: for itself alone it would have
/// other features of what it depends on, and all of that would be compiled twice.
///
/// # Errors
/// When it does not build.
pub fn evstore() -> Result<PathBuf> {
    let build = ["build", "--quiet", "--workspace", "--bins", "--tests", "--features", EVERYTHING];
    run("build the command, and the tests", &mut cargo(&build))?;
    Ok(target().join("debug").join(format!("evstore{}", std::env::consts::EXE_SUFFIX)))
}

/// The same, built for speed.
///
/// # Errors
/// When it does not build.
pub fn evstore_release() -> Result<PathBuf> {
    run(
        "build the command",
        &mut cargo(&["build", "--quiet", "--release", "--package", "evstore-cli", "--features", FULL]),
    )?;
    Ok(target().join("release").join(format!("evstore{}", std::env::consts::EXE_SUFFIX)))
}

/// The folder that cargo builds into.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
