//! `evstore man`: the manual page, all commands in one.

use crate::args::Cli;
use crate::failure::{Failure, Result};
use crate::session::Session;
use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use serde_json::json;
use std::io::{self, Write as _};

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
    session.output().text(&json!({ "man": page }), &page)
}

fn page() -> io::Result<String> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    add_subcommands(&command, &mut page)?;
    Ok(String::from_utf8_lossy(&page).lines().map(in_this_page).collect())
}

/// Lists of commands name a page for each, and there is one page: `evstore\-read(1)` becomes `evstore read`.
fn in_this_page(line: &str) -> String {
    match line.strip_suffix("(1)").filter(|line| line.starts_with("evstore\\-")) {
        Some(name) => format!("{}\n", name.replace("\\-", " ")),
        None => format!("{line}\n"),
    }
}

/// Each command under a heading of its own, those below it behind it.
fn add_subcommands(command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|one| !one.is_hide_set() && one.get_name() != "help") {
        let name = subcommand.get_bin_name().unwrap_or_else(|| subcommand.get_name()).to_uppercase();
        let man = Man::new(subcommand.clone());
        let mut sections = Vec::new();
        man.render_synopsis_section(&mut sections)?;
        man.render_description_section(&mut sections)?;
        // The flags of every command stand at the beginning of the page.
        if subcommand.get_arguments().any(|argument| !argument.is_global_set() && argument.get_id() != "help") {
            man.render_options_section(&mut sections)?;
        }
        if subcommand.has_subcommands() {
            man.render_subcommands_section(&mut sections)?;
        }
        man.render_extra_section(&mut sections)?;
        // Sections of a page become those of the command.
        let sections = format!("\n{}", String::from_utf8_lossy(&sections)).replace("\n.SH ", "\n.SS ");
        write!(page, ".SH \"{name}\"{sections}")?;
        add_subcommands(subcommand, page)?;
    }
    Ok(())
}
