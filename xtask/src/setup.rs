//! Set-ups of stores: an engine that is started for each, and a config file that names it. Addresses go by the environment, so that
//! nothing of them is written down.

use crate::engines::{dynamodb, pgbouncer, postgres, redis, s3};
use anyhow::Result;
use std::any::Any;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Orphan prepared transactions are among the accidents on Postgres.
pub const PREPARED: [&str; 1] = ["max_prepared_transactions=10"];

/// What takes longer to start is said.
const SLOW: Duration = Duration::from_secs(2);

/// How a store is set up.
#[derive(Clone, Copy)]
pub enum Setup {
    /// In memory.
    Memory,
    /// In a file.
    Sqlite,
    /// On a Postgres server.
    Postgres(postgres::Release),
    /// On a Postgres server behind a PgBouncer in transaction mode.
    PgBouncer(postgres::Release),
    /// On Redis servers, with these settings besides: `key=value`, separated by semicolons.
    Redis(redis::Release, redis::Setup, &'static str),
    /// On a local engine that speaks as DynamoDB does, with these settings besides, as above; and one that speaks as SQS does where they
    /// ask for a queue.
    DynamoDb(&'static str),
    /// On a local engine that speaks as S3 does.
    S3,
}

impl Setup {
    /// A name for its report.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Memory => "memory".into(),
            Self::Sqlite => "sqlite".into(),
            Self::Postgres(release) => format!("postgres-{release:?}").to_lowercase(),
            Self::PgBouncer(release) => format!("postgres-{release:?}-pgbouncer").to_lowercase(),
            Self::Redis(release, setup, more) => {
                let name = format!("redis-{release:?}-{setup:?}-{}", more.replace('=', "-"));
                name.trim_end_matches('-').to_lowercase()
            }
            Self::DynamoDb(more) => {
                format!("dynamodb-{}", more.replace(['=', ';'], "-")).trim_end_matches('-').to_owned()
            }
            Self::S3 => "s3".into(),
        }
    }

    fn provider(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite",
            Self::Postgres(_) | Self::PgBouncer(_) => "postgres",
            Self::Redis(..) => "redis",
            Self::DynamoDb(_) => "dynamodb",
            Self::S3 => "s3",
        }
    }
}

/// Stores that a command is shown, by a config file in a folder of their own; their engines are stopped when this is dropped.
pub struct Shown {
    // Before the folder, so that nothing runs any more when that is removed.
    _engines: Vec<Box<dyn Any>>,
    variables: Vec<(String, String)>,
    failovers: Vec<String>,
    folder: TempDir,
}

impl Shown {
    /// Starts an engine for each store that needs one.
    ///
    /// # Errors
    /// When one can't be had or does not start, saying what to install.
    pub fn start(stores: &[(&str, Setup)]) -> Result<Self> {
        let mut shown =
            Self { _engines: Vec::new(), variables: Vec::new(), failovers: Vec::new(), folder: tempfile::tempdir()? };
        let mut config = String::new();
        for (store, setup) in stores {
            let started = Instant::now();
            write!(config, "[stores.{store}]\nprovider = \"{}\"\n", setup.provider())?;
            match *setup {
                Setup::Memory => {}
                Setup::Sqlite => writeln!(config, "path = \"{store}.db\"")?,
                Setup::Postgres(release) => {
                    let engine = postgres::Postgres::start(release, &PREPARED)?;
                    shown.set(store, "url", engine.url());
                    shown._engines.push(Box::new(engine));
                    writeln!(config, "auto_create = true")?;
                }
                Setup::PgBouncer(release) => {
                    let engine = pgbouncer::PgBouncer::before(postgres::Postgres::start(release, &PREPARED)?)?;
                    shown.set(store, "url", engine.url());
                    shown._engines.push(Box::new(engine));
                    writeln!(config, "auto_create = true\ntransaction_pooler = true")?;
                }
                Setup::Redis(release, topology, more) => {
                    let engine = redis::Redis::start(release, topology)?;
                    shown.set(store, "url", engine.url());
                    for pair in [engine.settings(), more].iter().flat_map(|pairs| pairs.split(';')) {
                        if let Some((key, value)) = pair.split_once('=') {
                            shown.set(store, key, value);
                        }
                    }
                    shown.failovers.extend(engine.failover().map(|command| format!("{store}={command}")));
                    shown._engines.push(Box::new(engine));
                    writeln!(config, "auto_create = true")?;
                }
                Setup::DynamoDb(more) => {
                    let engine = dynamodb::DynamoDb::start()?;
                    shown.set(store, "endpoint", engine.url());
                    for (key, value) in dynamodb::DynamoDb::settings() {
                        shown.set(store, key, value);
                    }
                    for (key, value) in more.split(';').filter_map(|pair| pair.split_once('=')) {
                        shown.set(store, key, value);
                    }
                    // The engine has no queues.
                    if more.contains("feed=sqs-fifo") {
                        let queues = s3::S3::start()?;
                        shown.set(store, "queue_endpoint", queues.url());
                        shown._engines.push(Box::new(queues));
                    }
                    shown._engines.push(Box::new(engine));
                    writeln!(config, "auto_create = true")?;
                }
                Setup::S3 => {
                    let engine = s3::S3::start()?;
                    shown.set(store, "endpoint", engine.url());
                    for (key, value) in s3::S3::settings() {
                        shown.set(store, key, value);
                    }
                    shown._engines.push(Box::new(engine));
                    writeln!(config, "auto_create = true")?;
                }
            }
            if started.elapsed() > SLOW {
                println!("== start {}: {} s", setup.name(), started.elapsed().as_secs());
            }
        }
        std::fs::write(shown.folder.path().join("evstore.toml"), config)?;
        Ok(shown)
    }

    fn set(&mut self, store: &str, key: &str, value: &str) {
        let variable = format!("EVSTORE_STORES__{}__{}", store.to_uppercase(), key.to_uppercase());
        self.variables.push((variable, value.to_owned()));
    }

    /// Tells a command where the engines are.
    pub fn tell(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(variable, value)| (variable, value)));
    }

    /// What provokes a failover, of each store that has another machine: `STORE=COMMAND`.
    #[must_use]
    pub fn failovers(&self) -> &[String] {
        &self.failovers
    }

    /// Where the config file lies.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
