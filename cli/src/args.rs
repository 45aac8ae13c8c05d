//! The command line as clap understands it: the flags that every command takes, and the commands.

#[cfg(feature = "tiered")]
use crate::commands::archive;
use crate::commands::{
    append, checkpoint, compare, completions, config, conformance, doctor, estimate, export, feed, generate, import,
    init, man, migrate, nodes, profile, providers, read, schema, sequencer, snapshot, stream, tour, verify,
};
use crate::exit;
use crate::output::Format;
use clap::{Args, Parser, Subcommand};
use evstore_api::{Error, Namespace, StoreName};
use std::path::PathBuf;

/// An event store, chosen in a config file.
#[derive(Debug, Parser)]
#[command(
    name = "evstore",
    version,
    about = "Event stores behind one contract: append, read, follow, prove",
    long_about = "Event stores behind one contract.\n\nWhich store a command works on is chosen in a config file \
                  (evstore.toml); the same commands run on every kind of store. `evstore tour` shows it all in a minute.",
    after_help = "Start with:\n  evstore tour                     see everything once, on a store of its own\n  \
                  evstore init                     write a commented evstore.toml\n  \
                  evstore append order-1 --type placed --data '{\"sum\": 7}'\n  evstore read order-1",
    after_long_help = format!(
        "Start with:\n  evstore tour                     see everything once, on a store of its own\n  \
         evstore init                     write a commented evstore.toml\n  \
         evstore append order-1 --type placed --data '{{\"sum\": 7}}'\n  evstore read order-1\n\n{}",
        exit::HELP
    ),
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 110
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub globals: Globals,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes, before it or after it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Flags of every command")]
pub struct Globals {
    /// The config file; else $EVSTORE_CONFIG, ./evstore.toml, the user's config folder.
    #[arg(short = 'c', long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The store, by its name in the config file; else its default_store.
    #[arg(short = 's', long, global = true, value_name = "STORE")]
    pub store: Option<String>,
    /// How to print results. Errors are one JSON object on stderr with json and jsonl.
    #[arg(short = 'o', long, global = true, value_name = "FORMAT", value_enum, default_value = "table")]
    pub output: Format,
    /// Say nothing but results and errors.
    #[arg(short = 'q', long, global = true)]
    pub quiet: bool,
    /// Do not ask.
    #[arg(short = 'y', long, global = true)]
    pub yes: bool,
    /// The namespace of streams. Lists and feeds cover all where it is not given; import takes it for lines of a log that
    /// name none. Export, verify and a restore are of whole stores and refuse it.
    #[arg(long, global = true, value_name = "NAMESPACE")]
    pub namespace: Option<Namespace>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show everything once: a store, a real log, the catalog, a store that breaks a promise, and a move.
    Tour(tour::Args),
    /// Write a commented config file.
    Init(init::Args),
    /// Look for what is wrong with the config, the stores and their surroundings.
    Doctor(doctor::Args),
    /// List the kinds of stores and what they promise.
    Providers(providers::Args),
    /// Show or check the config.
    Config(config::Args),
    /// Plan, apply, check or print the schema of a store.
    Schema(schema::Args),
    /// Append a commit of one or more events to a stream.
    Append(append::Args),
    /// Read the events of a stream.
    Read(read::Args),
    /// Read the feed over all streams, and follow it.
    Feed(feed::Args),
    /// List streams, show, truncate or delete one.
    Stream(stream::Args),
    /// List, show or delete snapshots.
    Snapshot(snapshot::Args),
    /// List, show, set or delete the checkpoints of consumers.
    Checkpoint(checkpoint::Args),
    /// Give what was appended its place in the feed, where appends do not.
    Sequencer(sequencer::Args),
    /// Write everything in a store to a file.
    Export(export::Args),
    /// Append a log, or restore an export into an empty store.
    Import(import::Args),
    /// Read a whole store and prove that it is complete and unchanged.
    Verify(verify::Args),
    /// Move a running system to another store, with a way back.
    Migrate(migrate::Args),
    /// Move cold commits into an archive behind a store, and look after it.
    #[cfg(feature = "tiered")]
    Archive(archive::Args),
    /// List the processes that use a store, and whether they know where it may be moved to.
    Nodes(nodes::Args),
    /// Hold stores to the catalog of promises.
    Conformance(conformance::Args),
    /// Measure stores side by side: the same workloads against each, and what they promise.
    Compare(compare::Args),
    /// Write a workload file that is like a live store, without its payloads.
    Profile(profile::Args),
    /// Price a month of what a store holds, by a dated price file.
    Estimate(estimate::Args),
    /// Print a completion script for a shell.
    Completions(completions::Args),
    /// Print the manual page.
    Man(man::Args),
    /// Print a generated part of a page.
    #[command(hide = true)]
    Generate(generate::Args),
    /// A process that a check started.
    #[command(name = "conformance-worker", hide = true)]
    ConformanceWorker,
    /// What a process does that a comparison starts and kills.
    #[command(name = "compare-worker", hide = true)]
    CompareWorker,
}

/// Reads the name of a store.
///
/// # Errors
/// `Invalid` for what can't be one.
pub fn store_name(text: &str) -> Result<StoreName, Error> {
    StoreName::new(text)
}
