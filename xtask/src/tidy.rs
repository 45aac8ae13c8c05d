//! `cargo xtask tidy`: what has to be in order besides the tests.

use crate::run::{EVERYTHING, cargo, run};
use crate::{docs, licences, readme};
use anyhow::Result;
use clap::Args;

/// Features that are built alone, so that none leans on another by accident: in the command, which hands each on to the library and
/// adds nothing to it.
const ALONE: &[&str] = &["memory", "sqlite", "postgres", "redis", "dynamodb", "s3", "tiered"];

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
        let everything = ["clippy", "--workspace", "--all-targets", "--quiet", "--features", EVERYTHING];
        run("lints", cargo(&everything).args(["--", "--deny", "warnings"]))?;
        // With the features of the lints, which have compiled all that it is built on.
        let documented =
            ["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet", "--features", EVERYTHING];
        run("documentation", cargo(&documented).env("RUSTDOCFLAGS", "--deny warnings"))?;
        // Nothing of these checks runs: SQLite, which is C and compiled all the same, need not be fast.
        let slow_sqlite = "profile.dev.package.libsqlite3-sys.opt-level=0";
        let alone = [
            "check",
            "--quiet",
            "--config",
            slow_sqlite,
            "-p",
            "evstore",
            "-p",
            "evstore-cli",
            "--no-default-features",
        ];
        run("no feature", &mut cargo(&alone))?;
        for feature in ALONE {
            run("a feature alone", cargo(&alone).arg("--features").arg(format!("evstore-cli/{feature}")))?;
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
