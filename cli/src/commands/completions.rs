//! `evstore completions`: what a shell needs to complete our commands.

use crate::args::Cli;
use crate::failure::Result;
use crate::session::Session;
use clap::CommandFactory as _;
use clap_complete::Shell;
use serde_json::json;

/// What `completions` takes.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  evstore completions bash > /etc/bash_completion.d/evstore\n  \
                        evstore completions zsh > ~/.zfunc/_evstore\n  \
                        evstore completions fish > ~/.config/fish/completions/evstore.fish")]
pub struct Args {
    /// The shell.
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// When stdout can't be written.
pub fn run(args: &Args, session: &mut Session) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "evstore", &mut script);
    let script = String::from_utf8_lossy(&script);
    session.output().text(&json!({ "shell": args.shell.to_string(), "script": script }), &script)
}
