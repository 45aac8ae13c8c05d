//! `evstore config`: what the config says, where each value came from, and whether it is in order.

use crate::failure::Result;
use crate::output::{Cell, Tone};
use crate::session::Session;
use crate::view;
use clap::Subcommand;
use evstore::Config;
use serde_json::{Value, json};

/// What `config` takes.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  evstore config show --origin\n  evstore config check\n  evstore config show -o json"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show every value, defaults included; secrets are masked.
    Show {
        /// Where each came from: file and line, variable, flag, default.
        #[arg(long)]
        origin: bool,
    },
    /// Read the config and check every store's settings. Nothing is opened.
    Check,
}

/// Runs one of them.
///
/// # Errors
/// `Invalid`, with file and line.
pub fn run(args: Args, session: &mut Session) -> Result {
    let config = session.config()?.clone();
    match args.command {
        Command::Show { origin } => show(&config, origin, session),
        Command::Check => check(&config, session),
    }
}

fn file_json(config: &Config) -> Value {
    config.file().map(|file| file.display().to_string()).into()
}

fn show(config: &Config, origin: bool, session: &mut Session) -> Result {
    let all = session.registry().shown(config);
    let columns: &[&'static str] = if origin { &["key", "value", "origin"] } else { &["key", "value"] };
    let mut list = session.output().list("values", view::object([("file", file_json(config))]), columns);
    for shown in &all {
        let mut json = json!({ "key": shown.key, "value": shown.value });
        if origin {
            json["origin"] = shown.origin.to_string().into();
        }
        list.item(&json.to_string(), || {
            let mut cells: Vec<Cell> = vec![shown.key.as_str().into(), shown.value.as_str().into()];
            if origin {
                cells.push(Cell::toned(shown.origin.to_string(), Tone::Faint));
            }
            cells
        })?;
    }
    list.end(view::object([]), "nothing is set")?;
    if config.file().is_none() {
        session.output().note("there is no config file: this is the embedded default; evstore init writes one");
    }
    Ok(())
}

fn check(config: &Config, session: &mut Session) -> Result {
    config.default_store()?;
    let mut problems = session.registry().problems(config).into_iter();
    if let Some(first) = problems.next() {
        for other in problems {
            session.output().note(&format!("also: {other}"));
        }
        return Err(first.into());
    }
    let warnings = session.registry().warnings(config);
    let stores: Vec<String> = config.stores().map(ToString::to_string).collect();
    let json = view::object([
        ("file", file_json(config)),
        ("stores", stores.clone().into()),
        ("warnings", warnings.iter().map(ToString::to_string).collect::<Vec<_>>().into()),
    ]);
    let file = config.file().map_or("none: the embedded default".into(), |file| file.display().to_string());
    let mut facts: Vec<(&str, Cell)> = vec![("file", file.into()), ("stores", stores.join(" ").into())];
    facts.extend(warnings.iter().map(|warning| ("warning", Cell::toned(warning.to_string(), Tone::Warning))));
    facts.push(("config", Cell::toned("in order", Tone::Good)));
    session.output().facts(&Value::Object(json), &facts)
}
