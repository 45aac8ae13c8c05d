//! `evstore providers`: the kinds of stores that this build has, their keys, and what they promise.

use crate::failure::{Failure, Result};
use crate::output::{Cell, Format, Tone};
use crate::session::Session;
use crate::view;
use evstore_api::capabilities::{Consistency, Positioned, Window};
use evstore_api::{Capabilities, ConfigKey, KeyDefault, KeyKind, Provider, Secrecy, Settings, StoreName};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// What `providers` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "List the kinds of stores that this build has and what they promise.\n\nPromises are read off a store \
                  of this kind: one of the config, or a temporary one where that needs no server. What a server decides \
                  (the durability of Redis, say) is read off the server.",
    after_help = "Examples:\n  evstore providers\n  evstore providers sqlite\n  evstore providers -o json"
)]
pub struct Args {
    /// One kind, with its keys and every promise.
    name: Option<String>,
}

/// Lists them.
///
/// # Errors
/// `Invalid` for an unknown kind, naming the known ones.
pub async fn run(args: Args, session: &mut Session) -> Result {
    match args.name {
        Some(name) => one(&name, session).await,
        None => all(session).await,
    }
}

/// The promises that a table of all kinds shows.
const MAIN_PROMISES: [&str; 6] = ["durability", "order", "positions", "idempotency", "processes", "fence"];

async fn all(session: &mut Session) -> Result {
    let mut rows = Vec::new();
    for provider in session.providers() {
        let promises = promises_of(&provider, session).await.map(|capabilities| promises(&capabilities));
        rows.push((provider, promises));
    }
    let columns = ["provider", "what it is", "durability", "order", "positions", "idempotency", "processes", "fence"];
    let mut list = session.output().list("providers", view::object([]), &columns);
    for (provider, promises) in &rows {
        let json = provider_json(provider, promises.as_deref());
        list.item(&Value::Object(json).to_string(), || {
            let mut cells: Vec<Cell> = vec![provider.name.into(), provider.sentence.into()];
            for wanted in MAIN_PROMISES {
                let found = promises.iter().flatten().find(|(name, _)| *name == wanted);
                cells.push(found.map_or_else(|| Cell::toned("?", Tone::Faint), |(_, value)| value.as_str().into()));
            }
            cells
        })?;
    }
    list.end(view::object([]), "this build has no kind of store")?;
    session.output().note("evstore providers NAME shows keys and every promise; evstore conformance proves them");
    Ok(())
}

async fn one(name: &str, session: &mut Session) -> Result {
    let provider = session.registry().get(name)?.clone();
    let promises = promises_of(&provider, session).await.map(|capabilities| promises(&capabilities));
    let output = session.output();
    if output.format() != Format::Table {
        return output.facts(&Value::Object(provider_json(&provider, promises.as_deref())), &[]);
    }
    output.line(&format!("{}: {}\n", provider.name, provider.sentence))?;
    let mut keys = output.list("keys", Map::new(), &["key", "kind", "default", "what it does"]);
    for key in provider.keys {
        keys.item("", || vec![key.name.into(), kind(key.kind).into(), default(key).into(), key.sentence.into()])?;
    }
    keys.end(Map::new(), "no keys")?;
    output.line("")?;
    match promises {
        None => output.note("its promises are known once a store of this kind is configured"),
        Some(promises) => {
            let mut list = output.list("promises", Map::new(), &["promise", "value"]);
            for (name, value) in promises {
                list.item("", || vec![name.into(), value.into()])?;
            }
            list.end(Map::new(), "")?;
        }
    }
    Ok(())
}

