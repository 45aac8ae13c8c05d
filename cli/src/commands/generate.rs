// NOTE (uncommitted, 21:57): this file was deleted by accident at 21:55 by the author of `cli`, together with its uncommitted
// wiring (`Generate(generate::Args)`, hidden, in args.rs; commands/mod.rs; `default`, `kind`, `promises_of` made visible in
// providers.rs). Only the first 60 lines below could be recovered, word for word; the rest has to be written again. Sorry.
//! `evstore generate`: parts of the project's pages that are made from the code, so that they can't say anything else.

use crate::args::Cli;
use crate::commands::providers::{default, kind, promises, promises_of};
use crate::failure::{Failure, Result};
use crate::session::Session;
use clap::CommandFactory as _;
use evstore::layers::LAYER_KEYS;
use evstore_api::{ConfigKey, ErrorKind, Written};
use evstore_conformance::{catalog, properties};
use std::fmt::Write as _;

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
        ("stores", None) => stores(session).await,
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
const COMPARED: [(&str, &str); 7] = [
    ("durability", "durable against"),
    ("order", "order"),
    ("positions", "positions"),
    ("reads", "reads"),
    ("idempotency", "repeats"),
    ("processes", "processes"),
