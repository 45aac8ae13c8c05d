//! `evstore nodes`: which processes use a store and those that it may be moved to, by what they say of themselves.

use crate::failure::{Failure, Result};
use crate::output::{Cell, Tone};
use crate::session::Session;
use crate::view;
use evstore_api::{EventStore, StoreName};
use evstore_kit::presence::Reached;
use evstore_migrate::nodes::{self, Present};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What `nodes` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "List the processes that have a store open, by what they say of themselves in it: every ten seconds where the config \
                  has targets under [migrate], else every minute. One that was not heard of for three times as long is taken for \
                  gone. Looked at are the store of -s, or the default, and the targets of a move.",
    after_help = "Examples:\n  evstore nodes\n  evstore nodes -o json\n  evstore nodes -s next"
)]
pub struct Args {}

/// Lists them.
///
/// # Errors
/// As opening and listing the stores.
pub async fn run(_: Args, session: &mut Session) -> Result {
    let first = session.store_name()?;
    let mut names = vec![first.clone()];
    names.extend(session.config()?.migrate().targets().iter().filter(|target| **target != first).cloned());
    let mut stores: Vec<Arc<dyn EventStore>> = Vec::new();
    for name in names {
        session.select(Some(name.clone()));
        match session.open_store().await {
            Ok(store) => stores.push(store),
            // Nobody is there yet, or it can't be asked: the others are listed.
            Err(failure) if name != first => {
                session.output().note(&format!("not looked at: {name}: {}", failure.sentence()));
            }
            Err(failure) => return Err(failure),
        }
    }
    let found = nodes::of(stores.iter().map(|store| &**store)).await;
    for store in &stores {
        // They were only read, so that there is nothing to lose.
        let _ = store.close().await;
    }
    print(&found?, session)
}

fn print(found: &[Present], session: &mut Session) -> Result {
    let columns = ["node", "release", "opened", "goes to", "config has", "reaches", "heard of"];
    let mut list = session.output().list("nodes", view::object([]), &columns);
    for present in found {
        list.item(&Value::Object(json(present)).to_string(), || cells(present))?;
    }
    list.end(view::object([]), "no nodes tell of themselves")
}

fn names(stores: &[StoreName]) -> String {
    stores.iter().map(StoreName::as_str).collect::<Vec<_>>().join(" ")
}

/// What came of trying to reach a store, in a word for programs, and the rest.
fn word(reached: &Reached) -> (&'static str, &str) {
    match reached {
        Reached::Writes(history) => ("writes", history),
        Reached::Reads(history) => ("reads", history),
        Reached::Not(error) => ("fails", error),
    }
}

/// A node, for programs.
pub fn json(present: &Present) -> Map<String, Value> {
    let node = &present.node;
    let stores: Vec<_> = node.stores.iter().map(StoreName::as_str).collect();
    let reached = node.reached.iter().map(|(store, reached)| {
        let (word, what) = word(reached);
        let is_failure = matches!(reached, Reached::Not(_));
        (store.to_string(), json!({ "result": word, (if is_failure { "error" } else { "history" }): what }))
    });
    view::object([
        ("name", node.name.as_str().into()),
        ("id", node.id.as_str().into()),
        ("release", node.release.as_str().into()),
        ("opened", node.opened.as_str().into()),
        ("goes_to", node.follows.as_str().into()),
        ("stores", json!(stores)),
        ("reached", Value::Object(reached.collect())),
        ("silent_s", present.silent.as_secs().into()),
        ("live", present.is_live().into()),
    ])
}

fn cells(present: &Present) -> Vec<Cell> {
    let node = &present.node;
    let told = |(store, reached): (&StoreName, &Reached)| match reached {
        Reached::Writes(_) => store.to_string(),
        Reached::Reads(_) => format!("{store} (reads only)"),
        Reached::Not(error) => format!("not {store} ({error})"),
    };
    let reached = node.reached.iter().map(told).collect::<Vec<_>>().join(", ");
    let fails = node.reached.values().any(|reached| matches!(reached, Reached::Not(_)));
    let heard = format!("{} s ago", present.silent.as_secs());
    vec![
        node.name.as_str().into(),
        node.release.as_str().into(),
        node.opened.as_str().into(),
        node.follows.as_str().into(),
        names(&node.stores).into(),
        if fails { Cell::toned(reached, Tone::Bad) } else { reached.into() },
        if present.is_live() { heard.into() } else { Cell::toned(format!("{heard}, gone"), Tone::Warning) },
    ]
}

/// Refuses a hand-over that would leave somebody behind who was not accepted.
///
/// # Errors
/// Not ready, naming who.
pub fn check(lacks: &[nodes::Lack], accepted: &[String]) -> Result {
    let is_accepted = |lack: &&nodes::Lack| lack.node().is_some_and(|node| accepted.iter().any(|name| name == node));
    let left: Vec<_> = lacks.iter().filter(|lack| !is_accepted(lack)).map(ToString::to_string).collect();
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure::NotReady {
        message: format!("not every node would follow; nothing was closed: {}", left.join("; ")),
        hint: "`evstore nodes` lists them. Deploy the config first, or leave one behind with --accept-node NAME; --expect-nodes says \
               how many there have to be"
            .into(),
    })
}
