//! `evstore generate`: parts of the project's pages that are made from the code, so that they can't say anything else.

use crate::args::Cli;
use crate::commands::providers::{default, kind, promises, promises_of};
use crate::failure::{Failure, Result};
use crate::session::Session;
use clap::CommandFactory as _;
use evstore::layers::LAYER_KEYS;
use evstore_api::{Capabilities, ConfigKey, ErrorKind, Written};
use evstore_conformance::{catalog, properties};

/// What `generate` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The part.
    #[arg(value_parser = ["stores", "layer-keys", "keys", "errors", "checks", "properties", "commands"])]
    part: String,
    /// What it is about: the provider of `keys`.
    of: Option<String>,
}

/// Prints a part as Markdown.
///
/// # Errors
/// `Invalid` for a provider that is not there.
pub async fn run(args: &Args, session: &mut Session) -> Result {
    let text = match (args.part.as_str(), &args.of) {
        ("stores", None) => stores(session).await?,
        ("layer-keys", None) => keys(LAYER_KEYS),
        ("keys", Some(provider)) => keys(session.registry().get(provider)?.keys),
        ("errors", None) => errors(),
        ("checks", None) => checks(),
        ("properties", None) => properties::markdown(),
        ("commands", None) => commands(),
        _ => return Err(Failure::usage("no such part", "evstore generate stores")),
    };
    session.output().bytes(text.as_bytes())?;
    session.output().flush()
}

/// A Markdown table. A bar inside a cell would end it.
fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(columns.iter().map(|column| (*column).to_owned()).collect());
    text += &line(vec!["---".into(); columns.len()]);
    for row in rows {
        text += &line(row.into_iter().map(|cell| cell.replace('|', "\\|")).collect());
    }
    text
}

/// The promises that a newcomer compares.
const COMPARED: [(&str, &str); 8] = [
    ("durability", "durable against"),
    ("failover", "a failover"),
    ("order", "order"),
    ("positions", "positions"),
    ("reads", "reads"),
    ("idempotency", "repeats"),
    ("processes", "processes"),
    ("fence", "fence"),
];

/// What each store of the config promises, read off it; without a config, what each kind of store does that needs no server.
async fn stores(session: &mut Session) -> Result<String> {
    let mut rows = Vec::new();
    let config = session.config()?.clone();
    if config.file().is_some() {
        for name in config.stores() {
            let configured = session.registry().settings(&config, name)?;
            let store = configured.provider.opener.open(&configured.settings).await?;
            rows.push(row(label(configured.provider.name, name.as_str()), store.capabilities()));
            store.close().await?;
        }
    } else {
        for provider in session.providers() {
            if let Some(capabilities) = promises_of(&provider, session).await {
                rows.push(row(format!("`{}`", provider.name), &capabilities));
            }
        }
    }
    let columns: Vec<&str> = std::iter::once("store").chain(COMPARED.map(|(_, column)| column)).collect();
    Ok(table(&columns, rows))
}

fn row(label: String, capabilities: &Capabilities) -> Vec<String> {
    let found = promises(capabilities);
    let value = |wanted| found.iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| survived(value));
    std::iter::once(label).chain(COMPARED.map(|(wanted, _)| value(wanted).to_owned())).collect()
}

/// A store by its provider, and by what its name says beside it: `redis-three-partitions` is `redis`, three partitions.
fn label(provider: &str, name: &str) -> String {
    match name.strip_prefix(provider).and_then(|rest| rest.strip_prefix('-')) {
        Some(rest) => format!("`{provider}`, {}", rest.replace('-', " ")),
        None => format!("`{name}`"),
    }
}

/// A durability as what it is against; any other value as it is.
fn survived(value: &str) -> &str {
    match value {
        "memory" => "nothing",
        "process crash" => "a crash",
        "power loss" => "a power cut",
        "replica quorum" => "the loss of a machine",
        "none" => "there is none",
        "keeps acknowledged" => "keeps what was acknowledged",
        "may lose acknowledged" => "may lose what was acknowledged",
        other => other,
    }
}

fn keys(keys: &[ConfigKey]) -> String {
    table(
        &["key", "kind", "default", "what it does"],
        keys.iter().map(|key| {
            vec![format!("`{}`", key.name), kind(key.kind), default(key).to_owned(), key.sentence.to_owned()]
        }),
    )
}

/// What each kind of error says was written, and what to do next.
fn errors() -> String {
    let row = |kind: ErrorKind| {
        let written = match evstore_api::Error::new(kind, "").written() {
            Written::No => "no",
            Written::Unknown => "unknown",
        };
        vec![format!("`{}`", kind.name()), written.into(), kind.advice().sentence().into()]
    };
    table(&["kind", "written", "what to do"], ErrorKind::ALL.map(row))
}

fn checks() -> String {
    table(
        &["check", "promise", "properties"],
        catalog().map(|check| {
            let properties: Vec<String> = check.properties.iter().map(ToString::to_string).collect();
            vec![format!("`{}`", check.name), check.promise.to_owned(), properties.join(" ")]
        }),
    )
}

fn commands() -> String {
    let command = Cli::command();
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set() && one.get_name() != "help");
    let row = |one: &clap::Command| {
        vec![format!("`{}`", one.get_name()), one.get_about().map(ToString::to_string).unwrap_or_default()]
    };
    table(&["command", "what it does"], shown.map(row))
}
