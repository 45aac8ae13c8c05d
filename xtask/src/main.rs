//! The project's own chores: `cargo xtask test`, `tidy`, `bench`, `docs`, `engine`.

#![allow(clippy::print_stdout, reason = "a chore talks to the person who started it")]

mod bench;
mod docs;
mod engine;
mod engines;
mod licences;
mod page;
mod plan;
mod readme;
mod run;
mod setup;
mod test;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's own chores.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Builds and runs the tests, on real engines; what the README and CI call.
    Test(test::Test),
    /// Formatting, lints, docs, features one by one, licences, generated pages, and the commands of the README.
    Tidy(tidy::Tidy),
    /// Measures a store beside its engine's own floor.
    Bench(bench::Bench),
    /// Writes the generated pages and tables anew.
    Docs,
    /// A throwaway engine for a command, or until Enter.
    Engine(engine::Engine),
}

fn main() -> Result<()> {
    match Arguments::parse().chore {
        Chore::Test(test) => test.run(),
        Chore::Tidy(tidy) => tidy.run(),
        Chore::Bench(bench) => bench.run(),
        Chore::Docs => docs::write(),
        Chore::Engine(engine) => engine.run(),
    }
}
