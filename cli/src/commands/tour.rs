//! `evstore tour`.

use crate::failure::Result;
use crate::session::Session;
use std::path::PathBuf;

/// What `tour` takes.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  evstore tour\n  evstore tour --dir /tmp/evstore-tour")]
pub struct Args {
    /// The folder to work in.
    #[arg(long, value_name = "DIR", default_value = "evstore-tour")]
    dir: PathBuf,
}

/// Shows it.
///
/// # Errors
/// As its steps.
pub async fn run(args: Args, session: &mut Session) -> Result {
    let _ = (args, session);
    Ok(())
}
