//! `evstore man`: the manual page, all commands in one.

use crate::args::Cli;
use crate::failure::{Failure, Result};
use crate::session::Session;
use clap::CommandFactory as _;
use clap_mangen::Man;
use std::io;

/// What `man` takes.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  evstore man | man -l -\n  evstore man > /usr/local/share/man/man1/evstore.1")]
pub struct Args {}

/// Prints the page.
///
/// # Errors
/// When stdout can't be written.
pub fn run(_: &Args, session: &mut Session) -> Result {
    let page = page().map_err(|cause| Failure::io("the manual page can't be made", cause))?;
    session.output().bytes(&page)?;
    session.output().flush()
}

fn page() -> io::Result<Vec<u8>> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    for subcommand in command.get_subcommands().filter(|one| !one.is_hide_set() && one.get_name() != "help") {
        let man = Man::new(subcommand.clone());
        // A subcommand has sections of its own here, not a page with a title.
        man.render_name_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
        if subcommand.has_subcommands() {
            man.render_subcommands_section(&mut page)?;
        }
        man.render_extra_section(&mut page)?;
    }
    Ok(page)
}
