//! `cargo xtask bench`: each store beside its engine's own floor, on an engine that is started for it.

use crate::engines::{dynamodb, postgres, redis};
use crate::run::{cargo, run};
use anyhow::Result;
use clap::{Args, ValueEnum};

/// Measures stores beside their engines' floors. Leave the machine alone meanwhile.
#[derive(Args)]
pub struct Bench {
    /// Which store.
    provider: Provider,
    /// Passed on to the benchmark: `--only appends`, say.
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Provider {
    Sqlite,
    Postgres,
    Redis,
    Dynamodb,
    /// What a move costs, between files and a Postgres.
    Moves,
    /// How fast the incident log is archived, out of a file into a folder, and what it takes there.
    Archive,
}

impl Bench {
    /// Builds, starts the engine, and measures.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn run(self) -> Result<()> {
        match self.provider {
            Provider::Sqlite => run("SQLite", cargo(&["bench", "-p", "evstore-sqlite", "--"]).args(self.arguments)),
            Provider::Postgres => {
                let server = postgres::Postgres::start(postgres::Release::Newest, &[])?;
                let mut command = cargo(&["bench", "-p", "evstore-postgres", "--"]);
                run("Postgres", command.envs(server.environment()).args(self.arguments))
            }
            Provider::Moves => {
                let server = postgres::Postgres::start(postgres::Release::Newest, &[])?;
                let mut command =
                    cargo(&["bench", "-p", "evstore", "--features", "postgres", "--bench", "moves", "--"]);
                run("moves", command.envs(server.environment()).args(self.arguments))
            }
            Provider::Archive => {
                run("the archive", cargo(&["bench", "-p", "evstore-tiered", "--"]).args(self.arguments))
            }
            Provider::Redis => {
                let server = redis::Redis::start(redis::Release::Newest, redis::Setup::Always)?;
                let mut command = cargo(&["bench", "-p", "evstore-redis", "--features", "engine-tests", "--"]);
                run("Redis", command.envs(server.environment()?).args(self.arguments))
            }
            Provider::Dynamodb => {
                let server = dynamodb::DynamoDb::start()?;
                let mut command = cargo(&["bench", "-p", "evstore-dynamodb", "--features", "engine-tests", "--"]);
                run("DynamoDB", command.envs(server.environment()).args(self.arguments))
            }
        }
    }
}
