//! `evstore feed`: everything in the store, in feed order, and what comes next.

use crate::failure::{Failure, Result};
use crate::line;
use crate::output::{Format, List};
use crate::session::{self, Session};
use crate::view;
use evstore_api::{
    Category, Cursor, EventStore, EventType, FeedFilter, FeedItem, FeedPage, FeedStart, Position, ReadFeed, WaitFeed,
    Waited,
};
use serde_json::Value;
use std::str::FromStr;
use std::time::Duration;

/// How long one wait for more lasts before it is begun again.
const WAIT: Duration = Duration::from_secs(20);

/// What `feed` takes.
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Read the feed over all streams, in feed order, and follow it with -f.\n\nMarkers (truncated, deleted, \
                  moved) and removed ranges have places too; they are shown unless a filter drops them.",
    after_help = "Examples:\n  evstore feed --limit 20\n  evstore feed --last 10 -f\n  \
                  evstore feed --category order --type placed --type paid\n  \
                  evstore feed --after 1200 -o jsonl | jq -r .stream"
)]
pub struct Args {
    /// Begin after this position, or after a cursor as `-o json` prints it under next.
    #[arg(long, value_name = "POSITION", value_parser = After::from_str)]
    after: Option<After>,
    /// Begin so many positions before the end.
    #[arg(long, value_name = "N", conflicts_with = "after")]
    last: Option<u64>,
    /// Only streams of this category; may be given several times.
    #[arg(long, value_name = "CATEGORY")]
    category: Vec<Category>,
    /// Only events of this type; may be given several times.
    #[arg(long, value_name = "TYPE")]
    r#type: Vec<EventType>,
    /// Most events to print.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Go on with what comes, until Ctrl-C.
    #[arg(short = 'f', long)]
    follow: bool,
}

/// A place that a person can type.
#[derive(Clone, Debug)]
enum After {
    Position(Position),
    Cursor(Cursor),
}

impl FromStr for After {
    type Err = evstore_api::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(position) => Ok(Self::Position(Position(position))),
            Err(_) => text.parse().map(Self::Cursor),
        }
    }
}

/// Reads, and follows.
///
/// # Errors
/// As the store's feed.
pub async fn run(args: Args, session: &mut Session) -> Result {
    if args.follow && session.output().format() == Format::Json {
        return Err(Failure::usage("a feed that is followed never ends as one document", "use -o jsonl"));
    }
    let store = session.open_store().await?;
    let mut request = ReadFeed {
        from: start(&args, &*store).await?,
        filter: FeedFilter { namespace: session.namespaces(), categories: args.category, types: args.r#type },
        limit: store.capabilities().limits.page_items,
        max_bytes: session.page_bytes(),
        deadline: session.deadline(),
    };
    let mut left = args.limit.unwrap_or(u64::MAX);
    let nothing = if left == 0 { place(&request.from, &*store).await? } else { None };
    let mut list = session.output().list("events", view::object([]), &view::FEED_COLUMNS);
    let next = loop {
        if left == 0 {
            break nothing;
        }
        request.limit = request.limit.min(u32::try_from(left).unwrap_or(u32::MAX));
        request.deadline = session::deadline();
        let page = store.read_feed(request.clone()).await?;
        if let Some(cursor) = print_page(&mut list, &page, &mut left)? {
            break Some(cursor);
        }
        request.from = FeedStart::After(page.next.clone());
        match (page.end, args.follow) {
            (false, _) => {}
            (true, false) => break Some(page.next),
            (true, true) => {
                list.show()?;
                wait(&*store, &page.next).await?;
            }
        }
    };
    let next = next.map_or(Value::Null, |cursor| cursor.to_string().into());
    list.end(view::object([("next", next)]), "no events there")
}

/// Where to begin.
async fn start(args: &Args, store: &dyn EventStore) -> Result<FeedStart> {
    match (&args.after, args.last) {
        (Some(After::Position(position)), _) => Ok(FeedStart::AfterPosition(*position)),
        (Some(After::Cursor(cursor)), _) => Ok(FeedStart::After(cursor.clone())),
        (None, None) => Ok(FeedStart::First),
        (None, Some(count)) => {
            let head = store.feed_head(session::deadline()).await?;
            match head.position {
                Some(end) => Ok(FeedStart::AfterPosition(Position(end.0.saturating_sub(count)))),
                None => Err(Failure::usage(
                    "--last needs positions, and this store's feed has none",
                    "use --after with a cursor; `evstore feed -o json` prints one under next",
                )),
            }
        }
    }
}

/// The cursor of a place to begin, where nothing is read; none where the store has no positions.
async fn place(start: &FeedStart, store: &dyn EventStore) -> Result<Option<Cursor>> {
    let position = match start {
        FeedStart::After(cursor) => return Ok(Some(cursor.clone())),
        FeedStart::AfterPosition(position) => *position,
        FeedStart::First => Position(0),
    };
    let head = store.feed_head(session::deadline()).await?;
    Ok(head.position.map(|_| Cursor::total(head.cursor.incarnation(), position)))
}

/// Prints a page; gives the place to go on from where the limit is reached.
fn print_page(list: &mut List<'_>, page: &FeedPage, left: &mut u64) -> Result<Option<Cursor>> {
    let mut last = None;
    for item in &page.items {
        match item {
            FeedItem::Removed { first, last } => {
                list.item(&line::removed(*first, *last, None), || view::removed_cells(*first, *last))?;
            }
            FeedItem::Commit(commit) if commit.events.is_empty() => {
                list.item(&line::marker(commit, None), || view::marker_cells(commit))?;
            }
            FeedItem::Commit(commit) => {
                for event in commit.events() {
                    // A page holds whole commits: the last one may go beyond what was asked for. The place between
                    // two events has a name only where events have positions; elsewhere the page is printed whole.
                    if let (0, Some(last)) = (*left, last) {
                        return Ok(Some(Cursor::total(page.next.incarnation(), last)));
                    }
                    list.item(&view::event_json(event), || view::feed_cells(event))?;
                    *left = left.saturating_sub(1);
                    last = event.position();
                }
            }
        }
    }
    Ok((*left == 0).then(|| page.next.clone()))
}

async fn wait(store: &dyn EventStore, after: &Cursor) -> Result {
    loop {
        let request = WaitFeed { after: after.clone(), deadline: evstore_api::Deadline::within(WAIT) };
        match store.wait_feed(request).await? {
            Waited::More => return Ok(()),
            Waited::DeadlinePassed => {}
        }
    }
}
