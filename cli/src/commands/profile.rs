//! `evstore profile`: a workload file made of live data, without its payloads and names.

use crate::failure::{Failure, Result};
use crate::files::NewFile;
use crate::output::Format;
use crate::progress::{Progress, Unit};
use crate::session::Session;
use evstore_api::{FeedFilter, FeedItem, FeedStart, ReadFeed, StoreName};
use evstore_compare::observed::Observer;
use evstore_compare::workload::Plan;
use std::path::PathBuf;

/// Events in a page.
const PAGE_EVENTS: u32 = 1_000;

/// What `profile` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Read a store and write a workload file that is like it: sizes of commits and events, lengths of streams, the pace by \
                  the hour and in the fullest second, shares of the hottest streams. No payload, no name and no id is in it. \
                  `evstore compare --workload FILE` replays it, `evstore estimate --workload FILE` prices it. The store is only read.",
    after_help = "Examples:\n  evstore profile > mine.toml\n  evstore profile main --file mine.toml --loads 5000000\n  \
                  evstore profile main --limit 1000000 -o json"
)]
pub struct Args {
    /// The store; else -s, else the default.
    #[arg(value_name = "STORE", value_parser = crate::args::store_name)]
    store: Option<StoreName>,
    /// Write to this file; else to standard output.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Look at so many events at most, from the first on.
    #[arg(long, value_name = "EVENTS")]
    limit: Option<u64>,
    /// How many streams are loaded in a month: a store does not know it.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    loads: u64,
}

/// Writes a profile.
///
/// # Errors
/// As the store's; not found for a store without a commit.
pub async fn run(args: Args, session: &mut Session) -> Result {
    if let Some(file) = args.file.as_ref().filter(|file| file.exists()) {
        session.confirm(&format!("Replace {}?", file.display()))?;
    }
    session.select(args.store);
    let mut plan = observe(session, args.limit).await?;
    if let Some(observed) = &mut plan.observed {
        observed.loads_a_month = args.loads as f64;
    }
    let text = toml::to_string(&plan)
        .map_err(|cause| Failure::io("the profile can't be written", std::io::Error::other(cause)))?;
    let text = format!("# Made by evstore profile. docs/COMPARE.md explains every key.\n{text}");
    match (&args.file, session.output().format()) {
        (Some(path), _) => {
            let mut file = NewFile::create(path)?;
            file.write(text.as_bytes())?;
            file.finish()
        }
        (None, Format::Table) => session.output().text(&"", &text),
        (None, Format::Json | Format::Jsonl) => {
            let json = serde_json::to_value(&plan).unwrap_or_default();
            session.output().text(&json, "")
        }
    }
}

/// Reads the feed of the store that is worked on, and makes a plan of what it saw.
///
/// # Errors
/// As the store's; wrong use for a store without a commit.
pub async fn observe(session: &mut Session, limit: Option<u64>) -> Result<Plan> {
    session.refuse_namespace("a profile is of a whole store")?;
    let name = session.store_name()?;
    let store = session.open_store().await?;
    let limits = store.capabilities().limits;
    let bar = Progress::new(session.output(), "reading", Unit::Items("commits"), None);
    let (mut observer, mut events, mut from) = (Observer::default(), 0_u64, FeedStart::First);
    loop {
        let left = limit.map_or(u64::MAX, |limit| limit.saturating_sub(events));
        let request = ReadFeed {
            from,
            filter: FeedFilter::none(),
            limit: PAGE_EVENTS.min(limits.page_items).min(u32::try_from(left.max(1)).unwrap_or(u32::MAX)),
            max_bytes: session.page_bytes(),
            deadline: session.deadline(),
        };
        let page = store.read_feed(request).await?;
        for item in &page.items {
            if let FeedItem::Commit(commit) = item {
                observer.see(commit);
                events += commit.events.len() as u64;
            }
        }
        bar.at(observer.commits());
        if page.end || limit.is_some_and(|limit| events >= limit) {
            break;
        }
        from = FeedStart::After(page.next);
    }
    bar.end();
    observer.plan(&format!("like-{name}")).ok_or_else(|| {
        let message = format!("there is no commit in {name} to make a profile of");
        Failure::usage(message, "evstore compare --print-workload shows a workload file to start from")
    })
}
