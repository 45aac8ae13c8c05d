//! The command line of evstore, as a library: `evstore_cli::main(Registry::builtin().with(mine::PROVIDER))` is the same
//! command with one more kind of store.
//!
//! Where to find what: the flags of every command are in `args`, a command is in `commands/` under its name, what is
//! printed in `output`, exit codes in `exit`, the lines of `import` and `export` in `line`.

mod args;
mod commands;
mod exit;
mod failure;
mod files;
mod line;
mod moment;
mod output;
mod plan;
mod progress;
mod scratch;
mod session;
mod stop;
mod view;

use crate::args::Cli;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::Format;
use crate::session::Session;
use clap::Parser as _;
use clap::error::ErrorKind as ClapErrorKind;
use evstore::Registry;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

/// How long a stopped command may take to let go of its stores.
const CLEAN_UP_MAX: Duration = Duration::from_secs(10);

/// Runs the command line of this process over the stores of a registry.
#[must_use]
pub fn main(registry: Registry) -> ExitCode {
    let exit = match Cli::try_parse() {
        Ok(cli) => run(cli, registry),
        Err(error) => refused(&error),
    };
    ExitCode::from(exit as u8)
}

fn run(cli: Cli, registry: Registry) -> Exit {
    let format = cli.globals.output;
    let mut session = Session::new(cli.globals, registry);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => return end(format, Err(Failure::io("the process can't start its threads", cause))),
    };
    let result = runtime.block_on(async {
        let stop = stop::watch(format, session.outcome())?;
        let result = tokio::select! {
            result = commands::run(cli.command, &mut session) => Some(result),
            () = stop.asked() => None,
        };
        let result = match result {
            Some(result) => result.map_err(|failure| session.outcome().told(failure)),
            None => Err(session.tell_interrupted().err().unwrap_or_else(|| session.outcome().interrupted())),
        };
        let _ = tokio::time::timeout(CLEAN_UP_MAX, session.close()).await;
        result
    });
    // A thread that waits for standard input never ends by itself.
    runtime.shutdown_background();
    end(format, result)
}

/// Tells a failure and gives its code.
fn end(format: Format, result: Result) -> Exit {
    match result {
        Ok(()) => Exit::Done,
        Err(failure) => {
            output::failure(format, &failure);
            exit::of(&failure)
        }
    }
}

/// What clap did not take as a command: help and the version, which are answers, or wrong use.
fn refused(error: &clap::Error) -> Exit {
    let answer = matches!(error.kind(), ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion);
    let format = format_of(std::env::args_os());
    if answer || format == Format::Table {
        // Nothing is to be done about a terminal that can't be written.
        let _ = error.print();
        return if answer { Exit::Done } else { Exit::WrongUse };
    }
    let text = error.render().to_string();
    let (message, hint) = sentences(&text);
    end(format, Err(Failure::usage(message, hint)))
}

/// What clap says in paragraphs: the first is what is wrong, the others are what to type instead.
fn sentences(text: &str) -> (String, String) {
    let on_one_line = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut paragraphs = text.split("\n\n").map(on_one_line).filter(|one| !one.is_empty());
    let message = paragraphs.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let hints: Vec<String> = paragraphs.filter(|one| !one.starts_with("For more information")).collect();
    let hint = if hints.is_empty() { "--help shows what there is".to_owned() } else { hints.join("; ") };
    (message, hint)
}

/// The format asked for on a command line that is not one: what a program reads has to be JSON then, too.
fn format_of(arguments: impl Iterator<Item = OsString>) -> Format {
    let mut wanted = Format::Table;
    let mut before = String::new();
    for argument in arguments {
        // What is not UTF-8 is no format.
        let argument = argument.to_string_lossy().into_owned();
        let value = match before.as_str() {
            "-o" | "--output" => Some(argument.as_str()),
            _ => argument.strip_prefix("--output=").or_else(|| argument.strip_prefix("-o")),
        };
        match value.map(|value| value.trim_start_matches('=')) {
            Some("json") => wanted = Format::Json,
            Some("jsonl") => wanted = Format::Jsonl,
            _ => {}
        }
        before = argument;
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        fn check(command: &clap::Command) {
            for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
                let help = one.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Examples:"), "{} has no examples", one.get_name());
            }
        }
        check(&Cli::command());
    }

    #[test]
    fn every_flag_and_argument_has_a_sentence() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{}: {} has no help", command.get_name(), argument.get_id());
            }
            command.get_subcommands().filter(|one| !one.is_hide_set()).for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn the_format_of_a_wrong_command_line_is_found() {
        let format = |text: &str| format_of(text.split(' ').map(OsString::from));
        assert_eq!(format("evstore read -o json"), Format::Json);
        assert_eq!(format("evstore --output=jsonl nonsense"), Format::Jsonl);
        assert_eq!(format("evstore -ojson x"), Format::Json);
        assert_eq!(format("evstore read x"), Format::Table);
    }
}
