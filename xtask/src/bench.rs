//! `cargo xtask bench`: each store beside its engine's own floor, on an engine that is started for it; or all of them beside each other.

use crate::engines::{dynamodb, postgres, redis};
use crate::run::{cargo, evstore_release, root, run};
use crate::setup::{Setup, Shown};
use anyhow::Result;
use clap::{Args, ValueEnum};
use std::process::Command;

/// What is compared: every engine, the ways in which one keeps what it acknowledges, and DynamoDB's designs beside each other.
const COMPARED: [(&str, Setup); 13] = [
    ("memory", Setup::Memory),
    ("sqlite", Setup::Sqlite),
    ("postgres", Setup::Postgres(postgres::Release::Newest)),
    ("valkey", Setup::Redis(redis::Release::Newest, redis::Setup::Always, "")),
    ("everysec", Setup::Redis(redis::Release::Newest, redis::Setup::EverySecond, "")),
    ("sentinel", Setup::Redis(redis::Release::Newest, redis::Setup::Sentinel, "")),
    ("dynamodb", Setup::DynamoDb("")),
    ("transactional", Setup::DynamoDb("feed=transactional")),
    ("sharded", Setup::DynamoDb("feed=sharded-index;settling=200ms")),
    ("queue", Setup::DynamoDb("feed=sqs-fifo")),
    ("uncompressed", Setup::DynamoDb("compression=none")),
    ("interleaved", Setup::DynamoDb("snapshots=interleaved")),
    ("s3", Setup::S3),
];

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
    /// What a move costs, between files and a Postgres, and from DynamoDB with a sequencer.
    Moves,
    /// How fast the incident log is archived, out of a file into a folder, and what it takes there.
    Archive,
    /// Every store beside the others, by `evstore compare`, in under fifteen minutes: the report goes to a new folder below
    /// evstore-compare. Arguments are passed on: `-- --only append`, say.
    Compare,
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
                let tables = dynamodb::DynamoDb::start()?;
                let arguments = ["bench", "-p", "evstore", "--features", "postgres,dynamodb", "--bench", "moves", "--"];
                let mut command = cargo(&arguments);
                command.envs(server.environment()).envs(tables.environment());
                run("moves", command.args(self.arguments))
            }
            Provider::Archive => {
                run("the archive", cargo(&["bench", "-p", "evstore-tiered", "--"]).args(self.arguments))
            }
            Provider::Compare => {
                let evstore = evstore_release()?;
                let shown = Shown::start(&COMPARED)?;
                let mut command = Command::new(evstore);
                shown.tell(&mut command);
                command.current_dir(root()).arg("-c").arg(shown.folder().join("evstore.toml")).arg("compare");
                for failover in shown.failovers() {
                    command.args(["--failover", failover]);
                }
                run("every store", command.args(self.arguments))
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
