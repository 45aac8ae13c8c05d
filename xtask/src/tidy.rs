//! `cargo xtask tidy`: what has to be in order besides the tests.

use crate::run::{EVERYTHING, cargo, run};
use crate::{docs, licences, readme};
use anyhow::Result;
use clap::Args;
use std::process::Command;

/// Features that are built alone, so that none leans on another by accident: in the command, which hands each on to the library and
/// adds nothing to it; and none.
const ALONE: &[&str] = &[
    "",
    "evstore-cli/memory",
    "evstore-cli/sqlite",
    "evstore-cli/postgres",
    "evstore-cli/redis",
    "evstore-cli/dynamodb",
    "evstore-cli/sqs",
    "evstore-cli/s3",
    "evstore-cli/tiered",
];

/// What has to be in order besides the tests.
#[derive(Args)]
pub struct Tidy {
    /// Changes nothing; fails where something would change.
    #[arg(long)]
    check: bool,
}

impl Tidy {
    /// Looks at everything.
    ///
    /// # Errors
    /// At the first thing that is not in order.
    pub fn run(self) -> Result<()> {
        let check: &[&str] = if self.check { &["--", "--check"] } else { &[] };
        run("formatting", cargo(&["fmt", "--all"]).args(check))?;
        let everything = ["--all-targets", "--features", EVERYTHING];
        run("lints", &mut clippy(&everything))?;
        // Examples are named so that all is built on what the lints have compiled: without them, cargo leaves out what tests ask of it.
        let mut documented = cargo(&["doc", "--workspace", "--lib", "--bins", "--examples", "--no-deps"]);
        documented.args(["--document-private-items", "--quiet", "--features", EVERYTHING]);
        run("documentation", documented.env("RUSTDOCFLAGS", "--deny warnings"))?;
        for feature in ALONE {
            // The whole workspace, so that it is built on what the lints have compiled; `features_alone` does without.
            let alone = ["--lib", "--bins", "--examples", "--no-default-features", "--features", feature];
            run("a feature alone", &mut clippy(&alone))?;
        }
        licences::check()?;
        if self.check {
            docs::check()?
        } else {
            docs::write()?
        }
        readme::check()
    }
}

fn clippy(arguments: &[&str]) -> Command {
    let mut command = cargo(&["clippy", "--workspace", "--quiet"]);
    command.args(arguments).args(["--", "--deny", "warnings"]);
    command
}

/// Builds the library and the command with each feature alone, and with nothing that another crate of the workspace asks of the crates
/// that they depend on: as whoever depends on them has it.
///
/// # Errors
/// When one does not build.
pub fn features_alone() -> Result<()> {
    for feature in ALONE {
        let check = ["check", "--quiet", "-p", "evstore", "-p", "evstore-cli", "--no-default-features", "--features"];
        run("a feature alone, and its dependencies", cargo(&check).arg(feature))?;
    }
    Ok(())
}
