//! The commands, a file for each.

pub mod append;
#[cfg(feature = "tiered")]
pub mod archive;
pub mod checkpoint;
pub mod compare;
pub mod completions;
pub mod config;
pub mod conformance;
pub mod doctor;
pub mod estimate;
pub mod export;
pub mod feed;
pub mod generate;
pub mod import;
pub mod init;
pub mod man;
pub mod migrate;
pub mod nodes;
pub mod profile;
pub mod providers;
pub mod read;
pub mod schema;
pub mod sequencer;
pub mod snapshot;
pub mod stream;
pub mod tour;
pub mod verify;

use crate::args::Command;
use crate::failure::Result;
use crate::session::Session;

/// Runs a command.
pub async fn run(command: Command, session: &mut Session) -> Result {
    match command {
        Command::Tour(args) => tour::run(args, session).await,
        Command::Init(args) => init::run(&args, session),
        Command::Doctor(args) => doctor::run(args, session).await,
        Command::Providers(args) => providers::run(args, session).await,
        Command::Config(args) => config::run(args, session),
        Command::Schema(args) => schema::run(args, session).await,
        Command::Append(args) => append::run(args, session).await,
        Command::Read(args) => read::run(args, session).await,
        Command::Feed(args) => feed::run(args, session).await,
        Command::Stream(args) => stream::run(args, session).await,
        Command::Snapshot(args) => snapshot::run(args, session).await,
        Command::Checkpoint(args) => checkpoint::run(args, session).await,
        Command::Export(args) => export::run(args, session).await,
        Command::Import(args) => import::run(args, session).await,
        Command::Sequencer(args) => sequencer::run(args, session).await,
        Command::Verify(args) => verify::run(args, session).await,
        Command::Migrate(args) => migrate::run(args, session).await,
        #[cfg(feature = "tiered")]
        Command::Archive(args) => archive::run(args, session).await,
        Command::Nodes(args) => nodes::run(args, session).await,
        Command::Conformance(args) => conformance::run(args, session).await,
        Command::Compare(args) => compare::run(args, session).await,
        Command::Profile(args) => profile::run(args, session).await,
        Command::Estimate(args) => estimate::run(args, session).await,
        Command::Completions(args) => completions::run(&args, session),
        Command::Man(args) => man::run(&args, session),
        Command::Generate(args) => generate::run(&args, session).await,
        Command::ConformanceWorker => conformance::work(session).await,
        Command::CompareWorker => compare::work(session).await,
    }
}
