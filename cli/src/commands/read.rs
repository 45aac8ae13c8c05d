//! `evstore read`: the events of one stream.

use crate::failure::Result;
use crate::session::Session;
use crate::view;
use evstore_api::{
    Direction, Error, ErrorKind, Head, ReadStream, Revision, StreamId, StreamName, StreamPage, StreamStart, StreamState,
};
use serde_json::Value;

/// What `read` takes.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  evstore read order-1\n  evstore read order-1 --from 10 --limit 5\n  \
                        evstore read order-1 --backward --limit 1\n  evstore read order-1 -o jsonl | jq .data")]
pub struct Args {
    /// The stream.
    stream: StreamName,
    /// Begin at this revision, included; else at the first event, or backward at the last.
    #[arg(long, value_name = "REVISION")]
    from: Option<u64>,
    /// By falling revision.
    #[arg(long)]
    backward: bool,
    /// Most events to print; all where it is not given.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// Reads.
///
/// # Errors
/// `NotFound` for a missing stream, `Gone` for a deleted one.
pub async fn run(args: Args, session: &mut Session) -> Result {
    let stream = session.stream(&args.stream);
    let store = session.open_store().await?;
    let direction = if args.backward { Direction::Backward } else { Direction::Forward };
    let mut request = ReadStream {
        stream: stream.clone(),
        from: match (args.from, direction) {
            (Some(revision), _) => StreamStart::At(Revision(revision)),
            (None, Direction::Forward) => StreamStart::First,
            (None, Direction::Backward) => StreamStart::Last,
        },
        direction,
        limit: 0,
        max_bytes: session.page_bytes(),
        deadline: session.deadline(),
    };
    let page_items = u64::from(store.capabilities().limits.page_items);
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut page = next_page(&*store, &mut request, left.min(page_items), session).await?;
    readable(&stream, &page.head)?;
    let head = view::head_json(&stream, &page.head);
    let retained = page.head.first_retained;
    let mut list = session.output().list("events", view::object([("head", Value::Object(head))]), &view::EVENT_COLUMNS);
    let next = loop {
        for event in page.events() {
            list.item(&view::event_json(event), || view::event_cells(event))?;
            left -= 1;
        }
        match page.next {
            Some(next) if left > 0 => request.from = StreamStart::At(next),
            next => break next,
        }
        request.limit = u32::try_from(left.min(page_items)).unwrap_or(u32::MAX);
        request.deadline = crate::session::deadline();
        page = store.read_stream(request.clone()).await?;
    };
    let none = if retained.0 > 1 { "no events there: its beginning was truncated" } else { "no events there" };
    list.end(view::object([("next", next.map(|next| next.0).into())]), none)
}

async fn next_page(
    store: &dyn evstore_api::EventStore,
    request: &mut ReadStream,
    limit: u64,
    session: &Session,
) -> Result<StreamPage> {
    request.limit = u32::try_from(limit).unwrap_or(u32::MAX);
    request.deadline = session.deadline();
    Ok(store.read_stream(request.clone()).await?)
}

/// A stream that is not there, or was deleted, is another answer than an empty one.
///
/// # Errors
/// `NotFound` or `Gone`.
pub fn readable(stream: &StreamId, head: &Head) -> Result {
    match head.state {
        StreamState::Missing => {
            Err(Error::new(ErrorKind::NotFound, "there is no such stream").with("stream", stream).into())
        }
        StreamState::Deleted => {
            Err(Error::new(ErrorKind::Gone, "the stream was deleted for good").with("stream", stream).into())
        }
        StreamState::Open | StreamState::Sealed { .. } => Ok(()),
    }
}
