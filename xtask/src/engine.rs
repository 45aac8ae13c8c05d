//! `cargo xtask engine`: a throwaway engine for as long as a command runs, or until Enter.

use crate::engines::redis;
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
        }
    }

    fn redis(self, release: redis::Release) -> Result<()> {
        let servers = redis::Redis::start(release, self.setup)?;
        with(&self.command, servers.environment()?)
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