fn provider_json(provider: &Provider, promises: Option<&[(&'static str, String)]>) -> Map<String, Value> {
    let keys: Vec<Value> = provider
        .keys
        .iter()
        .map(|key| {
            json!({
                "key": key.name,
                "kind": kind(key.kind),
                "required": key.default == KeyDefault::Required,
                "default": match key.default { KeyDefault::Value(value) => Value::from(value), _ => Value::Null },
                "secret": key.secrecy == Secrecy::Secret,
                "sentence": key.sentence,
            })
        })
        .collect();
    let promises = promises.map(|all| -> Map<String, Value> {
        all.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect()
    });
    view::object([
        ("provider", provider.name.into()),
        ("sentence", provider.sentence.into()),
        ("keys", keys.into()),
        ("promises", promises.map_or(Value::Null, Value::Object)),
    ])
}

pub(super) fn kind(kind: KeyKind) -> String {
    match kind {
        KeyKind::Text => "text".into(),
        KeyKind::Path => "path".into(),
        KeyKind::OneOf(words) => words.join(" | "),
        KeyKind::Count => "count".into(),
        KeyKind::Bytes => "size".into(),
        KeyKind::Duration => "time".into(),
        KeyKind::Switch => "true | false".into(),
    }
}

pub(super) fn default(key: &ConfigKey) -> &'static str {
    match key.default {
        KeyDefault::Required => "required",
        KeyDefault::Absent => "-",
        KeyDefault::Value(value) => value,
    }
}

/// The promises of a kind: off a configured store where there is one, else off a temporary one where that is possible.
pub(super) async fn promises_of(provider: &Provider, session: &mut Session) -> Option<Capabilities> {
    if let Some(capabilities) = of_configured(provider, session).await {
        return Some(capabilities);
    }
    of_temporary(provider).await.ok().flatten()
}

async fn of_configured(provider: &Provider, session: &mut Session) -> Option<Capabilities> {
    // A config that is not in order is no reason to hide what a kind of store promises.
    let config = session.config().ok()?.clone();
    config.file()?;
    for name in config.stores() {
        let Ok(configured) = session.registry().settings(&config, name) else { continue };
        if configured.provider.name != provider.name {
            continue;
        }
        // The administrative side knows them too, and makes no store only to look at its promises.
        let Ok(admin) = configured.open_admin().await else { continue };
        let capabilities = admin.capabilities().clone();
        let _ = admin.close().await;
        return Some(capabilities);
    }
    None
}

async fn of_temporary(provider: &Provider) -> Result<Option<Capabilities>> {
    let folder = TempDir::with_prefix("evstore-").map_err(|cause| Failure::io("no temporary folder", cause))?;
    let mut given = Vec::new();
    for key in provider.keys.iter().filter(|key| key.default == KeyDefault::Required) {
        match key.kind {
            KeyKind::Path => given.push((key.name.to_owned(), folder.path().join(key.name).display().to_string())),
            KeyKind::Text
            | KeyKind::OneOf(_)
            | KeyKind::Count
            | KeyKind::Bytes
            | KeyKind::Duration
            | KeyKind::Switch => return Ok(None),
        }
    }
    let settings = Settings::new(StoreName::new("temporary")?, provider.keys, given)?;
    let store = provider.opener.open(&settings).await?;
    let capabilities = store.capabilities().clone();
    store.close().await?;
    Ok(Some(capabilities))
}

/// Every promise with its value, in the order of the contract.
#[must_use]
pub fn promises(capabilities: &Capabilities) -> Vec<(&'static str, String)> {
    let limits = &capabilities.limits;
    vec![
        ("contract", capabilities.contract.to_string()),
        ("engine", capabilities.engine.clone()),
        ("durability", words(&format!("{:?}", capabilities.durability))),
        ("failover", words(&format!("{:?}", capabilities.failover))),
        ("can be lost by", risks(capabilities)),
        ("order", words(&format!("{:?}", capabilities.order))),
        ("real time", words(&format!("{:?}", capabilities.real_time))),
        ("positions", words(&format!("{:?}", capabilities.positions))),
        ("positioned", positioned(capabilities.positioned)),
        ("reads", consistency(capabilities.reads)),
        ("lists", consistency(capabilities.lists)),
        ("idempotency", window(capabilities.idempotency)),
        ("event ids", words(&format!("{:?}", capabilities.event_ids))),
        ("processes", words(&format!("{:?}", capabilities.processes))),
        ("fence", words(&format!("{:?}", capabilities.fence))),
        ("deletion", words(&format!("{:?}", capabilities.deletion))),
        ("replication", words(&format!("{:?}", capabilities.replication))),
        ("archive", words(&format!("{:?}", capabilities.archive))),
        ("time precision", format!("{:?}", capabilities.time_precision)),
        ("stream name bytes", limits.stream_name_bytes.to_string()),
        ("event type bytes", limits.event_type_bytes.to_string()),
        ("event bytes", limits.event_bytes.to_string()),
        ("commit bytes", limits.commit_bytes.to_string()),
        ("commit events", limits.commit_events.to_string()),
        ("snapshot bytes", limits.snapshot_bytes.to_string()),
        ("record bytes", limits.record_bytes.to_string()),
        ("page items", limits.page_items.to_string()),
    ]
}

/// What can take acknowledged commits.
fn risks(capabilities: &Capabilities) -> String {
    match capabilities.risks().join("; ") {
        none if none.is_empty() => "nothing that leaves the disk".into(),
        risks => risks,
    }
}

/// `PerPartition` as `per partition`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(character.to_ascii_lowercase());
    }
    words
}

fn positioned(positioned: Positioned) -> String {
    match positioned {
        Positioned::ByAppend => "by append".into(),
        Positioned::BySequencer { within } => format!("by sequencer, within {within:?}"),
        Positioned::Never { settling } => format!("never; late by {settling:?} at most"),
    }
}

fn consistency(consistency: Consistency) -> String {
    match consistency {
        Consistency::Strong => "strong".into(),
        Consistency::Eventual { staleness } => format!("eventual, within {staleness:?}"),
    }
}

fn window(window: Window) -> String {
    match window {
        Window::Forever => "for ever".into(),
        Window::Commits(count) => format!("last {count} commits"),
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn names_become_words() {
        assert_eq!(words("PerPartition"), "per partition");
        assert_eq!(words("Total"), "total");
    }
}
