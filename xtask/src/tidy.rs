//! `cargo xtask tidy`: what has to be in order besides the tests.

use crate::run::{EVERYTHING, cargo, run};
use crate::{docs, licences, readme};
use anyhow::Result;
use clap::Args;

/// Features that are built alone, so that none leans on another by accident.
const ALONE: &[(&str, &[&str])] = &[
    ("evstore", &["memory", "sqlite", "postgres", "redis", "dynamodb", "s3"]),
    ("evstore-cli", &["memory", "sqlite", "postgres", "redis", "dynamodb", "s3"]),
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
        let everything = ["clippy", "--workspace", "--all-targets", "--quiet", "--features", EVERYTHING];
        run("lints", cargo(&everything).args(["--", "--deny", "warnings"]))?;
        run(
            "documentation",
            cargo(&["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"])
                .env("RUSTDOCFLAGS", "--deny warnings"),
        )?;
        for (package, features) in ALONE {
            run("no feature", &mut cargo(&["check", "--quiet", "-p", package, "--no-default-features"]))?;
            for feature in *features {
                let arguments = ["check", "--quiet", "-p", package, "--no-default-features", "--features", feature];
                run("a feature alone", &mut cargo(&arguments))?;
            }
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
