//! `evstore sequencer`: gives what was appended its place in the feed, where appends do not, in a process of its own.

use crate::failure::{Failure, Result};
use crate::output::Cell;
use crate::session::Session;
use crate::view;
use clap::Subcommand;
use evstore_api::capabilities::Positioned;
use evstore_api::{EventStore, FeedHead};
use serde_json::{Map, Value};
use std::time::Duration;

/// How often `run` looks whether it comes on.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What `sequencer` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Give what was appended its place in the feed, where appends do not give it themselves. An application that has \
                  the store open does so by itself unless its config says otherwise; this is for a process of its own. Several may \
                  run: one works.",
    after_help = "Examples:\n  evstore sequencer run\n  evstore -s main sequencer status -o json"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Work until stopped.
    Run,
    /// Say how far the feed is behind what was appended.
    Status,
}

/// Runs one of them.
///
/// # Errors
/// As the store's; wrong use where appends order the feed.
pub async fn run(args: Args, session: &mut Session) -> Result {
    match args.command {
        Command::Run => work(session).await,
        Command::Status => status(session).await,
    }
}

async fn status(session: &mut Session) -> Result {
    let store = session.open_store().await?;
    check(&*store)?;
    let head = store.feed_head(session.deadline()).await?;
    tell(&head, session)
}

async fn work(session: &mut Session) -> Result {
    let store = session.open_store_to_sequence().await?;
    check(&*store)?;
    let mut told = None;
    loop {
        let head = store.feed_head(session.deadline()).await?;
        let now = (head.position, head.lag.commits);
        if told.replace(now) != Some(now) {
            let behind = if head.lag.commits == 0 { "it has all".into() } else { format!("{} wait", head.lag.commits) };
            let end = head.position.map_or(0, |position| position.0);
            session.output().note(&format!("the feed ends at position {end}; {behind}"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Refuses a store that needs none.
fn check(store: &dyn EventStore) -> Result {
    match store.capabilities().positioned {
        Positioned::BySequencer { .. } => Ok(()),
        Positioned::ByAppend | Positioned::Never { .. } => Err(Failure::usage(
            "the store has no sequencer: nobody numbers its feed behind its appends",
            "evstore providers tells which stores have one",
        )),
    }
}

fn tell(head: &FeedHead, session: &mut Session) -> Result {
    let number = |number: u128| Value::from(u64::try_from(number).unwrap_or(u64::MAX));
    let json: Map<String, Value> = view::object([
        ("position", head.position.map(|position| position.0).into()),
        ("lag_commits", head.lag.commits.into()),
        ("lag_ms", number(head.lag.age.as_millis())),
    ]);
    let facts: [(&str, Cell); 3] = [
        ("position", head.position.map_or(String::new(), |position| position.to_string()).into()),
        ("waiting commits", head.lag.commits.to_string().into()),
        ("oldest waits for", format!("{:?}", head.lag.age).into()),
    ];
    session.output().facts(&Value::Object(json), &facts)
}
