//! `cargo xtask engine`: a throwaway engine for as long as a command runs, or until Enter.

use crate::engines::dynamodb::DynamoDb;
use crate::engines::pgbouncer::PgBouncer;
use crate::engines::postgres::{self, Postgres};
use crate::engines::redis::{self, Redis};
use crate::engines::s3::S3;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::io::Read;
use std::process::Command;

/// Starts a throwaway engine and gives its address to a command, as the tests have it.
#[derive(Args)]
pub struct Engine {
    /// Which one.
    kind: Kind,
    /// How Redis or Valkey is set up.
    #[arg(long, default_value = "always")]
    setup: redis::Setup,
    /// `name=value` settings of a Postgres server.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// What to run with its address in the environment; none prints the address and waits for the end of input.
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Valkey 9.
    Valkey,
    /// Redis 7, or what the distribution has.
    RedisDistribution,
    /// Postgres 18.
    Postgres,
    /// Postgres 15, or what the distribution has.
    PostgresDistribution,
    /// Postgres 18 behind a PgBouncer in transaction mode.
    Pgbouncer,
    /// dynoxide, which speaks as DynamoDB does.
    Dynamodb,
    /// ministack, which speaks as S3 and SQS do.
    S3,
}

impl Engine {
    /// Runs it.
    ///
    /// # Errors
    /// When the engine can't be had or does not start; when the command fails.
    pub fn run(self) -> Result<()> {
        match self.kind {
            Kind::Valkey => self.redis(redis::Release::Newest),
            Kind::RedisDistribution => self.redis(redis::Release::Distribution),
            Kind::Postgres => self.postgres(postgres::Release::Newest),
            Kind::PostgresDistribution => self.postgres(postgres::Release::Distribution),
            Kind::Pgbouncer => self.pgbouncer(),
            Kind::Dynamodb => {
                let engine = DynamoDb::start()?;
                with(&self.command, engine.environment())
            }
            Kind::S3 => {
                let engine = S3::start()?;
                with(&self.command, engine.environment())
            }
        }
    }

    fn redis(self, release: redis::Release) -> Result<()> {
        let servers = Redis::start(release, self.setup)?;
        with(&self.command, servers.environment()?)
    }

    fn postgres(self, release: postgres::Release) -> Result<()> {
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        let server = Postgres::start(release, &settings)?;
        with(&self.command, server.environment())
    }

    fn pgbouncer(self) -> Result<()> {
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        let pooler = PgBouncer::before(Postgres::start(postgres::Release::Newest, &settings)?)?;
        with(&self.command, [("EVSTORE_TEST_POSTGRES_URL", pooler.url()), ("EVSTORE_TEST_POSTGRES_POOLER", "true")])
    }
}

/// Runs a command with an engine's address, or prints it and waits.
fn with<K: Into<OsString>, V: Into<OsString>>(
    command: &[String],
    environment: impl IntoIterator<Item = (K, V)>,
) -> Result<()> {
    let environment: Vec<(OsString, OsString)> =
        environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let Some((program, arguments)) = command.split_first() else {
        for (name, value) in environment {
            println!("{}={}", name.display(), value.display());
        }
        // Until Enter, or until whoever started this closes its input.
        let _ = std::io::stdin().read(&mut [0])?;
        return Ok(());
    };
    let status = Command::new(program).args(arguments).envs(environment).status()?;
    if !status.success() {
        bail!("{program} failed ({status})");
    }
    Ok(())
}
