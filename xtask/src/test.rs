//! `cargo xtask test`: the steps of the plan, with a seed, a time budget, and a memory of what is done.

use crate::plan::{Lane, Run, STEPS, Step};
use crate::run::target;
use anyhow::{Result, bail};
use clap::Args;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// Builds and runs the tests, up to the first step that fails: what it printed then stands at the end.
#[derive(Args)]
pub struct Test {
    /// Everything, long runs too, whatever fails on the way. Stopped and started again with the same seed, it goes on where it stopped.
    #[arg(long)]
    all: bool,
    /// Only the steps that have this in their name, long ones too.
    #[arg(long, value_name = "TEXT", conflicts_with = "all")]
    only: Option<String>,
    /// Minutes after which no further step is begun, and no further pair of stores moved. What was not run is listed, and the command fails.
    #[arg(long, value_name = "MINUTES")]
    budget: Option<u64>,
    /// Seed of every random choice; drawn and printed when not given.
    #[arg(long)]
    seed: Option<u64>,
}

impl Test {
    /// Runs the steps.
    ///
    /// # Errors
    /// When a step fails or is not run.
    pub fn run(self) -> Result<()> {
        let now = SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let seed = self.seed.unwrap_or(now.as_secs());
        println!("seed {seed}");
        let started = Instant::now();
        let budget = self.budget.map(|minutes| Duration::from_secs(minutes * 60));
        let run = Run { seed, until: budget.map(|budget| SystemTime::now() + budget) };
        let mut done = Done::of(self.all, seed)?;
        let mut failed = Vec::new();
        let wanted = |step: &&Step| match &self.only {
            Some(only) => step.name.contains(only.as_str()),
            None => self.all || step.lane == Lane::Always,
        };
        let steps: Vec<_> = STEPS.iter().filter(wanted).collect();
        if steps.is_empty() {
            let names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
            bail!("no step has that in its name; the steps are:\n  {}", names.join("\n  "));
        }
        for step in steps {
            if done.has(step.name) {
                println!("\n== {}: done before, with the same seed", step.name);
            } else if budget.is_some_and(|budget| started.elapsed() >= budget) {
                failed.push(format!("not run, the budget is spent: {}", step.name));
            } else if !self.all && !failed.is_empty() {
                failed.push(format!("not run, a step before failed: {}", step.name));
            } else {
                match (step.run)(run) {
                    Ok(()) => done.add(step.name)?,
                    Err(error) => failed.push(format!("{error:#}")),
                }
            }
        }
        if !failed.is_empty() {
            bail!("seed {seed}:\n  {}", failed.join("\n  "));
        }
        println!("\nall steps passed in {} s, seed {seed}", started.elapsed().as_secs());
        Ok(())
    }
}

/// The steps of a long run that are done; a short run remembers nothing.
struct Done {
    file: Option<PathBuf>,
    names: BTreeSet<String>,
}

impl Done {
    fn of(all: bool, seed: u64) -> Result<Self> {
        if !all {
            return Ok(Self { file: None, names: BTreeSet::new() });
        }
        let folder = target().join("xtask");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(format!("done-{seed}"));
        let names = std::fs::read_to_string(&file).unwrap_or_default().lines().map(str::to_owned).collect();
        Ok(Self { file: Some(file), names })
    }

    fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    fn add(&mut self, name: &str) -> Result<()> {
        self.names.insert(name.to_owned());
        if let Some(file) = &self.file {
            std::fs::write(file, self.names.iter().map(|name| format!("{name}\n")).collect::<String>())?;
        }
        Ok(())
    }
}
